"""A workflow of 5 steps and 3 artifacts, recorded while it runs: durable at each transition.

"generated" is this package's functions on an autocommit connection: seven statements, each of which
is a commit, since a step ends in the one in which the next starts. "recorder" is what most people
write instead, `optiinfra_db.workflows`, which also stores the content of the artifacts (in memory),
notes each of them when it is there, and has a thread for heartbeats. "pgbench" is the limit: the
same seven prepared statements from C. "orm" is SQLAlchemy's ORM on the same tables, with the same
triggers: a session a run, in which each transition is set on the object and committed. In "orm,
objects kept" a commit does not expire objects, which spares it a SELECT before most transitions;
"orm, 7 commits" also commits no more often than we do. "dbos" is a DBOS workflow, whose steps do
nothing but return what is recorded of them, artifacts included.

All record the same names and payloads, do no work in between, and wait for the disk at each
commit. Each has a database of its own on one server, ours and the ORM's with some history to begin
with. They run in threads of one process, each thread with a connection, or for DBOS with one of its
pool. That the work was done is looked up in the databases in the end.

What they promise differs. DBOS commits when a step has ended, not when it starts, and has neither
rows of artifacts nor an audit log; before each step it looks whether the workflow was cancelled or
the step done before. Only the generated functions look where a row is before they move it; what is
illegal the triggers refuse to the ORM too.
"""

import contextlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from dbos import DBOS, DBOSConfig
from sqlalchemy.orm import Session

from bench import data, imports, orm, pgbench
from bench.harness import Bench
from optiinfra_db import connect
from optiinfra_db.generated import workflow_executions, workflow_steps
from optiinfra_db.generated.models import StepStatus, WorkflowStatus
from optiinfra_db.workflows import record_workflow

CONNECTIONS = (1, 8)
WARM = 10  # runs of pgbench before what counts: it prepares the statements anew in each slice

# A run is created, started and completed; a step is started and completed.
A_RUN = (1, len(data.STEPS), len(data.ARTIFACTS), 3 + 2 * len(data.STEPS))

COUNT_OF_DBOS = """
SELECT
    (SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'),
    (SELECT count(*) FROM dbos.operation_outputs WHERE error IS NULL)
"""


def record(conn: psycopg.Connection[Any], platform: data.Platform) -> None:
    """Record a run with the generated functions."""
    run = workflow_executions.create_workflow_execution(
        conn,
        customer_id=platform.customer_id,
        agent_id=platform.agent_id,
        workflow_type=data.WORKFLOW_TYPE,
        step_names=list(data.STEPS),
        input_data=data.INPUT,
    )
    key = {"customer_id": run.customer_id, "id": run.id}
    step = workflow_executions.begin_workflow_execution(conn, **key)
    for place in range(len(data.STEPS) - 1):
        assert step
        _, step = workflow_steps.advance_workflow_step(
            conn,
            customer_id=run.customer_id,
            workflow_execution_id=run.id,
            id=step.id,
            retry_count=step.retry_count,
            output_data=data.STEP_OUTPUT,
            artifacts=left_by(place, run.id),
        )
    assert step
    workflow_executions.finish_workflow_execution(
        conn,
        **key,
        workflow_step_id=step.id,
        retry_count=step.retry_count,
        step_output_data=data.STEP_OUTPUT,
        artifacts=left_by(len(data.STEPS) - 1, run.id),
        output_data=data.OUTPUT,
    )


def record_with_recorder(conn: psycopg.Connection[Any], platform: data.Platform) -> None:
    """Record a run with the recorder."""
    with record_workflow(
        conn,
        customer_id=platform.customer_id,
        agent_id=platform.agent_id,
        workflow_type=data.WORKFLOW_TYPE,
        steps=data.STEPS,
        input_data=data.INPUT,
        store="memory://artifacts",
    ) as run:
        for place, name in enumerate(data.STEPS):
            with run.step(name) as step:
                for artifact in data.ARTIFACTS:
                    if artifact.step == place:
                        content = artifact.suffix.encode()
                        run.artifact(artifact.type, artifact.name, data=content, step=step)
                step.output_data = data.STEP_OUTPUT
        run.output_data = data.OUTPUT


def left_by(place: int, run_id: UUID | str) -> list[dict[str, Any]]:
    """Return what a step leaves, as `artifacts` takes it."""
    return [
        {
            "artifact_type": artifact.type,
            "artifact_name": artifact.name,
            "artifact_path": f"s3://artifacts/{run_id}/{artifact.suffix}",
            "artifact_size_bytes": artifact.size_bytes,
            "content_type": artifact.content_type,
            "sha256": artifact.sha256.hex(),
        }
        for artifact in data.ARTIFACTS
        if artifact.step == place
    ]


