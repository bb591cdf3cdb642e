"""Connections and pools, thin over psycopg.

They are in autocommit mode (each generated function is one statement, thus atomic), in time zone
UTC, and tell the database who acts and for which customer: the settings `optiinfra.actor` and
`optiinfra.customer_id`, of the session, or of a transaction in the blocks `acting` and `tenant`.

Through a pooler that pools transactions, sessions are shared: nothing is set for one, and nothing
prepared in it. What is in between has to be said (`pooler`), as a wrong guess mixes up the answers
of clients, and is checked.
"""

import asyncio
import os
import random
import sys
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from optiinfra_db.errors import DatabaseUnreachable, InvalidPooler, InvalidValue, typed_errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from psycopg import AsyncConnection, Connection
    from psycopg.rows import TupleRow

    from optiinfra_db.replicas import AsyncPool, Pool
    from optiinfra_db.settings import Pooler

CONNECT_TIMEOUT = 10
"""Seconds to wait for a server, unless the URL says otherwise."""

_announced: set[str] = set()


def connect(
    url: str | None = None,
    *,
    actor: str | None = None,
    customer_id: UUID | None = None,
    pooler: "Pooler | None" = None,
) -> "Connection[TupleRow]":
    """Open a connection; use it in a `with` block, which closes it.

    The database is that of `url`, else of OPTIINFRA_DATABASE_URL, else the embedded server.
    `actor` is written to the audit log as who did it. `pooler` is "transaction" or "session" where
    a pooler such as PgBouncer is in between, by what it keeps a server connection for, else the
    setting OPTIINFRA_POOLER; docs/guides/poolers.md says what is different then.

    Raises InvalidURL, NoDatabaseConfigured, DatabaseUnreachable; InvalidPooler where a pooler is in
    between and was not said, or is another than was said; InvalidValue for an actor that is no text
    PostgreSQL can hold, and for an actor or customer with "transaction", where `acting` and
    `tenant` say it.
    """
    return _way(resolve_url(url), actor, customer_id, pooler).connect()


async def connect_async(
    url: str | None = None,
    *,
    actor: str | None = None,
    customer_id: UUID | None = None,
    pooler: "Pooler | None" = None,
) -> "AsyncConnection[TupleRow]":
    """Open an asynchronous connection; otherwise as `connect`."""
    resolved = await asyncio.to_thread(resolve_url, url)
    return await _way(resolved, actor, customer_id, pooler).connect_async()


def connect_session(url: str | None = None, *, actor: str | None = None) -> "Connection[TupleRow]":
    """Open a connection that is one session, for locks and settings of that; else as `connect`.

    Where OPTIINFRA_POOLER is transaction, `url` has to name the server itself all the same. Raises
    InvalidPooler where it does not.
    """
    pooler = configured_pooler()
    return _Way(
        _conninfo(resolve_url(url)),
        None if pooler == "transaction" else pooler,
        _settings(actor=actor),
    ).connect()


@contextmanager
def acting(conn: "Connection[Any]", actor: str) -> "Iterator[None]":
    """Say who acts, for the audit log: in the block it is `actor`.

    The block is a transaction (within one, a savepoint), and the actor ends with it, so it is safe
    with pools and through poolers. Raises InvalidValue where PostgreSQL can hold no such text.
    """
    from optiinfra_db.generated.access import set_actor  # noqa: PLC0415

    is_nested = conn.info.transaction_status != TransactionStatus.IDLE
    with conn.transaction():
        former = set_actor(conn, actor=_sendable("actor", actor))
        yield
        if is_nested:
            set_actor(conn, actor=former)


