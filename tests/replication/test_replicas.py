"""Reads go to a replica, see what was written before, and go to the primary where they must."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import psycopg
import pytest

from optiinfra_db import connect, pool, pool_async, replicas, tenant
from optiinfra_db.errors import InvalidURL, InvalidValue, ReadOnlyTransaction
from optiinfra_db.generated import customers, events, replication
from optiinfra_db.generated.aio import events as events_async
from optiinfra_db.generated.aio import replication as replication_async
from optiinfra_db.seed import ATLAS, INDIE

from ..pgbouncer import needs_pgbouncer, running
from .servers import eventually, kill, processes_of, promote, replica_of, start, url_of


def write(conn, name="x"):
    """Write an event; return its key, and where the log is then."""
    event = events.create_event(conn, customer_id=ATLAS, event_type=name)
    key = {"customer_id": ATLAS, "created_at": event.created_at, "id": event.id}
    return key, replication.get_wal_position(conn)


def is_in_recovery(conn):
    return conn.execute("SELECT pg_is_in_recovery()").fetchone()[0]


@contextmanager
def paused(replica):
    """Let the replica receive, and not replay."""
    with connect(replica.url()) as conn:
        conn.execute("SELECT pg_wal_replay_pause()")
        try:
            yield
        finally:
            conn.execute("SELECT pg_wal_replay_resume()")


@pytest.fixture
def connections(primary, replica):
    with pool(primary.url(), read_url=replica.url(), max_size=4) as connections:
        yield connections


@pytest.fixture
def warnings(caplog):
    """Return what was warned of."""
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_block_that_only_reads_is_on_the_replica(connections, replica, warnings):
    with connections.read_only() as conn:
        assert is_in_recovery(conn)
        assert conn.info.host == str(replica.socket_dir)
        assert len(customers.list_customers(conn, max_rows=9)) == 3
        with tenant(conn, INDIE):
            assert [row.id for row in customers.list_customers(conn, max_rows=9)] == [INDIE]
    with connections.connection() as conn:
        assert not is_in_recovery(conn)
    assert warnings() == []


def test_nothing_is_written_in_it_wherever_it_is(connections, primary):
    with pool(primary.url()) as without_replica:
        for source in (connections, without_replica):
            with source.read_only() as conn, pytest.raises(ReadOnlyTransaction, match="primary"):
                write(conn)
            with source.read_only() as conn:  # the transaction before is over
                assert customers.get_customer(conn, id=ATLAS)
        with without_replica.connection() as conn:
            write(conn)


def test_an_error_in_the_block_is_raised_and_the_connection_goes_back(primary, replica):
    with pool(primary.url(), read_url=replica.url(), max_size=1) as connections:
        for _ in range(3):
            with pytest.raises(psycopg.errors.DivisionByZero), connections.read_only() as conn:
                conn.execute("SELECT 1 / 0")
        with connections.read_only() as conn:
            assert is_in_recovery(conn)


def test_each_of_many_writes_is_read_from_the_replica(connections, is_soak, warnings):
    def work(worker):
        for number in range(5000 if is_soak else 250):
            with connections.connection() as conn:
                key, after = write(conn, f"{worker}.{number}")
            with connections.read_only(after=after, wait_seconds=10) as conn:
                assert is_in_recovery(conn)
                assert events.get_event(conn, **key).event_type == f"{worker}.{number}"

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert warnings() == []


@needs_pgbouncer
def test_poolers_of_transactions_may_be_before_both(primary, replica, tmp_path, warnings):
    with ExitStack() as stack:
        write_url, read_url = (
            stack.enter_context(running(server.url(), server.pgdata, tmp_path / name, {}))
            for name, server in (("primary", primary), ("replica", replica))
        )
        connections = stack.enter_context(
            pool(write_url, read_url=read_url, pooler="transaction", max_size=4)
        )

        def work(worker):
            for number in range(100):
                with connections.connection() as conn:
                    key, after = write(conn, f"{worker}.{number}")
                with connections.read_only(after=after, wait_seconds=10) as conn:
                    assert is_in_recovery(conn)
                    assert events.get_event(conn, **key).event_type == f"{worker}.{number}"
                    with pytest.raises(ReadOnlyTransaction), conn.transaction():
                        write(conn)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(4)))
    assert warnings() == []


def test_a_replica_that_lags_is_waited_for_and_not_longer_than_was_said(
    connections, replica, warnings
):
    with paused(replica):
        with connections.connection() as conn:
            key, after = write(conn)
        with connections.read_only() as conn:
            assert events.get_event(conn, **key) is None

        began = time.monotonic()
        with connections.read_only(after=after, wait_seconds=0.3) as conn:
            assert 0.3 <= time.monotonic() - began < 1
            assert not is_in_recovery(conn)
            assert events.get_event(conn, **key)
            with pytest.raises(ReadOnlyTransaction):
                write(conn)
        [warning] = warnings()
        assert "the replica was not up to date within 0.3 s" in warning

        with ThreadPoolExecutor() as threads:
            reading = threads.submit(read_on_replica, connections, key, after)
            time.sleep(0.2)
            with connect(replica.url()) as conn:
                conn.execute("SELECT pg_wal_replay_resume()")
            assert reading.result(20)


def read_on_replica(connections, key, after):
    with connections.read_only(after=after, wait_seconds=20) as conn:
        return is_in_recovery(conn) and events.get_event(conn, **key)


async def test_the_asynchronous_pool_is_the_same(primary, replica, warnings):
    async with pool_async(primary.url(), read_url=replica.url(), max_size=4) as connections:

        async def work(worker):
            for number in range(50):
                async with connections.connection() as conn:
                    event = await events_async.create_event(
                        conn, customer_id=ATLAS, event_type=f"{worker}.{number}"
                    )
                    after = await replication_async.get_wal_position(conn)
                async with connections.read_only(after=after, wait_seconds=10) as conn:
                    assert conn.info.host == str(replica.socket_dir)
                    assert await events_async.get_event(
                        conn, customer_id=ATLAS, created_at=event.created_at, id=event.id
                    )

        await asyncio.gather(*(work(number) for number in range(4)))
        assert warnings() == []

        with paused(replica):
            async with connections.connection() as conn:
                await events_async.create_event(conn, customer_id=ATLAS, event_type="x")
                after = await replication_async.get_wal_position(conn)
            async with connections.read_only(after=after, wait_seconds=0.1) as conn:
                assert conn.info.host == str(primary.socket_dir)
                with pytest.raises(ReadOnlyTransaction):
                    await events_async.create_event(conn, customer_id=ATLAS, event_type="x")
        [warning] = warnings()
        assert "the replica was not up to date within 0.1 s" in warning


def test_a_later_read_sees_no_less_than_one_before(connections, replica):
    with connections.connection() as conn:
        key, after = write(conn)
    with connections.read_only(after=after, wait_seconds=10) as conn:
        seen = replication.get_wal_position(conn)
    with connections.read_only(after=seen) as conn:
        assert is_in_recovery(conn)
        assert events.get_event(conn, **key)


@pytest.mark.parametrize("after", ["", "0/0", "1:", "1:x", "x:0/0", "99999999999:0/0"])
def test_a_place_that_is_none_is_refused(connections, after):
    with pytest.raises(InvalidValue), connections.read_only(after=after):
        pass
    with connections.read_only() as conn:
        assert is_in_recovery(conn)


def test_a_read_url_that_is_none_is_refused(primary):
    for make in (pool, pool_async):
        with pytest.raises(InvalidURL):
            make(primary.url(), read_url="mysql://u:p@h/d")


def test_of_several_servers_a_replica_is_found(primary, replica):
    servers = url_of(primary, replica, target_session_attrs="standby")
    with (
        pool(primary.url(), read_url=servers) as connections,
        connections.read_only(wait_seconds=10) as conn,
    ):
        assert conn.info.host == str(replica.socket_dir)


def test_while_the_replica_is_down_reads_go_to_the_primary(primary, monkeypatch, warnings):
    monkeypatch.setattr(replicas, "AVOID_SECONDS", 1)
    with (
        replica_of(primary) as replica,
        pool(primary.url(), read_url=replica.url(), min_size=3, max_size=4) as connections,
    ):

        def reads_from_replica():
            with connections.read_only(wait_seconds=0.2) as conn:
                return is_in_recovery(conn)

        eventually(reads_from_replica)
        kill(replica)
        began = time.monotonic()
        assert [reads_from_replica() for _ in range(20)] == [False] * 20
        assert time.monotonic() - began < 1  # it is not asked each time
        assert any("gives no connection" in warning for warning in warnings())

        start(replica)
        eventually(reads_from_replica)


@contextmanager
def frozen(server):
    """Let all processes of a server stand still."""
    processes = processes_of(server)
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def test_a_replica_that_does_not_answer_is_not_waited_for(primary, replica, warnings):
    with pool(primary.url(), read_url=replica.url()) as connections:
        with connections.read_only(wait_seconds=10) as conn:
            assert is_in_recovery(conn)
        with frozen(replica), ThreadPoolExecutor() as threads:
            with connections.connection() as conn:
                _, after = write(conn)

            def read(after):
                with connections.read_only(after=after, wait_seconds=0.3) as conn:
                    return is_in_recovery(conn)

            assert threads.submit(read, after).result(20) is False
            assert threads.submit(read, None).result(20) is False
        assert "primary for 5 s: the replica gave no answer within 0.3 s" in warnings()[0]


async def test_the_asynchronous_pool_does_not_wait_either(primary, replica):
    async with pool_async(primary.url(), read_url=replica.url()) as connections:
        async with connections.read_only(wait_seconds=10) as conn:
            assert conn.info.host == str(replica.socket_dir)
        with frozen(replica):
            async with asyncio.timeout(20):
                async with connections.read_only(wait_seconds=0.3) as conn:
                    assert conn.info.host == str(primary.socket_dir)


def test_a_replica_that_is_promoted_is_none_any_more(primary, monkeypatch, warnings):
    monkeypatch.setattr(replicas, "AVOID_SECONDS", 0)
    with (
        replica_of(primary) as replica,
        replica_of(primary) as other,
        pool(
            primary.url(), read_url=url_of(replica, other, target_session_attrs="standby")
        ) as connections,
    ):
        with connections.read_only(wait_seconds=10) as conn:
            assert conn.info.host == str(replica.socket_dir)
        promote(replica)
        with connections.read_only() as conn:
            assert conn.info.host == str(primary.socket_dir)
        assert any("follows no primary" in warning for warning in warnings())
        with connections.read_only(wait_seconds=10) as conn:
            assert conn.info.host == str(other.socket_dir)


def test_a_replica_of_the_former_primary_is_none(primary, warnings):
    """It has come further than the new primary, and lacks what was written there."""
    with (
        replica_of(primary) as successor,
        replica_of(primary) as left_behind,
        pool(successor.url(), read_url=left_behind.url()) as connections,
    ):
        promote(successor)
        with connections.connection() as conn:
            key, after = write(conn)
        with connect(primary.url()) as conn:
            conn.execute("SELECT pg_switch_wal()")
            for number in range(100):
                _, ahead = write(conn, f"lost.{number}")
        with (
            pool(primary.url(), read_url=left_behind.url()) as former,
            former.read_only(after=ahead, wait_seconds=10) as conn,
        ):
            assert is_in_recovery(conn)
            has_come_further = "SELECT pg_last_wal_replay_lsn() > %s"
            found = conn.execute(has_come_further, [after.partition(":")[2]])
            assert found.fetchone() == (True,)
        with connections.read_only(after=after) as conn:
            assert conn.info.host == str(successor.socket_dir)
            assert events.get_event(conn, **key)
        assert "follows no primary, or not the present one" in warnings()[-1]


def test_a_place_on_a_replica_is_of_the_timeline_that_it_follows(primary, warnings):
    with (
        replica_of(primary) as successor,
        replica_of(primary) as left_behind,
        replica_of(successor) as follower,
    ):
        promote(successor)
        with connect(primary.url()) as conn:
            conn.execute("SELECT pg_switch_wal()")
            for number in range(100):
                _, ahead = write(conn, f"lost.{number}")
        with (
            pool(primary.url(), read_url=left_behind.url()) as former,
            former.read_only(after=ahead, wait_seconds=10) as conn,
        ):
            assert is_in_recovery(conn)
        with pool(successor.url(), read_url=follower.url()) as connections:
            with connections.connection() as conn:
                key, _ = write(conn)

            def seen():
                with connections.read_only() as conn:
                    return events.get_event(conn, **key) and replication.get_wal_position(conn)

            position = eventually(seen)
        with (
            pool(successor.url(), read_url=left_behind.url()) as connections,
            connections.read_only(after=position) as conn,
        ):
            assert events.get_event(conn, **key)


@pytest.mark.parametrize("may_see", [True, False])
def test_a_replica_that_follows_the_new_primary_is_one(primary, monkeypatch, may_see):
    """At once for those who may see its timeline, for others from its next restart point."""
    monkeypatch.setattr(replicas, "AVOID_SECONDS", 0)
    role = f"reader_{may_see}".lower()
    with connect(primary.url()) as conn:
        conn.execute(f"CREATE ROLE {role} LOGIN IN ROLE optiinfra_service")
        if may_see:
            conn.execute(f"GRANT pg_read_all_stats TO {role}")
    with (
        replica_of(primary) as successor,
        replica_of(successor) as follower,
        pool(
            successor.url(), read_url=follower.url().replace("//postgres@", f"//{role}@")
        ) as connections,
    ):
        promote(successor)
        with connections.connection() as conn:
            key, after = write(conn)
            conn.execute("CHECKPOINT")

        def is_read_from_follower():
            with connections.read_only(after=after) as conn:
                assert events.get_event(conn, **key)
                return conn.info.host == str(follower.socket_dir)

        if not may_see:
            assert not is_read_from_follower()
            with connect(follower.url()) as conn:
                eventually(lambda: conn.execute("CHECKPOINT") and is_read_from_follower())
        eventually(is_read_from_follower)
