# ruff: noqa: ANN401, RUF100
"""What the generated functions share: how a query is run and how values are converted.

Each call has adapters of its own: the connection's row factory, cursor factory, adapters and JSON
functions have no part in it, and nothing is registered anywhere. A cursor serves it until the
connection has prepared the statement, which from then on is sent without one: the cursor was half
of what a call cost on this side.
"""

import dataclasses
import datetime
import enum
import json
import typing
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from functools import cache
from itertools import starmap

import psycopg
import psycopg.abc
import psycopg.adapt
import psycopg.generators
import psycopg.postgres
import psycopg.types.array
import psycopg.types.json
import psycopg.types.numeric
from psycopg.adapt import AdaptersMap, Loader, PyFormat
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import tuple_row


def _translate(_: psycopg.Error) -> Exception | None:
    """Leave psycopg's errors as they are."""
    return None


Row: typing.TypeAlias = tuple[typing.Any, ...]
Json = psycopg.types.json.Json
Jsonb = psycopg.types.json.Jsonb
T = typing.TypeVar("T")
P = typing.TypeVar("P")
E = typing.TypeVar("E", bound=enum.Enum)
# A class is called with the columns of a row, a function with the row.
Maker: typing.TypeAlias = type[T] | Callable[[Row], T]


class RowCountError(LookupError):
    """A query that promises exactly one row returned none, or several."""


class _IntDumper(psycopg.types.numeric.Int8Dumper):
    """An int without a type: the server infers it, as it did when the query was analysed."""

    oid = 0

    def dump(self, obj: int) -> bytes:
        return b"%d" % obj


class _JsonLoader(Loader):
    """A JSON value; psycopg's own guesses the encoding of each and looks for whitespace around."""

    format = Format.TEXT
    _decode = json.JSONDecoder().decode

    def load(self, data: psycopg.abc.Buffer) -> typing.Any:
        try:
            return self._decode(str(data, "utf-8"))
        except (ValueError, RecursionError) as error:  # thousands of digits, or of levels
            raise _unreadable(error) from error


class _JsonbLoader(_JsonLoader):
    _raw_decode = json.JSONDecoder().raw_decode

    def load(self, data: psycopg.abc.Buffer) -> typing.Any:
        try:
            return {} if data == b"{}" else self._raw_decode(str(data, "utf-8"))[0]
        except (ValueError, RecursionError) as error:
            raise _unreadable(error) from error


def _unreadable(error: Exception) -> psycopg.DataError:
    return psycopg.DataError(f"can't parse JSON: {error}")


class _JsonbBinaryLoader(_JsonbLoader):
    """The text after a byte that tells the version, which is 1."""

    format = Format.BINARY

    def load(self, data: psycopg.abc.Buffer) -> typing.Any:
        return super().load(memoryview(data)[1:])


def _own_adapters() -> AdaptersMap:
    adapters = AdaptersMap()
    psycopg.postgres.register_default_types(adapters.types)
    psycopg.postgres.register_default_adapters(adapters)
    int_loader = adapters.get_loader(adapters.types["int8"].oid, Format.TEXT)
    for name in ("xid", "xid8", "cid"):
        if int_loader:
            adapters.register_loader(name, int_loader)
    psycopg.types.array.register_all_arrays(adapters)
    psycopg.types.json.set_json_dumps(json.dumps, adapters)
    adapters.register_loader("json", _JsonLoader)
    adapters.register_loader("jsonb", _JsonbLoader)
    adapters.register_loader("jsonb", _JsonbBinaryLoader)
    # Last, and for queries only: COPY has typed columns and looks dumpers up by type.
    adapters.register_dumper(int, _IntDumper)
    return adapters


_ADAPTERS: typing.Final = _own_adapters()


class _Cursor(psycopg.RawCursor[Row]):
    @property
    def adapters(self) -> AdaptersMap:
        return _ADAPTERS


class _AsyncCursor(psycopg.AsyncRawCursor[Row]):
    @property
    def adapters(self) -> AdaptersMap:
        return _ADAPTERS


