"""What operators do now and then: prune runs, drop a month, migrate.

"prune" deletes runs that ended before a time, by optiinfra_db.housekeeping.prune, on a history as
tests/plans has it: a fifth of it at a time, oldest first, each of which is a sample. "rows" are
those of runs, steps and artifacts that went; a recommendation that came of a run loses its link to
it besides.

"housekeeping with a live load" prunes half of a history, then drops the oldest months of its events
and metrics, while four threads record runs in plain SQL, a statement a commit. Its samples are the
longest that a statement took meanwhile, and in half a minute before. Two of the threads do not wait
for the disk ("locks and CPU alone"): a disk that others share may keep a commit waiting for longer
than all that housekeeping does. "on disk" compares what the tables take after it to what they took
before.

"partition drop" drops a month of `agent_metrics`, with as many rows as the case says, and
"partition drop, events" one of `events`. It has been vacuumed and written to the disk before, as
what is old has; ensure_partitions makes it again for the next one. "..., wait" is the longest that
a reader of the table waited meanwhile: the lock is gone before the files are.

"migrate" makes the schema in an empty database, and then looks at it again with nothing to do.

"migrate with a live load" applies the migrations from 0005 on, which index live tables, make views
and functions, move API keys and put the tables under row-level security, to a history of as many
runs as are pruned, while four threads record runs in plain SQL, a statement a commit. Its samples
are the longest that a statement took while it migrated, and in as long a time afterwards. 0004 is
applied before: it puts other triggers on the tables, for which it locks all of them against
everybody, in another order than who writes a step locks the step's table and the run's. So it waits
for a deadlock to be found, now and then, and is for a quiet hour. 0014 locks all tables at once,
and a writer may lose to it in the same way: it tries again, and the time counts.
"""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg

from bench import data
from bench.harness import Bench, say
from optiinfra_db import connect, housekeeping, migrate
from optiinfra_db.generated import partitions
from tests.plans import history

PARTS = 5
"""In how many goes the history is pruned."""

WRITERS = 4
ASYNCHRONOUS = "&options=-c%20synchronous_commit%3Doff"

SIZE = "SELECT pg_database_size(current_database())"
DROPS = {"agent_metrics": "partition drop", "events": "partition drop, events"}
MONTH = "2020_01"
FILL = {
    "agent_metrics": """
        INSERT INTO agent_metrics (agent_id, metric_name, recorded_at, metric_value)
        SELECT %(agent_id)s, 'metric', '2020-01-01T00:00:00Z'::timestamptz + n * interval '1 s', n
        FROM generate_series(1, %(rows)s) AS n
    """,
    "events": """
        INSERT INTO events (customer_id, created_at, event_type)
        SELECT %(customer_id)s, '2020-01-01T00:00:00Z'::timestamptz + n * interval '1 s', 'a.b'
        FROM generate_series(1, %(rows)s) AS n
    """,
}
RECORD = (
    "INSERT INTO workflow_executions (customer_id, id, agent_id, workflow_type) "
    "VALUES (%(customer_id)s, %(id)s, %(agent_id)s, 'cost_analysis')",
    "INSERT INTO workflow_steps (customer_id, workflow_execution_id, step_name, step_order) "
    "SELECT %(customer_id)s, %(id)s, 'step', n FROM generate_series(1, 5) AS n",
    "UPDATE workflow_executions SET status = 'running', started_at = now() "
    "WHERE customer_id = %(customer_id)s AND id = %(id)s",
    "UPDATE workflow_steps SET status = 'running', started_at = now() "
    "WHERE customer_id = %(customer_id)s AND workflow_execution_id = %(id)s",
    "UPDATE workflow_steps SET status = 'completed', completed_at = now() "
    "WHERE customer_id = %(customer_id)s AND workflow_execution_id = %(id)s",
    "UPDATE workflow_executions SET status = 'completed', completed_at = now() "
    "WHERE customer_id = %(customer_id)s AND id = %(id)s",
)

Execute = Callable[..., None]


def measure(bench: Bench) -> None:
    """Measure."""
    _prune(bench)
    _keep_house_under_load(bench)
    _drop(bench)
    _migrate(bench)
    for number in range(1, bench.scale.few + 1):
        say(f"migrate with a live load: round {number}")
        _migrate_under_load(bench)


def _prune(bench: Bench) -> None:
    with bench.database() as url, connect(url, actor="retention") as conn:
        say("prune: writing the history")
        history.build(url, bench.scale.pruned)
        now = datetime.now(UTC)
        for part in range(1, PARTS + 1):
            say(f"prune: part {part} of {PARTS}")
            before = now - (PARTS - part) * timedelta(days=history.DAYS) / PARTS
            conn.execute("CHECKPOINT")
            started = time.perf_counter()
            gone = housekeeping.prune(conn, older_than=datetime.now(UTC) - before)
            seconds = time.perf_counter() - started
            bench.record("prune", "rows", sum(gone.values()) / seconds, "rows/s")


