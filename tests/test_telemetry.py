import asyncio
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import SpanKind, StatusCode

from optiinfra_db import __version__, connect, connect_async, generated
from optiinfra_db.errors import AlreadyExists, ConnectionLost, InvalidValue
from optiinfra_db.feed import START, Feed
from optiinfra_db.generated import _runtime, aio, customers
from optiinfra_db.generated.agent_metrics import CopyAgentMetricsParams
from optiinfra_db.generated.models import AgentType
from optiinfra_db.telemetry import OptiInfraInstrumentor, current_trace_id

RETURNED = "db.response.returned_rows"
AFFECTED = "optiinfra_db.affected_rows"
EMAIL = "telemetry@atlas.example"


class Spans(InMemorySpanExporter):
    """What was traced, and a tracer to go with it."""

    def __init__(self, sampler):
        super().__init__()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self))
        self.tracer = self.provider.get_tracer("tests")

    @property
    def all(self):
        return self.get_finished_spans()

    @property
    def last(self):
        return self.all[-1]


@contextmanager
def instrumented(sampler=ALWAYS_ON):
    spans = Spans(sampler)
    OptiInfraInstrumentor().instrument(tracer_provider=spans.provider)
    try:
        yield spans
    finally:
        OptiInfraInstrumentor().uninstrument()


@pytest.fixture
def spans():
    with instrumented() as spans:
        yield spans


@pytest.fixture(params=["sync", "async"])
async def call(request, conn, aconn):
    """Call a function of a generated module, or of the runtime, or its asynchronous twin."""

    async def call(path, /, *args, **kwargs):
        noun, _, function = path.rpartition(".")
        if request.param == "sync":
            module = importlib.import_module(f"{generated.__name__}.{noun}")
            return getattr(module, function)(conn, *args, **kwargs)
        if noun == "_runtime":
            return await getattr(_runtime, f"async_{function}")(aconn, *args, **kwargs)
        module = importlib.import_module(f"{aio.__name__}.{noun}")
        return await getattr(module, function)(aconn, *args, **kwargs)

    return call


async def make_customer(call, **given):
    values = {"name": "Atlas", "email": EMAIL, "api_key_hash": bytes(32)}
    return await call("customers.create_customer", **values | given)


async def metrics(call, number):
    agent = await call("agents.upsert_agent", type=AgentType.COST, name="cost-1", version="1.0")
    return [
        CopyAgentMetricsParams(
            agent_id=agent.id,
            metric_name="latency_ms",
            recorded_at=datetime.now(UTC),
            metric_value=1.0,
            metric_type="gauge",
            tags={},
        )
        for _ in range(number)
    ]


def generated_functions(package):
    """Yield the functions that the generator wrote."""
    for found in pkgutil.iter_modules(package.__path__):
        if found.ispkg or found.name in {"_runtime", "constraints", "models"}:
            continue
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        for name in module.__all__:
            if inspect.isfunction(value := getattr(module, name)):
                yield value


def senders():
    """Return the functions of the runtime that send a query, by name."""
    return {
        name: function
        for name, function in inspect.getmembers(_runtime, inspect.isfunction)
        if not name.startswith("_") and "sql" in inspect.signature(function).parameters
    }


# What a span is


async def test_a_call_is_a_client_span_named_after_its_query(spans, call, conn):
    await call("customers.get_customer", id=uuid4())

    (span,) = spans.all
    assert span.name == "optiinfra_db.get_customer"
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes == {
        "db.system.name": "postgresql",
        "db.namespace": conn.info.dbname,
        "db.query.summary": "get_customer",
        "server.address": conn.info.host,
        "server.port": conn.info.port,
        RETURNED: 0,
    }
    scope = span.instrumentation_scope
    assert (scope.name, scope.version) == ("optiinfra_db", __version__)


async def test_rows_that_come_back_are_counted(spans, call):
    made = await make_customer(call)
    assert spans.last.attributes[RETURNED] == 1
    await call("customers.get_customer", id=made.id)
    assert spans.last.attributes[RETURNED] == 1
    await make_customer(call, email="second@atlas.example", api_key_hash=bytes(31) + b"2")
    await call("customers.list_customers", max_rows=10)
    assert spans.last.attributes[RETURNED] == 2
    assert AFFECTED not in spans.last.attributes


