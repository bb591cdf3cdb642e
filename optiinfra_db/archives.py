"""Archives: rows of the database in files, which can be verified and brought back.

An archive is a folder on disk, or wherever fsspec reaches (s3:// with `optiinfra-db[s3]`): files of
rows, each of one table, and manifest.json, which is written last and has the number of rows and the
SHA-256 of each file. NDJSON has a JSON object a line, as PostgreSQL's to_jsonb gives it, in gzip;
Parquet (with `optiinfra-db[parquet]`) has typed columns, for DuckDB, Spark and their like.

`export_customer` writes all that a customer has, as of one moment; `verify_archive` reads an
archive and compares; `import_archive` writes its rows into a database, under their own ids. Rows
that are there already stay as they are, so an import may be interrupted and run again.
"""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any, BinaryIO, Literal
from uuid import UUID

import psycopg
from psycopg import Connection, sql
from psycopg.rows import scalar_row
from pydantic import BaseModel, ConfigDict, ValidationError

from optiinfra_db import __version__
from optiinfra_db._archive_formats import FORMATS, Column
from optiinfra_db._stores import (
    Options,
    absolute,
    below,
    chunks,
    copy,
    failures,
    find_store,
    writing,
)
from optiinfra_db.connection import one_moment
from optiinfra_db.errors import (
    InvalidArchive,
    NotFound,
    PermissionDenied,
    typed_errors,
)
from optiinfra_db.generated import customers, receipts
from optiinfra_db.generated.constraints import CONSTRAINTS, ForeignKey

__all__ = [
    "Archive",
    "ArchiveFile",
    "Format",
    "export_customer",
    "import_archive",
    "verify_archive",
]

Format = Literal["ndjson", "parquet"]
Say = Callable[[str], None]

TABLES = (
    "customers",
    "agents",
    "api_keys",
    "retention_policies",
    "workflow_executions",
    "workflow_steps",
    "workflow_artifacts",
    "recommendations",
    "approvals",
    "optimizations",
    "event_seals",
    "events",
    "agent_metrics",
    "legal_holds",
)
"""What an archive may hold, in the order in which it is written and read: parents first."""

_OF_CUSTOMER = {"customers": "id"}
_NOT_OF_CUSTOMERS = {"agents", "agent_metrics"}
_FILE_ROWS = 50_000
_BATCH_ROWS = 1_000
"""How many rows an import writes in one transaction."""
_BATCH_SIZE = 16_000_000
"""And how many characters of them, if a single one has no more."""

_MANIFEST = "manifest.json"


class ArchiveFile(BaseModel):
    """A file of an archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    table: str
    rows: int
    size: int
    """Bytes."""
    sha256: str
    """64 hexadecimal digits."""


class Archive(BaseModel):
    """What manifest.json says of an archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    archive: Literal[1] = 1
    """The version of the format."""
    format: Format
    written_by: str
    """The package and its version."""
    written_at: datetime
    customer_id: UUID | None
    """Whose rows; None for those of several."""
    files: tuple[ArchiveFile, ...]

    @property
    def row_counts(self) -> dict[str, int]:
        """How many rows of each table."""
        counts: Counter[str] = Counter()
        for file in self.files:
            counts[file.table] += file.rows
        return dict(counts)

    @property
    def text(self) -> bytes:
        """The bytes of manifest.json."""
        return self.model_dump_json(indent=2).encode()

    @property
    def sha256(self) -> bytes:
        """The SHA-256 of manifest.json, which stands for all files."""
        return hashlib.sha256(self.text).digest()


def export_customer(
    conn: Connection[Any],
    url: str,
    *,
    customer_id: UUID,
    format: Format = "ndjson",
    storage_options: Options = None,
    say: Say = lambda _: None,
) -> Archive:
    """Write all rows of a customer, and the agents that they speak of, into a new archive.

    As of one moment, whatever is written meanwhile. Hashes of API keys are in it. It is read again
    and compared before this returns what its manifest says.

    Raises NotFound where there is no such customer, InvalidArchive where `url` holds an archive
    already, ArtifactStoreError, and PermissionDenied for who may not read hashes.
    """
    with one_moment(conn), archive_writer(url, format, customer_id, storage_options) as writer:
        if customers.get_customer(conn, id=customer_id) is None:
            raise NotFound(f"There is no customer {customer_id}.", field="customer_id")
        for table in TABLES:
            say(f"Writing {table}")
            if table == "agents":
                where = _AGENTS_OF_CUSTOMER
            elif table in _NOT_OF_CUSTOMERS:
                continue
            else:
                where = sql.SQL("{} = %(id)s").format(
                    sql.Identifier(_OF_CUSTOMER.get(table, "customer_id"))
                )
            writer.add(conn, table, table, where, {"id": customer_id})
    say("Reading it again")
    return verify_archive(url, storage_options=storage_options)


