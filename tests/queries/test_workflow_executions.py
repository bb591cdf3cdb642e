from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation, UniqueViolation

from optiinfra_db.errors import IllegalTransition
from optiinfra_db.generated.models import (
    ArtifactType,
    StepStatus,
    WorkflowStatus,
    WorkflowType,
)

from .database import ZERO_DIGEST, key, run_attempt, step_attempt, step_key

ID = UUID("01941f29-7c00-7000-8000-0000000000ff")
AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ERROR = {"type": "QuotaExceeded", "message": "no GPUs left"}


def finish_steps(db, run):
    for step in db.steps_of(run):
        db.workflow_steps.skip_workflow_step(**step_attempt(step))


def record(db, customer, agent, **given):
    values = {
        "customer_id": customer.id,
        "agent_id": agent.id,
        "workflow_type": WorkflowType.QUALITY_CHECK,
        "status": WorkflowStatus.COMPLETED,
        "started_at": AT,
        "completed_at": AT + timedelta(minutes=5),
        "steps": [],
        "artifacts": [],
    }
    return db.workflow_executions.record_workflow_execution(**values | given)


def in_each_state(db, customer, agent):
    """Make a run in each state, by the functions that lead there."""
    functions = db.workflow_executions
    runs = {status: db.make_run(customer, agent) for status in WorkflowStatus}
    for status, run in runs.items():
        if status in {WorkflowStatus.RUNNING, WorkflowStatus.COMPLETED, WorkflowStatus.FAILED}:
            db.start_run(run)
    finish_steps(db, runs[WorkflowStatus.COMPLETED])
    functions.complete_workflow_execution(**run_attempt(runs[WorkflowStatus.COMPLETED]))
    functions.fail_workflow_execution(
        **run_attempt(runs[WorkflowStatus.FAILED]), error_details=ERROR
    )
    functions.cancel_workflow_execution(**key(runs[WorkflowStatus.CANCELLED]), reason="changed")
    functions.delete_workflow_execution(**key(runs[WorkflowStatus.TIMEOUT]))
    runs[WorkflowStatus.TIMEOUT] = record(
        db, customer, agent, status=WorkflowStatus.TIMEOUT, error_details=ERROR
    )
    return {status: functions.get_workflow_execution(**key(run)) for status, run in runs.items()}


def test_a_run_is_created_with_its_planned_steps(db):
    run = db.make_run(step_names=["a", "b"], step_input_data=[{"x": 1}, {"y": [2]}], max_retries=5)

    assert (run.status, run.attempt) == (WorkflowStatus.PENDING, 1)
    assert (run.started_at, run.completed_at, run.error_details) == (None, None, None)
    assert (run.input_data, run.output_data, run.metadata) == ({}, {}, {})
    assert db.workflow_executions.get_workflow_execution(**key(run)) == run
    first, second = db.steps_of(run)
    assert (first.step_name, first.step_order, first.input_data) == ("a", 1, {"x": 1})
    assert (second.step_name, second.step_order, second.input_data) == ("b", 2, {"y": [2]})
    assert (first.status, first.retry_count, first.max_retries) == (StepStatus.PENDING, 0, 5)


def test_every_field_is_kept(db):
    customer, agent = db.make_customer(), db.make_agent()
    run = db.make_run(
        customer,
        agent,
        id=ID,
        workflow_type=WorkflowType.ANOMALY_DETECTION,
        input_data={"a": None},
        metadata={"trigger": "test"},
        deadline_at=AT,
        step_names=[],
    )

    assert (run.id, run.customer_id, run.agent_id) == (ID, customer.id, agent.id)
    assert run.workflow_type is WorkflowType.ANOMALY_DETECTION
    assert (run.input_data, run.metadata, run.deadline_at) == ({"a": None}, {"trigger": "test"}, AT)
    assert db.steps_of(run) == []


def test_creating_twice_with_one_id_returns_the_first_and_adds_no_step(db):
    customer, agent = db.make_customer(), db.make_agent()
    first = db.make_run(customer, agent, id=ID, step_names=["a"])
    started = db.start_run(first)

    again = db.make_run(customer, agent, id=ID, step_names=["a", "b"], input_data={"new": 1})

    assert again == started
    assert [step.step_name for step in db.steps_of(first)] == ["a"]


