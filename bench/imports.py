r"""Runs that are over, with 5 steps and 3 artifacts each, imported from elsewhere.

"record" is record_workflow_execution on an autocommit connection: a statement, and so a commit, a
run. "batch" is record_workflow_executions, a hundred a statement. "orm" adds a run with what
belongs to it to a session of SQLAlchemy's ORM and commits, "orm bulk" adds a hundred. "copy" is
what there is to reach: COPY into the three tables, in one transaction; "psql \copy" is the same
from files, by a psql that has to start.

Each case has a database of its own, so that its tables grow by its own rows only, with some history
to begin with, and imports the same runs in the same rounds, new ones in each. All write the same
columns with the same values, but for the ids of steps and artifacts, which "record" and "batch"
leave to the server. All start from the same Python objects: what turns those into parameters is
timed, except for psql, whose files are there before. All pass the same triggers, which for a run
that is over look up whether the transaction that brings its steps brought the run. How many rows
there are is checked in the end.
"""

import contextlib
import csv
import json
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from bench import data, orm
from bench.harness import Bench
from optiinfra_db import connect
from optiinfra_db.generated import workflow_executions
from optiinfra_db.generated.models import StepStatus, WorkflowStatus

HISTORY = 1_000  # runs that are there before
CHUNK = 100  # runs a commit, where there are several
PSQL = r"psql \copy"

COUNT = """
SELECT
    (SELECT count(*) FROM workflow_executions WHERE status = 'completed'),
    (SELECT count(*) FROM workflow_steps WHERE status = 'completed'),
    (SELECT count(*) FROM workflow_artifacts WHERE workflow_step_id IS NOT NULL),
    (SELECT count(*) FROM events)
"""
AN_IMPORT = (1, len(data.STEPS), len(data.ARTIFACTS), 1)

Rows = dict[str, list[dict[str, object]]]
"""Of each table, in the order in which they can be written: values by column."""


@dataclass(frozen=True)
class Step:
    """A step of a run that is over."""

    id: UUID
    name: str
    started_at: datetime
    completed_at: datetime


@dataclass(frozen=True)
class Run:
    """A run that is over, as it comes from elsewhere."""

    id: UUID
    started_at: datetime
    completed_at: datetime
    steps: tuple[Step, ...]

    def path(self, artifact: data.Artifact) -> str:
        """Return where an artifact of the run lies."""
        return f"s3://artifacts/{self.id}/{artifact.suffix}"


@dataclass(frozen=True)
class Target:
    """The database of a case."""

    url: str
    conn: psycopg.Connection[Any]
    engine: Engine
    platform: data.Platform


@contextlib.contextmanager
def targeting(bench: Bench) -> Iterator[Target]:
    """Make the database of a case."""
    with bench.database() as url:
        platform, engine = fill(url), orm.engine(url)
        try:
            with connect(url) as conn:
                yield Target(url, conn, engine, platform)
        finally:
            engine.dispose()


def fill(url: str) -> data.Platform:
    """Write a customer, an agent and some history of theirs, and tell the planner.

    A session keeps the plans that it makes while the tables are empty, and those may read all rows
    of the customer, until autovacuum analyses the tables.
    """
    platform = data.platform(url)
    with connect(url) as conn:
        _copy(conn, _rows([finished() for _ in range(HISTORY)], platform))
        conn.execute("VACUUM ANALYZE")
    return platform


def check(url: str, runs: int, a_run: tuple[int, ...] = AN_IMPORT) -> None:
    """Raise unless that many runs, with so many rows each, were added to the history."""
    expected = tuple(
        HISTORY * imported + runs * added for imported, added in zip(AN_IMPORT, a_run, strict=True)
    )
    with connect(url) as conn:
        found = conn.execute(COUNT).fetchone()
    if found != expected:
        raise RuntimeError(f"{expected} rows were to be there, {found} are: {COUNT}")


def finished() -> Run:
    """Make up a run of the last month."""
    started_at = datetime.now(UTC) - timedelta(seconds=random.randrange(86_400, 30 * 86_400))
    times = [started_at + timedelta(seconds=12 * place) for place in range(len(data.STEPS) + 1)]
    steps = tuple(
        Step(orm.uuid7(), name, *time)
        for name, time in zip(data.STEPS, pairwise(times), strict=True)
    )
    return Run(orm.uuid7(), times[0], times[-1], steps)


