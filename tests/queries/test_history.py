"""Retries, claims, time-outs and the timeline of runs."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from optiinfra_db.errors import InvalidValue
from optiinfra_db.generated.models import (
    EventSeverity,
    StepStatus,
    WorkflowStatus,
    WorkflowType,
)

from .database import artifact_left, key, run_attempt, step_attempt, step_key

ERROR = {"type": "QuotaExceeded", "message": "no GPUs left"}
LATER = {"type": "Timeout", "message": "no answer"}


def failed_run(db, *, done=2, of=4, **given):
    """Make a run whose step after `done` completed ones failed, and which failed with it."""
    run = db.start_run(db.make_run(step_names=[f"step {n}" for n in range(1, of + 1)], **given))
    for step in db.steps_of(run)[: done + 1]:
        started = db.workflow_steps.start_workflow_step(**step_key(step))
        if step.step_order <= done:
            db.workflow_steps.complete_workflow_step(
                **step_attempt(started), output_data={"made by": step.step_order}
            )
    return db.workflow_executions.fail_workflow_execution(**run_attempt(run), error_details=ERROR)


def retry(db, run, **given):
    return db.workflow_executions.retry_workflow_execution(**key(run), **given)


def states(db, run):
    return [step.status.value for step in db.steps_of(run)]


def test_a_retry_carries_over_what_completed_and_does_the_rest_again(db):
    deadline = datetime.now(UTC) + timedelta(hours=1)
    run = failed_run(db, input_data={"a": 1}, metadata={"trigger": "cron"}, deadline_at=deadline)

    again = retry(db, run)

    assert (again.status, again.attempt, again.retried_from_id) == ("pending", 2, run.id)
    assert (again.agent_id, again.workflow_type) == (run.agent_id, run.workflow_type)
    assert (again.input_data, again.metadata) == ({"a": 1}, {"trigger": "cron"})
    assert (again.output_data, again.error_details, again.started_at) == ({}, None, None)
    assert again.deadline_at - again.created_at == run.deadline_at - run.created_at
    was, now = db.steps_of(run), db.steps_of(again)
    assert [step.status for step in now] == ["skipped", "skipped", "pending", "pending"]
    assert [step.output_data for step in now] == [{"made by": 1}, {"made by": 2}, {}, {}]
    assert [step.metadata.get("carried_over_from") for step in now] == [
        str(was[0].id),
        str(was[1].id),
        None,
        None,
    ]
    for before, after in zip(was, now, strict=True):
        assert (after.step_name, after.step_order) == (before.step_name, before.step_order)
        assert (after.max_retries, after.retry_count) == (before.max_retries, 0)
        assert (after.completed_at is not None) == (after.status is StepStatus.SKIPPED)
    assert db.workflow_executions.get_workflow_execution(**key(run)) == run
    assert db.steps_of(run) == was


def test_a_retry_of_a_retry_still_has_what_completed_at_first(db):
    run = failed_run(db, done=1)
    second = retry(db, run)
    # Cancelled before anything of it began.
    db.workflow_executions.cancel_workflow_execution(**key(second), reason="x")

    third = retry(db, second)

    assert third.attempt == 3
    assert "cancel_reason" not in third.metadata
    assert states(db, third) == ["skipped", "pending", "pending", "pending"]
    assert db.steps_of(third)[0].output_data == {"made by": 1}
    rows = db.workflow_executions.get_workflow_lineage(**key(second))
    assert [row.id for row in rows] == [run.id, second.id, third.id]


def test_a_retry_may_begin_at_another_step(db):
    first, second, third = (failed_run(db) for _ in range(3))

    assert states(db, retry(db, first, from_step=1)) == ["pending"] * 4
    assert states(db, retry(db, second, from_step=2)) == ["skipped"] + ["pending"] * 3
    for from_step in (0, 5):
        with db.refused(InvalidValue):
            retry(db, third, from_step=from_step)
    # Past the failed step, on the word of the caller.
    assert states(db, retry(db, third, from_step=4)) == ["skipped"] * 3 + ["pending"]


@pytest.mark.parametrize("ending", ["cancelled while pending", "cancelled", "timeout"])
def test_what_was_cancelled_or_timed_out_can_be_retried(db, ending):
    run = db.make_run(step_names=["a", "b"])
    if ending != "cancelled while pending":
        db.start_run(run)
        a, _ = db.steps_of(run)
        started = db.workflow_steps.start_workflow_step(**step_key(a))
        db.workflow_steps.complete_workflow_step(**step_attempt(started), output_data={"x": 1})
    if ending == "timeout":
        db.execute("UPDATE workflow_executions SET deadline_at = now() - interval '1 s'")
        db.workflow_executions.time_out_workflow_executions(max_rows=9)
    else:
        db.workflow_executions.cancel_workflow_execution(**key(run), reason="x")

    again = retry(db, run)

    done = [] if ending == "cancelled while pending" else ["skipped"]
    assert states(db, again) == done + ["pending"] * (2 - len(done))


def test_what_completed_out_of_order_is_carried_over_too(db):
    """Steps overlap, or are done in another order than the plan's: none is done twice for that."""
    run = db.start_run(db.make_run(step_names=["a", "b", "c", "d"]))
    a, b, _, d = db.steps_of(run)
    for step in (a, d):
        started = db.workflow_steps.start_workflow_step(**step_key(step))
        db.workflow_steps.complete_workflow_step(
            **step_attempt(started), output_data=step.step_name
        )
    db.workflow_steps.start_workflow_step(**step_key(b))
    db.workflow_executions.fail_workflow_execution(**run_attempt(run), error_details=ERROR)

    again = retry(db, run)
    assert states(db, again) == ["skipped", "pending", "pending", "skipped"]
    assert [step.output_data for step in db.steps_of(again)] == ["a", {}, {}, "d"]

    db.start_run(again)
    db.workflow_executions.fail_workflow_execution(**run_attempt(again), error_details=ERROR)
    third = retry(db, again)
    assert states(db, third) == ["skipped", "pending", "pending", "skipped"]
    assert db.steps_of(third)[3].output_data == "d"
    db.start_run(third)
    db.workflow_executions.fail_workflow_execution(**run_attempt(third), error_details=ERROR)
    assert states(db, retry(db, third, from_step=2)) == ["skipped"] + ["pending"] * 3


