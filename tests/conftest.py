"""The database of the test suite: one throw-away server a session, cloned or rolled back.

A test that takes `conn` (or `aconn`) works in a transaction that is rolled back, which costs
nothing. One that commits, or connects itself, takes `database_url`: its own clone of a migrated
template database, for 50 to 80 ms.
"""

import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import TupleRow
from pytest_postgresql import factories
from pytest_postgresql.executors import NoopExecutor
from pytest_postgresql.janitor import DatabaseJanitor

from optiinfra_db import connect, connect_async, embedded
from optiinfra_db.pytest_plugin import FORGETFUL, throwaway_directory

from .contract_plugin import Contract
from .plans import history

EMBEDDED_VERSION = "18"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pg",
        default=os.environ.get("OPTIINFRA_TEST_PG") or EMBEDDED_VERSION,
        help="PostgreSQL major version to test on: 18 is embedded, others are looked for in "
        "/usr/lib/postgresql (default: OPTIINFRA_TEST_PG or 18)",
    )
    parser.addoption(
        "--soak",
        action="store_true",
        help="run the long versions of the tests that look for what happens rarely: minutes",
    )
    parser.addoption(
        "--plans", action="store_true", help="print what each query of tests/plans read and used"
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell script
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(Contract())


@pytest.fixture(scope="session", autouse=True)
def _no_ambient_database() -> Iterator[None]:
    """Keep the suite away from the databases of the person who runs it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("OPTIINFRA_", "PG")):
                patch.delenv(name)
        yield


@contextmanager
def running_server(
    version: str, options: Mapping[str, str] = FORGETFUL
) -> Iterator[embedded.Server]:
    """Start a server that is gone at the end with all that it holds."""
    bin_dir = None if version == EMBEDDED_VERSION else Path(f"/usr/lib/postgresql/{version}/bin")
    if bin_dir and not bin_dir.exists():
        pytest.exit(f"PostgreSQL {version} is not installed: there is no {bin_dir}", returncode=5)
    with throwaway_directory() as directory:
        yield embedded.start(directory, bin_dir=bin_dir, options=options)


@pytest.fixture(scope="session")
def is_soak(request: pytest.FixtureRequest) -> bool:
    """Say whether tests that have a long version are to run that one."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[embedded.Server]:
    """Provide the server under test."""
    with running_server(str(request.config.getoption("--pg"))) as server:
        yield server


@pytest.fixture(scope="session")
def base_server(server: embedded.Server) -> SimpleNamespace:
    """Describe the server in the terms of pytest-postgresql."""
    return SimpleNamespace(
        host=str(server.socket_dir),
        port=5432,
        user="postgres",
        password=None,
        options="",
        maintenance_dbname="postgres",
        template_dbname=None,
    )


def _migrate(*, host: str, port: int, user: str, dbname: str, **_: Any) -> None:
    from optiinfra_db.migrate import migrate

    migrate(_url(host, port, user, dbname))


def _url(host: str, port: int | str, user: str, dbname: str) -> str:
    return f"postgresql://{user}@/{dbname}?host={host}&port={port}"


migrated_template = factories.postgresql_noproc(
    depends_on="base_server", dbname="optiinfra", load=[_migrate]
)


@contextmanager
def cloned_database(base: SimpleNamespace | NoopExecutor) -> Iterator[str]:
    """Make a database for one use, a clone of the template if there is one."""
    janitor = DatabaseJanitor(
        user=base.user,
        host=base.host,
        port=base.port,
        dbname=f"test_{uuid4().hex}",
        template_dbname=base.template_dbname,
    )
    with janitor:
        yield _url(janitor.host, janitor.port, janitor.user, janitor.dbname)


@pytest.fixture
def empty_database_url(base_server: SimpleNamespace) -> Iterator[str]:
    """Make an empty database of the test's own."""
    with cloned_database(base_server) as url:
        yield url


@pytest.fixture
def database_url(migrated_template: NoopExecutor) -> Iterator[str]:
    """Make a migrated database of the test's own."""
    with cloned_database(migrated_template) as url:
        yield url


@pytest.fixture(scope="session")
def shared_database_url(migrated_template: NoopExecutor) -> Iterator[str]:
    """Make a migrated database in which nothing is ever committed."""
    with cloned_database(migrated_template) as url:
        yield url


@pytest.fixture(scope="session")
def history_url(migrated_template: NoopExecutor) -> Iterator[str]:
    """Make a database with the long history, in about a minute; it is for reading."""
    with cloned_database(migrated_template) as url:
        history.build(url)
        yield url


@pytest.fixture
def conn(shared_database_url: str) -> Iterator[psycopg.Connection[TupleRow]]:
    """Open a connection in a transaction that is rolled back after the test."""
    with connect(shared_database_url) as connection:
        connection.autocommit = False
        connection.execute("SELECT 1")  # begins it: transaction() of a test is a savepoint in it
        yield connection
        connection.rollback()


@pytest.fixture
async def aconn(shared_database_url: str) -> AsyncIterator[psycopg.AsyncConnection[TupleRow]]:
    """Open the asynchronous twin of `conn`."""
    async with await connect_async(shared_database_url) as connection:
        await connection.set_autocommit(False)
        await connection.execute("SELECT 1")  # begins it, see conn
        yield connection
        await connection.rollback()
