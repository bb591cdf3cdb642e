"""Migrations: yoyo's bookkeeping, with the guarantees that it does not give by itself.

- A migration and the note that it was applied are one transaction, so whatever kills a migrate,
  the next one goes on from there.
- One migrate at a time, by an advisory lock, which ends with its session; yoyo's lock is a row
  that survives a crash.
- The checksum of each applied file is kept, so that a later edit is noticed.
- A file is sent as it is. yoyo splits it into statements, for which it would need to understand
  the bodies of functions.

Files are named `NNNN.verb-object.sql`, with `NNNN.verb-object.rollback.sql` beside them, and run in
the order of their names. One whose first line is `-- transactional: false` runs outside a
transaction (for CREATE INDEX CONCURRENTLY), statement by statement, and is noted afterwards: it
must be safe to run twice, and hold plain statements only.

The lock belongs to a session: connect directly, and not through a pooler of transactions.
"""

import getpass
import hashlib
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from uuid import uuid4

import psycopg
import sqlparse
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from yoyo.backends.core.postgresql import (  # type: ignore[import-untyped]
    PostgresqlPsycopgBackend,
)
from yoyo.connections import parse_uri  # type: ignore[import-untyped]
from yoyo.migrations import (  # type: ignore[import-untyped]
    Migration,
    MigrationList,
    default_migration_table,
    parse_metadata_from_sql_comments,
)

from optiinfra_db.connection import connect, connect_session
from optiinfra_db.errors import (
    ChecksumMismatch,
    DatabaseNewerThanPackage,
    InsufficientPrivileges,
    InvalidPooler,
    MigrationError,
    MigrationFailed,
    MigrationLockTimeout,
    MissingRollback,
    UnknownMigration,
    UnsupportedPostgres,
)

MIGRATIONS_DIR = Path(__file__).parent / "migrations"
MONTHS_AHEAD = 3
"""For how many months to come migrate makes partitions."""

_LOCK = 0x6F707469_696E6672  # "optiinfr"
_OLDEST_POSTGRES = 150000

Connection = psycopg.Connection[TupleRow]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """A migration as the package and the database know it."""

    id: str
    state: Literal["applied", "pending", "edited", "unknown"]
    """edited: its file changed after it was applied; unknown: the package has no such file."""
    applied_at: datetime | None = None
    applied_by: str | None = None
    """Who applied it: user@host."""


@dataclass(frozen=True, slots=True)
class MigrateResult:
    """What a migrate did, in order."""

    applied: list[str]
    partitions: list[str]
    for_administrator: list[str] = field(default_factory=list)
    """Statements about roles for which the role that migrates lacked the privileges."""


def migrate(
    url: str | None = None, *, migrations_dir: Path | None = None, say: Say | None = None
) -> MigrateResult:
    """Apply what is pending and make the partitions of the months to come.

    Waits for another migrate of the same database. `say` is told of progress (default: stderr).
    Raises a MigrationError that says what to do, and InvalidPooler where `url` is a pooler's.
    """
    say = say or say_on_stderr
    with session(url, say) as conn:
        backend = _Backend(conn)
        migrations = _read(migrations_dir)
        check(_compare(conn, migrations))
        with explained(conn, "the bookkeeping of migrations"):
            backend.prepare(migrations)
        applied = []
        for migration in backend.to_apply(migrations):
            say(f"Applying {migration.id}")
            with explained(conn, migration.id, migration):
                backend.apply_one(migration)
            applied.append(migration.id)
        partitions: list[str] = []
        for_administrator: list[str] = []
        if migrations_dir is None:
            from optiinfra_db.generated.access import (  # noqa: PLC0415
                grant_access,
                list_roles_without_group,
            )
            from optiinfra_db.generated.partitions import ensure_partitions  # noqa: PLC0415

            conn.execute(_FRESH)
            if _is_distributed(conn):
                from optiinfra_db import distribute  # noqa: PLC0415

                distribute.apply(conn)
                conn.execute(_FRESH)
            with explained(conn, "grant_access"):
                for_administrator = grant_access(conn)
            if for_administrator:
                say(_FOR_ADMINISTRATOR.format(";\n".join(for_administrator)))
            if confined := list_roles_without_group(conn):
                say(_CONFINED.format(", ".join(confined)))
            _as_owner(conn)
            with explained(conn, "ensure_partitions"):
                partitions = list(ensure_partitions(conn, months_ahead=MONTHS_AHEAD))
        return MigrateResult(applied, partitions, for_administrator)