def record_mapped(session: Session, platform: data.Platform, *, is_sparing: bool = False) -> None:
    """Record a run with the ORM; a sparing one commits where `record` does, and no more often."""
    within = session.flush if is_sparing else session.commit
    run = orm.Run(
        customer_id=platform.customer_id,
        agent_id=platform.agent_id,
        workflow_type=data.WORKFLOW_TYPE,
        input_data=data.INPUT,
        steps=[
            orm.Step(step_name=name, step_order=order) for order, name in enumerate(data.STEPS, 1)
        ],
    )
    session.add(run)
    session.commit()
    run.status = WorkflowStatus.RUNNING
    run.started_at = datetime.now(UTC)
    within()
    for place, step in enumerate(run.steps):
        step.status = StepStatus.RUNNING
        step.started_at = datetime.now(UTC)
        session.commit()
        for artifact in data.ARTIFACTS:
            if artifact.step == place:
                session.add(
                    orm.Artifact(
                        run=run,
                        step=step,
                        artifact_type=artifact.type,
                        artifact_name=artifact.name,
                        artifact_path=f"s3://artifacts/{run.id}/{artifact.suffix}",
                        artifact_size_bytes=artifact.size_bytes,
                        content_type=artifact.content_type,
                        sha256=artifact.sha256,
                    )
                )
                within()
        step.status = StepStatus.COMPLETED
        step.completed_at = datetime.now(UTC)
        step.output_data = data.STEP_OUTPUT
        within()
    run.status = WorkflowStatus.COMPLETED
    run.completed_at = datetime.now(UTC)
    run.output_data = data.OUTPUT
    session.commit()


@DBOS.workflow()
def analyze_cost(work: dict[str, Any]) -> dict[str, Any]:
    """Do what the other two record, as a workflow of DBOS."""
    for step in (collect_metrics, analyze_usage, model_savings, recommend, write_report):
        step()
    return data.OUTPUT


@DBOS.step()
def collect_metrics() -> dict[str, Any]:
    """Leave an artifact."""
    return _outcome(0)


@DBOS.step()
def analyze_usage() -> dict[str, Any]:
    """Leave none."""
    return _outcome(1)


@DBOS.step()
def model_savings() -> dict[str, Any]:
    """Leave none."""
    return _outcome(2)


@DBOS.step()
def recommend() -> dict[str, Any]:
    """Leave an artifact."""
    return _outcome(3)


@DBOS.step()
def write_report() -> dict[str, Any]:
    """Leave an artifact."""
    return _outcome(4)


def _outcome(place: int) -> dict[str, Any]:
    artifacts = [
        {
            "type": artifact.type.value,
            "name": artifact.name,
            "path": f"s3://artifacts/{DBOS.workflow_id}/{artifact.suffix}",
            "size_bytes": artifact.size_bytes,
            "content_type": artifact.content_type,
            "sha256": artifact.sha256.hex(),
        }
        for artifact in data.ARTIFACTS
        if artifact.step == place
    ]
    return data.STEP_OUTPUT | {"artifacts": artifacts}


