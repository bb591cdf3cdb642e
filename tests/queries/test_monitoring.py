"""What operators ask of runs, steps, agents, artifacts and of the database itself."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from optiinfra_db import connect
from optiinfra_db.errors import InvalidValue
from optiinfra_db.generated import monitoring
from optiinfra_db.generated.models import (
    AgentStatus,
    AgentStatusDetail,
    AgentType,
    ArtifactType,
    WorkflowStatus,
    WorkflowType,
)

from ..conftest import FORGETFUL, running_server
from .database import key, run_attempt, step_key

SINCE = datetime(2026, 3, 1, 12, tzinfo=UTC)
HALF_PAST = SINCE + timedelta(minutes=30)
UNTIL = SINCE + timedelta(hours=1)
NOON_TO_ONE = {"since": SINCE, "until": UNTIL}
MOMENT = timedelta(microseconds=1)
ERROR = {"type": "QuotaExceeded", "message": "no GPUs left"}


def seconds(number):
    return timedelta(seconds=number)


def step(name, status="completed", *, start=None, took=60, **given):
    """Describe a step: start is in seconds from that of the run, None where it never was."""
    return start, took, {"step_name": name, "status": status} | given


def artifact(artifact_type, size_bytes):
    return {
        "artifact_type": artifact_type,
        "artifact_name": "a",
        "artifact_path": f"s3://bucket/{uuid4()}",
        "artifact_size_bytes": size_bytes,
        "content_type": "text/plain",
        "sha256": "00" * 32,
    }


def record(
    db,
    customer,
    agent,
    *,
    ended_at=HALF_PAST,
    status="completed",
    waited=60,
    took=600,
    workflow_type=WorkflowType.COST_ANALYSIS,
    steps=(),
    **given,
):
    """Write a run that ended; one that took None was never started."""
    started_at = None if took is None else ended_at - seconds(took)
    rows = []
    for order, (start, step_took, values) in enumerate(steps, start=1):
        times = {"completed_at": ended_at.isoformat()}
        if start is not None:
            step_start = started_at + seconds(start)
            times = {
                "started_at": step_start.isoformat(),
                "completed_at": (step_start + seconds(step_took)).isoformat(),
            }
        rows.append({"step_order": order} | times | values)
    values = {
        "customer_id": customer.id,
        "agent_id": agent.id,
        "workflow_type": workflow_type,
        "status": status,
        "created_at": (started_at or ended_at) - seconds(waited),
        "started_at": started_at,
        "completed_at": ended_at,
        "error_details": ERROR if status in ("failed", "timeout") else None,
        "steps": rows,
        "artifacts": [],
    }
    return db.workflow_executions.record_workflow_execution(**values | given)


def record_open(db, customer, agent, *, created_at, started_at=None, steps=(), **given):
    """Write a run that is running where it has a start, else pending."""
    return db.workflow_executions.record_workflow_execution(
        customer_id=customer.id,
        agent_id=agent.id,
        workflow_type=WorkflowType.COST_ANALYSIS,
        status="running" if started_at else "pending",
        created_at=created_at,
        started_at=started_at,
        steps=list(steps),
        artifacts=[],
        **given,
    )


def count(db, **window):
    rows = db.monitoring.count_workflow_executions(**NOON_TO_ONE | window)
    return {(row.workflow_type.value, row.status.value): row.runs for row in rows}


def test_counts_are_of_what_ended_in_the_window_from_since_to_before_until(db):
    customer, agent = db.make_customer(), db.make_agent()
    for ended_at in (SINCE - MOMENT, SINCE, UNTIL - MOMENT, UNTIL):
        record(db, customer, agent, ended_at=ended_at)
    record(db, customer, agent, status="failed")
    record(db, customer, agent, status="timeout", workflow_type=WorkflowType.HEALTH_CHECK)
    record(db, customer, agent, status="cancelled", took=None)

    assert count(db) == {
        ("cost_analysis", "completed"): 2,
        ("cost_analysis", "failed"): 1,
        ("cost_analysis", "cancelled"): 1,
        ("health_check", "timeout"): 1,
    }
    assert count(db, since=UNTIL + MOMENT, until=UNTIL + timedelta(days=1)) == {}


def test_counts_have_those_that_are_open_where_they_were_created_in_the_window(db):
    customer, agent = db.make_customer(), db.make_agent()
    for created_at in (SINCE - MOMENT, SINCE, UNTIL - MOMENT, UNTIL):
        record_open(db, customer, agent, created_at=created_at)
        record_open(db, customer, agent, created_at=created_at, started_at=UNTIL)
    # Created in the window and over since, after its end.
    record(db, customer, agent, ended_at=UNTIL + seconds(1))

    assert count(db) == {("cost_analysis", "pending"): 2, ("cost_analysis", "running"): 2}


def test_counts_of_a_customer_are_of_no_other(db):
    one, other, agent = db.make_customer(), db.make_customer(), db.make_agent()
    record(db, one, agent)
    for _ in range(2):
        record(db, other, agent)
    record_open(db, other, agent, created_at=SINCE)

    assert count(db, customer_id=one.id) == {("cost_analysis", "completed"): 1}
    assert count(db, customer_id=other.id) == {
        ("cost_analysis", "completed"): 2,
        ("cost_analysis", "pending"): 1,
    }
    assert count(db) == {("cost_analysis", "completed"): 3, ("cost_analysis", "pending"): 1}
    assert count(db, customer_id=uuid4()) == {}


def test_stats_have_how_runs_ended_by_type(db):
    customer, agent = db.make_customer(), db.make_agent()
    for status in ["completed"] * 5 + ["failed", "timeout", "cancelled"]:
        record(db, customer, agent, status=status)
    for attempt in (2, 3):
        record(db, customer, agent, attempt=attempt)
    record(db, customer, agent, status="failed", ended_at=UNTIL)
    record(db, customer, agent, workflow_type=WorkflowType.HEALTH_CHECK)

    stats, health = db.monitoring.list_workflow_stats(**NOON_TO_ONE)

    assert stats.workflow_type is WorkflowType.COST_ANALYSIS
    assert (stats.ended, stats.completed) == (10, 7)
    assert (stats.failed, stats.timed_out, stats.cancelled) == (1, 1, 1)
    assert (stats.failure_rate, stats.retry_rate) == (0.2, 0.2)
    assert (health.ended, health.failure_rate, health.retry_rate) == (1, 0, 0)


def test_stats_have_percentiles_of_durations_and_queue_waits(db):
    one, other, agent = db.make_customer(), db.make_customer(), db.make_agent()
    for number in range(101):
        record(db, one if number % 2 else other, agent, took=number, waited=2 * number)

    (stats,) = db.monitoring.list_workflow_stats(**NOON_TO_ONE)
    (odd,) = db.monitoring.list_workflow_stats(**NOON_TO_ONE, customer_id=one.id)

    assert (stats.duration_p50, stats.duration_p95) == (seconds(50), seconds(95))
    assert stats.duration_p99 == seconds(99)
    assert (stats.queue_wait_p50, stats.queue_wait_p95) == (seconds(100), seconds(190))
    assert stats.queue_wait_p99 == seconds(198)
    assert odd.ended == 50
    assert odd.duration_p50 == seconds(50)
    assert odd.duration_p99 > seconds(98)


def test_runs_that_were_never_started_have_no_times(db):
    customer, agent = db.make_customer(), db.make_agent()
    record(db, customer, agent, status="cancelled", took=None)
    (stats,) = db.monitoring.list_workflow_stats(**NOON_TO_ONE)
    assert (stats.ended, stats.cancelled) == (1, 1)
    assert (stats.duration_p50, stats.duration_p95, stats.duration_p99) == (None, None, None)
    assert (stats.queue_wait_p50, stats.queue_wait_p95, stats.queue_wait_p99) == (None, None, None)

    record(db, customer, agent, took=30, waited=5)
    (stats,) = db.monitoring.list_workflow_stats(**NOON_TO_ONE)
    assert (stats.ended, stats.duration_p99, stats.queue_wait_p50) == (2, seconds(30), seconds(5))


def test_an_empty_window_has_no_stats(db):
    customer, agent = db.make_customer(), db.make_agent()
    record(db, customer, agent, steps=[step("a", start=0)])
    for window in (
        {"since": UNTIL, "until": UNTIL + timedelta(hours=1)},
        {"since": SINCE, "until": SINCE},
        {"since": UNTIL, "until": SINCE},
        NOON_TO_ONE | {"customer_id": db.make_customer().id},
    ):
        assert db.monitoring.list_workflow_stats(**window) == []
        assert db.monitoring.list_step_stats(**window) == []
        assert db.monitoring.list_failing_steps(**window, max_rows=10) == []
        assert db.monitoring.list_slowest_steps(**window, max_rows=10) == []
        assert db.monitoring.list_artifact_volume(**window) == []


def test_step_stats_are_by_type_of_run_and_name_of_step(db):
    customer, agent = db.make_customer(), db.make_agent()
    for status in ("completed", "completed", "completed", "failed"):
        record(
            db,
            customer,
            agent,
            status=status,
            steps=[
                step("collect", start=0, retry_count=1),
                step("analyze", status, start=60, error_details=ERROR),
                step("report", "skipped"),
            ],
        )
    record(
        db,
        customer,
        agent,
        workflow_type=WorkflowType.HEALTH_CHECK,
        steps=[step("collect", start=0, took=5)],
    )
    record(db, customer, agent, ended_at=UNTIL, steps=[step("collect", start=0)])

    analyze, collect, report, health = db.monitoring.list_step_stats(**NOON_TO_ONE)

    assert [row.step_name for row in (analyze, collect, report)] == ["analyze", "collect", "report"]
    assert (analyze.steps, analyze.completed, analyze.failed, analyze.skipped) == (4, 3, 1, 0)
    assert (analyze.failure_rate, analyze.retry_rate) == (0.25, 0)
    assert (collect.completed, collect.failure_rate, collect.retry_rate) == (4, 0, 1)
    assert (report.steps, report.skipped) == (4, 4)
    assert (report.failure_rate, report.duration_p50, report.queue_wait_p99) == (None, None, None)
    assert health.workflow_type is WorkflowType.HEALTH_CHECK
    assert (health.steps, health.duration_p95) == (1, seconds(5))


def test_a_step_waits_from_the_end_of_the_one_before_or_the_start_of_its_run(db):
    customer, agent = db.make_customer(), db.make_agent()
    record(
        db,
        customer,
        agent,
        took=600,
        steps=[
            # Carried over by a retry: over before the run was started.
            step("a carried over", "skipped", completed_at=(SINCE - seconds(999)).isoformat()),
            step("b first", start=7, took=60),
            step("c next", start=70, took=100),
            step("d beside it", start=100, took=50),
            step("e last", start=153, took=10),
            step("f never", "skipped"),
        ],
    )

    stats = db.monitoring.list_step_stats(**NOON_TO_ONE, customer_id=customer.id)

    waits = [None, seconds(7), seconds(3), seconds(0), seconds(3), None]
    assert [row.queue_wait_p50 for row in stats] == waits
    durations = [None, seconds(60), seconds(100), seconds(50), seconds(10), None]
    assert [row.duration_p50 for row in stats] == durations


def test_failing_steps_have_their_share_and_their_latest_error(db):
    one, other, agent = db.make_customer(), db.make_customer(), db.make_agent()

    def fail(customer, name, error, at):
        return record(
            db,
            customer,
            agent,
            status="failed",
            ended_at=at,
            took=60,
            steps=[
                step("collect", start=0, took=10),
                step(name, "failed", start=10, took=50, retry_count=2, error_details=error),
                step("report", "skipped"),
            ],
        )

    latest = fail(other, "analyze", {"message": "latest"}, SINCE + seconds(300))
    fail(one, "analyze", {"message": "earlier"}, SINCE + seconds(200))
    plain = fail(one, "optimize", {"code": 17}, SINCE + seconds(100))
    fail(one, "analyze", {"message": "too late"}, UNTIL)
    for _ in range(2):
        record(db, one, agent, steps=[step("analyze", start=0)])

    analyze, optimize = db.monitoring.list_failing_steps(**NOON_TO_ONE, max_rows=10)

    assert (analyze.workflow_type, analyze.step_name) == (WorkflowType.COST_ANALYSIS, "analyze")
    assert (analyze.failed, analyze.attempted, analyze.failure_rate) == (2, 4, 0.5)
    assert (analyze.retries, analyze.latest_error) == (4, "latest")
    assert analyze.latest_failed_at == SINCE + seconds(300)
    assert analyze.latest_customer_id == other.id
    assert analyze.latest_workflow_execution_id == latest.id
    assert (optimize.failed, optimize.failure_rate) == (1, 1)
    assert optimize.latest_error == '{"code": 17}'
    assert optimize.latest_workflow_execution_id == plain.id

    assert db.monitoring.list_failing_steps(**NOON_TO_ONE, max_rows=1) == [analyze]
    of_one = db.monitoring.list_failing_steps(**NOON_TO_ONE, customer_id=one.id, max_rows=10)
    assert [(row.step_name, row.failed) for row in of_one] == [("optimize", 1), ("analyze", 1)]
    assert of_one[1].latest_error == "earlier"


def test_a_step_whose_run_was_cancelled_did_not_fail(db):
    run = db.start_run(db.make_run())
    first = db.workflow_steps.start_workflow_step(**step_key(db.steps_of(run)[0]))
    db.workflow_executions.cancel_workflow_execution(**key(run), reason="no longer wanted")
    assert db.steps_of(run)[0].status == "failed"

    hour = {"since": run.created_at - seconds(1), "until": run.created_at + seconds(3600)}
    stats = db.monitoring.list_step_stats(**hour, customer_id=run.customer_id)
    (row,) = (row for row in stats if row.step_name == first.step_name)
    assert (row.steps, row.failed, row.skipped, row.failure_rate) == (1, 0, 1, None)
    assert db.monitoring.list_failing_steps(**hour, max_rows=9, customer_id=run.customer_id) == []


def test_slowest_steps_come_with_their_run(db):
    one, other = db.make_customer(), db.make_customer()
    agent = db.make_agent()
    run = record(
        db,
        one,
        agent,
        steps=[step("a", start=0, took=30), step("b", start=30, took=90), step("c", "skipped")],
    )
    record(
        db,
        other,
        agent,
        status="failed",
        steps=[step("d", "failed", start=1, took=60, error_details=ERROR)],
    )
    record(db, one, agent, ended_at=UNTIL, steps=[step("too late", start=0, took=500)])

    slowest, second, last = db.monitoring.list_slowest_steps(**NOON_TO_ONE, max_rows=10)

    assert [row.step_name for row in (slowest, second, last)] == ["b", "d", "a"]
    durations = [row.duration for row in (slowest, second, last)]
    assert durations == [seconds(90), seconds(60), seconds(30)]
    assert (slowest.customer_id, slowest.customer_name) == (one.id, one.name)
    assert slowest.workflow_execution_id == run.id
    assert slowest.workflow_step_id == db.steps_of(run)[1].id
    assert (slowest.agent_id, slowest.agent_name) == (agent.id, agent.name)
    assert slowest.started_at == run.started_at + seconds(30)
    assert (second.status, second.customer_id) == ("failed", other.id)
    assert db.monitoring.list_slowest_steps(**NOON_TO_ONE, max_rows=1) == [slowest]
    of_other = db.monitoring.list_slowest_steps(**NOON_TO_ONE, customer_id=other.id, max_rows=10)
    assert of_other == [second]


def test_the_oldest_running_come_first_and_say_how_far_they_are(db):
    one, other, agent = db.make_customer(), db.make_customer(), db.make_agent()
    now = datetime.now(UTC)
    times = {"started_at": (now - seconds(600)).isoformat()}
    over = times | {"status": "completed", "completed_at": now.isoformat()}
    old = record_open(
        db,
        one,
        agent,
        created_at=now - seconds(700),
        started_at=now - seconds(600),
        deadline_at=now + timedelta(hours=1),
        steps=[
            {"step_name": "a", "step_order": 1} | over,
            {"step_name": "b", "step_order": 2, "status": "running"} | times,
            {"step_name": "c", "step_order": 3, "status": "pending"},
        ],
    )
    young = db.start_run(db.make_run(other, agent, step_names=[]))
    db.make_run(one, agent)

    first, second = db.monitoring.list_oldest_running_workflows(max_rows=10)

    assert (first.workflow_id, first.customer_id, first.customer) == (old.id, one.id, one.name)
    assert (first.agent, first.agent_id, first.attempt) == (agent.name, agent.id, 1)
    assert (first.steps_done, first.steps_total, first.percent) == (1, 3, 33)
    assert first.current_step == "b"
    assert first.running_for >= seconds(599)
    assert first.silent_for == first.running_for  # it never sent a heartbeat
    assert first.running_for.microseconds == 0
    assert seconds(3500) < first.time_left <= seconds(3600)
    assert (second.workflow_id, second.steps_total, second.percent) == (young.id, 0, None)
    assert (second.current_step, second.time_left) == (None, None)
    assert db.monitoring.list_oldest_running_workflows(max_rows=1) == [first]


TEN_MINUTES = timedelta(minutes=10)


def running_step(now, ago, **given):
    started_at = (now - seconds(ago)).isoformat()
    return {
        "step_name": "a",
        "step_order": 1,
        "status": "running",
        "started_at": started_at,
    } | given


def stuck(db, **given):
    return db.monitoring.list_stuck_workflows(**{"silent_for": TEN_MINUTES, "max_rows": 10} | given)


def test_runs_that_move_are_not_stuck(db):
    customer, agent = db.make_customer(), db.make_agent()
    now = datetime.now(UTC)
    run = db.start_run(db.make_run(customer, agent))
    first, *_ = db.steps_of(run)
    db.workflow_steps.start_workflow_step(**step_key(first))
    # Waits for its retry, which is to come.
    record_open(
        db,
        customer,
        agent,
        created_at=now - seconds(900),
        started_at=now - seconds(599),
        steps=[
            running_step(
                now,
                900,
                status="retrying",
                error_details=ERROR,
                next_attempt_at=(now + seconds(60)).isoformat(),
            )
        ],
    )
    # Never uses steps.
    db.start_run(db.make_run(customer, agent, step_names=[]))
    # Waits for an agent, with time left.
    record_open(
        db, customer, agent, created_at=now - timedelta(days=1), deadline_at=now + seconds(60)
    )
    record(db, customer, agent, status="failed", deadline_at=SINCE)

    assert stuck(db) == []


def test_a_run_past_its_deadline_is_stuck_though_it_is_still_pending(db):
    customer, agent = db.make_customer(), db.make_agent()
    now = datetime.now(UTC)
    deadline = now - seconds(30)
    run = record_open(db, customer, agent, created_at=now - seconds(99), deadline_at=deadline)

    (row,) = stuck(db)

    assert (row.customer_id, row.customer_name, row.id) == (customer.id, customer.name, run.id)
    assert (row.status, row.agent_name) == (WorkflowStatus.PENDING, agent.name)
    assert (row.deadline_at, row.started_at, row.heartbeat_at) == (deadline, None, None)
    assert row.stuck_since == deadline
    assert row.reason.startswith("past its deadline since 20")


def test_a_running_run_without_heartbeats_is_stuck(db):
    customer, agent = db.make_customer(), db.make_agent()
    now = datetime.now(UTC)
    run = record_open(
        db,
        customer,
        agent,
        created_at=now - seconds(900),
        started_at=now - seconds(700),
        steps=[running_step(now, 700)],
    )

    (row,) = stuck(db)
    assert row.id == run.id
    assert row.stuck_since == row.started_at == now - seconds(700)
    assert row.reason.startswith("no heartbeat since 20")
    assert stuck(db, silent_for=timedelta(seconds=800)) == []

    db.workflow_executions.heartbeat_workflow_execution(**run_attempt(run))
    assert stuck(db) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "completed", "completed_at": 800},
        {"status": "retrying", "error_details": ERROR, "next_attempt_at": 800},
        {"status": "pending", "started_at": None},
    ],
    ids=["all steps are over", "a retry is overdue", "the next step is not started"],
)
def test_a_run_none_of_whose_steps_runs_is_stuck_though_its_executor_is_alive(db, changes):
    customer, agent = db.make_customer(), db.make_agent()
    now = datetime.now(UTC)
    times = {
        name: (now - seconds(value)).isoformat() if isinstance(value, int) else value
        for name, value in changes.items()
    }
    run = record_open(
        db,
        customer,
        agent,
        created_at=now - seconds(900),
        started_at=now - seconds(800),
        steps=[running_step(now, 850, **times)],
    )
    db.workflow_executions.heartbeat_workflow_execution(**run_attempt(run))

    (row,) = stuck(db)

    assert row.stuck_since == now - seconds(800)
    assert row.heartbeat_at is not None
    assert row.reason.startswith("no step running since 20")
    assert ";" not in row.reason


def test_all_reasons_are_given_and_the_longest_stuck_comes_first(db):
    one, other, agent = db.make_customer(), db.make_customer(), db.make_agent()
    now = datetime.now(UTC)
    both = record_open(
        db,
        one,
        agent,
        created_at=now - seconds(9000),
        started_at=now - seconds(900),
        deadline_at=now - seconds(60),
    )
    worse = record_open(
        db,
        other,
        agent,
        created_at=now - seconds(9000),
        deadline_at=now - seconds(8000),
    )

    first, second = stuck(db)

    assert (first.id, second.id) == (worse.id, both.id)
    overdue, silent = second.reason.split("; ")
    assert overdue.startswith("past its deadline since")
    assert silent.startswith("no heartbeat since")
    assert second.stuck_since == now - seconds(900)
    assert stuck(db, max_rows=1) == [first]
    assert stuck(db, customer_id=one.id) == [second]


@pytest.mark.parametrize("silent_for", [timedelta(0), timedelta(seconds=-1)])
def test_a_time_of_silence_is_more_than_nothing(db, silent_for):
    with db.refused(InvalidValue):
        stuck(db, silent_for=silent_for)


def test_throughput_has_every_hour_of_the_window_and_zeros(db):
    one, other, agent = db.make_customer(), db.make_customer(), db.make_agent()
    db.execute("SET LOCAL timezone = 'Asia/Kolkata'")  # half an hour off
    for minutes, status in (
        (29, "completed"),
        (30, "completed"),
        (59, "failed"),
        (120, "timeout"),
        (179, "cancelled"),
        (180, "completed"),
    ):
        record(db, one, agent, ended_at=SINCE + timedelta(minutes=minutes), status=status)
    record(db, other, agent, ended_at=SINCE + timedelta(minutes=31))

    window = {"since": SINCE + timedelta(minutes=30), "until": SINCE + timedelta(hours=3)}
    noon, one_o_clock, two = db.monitoring.list_workflow_throughput(**window)

    assert [noon.hour, one_o_clock.hour, two.hour] == [SINCE + timedelta(hours=n) for n in range(3)]
    assert (noon.ended, noon.completed, noon.failed) == (3, 2, 1)
    assert (one_o_clock.ended, one_o_clock.completed, one_o_clock.cancelled) == (0, 0, 0)
    assert (two.ended, two.timed_out, two.cancelled) == (2, 1, 1)
    noon, *_ = db.monitoring.list_workflow_throughput(**window, customer_id=other.id)
    assert (noon.ended, noon.completed) == (1, 1)
    hours = db.monitoring.list_workflow_throughput(**window, customer_id=uuid4())
    assert [row.ended for row in hours] == [0, 0, 0]
    assert db.monitoring.list_workflow_throughput(since=SINCE, until=SINCE) == []
    with db.refused(InvalidValue) as caught:
        db.monitoring.list_workflow_throughput(since=SINCE - timedelta(days=4000), until=SINCE)
    assert caught.value.field == "since"


def test_the_stats_of_agents_are_of_the_runs_that_ended_in_the_window(db):
    one, other = db.make_customer(), db.make_customer()
    resource = db.make_agent(type=AgentType.RESOURCE)
    cost, _idle = db.make_agent(type=AgentType.COST), db.make_agent(type=AgentType.COST)
    for customer, agent, given in (
        (one, resource, {"took": 60}),
        (one, resource, {"status": "failed", "took": 30}),
        (other, resource, {"status": "timeout", "took": None}),
        (other, cost, {"status": "cancelled", "took": 5}),
        (one, cost, {"ended_at": SINCE + timedelta(hours=1)}),  # after the window
    ):
        record(db, customer, agent, **given)
    window = {"since": SINCE, "until": SINCE + timedelta(hours=1)}

    first, second = db.monitoring.list_agent_stats(**window)

    assert (first.agent_id, first.agent_name, first.agent_type) == (cost.id, cost.name, "cost")
    assert (first.ended, first.cancelled, first.busy_for) == (1, 1, seconds(5))
    assert second.agent_id == resource.id
    assert (second.ended, second.completed, second.failed, second.timed_out) == (3, 1, 1, 1)
    assert second.busy_for == seconds(90)
    (only,) = db.monitoring.list_agent_stats(**window, customer_id=one.id)
    assert (only.agent_id, only.ended, only.busy_for) == (resource.id, 2, seconds(90))
    assert db.monitoring.list_agent_stats(**window, customer_id=uuid4()) == []


def test_the_workload_of_agents_is_what_runs_waits_and_ended_in_the_last_hour(db):
    one, other = db.make_customer(), db.make_customer()
    busy = db.make_agent(type=AgentType.RESOURCE)
    idle = db.make_agent(type=AgentType.ORCHESTRATOR)
    now = datetime.now(UTC)
    running = record_open(db, one, busy, created_at=now, started_at=now)
    for ago in (300, 60):
        record_open(db, other, busy, created_at=now - seconds(ago))
    for customer, ago, status in (
        (one, 60, "completed"),
        (other, 3000, "failed"),
        (other, 3001, "timeout"),
        (one, 3002, "cancelled"),
        (one, 3700, "failed"),
    ):
        record(db, customer, busy, ended_at=now - seconds(ago), status=status)
    db.agents.record_agent_heartbeat(id=busy.id, status=AgentStatus.DEGRADED)
    db.agent_states.upsert_agent_state(agent_id=busy.id, current_status=AgentStatusDetail.BUSY)
    db.agent_states.set_agent_current_workflow(
        agent_id=busy.id, customer_id=one.id, workflow_execution_id=running.id
    )

    first, second = db.monitoring.list_agent_workload()

    assert (first.agent, first.agent_id) == (idle.name, idle.id)
    assert first.agent_type is AgentType.ORCHESTRATOR
    assert (first.status, first.silent_for, first.activity) == (AgentStatus.STARTING, None, None)
    assert (first.running, first.pending, first.oldest_pending_for) == (0, 0, None)
    assert (first.ended_last_hour, first.failed_last_hour) == (0, 0)
    assert (first.current_workflow_type, first.current_customer_id) == (None, None)
    assert first.current_workflow_id is None

    assert (second.agent_id, second.status) == (busy.id, AgentStatus.DEGRADED)
    assert second.silent_for == timedelta(0)
    assert (second.running, second.pending) == (1, 2)
    assert seconds(298) <= second.oldest_pending_for <= seconds(300)
    assert (second.ended_last_hour, second.failed_last_hour) == (4, 2)
    assert (second.activity, second.current_workflow_type) == ("busy", "cost_analysis")
    assert (second.current_customer_id, second.current_workflow_id) == (one.id, running.id)


def test_artifact_volume_is_of_the_runs_that_ended_in_the_window(db):
    one, other, agent = db.make_customer(), db.make_customer(), db.make_agent()
    record(
        db,
        one,
        agent,
        artifacts=[
            artifact("report", 1000),
            artifact("report", 3000),
            artifact("log", 5_000_000_000),
            artifact("log", 5_000_000_000),
            artifact("chart", 0),
        ],
    )
    record(db, other, agent, artifacts=[artifact("report", 500)])
    record(db, one, agent, ended_at=UNTIL, artifacts=[artifact("report", 9)])

    rows = db.monitoring.list_artifact_volume(**NOON_TO_ONE)

    found = [
        (row.artifact_type, row.artifacts, row.size_bytes, row.largest_size_bytes) for row in rows
    ]
    assert found == [
        (ArtifactType.LOG, 2, 10_000_000_000, 5_000_000_000),
        (ArtifactType.REPORT, 3, 4500, 3000),
        (ArtifactType.CHART, 1, 0, 0),
    ]
    (report,) = db.monitoring.list_artifact_volume(**NOON_TO_ONE, customer_id=other.id)
    assert (report.artifacts, report.size_bytes) == (1, 500)


def test_sizes_are_of_our_tables_and_indexes_with_partitions_summed(db):
    customer, agent = db.make_customer(), db.make_agent()
    record(db, customer, agent, steps=[step("a", start=0)])

    tables = {row.table_name: row for row in db.monitoring.list_table_sizes()}
    indexes = {row.index_name: row for row in db.monitoring.list_index_sizes()}
    partitions = db.monitoring.list_partition_sizes()

    assert len(tables) == 18
    assert not [name for name in tables if "yoyo" in name or name.startswith("events_")]
    for table in tables.values():
        assert table.total_bytes == table.table_bytes + table.index_bytes > 0
        of_table = [row for row in indexes.values() if row.table_name == table.table_name]
        assert sum(row.size_bytes for row in of_table) == table.index_bytes
        of_table = [row for row in partitions if row.table_name == table.table_name]
        if of_table:
            assert sum(row.total_bytes for row in of_table) == table.total_bytes
    sizes = [row.total_bytes for row in tables.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert indexes["workflow_executions_pkey"].is_unique
    assert not indexes["events_xact_id_id_idx"].is_unique
    assert not [name for name in indexes if name.startswith("events_default")]
    assert {row.table_name for row in partitions} == {"events", "agent_metrics"}
    default, *_ = [row for row in partitions if row.partition_name == "events_default"]
    assert default.bounds == "DEFAULT"
    month = datetime.now(UTC).strftime("events_%Y_%m")
    (this_month,) = [row for row in partitions if row.partition_name == month]
    assert this_month.bounds.startswith("FOR VALUES FROM ('")
    # What other tests left in it may be gone by now, but not the events of this one.
    *_, last_month = sorted(
        row.partition_name
        for row in partitions
        if row.table_name == "events" and row.partition_name != "events_default"
    )
    (still_empty,) = [row for row in partitions if row.partition_name == last_month]
    assert this_month.total_bytes > still_empty.total_bytes


def test_sizes_tell_dead_rows_scans_and_vacuums(database_url):
    with connect(database_url) as conn:
        before = {row.table_name: row for row in monitoring.list_table_sizes(conn)}
        assert before["customers"].last_vacuum is None
        conn.execute("ALTER TABLE customers SET (autovacuum_enabled = false)")
        conn.execute(
            "INSERT INTO customers (name, email) SELECT n::text, n || '@x.org' "
            "FROM generate_series(1, 50) AS n"
        )
        conn.execute("SET enable_seqscan = off")
        for _ in range(3):
            conn.execute("SELECT FROM customers WHERE lower(email) = '1@x.org'")
        conn.execute("UPDATE customers SET metadata = '{\"a\": 1}'")
        conn.execute("SELECT pg_stat_force_next_flush()")
        (customers,) = [
            row for row in monitoring.list_table_sizes(conn) if row.table_name == "customers"
        ]
        (email,) = [
            row
            for row in monitoring.list_index_sizes(conn)
            if row.index_name == "customers_email_key"
        ]
        assert (customers.live_rows, customers.dead_rows) == (50, 50)
        assert email.scans == 3

        conn.execute("VACUUM (ANALYZE) customers")
        conn.execute("ANALYZE events")
        conn.execute("SELECT pg_stat_force_next_flush()")
        after = {row.table_name: row for row in monitoring.list_table_sizes(conn)}
        assert (after["customers"].live_rows, after["customers"].dead_rows) == (50, 0)
        assert after["customers"].last_vacuum is not None
        assert after["customers"].last_analyze is not None
        assert after["events"].last_analyze is not None
        assert after["customers"].last_autovacuum is None


def test_the_oldest_transaction_is_that_of_another_session(database_url):
    with (
        connect(database_url) as conn,
        connect(database_url) as reader,
        connect(database_url) as writer,
    ):
        assert monitoring.get_oldest_transaction(conn) is None
        with reader.transaction(), writer.transaction():
            reader.execute("SET LOCAL application_name = 'reader'")
            writer.execute("SELECT pg_current_xact_id()")
            oldest = monitoring.get_oldest_transaction(conn)
            assert (oldest.pid, oldest.name) == (reader.info.backend_pid, "reader")
            assert (oldest.user_name, oldest.database) == ("postgres", conn.info.dbname)
            assert oldest.state == "idle in transaction"
            assert oldest.query == "SET LOCAL application_name = 'reader'"
            assert oldest.started_at <= oldest.query_started_at
            assert oldest.age > timedelta(0)
            assert oldest.xid_age is None  # it holds back nothing

            (blocker,) = monitoring.list_vacuum_blockers(conn, max_rows=10)
            assert (blocker.kind, blocker.name) == ("session", str(writer.info.backend_pid))
            assert blocker.user_name == "postgres"
            assert blocker.xid_age >= 1
            assert blocker.started_at > oldest.started_at
        assert monitoring.list_vacuum_blockers(conn, max_rows=10) == []


def test_an_ordinary_role_may_ask_and_sees_its_own_sessions(database_url):
    role = f"r{uuid4().hex}"
    with connect(database_url) as conn, connect(database_url) as other:
        conn.execute(f"CREATE ROLE {role}")
        try:
            with other.transaction(), conn.transaction():
                other.execute("SELECT pg_current_xact_id()")
                conn.execute(f"SET LOCAL ROLE {role}")
                assert monitoring.get_oldest_transaction(conn) is None
                (blocker,) = monitoring.list_vacuum_blockers(conn, max_rows=10)
                assert blocker.name == str(other.info.backend_pid)
                assert blocker.started_at is None
                assert blocker.xid_age >= 1
                assert len(monitoring.list_table_sizes(conn)) == 18
                assert len(monitoring.list_index_sizes(conn)) > 40
                assert monitoring.list_partition_sizes(conn)
                with conn.transaction():
                    conn.execute("RESET ROLE")
                    conn.execute(f"GRANT pg_read_all_stats TO {role}")
                    conn.execute(f"SET LOCAL ROLE {role}")
                    oldest = monitoring.get_oldest_transaction(conn)
                    assert oldest.pid == other.info.backend_pid
                    raise psycopg.Rollback
        finally:
            conn.execute(f"DROP ROLE {role}")


def test_prepared_transactions_and_slots_are_told_from_sessions(request):
    options = FORGETFUL | {"max_prepared_transactions": "1", "wal_level": "logical"}
    with (
        running_server(str(request.config.getoption("--pg")), options) as server,
        connect(server.url("postgres")) as conn,
    ):
        conn.execute("SELECT pg_create_logical_replication_slot('copy', 'pgoutput')")
        conn.execute("BEGIN")
        conn.execute("CREATE TABLE t ()")
        conn.execute("PREPARE TRANSACTION 'half done'")
        for _ in range(5):
            conn.execute("SELECT pg_current_xact_id()")

        oldest = monitoring.get_oldest_transaction(conn)
        prepared, slot = monitoring.list_vacuum_blockers(conn, max_rows=10)

        assert (oldest.name, oldest.pid, oldest.state) == ("half done", None, None)
        assert (oldest.query, oldest.query_started_at) == (None, None)
        assert oldest.xid_age == prepared.xid_age >= 6
        assert (prepared.kind, prepared.name) == ("prepared transaction", "half done")
        assert prepared.started_at == oldest.started_at
        assert (slot.kind, slot.name) == ("replication slot", "copy")
        assert (slot.user_name, slot.started_at) == (None, None)
        assert slot.xid_age >= 6
        assert monitoring.list_vacuum_blockers(conn, max_rows=1) == [prepared]
