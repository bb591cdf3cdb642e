"""Databases for the command line: with the sample data, to read or of a test's own."""

import pytest

from optiinfra_db import connect
from optiinfra_db.seed import seed

from ..conftest import cloned_database


@pytest.fixture(scope="session")
def sample_url(migrated_template):
    """Make a database with the sample data, for reading."""
    with cloned_database(migrated_template) as url:
        with connect(url) as conn:
            seed(conn)
        yield url


@pytest.fixture
def own_url(database_url):
    """Make a database with the sample data, of the test's own."""
    with connect(database_url) as conn:
        seed(conn)
    return database_url