class _Context:
    """What psycopg's Transformer asks for."""

    __slots__ = ("adapters", "connection")

    def __init__(self, connection: "_AnyConnection") -> None:
        self.connection = connection
        self.adapters = _ADAPTERS


_AnyConnection: typing.TypeAlias = (
    psycopg.Connection[typing.Any] | psycopg.AsyncConnection[typing.Any]
)
_AUTO = PyFormat.AUTO
_IDLE = TransactionStatus.IDLE
_TUPLES_OK = ExecStatus.TUPLES_OK
_encoded = cache(str.encode)
_execute = psycopg.generators.execute


def _send(
    conn: _AnyConnection, sql: str, args: Sequence[object], *, binary: bool
) -> psycopg.abc.Transformer | None:
    """Send a statement that the connection has prepared; None where it takes a cursor.

    The caller holds the lock of the connection. A cursor counts the calls, prepares, begins
    transactions and rides pipelines.
    """
    pgconn = conn.pgconn
    if pgconn.pipeline_status or not (conn.autocommit or pgconn.transaction_status != _IDLE):
        return None
    try:
        names = conn._prepared._names
    except AttributeError:  # a psycopg that keeps them elsewhere
        return None
    if not names:  # as behind PgBouncer, where nothing is prepared
        return None
    transformer = psycopg.adapt.Transformer(_Context(conn))
    params = transformer.dump_sequence(args, [_AUTO] * len(args))
    key = (_encoded(sql), transformer.types or ())
    name = names.get(key)
    if name is None:
        return None
    names.move_to_end(key)  # those not used for longest are forgotten first
    pgconn.send_query_prepared(name, params, transformer.formats, binary)
    return transformer


def _loaded(
    transformer: psycopg.abc.Transformer, results: Sequence[PGresult], last: int | None
) -> list[Row]:
    """Return the rows of what came of a statement, `last` at most."""
    (result,) = results
    if result.status != _TUPLES_OK:
        raise psycopg.errors.error_from_result(result, encoding=transformer.encoding)
    transformer.set_pgresult(result)
    rows = result.ntuples
    return transformer.load_rows(0, rows if last is None else min(rows, last), tuple)


def _fetch(
    conn: psycopg.Connection[typing.Any],
    sql: typing.LiteralString,
    args: Sequence[object],
    last: int | None,
    *,
    binary: bool,
) -> list[Row]:
    """Run a query and return its rows, `last` at most."""
    try:
        with conn.lock:
            if transformer := _send(conn, sql, args, binary=binary):
                return _loaded(transformer, conn.wait(_execute(conn.pgconn)), last)
        cursor = _Cursor(conn, row_factory=tuple_row).execute(sql, args, binary=binary)
        return cursor.fetchall() if last is None else cursor.fetchmany(last)
    except _REFUSALS as error:
        _raise_refusal(error, conn, [args])
        raise


async def _async_fetch(
    conn: psycopg.AsyncConnection[typing.Any],
    sql: typing.LiteralString,
    args: Sequence[object],
    last: int | None,
    *,
    binary: bool,
) -> list[Row]:
    """Run a query and return its rows, `last` at most."""
    try:
        async with conn.lock:
            if transformer := _send(conn, sql, args, binary=binary):
                return _loaded(transformer, await conn.wait(_execute(conn.pgconn)), last)
        cursor = await _AsyncCursor(conn, row_factory=tuple_row).execute(sql, args, binary=binary)
        return await (cursor.fetchall() if last is None else cursor.fetchmany(last))
    except _REFUSALS as error:
        _raise_refusal(error, conn, [args])
        raise