@contextlib.contextmanager
def launched(url: str) -> Iterator[None]:
    """Run DBOS in this process, with its tables in an empty database."""
    config: DBOSConfig = {
        "name": "optiinfra-bench",
        "system_database_url": url,
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    try:
        yield
    finally:
        DBOS.destroy()


def script(platform: data.Platform) -> str:
    """Return what pgbench sends to record a run: the statements of `record`."""
    of_run = {"customer_id": _literal(platform.customer_id), "workflow_execution_id": ":run_id"}
    step = {"id": ":step_id", "retry_count": "0"}
    output = _literal(data.STEP_OUTPUT)
    lines = [
        _statement(
            workflow_executions.create_workflow_execution,
            customer_id=_literal(platform.customer_id),
            agent_id=_literal(platform.agent_id),
            workflow_type=_literal(data.WORKFLOW_TYPE),
            step_names=f"ARRAY[{', '.join(map(_literal, data.STEPS))}]",
            input_data=_literal(data.INPUT),
        )
        + " \\gset run_",
        _statement(
            workflow_executions.begin_workflow_execution,
            customer_id=of_run["customer_id"],
            id=":run_id",
        )
        + " \\gset step_",
    ]
    lines += [
        _statement(
            workflow_steps.advance_workflow_step,
            **of_run,
            **step,
            output_data=output,
            artifacts=_left_by(place),
        )
        + " \\aset step_"
        for place in range(len(data.STEPS) - 1)
    ]
    lines.append(
        _statement(
            workflow_executions.finish_workflow_execution,
            customer_id=of_run["customer_id"],
            id=":run_id",
            workflow_step_id=":step_id",
            retry_count="0",
            step_output_data=output,
            artifacts=_left_by(len(data.STEPS) - 1),
            output_data=_literal(data.OUTPUT),
        )
        + ";"
    )
    return "\n".join(lines)


def _statement(function: Callable[..., object], **values: str) -> str:
    """Return the SQL of a generated function with these expressions for its parameters."""
    module = sys.modules[function.__module__]
    sql = re.sub(r"--.*", "", getattr(module, function.__name__.upper()))
    names = list(inspect.signature(function).parameters)[1:]
    return re.sub(
        r"\$(\d+)", lambda found: values.get(names[int(found[1]) - 1], "NULL"), sql
    ).strip()


def _literal(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str).strip('"')
    return "'" + text.replace("'", "''") + "'"


def _left_by(place: int) -> str:
    return f"replace({_literal(left_by(place, 'RUN'))}, 'RUN', :run_id::text)"


def measure(bench: Bench) -> None:
    """Time runs on one connection, and on several at once."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(bench.database())
        url_of_orm = stack.enter_context(bench.database())
        url_of_limit = stack.enter_context(bench.database())
        url_of_dbos = stack.enter_context(bench.database(migrated=False))
        platform, platform_of_orm, platform_of_limit = map(
            imports.fill, (url, url_of_orm, url_of_limit)
        )
        conns = [stack.enter_context(connect(url)) for _ in range(max(CONNECTIONS))]
        engine = orm.engine(url_of_orm, pool_size=max(CONNECTIONS))
        stack.callback(engine.dispose)
        stack.enter_context(launched(url_of_dbos))
        threads = stack.enter_context(ThreadPoolExecutor(max(CONNECTIONS)))

        def generated(number: int) -> None:
            for _ in range(bench.scale.runs):
                record(conns[number], platform)

        def recorded(number: int) -> None:
            for _ in range(bench.scale.runs):
                record_with_recorder(conns[number], platform)

        def mapped(_: int, *, is_kept: bool = False, is_sparing: bool = False) -> None:
            for _ in range(bench.scale.runs):
                with Session(engine, expire_on_commit=not is_kept) as session:
                    record_mapped(session, platform_of_orm, is_sparing=is_sparing)

        def dbos(_: int) -> None:
            for _ in range(bench.scale.runs):
                analyze_cost(data.INPUT)

        def at_once(number: int, work: Callable[[int], None]) -> Callable[[], object]:
            return lambda: list(threads.map(work, range(number)))

        def limit(number: int) -> Callable[[], float]:
            def case() -> float:
                taken = pgbench.seconds(
                    bench.server.bin_dir,
                    url_of_limit,
                    script(platform_of_limit),
                    clients=number,
                    transactions=WARM + bench.scale.runs,
                )
                return sum(sum(of_client[WARM:]) for of_client in taken) / number

            return case

        for number in CONNECTIONS:
            bench.compare(
                f"run, {number} connection{'s' if number > 1 else ''}",
                {
                    "generated": at_once(number, generated),
                    "recorder": at_once(number, recorded),
                    "pgbench": limit(number),
                    "orm": at_once(number, mapped),
                    "orm, objects kept": at_once(number, partial(mapped, is_kept=True)),
                    "orm, 7 commits": at_once(
                        number, partial(mapped, is_kept=True, is_sparing=True)
                    ),
                    "dbos": at_once(number, dbos),
                },
                per=number * bench.scale.runs,
            )

        runs = (bench.scale.rounds + 1) * bench.scale.runs * sum(CONNECTIONS)
        imports.check(url, 2 * runs, A_RUN)
        imports.check(url_of_orm, 3 * runs, A_RUN)
        warm = (bench.scale.rounds + 1) * WARM * sum(CONNECTIONS)
        imports.check(url_of_limit, runs + warm, A_RUN)
        with psycopg.connect(url_of_dbos) as conn:
            found = conn.execute(COUNT_OF_DBOS).fetchone()
        if found != (runs, runs * len(data.STEPS)):
            raise RuntimeError(f"DBOS: {runs} runs and their steps were to be done, not {found}")
