"""One call, from its arguments to its value: the generated functions beside other ways to make it.

Three calls: a run by its key, a page of 50 runs without their payloads, and a transition of a step
(start_workflow_step), which is a durable commit. Each client sends the SQL of the generated module
on one connection that stays open, in autocommit mode, with the statement prepared, and makes the
same dataclass with the same members of enums from what comes back; that the values are equal is
checked. What else is compared:

- "generated, pool" takes a connection of `optiinfra_db.pool` for each call, and gives it back;
- "raw cursor" and "default cursor" are psycopg by hand, with $1 and with %(name)s: `conn.execute`,
  and the enums registered on the connection, as its manual has it;
- "asyncpg" has codecs for the enums, and json.loads for jsonb, as psycopg; its values are binary;
- "sqlalchemy core" is what upstream's sqlc-gen-python emits, `execute(text(...))`, and the members
  of the enums made from their strings;
- "sqlalchemy orm" is a request handler: a session a call, get or select, and for the transition
  get, set, commit. Its SQL is its own, in a transaction of several statements. It does not read the
  row back, nor look at the run; that a step moves only from where it may is up to the triggers;
- "pgbench" is the limit: the statement, prepared, from C, its result thrown away. It connects
  anew in each slice, so its first transactions are not counted; what it looks up its arguments
  with is a transaction of its own, and not counted either.

All calls are made from one thread, one after the other, with client and server on a core each.
"uvloop" is the event loop that the asynchronous clients run on; else it is asyncio's own.
"""

import asyncio
import contextlib
import functools
import itertools
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

import asyncpg
import psycopg
import uvloop
from psycopg import sql
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb
from sqlalchemy import select, text
from sqlalchemy.orm import Session, defer

from bench import data, orm, pgbench
from bench.harness import Bench
from optiinfra_db import connect, connect_async, pool
from optiinfra_db.generated import models, workflow_executions, workflow_steps
from optiinfra_db.generated.aio import workflow_executions as aio_workflow_executions
from optiinfra_db.generated.aio import workflow_steps as aio_workflow_steps
from optiinfra_db.generated.models import StepStatus, WorkflowStatus, WorkflowType
from optiinfra_db.generated.workflow_executions import WorkflowSummary

RUNS = 400
PAGE = 50
WARM = 20
"""Calls before the first round, and before what counts of pgbench: psycopg prepares a statement
when it comes for the sixth time, and the server settles on a plan after five more."""

ENUMS: dict[str, type[StrEnum]] = {
    "step_status": StepStatus,
    "workflow_status": WorkflowStatus,
    "workflow_type": WorkflowType,
}

Key = dict[str, Any]
"""The arguments of a call, in the order of the placeholders."""

Row = Iterable[Any]


@dataclass(frozen=True)
class Call:
    """A call, in the words of each client."""

    name: str
    sql: LiteralString
    arguments: tuple[str, ...]
    generated: Callable[..., object]
    generated_async: Callable[..., Awaitable[object]]
    returns: type
    from_text: Callable[[Row], object]
    """Make one of a row in which enums are strings."""

    is_many: bool
    mapped: Callable[..., object]
    keys: Callable[[int], list[Key]]
    """Make the arguments of so many calls."""

    fields: list[str]
    """Those of its rows that are the same for all clients."""


Client = Callable[[Call, Sequence[Key]], object]
"""Makes a call for each key, and returns what came of the last one."""


@functools.cache
def _named(query: str, arguments: Sequence[str], style: str) -> str:
    """Name the arguments of a query, and leave out the line with its own name."""
    _, _, query = query.partition("\n")
    return re.sub(r"\$(\d+)", lambda found: style.format(arguments[int(found[1]) - 1]), query)


@contextlib.contextmanager
def _generated(url: str) -> Iterator[Client]:
    def calls(call: Call, keys: Sequence[Key]) -> object:
        value: object = None
        for key in keys:
            value = call.generated(conn, **key)
        return value

    with connect(url) as conn:
        yield calls