def test_a_run_without_steps_can_be_retried(db):
    assert db.steps_of(retry(db, failed_run(db, done=0, of=0))) == []


def test_a_second_retry_returns_the_first_whatever_became_of_it(db):
    run = failed_run(db)
    first = retry(db, run)

    assert retry(db, run, from_step=1) == first
    assert len(db.steps_of(first)) == 4
    ended = db.workflow_executions.cancel_workflow_execution(**key(first), reason="x")
    assert retry(db, run) == ended
    db.workflow_executions.delete_workflow_execution(**key(first))
    assert retry(db, run).id != first.id


def test_what_is_not_over_or_completed_or_of_another_customer_is_not_retried(db):
    run = db.make_run(step_names=[])
    assert retry(db, run) is None
    db.start_run(run)
    assert retry(db, run) is None
    db.workflow_executions.complete_workflow_execution(**run_attempt(run))
    assert retry(db, run) is None
    failed = failed_run(db)
    other = db.make_customer()
    give = db.workflow_executions.retry_workflow_execution
    assert give(customer_id=other.id, id=failed.id) is None
    assert give(customer_id=other.id, id=uuid4()) is None


def test_all_that_failed_of_a_type_since_then_is_retried_once(db):
    customer = db.make_customer()
    since = datetime.now(UTC) - timedelta(minutes=1)
    runs = [failed_run(db, customer=customer, done=n) for n in range(3)]
    failed_run(db, customer=customer, workflow_type=WorkflowType.HEALTH_CHECK)
    failed_run(db)
    retried = retry(db, runs[1])
    give = db.workflow_executions.retry_failed_workflow_executions
    arguments = {
        "customer_id": customer.id,
        "workflow_type": WorkflowType.COST_ANALYSIS,
        "since": since,
    }

    assert give(**arguments | {"since": datetime.now(UTC) + timedelta(hours=1)}, max_rows=9) == []
    (first,) = give(**arguments, max_rows=1)
    (second,) = give(**arguments, max_rows=9)
    assert give(**arguments, max_rows=9) == []

    assert [first.retried_from_id, second.retried_from_id] == [runs[0].id, runs[2].id]
    assert states(db, first) == ["pending"] * 4
    assert states(db, second) == ["skipped", "skipped", "pending", "pending"]
    assert states(db, retried) == ["skipped", "pending", "pending", "pending"]