def test_one_id_may_be_used_by_two_customers(db):
    one, other = db.make_run(id=ID), db.make_run(id=ID)

    assert one.customer_id != other.customer_id
    assert db.workflow_executions.delete_workflow_execution(**key(one)) == 1
    assert db.workflow_executions.get_workflow_execution(**key(other)) == other


def test_a_run_of_an_unknown_customer_or_agent_is_refused(db):
    customer, agent = db.make_customer(), db.make_agent()

    with db.refused(ForeignKeyViolation, "workflow_executions_customer_id_fkey"):
        db.make_run(agent, agent)
    with db.refused(ForeignKeyViolation, "workflow_executions_agent_id_fkey"):
        db.make_run(customer, customer)
    with db.refused(CheckViolation, "workflow_steps_step_name_check"):
        db.make_run(customer, agent, step_names=["a", ""])
    runs = db.workflow_executions.list_workflow_executions(customer_id=customer.id, max_rows=9)
    assert runs == []


def test_a_finished_run_is_recorded_with_steps_and_artifacts(db):
    customer, agent = db.make_customer(), db.make_agent()
    values = {
        "id": ID,
        "status": WorkflowStatus.FAILED,
        "error_details": ERROR,
        "output_data": {"partial": True},
        "attempt": 2,
        "steps": [
            {
                "step_name": "collect",
                "step_order": 1,
                "status": "completed",
                "started_at": AT.isoformat(),
                "completed_at": (AT + timedelta(minutes=1)).isoformat(),
                "input_data": {"source": "billing"},
                "output_data": {"rows": 10},
            },
            {
                "step_name": "analyze",
                "step_order": 2,
                "status": "failed",
                "retry_count": 3,
                "started_at": AT.isoformat(),
                "completed_at": (AT + timedelta(minutes=5)).isoformat(),
                "error_details": ERROR,
                "metadata": {"host": "a"},
            },
            {
                "step_name": "report",
                "step_order": 3,
                "status": "skipped",
                "completed_at": (AT + timedelta(minutes=5)).isoformat(),
            },
        ],
        "artifacts": [
            {
                "artifact_type": "log",
                "artifact_name": "Log",
                "artifact_path": "s3://bucket/log",
                "artifact_size_bytes": 2**40,
                "content_type": "text/plain",
                "sha256": ZERO_DIGEST.hex(),
                "step_order": 2,
                "metadata": {"lines": 3},
            },
            {
                "artifact_type": "alert",
                "artifact_name": "Alert",
                "artifact_path": "s3://bucket/alert",
                "artifact_size_bytes": 0,
                "content_type": "text/plain",
                "sha256": ZERO_DIGEST.hex(),
            },
        ],
    }

    run = record(db, customer, agent, **values)

    assert (run.id, run.status, run.attempt) == (ID, WorkflowStatus.FAILED, 2)
    assert (run.created_at, run.started_at) == (AT, AT)
    assert (run.error_details, run.output_data) == (ERROR, {"partial": True})
    collect, analyze, report = db.steps_of(run)
    assert (collect.status, collect.output_data) == (StepStatus.COMPLETED, {"rows": 10})
    assert collect.completed_at == AT + timedelta(minutes=1)
    assert (analyze.retry_count, analyze.error_details) == (3, ERROR)
    assert (report.status, report.started_at) == (StepStatus.SKIPPED, None)
    log, alert = sorted(
        db.workflow_artifacts.list_workflow_artifacts(
            customer_id=customer.id, workflow_execution_id=ID
        ),
        key=lambda artifact: artifact.artifact_type,
        reverse=True,
    )
    assert (log.workflow_step_id, log.artifact_size_bytes) == (analyze.id, 2**40)
    assert (log.sha256, log.metadata) == (ZERO_DIGEST, {"lines": 3})
    assert (alert.workflow_step_id, alert.artifact_type) == (None, ArtifactType.ALERT)

    assert record(db, customer, agent, **values) == run
    assert len(db.steps_of(run)) == 3