def rollback(
    url: str | None = None,
    *,
    to: int | None = None,
    migrations_dir: Path | None = None,
    say: Say | None = None,
) -> list[str]:
    """Undo the last migration, or all after number `to` (0: all); return what was undone.

    The data in what they created is lost. An edited file does not stop it: undoing and applying
    again is how to work on a migration before it is shared.
    """
    say = say or say_on_stderr
    with session(url, say) as conn:
        backend = _Backend(conn)
        migrations = _read(migrations_dir)
        if to not in {None, 0, *(_number(migration.id) for migration in migrations)}:
            raise UnknownMigration(
                f"There is no migration number {to}; there are "
                f"{', '.join(migration.id for migration in migrations)}."
            )
        state = _compare(conn, migrations)
        check([status for status in state if status.state != "edited"])
        applied = [status.id for status in state if status.state in {"applied", "edited"}]
        doomed = applied[-1:] if to is None else [name for name in applied if _number(name) > to]
        undone = []
        for migration in reversed([item for item in migrations if item.id in doomed]):
            say(f"Rolling back {migration.id}")
            with explained(conn, migration.id, migration):
                backend.rollback_one(migration)
            undone.append(migration.id)
        return undone


def status(url: str | None = None, *, migrations_dir: Path | None = None) -> list[MigrationStatus]:
    """Return every migration of the package and of the database. Changes nothing."""
    with connect(url) as conn:
        _check_server(conn)
        return _compare(conn, _read(migrations_dir))


def status_of(conn: Connection) -> list[MigrationStatus]:
    """Return what `status` does, on a connection that is there."""
    return _compare(conn, _read(None))


def _number(migration_id: str) -> int:
    return int(migration_id.partition(".")[0])


def say_on_stderr(text: str) -> None:
    """Tell of progress."""
    print(f"optiinfra_db: {text}", file=sys.stderr, flush=True)