def test_an_agent_claims_its_oldest_pending_run(db):
    agent = db.make_agent()
    late = db.make_run(agent=agent)
    db.execute("UPDATE workflow_executions SET deadline_at = now() - interval '1 minute'")
    first, second = (db.make_run(agent=agent) for _ in range(2))
    db.make_run()
    claim = db.workflow_executions.claim_workflow_execution

    claimed = claim(agent_id=agent.id)
    assert (claimed.id, claimed.status) == (first.id, WorkflowStatus.RUNNING)
    assert claimed.started_at == claimed.heartbeat_at
    assert claim(agent_id=agent.id).id == second.id
    assert claim(agent_id=agent.id) is None
    still = db.workflow_executions.get_workflow_execution(**key(late))
    assert still.status is WorkflowStatus.PENDING


def test_overdue_runs_time_out_with_the_reason_and_close_their_steps(db):
    late, lost, fresh, waiting = (db.make_run(step_names=["a", "b"]) for _ in range(4))
    for run in (late, lost, fresh):
        db.start_run(run)
        db.workflow_steps.start_workflow_step(**step_key(db.steps_of(run)[0]))
    for run in (late, waiting):
        db.execute(
            "UPDATE workflow_executions SET deadline_at = now() - interval '1 minute' "
            f"WHERE id = '{run.id}'"
        )
    db.execute(
        "UPDATE workflow_executions SET heartbeat_at = now() - interval '5 minutes' "
        f"WHERE id = '{lost.id}'"
    )
    sweep = db.workflow_executions.time_out_workflow_executions

    for nonsense in (timedelta(0), timedelta(seconds=-5)):
        with db.refused(InvalidValue):
            sweep(max_rows=9, heartbeat_timeout=nonsense)
    assert {row.id for row in sweep(max_rows=1)} < {late.id, waiting.id}
    assert {row.id for row in sweep(max_rows=9)} < {late.id, waiting.id}
    assert sweep(max_rows=9) == []
    assert sweep(max_rows=9, heartbeat_timeout=timedelta(minutes=6)) == []
    (row,) = sweep(max_rows=9, heartbeat_timeout=timedelta(minutes=4))
    assert (row.id, row.status) == (lost.id, WorkflowStatus.TIMEOUT)

    late_error, lost_error, fresh_error, waiting_error = (
        db.workflow_executions.get_workflow_execution(**key(run)).error_details
        for run in (late, lost, fresh, waiting)
    )
    assert late_error["type"] == waiting_error["type"] == "DeadlineExceeded"
    assert lost_error["type"] == "HeartbeatLost"
    assert lost_error["message"].startswith("no heartbeat since 20")
    assert fresh_error is None
    assert states(db, late) == states(db, lost) == ["failed", "skipped"]
    assert states(db, waiting) == ["skipped", "skipped"]
    assert db.steps_of(lost)[0].error_details == lost_error
    assert states(db, fresh) == ["running", "pending"]


def test_an_executor_times_out_its_own_run_once_it_is_late(db):
    late, waiting, other = (db.make_run(step_names=["a", "b"]) for _ in range(3))
    endless = db.make_run()
    for run in (late, other, endless):
        db.start_run(run)
    db.workflow_steps.start_workflow_step(**step_key(db.steps_of(late)[0]))
    time_out = db.workflow_executions.time_out_workflow_execution
    db.execute("UPDATE workflow_executions SET deadline_at = now() + interval '1 minute'")
    assert time_out(**key(late)) is None
    db.execute("UPDATE workflow_executions SET deadline_at = now() - interval '1 minute'")
    db.execute(f"UPDATE workflow_executions SET deadline_at = NULL WHERE id = '{endless.id}'")

    assert time_out(**key(endless)) is None
    for run in (late, waiting):
        row = time_out(**key(run))
        assert (row.id, row.status) == (run.id, WorkflowStatus.TIMEOUT)
        assert time_out(**key(run)) is None

    found = db.workflow_executions.get_workflow_execution(**key(late))
    assert found.error_details["type"] == "DeadlineExceeded"
    assert states(db, late) == ["failed", "skipped"]
    assert states(db, waiting) == ["skipped", "skipped"]
    assert states(db, other) == ["pending", "pending"]