# What running a statement raises: psycopg's errors, and Python's of a value that cannot be written.
_REFUSALS = (
    psycopg.Error,
    AttributeError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


def _raise_refusal(
    error: Exception, conn: _AnyConnection, rows: Iterable[Sequence[object]]
) -> None:
    """Raise what is made of an error of a statement with these parameters, if anything."""
    if not isinstance(error, psycopg.Error) or error.sqlstate is None:
        for number, arg in ((n, arg) for row in rows for n, arg in enumerate(row, 1)):
            try:
                psycopg.adapt.Transformer(_Context(conn)).dump_sequence([arg], [_AUTO])
            except _REFUSALS as reason:
                msg = f"{reason} (parameter ${number} of the query)"
                _raise_translated(psycopg.DataError(msg))
                return
    if isinstance(error, psycopg.Error):
        _raise_translated(error)


def _raise_translated(error: Exception) -> None:
    """Raise what the option translate_errors makes of an error, if anything.

    It knows psycopg's: one of Python's, of a value, is given to it as a DataError.
    """
    known = error if isinstance(error, psycopg.Error) else psycopg.DataError(str(error))
    if translated := _translate(known):
        raise translated from known


def first(row: Row) -> typing.Any:
    """Make the value of a query with one column."""
    return row[0]


def one(
    conn: psycopg.Connection[typing.Any],
    sql: typing.LiteralString,
    args: Sequence[object],
    make: Maker[T],
    *,
    binary: bool = False,
) -> T | None:
    """Return the first row, or None."""
    rows = _fetch(conn, sql, args, 1, binary=binary)
    return _made(rows, make)[0] if rows else None


def exactly_one(
    conn: psycopg.Connection[typing.Any],
    sql: typing.LiteralString,
    args: Sequence[object],
    make: Maker[T],
    *,
    binary: bool = False,
) -> T:
    """Return the only row; raise RowCountError unless there is one."""
    return _only(sql, _fetch(conn, sql, args, None, binary=binary), make)


def many(
    conn: psycopg.Connection[typing.Any],
    sql: typing.LiteralString,
    args: Sequence[object],
    make: Maker[T],
    *,
    binary: bool = False,
) -> list[T]:
    """Return all rows."""
    return _made(_fetch(conn, sql, args, None, binary=binary), make)


def execute(
    conn: psycopg.Connection[typing.Any], sql: typing.LiteralString, args: Sequence[object]
) -> None:
    """Run a query for its effect."""
    try:
        _Cursor(conn, row_factory=tuple_row).execute(sql, args)
    except _REFUSALS as error:
        _raise_refusal(error, conn, [args])
        raise


def execute_rows(
    conn: psycopg.Connection[typing.Any], sql: typing.LiteralString, args: Sequence[object]
) -> int:
    """Run a query and return the number of rows it affected."""
    cursor = _Cursor(conn, row_factory=tuple_row)
    try:
        if conn.pgconn.pipeline_status:
            with conn.pipeline():  # inside another one: its end waits for the result
                cursor.execute(sql, args)
        else:
            cursor.execute(sql, args)
    except _REFUSALS as error:
        _raise_refusal(error, conn, [args])
        raise
    return cursor.rowcount


def execute_result(
    conn: psycopg.Connection[typing.Any], sql: typing.LiteralString, args: Sequence[object]
) -> psycopg.Cursor[Row]:
    """Run a query and return its cursor."""
    try:
        return _Cursor(conn, row_factory=tuple_row).execute(sql, args)
    except _REFUSALS as error:
        _raise_refusal(error, conn, [args])
        raise


def copy(
    conn: psycopg.Connection[typing.Any],
    sql: typing.LiteralString,
    types: Sequence[str],
    values: Callable[[T], Row],
    rows: Iterable[T],
) -> int:
    """Stream rows into a table and return their number; after an error none is there."""
    cursor = _Cursor(conn, row_factory=tuple_row)
    is_theirs = False  # an error of the caller's rows is none of ours
    try:
        with cursor.copy(sql) as stream:
            if types:
                stream.set_types(types)
            write_row = stream.write_row
            is_theirs = True
            for row in rows:
                is_theirs = False
                write_row(values(row))
                is_theirs = True
            is_theirs = False
    except _REFUSALS as error:
        if not is_theirs:
            _raise_translated(error)
        raise
    return cursor.rowcount


def batch_execute(
    conn: psycopg.Connection[typing.Any],
    sql: typing.LiteralString,
    values: Callable[[P], Row],
    rows: Iterable[P],
) -> None:
    """Run a query once for each row of parameters, in one pipeline."""
    _batch(conn, sql, values, rows, returning=False)


def batch_one(
    conn: psycopg.Connection[typing.Any],
    sql: typing.LiteralString,
    values: Callable[[P], Row],
    rows: Iterable[P],
    make: Maker[T],
) -> list[T | None]:
    """Return the first row, or None, for each row of parameters."""
    cursor = _batch(conn, sql, values, rows, returning=True)
    try:
        found = [result.fetchone() for result in cursor.results()]
    except psycopg.Error as error:
        _raise_translated(error)
        raise
    return [None if row is None else _made([row], make)[0] for row in found]


def batch_many(
    conn: psycopg.Connection[typing.Any],
    sql: typing.LiteralString,
    values: Callable[[P], Row],
    rows: Iterable[P],
    make: Maker[T],
) -> list[list[T]]:
    """Return the rows for each row of parameters."""
    cursor = _batch(conn, sql, values, rows, returning=True)
    try:
        found = [result.fetchall() for result in cursor.results()]
    except psycopg.Error as error:
        _raise_translated(error)
        raise
    return [_made(result, make) for result in found]


def _batch(
    conn: psycopg.Connection[typing.Any],
    sql: typing.LiteralString,
    values: Callable[[P], Row],
    rows: Iterable[P],
    *,
    returning: bool,
) -> _Cursor:
    cursor = _Cursor(conn, row_factory=tuple_row)
    params = [values(row) for row in rows]
    if not params:
        return cursor
    try:
        if conn.autocommit and conn.info.transaction_status == TransactionStatus.IDLE:
            with conn.transaction():
                cursor.executemany(sql, params, returning=returning)
        else:
            cursor.executemany(sql, params, returning=returning)
    except _REFUSALS as error:
        _raise_refusal(error, conn, params)
        raise
    return cursor


async def async_one(
    conn: psycopg.AsyncConnection[typing.Any],
    sql: typing.LiteralString,
    args: Sequence[object],
    make: Maker[T],
    *,
    binary: bool = False,
) -> T | None:
    """Return the first row, or None."""
    rows = await _async_fetch(conn, sql, args, 1, binary=binary)
    return _made(rows, make)[0] if rows else None


async def async_exactly_one(
    conn: psycopg.AsyncConnection[typing.Any],
    sql: typing.LiteralString,
    args: Sequence[object],
    make: Maker[T],
    *,
    binary: bool = False,
) -> T:
    """Return the only row; raise RowCountError unless there is one."""
    return _only(sql, await _async_fetch(conn, sql, args, None, binary=binary), make)


async def async_many(
    conn: psycopg.AsyncConnection[typing.Any],
    sql: typing.LiteralString,
    args: Sequence[object],
    make: Maker[T],
    *,
    binary: bool = False,
) -> list[T]:
    """Return all rows."""
    return _made(await _async_fetch(conn, sql, args, None, binary=binary), make)


async def async_execute(
    conn: psycopg.AsyncConnection[typing.Any], sql: typing.LiteralString, args: Sequence[object]
) -> None:
    """Run a query for its effect."""
    try:
        await _AsyncCursor(conn, row_factory=tuple_row).execute(sql, args)
    except _REFUSALS as error:
        _raise_refusal(error, conn, [args])
        raise


async def async_execute_rows(
    conn: psycopg.AsyncConnection[typing.Any], sql: typing.LiteralString, args: Sequence[object]
) -> int:
    """Run a query and return the number of rows it affected."""
    cursor = _AsyncCursor(conn, row_factory=tuple_row)
    try:
        if conn.pgconn.pipeline_status:
            async with conn.pipeline():  # inside another one: its end waits for the result
                await cursor.execute(sql, args)
        else:
            await cursor.execute(sql, args)
    except _REFUSALS as error:
        _raise_refusal(error, conn, [args])
        raise
    return cursor.rowcount


async def async_execute_result(
    conn: psycopg.AsyncConnection[typing.Any], sql: typing.LiteralString, args: Sequence[object]
) -> psycopg.AsyncCursor[Row]:
    """Run a query and return its cursor."""
    try:
        return await _AsyncCursor(conn, row_factory=tuple_row).execute(sql, args)
    except _REFUSALS as error:
        _raise_refusal(error, conn, [args])
        raise


async def async_copy(
    conn: psycopg.AsyncConnection[typing.Any],
    sql: typing.LiteralString,
    types: Sequence[str],
    values: Callable[[T], Row],
    rows: Iterable[T] | AsyncIterable[T],
) -> int:
    """Stream rows into a table and return their number; after an error none is there."""
    cursor = _AsyncCursor(conn, row_factory=tuple_row)
    is_theirs = False  # an error of the caller's rows is none of ours
    try:
        async with cursor.copy(sql) as stream:
            if types:
                stream.set_types(types)
            is_theirs = True
            if isinstance(rows, AsyncIterable):
                async for row in rows:
                    is_theirs = False
                    await stream.write_row(values(row))
                    is_theirs = True
            else:
                for row in rows:
                    is_theirs = False
                    await stream.write_row(values(row))
                    is_theirs = True
            is_theirs = False
    except _REFUSALS as error:
        if not is_theirs:
            _raise_translated(error)
        raise
    return cursor.rowcount


async def async_batch_execute(
    conn: psycopg.AsyncConnection[typing.Any],
    sql: typing.LiteralString,
    values: Callable[[P], Row],
    rows: Iterable[P],
) -> None:
    """Run a query once for each row of parameters, in one pipeline."""
    await _async_batch(conn, sql, values, rows, returning=False)


async def async_batch_one(
    conn: psycopg.AsyncConnection[typing.Any],
    sql: typing.LiteralString,
    values: Callable[[P], Row],
    rows: Iterable[P],
    make: Maker[T],
) -> list[T | None]:
    """Return the first row, or None, for each row of parameters."""
    cursor = await _async_batch(conn, sql, values, rows, returning=True)
    try:
        found = [await result.fetchone() async for result in cursor.results()]
    except psycopg.Error as error:
        _raise_translated(error)
        raise
    return [None if row is None else _made([row], make)[0] for row in found]


async def async_batch_many(
    conn: psycopg.AsyncConnection[typing.Any],
    sql: typing.LiteralString,
    values: Callable[[P], Row],
    rows: Iterable[P],
    make: Maker[T],
) -> list[list[T]]:
    """Return the rows for each row of parameters."""
    cursor = await _async_batch(conn, sql, values, rows, returning=True)
    try:
        found = [await result.fetchall() async for result in cursor.results()]
    except psycopg.Error as error:
        _raise_translated(error)
        raise
    return [_made(result, make) for result in found]


async def _async_batch(
    conn: psycopg.AsyncConnection[typing.Any],
    sql: typing.LiteralString,
    values: Callable[[P], Row],
    rows: Iterable[P],
    *,
    returning: bool,
) -> _AsyncCursor:
    cursor = _AsyncCursor(conn, row_factory=tuple_row)
    params = [values(row) for row in rows]
    if not params:
        return cursor
    try:
        if conn.autocommit and conn.info.transaction_status == TransactionStatus.IDLE:
            async with conn.transaction():
                await cursor.executemany(sql, params, returning=returning)
        else:
            await cursor.executemany(sql, params, returning=returning)
    except _REFUSALS as error:
        _raise_refusal(error, conn, params)
        raise
    return cursor


def _made(rows: list[Row], make: Maker[T]) -> list[T]:
    if isinstance(make, type):
        return list(starmap(make, rows))
    return list(map(make, rows))


def _only(sql: str, rows: list[Row], make: Maker[T]) -> T:
    if len(rows) != 1:
        name = sql.split(maxsplit=3)[2]
        msg = f"{name}: exactly one row was promised, {len(rows) or 'none'} came"
        raise RowCountError(msg)
    return _made(rows, make)[0]


class _Labels(dict[str | bytes | None, typing.Any]):
    """The members of an enum by label, as text or in binary; None stays None."""

    def __init__(self, cls: type[enum.Enum]) -> None:
        super().__init__({None: None})
        for member in cls:
            self[member.value] = self[member.value.encode()] = member
        self._cls = cls

    def __missing__(self, label: str | bytes | None) -> typing.NoReturn:
        msg = f"{self._cls.__name__} has no label {label!r}: generate the code again"
        raise ValueError(msg)


def labels(cls: type[enum.Enum]) -> dict[typing.Any, typing.Any]:
    """Map what the database sends for an enum to its members."""
    return _Labels(cls)


def array(text: str | None, element: str = "text") -> typing.Any:
    """Split an array of a type that psycopg does not know: an enum, or a domain over `element`."""
    if text is None:
        return None
    oid = _ADAPTERS.types[element].array_oid
    loader = typing.cast("type[psycopg.abc.Loader]", _ADAPTERS.get_loader(oid, Format.TEXT))
    return loader(oid, _ADAPTERS).load(text.encode())


def each(convert: Callable[[typing.Any], typing.Any], value: typing.Any) -> typing.Any:
    """Convert the elements of an array of any depth; NULL stays None."""
    if isinstance(value, list):
        return [each(convert, element) for element in value]
    return None if value is None else convert(value)


def each_json(
    convert: Callable[[typing.Any], typing.Any],
    value: typing.Any,
    dims: int,
) -> typing.Any:
    """Convert the elements of an array of JSON values, which may be lists themselves."""
    if not dims or not isinstance(value, list | tuple):
        return convert(value)
    return [each_json(convert, element, dims - 1) for element in value]


def reader(cls: Callable[[typing.Any], typing.Any]) -> Callable[[typing.Any], typing.Any]:
    """Convert what psycopg loads to a type of the user's; NULL stays None."""
    return lambda value: None if value is None else cls(value)


def json_reader(cls: typing.Any) -> Callable[[typing.Any], typing.Any]:
    """Convert a JSON value to a user's type: a pydantic model, a dataclass, or what JSON has."""
    validate = getattr(cls, "model_validate", None)
    if validate:
        return reader(validate)
    if isinstance(cls, type) and dataclasses.is_dataclass(cls):
        return reader(lambda value: cls(**value))
    return lambda value: value


def json_value(value: object) -> object:
    """Turn a pydantic model or dataclass into what JSON can hold."""
    dump = getattr(value, "model_dump", None)
    if dump:
        return dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value


def to_jsonb(value: object) -> object:
    """Mark a value as jsonb. None is NULL; for a JSON null pass `Jsonb(None)`."""
    return value if value is None or isinstance(value, Jsonb) else Jsonb(json_value(value))


def to_json(value: object) -> object:
    """Mark a value as json. None is NULL; for a JSON null pass `Json(None)`."""
    return value if value is None or isinstance(value, Json) else Json(json_value(value))


def aware(name: str, value: datetime.datetime | None) -> datetime.datetime | None:
    """Refuse a datetime without a time zone: the server would guess one.

    One beyond the years 1 to 9999 in UTC is refused too: it could be written and not be read.
    """
    if value is None:
        return None
    if not isinstance(value, datetime.datetime) or value.tzinfo is None:
        _refuse(f"{name}: a timestamptz takes a datetime with a time zone, not {value!r}")
    try:
        value.astimezone(datetime.UTC)
    except OverflowError:
        _refuse(f"{name}: {value!r} is beyond the years 1 to 9999 in UTC")
    return value


def _refuse(message: str) -> typing.NoReturn:
    error = ValueError(message)
    _raise_translated(error)
    raise error


def each_aware(name: str, value: typing.Any) -> typing.Any:
    """Refuse datetimes without a time zone in an array."""
    return each(lambda element: aware(name, element), value)