class _Migration(Migration):  # type: ignore[misc]
    """A migration whose files are sent as they are."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.stem, str(path), str(path.parent))
        self.text = path.read_text(encoding="utf-8-sig")  # with newlines as LF
        self.sha256 = hashlib.sha256(self.text.encode()).hexdigest()
        directives, _, _ = parse_metadata_from_sql_comments(self.text)
        self.use_transactions = directives.get("transactional", "true").lower() != "false"
        self.steps: list[object] = []
        self._depends: set[Migration] = set()

    def rollback_text(self) -> str:
        path = Path(self.path).with_suffix(".rollback.sql")
        try:
            return path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise MissingRollback(f"{self.id} cannot be rolled back: there is no {path}.") from None


def _read(migrations_dir: Path | None) -> MigrationList:
    directory = migrations_dir or MIGRATIONS_DIR
    migrations = MigrationList()
    for path in sorted(directory.glob("[0-9]*.sql")):
        if path.name.endswith(".rollback.sql"):
            continue
        migrations.append(_Migration(path))
    if not migrations:
        raise MigrationError(f"There are no migrations in {directory}. Reinstall the package.")
    return migrations


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]
    """yoyo's bookkeeping on a connection of ours."""

    _in_transaction: bool = False

    def __init__(self, conn: Connection) -> None:
        self._given = conn
        super().__init__(parse_uri("postgresql+psycopg://"), default_migration_table)

    def connect(self, dburi: object) -> Connection:
        return self._given

    @contextmanager
    def lock(self, timeout: float = 0) -> Iterator[None]:
        """Do nothing: the advisory lock is held, and a row that a crash left means nothing."""
        yield

    def get_log_data(
        self, migration: Migration | None = None, operation: str = "apply"
    ) -> dict[str, object]:
        """Say who does it, without asking a name server, which may hang."""
        try:
            user = getpass.getuser()
        except (OSError, KeyError):  # the process has a number but no name, as in containers
            user = self._given.info.user
        return {
            "id": str(uuid4()),
            "migration_id": migration.id if migration else None,
            "migration_hash": migration.hash if migration else None,
            "username": user[:255],
            "hostname": socket.gethostname()[:255],
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "operation": operation,
        }

    def prepare(self, migrations: MigrationList) -> None:
        """Make the tables of the bookkeeping, and note checksums that are not there yet."""
        self.ensure_internal_schema_updated()
        if not _exists(self._given, "_yoyo_checksum"):
            self._given.execute(_CHECKSUM_TABLE)
        applied = set(self.get_applied_migration_hashes())
        noted = {name for (name,) in self.execute("SELECT migration_id FROM _yoyo_checksum")}
        for migration in migrations:
            if migration.hash in applied and migration.id not in noted:
                self._note_checksum(migration)

    def apply_one(self, migration: _Migration, force: bool = False, mark: bool = True) -> None:
        with self._run(migration, migration.text):
            self.log_migration(migration, "apply")
            self.mark_one(migration, log=False)
            self._note_checksum(migration)

    def rollback_one(self, migration: _Migration, force: bool = False) -> None:
        with self._run(migration, migration.rollback_text()):
            self.log_migration(migration, "rollback")
            self.unmark_one(migration, log=False)
            self._given.execute(
                "DELETE FROM _yoyo_checksum WHERE migration_id = %s", [migration.id]
            )

    @contextmanager
    def _run(self, migration: _Migration, text: str) -> Iterator[None]:
        """Run a file, and the bookkeeping in the `with` block in the same transaction."""
        self._given.execute(_FRESH)
        _as_owner(self._given)
        statements = [text]
        if not migration.use_transactions or _is_distributed(self._given):
            statements = sqlparse.split(text)  # Citus would hand the others on with each
        if not migration.use_transactions:
            for statement in statements:
                self._given.execute(statement.encode())
        with self.transaction():
            if migration.use_transactions:
                for statement in statements:
                    self._given.execute(statement.encode())
                if self._given.info.transaction_status != TransactionStatus.INTRANS:
                    raise MigrationFailed("The file must hold no COMMIT or ROLLBACK, but does.")
            yield

    def _note_checksum(self, migration: _Migration) -> None:
        self._given.execute(
            "INSERT INTO _yoyo_checksum (migration_id, sha256) VALUES (%s, %s)",
            [migration.id, migration.sha256],
        )


_FRESH = "SET lock_timeout = '5s'; RESET statement_timeout; RESET search_path; RESET ROLE"
"""The settings each migration starts with, whatever the one before it set."""

_FOR_ADMINISTRATOR = """\
Row-level security is on, but this role may not make the group roles. Have an administrator run
{};
and then migrate once more. Until then only the owner of the tables and superusers see rows."""

_CONFINED = (
    "These logins are in no group role and see the rows of no customer: {}. "
    "GRANT optiinfra_service, optiinfra_tenant or optiinfra_reader TO each, by what it does."
)


def _is_distributed(conn: Connection) -> bool:
    row = conn.execute("SELECT to_regprocedure('clear_workflow_links()') IS NOT NULL").fetchone()
    return row == (True,)