_AGENTS_OF_CUSTOMER = sql.SQL(" OR ").join(
    sql.SQL("id IN (SELECT agent_id FROM {} WHERE customer_id = %(id)s)").format(
        sql.Identifier(table)
    )
    for table in ("workflow_executions", "recommendations", "optimizations", "events")
)


def verify_archive(url: str, *, storage_options: Options = None) -> Archive:
    """Read an archive as a whole, and compare it to its manifest. Returns that.

    Raises InvalidArchive where a file is missing, or has other rows or bytes than were written;
    ArtifactStoreError where one cannot be read.
    """
    archive = read_manifest(url, storage_options)
    for file in archive.files:
        with _opened(url, file, storage_options) as content:
            found = sum(1 for _ in FORMATS[archive.format].read(content))
        if found != file.rows:
            raise InvalidArchive(
                f"{below(url, file.name)} has {found:,} rows, and not {file.rows:,} as was "
                "written. Take another copy of the archive."
            )
    return archive


def import_archive(
    conn: Connection[Any],
    url: str,
    *,
    storage_options: Options = None,
    say: Say = lambda _: None,
) -> dict[str, int]:
    """Write the rows of an archive, and return how many of each table were not there yet.

    The archive is verified first. In transactions of some rows each, if the connection is in
    autocommit mode: interrupted, it is to be run again. Triggers do not fire, so nothing is written
    to the audit log but what the archive has of it; events that are sealed come with xact_id 0,
    before all others in the change feed, and those that are not, as new ones. A link to a row that
    was deleted since is cleared. Leaves a receipt.

    Of an archive of months, rows of customers and agents that are gone by now are left out.

    Raises InvalidArchive; NotFound where a row of another archive belongs to a customer or an agent
    that is neither there nor in the archive; AlreadyExists where another row has the same email,
    name or key hash; PermissionDenied where the role may not set session_replication_role.
    """
    archive = verify_archive(url, storage_options=storage_options)
    written: Counter[str] = Counter()
    left_out = 0
    for table in TABLES:
        files = [file for file in archive.files if file.table == table]
        if not files:
            continue
        if table == "events":
            _note_sealed_events(conn, archive.customer_id)
        columns = dict(conn.execute(_COLUMNS, [table]).fetchall())
        total, done = sum(file.rows for file in files), 0
        for file in files:
            with _opened(url, file, storage_options) as content:
                for batch in _batches(FORMATS[archive.format].read(content)):
                    count, missing = _insert(
                        conn, table, columns, batch, is_of_several=archive.customer_id is None
                    )
                    written[table] += count
                    left_out += missing
                    done += len(batch)
                    say(f"{table}: {done:,} of {total:,} rows")
        if table == "events":
            conn.execute("DROP TABLE pg_temp.sealed_events")
    with conn.transaction():
        if "workflow_executions" in archive.row_counts:
            _as_replica(conn)
            conn.execute(_CLEAR_RETRIED, {"customer_id": archive.customer_id})
        receipts.create_receipt(
            conn,
            operation="import",
            customer_id=archive.customer_id,
            row_counts=dict(written),
            archive_url=absolute(url),
            archive_sha256=archive.sha256,
        )
    if left_out:
        say(f"{left_out:,} rows of customers or agents that are gone were left out")
    return dict(written)


# Writing