@contextlib.contextmanager
def _generated_pool(url: str) -> Iterator[Client]:
    def calls(call: Call, keys: Sequence[Key]) -> object:
        value: object = None
        for key in keys:
            with conns.connection() as conn:
                value = call.generated(conn, **key)
        return value

    with pool(url) as conns:
        yield calls


@contextlib.contextmanager
def _generated_async(url: str, loop: Callable[[], Any] | None = None) -> Iterator[Client]:
    async def calls(call: Call, keys: Sequence[Key]) -> object:
        value: object = None
        for key in keys:
            value = await call.generated_async(conn, **key)
        return value

    with asyncio.Runner(loop_factory=loop) as runner:
        conn = runner.run(connect_async(url))
        yield lambda call, keys: runner.run(calls(call, keys))
        runner.run(conn.close())


def _register(
    info: EnumInfo | None, conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]
) -> None:
    """Have psycopg load an enum as its class."""
    if info is None:
        raise LookupError("The database lacks an enum.")
    cls = ENUMS[info.name]
    register_enum(info, conn, cls, mapping={member: member.value for member in cls})


def _value(call: Call, cursor: psycopg.Cursor[Any]) -> object:
    if call.is_many:
        return [call.returns(*row) for row in cursor.fetchall()]
    row = cursor.fetchone()
    return None if row is None else call.returns(*row)


@contextlib.contextmanager
def _raw_cursor(url: str) -> Iterator[Client]:
    def calls(call: Call, keys: Sequence[Key]) -> object:
        value: object = None
        for key in keys:
            cursor = conn.execute(call.sql, tuple(key.values()))
            value = _value(call, cursor)
        return value

    with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.RawCursor) as conn:
        for name in ENUMS:
            _register(EnumInfo.fetch(conn, name), conn)
        yield calls


@contextlib.contextmanager
def _default_cursor(url: str) -> Iterator[Client]:
    def calls(call: Call, keys: Sequence[Key]) -> object:
        query = _named(call.sql, call.arguments, "%({})s").encode()
        value: object = None
        for key in keys:
            cursor = conn.execute(query, key)
            value = _value(call, cursor)
        return value

    with psycopg.connect(url, autocommit=True) as conn:
        for name in ENUMS:
            _register(EnumInfo.fetch(conn, name), conn)
        yield calls


@contextlib.contextmanager
def _raw_cursor_async(url: str) -> Iterator[Client]:
    async def calls(call: Call, keys: Sequence[Key]) -> object:
        value: object = None
        for key in keys:
            cursor = await conn.execute(call.sql, tuple(key.values()))
            if call.is_many:
                value = [call.returns(*row) for row in await cursor.fetchall()]
            else:
                row = await cursor.fetchone()
                value = None if row is None else call.returns(*row)
        return value

    with asyncio.Runner() as runner:
        conn = runner.run(
            psycopg.AsyncConnection.connect(
                url, autocommit=True, cursor_factory=psycopg.AsyncRawCursor
            )
        )
        for name in ENUMS:
            _register(runner.run(EnumInfo.fetch(conn, name)), conn)
        yield lambda call, keys: runner.run(calls(call, keys))
        runner.run(conn.close())


@contextlib.contextmanager
def _asyncpg(url: str, loop: Callable[[], Any] | None = None) -> Iterator[Client]:
    async def calls(call: Call, keys: Sequence[Key]) -> object:
        value: object = None
        for key in keys:
            if call.is_many:
                rows = await conn.fetch(call.sql, *key.values())
                value = [call.returns(*row) for row in rows]
            else:
                row = await conn.fetchrow(call.sql, *key.values())
                value = None if row is None else call.returns(*row)
        return value

    async def set_codecs() -> None:
        await conn.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads
        )
        for name, cls in ENUMS.items():
            members = {member.value: member for member in cls}
            await conn.set_type_codec(
                name, schema="public", encoder=str, decoder=members.__getitem__
            )

    with asyncio.Runner(loop_factory=loop) as runner:
        conn = runner.run(asyncpg.connect(url))
        runner.run(set_codecs())
        yield lambda call, keys: runner.run(calls(call, keys))
        runner.run(conn.close())


