"""One run as a page shows it: with its agent, its customer, 5 steps and 3 artifacts.

"generated" is get_workflow_detail: one statement, on an autocommit connection. "generated async" is
its twin in an asyncio.Runner, one call after the other. "orm lazy" gets the run with SQLAlchemy's
ORM and follows its relationships, a SELECT each; "orm eager" says in the query what it will need:
agent and customer joined, steps and artifacts with a SELECT each. Both open a session a call, as a
web request does, from a pool that keeps the connection.

All read the same database, and of each object every column; that they read the same is checked
first. Each call is for a run at random out of a few hundred, which fit in memory. This process and
the server are kept on a core each.
"""

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import Callable
from operator import attrgetter
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload, selectinload

from bench import imports, orm
from bench.harness import Bench
from optiinfra_db import connect_async
from optiinfra_db.generated import models, workflow_executions
from optiinfra_db.generated.aio import workflow_executions as workflow_executions_async

RUNS = 300

COLUMNS: dict[type, Callable[[object], tuple[object, ...]]] = {}
for cls in (
    models.Agent,
    models.Customer,
    models.WorkflowArtifact,
    models.WorkflowExecution,
    models.WorkflowStep,
):
    COLUMNS[cls] = attrgetter(*(field.name for field in dataclasses.fields(cls)))
for mapper in orm.Base.registry.mappers:
    COLUMNS[mapper.class_] = attrgetter(*(column.key for column in mapper.column_attrs))

Values = list[tuple[object, ...]]


def read(*objects: object) -> Values:
    """Read every column."""
    return [COLUMNS[type(item)](item) for item in objects]


def read_generated(detail: workflow_executions.GetWorkflowDetailRow | None) -> Values:
    """Read what get_workflow_detail returns."""
    assert detail
    run, agent, customer = detail.workflow_execution, detail.agent, detail.customer
    return read(run, agent, customer, *detail.steps, *detail.artifacts)


def read_mapped(run: orm.Run | None) -> Values:
    """Read a run of the ORM, and what it leads to."""
    assert run
    return read(run, run.agent, run.customer, *run.steps, *run.artifacts)


EAGER = select(orm.Run).options(
    joinedload(orm.Run.agent),
    joinedload(orm.Run.customer),
    selectinload(orm.Run.steps),
    selectinload(orm.Run.artifacts),
)


def measure(bench: Bench) -> None:
    """Time calls for the detail of a run."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(bench.apart())
        target = stack.enter_context(imports.targeting(bench))
        customer_id = target.platform.customer_id
        runs = [imports.finished() for _ in range(RUNS)]
        imports.record(target, runs)
        target.conn.execute("ANALYZE")
        runner = stack.enter_context(asyncio.Runner())
        conn_async = runner.run(connect_async(target.url))
        stack.callback(lambda: runner.run(conn_async.close()))

        def generated(run_id: UUID) -> Values:
            return read_generated(
                workflow_executions.get_workflow_detail(
                    target.conn, customer_id=customer_id, id=run_id
                )
            )

        async def generated_async(run_id: UUID) -> Values:
            return read_generated(
                await workflow_executions_async.get_workflow_detail(
                    conn_async, customer_id=customer_id, id=run_id
                )
            )

        def lazy(run_id: UUID) -> Values:
            with Session(target.engine) as session:
                return read_mapped(session.get(orm.Run, (customer_id, run_id)))

        def eager(run_id: UUID) -> Values:
            with Session(target.engine) as session:
                return read_mapped(
                    session.scalar(
                        EAGER.where(orm.Run.customer_id == customer_id, orm.Run.id == run_id)
                    )
                )

        def some() -> list[UUID]:
            return [run.id for run in random.choices(runs, k=bench.scale.calls)]

        def calls(call: Callable[[UUID], Values]) -> Callable[[], None]:
            def each() -> None:
                for run_id in some():
                    call(run_id)

            return each

        async def calls_async() -> None:
            for run_id in some():
                await generated_async(run_id)

        values = generated(runs[0].id)
        if not values == runner.run(generated_async(runs[0].id)) == lazy(runs[0].id):
            raise RuntimeError("not all cases read the same")
        bench.compare(
            "detail",
            {
                "generated": calls(generated),
                "generated async": lambda: runner.run(calls_async()),
                "orm lazy": calls(lazy),
                "orm eager": calls(eager),
            },
            per=bench.scale.calls,
        )
