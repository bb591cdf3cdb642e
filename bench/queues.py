"""A queue that is full is worked off by 8 workers: claim a job, do nothing, complete it.

The job is a run without steps, or a task without arguments. "generated" is 8 threads, "generated
async" 8 tasks of one event loop, each with a connection on which claim_workflow_execution and
complete_workflow_execution are called in turn until no run is left. Both are a commit, so that a
job waits for the disk twice, and each writes a row of the audit log. "generated, 10 at a time" is
claim_workflow_executions and complete_workflow_executions: the same, of ten runs in a statement.

"procrastinate" is a worker with concurrency 8, as its manual has it, whose one loop fetches the
jobs; "procrastinate, 8 workers" is eight with concurrency 1, which fetch at once. It commits twice
a job as well, writes a row of events with each, and keeps the job; each time it takes a connection
of its pool it asks first whether that is alive, which is its default.

"pgqueuer" is 8 of its queue managers with a connection of asyncpg each (on one of psycopg a query
waits for the one that listens), and its defaults: a manager claims 10 jobs in a commit, and keeps
what is done in memory until 10 are, or 0.1 s have passed, to delete and log them in another. After
a crash these are done again. "pgqueuer, one at a time" claims and completes each job for itself, as
the others do: batch_size=1.

The event loop is asyncio's own, and connections are open. The time is that from the first claim to
the last completion, as the database has them, so that neither filling the queue nor starting and
stopping workers, which takes the peers 20 to 150 ms, is in it. That each job was completed, once,
is looked up too.
"""

import asyncio
import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, LiteralString
from uuid import UUID

import asyncpg
import procrastinate
import psycopg
from pgqueuer import Queries
from pgqueuer.core.qm import QueueManager
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.types import QueueExecutionMode

from bench import data
from bench.harness import Bench
from optiinfra_db import connect, connect_async
from optiinfra_db.generated import workflow_executions
from optiinfra_db.generated.aio import workflow_executions as aio_workflow_executions

WORKERS = 8
BATCH = 10

Case = Callable[[], object]
"""Fills the queue and works it off."""


@contextlib.contextmanager
def _generated(url: str, jobs: int) -> Iterator[Case]:
    def work(conn: psycopg.Connection[Any], agent_id: UUID) -> None:
        while run := workflow_executions.claim_workflow_execution(conn, agent_id=agent_id):
            workflow_executions.complete_workflow_execution(
                conn, customer_id=run.customer_id, id=run.id, attempt=run.attempt
            )

    with _worked_off(url, jobs, work) as case:
        yield case


@contextlib.contextmanager
def _generated_in_batches(url: str, jobs: int) -> Iterator[Case]:
    def work(conn: psycopg.Connection[Any], agent_id: UUID) -> None:
        while runs := workflow_executions.claim_workflow_executions(
            conn, agent_id=agent_id, max_rows=BATCH
        ):
            workflow_executions.complete_workflow_executions(
                conn,
                customer_ids=[run.customer_id for run in runs],
                ids=[run.id for run in runs],
                attempts=[run.attempt for run in runs],
            )

    with _worked_off(url, jobs, work) as case:
        yield case


@contextlib.contextmanager
def _worked_off(
    url: str, jobs: int, work: Callable[[psycopg.Connection[Any], UUID], None]
) -> Iterator[Case]:
    """Have the jobs done by threads with a connection each."""
    platform = data.platform(url)
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(connect(url)) for _ in range(WORKERS)]
        threads = stack.enter_context(ThreadPoolExecutor(WORKERS))

        def case() -> None:
            _fill(conns[0], platform, jobs)
            list(threads.map(work, conns, itertools.repeat(platform.agent_id)))

        yield case


@contextlib.contextmanager
def _generated_async(url: str, jobs: int) -> Iterator[Case]:
    async def work(conn: psycopg.AsyncConnection[Any]) -> None:
        while run := await aio_workflow_executions.claim_workflow_execution(
            conn, agent_id=platform.agent_id
        ):
            await aio_workflow_executions.complete_workflow_execution(
                conn, customer_id=run.customer_id, id=run.id, attempt=run.attempt
            )

    async def work_all() -> None:
        await asyncio.gather(*map(work, conns))

    def case() -> None:
        _fill(filling, platform, jobs)
        runner.run(work_all())

    platform = data.platform(url)
    with connect(url) as filling, asyncio.Runner() as runner:
        conns = [runner.run(connect_async(url)) for _ in range(WORKERS)]
        yield case
        for conn in conns:
            runner.run(conn.close())