def _as_owner(conn: Connection) -> None:
    """Go on as the role that owns the tables, so that what is made is its own."""
    conn.execute(
        """
        SELECT set_config('role', 'optiinfra_owner', false)
        FROM pg_class
        WHERE
            oid = to_regclass('customers')
            AND relowner = to_regrole('optiinfra_owner')
            AND pg_has_role(relowner, 'MEMBER')
        """
    )


_CHECKSUM_TABLE = """
CREATE TABLE _yoyo_checksum (
    migration_id text NOT NULL,
    sha256 text NOT NULL,
    CONSTRAINT _yoyo_checksum_pkey PRIMARY KEY (migration_id)
);
COMMENT ON TABLE _yoyo_checksum IS
'What the file of each applied migration held, so that a later edit is noticed.';
COMMENT ON COLUMN _yoyo_checksum.migration_id IS 'The file name without .sql.';
COMMENT ON COLUMN _yoyo_checksum.sha256 IS 'SHA-256 of its text, with newlines as LF, in hex.'
"""


@contextmanager
def session(url: str | None, say: Say) -> Iterator[Connection]:
    """Connect, and hold the lock of migrations till the connection closes."""
    try:
        conn = connect_session(url)
    except InvalidPooler as error:
        raise InvalidPooler(
            "To migrate takes a lock of the session: give the URL of the server itself "
            f"(--database-url, if OPTIINFRA_DATABASE_URL is the pooler's). {error}"
        ) from error
    with conn:
        conn.prepare_threshold = None
        _check_server(conn)
        # A migrate that was killed must not go on in the server, nor hold its locks there.
        with suppress(psycopg.Error):  # not on every platform
            conn.execute("SET client_connection_check_interval = '1s'")
        _take_lock(conn, say)
        yield conn


def _check_server(conn: Connection) -> None:
    """Refuse a server that is too old, and a search_path that leads nowhere."""
    if conn.info.server_version < _OLDEST_POSTGRES:
        raise UnsupportedPostgres(
            f"The server is PostgreSQL {conn.info.parameter_status('server_version')}; "
            "optiinfra_db needs 15 or later. Upgrade the server."
        )
    schema = conn.execute("SELECT current_schema()").fetchone()
    if schema is None or schema[0] is None:
        raise InsufficientPrivileges(
            f"No schema of the search_path exists and may be used by role {conn.info.user}. "
            "Create one, or grant USAGE and CREATE on it to the role."
        )


def _take_lock(conn: Connection, say: Say) -> None:
    """Hold the lock of migrations till the connection closes."""
    conn.execute("SET lock_timeout = 0; SET statement_timeout = 0")
    row = conn.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK]).fetchone()
    if row is not None and row[0]:
        return
    holder = conn.execute(
        """
        SELECT format(
            'process %%s of role %%s%%s, connected since %%s',
            a.pid, a.usename, ' at ' || host(a.client_addr), a.backend_start
        )
        FROM pg_locks AS l
        JOIN pg_stat_activity AS a ON a.pid = l.pid
        WHERE l.locktype = 'advisory'
            AND l.granted
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND l.classid = %s::bigint::oid
            AND l.objid = %s::bigint::oid
        """,
        [_LOCK >> 32, _LOCK & 0xFFFFFFFF],
    ).fetchone()
    say(f"Waiting for another migrate to finish: {holder[0] if holder else 'just ending'}")
    conn.execute("SELECT pg_advisory_lock(%s)", [_LOCK])


def _exists(conn: Connection, table: str) -> bool:
    row = conn.execute(
        "SELECT to_regclass(quote_ident(current_schema()) || '.' || %s) IS NOT NULL", [table]
    ).fetchone()
    return row is not None and bool(row[0])