@asynccontextmanager
async def acting_async(conn: "AsyncConnection[Any]", actor: str) -> "AsyncIterator[None]":
    """Say who acts, as `acting` does, in an `async with`."""
    from optiinfra_db.generated.aio.access import set_actor  # noqa: PLC0415

    is_nested = conn.info.transaction_status != TransactionStatus.IDLE
    async with conn.transaction():
        former = await set_actor(conn, actor=_sendable("actor", actor))
        yield
        if is_nested:
            await set_actor(conn, actor=former)


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
    pooler: "Pooler | None"
    clock_ahead: timedelta
    """How far the clock of the server was ahead of this machine's, about."""

    @classmethod
    def of(cls, conn: "Connection[Any]") -> "Session":
        """Return that of a connection.

        Raises ConnectionLost where that does not answer, and InvalidPooler where it goes through a
        pooler that nobody mentioned.
        """
        with typed_errors(), conn.cursor(row_factory=tuple_row) as cursor:
            return cls._made(conn, cursor.execute(_CURRENT).fetchone())

    @classmethod
    async def of_async(cls, conn: "AsyncConnection[Any]") -> "Session":
        """Return what `of` does."""
        with typed_errors():
            cursor = conn.cursor(row_factory=tuple_row)
            await cursor.execute(_CURRENT)
            return cls._made(conn, await cursor.fetchone())

    @classmethod
    def _made(
        cls, conn: "Connection[Any] | AsyncConnection[Any]", settings: tuple[Any, ...] | None
    ) -> "Session":
        assert settings is not None  # noqa: S101 -- SELECT without FROM has a row
        actor, customer_id, search_path, server_pid, server_time = settings
        clock_ahead = server_time - datetime.now(UTC)
        password = {"password": conn.info.password} if conn.info.password else {}
        way = _WAYS.get(conn)
        conninfo = way.conninfo if way else make_conninfo(conn.info.dsn, **password)
        pooler = way.pooler if way else configured_pooler()
        if pooler is None and server_pid != conn.info.backend_pid:
            raise _unmentioned(conninfo)
        if pooler == "transaction":  # what is set there is somebody else's
            actor = customer_id = None
        threshold = None if pooler == "transaction" else conn.prepare_threshold
        return cls(conninfo, actor, customer_id, search_path, threshold, pooler, clock_ahead)

    def customer(self) -> UUID:
        """Return the customer whom the connection is for. Raises InvalidValue if nobody."""
        if not self.customer_id:
            raise InvalidValue(
                "customer_id: whose run is it? Give customer_id, or connect(customer_id=...).",
                field="customer_id",
            )
        return UUID(self.customer_id)

    def connect(self) -> "Connection[TupleRow]":
        """Open a connection. Raises DatabaseUnreachable and InvalidPooler."""
        conn = self._way().connect()
        conn.prepare_threshold = self.prepare_threshold
        return conn

    async def connect_async(self) -> "AsyncConnection[TupleRow]":
        """Open an asynchronous connection. Raises DatabaseUnreachable and InvalidPooler."""
        conn = await self._way().connect_async()
        conn.prepare_threshold = self.prepare_threshold
        return conn

    def _way(self) -> "_Way":
        settings = _settings(self.actor or None, self.customer_id or None)
        settings["search_path"] = self.search_path
        return _Way(_conninfo(self.conninfo), self.pooler, settings)


_CURRENT = """
SELECT
    current_setting('optiinfra.actor', true),
    current_setting('optiinfra.customer_id', true),
    current_setting('search_path'),
    pg_backend_pid(),
    clock_timestamp()
"""
_WAYS: "WeakKeyDictionary[Connection[Any] | AsyncConnection[Any], _Way]" = WeakKeyDictionary()
"""How our connections were opened: of several hosts, psycopg keeps the one that it came to."""

_TRUSTED: set[str] = set()
"""Where a pooler was found to keep sessions apart."""

_LEAVE_STATEMENT = "PREPARE optiinfra_client AS SELECT"
_IS_STATEMENT_LEFT = sql.SQL(
    "EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'optiinfra_client')"
)
_FORGET = """
DO $$
BEGIN
    PERFORM
        set_config('optiinfra.client', '', false),
        set_config('optiinfra.actor', '', false),
        set_config('optiinfra.customer_id', '', false);
    IF EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'optiinfra_client') THEN
        DEALLOCATE optiinfra_client;
    END IF;
END
$$
"""
"""Takes what we left from a server connection that others share."""

