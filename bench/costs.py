"""What a transition and a run cost the server: WAL, pages, disk, and what is left of dead rows.

"cost: a transition, ..." calls each function by itself, on a run of two steps and on an autocommit
connection, and asks PostgreSQL before and after what the connection's process did, the statements
of triggers and the commit included: bytes and records of WAL, and pages of shared buffers that were
touched, those of indexes and of the catalogue too. A sample is a call. advance_workflow_step is
two transitions.

"cost: a run, ..." is a run of 5 steps and 3 artifacts, as in bench/runs.py: the same counters
around a run, and by pg_walinspect what the WAL of all these runs was for. A full page image is
written when a page is changed for the first time after a checkpoint, and there is none in between:
they are counted by themselves. "entries" counts new rows, new versions of rows and index entries.

Wear is what such runs leave in a new database, written by two threads with synchronous_commit =
off, as fast as it goes, and autovacuum as it is by default: "on disk" is how much tables and their
indexes grew, a run; "index / table" the one by the other; "HOT updates" the share of updates that
touched no index; "bloat" the size of tables and indexes by their size after VACUUM FULL.
"""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg

from bench import data
from bench.harness import Bench, say
from bench.runs import record
from optiinfra_db import connect
from optiinfra_db.generated import (
    monitoring,
    workflow_artifacts,
    workflow_executions,
    workflow_steps,
)

TABLES = ("workflow_executions", "workflow_steps", "workflow_artifacts", "events")
WARM_UP = 20
THREADS = 2
TRANSITIONS = 2 + 2 * len(data.STEPS)
"""Of a run: each is started and completed, and so is each of its steps."""

UNITS = {"WAL": "bytes", "WAL records": "records", "buffers": "pages"}
DONE = """
SELECT wal_bytes::bigint, wal_records, (
    SELECT sum(coalesce(hits, 0) + coalesce(reads, 0))::bigint
    FROM pg_stat_get_backend_io(%(pid)s)
    WHERE object = 'relation'
)
FROM pg_stat_get_backend_wal(%(pid)s)
"""

WAL = """
SELECT split_part(name, '/', 1), split_part(name, '/', 2), count, record_size, fpi_size
FROM pg_get_wal_stats(%s, pg_current_wal_flush_lsn(), per_record => true)
    AS stats (name, count, count_share, record_size, record_share, fpi_size)
WHERE count > 0
"""
ENTRIES = {
    ("Heap", "INSERT"): "rows",
    ("Heap", "INSERT+INIT"): "rows",
    ("Heap2", "MULTI_INSERT"): "rows",
    ("Heap2", "MULTI_INSERT+INIT"): "rows",
    ("Heap", "UPDATE"): "versions",
    ("Heap", "UPDATE+INIT"): "versions",
    ("Heap", "HOT_UPDATE"): "versions, HOT",
    ("Btree", "INSERT_LEAF"): "index entries",
    ("Btree", "INSERT_POST"): "index entries",
    ("Btree", "SPLIT_L"): "index entries",
    ("Btree", "SPLIT_R"): "index entries",
}
"""What a record of the WAL tells of."""

HOT = """
SELECT relname, n_tup_hot_upd::float8 / n_tup_upd
FROM pg_stat_user_tables
WHERE n_tup_upd > 0 AND relname = ANY(%s)
"""


