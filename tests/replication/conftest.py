"""A primary, and a replica that follows it: each test module has its own pair."""

import pytest

from .servers import replica_of, seeded_server


@pytest.fixture(scope="session")
def pg(request):
    """Name the version of PostgreSQL that is tested."""
    return str(request.config.getoption("--pg"))


@pytest.fixture(scope="module")
def primary(pg):
    """Start a server that others can follow, with the sample data."""
    with seeded_server(pg) as server:
        yield server


@pytest.fixture(scope="module")
def replica(primary):
    """Start a server that follows the primary."""
    with replica_of(primary) as server:
        yield server