@pytest.mark.parametrize(
    ("given", "constraint"),
    [
        ({"completed_at": None}, "workflow_executions_completed_at_check"),
        ({"completed_at": AT - timedelta(seconds=1)}, "workflow_executions_completed_at_check"),
        ({"started_at": None}, "workflow_executions_started_at_check"),
        ({"status": WorkflowStatus.FAILED}, "workflow_executions_error_details_check"),
        ({"error_details": ERROR}, "workflow_executions_error_details_check"),
        ({"attempt": 0}, "workflow_executions_attempt_check"),
        ({"metadata": []}, "workflow_executions_metadata_check"),
        (
            {"steps": [{"step_name": "a", "step_order": 0, "status": "pending"}]},
            "workflow_steps_step_order_check",
        ),
        (
            {"steps": [{"step_name": "a", "step_order": 1, "status": "running"}]},
            "workflow_steps_started_at_check",
        ),
        (
            {
                "steps": [
                    {
                        "step_name": "a",
                        "step_order": 1,
                        "status": "completed",
                        "started_at": "infinity",
                        "completed_at": "infinity",
                    }
                ]
            },
            "workflow_steps_completed_at_check",
        ),
    ],
)
def test_a_record_that_cannot_be_is_refused_whole(db, given, constraint):
    customer, agent = db.make_customer(), db.make_agent()

    with db.refused(CheckViolation, constraint):
        record(db, customer, agent, **given)
    runs = db.workflow_executions.list_workflow_executions(customer_id=customer.id, max_rows=9)
    assert runs == []


def test_an_artifact_of_a_step_that_is_not_there_is_refused_with_the_whole_record(db):
    artifact = {
        "artifact_type": "log",
        "artifact_name": "Log",
        "artifact_path": "s3://bucket/log",
        "artifact_size_bytes": 0,
        "content_type": "text/plain",
        "sha256": ZERO_DIGEST.hex(),
        "step_order": 99,
    }

    with db.refused(ForeignKeyViolation, "workflow_artifacts_workflow_step_id_fkey"):
        record(db, db.make_customer(), db.make_agent(), artifacts=[artifact])


def test_a_record_with_two_steps_in_one_place_is_refused_whole(db):
    customer, agent = db.make_customer(), db.make_agent()
    step = {"step_name": "a", "step_order": 1, "status": "pending"}

    with db.refused(UniqueViolation, "workflow_steps_step_order_key"):
        record(db, customer, agent, steps=[step, step])


def test_a_run_goes_from_start_to_completion(db):
    run = db.make_run()

    started = db.start_run(run)
    assert started.status is WorkflowStatus.RUNNING
    assert started.started_at is not None
    assert (
        db.workflow_executions.heartbeat_workflow_execution(**run_attempt(run)).heartbeat_at
        is not None
    )

    finish_steps(db, run)
    completed = db.workflow_executions.complete_workflow_execution(
        **run_attempt(run), output_data={"savings": 1}
    )
    assert (completed.status, completed.output_data) == (WorkflowStatus.COMPLETED, {"savings": 1})
    assert completed.completed_at >= completed.started_at
    assert db.workflow_executions.get_workflow_execution(**key(run)) == completed


def test_completing_a_run_with_open_steps_is_refused(db):
    run = db.make_run(step_names=["a"])
    started = db.start_run(run)
    (step,) = db.steps_of(run)
    complete = db.workflow_executions.complete_workflow_execution

    with db.refused(IllegalTransition):
        complete(**run_attempt(run))
    db.workflow_steps.start_workflow_step(**step_key(step))
    with db.refused(IllegalTransition):
        complete(**run_attempt(run))
    db.workflow_steps.fail_workflow_step(**step_attempt(step), retryable=True, error_details=ERROR)
    with db.refused(IllegalTransition):
        complete(**run_attempt(run))
    assert db.workflow_executions.get_workflow_execution(**key(run)) == started


@pytest.mark.parametrize("way", ["fail", "cancel"])
def test_a_run_that_ends_badly_closes_its_open_steps(db, way):
    run = db.make_run(step_names=["done", "working", "again", "todo"], max_retries=1)
    db.start_run(run)
    done, working, again, _ = db.steps_of(run)
    for step in (done, working, again):
        db.workflow_steps.start_workflow_step(**step_key(step))
    db.workflow_steps.complete_workflow_step(**step_attempt(done))
    earlier = {"type": "Timeout", "message": "slow"}
    db.workflow_steps.fail_workflow_step(
        **step_attempt(again), retryable=True, error_details=earlier
    )
    bystander = db.make_run(db.customers.get_customer(id=run.customer_id))

    if way == "fail":
        ended = db.workflow_executions.fail_workflow_execution(
            **run_attempt(run), error_details=ERROR
        )
        reason = ERROR
        assert (ended.status, ended.error_details) == (WorkflowStatus.FAILED, ERROR)
    else:
        ended = db.workflow_executions.cancel_workflow_execution(**key(run), reason="too dear")
        reason = {"type": "WorkflowCancelled", "message": "too dear"}
        assert (ended.status, ended.error_details) == (WorkflowStatus.CANCELLED, None)
        assert ended.metadata == {"cancel_reason": "too dear"}

    done, working, again, todo = db.steps_of(run)
    assert done.status is StepStatus.COMPLETED
    assert (working.status, working.error_details) == (StepStatus.FAILED, reason)
    assert (again.status, again.error_details) == (StepStatus.SKIPPED, earlier)
    assert (todo.status, todo.started_at) == (StepStatus.SKIPPED, None)
    assert {step.status for step in db.steps_of(bystander)} == {StepStatus.PENDING}