def _fill(conn: psycopg.Connection[Any], platform: data.Platform, jobs: int) -> None:
    conn.execute(
        """
        INSERT INTO workflow_executions (customer_id, agent_id, workflow_type)
        SELECT %s, %s, %s
        FROM generate_series(1, %s)
        """,
        [platform.customer_id, platform.agent_id, data.WORKFLOW_TYPE, jobs],
    )


@contextlib.contextmanager
def _procrastinate(url: str, jobs: int, *, workers: int) -> Iterator[Case]:
    size = WORKERS + workers
    app = procrastinate.App(
        connector=procrastinate.PsycopgConnector(conninfo=url, min_size=size, max_size=size)
    )

    @app.task
    async def nothing() -> None:
        pass

    async def case() -> None:
        await nothing.batch_defer_async(*({} for _ in range(jobs)))
        await asyncio.gather(
            *(
                app.run_worker_async(
                    concurrency=WORKERS // workers, wait=False, install_signal_handlers=False
                )
                for _ in range(workers)
            )
        )

    with asyncio.Runner() as runner:
        runner.run(app.connector.open_async())
        runner.run(app.schema_manager.apply_schema_async())
        yield lambda: runner.run(case())
        runner.run(app.close_async())


@contextlib.contextmanager
def _pgqueuer(url: str, jobs: int, *, batch_size: int = BATCH) -> Iterator[Case]:
    async def nothing(job: Job) -> None:
        pass

    def manager(conn: asyncpg.Connection) -> QueueManager:
        manager = QueueManager(Queries(AsyncpgDriver(conn)))
        manager.entrypoint("nothing")(nothing)
        return manager

    async def case() -> None:
        for conn in conns:
            await conn.reset()  # of the listeners of the round before
        managers = [manager(conn) for conn in conns]
        await managers[0].queries.enqueue(["nothing"] * jobs, [None] * jobs, [0] * jobs)
        await asyncio.gather(
            *(
                manager.run(mode=QueueExecutionMode.drain, batch_size=batch_size)
                for manager in managers
            )
        )

    with asyncio.Runner() as runner:
        conns = [runner.run(asyncpg.connect(url)) for _ in range(WORKERS)]
        runner.run(Queries(AsyncpgDriver(conns[0])).install())
        yield lambda: runner.run(case())
        for conn in conns:
            runner.run(conn.close())


OURS = """
SELECT extract(epoch FROM max(completed_at) - min(started_at))::float8, count(completed_at)
FROM workflow_executions
WHERE started_at > %s
"""
PROCRASTINATE = """
SELECT extract(epoch FROM max(at) - min(at))::float8, count(*) FILTER (WHERE type = 'succeeded')
FROM procrastinate_events
WHERE at > %s AND type IN ('started', 'succeeded')
"""
PGQUEUER = """
SELECT
    extract(epoch FROM max(created) - min(created))::float8,
    count(*) FILTER (WHERE status = 'successful')
FROM pgqueuer_log
WHERE created > %s AND status IN ('picked', 'successful')
"""

QUEUES: dict[str, tuple[Callable[..., contextlib.AbstractContextManager[Case]], LiteralString]] = {
    "generated": (_generated, OURS),
    "generated async": (_generated_async, OURS),
    "generated, 10 at a time": (_generated_in_batches, OURS),
    "procrastinate": (functools.partial(_procrastinate, workers=1), PROCRASTINATE),
    "procrastinate, 8 workers": (functools.partial(_procrastinate, workers=8), PROCRASTINATE),
    "pgqueuer": (_pgqueuer, PGQUEUER),
    "pgqueuer, one at a time": (functools.partial(_pgqueuer, batch_size=1), PGQUEUER),
}
"""The cases, and what tells in how many seconds how many jobs were completed since a time."""


def measure(bench: Bench) -> None:
    """Time the queues, each in a database of its own."""
    with contextlib.ExitStack() as stack:
        cases = {
            name: stack.enter_context(_timed(bench, queue, query))
            for name, (queue, query) in QUEUES.items()
        }
        bench.compare("queue", cases, per=bench.scale.jobs)


@contextlib.contextmanager
def _timed(
    bench: Bench,
    queue: Callable[..., contextlib.AbstractContextManager[Case]],
    query: LiteralString,
) -> Iterator[Callable[[], float]]:
    """Make a case that returns how long its jobs took, having checked that they were done."""
    jobs = bench.scale.jobs
    with (
        bench.database(migrated=query == OURS) as url,
        queue(url, jobs) as work_off,
        psycopg.connect(url, autocommit=True) as conn,
    ):

        def case() -> float:
            since = conn.execute("SELECT clock_timestamp()").fetchone()
            work_off()
            seconds, completed = conn.execute(query, since).fetchone() or (0.0, 0)
            if completed != jobs:
                raise RuntimeError(f"{completed} of {jobs} jobs were completed.")
            return float(seconds)

        yield case
