"""How fast the package is, side by side with peers and with the limit: `python -m bench --help`."""