def test_transitions_from_the_wrong_state_return_none_and_change_nothing(db):
    functions = db.workflow_executions
    moves = {
        "start": (functions.start_workflow_execution, {}, {WorkflowStatus.PENDING}),
        "heartbeat": (
            functions.heartbeat_workflow_execution,
            {"attempt": 1},
            {WorkflowStatus.RUNNING},
        ),
        "complete": (
            functions.complete_workflow_execution,
            {"attempt": 1},
            {WorkflowStatus.RUNNING},
        ),
        "fail": (
            functions.fail_workflow_execution,
            {"attempt": 1, "error_details": ERROR},
            {WorkflowStatus.RUNNING},
        ),
        "cancel": (
            functions.cancel_workflow_execution,
            {"reason": "x"},
            {WorkflowStatus.PENDING, WorkflowStatus.RUNNING},
        ),
    }
    for status, run in in_each_state(db, db.make_customer(), db.make_agent()).items():
        assert run.status is status
        steps = db.steps_of(run)
        for name, (move, arguments, sources) in moves.items():
            if status in sources:
                continue
            assert move(**key(run), **arguments) is None, f"{name} from {status}"
        assert functions.get_workflow_execution(**key(run)) == run
        assert db.steps_of(run) == steps


def test_transitions_of_another_customers_run_change_nothing(db):
    run, other = db.make_run(), db.make_customer()
    functions = db.workflow_executions
    theirs = {"customer_id": other.id, "id": run.id}

    assert functions.start_workflow_execution(**theirs) is None
    started = db.start_run(run)
    assert functions.complete_workflow_execution(**theirs, attempt=1) is None
    assert functions.fail_workflow_execution(**theirs, attempt=1, error_details=ERROR) is None
    assert functions.cancel_workflow_execution(**theirs, reason="x") is None
    assert functions.get_workflow_detail(**theirs) is None
    assert functions.delete_workflow_execution(**theirs) == 0
    assert functions.get_workflow_execution(**key(run)) == started


def test_detail_loads_all_that_belongs_to_a_run(db):
    customer, agent = db.make_customer(), db.make_agent()
    run = db.make_run(customer, agent, step_names=["a", "b"], input_data={"x": 'é"\\,{}()'})
    step, _ = steps = db.steps_of(run)
    artifacts = [
        db.make_artifact(run, step, metadata={"note": 'quotes " and, commas (parens) {braces}'}),
        db.make_artifact(run, artifact_name="back\\slash 'and' NULL"),
    ]
    db.make_artifact(db.make_run(customer, agent))

    detail = db.workflow_executions.get_workflow_detail(**key(run))

    assert detail.workflow_execution == run
    assert (detail.agent, detail.customer) == (agent, customer)
    assert detail.steps == steps
    assert detail.artifacts == artifacts


def test_detail_of_a_run_without_steps_and_artifacts_has_empty_lists(db):
    run = db.make_run(step_names=[])

    detail = db.workflow_executions.get_workflow_detail(**key(run))

    assert (detail.steps, detail.artifacts) == ([], [])
    assert db.workflow_executions.get_workflow_detail(customer_id=run.id, id=run.id) is None