def test_who_cancels_is_in_the_audit_log(db):
    run, other = db.make_run(), db.make_run()
    db.execute("SET LOCAL optiinfra.actor = 'scheduler'")

    db.workflow_executions.cancel_workflow_execution(**key(other), reason="too dear")
    db.workflow_executions.cancel_workflow_execution(**key(run), reason="too dear", actor="ada")

    for cancelled, actor in ((run, "ada"), (other, "scheduler")):
        event, *_ = db.events.list_events_by_subject(
            customer_id=run.customer_id if cancelled is run else other.customer_id,
            subject_id=cancelled.id,
            max_rows=1,
        )
        assert (event.event_type, event.actor) == ("workflow_execution.cancelled", actor)
        assert event.severity is EventSeverity.WARNING
        assert event.data["error"] == {"type": "WorkflowCancelled", "message": "too dear"}


def story(db, run):
    rows = db.workflow_executions.get_workflow_timeline(**key(run))
    return [
        (row.subject_type.removeprefix("workflow_"), row.name, row.status, row.attempt)
        for row in rows
    ]


def test_the_timeline_tells_every_attempt_in_order_with_error_duration_and_actor(db):
    db.execute("SET LOCAL optiinfra.actor = 'cost-agent'")
    run = db.start_run(db.make_run(step_names=["a", "b", "c"]))
    a, b, _ = db.steps_of(run)
    started = db.workflow_steps.start_workflow_step(**step_key(a))
    db.workflow_steps.fail_workflow_step(
        **step_attempt(started), retryable=True, error_details=LATER, backoff_base_seconds=0
    )
    started = db.workflow_steps.start_workflow_step(**step_key(a))
    db.make_artifact(run, a, artifact_name="Report")
    db.workflow_steps.advance_workflow_step(**step_attempt(started))
    db.execute("SET LOCAL optiinfra.actor = 'sweeper'")
    db.workflow_executions.fail_workflow_execution(**run_attempt(run), error_details=ERROR)

    assert story(db, run) == [
        ("execution", None, "pending", 1),
        ("execution", None, "running", 1),
        ("step", "a", "running", 1),
        ("step", "a", "retrying", 1),
        ("step", "a", "running", 2),
        ("artifact", "Report", None, None),
        ("step", "a", "completed", 2),
        ("step", "b", "running", 1),
        ("step", "b", "failed", 1),
        ("step", "c", "skipped", 1),
        ("execution", None, "failed", 1),
    ]
    rows = db.workflow_executions.get_workflow_timeline(**key(run))
    assert [row.happened_at for row in rows] == sorted(row.happened_at for row in rows)
    ends = [row for row in rows if row.duration is not None]
    assert [(row.name, row.status) for row in ends] == [
        ("a", "retrying"),
        ("a", "completed"),
        ("b", "failed"),
        (None, "failed"),
    ]
    assert all(row.duration > timedelta(0) for row in ends)
    assert [row.error for row in rows if row.error] == [LATER, ERROR, ERROR]
    assert [row.actor for row in rows] == ["cost-agent"] * 5 + [None] + ["cost-agent"] * 2 + [
        "sweeper"
    ] * 3
    assert [row.subject_id for row in rows if row.name == "b"] == [b.id] * 2

    db.workflow_executions.delete_workflow_execution(**key(run))
    assert [status for _, _, status, _ in story(db, run)] == ["pending", "running", "failed"]