def chunks(runs: Sequence[Run]) -> Iterator[Sequence[Run]]:
    """Cut runs into those that share a commit."""
    for start in range(0, len(runs), CHUNK):
        yield runs[start : start + CHUNK]


def record(target: Target, runs: Sequence[Run]) -> None:
    """Write each run by itself."""
    for run in runs:
        workflow_executions.record_workflow_execution(
            target.conn,
            customer_id=target.platform.customer_id,
            id=run.id,
            agent_id=target.platform.agent_id,
            workflow_type=data.WORKFLOW_TYPE,
            status=WorkflowStatus.COMPLETED,
            started_at=run.started_at,
            completed_at=run.completed_at,
            input_data=data.INPUT,
            output_data=data.OUTPUT,
            steps=_steps(run),
            artifacts=_artifacts(run),
        )


def record_in_chunks(target: Target, runs: Sequence[Run]) -> None:
    """Write a hundred runs a statement."""
    for chunk in chunks(runs):
        workflow_executions.record_workflow_executions(
            target.conn,
            customer_id=target.platform.customer_id,
            runs=[
                {
                    "id": str(run.id),
                    "agent_id": str(target.platform.agent_id),
                    "workflow_type": data.WORKFLOW_TYPE,
                    "status": WorkflowStatus.COMPLETED,
                    "started_at": run.started_at.isoformat(),
                    "completed_at": run.completed_at.isoformat(),
                    "input_data": data.INPUT,
                    "output_data": data.OUTPUT,
                    "steps": _steps(run),
                    "artifacts": _artifacts(run),
                }
                for run in chunk
            ],
        )


def _steps(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "step_name": step.name,
            "step_order": order,
            "status": StepStatus.COMPLETED,
            "started_at": step.started_at.isoformat(),
            "completed_at": step.completed_at.isoformat(),
            "output_data": data.STEP_OUTPUT,
        }
        for order, step in enumerate(run.steps, 1)
    ]


def _artifacts(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "step_order": artifact.step + 1,
            "artifact_type": artifact.type,
            "artifact_name": artifact.name,
            "artifact_path": run.path(artifact),
            "artifact_size_bytes": artifact.size_bytes,
            "content_type": artifact.content_type,
            "sha256": artifact.sha256.hex(),
        }
        for artifact in data.ARTIFACTS
    ]


def add(target: Target, runs: Sequence[Run]) -> None:
    """Add each run by itself to a session of the ORM."""
    with Session(target.engine) as session:
        for run in runs:
            session.add(_mapped(run, target.platform))
            session.commit()


def add_in_chunks(target: Target, runs: Sequence[Run]) -> None:
    """Add a hundred runs a commit."""
    with Session(target.engine) as session:
        for chunk in chunks(runs):
            session.add_all(_mapped(run, target.platform) for run in chunk)
            session.commit()


def _mapped(run: Run, platform: data.Platform) -> orm.Run:
    steps = [
        orm.Step(
            id=step.id,
            step_name=step.name,
            step_order=order,
            status=StepStatus.COMPLETED,
            started_at=step.started_at,
            completed_at=step.completed_at,
            output_data=data.STEP_OUTPUT,
            created_at=run.started_at,
        )
        for order, step in enumerate(run.steps, 1)
    ]
    return orm.Run(
        customer_id=platform.customer_id,
        id=run.id,
        agent_id=platform.agent_id,
        workflow_type=data.WORKFLOW_TYPE,
        status=WorkflowStatus.COMPLETED,
        started_at=run.started_at,
        completed_at=run.completed_at,
        input_data=data.INPUT,
        output_data=data.OUTPUT,
        created_at=run.started_at,
        steps=steps,
        artifacts=[
            orm.Artifact(
                step=steps[artifact.step],
                artifact_type=artifact.type,
                artifact_name=artifact.name,
                artifact_path=run.path(artifact),
                artifact_size_bytes=artifact.size_bytes,
                content_type=artifact.content_type,
                sha256=artifact.sha256,
                created_at=run.completed_at,
            )
            for artifact in data.ARTIFACTS
        ],
    )