def test_lists_filter_and_page_without_gaps_or_repeats(db):
    customer, agent, other = db.make_customer(), db.make_agent(), db.make_agent()
    types = [WorkflowType.COST_ANALYSIS, WorkflowType.HEALTH_CHECK]
    runs = [
        db.make_run(customer, agent if n % 3 else other, workflow_type=types[n % 2])
        for n in range(10)
    ]
    for run in runs[::4]:
        db.start_run(run)
    db.make_run(None, agent)
    functions = db.workflow_executions
    functions.cancel_workflow_execution(**key(runs[9]), reason="not wanted")

    for function, arguments, expected in (
        (functions.list_workflow_executions, {}, runs),
        (functions.list_workflow_progress, {}, runs),
        (functions.list_open_workflow_executions, {}, runs[:9]),
        (
            functions.list_workflow_executions_by_status,
            {"status": WorkflowStatus.RUNNING},
            runs[::4],
        ),
        (functions.list_workflow_executions_by_type, {"workflow_type": types[1]}, runs[1::2]),
        (functions.list_workflow_executions_by_agent, {"agent_id": other.id}, runs[::3]),
    ):
        listed, before_id = [], None
        while page := function(
            customer_id=customer.id, **arguments, before_id=before_id, max_rows=2
        ):
            listed += page
            before_id = page[-1].id
        assert [row.id for row in listed] == [run.id for run in expected][::-1]
    row = functions.list_workflow_executions(customer_id=customer.id, max_rows=1)[0]
    assert not {"input_data", "output_data", "error_details"} & set(type(row).__slots__)


def test_the_board_shows_progress_duration_and_the_first_failure(db):
    run = db.make_run(step_names=["a", "b", "c"])
    customer_id = run.customer_id
    board = db.workflow_executions.list_workflow_progress
    (row,) = board(customer_id=customer_id, max_rows=9)
    assert (row.steps_done, row.steps_total) == (0, 3)
    assert (row.duration, row.failed_step_name, row.failed_step_error) == (None, None, None)

    db.start_run(run)
    a, b, _ = db.steps_of(run)
    db.workflow_steps.start_workflow_step(**step_key(a))
    db.workflow_steps.complete_workflow_step(**step_attempt(a))
    db.workflow_steps.start_workflow_step(**step_key(b))
    db.workflow_steps.fail_workflow_step(**step_attempt(b), retryable=False, error_details=ERROR)
    db.workflow_executions.fail_workflow_execution(**run_attempt(run), error_details=ERROR)

    (row,) = board(customer_id=customer_id, max_rows=9)
    assert (row.status, row.steps_done, row.steps_total) == (WorkflowStatus.FAILED, 1, 3)
    assert row.duration >= timedelta(0)
    assert (row.failed_step_name, row.failed_step_error) == ("b", ERROR["message"])


def test_running_workflows_are_listed_with_progress(db):
    first, waiting, second = db.make_run(), db.make_run(), db.make_run()
    for run in (first, second):
        db.start_run(run)
    a, b, _ = db.steps_of(second)
    db.workflow_steps.start_workflow_step(**step_key(a))
    db.workflow_steps.advance_workflow_step(**step_attempt(a))

    newest, oldest = db.workflow_executions.list_running_workflows(max_rows=9)

    assert (newest.id, oldest.id) == (second.id, first.id)
    assert (newest.steps_done, newest.steps_total) == (1, 3)
    assert (newest.current_step_name, oldest.current_step_name) == (b.step_name, None)
    assert newest.duration >= timedelta(0)
    assert waiting.status is WorkflowStatus.PENDING
    (page,) = db.workflow_executions.list_running_workflows(max_rows=9, before_id=second.id)
    assert page.id == first.id


def test_runs_of_two_customers_with_one_id_are_both_listed_page_by_page(db):
    runs = [db.make_run(id=ID) for _ in range(2)]
    functions = db.workflow_executions
    for list_page, end in (
        (functions.list_running_workflows, db.start_run),
        (
            functions.list_failed_workflows,
            lambda run: functions.fail_workflow_execution(**run_attempt(run), error_details=ERROR),
        ),
    ):
        for run in runs:
            end(run)
        listed, cursor = [], {}
        while page := list_page(max_rows=1, **cursor):
            listed += page
            cursor = {"before_id": page[-1].id, "before_customer_id": page[-1].customer_id}
        assert sorted(row.customer_id for row in listed) == sorted(run.customer_id for run in runs)


