"""The views of the runs: what they show of which rows, by whose rights."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from optiinfra_db.generated import agents, customers, workflow_executions, workflow_steps

VIEWS = [
    "agent_workload",
    "failed_workflows",
    "running_workflows",
    "workflow_progress",
    "workflow_stats",
]
ERROR = {"type": "QuotaExceeded", "message": "no GPUs left"}
OF_STATUS = {
    "pending": [],
    "running": ["started_at"],
    "completed": ["started_at", "completed_at"],
    "failed": ["started_at", "completed_at", "error_details"],
    "skipped": ["completed_at"],
    "retrying": ["started_at", "next_attempt_at", "error_details"],
}
"""What a step in a state has."""


def seconds(number):
    return timedelta(seconds=number)


@pytest.fixture
def make_customer(conn):
    def make(name):
        return customers.create_customer(
            conn, name=name, email=f"{name}@example.com", api_key_hash=uuid4().bytes * 2
        ).id

    return make


@pytest.fixture
def atlas(make_customer):
    return make_customer("atlas")


@pytest.fixture
def agent(conn):
    return agents.upsert_agent(conn, type="cost", name="cost-1", version="1.0").id


@pytest.fixture
def read(conn):
    """Read a view, as objects with a field a column."""

    def run(view, rest="", parameters=()):
        with conn.cursor(row_factory=namedtuple_row) as cursor:
            return cursor.execute(f"SELECT * FROM {view} {rest}", parameters).fetchall()

    return run


@pytest.fixture
def record(conn, atlas, agent):
    """Write a run that was created some seconds ago, with a step in each of some states."""

    def write(status="completed", *, ago=1000, waited=10, took=100.5, steps=(), **given):
        created_at = datetime.now(UTC) - seconds(ago)
        started_at = None if took is None else created_at + seconds(waited)
        ended_at = (started_at or created_at) + seconds(took or 0)
        rows = []
        for order, step_status in enumerate(steps, start=1):
            values = {
                "started_at": started_at and started_at.isoformat(),
                "completed_at": ended_at.isoformat(),
                "next_attempt_at": ended_at.isoformat(),
                "error_details": {"message": f"error of step {order}"},
            }
            row = {name: values[name] for name in OF_STATUS[step_status]}
            name = {"step_name": f"step {order}", "step_order": order, "status": step_status}
            rows.append(row | name)
        values = {
            "customer_id": atlas,
            "agent_id": agent,
            "workflow_type": "cost_analysis",
            "status": status,
            "created_at": created_at,
            "started_at": started_at,
            "completed_at": None if status in ("pending", "running") else ended_at,
            "error_details": ERROR if status in ("failed", "timeout") else None,
            "steps": rows,
            "artifacts": [],
        }
        return workflow_executions.record_workflow_execution(conn, **values | given)

    return write


def test_progress_has_a_row_a_run_in_every_state(record, read):
    runs = {
        "pending": record("pending", ago=500, took=None, steps=["pending"] * 2),
        "running": record(
            "running",
            ago=500,
            steps=["completed", "skipped", "failed", "retrying", "running", "pending"],
        ),
        "completed": record("completed", steps=["completed"] * 3),
        "failed": record("failed", steps=["completed", "failed", "completed"]),
        "timeout": record("timeout"),
        "cancelled": record("cancelled", took=None, ago=500, steps=["skipped"]),
    }

    rows = {row.workflow_id: row for row in read("workflow_progress")}

    assert len(rows) == 6
    found = {name: rows[run.id] for name, run in runs.items()}
    for name, row in found.items():
        assert (row.status, row.workflow_type) == (name, "cost_analysis")
        assert (row.customer, row.agent, row.attempt) == ("atlas", "cost-1", 1)
        assert (row.customer_id, row.agent_id) == (runs[name].customer_id, runs[name].agent_id)
        assert row.created_at == runs[name].created_at
    progress = {
        name: (row.steps_done, row.steps_total, row.percent, row.current_step)
        for name, row in found.items()
    }
    assert progress == {
        "pending": (0, 2, 0, None),
        "running": (2, 6, 33, "step 4"),
        "completed": (3, 3, 100, None),
        "failed": (2, 3, 66, None),
        "timeout": (0, 0, None, None),
        "cancelled": (1, 1, 100, None),
    }


def test_progress_tells_waiting_from_running_in_whole_seconds(record, read):
    record("pending", ago=500, took=None)
    record("running", ago=500)
    record("completed")
    record("cancelled", ago=500, took=None)

    rows = {row.status: row for row in read("workflow_progress")}

    assert seconds(499) <= rows["pending"].waited_for <= seconds(502)
    assert rows["pending"].ran_for is None
    assert rows["running"].waited_for == seconds(10)
    assert seconds(489) <= rows["running"].ran_for <= seconds(492)
    assert rows["running"].ran_for.microseconds == 0
    assert (rows["completed"].waited_for, rows["completed"].ran_for) == (seconds(10), seconds(100))
    assert (rows["cancelled"].waited_for, rows["cancelled"].ran_for) == (seconds(0), None)


def test_progress_does_not_count_the_steps_that_the_end_of_a_run_closed(conn, atlas, agent, read):
    run = workflow_executions.create_workflow_execution(
        conn,
        customer_id=atlas,
        agent_id=agent,
        workflow_type="cost_analysis",
        step_names=["a", "b", "c", "d"],
    )
    workflow_executions.start_workflow_execution(conn, customer_id=atlas, id=run.id)
    of_run = {"customer_id": atlas, "workflow_execution_id": run.id}
    first, second, *_ = workflow_steps.list_workflow_steps(conn, **of_run)
    workflow_steps.skip_workflow_step(conn, **of_run, id=first.id, retry_count=0)
    workflow_steps.start_workflow_step(conn, **of_run, id=second.id)
    workflow_executions.fail_workflow_execution(
        conn, customer_id=atlas, id=run.id, attempt=1, error_details=ERROR
    )

    (row,) = read("workflow_progress")
    assert (row.status, row.steps_done, row.steps_total, row.percent) == ("failed", 1, 4, 25)


def test_running_are_only_those_that_run_the_longest_running_first(conn, record, read, atlas):
    for status in ("pending", "cancelled"):
        record(status, took=None)
    record("completed")
    young = record("running", ago=100, deadline_at=datetime.now(UTC) - seconds(60))
    old = record("running", ago=900, steps=["completed", "running", "pending"])
    workflow_executions.heartbeat_workflow_execution(conn, customer_id=atlas, id=old.id, attempt=1)

    first, second = read("running_workflows")

    assert (first.workflow_id, second.workflow_id) == (old.id, young.id)
    assert (first.steps_done, first.steps_total, first.percent) == (1, 3, 33)
    assert (first.current_step, first.time_left) == ("step 2", None)
    assert first.silent_for <= seconds(1)
    assert first.running_for >= seconds(889)
    assert second.silent_for == second.running_for
    assert -seconds(62) <= second.time_left <= -seconds(58)


def test_failed_are_told_with_their_first_failed_step_and_why(record, read, make_customer, conn):
    record("completed")
    record("cancelled", took=None)
    of_step = record("failed", steps=["completed", "failed", "failed", "skipped"])
    of_run = record("timeout", took=None, steps=["skipped"], customer_id=make_customer("nimbus"))
    bare = record("failed", error_details={"code": 17})
    retry = workflow_executions.retry_workflow_execution(
        conn, customer_id=of_step.customer_id, id=of_step.id
    )

    newest, second, oldest = read("failed_workflows")

    assert [row.workflow_id for row in (newest, second, oldest)] == [bare.id, of_run.id, of_step.id]
    assert (oldest.failed_step, oldest.error) == ("step 2", "error of step 2")
    assert (oldest.customer, oldest.agent, oldest.status) == ("atlas", "cost-1", "failed")
    assert (oldest.failed_at, oldest.ran_for) == (of_step.completed_at, seconds(100))
    assert oldest.failed_step_id is not None
    assert oldest.retry_id == retry.id
    assert (second.status, second.customer) == ("timeout", "nimbus")
    assert (second.failed_step, second.error, second.ran_for) == (None, "no GPUs left", None)
    assert (second.failed_step_id, second.retry_id) == (None, None)
    assert newest.error == '{"code": 17}'


def test_stats_are_of_what_ended_in_the_last_24_hours(record, read, make_customer):
    day = 24 * 3600
    for ago in (day - 60, 1000, 200):
        record("completed", ago=ago, waited=0, took=100.5)
    record("failed", waited=20, took=60, attempt=2, customer_id=make_customer("nimbus"))
    record("timeout", waited=20, took=60)
    record("cancelled", took=None)
    record("running", ago=100)
    record("failed", ago=day + 60, waited=0, took=1)
    record("cancelled", took=None, workflow_type="health_check")

    stats, never_started = read("workflow_stats")

    assert (stats.workflow_type, stats.ended) == ("cost_analysis", 6)
    assert (stats.completed, stats.failed, stats.timed_out, stats.cancelled) == (3, 1, 1, 1)
    assert (float(stats.failed_percent), float(stats.retries_percent)) == (33.3, 16.7)
    assert stats.duration_p50 == stats.duration_p95 == stats.duration_p99 == seconds(100)
    assert stats.queue_wait_p95 == seconds(20)
    assert (never_started.workflow_type, never_started.duration_p50) == ("health_check", None)
    assert never_started.queue_wait_p95 is None


def test_workload_is_by_type_and_name_of_the_agents(conn, record, read, agent):
    other = agents.upsert_agent(conn, type="orchestrator", name="main", version="1.0")
    record("running", ago=60)
    record("pending", ago=300, took=None)
    record("pending", ago=60, took=None)
    record("failed", ago=200, took=100)
    record("failed", ago=4000, took=100)

    idle, busy = read("agent_workload")

    assert (idle.agent, idle.agent_type, idle.agent_id) == ("main", "orchestrator", other.id)
    assert (idle.running, idle.pending, idle.oldest_pending_for) == (0, 0, None)
    assert (busy.agent_id, busy.running, busy.pending) == (agent, 1, 2)
    assert seconds(299) <= busy.oldest_pending_for <= seconds(302)
    assert (busy.ended_last_hour, busy.failed_last_hour) == (1, 1)


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_shows_what_its_reader_may_read(conn, record, view):
    for status in ("running", "failed"):
        record(status)
    role = f"r{uuid4().hex}"
    conn.execute(f"CREATE ROLE {role} IN ROLE optiinfra_reader")
    conn.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    conn.execute(f"SET LOCAL ROLE {role}")
    assert conn.execute(f"SELECT * FROM {view}").fetchall()

    conn.execute("RESET ROLE")
    conn.execute(f"REVOKE optiinfra_reader FROM {role}")
    conn.execute(f"SET LOCAL ROLE {role}")
    shown = conn.execute(f"SELECT * FROM {view}").fetchall()
    assert [row[4:9] for row in shown] == ([(0, 0, None, 0, 0)] if view == "agent_workload" else [])

    conn.execute("RESET ROLE")
    conn.execute(f"REVOKE SELECT ON workflow_executions FROM {role}")
    conn.execute(f"SET LOCAL ROLE {role}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(f"SELECT * FROM {view}")
