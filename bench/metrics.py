r"""Values of metrics, and events, by COPY; and what comes of a metric in buckets of an hour.

"copy": each slice writes the same rows into an empty table, and its sample is the seconds of a row.
"generated" and "generated async" are copy_agent_metrics and copy_events on objects that are there
already; "psycopg by hand" is psycopg's binary COPY by hand, on tuples of what goes over the wire;
"psql \copy" is a psql of its own, its start included, with a file in text format that was written
before. The table is emptied, and what was written is counted, outside the timing; each slice is one
commit, which waits for the disk. The rows are of 4 agents, 5 metrics and 30 days, in two months.
There is a fifth as many events, a row of which takes longer: they have four indexes and a trigger.

"buckets" asks for all values of one metric of one agent, a 20th of the rows, by the hour. "plain
SQL" is the average that one would write by hand; "plain SQL, same numbers" also counts, and has
the extremes and percentiles that "generated buckets" has.
"""

import asyncio
import gc
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from bench import data
from bench.harness import Bench, say
from optiinfra_db import connect, connect_async
from optiinfra_db.generated import agent_metrics, agents, events
from optiinfra_db.generated.agent_metrics import CopyAgentMetricsParams
from optiinfra_db.generated.aio import agent_metrics as agent_metrics_async
from optiinfra_db.generated.aio import events as events_async
from optiinfra_db.generated.events import CopyEventsParams
from optiinfra_db.generated.models import AgentType, EventSeverity, MetricType

AGENTS = 4
METRICS = {
    "requests_total": MetricType.COUNTER,
    "gpu_utilization_percent": MetricType.GAUGE,
    "gpu_memory_bytes": MetricType.GAUGE,
    "queue_length": MetricType.GAUGE,
    "latency_seconds": MetricType.HISTOGRAM,
}
SERIES = AGENTS * len(METRICS)
TAGS = ({"region": "us-east-1"}, {"region": "eu-west-1"})
WINDOW = timedelta(days=30)
# From the middle of this month to that of the next: both have their partition.
SINCE = "SELECT date_trunc('month', now()) + interval '15 days'"

OF_METRIC = """
FROM agent_metrics
WHERE
    agent_id = %(agent_id)s AND metric_name = %(metric_name)s
    AND recorded_at >= %(since)s AND recorded_at < %(until)s
GROUP BY hour
ORDER BY hour
"""
AVERAGES = f"""
SELECT date_bin('1 hour', recorded_at, '2001-01-01T00:00:00Z') AS hour, avg(metric_value)
{OF_METRIC}
"""
SAME_NUMBERS = f"""
SELECT
    date_bin('1 hour', recorded_at, '2001-01-01T00:00:00Z') AS hour,
    count(*),
    avg(metric_value),
    min(metric_value),
    max(metric_value),
    percentile_cont(0.5) WITHIN GROUP (ORDER BY metric_value),
    percentile_cont(0.95) WITHIN GROUP (ORDER BY metric_value)
{OF_METRIC}
"""


@dataclass(frozen=True)
class Copied:
    """What is copied into a table, and by which functions."""

    table: str
    types: dict[str, str]
    """The columns and their types."""

    rows: Sequence[Any]
    function: Callable[..., Any]
    async_function: Callable[..., Any]

    @property
    def tuples(self) -> list[tuple[Any, ...]]:
        """The rows as psycopg takes them."""
        return [tuple(_plain(getattr(row, name)) for name in self.types) for row in self.rows]

    def sql(self, template: LiteralString) -> sql.Composed:
        """Put table and columns in their places."""
        columns = sql.SQL(", ").join(map(sql.Identifier, self.types))
        return sql.SQL(template).format(table=sql.Identifier(self.table), columns=columns)


