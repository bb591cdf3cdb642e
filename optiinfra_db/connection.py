"""Connections and pools, thin over psycopg.

They are in autocommit mode (each generated function is one statement, thus atomic), in time zone
UTC, and tell the database who acts and for which customer: the settings `optiinfra.actor` and
`optiinfra.customer_id`. Those are session settings; behind a PgBouncer in transaction mode, where
a session is shared, leave them out and use `SET LOCAL` in a transaction.
"""

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from optiinfra_db.errors import DatabaseUnreachable

if TYPE_CHECKING:
    from uuid import UUID

    from psycopg import AsyncConnection, Connection
    from psycopg.rows import TupleRow
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

CONNECT_TIMEOUT = 10
"""Seconds to wait for a server, unless the URL says otherwise."""

_announced: set[str] = set()


def connect(
    url: str | None = None, *, actor: str | None = None, customer_id: "UUID | None" = None
) -> "Connection[TupleRow]":
    """Open a connection; use it in a `with` block, which closes it.

    The database is that of `url`, else of OPTIINFRA_DATABASE_URL, else the embedded server.
    `actor` is written to the audit log as who did it. Raises InvalidURL, NoDatabaseConfigured,
    DatabaseUnreachable.
    """
    conninfo = _conninfo(resolve_url(url))
    try:
        conn = psycopg.connect(conninfo, autocommit=True)
    except psycopg.Error as error:
        raise _unreachable(conninfo, error) from None
    try:
        conn.execute(_session(actor, customer_id))
    except BaseException:
        conn.close()
        raise
    return conn


async def connect_async(
    url: str | None = None, *, actor: str | None = None, customer_id: "UUID | None" = None
) -> "AsyncConnection[TupleRow]":
    """Open an asynchronous connection; otherwise as `connect`."""
    conninfo = _conninfo(await asyncio.to_thread(resolve_url, url))
    try:
        conn = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    except psycopg.Error as error:
        raise _unreachable(conninfo, error) from None
    try:
        await conn.execute(_session(actor, customer_id))
    except BaseException:
        await conn.close()
        raise
    return conn


def pool(
    url: str | None = None,
    *,
    actor: str | None = None,
    customer_id: "UUID | None" = None,
    min_size: int = 1,
    max_size: int = 10,
) -> "ConnectionPool[Connection[TupleRow]]":
    """Make a pool of connections such as `connect` opens. A `with` block opens and closes it.

    A connection that comes back loses the settings and the role its user gave it.
    """
    from psycopg_pool import ConnectionPool  # noqa: PLC0415  (costs an import few need)

    session = _session(actor, customer_id)
    restored = _RESET + session

    def configure(conn: "Connection[TupleRow]") -> None:
        conn.execute(session)

    def reset(conn: "Connection[TupleRow]") -> None:
        conn.execute(restored)

    return ConnectionPool(
        _conninfo(resolve_url(url)),
        kwargs={"autocommit": True},
        configure=configure,
        reset=reset,
        min_size=min_size,
        max_size=max_size,
        open=False,
    )


def pool_async(
    url: str | None = None,
    *,
    actor: str | None = None,
    customer_id: "UUID | None" = None,
    min_size: int = 1,
    max_size: int = 10,
) -> "AsyncConnectionPool[AsyncConnection[TupleRow]]":
    """Make an asynchronous pool; otherwise as `pool`. `async with` opens and closes it."""
    from psycopg_pool import AsyncConnectionPool  # noqa: PLC0415  (costs an import few need)

    session = _session(actor, customer_id)
    restored = _RESET + session

    async def configure(conn: "AsyncConnection[TupleRow]") -> None:
        await conn.execute(session)

    async def reset(conn: "AsyncConnection[TupleRow]") -> None:
        await conn.execute(restored)

    return AsyncConnectionPool(
        _conninfo(resolve_url(url)),
        kwargs={"autocommit": True},
        configure=configure,
        reset=reset,
        min_size=min_size,
        max_size=max_size,
        open=False,
    )


def resolve_url(url: str | None = None) -> str:
    """Return the URL of the database to use: that given, that configured, the embedded server's.

    The embedded server is started if need be, and named on stderr once a process.
    """
    if configured := configured_url(url):
        return configured
    from optiinfra_db import embedded  # noqa: PLC0415  (optional extra)

    server = embedded.start()
    if server.url() not in _announced:
        server.ensure_database()
        _announced.add(server.url())
        print(
            "optiinfra_db: OPTIINFRA_DATABASE_URL is not set, "
            f"using the embedded server in {server.data_dir}",
            file=sys.stderr,
        )
    return server.url()


def configured_url(url: str | None = None) -> str | None:
    """Return the URL given, else that of OPTIINFRA_DATABASE_URL, as libpq reads it."""
    from optiinfra_db.settings import Settings, checked_url  # noqa: PLC0415  (imports pydantic)

    if url is not None:
        return checked_url(url)
    configured = Settings().database_url
    return configured.get_secret_value() if configured else None


_RESET = sql.SQL("RESET SESSION AUTHORIZATION; RESET ALL; ")


def _session(actor: str | None, customer_id: "UUID | None") -> sql.Composed:
    """Return the statement that prepares a session.

    Not the startup parameter `options`, which PgBouncer refuses.
    """
    settings = {
        "TimeZone": "UTC",
        "DateStyle": "ISO",  # which psycopg reads
        "IntervalStyle": "postgres",
        "optiinfra.actor": actor,
        "optiinfra.customer_id": customer_id,
    }
    return sql.SQL("SELECT {}").format(
        sql.SQL(", ").join(
            sql.SQL("set_config({}, {}, false)").format(name, str(value))
            for name, value in settings.items()
            if value is not None
        )
    )


def _conninfo(url: str) -> str:
    timeout = {} if os.environ.get("PGCONNECT_TIMEOUT") else {"connect_timeout": CONNECT_TIMEOUT}
    defaults = {"fallback_application_name": "optiinfra_db", "client_encoding": "UTF8"}
    parameters = conninfo_to_dict(url)
    if str(parameters.get("host") or "").startswith("/"):
        defaults["hostaddr"] = ""  # of a socket there is none, whatever PGHOSTADDR says
    return make_conninfo("", **{**defaults, **timeout, **parameters})


def describe(url: str) -> str:
    """Name a database for people: its name, host, port and user, and no password."""
    parameters = conninfo_to_dict(url)

    def value(name: str, variable: str, default: object) -> object:
        return parameters.get(name) or os.environ.get(variable) or default

    host = parameters.get("host") or parameters.get("hostaddr") or os.environ.get("PGHOST")
    return (
        f"host {host or 'local socket'}, port {value('port', 'PGPORT', 5432)}, "
        f"database {value('dbname', 'PGDATABASE', 'of the user')}, "
        f"user {value('user', 'PGUSER', 'of the system')}"
    )


def _unreachable(conninfo: str, error: psycopg.Error) -> DatabaseUnreachable:
    return DatabaseUnreachable(
        f"Cannot connect to PostgreSQL at {describe(conninfo)}: {str(error).strip()}\n"
        "Check that the server runs and accepts connections from here, and that the URL "
        "(OPTIINFRA_DATABASE_URL) names the right host, port, database and user."
    )