def _compare(conn: Connection, migrations: MigrationList) -> list[MigrationStatus]:
    """Compare the files with what the database says was applied."""
    applied: dict[str, tuple[datetime, str | None]] = {}
    checksums: dict[str, str] = {}
    try:
        if _exists(conn, "_yoyo_migration"):
            rows = conn.execute(
                """
                SELECT m.migration_id, m.applied_at_utc AT TIME ZONE 'UTC', (
                    SELECT l.username || '@' || l.hostname
                    FROM _yoyo_log AS l
                    WHERE l.migration_hash = m.migration_hash AND l.operation IN ('apply', 'mark')
                    ORDER BY l.created_at_utc DESC LIMIT 1
                )
                FROM _yoyo_migration AS m
                """
            )
            applied = {name: (applied_at, applied_by) for name, applied_at, applied_by in rows}
        if _exists(conn, "_yoyo_checksum"):
            checksums = dict(conn.execute("SELECT migration_id, sha256 FROM _yoyo_checksum"))
    except psycopg.errors.InsufficientPrivilege as error:
        raise InsufficientPrivileges(
            f"Role {conn.info.user} may not read which migrations are applied: "
            f"{error.diag.message_primary}. Migrate as the role that owns them; to let this one "
            "look, run GRANT SELECT ON _yoyo_migration, _yoyo_log, _yoyo_checksum TO it."
        ) from error
    known = {migration.id: migration.sha256 for migration in migrations}
    found = []
    for name in sorted(known.keys() | applied.keys()):
        if name not in applied:
            found.append(MigrationStatus(name, "pending"))
        elif name not in known:
            found.append(MigrationStatus(name, "unknown", *applied[name]))
        elif checksums.get(name, known[name]) != known[name]:
            found.append(MigrationStatus(name, "edited", *applied[name]))
        else:
            found.append(MigrationStatus(name, "applied", *applied[name]))
    return found


def check(state: Sequence[MigrationStatus]) -> None:
    """Refuse a database that does not go with the files."""
    if unknown := [status.id for status in state if status.state == "unknown"]:
        raise DatabaseNewerThanPackage(
            f"The database has migrations that this version of optiinfra_db does not know: "
            f"{', '.join(unknown)}. Upgrade the package."
        )
    if edited := [status.id for status in state if status.state == "edited"]:
        raise ChecksumMismatch(
            f"{', '.join(f'{name}.sql' for name in edited)} was edited after it had been applied. "
            "Restore the file (git log -p shows it) and put the change into a new migration. "
            "In a database whose data you can lose: "
            f"optiinfra-db rollback --to {_number(edited[0]) - 1}, then optiinfra-db migrate."
        )


@contextmanager
def explained(conn: Connection, what: str, migration: Migration | None = None) -> Iterator[None]:
    """Turn what the database refuses into a MigrationError that says what to do."""
    undone = (
        "It ran outside a transaction: what it did before is still there."
        if migration is not None and not migration.use_transactions
        else "Nothing of it was kept."
    )
    try:
        yield
    except MigrationFailed as error:
        raise MigrationFailed(f"{what}: {error}") from error
    except psycopg.errors.LockNotAvailable as error:
        raise MigrationLockTimeout(
            f"{what} waited longer than its lock_timeout for a table that another session uses. "  # noqa: S608 -- for people
            f"{undone} Run it again when the database is less busy; "
            "SELECT * FROM pg_stat_activity WHERE xact_start IS NOT NULL shows who is at work."
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        row = conn.execute(
            "SELECT quote_ident(current_user), quote_ident(current_schema())"
        ).fetchone()
        role, schema = row or (conn.info.user, "public")
        raise InsufficientPrivileges(
            f"{what}: role {role} lacks a privilege in schema {schema}: "
            f"{error.diag.message_primary}. {undone} "
            f"As the owner of the schema run: GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}; "
            "and if tables exist already, migrate as the role that owns them, or as a member of it."
        ) from error
    except psycopg.Error as error:
        reason = "the connection was lost" if conn.closed else "the database refused it"
        raise MigrationFailed(f"{what}: {reason}. {undone}\n{error}") from error
