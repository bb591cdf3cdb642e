"""A sample agent: finds idle GPUs and recommends to release them."""