def test_failed_workflows_are_listed_with_the_first_failed_step(db):
    customer, agent = db.make_customer(), db.make_agent()
    runs = in_each_state(db, customer, agent)
    failed = db.make_run(agent=agent, step_names=["fine", "a", "b"])
    db.start_run(failed)
    fine, a, b = db.steps_of(failed)
    db.workflow_steps.start_workflow_step(**step_key(fine))
    db.workflow_steps.complete_workflow_step(**step_attempt(fine))
    for step in (b, a):
        error = {"type": "E", "message": step.step_name}
        db.workflow_steps.start_workflow_step(**step_key(step))
        db.workflow_steps.fail_workflow_step(
            **step_attempt(step), retryable=False, error_details=error
        )
    db.workflow_executions.fail_workflow_execution(**run_attempt(failed), error_details=ERROR)

    first, *others = db.workflow_executions.list_failed_workflows(max_rows=9)

    assert (first.id, first.agent_name) == (failed.id, agent.name)
    assert (first.failed_step_id, first.failed_step_name) == (a.id, "a")
    assert first.failed_step_error_details == {"type": "E", "message": "a"}
    assert first.error_details == ERROR
    theirs = {runs[WorkflowStatus.FAILED].id, runs[WorkflowStatus.TIMEOUT].id}
    assert {row.id for row in others} == theirs
    by_customer = db.workflow_executions.list_failed_workflows_by_customer(
        customer_id=customer.id, max_rows=9
    )
    assert {row.id for row in by_customer} == theirs
    assert all(row.failed_step_id is None for row in by_customer)
    newest, oldest = by_customer
    (page,) = db.workflow_executions.list_failed_workflows_by_customer(
        customer_id=customer.id, max_rows=9, before_id=newest.id
    )
    assert page == oldest


def test_all_attempts_of_a_run_are_its_lineage_and_survive_it(db):
    customer, agent = db.make_customer(), db.make_agent()
    failed = {"status": WorkflowStatus.FAILED, "error_details": ERROR}
    first = record(db, customer, agent, **failed)
    second = record(db, customer, agent, **failed, retried_from_id=first.id, attempt=2)
    third = record(db, customer, agent, retried_from_id=second.id, attempt=3)
    record(db, customer, agent)
    lineage = db.workflow_executions.get_workflow_lineage

    for run in (first, second, third):
        rows = lineage(**key(run))
        assert [(row.id, row.attempt) for row in rows] == [
            (first.id, 1),
            (second.id, 2),
            (third.id, 3),
        ]
    assert lineage(customer_id=db.make_customer().id, id=first.id) == []
    with db.refused(UniqueViolation, "workflow_executions_retried_from_id_key"):
        record(db, customer, agent, retried_from_id=first.id, attempt=2)

    db.workflow_executions.delete_workflow_execution(**key(first))
    kept = db.workflow_executions.get_workflow_execution(**key(second))
    assert (kept.customer_id, kept.retried_from_id) == (customer.id, None)
    assert kept.updated_at == second.updated_at
    assert [row.id for row in lineage(**key(third))] == [second.id, third.id]


def test_deleting_a_run_deletes_its_steps_and_artifacts(db):
    run = db.make_run()
    step, *_ = db.steps_of(run)
    artifact = db.make_artifact(run, step)

    assert db.workflow_executions.delete_workflow_execution(**key(run)) == 1

    assert db.workflow_executions.get_workflow_execution(**key(run)) is None
    assert db.steps_of(run) == []
    assert db.workflow_artifacts.get_workflow_artifact(**step_key(artifact)) is None
    assert db.workflow_executions.delete_workflow_execution(**key(run)) == 0


@pytest.mark.parametrize("end", ["complete", "fail", "cancel"])
def test_a_run_never_ends_before_it_started_whatever_the_clock_says(db, end):
    """The server's clock was set back after the start."""
    run = db.start_run(db.make_run(step_names=["a"] if end != "complete" else []))
    for step in db.steps_of(run):
        db.workflow_steps.start_workflow_step(**step_key(step))
    for table in ("workflow_executions", "workflow_steps"):
        db.execute(f"UPDATE {table} SET started_at = now() + interval '1 hour'")
    arguments = {
        "complete": {"attempt": 1},
        "fail": {"attempt": 1, "error_details": ERROR},
        "cancel": {"reason": "x"},
    }

    function = vars(db.workflow_executions)[f"{end}_workflow_execution"]
    ended = function(**key(run), **arguments[end])

    for row in (ended, *db.steps_of(run)):
        assert row.completed_at == row.started_at