@contextlib.contextmanager
def _sqlalchemy_core(url: str) -> Iterator[Client]:
    def calls(call: Call, keys: Sequence[Key]) -> object:
        query = _named(call.sql.replace("::", r"\:\:"), call.arguments, ":{}")
        value: object = None
        for key in keys:
            result = conn.execute(text(query), key)
            if call.is_many:
                value = [call.from_text(row) for row in result]
            else:
                row = result.first()
                value = None if row is None else call.from_text(row)
        return value

    with orm.engine(url, isolation_level="AUTOCOMMIT").connect() as conn:
        yield calls
        conn.engine.dispose()


@contextlib.contextmanager
def _sqlalchemy_orm(url: str) -> Iterator[Client]:
    def calls(call: Call, keys: Sequence[Key]) -> object:
        value: object = None
        for key in keys:
            with Session(engine, expire_on_commit=False) as session:
                value = call.mapped(session, **key)
        return value

    engine = orm.engine(url)
    yield calls
    engine.dispose()


CLIENTS: dict[str, Callable[[str], contextlib.AbstractContextManager[Client]]] = {
    "generated": _generated,
    "generated, pool": _generated_pool,
    "generated async": _generated_async,
    "generated async, uvloop": functools.partial(_generated_async, loop=uvloop.new_event_loop),
    "raw cursor": _raw_cursor,
    "default cursor": _default_cursor,
    "raw cursor async": _raw_cursor_async,
    "asyncpg": _asyncpg,
    "asyncpg, uvloop": functools.partial(_asyncpg, loop=uvloop.new_event_loop),
    "sqlalchemy core": _sqlalchemy_core,
    "sqlalchemy orm": _sqlalchemy_orm,
}


def measure(bench: Bench) -> None:
    """Time the three calls."""
    with bench.database() as url, bench.apart(), contextlib.ExitStack() as stack:
        _keep_utc(url)
        platform = data.platform(url)
        runs = _import_runs(url, platform)
        clients = {name: stack.enter_context(client(url)) for name, client in CLIENTS.items()}
        for call in (_get(platform, runs), _page(platform, runs), _transition(url, platform)):
            _compare(bench, url, clients, call)
        _check_transitions(bench, url)


def _get(platform: data.Platform, runs: Sequence[UUID]) -> Call:
    def mapped(session: Session, *, customer_id: UUID, id: UUID) -> object:
        return session.get(orm.Run, (customer_id, id))

    def keys(count: int) -> list[Key]:
        of_slice = itertools.islice(itertools.cycle(runs), count)
        return [{"customer_id": platform.customer_id, "id": run} for run in of_slice]

    return Call(
        "call: get a run",
        workflow_executions.GET_WORKFLOW_EXECUTION,
        ("customer_id", "id"),
        workflow_executions.get_workflow_execution,
        aio_workflow_executions.get_workflow_execution,
        models.WorkflowExecution,
        _run,
        is_many=False,
        mapped=mapped,
        keys=keys,
        fields=[field.name for field in fields(models.WorkflowExecution)],
    )


