"""Locks of resources: what a holder is promised, also while many want the same."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from uuid import uuid4

import pytest
from psycopg import IsolationLevel
from psycopg.errors import CheckViolation, InvalidTransactionState, LockNotAvailable

from optiinfra_db import connect
from optiinfra_db.errors import InvalidValue, NotFound
from optiinfra_db.generated import agent_states, agents
from optiinfra_db.generated.models import AgentStatusDetail, AgentType

MINUTE = timedelta(minutes=1)
WRITERS = 6
ROUNDS = 25


@pytest.fixture
def agent(db):
    return db.make_agent()


def acquire(db, agent, resource="gpu-1", lease=MINUTE, **given):
    return db.agent_states.acquire_agent_lock(
        agent_id=agent.id, resource=resource, lease=lease, **given
    )


def extend(db, lock, lease=MINUTE, **given):
    return db.agent_states.extend_agent_lock(**holder(lock) | given, lease=lease)


def release(db, lock, **given):
    return db.agent_states.release_agent_lock(**holder(lock) | given)


def holder(lock):
    return {"agent_id": lock.agent_id, "resource": lock.resource, "token": lock.token}


def expire(db, lock):
    """Let the lease of a lock be over."""
    db.execute(
        f"UPDATE agent_states SET locks = jsonb_set(locks, '{{{lock.resource},expires_at}}', "
        f"to_jsonb(clock_timestamp())) WHERE agent_id = '{lock.agent_id}'"
    )


def test_a_free_resource_is_locked_until_its_lease_is_over(db, agent):
    lock = acquire(db, agent)

    assert (lock.agent_id, lock.resource) == (agent.id, "gpu-1")
    assert lock.expires_at - lock.acquired_at == MINUTE
    assert acquire(db, db.make_agent()) is None
    assert db.agent_states.list_agent_locks() == [lock]
    state = db.agent_states.get_agent_state(agent_id=agent.id)
    assert state.current_status is AgentStatusDetail.IDLE
    assert state.locks.keys() == {"gpu-1"}


def test_a_lock_is_taken_over_once_its_lease_is_over(db, agent):
    other = db.make_agent()
    lost = acquire(db, agent)
    expire(db, lost)

    assert db.agent_states.list_agent_locks() == []
    taken = acquire(db, other)

    assert (taken.agent_id, taken.token != lost.token) == (other.id, True)
    assert taken.acquired_at >= lost.acquired_at
    assert db.agent_states.get_agent_state(agent_id=agent.id).locks == {}
    assert extend(db, lost) is None
    assert release(db, lost) is None
    assert db.agent_states.list_agent_locks() == [taken]


def test_a_lost_lock_is_not_extended_though_nobody_has_it(db, agent):
    lost = acquire(db, agent)
    expire(db, lost)

    assert extend(db, lost) is None
    assert release(db, lost) is None
    assert db.agent_states.get_agent_state(agent_id=agent.id).locks == {}


def test_a_lock_is_extended_from_now_by_who_holds_it(db, agent):
    lock = acquire(db, agent)

    longer = extend(db, lock, timedelta(hours=1))

    assert longer.expires_at > lock.acquired_at + timedelta(hours=1)
    assert (longer.token, longer.acquired_at) == (lock.token, lock.acquired_at)
    assert db.agent_states.list_agent_locks() == [longer]
    for stranger in (
        {"token": uuid4()},
        {"agent_id": db.make_agent().id},
        {"resource": "gpu-2"},
    ):
        assert extend(db, lock, **stranger) is None
        assert release(db, lock, **stranger) is None
    assert db.agent_states.list_agent_locks() == [longer]


def test_a_released_resource_is_free_at_once(db, agent):
    lock = acquire(db, agent)

    assert release(db, lock) == lock

    assert release(db, lock) is None
    assert extend(db, lock) is None
    assert acquire(db, db.make_agent()).token != lock.token


def test_workers_of_one_agent_keep_each_other_out_and_a_repeated_call_finds_its_lock(db, agent):
    token = uuid4()
    lock = acquire(db, agent, token=token)

    assert lock.token == token
    assert acquire(db, agent) is None
    assert acquire(db, agent, token=uuid4()) is None
    assert acquire(db, agent, lease=timedelta(hours=1), token=token) == lock
    assert acquire(db, db.make_agent(), token=token) is None

    expire(db, lock)
    again = acquire(db, agent, token=token)
    assert again.acquired_at > lock.acquired_at


def test_an_agent_has_several_locks_by_whatever_name(db, agent):
    names = ["a", 'q"{}\\', "customers/1 -> x", "Ä\U0001f600"]
    locks = [acquire(db, agent, name) for name in names]

    other = acquire(db, db.make_agent(), "b")

    assert [lock.resource for lock in locks] == names
    listed = db.agent_states.list_agent_locks()
    assert sorted(lock.resource for lock in listed) == sorted([*names, "b"])
    assert extend(db, locks[1]) is not None
    assert release(db, locks[1]) is not None
    left = {lock.resource for lock in db.agent_states.list_agent_locks()}
    assert left == {"a", "customers/1 -> x", "Ä\U0001f600", other.resource}


def test_noting_what_an_agent_does_leaves_its_locks(db, agent):
    lock = acquire(db, agent)

    db.agent_states.upsert_agent_state(agent_id=agent.id, current_status=AgentStatusDetail.BUSY)
    db.agents.record_agent_heartbeat(id=agent.id, resource_usage={"cpu_percent": 1})
    assert db.agent_states.list_agent_locks() == [lock]

    db.agent_states.delete_agent_state(agent_id=agent.id)
    assert db.agent_states.list_agent_locks() == []
    assert extend(db, lock) is None


def test_what_is_no_lock_counts_as_free(db, agent):
    acquire(db, agent, "other")
    db.execute("""UPDATE agent_states SET locks = locks || '{"gpu-1": 1, "gpu-2": {}}'""")

    assert [lock.resource for lock in db.agent_states.list_agent_locks()] == ["other"]
    assert acquire(db, agent) is not None
    assert acquire(db, db.make_agent(), "gpu-2") is not None


def refused(db, field, function, *args, **given):
    """Call what is to be refused for its field."""
    db.execute("SAVEPOINT refused")
    with pytest.raises(InvalidValue) as caught:
        function(db, *args, **given)
    db.execute("ROLLBACK TO SAVEPOINT refused")
    assert caught.value.field == field


@pytest.mark.parametrize("lease", [timedelta(0), timedelta(seconds=-1), timedelta(days=9_000_000)])
def test_a_lease_of_no_time_or_for_ever_is_refused_by_name(db, agent, lease):
    refused(db, "lease", acquire, agent, lease=lease)
    lock = acquire(db, agent)
    refused(db, "lease", extend, lock, lease)
    refused(db, "lease", extend, lock, lease, agent_id=db.make_customer().id)
    assert db.agent_states.list_agent_locks() == [lock]


@pytest.mark.parametrize("resource", ["", "x" * 256])
def test_a_resource_without_a_proper_name_is_refused_by_name(db, agent, resource):
    refused(db, "resource", acquire, agent, resource)


def test_a_lock_of_no_agent_or_of_the_wrong_shape_is_refused(db, agent):
    with db.refused(NotFound, "agent_states_agent_id_fkey"):
        acquire(db, db.make_customer())
    acquire(db, agent)
    with db.refused(CheckViolation, "agent_states_locks_check"):
        db.execute("UPDATE agent_states SET locks = '[]'")


# From here on: several connections, each of which commits.


@pytest.fixture
def agent_ids(database_url):
    with connect(database_url) as conn:
        return [
            agents.upsert_agent(conn, type=AgentType.COST, name=f"cost-{n}", version="1").id
            for n in range(WRITERS)
        ]


@pytest.fixture
def connections(database_url):
    connections = [connect(database_url) for _ in range(WRITERS)]
    yield connections
    for connection in connections:
        connection.close()


def together(function, *arguments):
    """Run a function at once, started together, a thread for each of the arguments."""
    barrier = threading.Barrier(len(arguments[0]))

    def start(*argument):
        barrier.wait()
        return function(*argument)

    with ThreadPoolExecutor(len(arguments[0])) as executor:
        return list(executor.map(start, *arguments))


def take(conn, agent_id, resource="gpu-1", lease=MINUTE):
    return agent_states.acquire_agent_lock(conn, agent_id=agent_id, resource=resource, lease=lease)


def test_of_those_who_want_a_free_resource_at_once_one_gets_it(connections, agent_ids):
    for round_number in range(ROUNDS):
        resource = f"gpu-{round_number}"
        if round_number % 2:  # then none of them has a row that the others could look at
            connections[0].execute("DELETE FROM agent_states")

        locks = together(
            lambda conn, agent_id, resource=resource: take(conn, agent_id, resource),
            connections,
            agent_ids,
        )

        (won,) = [lock for lock in locks if lock]
        assert won in agent_states.list_agent_locks(connections[0])


def test_of_those_who_want_an_expired_lock_at_once_one_gets_it(connections, agent_ids):
    for _ in range(ROUNDS):
        connections[0].execute("UPDATE agent_states SET locks = '{}'")
        take(connections[0], agent_ids[0], lease=timedelta(microseconds=1))

        locks = together(take, connections, agent_ids)

        (won,) = [lock for lock in locks if lock]
        assert agent_states.list_agent_locks(connections[0]) == [won]


def test_those_who_take_over_from_each_other_do_not_deadlock(connections, agent_ids):
    def take_often(conn, agent_id):
        chance = random.Random(str(agent_id))
        for _ in range(8 * ROUNDS):
            take(conn, agent_id, f"gpu-{chance.randrange(WRITERS)}", timedelta(microseconds=1))

    together(take_often, connections, agent_ids)


@dataclass
class Held:
    """That an agent had the lock for sure in this time, by the clock of the database."""

    since: datetime
    until: datetime


def test_at_most_one_agent_has_a_lock_at_any_time(connections, agent_ids):
    """Leases of milliseconds that are extended, released, or left to expire."""
    deadline = time.monotonic() + 2

    def work(conn, agent_id):
        chance, held = random.Random(str(agent_id)), []
        while time.monotonic() < deadline:
            lease = timedelta(milliseconds=chance.choice([1, 3, 10]))
            lock = take(conn, agent_id, lease=lease)
            if lock is None:
                continue
            holder = {"agent_id": agent_id, "resource": "gpu-1", "token": lock.token}
            last = lock
            while last and chance.random() < 0.7:
                time.sleep(chance.random() / 200)
                last = agent_states.extend_agent_lock(conn, **holder, lease=lease)
                lock = last or lock
            until = lock.expires_at
            if chance.random() < 0.5:
                (now,) = conn.execute("SELECT clock_timestamp()").fetchone()
                if agent_states.release_agent_lock(conn, **holder):
                    until = now
            held.append(Held(lock.acquired_at, until))
        return held

    all_held = together(work, connections, agent_ids)

    times = sorted((held for one in all_held for held in one), key=lambda held: held.since)
    assert sum(bool(one) for one in all_held) > 1
    assert len(times) > WRITERS
    for one, following in pairwise(times):
        assert one.until <= following.since


def test_an_extension_in_time_counts_though_it_commits_late(connections, agent_ids):
    holding, wanting, watching = connections[:3]
    lock = take(holding, agent_ids[0], lease=timedelta(seconds=1))
    with ThreadPoolExecutor(1) as executor:
        with holding.transaction():
            extended = agent_states.extend_agent_lock(
                holding,
                agent_id=lock.agent_id,
                resource=lock.resource,
                token=lock.token,
                lease=MINUTE,
            )
            assert extended is not None
            watching.execute("SELECT pg_sleep_until(%s)", [lock.expires_at])
            taking = executor.submit(take, wanting, agent_ids[1])
            waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
            while watching.execute(waits, [wanting.info.backend_pid]).fetchone() != (True,):
                assert not taking.done()
                time.sleep(0.01)
        assert taking.result() is None
    assert agent_states.list_agent_locks(watching) == [extended]


def test_those_who_want_other_resources_do_not_wait(connections, agent_ids):
    """Neither for one who acquires, nor for the holder to be done with its row."""
    acquiring, other, same = connections[:3]
    for conn in (other, same):
        conn.execute("SET lock_timeout = '100ms'")
    with acquiring.transaction():
        assert take(acquiring, agent_ids[0], "gpu-1")
        assert take(other, agent_ids[1], "gpu-2")
        with pytest.raises(LockNotAvailable):
            take(same, agent_ids[2], "gpu-1")
    with acquiring.transaction():
        agents.record_agent_heartbeat(acquiring, id=agent_ids[0], resource_usage={"memory_mb": 1})
        assert take(same, agent_ids[2], "gpu-1") is None


@pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
def test_a_transaction_that_could_not_see_who_has_the_lock_is_refused(
    connections, agent_ids, level
):
    connections[0].isolation_level = level
    with (
        pytest.raises(InvalidTransactionState, match=level.name.replace("_", " ")),
        connections[0].transaction(),
    ):
        take(connections[0], agent_ids[0])
    assert agent_states.list_agent_locks(connections[1]) == []