def measure(bench: Bench) -> None:
    """Measure."""
    with bench.database() as url, connect(url) as conn:
        row = conn.execute(SINCE).fetchone()
        assert row is not None
        metrics = _metrics(conn, bench.scale.metrics, row[0])
        _copy(bench, url, "metrics: copy", metrics)
        _ask(bench, conn, metrics.rows[0])
    with bench.database() as url:
        platform = data.platform(url)
        _copy(bench, url, "events: copy", _events(platform, bench.scale.metrics // 5, row[0]))


def _metrics(conn: psycopg.Connection[Any], number: int, since: datetime) -> Copied:
    agent_ids = [
        agents.upsert_agent(conn, type=AgentType.COST, name=f"agent-{n}", version="1.0.0").id
        for n in range(AGENTS)
    ]
    series = [(agent_id, name) for agent_id in agent_ids for name in METRICS]
    rows = [
        CopyAgentMetricsParams(
            agent_id=series[n % SERIES][0],
            metric_name=series[n % SERIES][1],
            recorded_at=since + n * WINDOW / number,
            metric_value=n / 10,
            metric_type=METRICS[series[n % SERIES][1]],
            tags=TAGS[n // SERIES % len(TAGS)],
        )
        for n in range(number)
    ]
    types = {
        "agent_id": "uuid",
        "metric_name": "text",
        "recorded_at": "timestamptz",
        "metric_value": "float8",
        "metric_type": "text",
        "tags": "jsonb",
    }
    return Copied(
        "agent_metrics",
        types,
        rows,
        agent_metrics.copy_agent_metrics,
        agent_metrics_async.copy_agent_metrics,
    )


def _events(platform: data.Platform, number: int, since: datetime) -> Copied:
    rows = [
        CopyEventsParams(
            customer_id=platform.customer_id,
            created_at=since + n * WINDOW / number,
            agent_id=platform.agent_id,
            event_type="gpu.idle",
            severity=EventSeverity.INFO,
            actor="bench",
            data={"gpu": n % 64, "idle_minutes": n % 60},
        )
        for n in range(number)
    ]
    types = {
        "customer_id": "uuid",
        "created_at": "timestamptz",
        "agent_id": "uuid",
        "event_type": "text",
        "severity": "text",
        "subject_type": "text",
        "subject_id": "uuid",
        "actor": "text",
        "data": "jsonb",
    }
    return Copied("events", types, rows, events.copy_events, events_async.copy_events)


def _plain(value: object) -> object:
    match value:
        case StrEnum():
            return str(value)
        case dict():
            return Jsonb(value)
        case _:
            return value


def _copy(bench: Bench, url: str, comparison: str, copied: Copied) -> None:
    """Measure the ways to copy, and leave the rows in the table."""
    with (
        tempfile.TemporaryDirectory() as directory,
        asyncio.Runner() as runner,
        connect(url) as conn,
    ):
        aconn = runner.run(connect_async(url))
        tuples = copied.tuples
        file = Path(directory, copied.table)
        command = copied.sql("\\copy {table} ({columns}) FROM").as_string(conn)
        psql: list[str | Path] = [bench.server.bin_dir / "psql", "--no-psqlrc", "--quiet", url]
        psql += ["--set=ON_ERROR_STOP=1", f"--command={command} '{file}'"]
        cases: dict[str, Callable[[], object]] = {
            "generated": lambda: copied.function(conn, copied.rows),
            "generated async": lambda: runner.run(copied.async_function(aconn, copied.rows)),
            "psql \\copy": lambda: subprocess.run(psql, check=True),
            "psycopg by hand": lambda: _copy_by_hand(conn, copied, tuples),
        }
        _copy_by_hand(conn, copied, tuples)
        _write(conn, copied, file)
        gc.collect()
        gc.freeze()  # or a collection in a slice would go through millions of rows
        rounds = bench.scale.few
        for number in range(rounds + 1):  # the first warms up, and does not count
            say(f"{comparison}: round {number} of {rounds}")
            for name in random.sample(list(cases), len(cases)):
                _empty(conn, copied)
                gc.collect()
                started = time.perf_counter()
                cases[name]()
                seconds = time.perf_counter() - started
                count = conn.execute(copied.sql("SELECT count(*) FROM {table}")).fetchone()
                assert count == (len(tuples),), f"{name} wrote {count} rows"
                if number:
                    bench.record(comparison, name, seconds / len(tuples))
        gc.unfreeze()
        runner.run(aconn.close())


def _copy_by_hand(
    conn: psycopg.Connection[Any], copied: Copied, tuples: list[tuple[Any, ...]]
) -> None:
    query = copied.sql("COPY {table} ({columns}) FROM STDIN (FORMAT binary)")
    with conn.cursor() as cursor, cursor.copy(query) as copy:
        copy.set_types(list(copied.types.values()))
        for row in tuples:
            copy.write_row(row)


def _write(conn: psycopg.Connection[Any], copied: Copied, file: Path) -> None:
    """Write what the table holds to a file for psql."""
    query = copied.sql("COPY (SELECT {columns} FROM {table}) TO STDOUT")
    with file.open("wb") as stream, conn.cursor() as cursor, cursor.copy(query) as copy:
        for block in copy:
            stream.write(block)


def _empty(conn: psycopg.Connection[Any], copied: Copied) -> None:
    with conn.transaction():
        conn.execute("SET LOCAL session_replication_role = replica")  # events refuse it otherwise
        conn.execute(copied.sql("TRUNCATE {table}"))


def _ask(bench: Bench, conn: psycopg.Connection[Any], first: CopyAgentMetricsParams) -> None:
    conn.execute("VACUUM ANALYZE agent_metrics")
    metric: dict[str, Any] = {
        "agent_id": first.agent_id,
        "metric_name": first.metric_name,
        "since": first.recorded_at,
        "until": first.recorded_at + WINDOW,
    }
    hour = timedelta(hours=1)
    bench.compare(
        "metrics: buckets",
        {
            "generated buckets": lambda: agent_metrics.list_agent_metric_buckets(
                conn, **metric, bucket=hour
            ),
            "generated rates": lambda: agent_metrics.list_agent_metric_rates(
                conn, **metric, bucket=hour
            ),
            "plain SQL": lambda: conn.execute(AVERAGES, metric).fetchall(),
            "plain SQL, same numbers": lambda: conn.execute(SAME_NUMBERS, metric).fetchall(),
        },
        per=1,
    )
