"""The functions of the schema: ids, updated_at, and partitions under concurrency."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from uuid import UUID

import psycopg
import pytest

from optiinfra_db import connect
from optiinfra_db.generated import agents, customers, events, partitions, workflow_executions
from optiinfra_db.generated.models import AgentType, CustomerPlan, WorkflowType
from optiinfra_db.migrate import migrate


def make_customer(conn):
    return customers.create_customer(
        conn, name="Ada", email="ada@example.com", api_key_hash=bytes(32)
    )


def test_uuidv7_is_ordered_within_a_session_and_tells_the_time(conn):
    rows = conn.execute("SELECT uuidv7() FROM generate_series(1, 20000)").fetchall()
    ids = [row[0] for row in rows]

    assert {(one.version, one.variant) for one in ids} == {(7, "specified in RFC 4122")}
    assert len(set(ids)) == len(ids)
    out_of_order = sum(one > other for one, other in pairwise(ids))
    # Our own, before PostgreSQL 18, counts microseconds: two ids may share one.
    assert out_of_order == 0 or (
        conn.info.server_version < 180000 and out_of_order < len(ids) / 100
    )
    milliseconds = UUID(str(ids[0])).int >> 80
    assert abs(milliseconds / 1000 - time.time()) < 60


def test_updated_at_is_kept_by_the_database_for_every_writer(database_url):
    with connect(database_url) as conn:
        customer = make_customer(conn)
        agent = agents.upsert_agent(conn, type=AgentType.COST, name="a", version="1")

        conn.execute("UPDATE customers SET name = 'Grace', updated_at = '2000-01-01'")
        changed = customers.get_customer(conn, id=customer.id)
        assert changed.updated_at > customer.updated_at
        assert changed.created_at == customer.created_at

        assert customers.update_customer(conn, id=customer.id, plan=CustomerPlan.FREE) == changed
        beaten = agents.record_agent_heartbeat(conn, id=agent.id)
        assert beaten.updated_at == beaten.last_heartbeat > agent.updated_at


def test_a_heartbeat_moves_on_and_a_run_takes_as_long_as_it_took(database_url):
    with connect(database_url) as conn:
        customer = make_customer(conn)
        agent = agents.upsert_agent(conn, type=AgentType.COST, name="a", version="1")
        run = workflow_executions.create_workflow_execution(
            conn,
            customer_id=customer.id,
            agent_id=agent.id,
            workflow_type=WorkflowType.HEALTH_CHECK,
            step_names=[],
        )
        key = {"customer_id": customer.id, "id": run.id}
        started = workflow_executions.start_workflow_execution(conn, **key)
        beaten = workflow_executions.heartbeat_workflow_execution(conn, **key, attempt=1)
        completed = workflow_executions.complete_workflow_execution(conn, **key, attempt=1)

    assert run.created_at < started.started_at == started.heartbeat_at
    assert started.heartbeat_at < beaten.heartbeat_at < completed.completed_at
    assert completed.heartbeat_at == beaten.heartbeat_at


def test_ensure_partitions_by_many_at_once_under_load_loses_nothing(database_url):
    """Four sessions make 24 months while two others write events of those months."""
    writers, months, stop = 2, 24, threading.Event()
    with connect(database_url) as conn:
        customer_id = make_customer(conn).id
        conn.execute(
            "INSERT INTO events (customer_id, event_type, created_at) "
            "SELECT %s, 'early', now() + make_interval(months => m) "
            "FROM generate_series(0, %s) AS m",
            [customer_id, months],
        )

    def write(number):
        written = 0
        with connect(database_url) as conn:
            while not stop.is_set():
                events.create_event(
                    conn,
                    customer_id=customer_id,
                    event_type=f"writer.{number}",
                    created_at=conn.execute(
                        "SELECT now() + make_interval(months => %s)", [written % months]
                    ).fetchone()[0],
                )
                written += 1
        return written

    def ensure(_):
        with connect(database_url) as conn:
            return [
                name
                for ahead in range(4, months + 1, 4)
                for name in partitions.ensure_partitions(conn, months_ahead=ahead)
            ]

    with ThreadPoolExecutor(writers + 4) as executor:
        writing = [executor.submit(write, number) for number in range(writers)]
        try:
            made = [name for names in executor.map(ensure, range(4)) for name in names]
        finally:
            stop.set()
        written = sum(future.result() for future in writing)

    with connect(database_url) as conn:
        total = conn.execute("SELECT count(*) FROM events WHERE event_type != 'early'").fetchone()
        assert total == (written,)
        assert conn.execute("SELECT count(*) FROM events_default").fetchone() == (0,)
    assert len(made) == len(set(made)) == 2 * (months - 3)
    assert written > 0


def test_ensure_partitions_gives_up_on_a_lock_it_cannot_get_and_changes_nothing(database_url):
    with connect(database_url) as reader, connect(database_url) as conn:
        reader.autocommit = False
        reader.execute("SELECT * FROM events_default").fetchall()

        with pytest.raises(psycopg.errors.LockNotAvailable):
            partitions.ensure_partitions(conn, months_ahead=12)

        reader.rollback()
        assert len(partitions.ensure_partitions(conn, months_ahead=12)) == 18


def test_ensure_partitions_with_nothing_to_do_waits_for_nobody(database_url):
    with connect(database_url) as other, connect(database_url) as conn:
        other.autocommit = False
        other.execute("LOCK TABLE events_default, events, agents IN ROW EXCLUSIVE MODE")
        other.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('optiinfra_db.ensure_partitions', 0))"
        )

        assert partitions.ensure_partitions(conn, months_ahead=3) == []


def test_a_table_that_only_has_the_name_of_a_partition_does_not_pass_for_it(database_url):
    with connect(database_url) as conn:
        month = conn.execute(
            "SELECT to_char(now() + interval '4 months', 'events_YYYY_MM')"
        ).fetchone()[0]
        conn.execute(f"CREATE TEMPORARY TABLE {month} (x integer)")
        assert month in partitions.ensure_partitions(conn, months_ahead=4)

        rows = "SELECT to_char(now() + interval '5 months', 'events_YYYY_MM')"
        conn.execute(f"CREATE TABLE {conn.execute(rows).fetchone()[0]} (x integer)")
        with pytest.raises(psycopg.errors.DuplicateTable):
            partitions.ensure_partitions(conn, months_ahead=5)


def test_ensure_partitions_finds_its_schema_whoever_calls_it(empty_database_url):
    with connect(empty_database_url) as conn:
        conn.execute("CREATE SCHEMA own")
        conn.execute(f"ALTER DATABASE {conn.info.dbname} SET search_path = own")
    migrate(empty_database_url)

    with connect(empty_database_url) as conn:
        conn.execute("SET search_path = public")
        assert len(conn.execute("SELECT own.ensure_partitions(4)").fetchall()) == 2