_UTC = {"UTC", "Etc/UTC", "UCT", "Etc/UCT", "GMT", "Etc/GMT"}


@dataclass(frozen=True)
class _Way:
    """The way to a database: where it is, what is in between, and what a session begins with."""

    conninfo: str = field(repr=False)
    pooler: "Pooler | None"
    settings: dict[str, str]

    def connect(self) -> "Connection[TupleRow]":
        if self._is_in_doubt():
            with replace(self, settings={})._open() as probe:
                try:
                    probe.execute(_LEAVE_STATEMENT)
                except psycopg.errors.DuplicatePreparedStatement:
                    raise self._refusal() from None
        conn = self._open()
        _TRUSTED.add(self.conninfo)
        return conn

    async def connect_async(self) -> "AsyncConnection[TupleRow]":
        if self._is_in_doubt():
            async with await replace(self, settings={})._open_async() as probe:
                try:
                    await probe.execute(_LEAVE_STATEMENT)
                except psycopg.errors.DuplicatePreparedStatement:
                    raise self._refusal() from None
        conn = await self._open_async()
        _TRUSTED.add(self.conninfo)
        return conn

    def _is_in_doubt(self) -> bool:
        """Say whether to look first if a client meets what the one before it left."""
        return self.pooler == "session" and self.conninfo not in _TRUSTED

    def _open(self) -> "Connection[TupleRow]":
        try:
            conn = psycopg.connect(self.conninfo, autocommit=True)
        except psycopg.Error as error:
            raise _unreachable(self.conninfo, error) from None
        try:
            self.prepare(conn)
        except BaseException as error:
            conn.close()
            if isinstance(error, psycopg.OperationalError):
                raise _unreachable(self.conninfo, error) from None
            raise
        return conn

    async def _open_async(self) -> "AsyncConnection[TupleRow]":
        try:
            conn = await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True)
        except psycopg.Error as error:
            raise _unreachable(self.conninfo, error) from None
        try:
            await self.prepare_async(conn)
        except BaseException as error:
            await conn.close()
            if isinstance(error, psycopg.OperationalError):
                raise _unreachable(self.conninfo, error) from None
            raise
        return conn

    def prepare(self, conn: "Connection[TupleRow]") -> None:
        """Begin the session of a new connection. Raises InvalidPooler."""
        for statement in self._beginning(conn):
            if conn.execute(statement).fetchone() is None:
                if self.pooler == "session":
                    conn.execute(_FORGET)
                raise self._refusal()

    async def prepare_async(self, conn: "AsyncConnection[TupleRow]") -> None:
        """Do what `prepare` does."""
        for statement in self._beginning(conn):
            if await (await conn.execute(statement)).fetchone() is None:
                if self.pooler == "session":
                    await conn.execute(_FORGET)
                raise self._refusal()

    def _beginning(self, conn: "Connection[Any] | AsyncConnection[Any]") -> list[sql.Composed]:
        """Return the statements that begin a session: without a row, the pooler is another.

        Then they have set nothing, which could be on a server connection of others.
        """
        _WAYS[conn] = self
        if self.pooler == "transaction":
            conn.prepare_threshold = None
            self._check_reported(conn)
            return []
        assignments = self.assignments(conn)
        if self.pooler is None:
            # Whoever is in between and is no mere tunnel has keys of its own for cancelling.
            itself = sql.SQL(" WHERE pg_backend_pid() = {}").format(conn.info.backend_pid)
            return [assignments + itself]
        marker = sql.SQL("coalesce(current_setting('optiinfra.client', true), '')")
        return [
            assignments + sql.SQL(" WHERE {} = '' AND NOT {}").format(marker, _IS_STATEMENT_LEFT),
            sql.SQL("SELECT 1 WHERE {} = {}").format(marker, str(conn.info.backend_pid)),
        ]

    def assignments(self, conn: "Connection[Any] | AsyncConnection[Any]") -> sql.Composed:
        """Return the statement that makes the settings of the session.

        Not the startup parameter `options`, which PgBouncer refuses.
        """
        settings = self.settings
        if self.pooler == "session":
            settings = {**settings, "optiinfra.client": str(conn.info.backend_pid)}
        return sql.SQL("SELECT {}").format(
            sql.SQL(", ").join(
                sql.SQL("set_config({}, {}, false)").format(name, value)
                for name, value in settings.items()
            )
        )

    def _check_reported(self, conn: "Connection[Any] | AsyncConnection[Any]") -> None:
        """Refuse a server that writes times as we do not read them, nor can have it do."""
        reported = conn.info.parameter_status
        for name, wanted, is_right in (
            ("TimeZone", "UTC", reported("TimeZone") in _UTC),
            ("DateStyle", "ISO", (reported("DateStyle") or "").startswith("ISO")),
            ("IntervalStyle", "postgres", reported("IntervalStyle") == "postgres"),
        ):
            if not is_right:
                user = sql.Identifier(conn.info.user).as_string(None)
                raise InvalidPooler(
                    f"{name} is {reported(name)} at {describe(self.conninfo)}, and has to be "
                    f'{wanted}; with pooler="transaction" it cannot be set for a session. Run '
                    f"ALTER ROLE {user} SET {name} = '{wanted}', of the role that the pooler logs "
                    "in as, then RECONNECT in the console of PgBouncer, or restart the pooler."
                )

    def _refusal(self) -> InvalidPooler:
        if self.pooler is None:
            return _unmentioned(self.conninfo)
        return InvalidPooler(
            f'The pooler at {describe(self.conninfo)} was said to be pooler="session", but it '
            "gives the server connection of one client to another with its settings: answers and "
            "actors would get mixed up. If it pools transactions, set OPTIINFRA_POOLER=transaction "
            "(or connect(pooler=...)); if sessions, have it run DISCARD ALL in between "
            "(server_reset_query of PgBouncer)."
        )