def _page(platform: data.Platform, runs: Sequence[UUID]) -> Call:
    def mapped(
        session: Session, *, customer_id: UUID, before_id: UUID, max_rows: int
    ) -> Sequence[object]:
        query = (
            select(orm.Run)
            .where(orm.Run.customer_id == customer_id, orm.Run.id < before_id)
            .order_by(orm.Run.id.desc())
            .limit(max_rows)
            .options(
                defer(orm.Run.input_data),
                defer(orm.Run.output_data),
                defer(orm.Run.error_details),
                defer(orm.Run.metadata_),
            )
        )
        return session.scalars(query).all()

    def keys(count: int) -> list[Key]:
        of_slice = itertools.islice(itertools.cycle(runs[PAGE:]), count)
        customer = {"customer_id": platform.customer_id}
        return [customer | {"before_id": run, "max_rows": PAGE} for run in of_slice]

    return Call(
        f"call: list {PAGE} runs",
        workflow_executions.LIST_WORKFLOW_EXECUTIONS,
        ("customer_id", "before_id", "max_rows"),
        workflow_executions.list_workflow_executions,
        aio_workflow_executions.list_workflow_executions,
        WorkflowSummary,
        _summary,
        is_many=True,
        mapped=mapped,
        keys=keys,
        fields=[field.name for field in fields(WorkflowSummary)],
    )


def _transition(url: str, platform: data.Platform) -> Call:
    def mapped(session: Session, **key: UUID) -> object:
        if step := session.get(orm.Step, tuple(key.values())):
            step.status = StepStatus.RUNNING
            step.started_at = datetime.now(UTC)
            session.commit()
        return step

    return Call(
        "call: transition",
        workflow_steps.START_WORKFLOW_STEP,
        ("customer_id", "workflow_execution_id", "id"),
        workflow_steps.start_workflow_step,
        aio_workflow_steps.start_workflow_step,
        models.WorkflowStep,
        _step,
        is_many=False,
        mapped=mapped,
        keys=functools.partial(_plan_steps, url, platform),
        fields=["customer_id", "step_name", "step_order", "status", "retry_count", "input_data"],
    )


def _run(row: Row) -> models.WorkflowExecution:
    customer, run, agent, kind, status, *rest = row
    return models.WorkflowExecution(
        customer, run, agent, WorkflowType(kind), WorkflowStatus(status), *rest
    )


def _summary(row: Row) -> WorkflowSummary:
    customer, run, agent, kind, status, *rest = row
    return WorkflowSummary(customer, run, agent, WorkflowType(kind), WorkflowStatus(status), *rest)


def _step(row: Row) -> models.WorkflowStep:
    customer, run, step, name, order, status, *rest = row
    return models.WorkflowStep(customer, run, step, name, order, StepStatus(status), *rest)


def _compare(bench: Bench, url: str, clients: dict[str, Client], call: Call) -> None:
    slices = bench.scale.rounds + 1
    keys = {name: iter(call.keys(WARM + slices * bench.scale.calls)) for name in clients}
    limit = _limit(bench, url, call, call.keys(slices * (WARM + bench.scale.calls)))
    with connect(url) as conn:
        conn.execute("VACUUM (ANALYZE)")

    def take(name: str, count: int) -> list[Key]:
        return list(itertools.islice(keys[name], count))

    def case(name: str) -> float:
        of_slice = take(name, bench.scale.calls)
        started = time.perf_counter()
        clients[name](call, of_slice)
        return time.perf_counter() - started

    values = {name: client(call, take(name, WARM)) for name, client in clients.items()}
    for name, value in values.items():
        if _parts(call, value) != _parts(call, values["generated"]):
            raise RuntimeError(f"{call.name}: {name!r} does not make what it should: {value}")
    cases = {name: functools.partial(case, name) for name in clients}
    bench.compare(call.name, cases | {"pgbench": limit}, per=bench.scale.calls)


def _parts(call: Call, value: Any) -> list[dict[str, tuple[str, object]]]:  # noqa: ANN401
    """Take a result to pieces, with the types of the values, since a StrEnum equals a str."""
    rows = value if call.is_many else [value]
    return [
        {
            name: (type(part).__name__, part)
            for name in call.fields
            for part in [getattr(row, f"{name}_" if hasattr(row, f"{name}_") else name)]
        }
        for row in rows
    ]


