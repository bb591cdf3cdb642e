"""Connections and pools, thin over psycopg.

They are in autocommit mode (each generated function is one statement, thus atomic), in time zone
UTC, and tell the database who acts and for which customer: the settings `optiinfra.actor` and
`optiinfra.customer_id`. Those are session settings; behind a PgBouncer in transaction mode, where
a session is shared, leave them out and use `SET LOCAL` in a transaction, and `tenant`.
"""

import asyncio
import os
import random
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from optiinfra_db.errors import DatabaseUnreachable, InvalidValue, typed_errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from psycopg import AsyncConnection, Connection
    from psycopg.rows import TupleRow
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

CONNECT_TIMEOUT = 10
"""Seconds to wait for a server, unless the URL says otherwise."""

_announced: set[str] = set()


def connect(
    url: str | None = None, *, actor: str | None = None, customer_id: UUID | None = None
) -> "Connection[TupleRow]":
    """Open a connection; use it in a `with` block, which closes it.

    The database is that of `url`, else of OPTIINFRA_DATABASE_URL, else the embedded server.
    `actor` is written to the audit log as who did it. Raises InvalidURL, NoDatabaseConfigured,
    DatabaseUnreachable, and InvalidValue for an actor that is no text PostgreSQL can hold.
    """
    return _connected(_conninfo(resolve_url(url)), _session(actor, customer_id))


async def connect_async(
    url: str | None = None, *, actor: str | None = None, customer_id: UUID | None = None
) -> "AsyncConnection[TupleRow]":
    """Open an asynchronous connection; otherwise as `connect`."""
    conninfo = _conninfo(await asyncio.to_thread(resolve_url, url))
    return await _connected_async(conninfo, _session(actor, customer_id))


@contextmanager
def tenant(conn: "Connection[Any]", customer_id: UUID) -> "Iterator[None]":
    """Work for one customer: in the block, PostgreSQL shows and takes no rows of others.

    The block is a transaction (within one, a savepoint), in the role optiinfra_tenant, which only
    this customer's history is open to. Role and customer end with it, so it is safe with pools and
    behind PgBouncer. The user of the connection has to be a member of optiinfra_service, _tenant
    or _owner, or a superuser.

    Raises PermissionDenied where it is not, there and for what a tenant may not do; TenantMismatch
    for a row of another customer; InvalidValue in a block of another customer.
    """
    from optiinfra_db.generated.access import enter_tenant, leave_tenant  # noqa: PLC0415

    is_nested = conn.info.transaction_status != TransactionStatus.IDLE
    with conn.transaction():
        before = enter_tenant(conn, customer_id=customer_id)
        if before.is_distributed:
            conn.execute(_FOR_CUSTOMER.format(str(customer_id)))
        yield
        if is_nested:
            leave_tenant(
                conn,
                former_role=before.former_role,
                former_customer_id=before.former_customer_id,
            )


@asynccontextmanager
async def tenant_async(conn: "AsyncConnection[Any]", customer_id: UUID) -> "AsyncIterator[None]":
    """Work for one customer, as `tenant` says, in an `async with`."""
    from optiinfra_db.generated.aio.access import enter_tenant, leave_tenant  # noqa: PLC0415

    is_nested = conn.info.transaction_status != TransactionStatus.IDLE
    async with conn.transaction():
        before = await enter_tenant(conn, customer_id=customer_id)
        if before.is_distributed:
            await conn.execute(_FOR_CUSTOMER.format(str(customer_id)))
        yield
        if is_nested:
            await leave_tenant(
                conn,
                former_role=before.former_role,
                former_customer_id=before.former_customer_id,
            )