@dataclass(frozen=True)
class Meter:
    """Counts what the process of a connection does."""

    bench: Bench
    conn: psycopg.Connection[Any]
    observer: psycopg.Connection[Any]

    def call(self, function: Callable[..., Any], **given: Any) -> Any:  # noqa: ANN401
        """Call a function, and record what it cost."""
        return self.count("a transition", function.__name__, lambda: function(self.conn, **given))

    def count(self, what: str, case: str, act: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Do something, and record what it cost."""
        before = self._done()
        result = act()
        for (name, unit), start, end in zip(UNITS.items(), before, self._done(), strict=True):
            self.bench.record(f"cost: {what}, {name}", case, end - start, unit)
        return result

    def _done(self) -> tuple[int, ...]:
        self.conn.execute("SELECT pg_stat_force_next_flush()")
        row = self.observer.execute(DONE, {"pid": self.conn.info.backend_pid}).fetchone()
        assert row is not None
        return tuple(row)


def measure(bench: Bench) -> None:
    """Measure."""
    with bench.database() as url, connect(url) as conn, connect(url) as observer:
        platform = data.platform(url)
        for _ in range(WARM_UP):
            record(conn, platform)
        meter = Meter(bench, conn, observer)
        say("cost: a transition")
        for _ in range(bench.scale.calls):
            _move(meter.call, platform)
        say("cost: a run")
        _record(meter, platform)
    with bench.database() as url:
        say("cost: wear")
        _wear(bench, url)


def _move(call: Callable[..., Any], platform: data.Platform) -> None:
    """Make each transition once."""
    customer = {"customer_id": platform.customer_id}
    run = call(
        workflow_executions.create_workflow_execution,
        **customer,
        agent_id=platform.agent_id,
        workflow_type=data.WORKFLOW_TYPE,
        step_names=["first", "last"],
        input_data=data.INPUT,
    )
    call(workflow_executions.start_workflow_execution, **customer, id=run.id)
    attempt = {**customer, "id": run.id, "attempt": run.attempt}
    call(workflow_executions.heartbeat_workflow_execution, **attempt)
    of_run = {**customer, "workflow_execution_id": run.id}
    first, last = call(workflow_steps.list_workflow_steps, **of_run)
    call(workflow_steps.start_workflow_step, **of_run, id=first.id)
    artifact = data.ARTIFACTS[0]
    call(
        workflow_artifacts.register_workflow_artifact,
        **of_run,
        workflow_step_id=first.id,
        artifact_type=artifact.type,
        artifact_name=artifact.name,
        artifact_path=artifact.suffix,
        artifact_size_bytes=artifact.size_bytes,
        content_type=artifact.content_type,
        sha256=artifact.sha256,
    )
    done = {**of_run, "retry_count": 0, "output_data": data.STEP_OUTPUT}
    call(workflow_steps.advance_workflow_step, **done, id=first.id)
    call(workflow_steps.complete_workflow_step, **done, id=last.id)
    call(workflow_executions.complete_workflow_execution, **attempt, output_data=data.OUTPUT)


def _record(meter: Meter, platform: data.Platform) -> None:
    """Record runs, and see what was written to the WAL."""
    runs = meter.bench.scale.calls
    meter.observer.execute("CREATE EXTENSION pg_walinspect")
    row = meter.observer.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
    assert row is not None
    for _ in range(runs):
        meter.count("a run", "all", lambda: record(meter.conn, platform))
    sizes: Counter[str] = Counter()
    entries: Counter[str] = Counter()
    for manager, kind, count, size, images in meter.observer.execute(WAL, row):
        sizes[manager] += size
        sizes["full page images"] += images
        if entry := ENTRIES.get((manager, kind)):
            entries[entry] += count
    for manager, size in sizes.items():
        meter.bench.record("cost: a run, WAL by use", manager, int(size) / runs, "bytes")
    for entry, count in entries.items():
        meter.bench.record("cost: a run, entries", entry, count / runs, "entries")


def _wear(bench: Bench, url: str) -> None:
    platform = data.platform(url)
    runs = max(1, bench.scale.transitions // TRANSITIONS // THREADS)

    def write() -> None:
        with connect(url) as conn:
            conn.execute("SET synchronous_commit = off")
            for _ in range(runs):
                record(conn, platform)
            conn.execute("SELECT pg_stat_force_next_flush()")

    with connect(url) as conn:
        empty = _sizes(conn)
        with ThreadPoolExecutor(THREADS) as pool:
            for future in [pool.submit(write) for _ in range(THREADS)]:
                future.result()
        worn = _sizes(conn)
        for table, share in conn.execute(HOT, [list(TABLES)]):
            bench.record("cost: HOT updates", table, share, "of updates")
        conn.execute(f"VACUUM FULL {', '.join(TABLES)}".encode())
        compact = _sizes(conn)
    on_disk = 0.0
    for table in TABLES:
        rows, indexes = (
            (worn[table][part] - empty[table][part]) / (runs * THREADS) for part in (0, 1)
        )
        on_disk += rows + indexes
        bench.record("cost: a run, on disk", f"{table}, table", rows, "bytes")
        bench.record("cost: a run, on disk", f"{table}, indexes", indexes, "bytes")
        bench.record("cost: index / table", table, indexes / rows, "x")
        for part, name in enumerate(("table", "indexes")):
            ratio = worn[table][part] / compact[table][part]
            bench.record("cost: bloat", f"{table}, {name}", ratio, "x")
    bench.record("cost: a run, on disk", "all", on_disk, "bytes")


def _sizes(conn: psycopg.Connection[Any]) -> dict[str, tuple[int, int]]:
    """Return the bytes of each table and of its indexes."""
    return {
        size.table_name: (size.table_bytes, size.index_bytes)
        for size in monitoring.list_table_sizes(conn)
    }
