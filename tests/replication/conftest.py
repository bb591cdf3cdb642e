"""A primary, and a replica that follows it: each test module has its own pair."""

import pytest

from optiinfra_db import connect
from optiinfra_db.migrate import migrate
from optiinfra_db.seed import seed

from ..conftest import running_server
from .servers import KEPT, replica_of


@pytest.fixture(scope="session")
def pg(request):
    """Name the version of PostgreSQL that is tested."""
    return str(request.config.getoption("--pg"))


@pytest.fixture(scope="module")
def primary(pg):
    """Start a server that others can follow, with the sample data."""
    with running_server(pg, KEPT) as server:
        server.ensure_database()
        migrate(server.url(), say=lambda _: None)
        with connect(server.url()) as conn:
            seed(conn)
        yield server


@pytest.fixture(scope="module")
def replica(primary):
    """Start a server that follows the primary."""
    with replica_of(primary) as server:
        yield server