@dataclass(frozen=True)
class Session:
    """How to open another connection like one: same database and user, same actor and customer."""

    conninfo: str = field(repr=False)
    """With the password, if there is one."""
    actor: str | None
    customer_id: str | None
    search_path: str
    prepare_threshold: int | None
    clock_ahead: timedelta
    """How far the clock of the server was ahead of this machine's, about."""

    @classmethod
    def of(cls, conn: "Connection[Any]") -> "Session":
        """Return that of a connection. Raises ConnectionLost where that does not answer."""
        with typed_errors(), conn.cursor(row_factory=tuple_row) as cursor:
            return cls._made(conn, cursor.execute(_SETTINGS).fetchone())

    @classmethod
    async def of_async(cls, conn: "AsyncConnection[Any]") -> "Session":
        """Return what `of` does."""
        with typed_errors():
            cursor = conn.cursor(row_factory=tuple_row)
            await cursor.execute(_SETTINGS)
            return cls._made(conn, await cursor.fetchone())

    @classmethod
    def _made(
        cls, conn: "Connection[Any] | AsyncConnection[Any]", settings: tuple[Any, ...] | None
    ) -> "Session":
        assert settings is not None  # noqa: S101 -- SELECT without FROM has a row
        actor, customer_id, search_path, server_time = settings
        clock_ahead = server_time - datetime.now(UTC)
        password = {"password": conn.info.password} if conn.info.password else {}
        conninfo = make_conninfo(conn.info.dsn, **password)
        threshold = conn.prepare_threshold
        return cls(conninfo, actor, customer_id, search_path, threshold, clock_ahead)

    def customer(self) -> UUID:
        """Return the customer whom the connection is for. Raises InvalidValue if nobody."""
        if not self.customer_id:
            raise InvalidValue(
                "customer_id: whose run is it? Give customer_id, or connect(customer_id=...).",
                field="customer_id",
            )
        return UUID(self.customer_id)

    def connect(self) -> "Connection[TupleRow]":
        """Open a connection. Raises DatabaseUnreachable."""
        conn = _connected(_conninfo(self.conninfo), self._statement())
        conn.prepare_threshold = self.prepare_threshold
        return conn

    async def connect_async(self) -> "AsyncConnection[TupleRow]":
        """Open an asynchronous connection. Raises DatabaseUnreachable."""
        conn = await _connected_async(_conninfo(self.conninfo), self._statement())
        conn.prepare_threshold = self.prepare_threshold
        return conn

    def _statement(self) -> sql.Composed:
        session = _session(self.actor or None, self.customer_id or None)
        return session + _SEARCH_PATH.format(self.search_path, self.search_path)


_SETTINGS = """
SELECT
    current_setting('optiinfra.actor', true),
    current_setting('optiinfra.customer_id', true),
    current_setting('search_path'),
    clock_timestamp()
"""
# Only where it differs: a pooler would hand what is set to others.
_SEARCH_PATH = sql.SQL(
    "; SELECT set_config('search_path', {}, false) WHERE current_setting('search_path') != {}"
)


def _connected(conninfo: str, session: sql.Composed) -> "Connection[TupleRow]":
    try:
        conn = psycopg.connect(conninfo, autocommit=True)
    except psycopg.Error as error:
        raise _unreachable(conninfo, error) from None
    try:
        conn.execute(session)
    except BaseException as error:
        conn.close()
        if isinstance(error, psycopg.OperationalError):
            raise _unreachable(conninfo, error) from None
        raise
    return conn


async def _connected_async(conninfo: str, session: sql.Composed) -> "AsyncConnection[TupleRow]":
    try:
        conn = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    except psycopg.Error as error:
        raise _unreachable(conninfo, error) from None
    try:
        await conn.execute(session)
    except BaseException as error:
        await conn.close()
        if isinstance(error, psycopg.OperationalError):
            raise _unreachable(conninfo, error) from None
        raise
    return conn


def pool(
    url: str | None = None,
    *,
    actor: str | None = None,
    customer_id: UUID | None = None,
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
    customer_id: UUID | None = None,
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


def pauses(give_up_seconds: float) -> "Iterator[float]":
    """Yield the seconds to wait before each attempt to connect again, until it is too late."""
    over = time.monotonic() + give_up_seconds
    yield 0
    pause = 0.1
    while (left := over - time.monotonic()) > 0:
        yield min(left, pause * random.uniform(0.5, 1))  # noqa: S311 -- no secret (not all at once)
        pause = min(2 * pause, 10)


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


# Of which Citus tells the other servers, as it does not of set_config.
_FOR_CUSTOMER = sql.SQL(
    "SET LOCAL citus.propagate_set_commands = 'local'; SET LOCAL optiinfra.customer_id = {}"
)
_RESET = sql.SQL("RESET SESSION AUTHORIZATION; RESET ALL; ")


def _session(actor: str | None, customer_id: UUID | str | None) -> sql.Composed:
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
            sql.SQL("set_config({}, {}, false)").format(name, _sendable(name, str(value)))
            for name, value in settings.items()
            if value is not None
        )
    )


def _sendable(name: str, text: str) -> str:
    """Return the text. Raises InvalidValue where PostgreSQL has no such text."""
    if "\0" in text or text != text.encode(errors="replace").decode():
        field = name.rpartition(".")[2]
        raise InvalidValue(
            f"{field}: {text!r} holds a NUL, or half of a surrogate pair. Give it as plain text.",
            field=field,
        )
    return text


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