async def test_rows_that_are_deleted_or_copied_are_counted(spans, call):
    made = await make_customer(call)
    for count in (1, 0):
        await call("customers.delete_customer", id=made.id)
        assert spans.last.attributes[AFFECTED] == count
        assert RETURNED not in spans.last.attributes
    await call("agent_metrics.copy_agent_metrics", await metrics(call, 3))
    assert spans.last.name == "optiinfra_db.copy_agent_metrics"
    assert spans.last.attributes[AFFECTED] == 3


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (("execute", "SELECT 1", ()), {}),
        (("execute_result", "SELECT generate_series(1, 3)", ()), {RETURNED: 3}),
        (("execute_result", "UPDATE customers SET name = 'b' WHERE false", ()), {AFFECTED: 0}),
        (("batch_execute", "SELECT $1::int", tuple, [[1], [2]]), {}),
        (
            ("batch_one", "SELECT 1 WHERE $1::int > 1", tuple, [[1], [2], [3]], _runtime.first),
            {RETURNED: 2},
        ),
        (
            ("batch_many", "SELECT generate_series(1, $1::int)", tuple, [[2], [3]], _runtime.first),
            {RETURNED: 5},
        ),
    ],
)
async def test_commands_that_no_query_of_the_package_has_are_traced_too(
    spans, call, sent, expected
):
    function, sql, *args = sent

    await call(f"_runtime.{function}", f"-- name: other_query :x\n{sql}", *args)

    (span,) = spans.all
    assert span.name == "optiinfra_db.other_query"
    counts = {key: span.attributes[key] for key in (RETURNED, AFFECTED) if key in span.attributes}
    assert counts == expected


def test_what_a_pipeline_does_not_know_yet_is_left_out(spans, conn):
    with conn.pipeline():
        _runtime.execute_result(conn, "-- name: later :execresult\nSELECT 1", ())

    assert not {RETURNED, AFFECTED} & set(spans.last.attributes)


@pytest.mark.parametrize("package", [generated, aio])
async def test_each_generated_function_is_traced_under_its_own_name(package, conn, monkeypatch):
    results = {"one": None, "exactly_one": 0, "many": [], "copy": 0}
    results |= {"execute": None, "execute_rows": 0}
    for name, result in results.items():

        async def later(*_, result=result, **__):
            return result

        monkeypatch.setattr(_runtime, name, lambda *_, result=result, **__: result)
        monkeypatch.setattr(_runtime, f"async_{name}", later)
    functions = list(generated_functions(package))

    with instrumented() as spans:
        for function in functions:
            _, *parameters = inspect.signature(function).parameters
            result = function(conn, **dict.fromkeys(parameters))
            if inspect.isawaitable(result):
                await result

    assert len(functions) > 100
    assert [span.name for span in spans.all] == [
        f"optiinfra_db.{function.__name__}" for function in functions
    ]


def test_the_feed_is_traced(spans, database_url):
    with Feed(database_url, after=START) as feed:
        list(feed)

    assert "optiinfra_db.get_feed_end" in {span.name for span in spans.all}


# Its place among other spans


async def test_a_call_is_a_child_of_the_current_span(spans, call):
    with spans.tracer.start_as_current_span("outer") as outer:
        await call("customers.get_customer", id=uuid4())
        assert trace.get_current_span() is outer

    inner, _ = spans.all
    assert inner.parent == outer.get_span_context()


async def test_calls_at_the_same_time_are_siblings(spans, shared_database_url, aconn):
    async with await connect_async(shared_database_url) as other:
        with spans.tracer.start_as_current_span("outer") as outer:
            await asyncio.gather(
                *(aio.customers.get_customer(each, id=uuid4()) for each in (aconn, other))
            )
    *calls, _ = spans.all
    assert [span.parent for span in calls] == [outer.get_span_context()] * 2


async def test_what_feeds_a_copy_is_traced_under_it(spans, call):
    rows = await metrics(call, 1)

    def read():
        with spans.tracer.start_as_current_span("read"):
            yield from rows

    await call("agent_metrics.copy_agent_metrics", read())

    *_, read_span, copy_span = spans.all
    assert (read_span.name, copy_span.name) == ("read", "optiinfra_db.copy_agent_metrics")
    assert read_span.parent == copy_span.context


async def test_a_trace_that_is_not_sampled_changes_nothing(call):
    with instrumented(ALWAYS_OFF) as spans:
        made = await make_customer(call)
        assert await call("customers.get_customer", id=made.id) == made
        assert await call("customers.delete_customer", id=made.id) == 1
        with pytest.raises(InvalidValue):
            await call("_runtime.execute", "-- name: wrong :exec\nSELECT 1 / 0", ())
    assert not spans.all


# Errors


async def test_an_error_is_recorded_by_class_and_sqlstate_and_not_by_its_text(spans, call):
    await make_customer(call)
    with pytest.raises(AlreadyExists, match=EMAIL):
        await make_customer(call, api_key_hash=bytes(31) + b"2")

    span = spans.last
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert span.attributes["error.type"] == "AlreadyExists"
    assert span.attributes["db.response.status_code"] == "23505"
    assert RETURNED not in span.attributes
    assert not span.events
    assert not any(EMAIL in span.to_json() for span in spans.all)