def _way(url: str, actor: str | None, customer_id: UUID | None, pooler: "Pooler | None") -> _Way:
    """Return the way to a database. Raises InvalidValue, and InvalidPooler for an unknown one."""
    pooler = configured_pooler(pooler)
    if pooler == "transaction":
        for name, value, instead in (
            ("actor", actor, "with acting(conn, actor), or record_workflow(..., actor=actor)"),
            ("customer_id", customer_id, "with tenant(conn, customer_id)"),
        ):
            if value is not None:
                raise InvalidValue(
                    f'{name}: with pooler="transaction" a connection has none, as the next client '
                    f"would have it too. Say it for a transaction: {instead}.",
                    field=name,
                )
    return _Way(_conninfo(url), pooler, _settings(actor, customer_id))


def _unmentioned(conninfo: str) -> InvalidPooler:
    return InvalidPooler(
        f"A connection pooler is at {describe(conninfo)}, and not PostgreSQL itself. Unless it is "
        "known what it pools, clients can get the answers to each other's queries: set "
        "OPTIINFRA_POOLER (or connect(pooler=...)) to transaction, or to session where a client "
        "keeps its server connection until it disconnects; or name the server itself in the URL."
    )


def pool(
    url: str | None = None,
    *,
    read_url: str | None = None,
    actor: str | None = None,
    customer_id: UUID | None = None,
    pooler: "Pooler | None" = None,
    min_size: int = 1,
    max_size: int = 10,
) -> "Pool":
    """Make a pool of connections such as `connect` opens. A `with` block opens and closes it.

    A connection that comes back loses the settings and the role its user gave it. After a fork, a
    process needs a pool of its own. `read_url` is of a replica, to which as many connections are
    made: for the `read_only` blocks of the pool. To open the pool raises InvalidPooler; a database
    that cannot be reached is waited for.
    """
    from optiinfra_db.replicas import Pool  # noqa: PLC0415  (costs an import few need)

    def of(url: str | None) -> Pool:
        way = _way(resolve_url(url), actor, customer_id, pooler)

        class Checked(Pool):
            def open(self, wait: bool = False, timeout: float = 30.0) -> None:
                with suppress(DatabaseUnreachable):
                    way.connect().close()  # in the pool's threads, an error would only be logged
                super().open(wait, timeout)

        def reset(conn: "Connection[TupleRow]") -> None:
            conn.autocommit = True
            conn.isolation_level = conn.read_only = conn.deferrable = None
            if way.pooler == "transaction":
                conn.prepare_threshold = None
            else:
                conn.execute(_RESET + way.assignments(conn))

        return Checked(
            way.conninfo,
            kwargs={"autocommit": True},
            configure=way.prepare,
            reset=reset,
            min_size=min_size,
            max_size=max_size,
            open=False,
        )

    made = of(url)
    if read_url is not None:
        made.replica = of(read_url)
    return made