class ArchiveWriter:
    """Writes the files of an archive."""

    def __init__(
        self, url: str, format: Format, customer_id: UUID | None, storage_options: Options
    ) -> None:
        self._url = absolute(url)
        self._format = FORMATS[format]
        self._options = storage_options
        self._about: dict[str, Any] = {"format": format, "customer_id": customer_id}
        self._files: list[ArchiveFile] = []
        self._compared: list[tuple[sql.Composed, Mapping[str, Any], _RowDigest]] = []

    def add(
        self,
        conn: Connection[Any],
        table: str,
        source: str,
        where: sql.Composable,
        values: Mapping[str, Any],
        *,
        is_compared: bool = False,
    ) -> None:
        """Write rows of a table, or of a partition (`source`) of it.

        Those that are to be compared later, by `lock_unchanged`, cost a digest each.
        """
        # Not among queries/: here the table is what is asked for.
        columns = _columns(conn, table)
        query = sql.SQL("SELECT ({})::text FROM {} AS source WHERE {}").format(
            self._format.row(columns), sql.Identifier(source), where
        )
        digest = _RowDigest()
        with _rows(conn, query, values) as read:
            rows = digest.over(read) if is_compared else read
            for first in rows:
                self._write(table, columns, chain([first], islice(rows, _FILE_ROWS - 1)))
        if is_compared:
            self._compared.append((query, values, digest))

    def lock_unchanged(self, conn: Connection[Any]) -> bool:
        """Lock the rows that would be written now; say whether they are just those that were.

        Those added with `is_compared`. To be called in a transaction, before they are deleted.
        """
        for query, values, written in self._compared:
            now = _RowDigest()
            with _rows(conn, query + sql.SQL(" FOR UPDATE"), values) as rows:
                for _ in now.over(rows):
                    pass
            if now != written:
                return False
        return True

    def _write(self, table: str, columns: list[Column], rows: Iterator[str]) -> None:
        number = sum(file.table == table for file in self._files) + 1
        name = f"{table}-{number:04}.{self._format.suffix}"
        path = below(self._url, name)
        with tempfile.TemporaryFile() as file:
            count = self._format.write(file, columns, rows)
            file.seek(0)
            with (
                failures(f"{path} could not be written", self._options),
                writing(path, self._options) as write,
            ):
                size, digest = copy(chunks(file), write)
        self._files.append(
            ArchiveFile(name=name, table=table, rows=count, size=size, sha256=digest.hex())
        )

    def close(self) -> None:
        """Write the manifest."""
        archive = Archive(
            written_by=f"optiinfra-db {__version__}",
            written_at=datetime.now(UTC),
            files=tuple(self._files),
            **self._about,
        )
        path = below(self._url, _MANIFEST)
        with (
            failures(f"{path} could not be written", self._options),
            writing(path, self._options) as write,
        ):
            write(archive.text)


@contextmanager
def archive_writer(
    url: str, format: Format, customer_id: UUID | None, storage_options: Options
) -> Iterator[ArchiveWriter]:
    """Provide what writes a new archive, which is one once all has gone well."""
    writer = ArchiveWriter(url, format, customer_id, storage_options)
    fs, path = find_store(below(url, _MANIFEST), storage_options)
    with failures(f"{url} cannot be looked at", storage_options):
        fs.invalidate_cache()
        is_taken = fs.exists(path)
    if is_taken:
        raise InvalidArchive(f"{absolute(url)} holds an archive already. Choose another place.")
    yield writer
    writer.close()


@dataclass
class _RowDigest:
    """What rows were read, in whatever order: the sum of their SHA-256."""

    value: int = 0

    def over(self, rows: Iterator[str]) -> Iterator[str]:
        for row in rows:
            self.value += int.from_bytes(hashlib.sha256(row.encode()).digest())
            yield row


_EXACTLY = """
SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = hex;
SET LOCAL intervalstyle = postgres;
"""
"""How values are read, whatever the session says."""


@contextmanager
def _rows(
    conn: Connection[Any], query: sql.Composed, values: Mapping[str, Any]
) -> Iterator[Generator[str]]:
    def read(cursor: psycopg.Cursor[str]) -> Generator[str]:
        cursor.execute(_EXACTLY)
        yield from cursor.stream(query, values, size=_BATCH_ROWS)

    with (
        conn.transaction(),
        conn.cursor(row_factory=scalar_row) as cursor,
        # What is not read to its end has the connection, and nobody could roll back.
        closing(read(cursor)) as rows,
    ):
        yield rows


def _columns(conn: Connection[Any], table: str) -> list[Column]:
    query = sql.SQL("SELECT * FROM {} LIMIT 0").format(sql.Identifier(table))
    description = conn.execute(query).description or []
    return [Column(c.name, c.type_code, c.precision, c.scale) for c in description]


# Reading


def read_manifest(url: str, storage_options: Options) -> Archive:
    """Return what the manifest of an archive says. Raises InvalidArchive, ArtifactStoreError."""
    path = below(url, _MANIFEST)
    fs, inner = find_store(path, storage_options)
    with failures(f"{path} cannot be read", storage_options):
        fs.invalidate_cache()
        try:
            text = fs.cat_file(inner)
        except (FileNotFoundError, NotADirectoryError):
            raise InvalidArchive(
                f"There is no archive at {absolute(url)}: it has no {_MANIFEST}, which is written "
                "last. Correct the address, or write the archive again."
            ) from None
    try:
        archive = Archive.model_validate_json(text)
    except ValidationError as error:
        raise InvalidArchive(
            f"{path} is no manifest of an archive that this version reads: "
            f"{error.errors()[0]['msg']}."
        ) from None
    for file in archive.files:
        if file.table not in TABLES or "/" in file.name or file.name.startswith("."):
            raise InvalidArchive(f"{path} speaks of {file.name!r}, which no archive has.")
    return archive


