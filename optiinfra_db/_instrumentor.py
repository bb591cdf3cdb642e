"""The instrumentor of `telemetry`, apart from it because this imports OpenTelemetry.

It replaces the functions of the runtime that send a query. Generated functions look them up there
at each call, so it does not matter which modules were imported before, and without it nothing
is in the way.
"""

from collections.abc import Awaitable, Callable, Collection
from functools import cache, wraps
from typing import Any, Self, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from opentelemetry import context, trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, TracerProvider

from optiinfra_db import __version__
from optiinfra_db.generated import _runtime

Connection: TypeAlias = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]
Cursor: TypeAlias = psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]
Function: TypeAlias = Callable[..., Any]
Measure: TypeAlias = Callable[[Any], dict[str, int]]
R = TypeVar("R")

_SCHEMA_URL = "https://opentelemetry.io/schemas/1.33.0"
_RETURNED = "db.response.returned_rows"
_AFFECTED = "optiinfra_db.affected_rows"


class OptiInfraInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Makes each call of a generated function a span, synchronous or not.

    ```python
    OptiInfraInstrumentor().instrument()
    ```

    `instrument` takes a `tracer_provider`, else the global one is used, also where that is set
    later. `uninstrument` undoes it. The command `opentelemetry-instrument` finds this class.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return nothing: what is instrumented is the package that this is part of."""
        return ()

    def _instrument(self, *, tracer_provider: TracerProvider | None = None, **_: object) -> None:
        tracer = trace.get_tracer("optiinfra_db", __version__, tracer_provider, _SCHEMA_URL)
        self._originals: dict[str, Function] = {}
        for name, measure in _MEASURES.items():
            self._replace(name, _traced, tracer, measure)
            self._replace(f"async_{name}", _async_traced, tracer, measure)

    def _replace(self, name: str, wrap: Function, tracer: Tracer, measure: Measure) -> None:
        original = self._originals[name] = getattr(_runtime, name)
        setattr(_runtime, name, wrap(original, tracer, measure))

    def _uninstrument(self, **_: object) -> None:
        for name, original in self._originals.items():
            setattr(_runtime, name, original)


def _traced(function: Callable[..., R], tracer: Tracer, measure: Measure) -> Callable[..., R]:
    @wraps(function)
    def traced(conn: Connection, sql: str, *args: object, **options: object) -> R:
        if not is_instrumentation_enabled():
            return function(conn, sql, *args, **options)
        with _Call(tracer, conn, sql) as call:
            result = function(conn, sql, *args, **options)
            call.returned(measure, result)
            return result

    return traced


def _async_traced(
    function: Callable[..., Awaitable[R]], tracer: Tracer, measure: Measure
) -> Callable[..., Awaitable[R]]:
    @wraps(function)
    async def async_traced(conn: Connection, sql: str, *args: object, **options: object) -> R:
        if not is_instrumentation_enabled():
            return await function(conn, sql, *args, **options)
        with _Call(tracer, conn, sql) as call:
            result = await function(conn, sql, *args, **options)
            call.returned(measure, result)
            return result

    return async_traced


class _Call:
    """The span of a call, the current one meanwhile: what feeds a COPY may open spans of its own.

    A class, because what `contextmanager` makes costs more than a span that is not sampled.
    """

    __slots__ = ("_span", "_token")

    def __init__(self, tracer: Tracer, conn: Connection, sql: str) -> None:
        name = _query_name(sql)
        self._span = tracer.start_span(
            f"optiinfra_db.{name}",
            kind=SpanKind.CLIENT,
            attributes={
                "db.system.name": "postgresql",
                "db.query.summary": name,
                **_server(conn),
            },
        )

    def __enter__(self) -> Self:
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def returned(self, measure: Measure, result: object) -> None:
        if self._span.is_recording():
            self._span.set_attributes(measure(result))

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        context.detach(self._token)
        if error is not None:
            _fail(self._span, error)
        self._span.end()


@cache
def _query_name(sql: str) -> str:
    """Return the name of a query, which its first line has: `-- name: get_agent :one`."""
    return sql.split(maxsplit=3)[2]


def _server(conn: Connection) -> dict[str, str | int]:
    """Return what is known of the server before a call, from the connection's first one on.

    A connection that is closed does not know it any more.
    """
    found = _SERVERS.get(conn)
    if found is None:
        info = conn.info
        try:
            found = _SERVERS[conn] = {
                "db.namespace": info.dbname,
                "server.address": info.host,
                "server.port": info.port,
            }
        except psycopg.Error:
            return {}
    return found


_SERVERS: WeakKeyDictionary[Connection, dict[str, str | int]] = WeakKeyDictionary()


def _fail(span: Span, error: BaseException) -> None:
    """Say what kind of error it was, and not its text, which may hold what the caller wrote."""
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", type(error).__qualname__)
    if sqlstate := getattr(error, "sqlstate", None):
        span.set_attribute("db.response.status_code", sqlstate)


def _cursor_rows(cursor: Cursor) -> dict[str, int]:
    if cursor.rowcount < 0:  # in a pipeline it is not known yet
        return {}
    return {_RETURNED if cursor.description else _AFFECTED: cursor.rowcount}


_MEASURES: dict[str, Measure] = {
    "one": lambda row: {_RETURNED: int(row is not None)},
    "exactly_one": lambda _: {_RETURNED: 1},
    "many": lambda rows: {_RETURNED: len(rows)},
    "execute": lambda _: {},
    "execute_rows": lambda count: {_AFFECTED: count},
    "execute_result": _cursor_rows,
    "copy": lambda count: {_AFFECTED: count},
    "batch_execute": lambda _: {},
    "batch_one": lambda rows: {_RETURNED: sum(row is not None for row in rows)},
    "batch_many": lambda results: {_RETURNED: sum(map(len, results))},
}
"""What tells the number of rows, by the function of the runtime and what it returned."""