def copy(target: Target, runs: Sequence[Run]) -> None:
    """COPY all runs in one transaction."""
    _copy(target.conn, _rows(runs, target.platform))


def _copy(conn: psycopg.Connection[Any], tables: Rows) -> None:
    with conn.transaction(), conn.cursor() as cursor:
        for table, rows in tables.items():
            statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
                sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, rows[0]))
            )
            with cursor.copy(statement) as stream:
                for row in rows:
                    stream.write_row(tuple(row.values()))


def _rows(runs: Sequence[Run], platform: data.Platform) -> Rows:
    return {
        "workflow_executions": [
            {
                "customer_id": platform.customer_id,
                "id": run.id,
                "agent_id": platform.agent_id,
                "workflow_type": data.WORKFLOW_TYPE,
                "status": WorkflowStatus.COMPLETED,
                "started_at": run.started_at,
                "completed_at": run.completed_at,
                "input_data": json.dumps(data.INPUT),
                "output_data": json.dumps(data.OUTPUT),
                "created_at": run.started_at,
            }
            for run in runs
        ],
        "workflow_steps": [
            {
                "customer_id": platform.customer_id,
                "workflow_execution_id": run.id,
                "id": step.id,
                "step_name": step.name,
                "step_order": order,
                "status": StepStatus.COMPLETED,
                "started_at": step.started_at,
                "completed_at": step.completed_at,
                "output_data": json.dumps(data.STEP_OUTPUT),
                "created_at": run.started_at,
            }
            for run in runs
            for order, step in enumerate(run.steps, 1)
        ],
        "workflow_artifacts": [
            {
                "customer_id": platform.customer_id,
                "workflow_execution_id": run.id,
                "id": orm.uuid7(),
                "workflow_step_id": run.steps[artifact.step].id,
                "artifact_type": artifact.type,
                "artifact_name": artifact.name,
                "artifact_path": run.path(artifact),
                "artifact_size_bytes": artifact.size_bytes,
                "content_type": artifact.content_type,
                "sha256": rf"\x{artifact.sha256.hex()}",
                "created_at": run.completed_at,
            }
            for run in runs
            for artifact in data.ARTIFACTS
        ],
    }


WORKS: Mapping[str, Callable[[Target, Sequence[Run]], None]] = {
    "record": record,
    "batch": record_in_chunks,
    "copy": copy,
    "orm": add,
    "orm bulk": add_in_chunks,
}


def measure(bench: Bench) -> None:
    """Time imports of a slice of runs."""
    slices = [
        [finished() for _ in range(bench.scale.imports)] for _ in range(bench.scale.rounds + 1)
    ]

    def case(target: Target, work: Callable[[Target, Sequence[Run]], None]) -> Callable[[], None]:
        left = iter(slices)
        return lambda: work(target, next(left))

    with contextlib.ExitStack() as stack:
        targets = {name: stack.enter_context(targeting(bench)) for name in (*WORKS, PSQL)}
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        commands = iter([_command(bench, targets[PSQL], runs, directory) for runs in slices])

        def psql() -> None:
            subprocess.run(next(commands), check=True, capture_output=True)

        cases: dict[str, Callable[[], None]] = {
            name: case(targets[name], work) for name, work in WORKS.items()
        }
        bench.compare("import", cases | {PSQL: psql}, per=bench.scale.imports)

        for target in targets.values():
            check(target.url, len(slices) * bench.scale.imports)


def _command(bench: Bench, target: Target, runs: Sequence[Run], directory: Path) -> list[str]:
    r"""Write the files of some runs; return the psql command that \copies them, all or none."""
    psql = str(bench.server.bin_dir / "psql")
    command = [psql, target.url, "--no-psqlrc", "--single-transaction", "--set=ON_ERROR_STOP=1"]
    for table, rows in _rows(runs, target.platform).items():
        path = directory / f"{table}-{runs[0].id}.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(row.values() for row in rows)
        command.append(rf"--command=\copy {table} ({', '.join(rows[0])}) FROM '{path}' CSV")
    return command
