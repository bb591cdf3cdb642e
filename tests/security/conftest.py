"""A database with a short history of everything, which is attacked in one transaction."""

import inspect
import typing
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg
import pytest

from optiinfra_db import connect
from optiinfra_db.errors import OptiInfraError
from optiinfra_db.migrate import migrate
from optiinfra_db.pytest_plugin import FORGETFUL

from ..conftest import cloned_database, running_server
from ..plans import history
from ..plans.cases import BEFORE, Sample, arguments
from ..plans.explain import function_of, promises

SECRET = "hunter2-and-nobody-else"

_WRITTEN = """
SELECT relname, n_tup_ins + n_tup_upd + n_tup_del AS rows
FROM pg_stat_xact_user_tables
WHERE n_tup_ins + n_tup_upd + n_tup_del > 0
"""

_TABLES = """
SELECT relname
FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
ORDER BY relname
"""


@dataclass
class Query:
    """A generated function, with arguments that give it work to do."""

    name: str
    arguments: dict

    @property
    def function(self):
        return function_of(self.name)

    @property
    def annotations(self):
        hints = typing.get_type_hints(self.function)
        return {name: hints[name] for name in parameters(self.function)}


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name != "conn"]


def contents(conn):
    """Return what tells whether anything in any table is another."""
    return {
        table: conn.execute(
            f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} AS t"
        ).fetchone()
        for (table,) in conn.execute(_TABLES).fetchall()
    }


class Target:
    """The database under attack."""

    def __init__(self, conn):
        self.conn = conn
        sample = Sample(conn, "Customer 1")
        self.queries = {
            name: Query(name, arguments(sample, name, parameters(function_of(name)))[0])
            for name in promises()
        }

    def prepare(self, name):
        """Do what has to be done before a query has work to do."""
        if name in BEFORE:
            self.conn.execute(BEFORE[name])

    def call(self, name, changed):
        query = self.queries[name]
        return query.function(self.conn, **(query.arguments | changed))

    def written(self):
        """Return how many rows of which table this transaction wrote, undone or not."""
        return dict(self.conn.execute(_WRITTEN).fetchall())


@pytest.fixture(scope="session")
def attacked_url(migrated_template):
    with cloned_database(migrated_template) as url:
        history.build(url, 2_000, days=3)
        with connect(url) as conn:
            conn.execute("CREATE TABLE canary AS SELECT 'alive' AS state")
        yield url


@pytest.fixture(scope="module")
def target(attacked_url):
    """Attack in one transaction: at its end nothing of it, and all else, is there."""
    with connect(attacked_url) as conn:
        conn.autocommit = False
        conn.execute("SET statement_timeout = '10s'")
        target = Target(conn)
        before = contents(conn)
        transaction = conn.execute("SELECT pg_current_xact_id()").fetchone()
        yield target
        assert conn.execute("SELECT pg_current_xact_id()").fetchone() == transaction
        conn.rollback()
        assert contents(conn) == before
        assert conn.execute("TABLE canary").fetchall() == [("alive",)]


@pytest.fixture(scope="session")
def watched_url(request):
    """Make a server that keeps the statements it ran, in a migrated database."""
    version = str(request.config.getoption("--pg"))
    options = {
        **FORGETFUL,
        "shared_preload_libraries": "pg_stat_statements",
        "pg_stat_statements.track": "all",
        "pg_stat_statements.track_utility": "on",
    }
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running_server(version, options))
        except OptiInfraError as error:
            if "pg_stat_statements" not in str(error):
                raise
            pytest.skip(f"PostgreSQL {version} has no pg_stat_statements here")
        server.ensure_database()
        with psycopg.connect(server.url(), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION pg_stat_statements")
        migrate(server.url())
        yield server.url().replace("postgres@", f"postgres:{SECRET}@")