def test_a_run_begun_advanced_and_finished_tells_its_story_in_order(db):
    run = db.make_run(step_names=["a", "b"])
    a = db.workflow_executions.begin_workflow_execution(**key(run))
    _, b = db.workflow_steps.advance_workflow_step(
        **step_attempt(a), artifacts=[artifact_left(artifact_name="Of a", artifact_path="a")]
    )
    db.workflow_executions.finish_workflow_execution(
        **key(run),
        workflow_step_id=b.id,
        retry_count=b.retry_count,
        artifacts=[artifact_left(artifact_name="Of b", artifact_path="b")],
    )

    assert story(db, run) == [
        ("execution", None, "pending", 1),
        ("execution", None, "running", 1),
        ("step", "a", "running", 1),
        ("artifact", "Of a", None, None),
        ("step", "a", "completed", 1),
        ("step", "b", "running", 1),
        ("artifact", "Of b", None, None),
        ("step", "b", "completed", 1),
        ("execution", None, "completed", 1),
    ]
    rows = db.workflow_executions.get_workflow_timeline(**key(run))
    assert [row.happened_at for row in rows] == sorted(row.happened_at for row in rows)
    # Each was written to the audit log, and once.
    events = [
        event.event_type
        for subject in (run, a, b)
        for event in db.events.list_events_by_subject(
            customer_id=run.customer_id, subject_id=subject.id, max_rows=9
        )
    ]
    assert events == [
        *(f"workflow_execution.{status}" for status in ("completed", "running", "pending")),
        *["workflow_step.completed", "workflow_step.running"] * 2,
    ]


def test_the_timeline_of_an_imported_run_is_told_from_its_rows(db):
    at = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    minute = timedelta(minutes=1)
    db.execute("SET LOCAL optiinfra.actor = 'importer'")

    def step(order, begin, end, **given):
        return {
            "step_name": f"s{order}",
            "step_order": order,
            "status": "completed",
            "started_at": (at + begin * minute).isoformat(),
            "completed_at": (at + end * minute).isoformat(),
        } | given

    run = db.workflow_executions.record_workflow_execution(
        customer_id=db.make_customer().id,
        agent_id=db.make_agent().id,
        workflow_type=WorkflowType.QUALITY_CHECK,
        status=WorkflowStatus.FAILED,
        started_at=at,
        completed_at=at + 5 * minute,
        error_details=ERROR,
        steps=[
            step(1, 0, 2),
            step(2, 2, 5, status="failed", retry_count=1, error_details=LATER),
            step(3, 5, 5, status="skipped", started_at=None),
        ],
        artifacts=[
            {
                "artifact_type": "log",
                "artifact_name": "Log",
                "artifact_path": "s3://log",
                "artifact_size_bytes": 1,
                "content_type": "text/plain",
                "sha256": "00" * 32,
                "step_order": 1,
            }
        ],
    )

    assert story(db, run) == [
        ("execution", None, "pending", 1),
        ("execution", None, "running", 1),
        ("step", "s1", "running", 1),
        ("step", "s1", "completed", 1),
        ("step", "s2", "running", 2),
        ("step", "s2", "failed", 2),
        ("step", "s3", "skipped", 1),
        ("artifact", "Log", None, None),
        ("execution", None, "failed", 1),
    ]
    rows = db.workflow_executions.get_workflow_timeline(**key(run))
    assert [row.duration for row in rows if row.duration] == [2 * minute, 3 * minute, 5 * minute]
    assert [row.error for row in rows if row.error] == [LATER, ERROR]
    assert {row.actor for row in rows if row.status} == {"importer"}
    assert rows[-1].happened_at == at + 5 * minute


def test_a_status_that_somebodys_trigger_changes_is_audited_and_ends_the_steps(db):
    run = db.start_run(db.make_run(step_names=["a"]))
    db.execute(
        "CREATE FUNCTION give_up() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.status := 'cancelled'; NEW.completed_at := now(); RETURN NEW; END $$"
    )
    db.execute(
        "CREATE TRIGGER a_give_up BEFORE UPDATE OF heartbeat_at ON workflow_executions "
        "FOR EACH ROW EXECUTE FUNCTION give_up()"
    )

    db.workflow_executions.heartbeat_workflow_execution(**run_attempt(run))

    assert states(db, run) == ["skipped"]
    assert story(db, run)[-1] == ("execution", None, "cancelled", 1)
