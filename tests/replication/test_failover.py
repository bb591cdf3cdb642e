"""The primary is killed under load and its replica promoted: nothing acknowledged is lost.

Replication is synchronous, all clients have a URL that names both servers, and go on by themselves.
"""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import pytest
from psycopg_pool import PoolTimeout

from optiinfra_db import connect, pool, pool_async
from optiinfra_db.errors import ConnectionLost, DatabaseUnreachable
from optiinfra_db.feed import Feed, latest
from optiinfra_db.generated import events, workflow_executions
from optiinfra_db.generated.aio import events as events_async
from optiinfra_db.generated.models import WorkflowType
from optiinfra_db.seed import ATLAS, COST
from optiinfra_db.workflows import record_workflow

from .servers import KEPT, eventually, kill, promote, replica_of, seeded_server, url_of

LOST = (ConnectionLost, DatabaseUnreachable, PoolTimeout)


class Load:
    """What clients wrote, until the load is taken off."""

    def __init__(self):
        self.is_over = threading.Event()
        self.is_written = threading.Event()
        self.acknowledged = []
        """When, by whom and which event."""
        self.lost = []

    def acknowledge(self, client, event):
        self.acknowledged.append((time.monotonic(), client, event.id))

    def longest_gap(self, *clients):
        """Return the seconds for which none of these could write."""
        times = sorted(at for at, client, _ in self.acknowledged if client in clients)
        return max(after - before for before, after in pairwise(times))

    def write_in_pool(self, connections):
        while not self.is_over.is_set():
            try:
                with connections.connection() as conn:
                    self.acknowledge(
                        "pool", events.create_event(conn, customer_id=ATLAS, event_type="x")
                    )
            except LOST as error:
                self.lost.append(error)

    async def write_in_async_pool(self, url):
        async with pool_async(url) as connections:
            while not self.is_over.is_set():
                try:
                    async with connections.connection() as conn:
                        self.acknowledge(
                            "pool_async",
                            await events_async.create_event(
                                conn, customer_id=ATLAS, event_type="x"
                            ),
                        )
                except LOST as error:
                    self.lost.append(error)

    def write_on_new_connections(self, url):
        while not self.is_over.is_set():
            try:
                with connect(url) as conn:
                    self.acknowledge(
                        "connect", events.create_event(conn, customer_id=ATLAS, event_type="x")
                    )
            except LOST as error:
                self.lost.append(error)
                time.sleep(0.1)

    def record(self, url):
        """Record a run of many steps; return its id."""
        names = [f"step_{number}" for number in range(30)]
        run_of = {"customer_id": ATLAS, "agent_id": COST, "steps": names}
        with (
            connect(url) as conn,
            record_workflow(conn, **run_of, workflow_type=WorkflowType.HEALTH_CHECK) as run,
        ):
            for number, name in enumerate(names):
                with run.step(name) as step:
                    step.output_data = {"number": number}
                    time.sleep(0.1)
        return run.id

    def follow(self, url, after, found):
        """Read the feed until the writers have ended and all is read."""
        with Feed(url, after=after, poll_seconds=0.05) as feed:
            for page in feed.pages():
                found.extend(event.id for event in page)
                if self.is_written.is_set() and {made for *_, made in self.acknowledged} <= set(
                    found
                ):
                    return


@pytest.mark.parametrize("synchronous_commit", ["on", "remote_apply"])
def test_nothing_acknowledged_is_lost_and_clients_go_on_by_themselves(
    pg, synchronous_commit, record_property, is_soak
):
    for _ in range(8 if is_soak else 1):
        fail_over(pg, synchronous_commit, record_property)


def fail_over(pg, synchronous_commit, record_property):
    with pair(pg, synchronous_commit) as (primary, replica):
        url = url_of(primary, replica, target_session_attrs="read-write")
        load, seen = Load(), []
        with connect(url) as conn:
            start = latest(conn)
        with (
            ThreadPoolExecutor(8) as threads,
            pool(url, min_size=4, max_size=8) as connections,
            pool(url) as idle,
        ):
            with idle.connection() as conn:
                conn.execute("SELECT 1")
            writing = [
                *(threads.submit(load.write_in_pool, connections) for _ in range(3)),
                threads.submit(load.write_on_new_connections, url),
                threads.submit(asyncio.run, load.write_in_async_pool(url)),
            ]
            following = threads.submit(load.follow, url, start, seen)
            recording = threads.submit(load.record, url)
            time.sleep(1)
            kill(primary)
            killed_at = time.monotonic()
            promote(replica)
            promoted_at = time.monotonic()
            try:
                run_id = recording.result(60)
                with idle.connection() as conn:
                    assert conn.info.host == str(replica.socket_dir)
            finally:
                load.is_over.set()
            try:
                for work in writing:
                    work.result(60)
            finally:
                load.is_written.set()
            following.result(60)

        acknowledged = {made for *_, made in load.acknowledged}
        with connect(url) as conn:
            there = {found for (found,) in conn.execute("SELECT id FROM events")}
            run = workflow_executions.get_workflow_detail(conn, customer_id=ATLAS, id=run_id)
        assert acknowledged <= there
        assert min(at for at, *_ in load.acknowledged) < killed_at
        assert len(seen) == len(set(seen))
        assert acknowledged <= set(seen) <= there
        assert run.workflow_execution.status == "completed"
        assert [step.output_data for step in run.steps] == [{"number": n} for n in range(30)]
        # Of five clients; one may lose two while the processes are killed one after the other.
        assert len([error for error in load.lost if isinstance(error, ConnectionLost)]) <= 10
        gaps = {
            client: round(load.longest_gap(client), 2)
            for client in ("pool", "pool_async", "connect")
        }
        record_property("promotion", promoted_at - killed_at)
        record_property("unavailable", gaps)
        assert max(gaps.values()) < 2 * (promoted_at - killed_at) + 5, gaps
        print(f"{len(acknowledged)} written, promoted in {promoted_at - killed_at:.2f} s, {gaps}")


@contextmanager
def pair(pg, synchronous_commit):
    """Start a primary whose commits wait for its replica."""
    options = KEPT | {"synchronous_commit": synchronous_commit}
    with (
        seeded_server(pg, options) as primary,
        replica_of(primary) as replica,
        connect(primary.url()) as conn,
    ):
        conn.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        conn.execute("SELECT pg_reload_conf()")
        state = "SELECT sync_state FROM pg_stat_replication"
        eventually(lambda: conn.execute(state).fetchone() == ("sync",))
        yield primary, replica