def pool_async(
    url: str | None = None,
    *,
    read_url: str | None = None,
    actor: str | None = None,
    customer_id: UUID | None = None,
    pooler: "Pooler | None" = None,
    min_size: int = 1,
    max_size: int = 10,
) -> "AsyncPool":
    """Make an asynchronous pool; otherwise as `pool`. `async with` opens and closes it."""
    from optiinfra_db.replicas import AsyncPool  # noqa: PLC0415  (costs an import few need)

    def of(url: str | None) -> AsyncPool:
        way = _way(resolve_url(url), actor, customer_id, pooler)

        class Checked(AsyncPool):
            async def open(self, wait: bool = False, timeout: float = 30.0) -> None:
                with suppress(DatabaseUnreachable):
                    await (await way.connect_async()).close()
                await super().open(wait, timeout)

        async def reset(conn: "AsyncConnection[TupleRow]") -> None:
            await conn.set_autocommit(True)
            await conn.set_isolation_level(None)
            await conn.set_read_only(None)
            await conn.set_deferrable(None)
            if way.pooler == "transaction":
                conn.prepare_threshold = None
            else:
                await conn.execute(_RESET + way.assignments(conn))

        return Checked(
            way.conninfo,
            kwargs={"autocommit": True},
            configure=way.prepare_async,
            reset=reset,
            min_size=min_size,
            max_size=max_size,
            open=False,
        )

    made = of(url)
    if read_url is not None:
        made.replica = of(read_url)
    return made


@contextmanager
def one_moment(conn: "Connection[Any]") -> "Iterator[None]":
    """Read in one transaction that sees one moment."""
    before = conn.isolation_level, conn.read_only
    conn.isolation_level, conn.read_only = psycopg.IsolationLevel.REPEATABLE_READ, True
    try:
        with conn.transaction():
            yield
    finally:
        if not conn.closed:
            conn.isolation_level, conn.read_only = before


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


def configured_pooler(pooler: "Pooler | None" = None) -> "Pooler | None":
    """Return the pooler given, else that of OPTIINFRA_POOLER. Raises InvalidPooler."""
    from optiinfra_db.settings import Pooling, checked_pooler  # noqa: PLC0415  (imports pydantic)

    return Pooling().pooler if pooler is None else checked_pooler(pooler)


# Of which Citus tells the other servers, as it does not of set_config.
_FOR_CUSTOMER = sql.SQL(
    "SET LOCAL citus.propagate_set_commands = 'local'; SET LOCAL optiinfra.customer_id = {}"
)
_RESET = sql.SQL("RESET SESSION AUTHORIZATION; RESET ALL; ")


def _settings(actor: str | None = None, customer_id: UUID | str | None = None) -> dict[str, str]:
    """Return what is set in a session."""
    settings = {
        "TimeZone": "UTC",
        "DateStyle": "ISO",  # which psycopg reads
        "IntervalStyle": "postgres",
        "optiinfra.actor": actor,
        "optiinfra.customer_id": customer_id,
    }
    return {
        name: _sendable(name, str(value)) for name, value in settings.items() if value is not None
    }


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