@contextmanager
def _opened(url: str, file: ArchiveFile, options: Options) -> Iterator[BinaryIO]:
    """Provide the content of a file, once it is known to be what was written."""
    path = below(url, file.name)
    fs, inner = find_store(path, options)
    with tempfile.TemporaryFile() as content:
        with failures(f"{path} cannot be read", options):
            fs.invalidate_cache()
            try:
                with fs.open(inner, "rb") as source:
                    size, digest = copy(chunks(source), content.write)
            except (FileNotFoundError, NotADirectoryError):
                raise InvalidArchive(f"{path} is missing. Take another copy.") from None
        if (size, digest.hex()) != (file.size, file.sha256):
            raise InvalidArchive(
                f"{path} is not what was written: it has {size:,} bytes with the SHA-256 "
                f"{digest.hex()}, and not {file.size:,} with {file.sha256}. Take another copy."
            )
        content.seek(0)
        yield content


# Importing


def _as_replica(conn: Connection[Any]) -> None:
    """Let no trigger fire in this transaction: what they would do is in the archive already."""
    try:
        conn.execute("SET LOCAL session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege as error:
        raise PermissionDenied(
            "An import needs a superuser, or a role that may set session_replication_role. A "
            "superuser says: GRANT SET ON PARAMETER session_replication_role TO optiinfra_owner.",
            sqlstate=error.sqlstate,
        ) from error


def _batches(rows: Iterator[str]) -> Iterator[list[str]]:
    """Yield rows in lists that are neither too long nor too large for an array in JSON."""
    batch: list[str] = []
    size = 0
    for row in rows:
        if batch and (len(batch) == _BATCH_ROWS or size + len(row) > _BATCH_SIZE):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row)
    if batch:
        yield batch


_COLUMNS = """
SELECT attname, attnotnull AND atttypid = 'jsonb'::regtype
FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
"""
"""Names, and whether null in the column is JSON's."""


def _insert(
    conn: Connection[Any],
    table: str,
    columns: Mapping[str, bool],
    rows: Sequence[str],
    *,
    is_of_several: bool,
) -> tuple[int, int]:
    """Write rows that are not there yet, in a transaction; return how many, and how many not.

    Of an archive of several customers, rows of those who are gone by now are left out.
    """
    with conn.cursor(row_factory=scalar_row) as cursor:
        names = cursor.execute("SELECT jsonb_object_keys(%s::jsonb)", [rows[0]]).fetchall()
    if unknown := sorted(set(names) - set(columns)):
        raise InvalidArchive(
            f"The archive has {table}.{unknown[0]}, and this database does not: it is older than "
            "the archive. Migrate it first."
        )
    values = {"rows": f"[{','.join(rows)}]"}
    keys = sorted(
        (key for key in ForeignKey if key.table == table),
        key=lambda key: TABLES.index(key.references),  # in which erasing locks them, too
    )
    needed = [key for key in keys if key not in _CLEARED]
    left_out = 0
    with conn.transaction(), typed_errors():
        _as_replica(conn)
        # What triggers would see to: foreign keys are among them.
        for key in keys:
            conn.execute(_locking(key), values)
        for key in needed:
            missing = conn.execute(_missing(key), values).fetchall()
            if not missing:
                continue
            if not is_of_several:
                raise NotFound(
                    f"{table}.{key.field}: {key.references} has no row {missing[0][0]}, and the "
                    "archive has none. Create it, or import it, first.",
                    table=table,
                    constraint=key,
                    field=key.field,
                )
            left_out += len(missing)
        inserting = _inserting(table, {name: columns[name] for name in names}, needed)
        return conn.execute(inserting, values).rowcount, left_out


_CLEARED = {
    ForeignKey.WORKFLOW_EXECUTIONS_RETRIED_FROM_ID_FKEY,
    ForeignKey.RECOMMENDATIONS_WORKFLOW_EXECUTION_ID_FKEY,
    ForeignKey.OPTIMIZATIONS_WORKFLOW_EXECUTION_ID_FKEY,
    ForeignKey.EVENTS_AGENT_ID_FKEY,
}
"""Keys that are cleared, in their last column, when what they point at is deleted."""