async def test_an_error_that_stays_psycopgs_is_recorded_by_its_own_class(spans, call):
    sql = "-- name: slow :exec\nSELECT set_config('statement_timeout', '1', true)"
    await call("_runtime.execute", sql, ())
    with pytest.raises(psycopg.errors.QueryCanceled):
        await call("_runtime.execute", "-- name: slow :exec\nSELECT pg_sleep(9)", ())

    assert spans.last.attributes["error.type"] == "QueryCanceled"
    assert spans.last.attributes["db.response.status_code"] == "57014"


async def test_an_error_without_a_sqlstate_has_none(spans, call):
    with pytest.raises(_runtime.RowCountError):
        await call(
            "_runtime.exactly_one", "-- name: none :one\nSELECT WHERE false", (), _runtime.first
        )

    assert spans.last.attributes["error.type"] == "RowCountError"
    assert "db.response.status_code" not in spans.last.attributes


def test_a_call_on_a_closed_connection_still_says_of_which_server(spans, shared_database_url):
    with connect(shared_database_url) as used, connect(shared_database_url) as unused:
        customers.get_customer(used, id=uuid4())
    for conn in (used, unused):
        with pytest.raises(ConnectionLost):
            customers.get_customer(conn, id=uuid4())

    answered, known, unknown = spans.all
    assert known.attributes["error.type"] == "ConnectionLost"
    assert known.attributes["server.address"] == answered.attributes["server.address"]
    assert "server.address" not in unknown.attributes


async def test_a_cancelled_call_is_an_error(spans, aconn):
    sql = "-- name: slow :exec\nSELECT pg_sleep(60)"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(_runtime.async_execute(aconn, sql, ()), 0.1)

    assert spans.last.status.status_code is StatusCode.ERROR
    assert spans.last.attributes["error.type"] == "CancelledError"


# On and off


def test_uninstrumenting_puts_back_the_very_same_functions():
    before = senders()
    with instrumented():
        assert not {name for name, function in senders().items() if function is before[name]}
    assert senders() == before


def test_nothing_is_traced_any_more_after_uninstrumenting(conn):
    with instrumented() as spans:
        customers.get_customer(conn, id=uuid4())
    customers.get_customer(conn, id=uuid4())

    assert len(spans.all) == 1


async def test_nothing_is_traced_where_instrumentation_is_suppressed(spans, call):
    with suppress_instrumentation():
        made = await make_customer(call)

    assert made.email == EMAIL
    assert not spans.all


def test_the_command_opentelemetry_instrument_finds_it(shared_database_url):
    program = f"""
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from optiinfra_db import connect
from optiinfra_db.generated import customers

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)  # later than what opentelemetry-instrument did
with connect({shared_database_url!r}) as conn:
    customers.list_customers(conn, max_rows=1)
"""
    command = Path(sys.executable).with_name("opentelemetry-instrument")

    result = run([command, sys.executable, "-c", program])

    assert '"name": "optiinfra_db.list_customers"' in result.stdout, result.stderr


# The trace id, and doing without


def test_the_current_trace_has_an_id(spans):
    with spans.tracer.start_as_current_span("outer") as outer:
        assert current_trace_id() == f"{outer.get_span_context().trace_id:032x}"
    assert current_trace_id() is None


def test_a_trace_that_is_not_sampled_has_an_id():
    tracer = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("tests")
    with tracer.start_as_current_span("outer") as outer:
        assert current_trace_id() == f"{outer.get_span_context().trace_id:032x}"


def test_asking_for_the_trace_id_does_not_import_opentelemetry():
    run_python("""
import sys
from optiinfra_db.telemetry import current_trace_id

assert current_trace_id() is None
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
""")


def test_without_the_extra_the_instrumentor_says_what_to_install():
    blocked = """
import sys

class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from optiinfra_db.telemetry import current_trace_id

assert current_trace_id() is None
try:
    from optiinfra_db.telemetry import OptiInfraInstrumentor
except ModuleNotFoundError as error:
    print(error)
"""
    assert run_python(blocked).stdout == (
        "No module named 'opentelemetry', which OptiInfraInstrumentor needs: "
        "pip install 'optiinfra-db[otel]'\n"
    )


def test_a_name_that_the_module_does_not_have_is_an_attribute_error():
    with pytest.raises(ImportError, match="cannot import name 'Instrumentor'"):
        from optiinfra_db.telemetry import Instrumentor  # noqa: F401


def run_python(program):
    return run([sys.executable, "-c", program])


def run(command):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