def _limit(bench: Bench, url: str, call: Call, keys: Sequence[Key]) -> Callable[[], float]:
    """Make a case of pgbench: transactions of the call, and before each one that gets its key."""
    table = call.sql.split(maxsplit=3)[2] + "_keys"
    names = ", ".join(call.arguments)
    with connect(url) as conn:
        columns = ", ".join(f"{name} text" for name in call.arguments)
        conn.execute(f"CREATE TABLE {table} (n integer PRIMARY KEY, {columns})".encode())
        with conn.cursor().copy(f"COPY {table} FROM STDIN".encode()) as copy:
            for n, key in enumerate(keys):
                copy.write_row([n, *map(str, key.values())])
    script = f"""
\\set n :n + 1
\\if :n % 2 = 0
SELECT {names} FROM {table} WHERE n = :n / 2 \\gset
\\else
{_named(call.sql, call.arguments, ":{}")};
\\endif
"""
    transactions = WARM + bench.scale.calls
    first = itertools.count(0, transactions)

    def case() -> float:
        (taken,) = pgbench.seconds(
            bench.server.bin_dir, url, script, transactions=2 * transactions, n=2 * next(first) - 1
        )
        return sum(taken[1::2][WARM:])

    return case


def _keep_utc(url: str) -> None:
    """Make UTC the time zone of all clients, as `connect` has it: psycopg loads it fastest."""
    with connect(url) as conn:
        database = sql.Identifier(conn.info.dbname)
        conn.execute(sql.SQL("ALTER DATABASE {} SET TimeZone = 'UTC'").format(database))


def _import_runs(url: str, platform: data.Platform) -> list[UUID]:
    """Write completed runs, and return their ids, oldest first."""
    with connect(url) as conn:
        rows = conn.execute(
            """
            INSERT INTO workflow_executions (
                customer_id, agent_id, workflow_type, status, started_at, completed_at,
                input_data, output_data
            )
            SELECT %s, %s, %s, 'completed', now(), now(), %s, %s
            FROM generate_series(1, %s)
            RETURNING id
            """,
            [
                *(platform.customer_id, platform.agent_id, data.WORKFLOW_TYPE),
                *(Jsonb(data.INPUT), Jsonb(data.OUTPUT), RUNS),
            ],
        )
        return sorted(run for (run,) in rows)


def _plan_steps(url: str, platform: data.Platform, count: int) -> list[Key]:
    """Write pending steps of running runs, and return what it takes to start them."""
    with connect(url) as conn:
        rows = conn.execute(
            """
            WITH run AS (
                INSERT INTO workflow_executions (
                    customer_id, agent_id, workflow_type, status, started_at, input_data
                )
                SELECT %s, %s, %s, 'running', now(), %s
                FROM generate_series(1, %s)
                RETURNING customer_id, id
            )

            INSERT INTO workflow_steps (
                customer_id, workflow_execution_id, step_name, step_order, input_data
            )
            SELECT run.customer_id, run.id, step.name, step.number, %s
            FROM run
            CROSS JOIN unnest(%s::text[]) WITH ORDINALITY AS step (name, number)
            RETURNING customer_id, workflow_execution_id, id
            """,
            [
                *(platform.customer_id, platform.agent_id, data.WORKFLOW_TYPE, Jsonb(data.INPUT)),
                *(-(-count // len(data.STEPS)), Jsonb(data.INPUT), list(data.STEPS)),
            ],
        )
        names = ("customer_id", "workflow_execution_id", "id")
        keys: list[Key] = [dict(zip(names, row, strict=True)) for row in rows]
        return keys[:count]


def _check_transitions(bench: Bench, url: str) -> None:
    """Raise unless each step that was to be started was, by pgbench too."""
    clients, slices, calls = len(CLIENTS), bench.scale.rounds + 1, bench.scale.calls
    expected = clients * (WARM + slices * calls) + slices * (WARM + calls)
    with connect(url) as conn:
        query = "SELECT count(*) FROM workflow_steps WHERE status = 'running'"
        found = conn.execute(query).fetchone()
    if found != (expected,):
        raise RuntimeError(f"{expected} steps were to be started, {found} were.")