_SEALED = sql.SQL(
    "EXISTS (SELECT FROM pg_temp.sealed_events AS sealed "
    "WHERE sealed.customer_id = given.customer_id AND sealed.id = given.id)"
)
_REPLACED = {
    ("events", "xact_id"): sql.SQL("CASE WHEN {} THEN '0' ELSE pg_current_xact_id() END").format(
        _SEALED
    ),
    # All that they cover comes with xact_id 0.
    ("event_seals", "through_xact_id"): sql.SQL("'0'::xid8"),
    ("event_seals", "through_id"): sql.SQL("'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid"),
}
"""What means another place in another server's order of transactions."""


def _inserting(
    table: str, columns: Mapping[str, bool], needed: Sequence[ForeignKey]
) -> sql.Composed:
    # Not among queries/: here the table is what is asked for.
    return sql.SQL(
        "INSERT INTO {table} ({names}) SELECT {values} "
        "FROM jsonb_populate_recordset(NULL::{table}, %(rows)s::jsonb) AS given "
        "WHERE {is_there} ON CONFLICT ({key}) DO NOTHING"
    ).format(
        table=sql.Identifier(table),
        names=sql.SQL(", ").join(map(sql.Identifier, columns)),
        values=sql.SQL(", ").join(
            _value(table, name, is_json=is_json) for name, is_json in columns.items()
        ),
        is_there=sql.SQL(" AND ").join([sql.SQL("true"), *map(_is_there, needed)]),
        key=sql.SQL(", ").join(map(sql.Identifier, CONSTRAINTS[f"{table}_pkey"].columns)),
    )


def _value(table: str, name: str, *, is_json: bool) -> sql.Composable:
    if value := _REPLACED.get((table, name)):
        return value
    column = sql.SQL("given.{}").format(sql.Identifier(name))
    if is_json:  # JSON's null is read as SQL's
        return sql.SQL("coalesce({}, 'null')").format(column)
    for key in _CLEARED:
        # What points at its own table may come later: _CLEAR_RETRIED looks at the end.
        if (key.table, key.field) == (table, name) and key.references != table:
            return sql.SQL("CASE WHEN {} THEN {} END").format(_is_there(key), column)
    return column


def _locking(key: ForeignKey) -> sql.Composed:
    """Return a query that keeps what the rows point at, as the trigger of a foreign key does."""
    return sql.SQL(
        "SELECT FROM {references} AS there WHERE ({targets}) IN (SELECT {fields} FROM {given}) "
        "FOR KEY SHARE"
    ).format(
        references=sql.Identifier(key.references),
        targets=_columns_of("there", _targets(key)),
        fields=_columns_of("given", key.columns),
        given=_given(key),
    )


def _missing(key: ForeignKey) -> sql.Composed:
    """Return a query for what the rows point at by a key, and that is not there."""
    return sql.SQL("SELECT given.{field} FROM {given} WHERE NOT {is_there}").format(
        field=sql.Identifier(key.field),
        given=_given(key),
        is_there=_is_there(key),
    )


def _given(key: ForeignKey) -> sql.Composed:
    return sql.SQL("jsonb_populate_recordset(NULL::{}, %(rows)s::jsonb) AS given").format(
        sql.Identifier(key.table)
    )


def _targets(key: ForeignKey) -> list[str]:
    return [*key.columns[:-1], "id"]


def _columns_of(alias: str, columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(alias, column) for column in columns)


def _is_there(key: ForeignKey) -> sql.Composed:
    """Return the condition that what a given row points at, if anything, exists."""
    return sql.SQL(
        "(given.{} IS NULL OR EXISTS (SELECT FROM {} AS there WHERE ({}) = ({})))"
    ).format(
        sql.Identifier(key.field),
        sql.Identifier(key.references),
        _columns_of("there", _targets(key)),
        _columns_of("given", key.columns),
    )


def _note_sealed_events(conn: Connection[Any], customer_id: UUID | None) -> None:
    conn.execute("DROP TABLE IF EXISTS pg_temp.sealed_events")
    conn.execute(
        "CREATE TEMPORARY TABLE sealed_events AS "
        "SELECT customer_id, unnest(event_ids) AS id FROM event_seals "
        "WHERE customer_id = coalesce(%(customer_id)s::uuid, customer_id)",
        {"customer_id": customer_id},
    )
    conn.execute("CREATE INDEX ON pg_temp.sealed_events (customer_id, id)")
    conn.execute("ANALYZE pg_temp.sealed_events")


_CLEAR_RETRIED = """
UPDATE workflow_executions AS run
SET retried_from_id = NULL
WHERE
    run.customer_id = %(customer_id)s
    AND run.retried_from_id IS NOT NULL
    AND NOT EXISTS (
        SELECT
        FROM workflow_executions AS before
        WHERE before.customer_id = run.customer_id AND before.id = run.retried_from_id
    )
"""
