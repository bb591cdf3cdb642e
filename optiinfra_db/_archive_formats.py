"""The formats of the files of an archive: rows in, as JSON text, and out again, the same."""

import gzip
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

import psycopg
from psycopg import sql

from optiinfra_db.errors import ArtifactStoreError, InvalidValue

if TYPE_CHECKING:
    from types import ModuleType

_BATCH_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, as PostgreSQL describes it."""

    name: str
    type_oid: int
    precision: int | None
    scale: int | None

    @property
    def is_json(self) -> bool:
        """Whether a value is more than a text, a number or a truth value."""
        info = psycopg.adapters.types.get(self.type_oid)
        return self.type_oid == _JSONB or (info is not None and info.array_oid == self.type_oid)


_JSONB, _BYTEA, _FLOAT8, _NUMERIC, _TIMESTAMPTZ = (
    psycopg.adapters.types[name].oid
    for name in ("jsonb", "bytea", "float8", "numeric", "timestamptz")
)


class Ndjson:
    """A row a line, as PostgreSQL writes it: nothing is lost, whatever the columns."""

    suffix = "ndjson.gz"

    @staticmethod
    def row(columns: Iterable[Column]) -> sql.Composable:
        return sql.SQL("to_jsonb(source)")

    @staticmethod
    def write(file: Any, columns: Iterable[Column], rows: Iterator[str]) -> int:  # noqa: ANN401
        count = 0
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0) as packed:
            for row in rows:
                packed.write(row.encode() + b"\n")
                count += 1
        return count

    @staticmethod
    def read(file: BinaryIO) -> Iterator[str]:
        with gzip.GzipFile(fileobj=file) as packed, io.TextIOWrapper(packed, "utf-8") as text:
            for line in text:
                yield line.rstrip("\n")


class Parquet:
    """Typed columns; JSON and arrays as the text of their JSON, UUIDs and enums as text."""

    suffix = "parquet"

    @staticmethod
    def row(columns: Iterable[Column]) -> sql.Composable:
        # JSON as text: read as numbers of Python, some of its numbers would change.
        texts = [
            sql.SQL("{}, to_jsonb(source.{})::text").format(
                column.name, sql.Identifier(column.name)
            )
            for column in columns
            if column.is_json
        ]
        if not texts:
            return sql.SQL("to_jsonb(source)")
        return sql.SQL("to_jsonb(source) || jsonb_build_object({})").format(
            sql.SQL(", ").join(texts)
        )

    @staticmethod
    def write(file: Any, columns: Sequence[Column], rows: Iterator[str]) -> int:  # noqa: ANN401
        arrow, parquet = _pyarrow()
        schema = arrow.schema([_field(arrow, column) for column in columns])
        count = 0
        with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            while batch := [
                json.loads(row, parse_float=Decimal) for row in islice(rows, _BATCH_ROWS)
            ]:
                values = [
                    {column.name: _to_arrow(column, row[column.name]) for column in columns}
                    for row in batch
                ]
                writer.write_table(arrow.Table.from_pylist(values, schema))
                count += len(batch)
        return count

    @staticmethod
    def read(file: BinaryIO) -> Iterator[str]:
        _, parquet = _pyarrow()
        source = parquet.ParquetFile(file)
        json_columns = {
            field.name
            for field in source.schema_arrow
            if _IS_JSON.items() <= (field.metadata or {}).items()
        }
        for batch in source.iter_batches(_BATCH_ROWS):
            for row in batch.to_pylist():
                values = (
                    f"{json.dumps(name)}: "
                    + (value if name in json_columns and value else json.dumps(_from_arrow(value)))
                    for name, value in row.items()
                )
                yield f"{{{', '.join(values)}}}"


FORMATS: dict[str, type[Ndjson | Parquet]] = {"ndjson": Ndjson, "parquet": Parquet}
_IS_JSON = {b"optiinfra": b"json"}


def _pyarrow() -> "tuple[ModuleType, ModuleType]":
    try:
        import pyarrow  # noqa: PLC0415 -- an optional extra
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise ArtifactStoreError(
            "Parquet needs pyarrow: pip install 'optiinfra-db[parquet]', or take ndjson."
        ) from None
    return pyarrow, pyarrow.parquet


def _field(arrow: "ModuleType", column: Column) -> Any:  # noqa: ANN401
    if column.type_oid == _NUMERIC and column.precision:
        kind = arrow.decimal128(column.precision, column.scale)
    elif column.is_json:
        return arrow.field(column.name, arrow.string(), metadata=_IS_JSON)
    else:
        info = psycopg.adapters.types.get(column.type_oid)
        kind = {
            "bool": arrow.bool_(),
            "int4": arrow.int32(),
            "int8": arrow.int64(),
            "float8": arrow.float64(),
            "bytea": arrow.binary(),
            "timestamptz": arrow.timestamp("us", "UTC"),
        }.get(info.name if info else "", arrow.string())
    return arrow.field(column.name, kind)


def _to_arrow(column: Column, value: Any) -> Any:  # noqa: ANN401
    if value is None:
        return None
    if column.type_oid == _TIMESTAMPTZ:
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            raise InvalidValue(
                f"{column.name}: Parquet has no place for the time {value}. Correct the row, or "
                "take ndjson.",
                field=column.name,
            ) from None
    if column.type_oid == _NUMERIC:
        return Decimal(value) if column.precision else str(value)
    if column.type_oid == _FLOAT8:
        return float(value)
    if column.type_oid == _BYTEA:
        return bytes.fromhex(value.removeprefix("\\x"))
    return value


def _from_arrow(value: Any) -> Any:  # noqa: ANN401
    match value:
        case datetime():
            return value.isoformat()
        case bytes():
            return f"\\x{value.hex()}"
        case Decimal():
            return str(value)
        case _:
            return value