def _keep_house_under_load(bench: Bench) -> None:
    with bench.database() as url, connect(url, actor="retention") as conn:
        say("housekeeping with a live load: writing the history")
        history.build(url, bench.scale.lived_in)
        conn.execute("CHECKPOINT")
        platform = vars(data.platform(url))
        sizes = [_number(conn, SIZE)]
        half = timedelta(days=history.DAYS) / 2
        moments = []
        with ExitStack() as stack:
            clients = {
                kind: stack.enter_context(
                    _clients(
                        url + options, WRITERS // 2, lambda execute: _record(execute, platform)
                    )
                )
                for kind, options in (("", ""), (", locks and CPU alone", ASYNCHRONOUS))
            }
            for what in (
                lambda: time.sleep(bench.scale.rest_seconds),
                lambda: housekeeping.prune(conn, older_than=half),
                lambda: housekeeping.drop_partitions(conn, older_than=half),
            ):
                moments.append(time.perf_counter())
                done = what()
                say(f"housekeeping with a live load: {done}")
                sizes.append(_number(conn, SIZE))
            moments.append(time.perf_counter())
        for case, (begin, end) in zip(
            ("before", "while it prunes", "while it drops months"),
            itertools.pairwise(moments),
            strict=True,
        ):
            for kind, statements in clients.items():
                longest = _longest(statements, begin, end)
                bench.record("housekeeping with a live load", case + kind, longest)
        for case, size in zip(("after pruning", "after dropping"), sizes[2:], strict=True):
            bench.record("housekeeping with a live load, on disk", case, size / sizes[0], "share")


def _number(conn: psycopg.Connection[Any], query: str) -> int:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def _drop(bench: Bench) -> None:
    sizes = [max(1, bench.scale.metrics // part) for part in (100, 10, 1)]
    with bench.database() as url, connect(url) as conn:
        conn.execute("SET session_replication_role = replica")  # to fill it faster
        conn.execute("SET lock_timeout = '2s'")
        platform = data.platform(url)
        for number in range(1, bench.scale.few + 1):
            say(f"partition drop: round {number}")
            for table, comparison in DROPS.items():
                for rows in random.sample(sizes, len(sizes)):
                    _fill_month(conn, table, platform, rows)
                    drop, wait = _drop_month(url, conn, table)
                    bench.record(comparison, str(rows), drop)
                    bench.record(f"{comparison}, wait", str(rows), wait)


def _fill_month(
    conn: psycopg.Connection[Any], table: str, platform: data.Platform, rows: int
) -> None:
    fill = FILL[table].encode()
    conn.execute(fill, {**vars(platform), "rows": 1})
    partitions.ensure_partitions(conn, months_ahead=migrate.MONTHS_AHEAD)
    conn.execute(fill, {**vars(platform), "rows": rows - 1})
    conn.execute(f"VACUUM ANALYZE {table}_{MONTH}".encode())
    conn.execute("CHECKPOINT")


def _drop_month(url: str, conn: psycopg.Connection[Any], table: str) -> tuple[float, float]:
    """Return how long it took, and how long a reader waited."""
    query = f"SELECT FROM {table} LIMIT 1"
    with _clients(url, 1, lambda execute: execute(query)) as statements:
        started = time.perf_counter()
        conn.execute(f"DROP TABLE {table}_{MONTH}".encode())
        ended = time.perf_counter()
    return ended - started, _longest(statements, started, ended)


def _migrate(bench: Bench) -> None:
    for number in range(1, bench.scale.rounds + 1):
        say(f"migrate: round {number} of {bench.scale.rounds}")
        with bench.database(migrated=False) as url:
            for case in ("empty database", "nothing to do"):
                started = time.perf_counter()
                migrate.migrate(url, say=_keep_quiet)
                bench.record("migrate", case, time.perf_counter() - started)


def _migrate_under_load(bench: Bench) -> None:
    with bench.database() as url:
        history.build(url, bench.scale.pruned)
        platform = vars(data.platform(url))
        migrate.rollback(url, to=4, say=_keep_quiet)
        with _clients(url, WRITERS, lambda execute: _record(execute, platform)) as statements:
            started = time.perf_counter()
            migrate.migrate(url, say=_keep_quiet)
            migrated = time.perf_counter()
            time.sleep(migrated - started)
            ended = time.perf_counter()
    for case, begin, end in (
        ("while it migrates", started, migrated),
        ("afterwards", migrated, ended),
    ):
        bench.record("migrate with a live load", case, _longest(statements, begin, end))


def _record(execute: Execute, platform: Mapping[str, Any]) -> None:
    run = {**platform, "id": uuid4()}
    for statement in RECORD:
        execute(statement, run)


@contextmanager
def _clients(
    url: str, number: int, work: Callable[[Execute], object]
) -> Iterator[list[tuple[float, float]]]:
    """Have clients do their work over and over; return when each statement began and ended."""
    statements: list[tuple[float, float]] = []
    is_over = threading.Event()

    def client() -> None:
        with connect(url) as conn:

            def execute(query: str, values: Mapping[str, Any] | None = None) -> None:
                started = time.perf_counter()
                try:
                    conn.execute(query.encode(), values)
                finally:
                    statements.append((started, time.perf_counter()))

            while not is_over.is_set():
                # Who loses to a migration that locks several tables tries again, with a new run.
                with suppress(psycopg.errors.DeadlockDetected):
                    work(execute)

    with ThreadPoolExecutor(number) as pool:
        clients = [pool.submit(client) for _ in range(number)]
        try:
            time.sleep(0.2)  # till all are at work
            yield statements
        finally:
            is_over.set()
        for future in clients:
            future.result()


def _longest(statements: list[tuple[float, float]], begin: float, end: float) -> float:
    """Return the longest time of a statement that was under way between two times."""
    return max(last - first for first, last in statements if last > begin and first < end)


def _keep_quiet(_: str) -> None:
    pass
