import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation, UniqueViolation

from optiinfra_db.errors import DatabaseError, IllegalTransition, InvalidValue, StaleWriter
from optiinfra_db.generated.models import (
    ArtifactType,
    StepStatus,
    WorkflowStatus,
    WorkflowType,
)

from .database import ZERO_DIGEST, artifact_left, key, run_attempt, step_attempt, step_key

OTHER_DIGEST = hashlib.sha256(b"other").hexdigest()
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


def listed(agent, **given):
    """Return a run as record_workflow_executions has it in its list."""
    values = {
        "agent_id": str(agent.id),
        "workflow_type": "quality_check",
        "status": "completed",
        "started_at": AT,
        "completed_at": AT + timedelta(minutes=5),
    }
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in (values | given).items()
    }


def listed_step(order, **given):
    values = {
        "step_name": f"step {order}",
        "step_order": order,
        "status": "completed",
        "started_at": AT.isoformat(),
        "completed_at": (AT + timedelta(minutes=1)).isoformat(),
    }
    return values | given


def told_of(db, customer, run_id):
    """Return all that is there of a run, but for ids and the moment at which it was written."""
    detail = db.workflow_executions.get_workflow_detail(customer_id=customer.id, id=run_id)
    orders = {step.id: step.step_order for step in detail.steps}
    unlike = {"customer_id", "workflow_execution_id", "id", "workflow_step_id", "updated_at"}

    def told(row):
        return {name: getattr(row, name) for name in type(row).__slots__ if name not in unlike}

    return (
        told(detail.workflow_execution),
        [told(step) for step in detail.steps],
        [told(made) | {"step": orders.get(made.workflow_step_id)} for made in detail.artifacts],
    )


def runs_of(db, customer):
    return db.workflow_executions.list_workflow_executions(customer_id=customer.id, max_rows=99)


def begin(db, run, **other):
    return db.workflow_executions.begin_workflow_execution(**key(run) | other)


def finish(db, step, **given):
    values = {
        "customer_id": step.customer_id,
        "id": step.workflow_execution_id,
        "workflow_step_id": step.id,
        "retry_count": step.retry_count,
    }
    return db.workflow_executions.finish_workflow_execution(**values | given)


def get_run(db, run):
    return db.workflow_executions.get_workflow_execution(**key(run))


def run_of(db, step):
    return db.workflow_executions.get_workflow_execution(
        customer_id=step.customer_id, id=step.workflow_execution_id
    )


@pytest.fixture
def last(db):
    """Bring a run to its last step, and return that."""
    run = db.make_run(step_names=["a", "b", "c"])
    db.workflow_steps.skip_workflow_step(**step_attempt(db.steps_of(run)[1]))
    _, step = db.workflow_steps.advance_workflow_step(**step_attempt(begin(db, run)))
    return step


def test_each_step_of_a_plan_may_have_retries_of_its_own(db):
    run = db.make_run(step_names=["a", "b", "c"], step_max_retries=[0, None], max_retries=7)

    assert [step.max_retries for step in db.steps_of(run)] == [0, 7, 7]
    with db.refused(CheckViolation, "workflow_steps_max_retries_check"):
        db.make_run(step_names=["a"], step_max_retries=[-1])


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


def test_many_runs_are_recorded_as_each_alone_would_be(db):
    customer, alone, agent = db.make_customer(), db.make_customer(), db.make_agent()
    failed = {
        "status": "failed",
        "attempt": 2,
        "deadline_at": AT + timedelta(hours=1),
        "input_data": {"period": "march"},
        "output_data": {"partial": True},
        "error_details": ERROR,
        "metadata": {"trigger": "cron"},
        "created_at": AT - timedelta(minutes=1),
    }
    failed_steps = [
        listed_step(1, input_data={"source": "billing"}, output_data={"rows": 10}),
        listed_step(
            2, status="failed", retry_count=2, max_retries=2, error_details=ERROR, metadata={"n": 1}
        ),
        listed_step(3, status="skipped", started_at=None),
    ]
    running = {"status": "running", "completed_at": None}
    running_steps = [
        listed_step(1, status="retrying", retry_count=1, completed_at=None, error_details=ERROR)
        | {"next_attempt_at": AT.isoformat()}
    ]
    artifacts = [
        artifact_left(step_order=2, metadata={"pages": 3}),
        artifact_left(artifact_path="b"),
    ]
    contents = [(failed, failed_steps, artifacts), (running, running_steps, []), ({}, [], [])]

    made = db.workflow_executions.record_workflow_executions(
        customer_id=customer.id,
        runs=[
            listed(agent, **run, steps=steps, artifacts=artifacts)
            for run, steps, artifacts in contents
        ],
    )

    assert [row.is_new for row in made] == [True, True, True]
    for row, (run, steps, artifacts) in zip(made, contents, strict=True):
        one = record(db, alone, agent, **run, steps=steps, artifacts=artifacts)
        assert told_of(db, customer, row.id) == told_of(db, alone, one.id)


def test_the_results_of_a_recording_are_in_the_order_of_the_list(db):
    customer, agent = db.make_customer(), db.make_agent()
    ids = sorted(uuid4() for _ in range(6))
    order = [ids[3], ids[0], ids[5], None, ids[1], ids[4], ids[2], None]

    made = db.workflow_executions.record_workflow_executions(
        customer_id=customer.id,
        runs=[
            listed(agent, metadata={"place": place}) | ({"id": str(id_)} if id_ else {})
            for place, id_ in enumerate(order)
        ],
    )

    assert [row.id for row in made if row.id in ids] == [id_ for id_ in order if id_]
    for place, row in enumerate(made):
        run = db.workflow_executions.get_workflow_execution(customer_id=customer.id, id=row.id)
        assert run.metadata == {"place": place}


def test_steps_and_artifacts_of_many_runs_land_at_their_own(db):
    customer, agent = db.make_customer(), db.make_agent()

    made = db.workflow_executions.record_workflow_executions(
        customer_id=customer.id,
        runs=[
            listed(
                agent,
                steps=[listed_step(order, output_data={"of": name}) for order in (1, 2)],
                # One path in both, as nothing but the run tells them apart.
                artifacts=[artifact_left(artifact_name=name, step_order=2)],
            )
            for name in ("first", "second")
        ],
    )

    for row, name in zip(made, ("first", "second"), strict=True):
        run = db.workflow_executions.get_workflow_execution(customer_id=customer.id, id=row.id)
        steps = db.steps_of(run)
        assert [step.output_data for step in steps] == [{"of": name}] * 2
        (artifact,) = db.artifacts_of(run)
        assert (artifact.artifact_name, artifact.workflow_step_id) == (name, steps[1].id)


def test_recording_again_writes_only_what_is_new(db):
    customer, agent = db.make_customer(), db.make_agent()
    record_many = db.workflow_executions.record_workflow_executions
    runs = [
        listed(agent, id=str(uuid4()), steps=[listed_step(1)], artifacts=[artifact_left()])
        for _ in range(2)
    ]
    first = record_many(customer_id=customer.id, runs=runs)
    contents = [
        db.workflow_executions.get_workflow_detail(customer_id=customer.id, id=row.id)
        for row in first
    ]
    events = db.events.list_events(customer_id=customer.id, max_rows=99)
    changed = [run | {"status": "running", "completed_at": None, "steps": []} for run in runs]

    assert record_many(customer_id=customer.id, runs=changed) == [
        type(row)(id=row.id, is_new=False) for row in first
    ]
    new, *known = record_many(customer_id=customer.id, runs=[listed(agent), *reversed(runs)])

    assert new.is_new
    assert [(row.id, row.is_new) for row in known] == [(row.id, False) for row in reversed(first)]
    assert contents == [
        db.workflow_executions.get_workflow_detail(customer_id=customer.id, id=row.id)
        for row in first
    ]
    assert len(runs_of(db, customer)) == 3
    assert len(db.events.list_events(customer_id=customer.id, max_rows=99)) == len(events) + 1


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"status": "failed"}, "error_details"),
        ({"status": None}, "status"),
        ({"attempt": 0}, "attempt"),
        ({"agent_id": str(ID)}, "agent_id"),
        ({"retried_from_id": str(UUID(int=0))}, "retried_from_id"),
        ({"id": str(ID)}, "id"),
        ({"steps": [listed_step(0)]}, "step_order"),
        ({"steps": [listed_step(1), listed_step(1)]}, "step_order"),
        ({"steps": [listed_step(1, completed_at=None)]}, "completed_at"),
        ({"artifacts": [artifact_left(artifact_name="")]}, "artifact_name"),
        ({"artifacts": [artifact_left(sha256="g" * 64)]}, "sha256"),
        ({"artifacts": [artifact_left(), artifact_left()]}, "artifact_path"),
        # The other run has that step.
        ({"artifacts": [artifact_left(step_order=1)]}, "workflow_step_id"),
    ],
)
def test_of_many_runs_none_is_recorded_where_one_cannot_be(db, given, field):
    customer, agent = db.make_customer(), db.make_agent()
    good = listed(agent, id=str(ID), steps=[listed_step(1)], artifacts=[artifact_left()])

    with db.refused(DatabaseError) as caught:
        db.workflow_executions.record_workflow_executions(
            customer_id=customer.id, runs=[good, listed(agent) | given]
        )

    assert caught.value.field == field
    assert runs_of(db, customer) == []
    assert db.events.list_events(customer_id=customer.id, max_rows=9) == []


@pytest.mark.parametrize(
    "runs", [1, {}, [1], [None], [{"id": "x"}], [{"status": "x"}], [{"steps": {}}]]
)
def test_what_is_no_list_of_runs_is_refused(db, runs):
    agent = db.make_agent()
    if isinstance(runs, list):
        runs = [listed(agent) | run if isinstance(run, dict) else run for run in runs]

    with db.refused(InvalidValue):
        db.workflow_executions.record_workflow_executions(
            customer_id=db.make_customer().id, runs=runs
        )


def test_an_open_step_keeps_a_run_that_is_over_from_being_recorded(db):
    customer, agent = db.make_customer(), db.make_agent()
    waiting = listed_step(1, status="pending", started_at=None, completed_at=None)

    with db.refused(IllegalTransition):
        db.workflow_executions.record_workflow_executions(
            customer_id=customer.id, runs=[listed(agent), listed(agent, steps=[waiting])]
        )

    assert runs_of(db, customer) == []


def test_recording_no_runs_records_none(db):
    record_many = db.workflow_executions.record_workflow_executions

    assert record_many(customer_id=db.make_customer().id, runs=[]) == []


@pytest.mark.parametrize("nothing", [{}, {"steps": None, "artifacts": None}, {"steps": []}])
def test_a_run_may_be_recorded_without_steps_and_artifacts(db, nothing):
    customer, agent = db.make_customer(), db.make_agent()

    (row,) = db.workflow_executions.record_workflow_executions(
        customer_id=customer.id, runs=[listed(agent, **nothing)]
    )

    detail = db.workflow_executions.get_workflow_detail(customer_id=customer.id, id=row.id)
    assert (detail.steps, detail.artifacts) == ([], [])


@pytest.mark.parametrize("is_retry_first", [False, True])
def test_a_retry_may_be_recorded_together_with_what_it_retries(db, is_retry_first):
    customer, agent = db.make_customer(), db.make_agent()
    first, second = uuid4(), uuid4()
    runs = [
        listed(agent, id=str(first), status="failed", error_details=ERROR),
        listed(agent, id=str(second), retried_from_id=str(first), attempt=2),
    ]

    db.workflow_executions.record_workflow_executions(
        customer_id=customer.id, runs=runs[::-1] if is_retry_first else runs
    )

    lineage = db.workflow_executions.get_workflow_lineage(customer_id=customer.id, id=first)
    assert [(row.id, row.attempt) for row in lineage] == [(first, 1), (second, 2)]


def test_recording_runs_under_ids_of_another_customers_leaves_those_alone(db):
    other, agent = db.make_run(id=ID), db.make_agent()
    customer = db.make_customer()
    before = db.workflow_executions.get_workflow_detail(**key(other))

    (row,) = db.workflow_executions.record_workflow_executions(
        customer_id=customer.id, runs=[listed(agent, id=str(ID), steps=[listed_step(9)])]
    )

    assert (row.id, row.is_new) == (ID, True)
    assert db.workflow_executions.get_workflow_detail(**key(other)) == before
    (mine,) = runs_of(db, customer)
    assert [step.step_order for step in db.steps_of(mine)] == [9]


def test_the_audit_log_tells_of_each_run_that_was_recorded(db):
    customer, agent = db.make_customer(), db.make_agent()
    db.execute("SET LOCAL optiinfra.actor = 'importer'")
    runs = [listed(agent), listed(agent, status="failed", error_details=ERROR)]

    made = db.workflow_executions.record_workflow_executions(customer_id=customer.id, runs=runs)

    for row, run in zip(made, runs, strict=True):
        (event,) = db.events.list_events_by_subject(
            customer_id=customer.id, subject_id=row.id, max_rows=9
        )
        assert event.event_type == f"workflow_execution.{run['status']}"
        assert (event.actor, event.agent_id) == ("importer", agent.id)
        assert (event.data["from"], event.data["to"]) == (None, run["status"])


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


def test_beginning_starts_a_run_and_its_first_step(db):
    run, bystander = (db.make_run(step_names=["a", "b"]) for _ in range(2))

    step = begin(db, run)

    first, second = db.steps_of(run)
    assert step == first
    assert (step.step_name, step.status, step.retry_count) == ("a", StepStatus.RUNNING, 0)
    assert second.status is StepStatus.PENDING
    started = get_run(db, run)
    assert started.status is WorkflowStatus.RUNNING
    assert started.started_at == started.heartbeat_at == step.started_at
    assert get_run(db, bystander) == bystander


def test_beginning_starts_the_first_step_that_is_pending(db):
    run = db.make_run(step_names=["skipped", "skipped too", "c", "d"])
    for step in db.steps_of(run)[:2]:
        db.workflow_steps.skip_workflow_step(**step_attempt(step))

    assert begin(db, run).step_name == "c"
    assert [step.status for step in db.steps_of(run)] == [
        StepStatus.SKIPPED,
        StepStatus.SKIPPED,
        StepStatus.RUNNING,
        StepStatus.PENDING,
    ]


def test_beginning_a_retry_starts_the_step_that_is_to_be_done_again(db):
    run = db.make_run(step_names=["a", "b", "c"])
    a = begin(db, run)
    db.workflow_steps.advance_workflow_step(**step_attempt(a))
    db.workflow_executions.fail_workflow_execution(**run_attempt(run), error_details=ERROR)

    again = db.workflow_executions.retry_workflow_execution(**key(run))

    assert begin(db, again).step_name == "b"


def test_a_run_without_a_step_to_start_does_not_begin(db):
    empty, skipped = db.make_run(step_names=[]), db.make_run()
    finish_steps(db, skipped)

    for run in (empty, skipped):
        steps = db.steps_of(run)
        assert begin(db, run) is None
        assert (get_run(db, run), db.steps_of(run)) == (run, steps)


def test_only_its_customer_begins_a_run(db):
    run, other = db.make_run(id=ID), db.make_run(id=ID)

    assert begin(db, run, customer_id=db.make_customer().id) is None
    assert get_run(db, run) == run
    assert begin(db, run).customer_id == run.customer_id
    assert get_run(db, other) == other


def test_a_run_never_begins_before_it_was_created_whatever_the_clock_says(db):
    """The server's clock was set back after the creation."""
    run = db.make_run(step_names=["a"])
    for table in ("workflow_executions", "workflow_steps"):
        db.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        db.execute(f"UPDATE {table} SET created_at = now() + interval '1 hour'")
        db.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")

    step = begin(db, run)

    assert step.started_at == step.created_at
    run = get_run(db, run)
    assert run.started_at == run.heartbeat_at == run.created_at


def test_finishing_completes_the_last_step_and_the_run(db, last):
    run = finish(
        db,
        last,
        output_data={"savings": 60000},
        step_output_data={"format": "pdf"},
        artifacts=[artifact_left(metadata={"pages": 3})],
    )

    assert (run.id, run.status) == (last.workflow_execution_id, WorkflowStatus.COMPLETED)
    assert run.output_data == {"savings": 60000}
    assert run_of(db, last) == run
    step = db.steps_of(run)[-1]
    assert (step.id, step.status) == (last.id, StepStatus.COMPLETED)
    assert step.output_data == {"format": "pdf"}
    assert run.started_at <= step.started_at <= step.completed_at == run.completed_at
    (artifact,) = db.artifacts_of(run)
    assert (artifact.workflow_step_id, artifact.artifact_name) == (last.id, "Report")
    assert (artifact.artifact_type, artifact.artifact_size_bytes) == (ArtifactType.REPORT, 1024)
    assert (artifact.artifact_path, artifact.content_type) == (
        "s3://bucket/report.pdf",
        "application/pdf",
    )
    assert (artifact.sha256, artifact.metadata) == (ZERO_DIGEST, {"pages": 3})


def test_finishing_with_nothing_to_say_keeps_what_was_said(db, last):
    db.execute("UPDATE workflow_steps SET output_data = '[1]' WHERE status = 'running'")
    db.execute("UPDATE workflow_executions SET output_data = '[2]' WHERE status = 'running'")

    run = finish(db, last)

    assert (run.output_data, db.steps_of(run)[-1].output_data) == ([2], [1])
    assert db.artifacts_of(run) == []


def test_a_run_of_which_steps_failed_can_be_finished(db):
    run = db.make_run(step_names=["a", "b"])
    db.workflow_steps.fail_workflow_step(
        **step_attempt(begin(db, run)), retryable=False, error_details=ERROR
    )
    last = db.workflow_steps.start_workflow_step(**step_key(db.steps_of(run)[1]))

    assert finish(db, last).status is WorkflowStatus.COMPLETED


def test_only_a_running_step_finishes_its_run(db):
    run = db.make_run(step_names=["completed", "failed", "skipped", "pending"])
    functions = db.workflow_steps
    _, failed, skipped, _ = db.steps_of(run)
    functions.complete_workflow_step(**step_attempt(begin(db, run)))
    functions.start_workflow_step(**step_key(failed))
    functions.fail_workflow_step(**step_attempt(failed), retryable=False, error_details=ERROR)
    functions.skip_workflow_step(**step_attempt(skipped))
    steps, running = db.steps_of(run), get_run(db, run)

    for step in steps:
        assert finish(db, step, artifacts=[artifact_left()], output_data={"x": 1}) is None
    assert (db.steps_of(run), get_run(db, run), db.artifacts_of(run)) == (steps, running, [])


@pytest.mark.parametrize("end", ["fail", "cancel"])
def test_a_run_that_is_over_is_not_finished(db, last, end):
    arguments = {"attempt": 1, "error_details": ERROR} if end == "fail" else {"reason": "x"}
    function = vars(db.workflow_executions)[f"{end}_workflow_execution"]
    run = function(customer_id=last.customer_id, id=last.workflow_execution_id, **arguments)
    steps = db.steps_of(run)

    assert finish(db, last, artifacts=[artifact_left()]) is None
    assert (get_run(db, run), db.steps_of(run), db.artifacts_of(run)) == (run, steps, [])


def test_a_run_that_was_not_started_is_not_finished(db):
    """A record may have a step running in a pending run."""
    step = listed_step(1, status="running", completed_at=None)
    times = {"started_at": None, "completed_at": None}
    run = record(
        db,
        db.make_customer(),
        db.make_agent(),
        status=WorkflowStatus.PENDING,
        **times,
        steps=[step],
    )
    (running,) = db.steps_of(run)

    assert finish(db, running) is None
    assert (get_run(db, run), db.steps_of(run)) == (run, [running])


def test_only_its_own_step_finishes_a_run(db, last):
    run, steps = run_of(db, last), db.steps_of(run_of(db, last))
    another = db.make_run(db.customers.get_customer(id=run.customer_id), step_names=["a"])
    its_step = begin(db, another)

    assert finish(db, last, customer_id=db.make_customer().id) is None
    assert finish(db, last, id=another.id) is None
    assert finish(db, its_step, id=run.id) is None
    assert finish(db, last, workflow_step_id=uuid4()) is None
    assert (run_of(db, last), db.steps_of(run)) == (run, steps)
    assert db.steps_of(another) == [its_step]


@pytest.mark.parametrize("became", ["retrying", "running", "completed", "run failed"])
def test_finishing_by_an_earlier_attempt_is_stale_whatever_became_of_it(db, last, became):
    functions = db.workflow_steps
    functions.fail_workflow_step(
        **step_attempt(last), retryable=True, error_details=ERROR, backoff_base_seconds=0
    )
    if became != "retrying":
        again = functions.start_workflow_step(**step_key(last))
    run = run_of(db, last)
    if became == "completed":
        functions.complete_workflow_step(**step_attempt(again))
    elif became == "run failed":
        run = db.workflow_executions.fail_workflow_execution(
            **run_attempt(run), error_details=ERROR
        )
    steps = db.steps_of(run)

    for setting in ("on", "off"):
        db.execute(f"SET LOCAL enable_indexscan = {setting}")
        db.execute(f"SET LOCAL enable_bitmapscan = {setting}")
        with db.refused(StaleWriter):
            finish(db, last, artifacts=[artifact_left()])
        assert (run_of(db, last), db.steps_of(run), db.artifacts_of(run)) == (run, steps, [])


@pytest.mark.parametrize("is_open", ["pending", "running", "retrying"])
def test_finishing_a_run_with_another_open_step_is_refused(db, last, is_open):
    run = run_of(db, last)
    other = db.workflow_steps.add_workflow_step(
        customer_id=run.customer_id, workflow_execution_id=run.id, step_name="late"
    )
    if is_open != "pending":
        db.workflow_steps.start_workflow_step(**step_key(other))
    if is_open == "retrying":
        db.workflow_steps.fail_workflow_step(
            **step_attempt(other), retryable=True, error_details=ERROR
        )
    steps = db.steps_of(run)

    with db.refused(IllegalTransition) as caught:
        finish(db, last, artifacts=[artifact_left()])

    assert f"late ({is_open})" in str(caught.value)
    assert (run_of(db, last), db.steps_of(run), db.artifacts_of(run)) == (run, steps, [])


def test_an_artifact_that_is_there_does_not_keep_a_run_from_being_finished(db, last):
    there = db.make_artifact(run_of(db, last), artifact_path="s3://bucket/report.pdf")

    run = finish(db, last, artifacts=[artifact_left(artifact_name="Other")])

    assert run.status is WorkflowStatus.COMPLETED
    assert db.artifacts_of(run) == [there]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"sha256": OTHER_DIGEST}, "artifact_path"),
        ({"artifact_name": None}, "artifact_name"),
        ({"artifact_size_bytes": -1}, "artifact_size_bytes"),
        ({"artifact_path": "s3://bucket/new"}, "artifact_path"),
        ({"sha256": "00"}, "sha256"),
        ({"sha256": "g" * 64}, "sha256"),
    ],
)
def test_an_artifact_that_cannot_be_keeps_a_run_from_being_finished(db, last, given, field):
    run, steps = run_of(db, last), db.steps_of(run_of(db, last))
    there = db.make_artifact(run, artifact_path="s3://bucket/report.pdf")
    new = artifact_left(artifact_path="s3://bucket/new")

    with db.refused(InvalidValue) as caught:
        finish(db, last, artifacts=[new, artifact_left(**given)])

    assert caught.value.field == field
    assert (run_of(db, last), db.steps_of(run), db.artifacts_of(run)) == (run, steps, [there])


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
        "begin": (functions.begin_workflow_execution, {}, {WorkflowStatus.PENDING}),
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


def test_recent_workflows_have_progress_retries_and_the_first_failure(db):
    done, failing = db.make_run(), db.make_run()
    for run in (done, failing):
        db.start_run(run)
    finish_steps(db, done)
    db.workflow_executions.complete_workflow_execution(**run_attempt(done))
    a, b, _ = db.steps_of(failing)
    db.workflow_steps.start_workflow_step(**step_key(a))
    db.workflow_steps.advance_workflow_step(**step_attempt(a))
    db.workflow_steps.fail_workflow_step(
        **step_attempt(b), retryable=True, error_details=ERROR, backoff_base_seconds=0
    )

    waiting, completed = db.workflow_executions.list_recent_workflows(max_rows=9)

    assert (waiting.id, completed.id) == (failing.id, done.id)
    assert (waiting.steps_done, waiting.steps_total, waiting.retries) == (1, 3, 1)
    assert (waiting.current_step_name, waiting.failed_step_name) == (b.step_name, None)
    assert (completed.status, completed.steps_done) == ("completed", 3)
    assert completed.current_step_name is None
    assert completed.duration == completed.completed_at - completed.started_at

    db.workflow_steps.start_workflow_step(**step_key(b))
    db.workflow_executions.fail_workflow_execution(**run_attempt(failing), error_details=ERROR)
    (failed,) = db.workflow_executions.list_recent_workflows(
        max_rows=9, customer_id=failing.customer_id
    )
    # What the end of the run closed is not done.
    assert (failed.steps_done, failed.steps_total, failed.retries) == (1, 3, 1)
    assert (failed.failed_step_name, failed.failed_step_error) == (b.step_name, "no GPUs left")


def test_recent_workflows_are_of_all_customers_the_newest_first(db):
    one, other, agent = db.make_customer(), db.make_customer(), db.make_agent()
    runs = [db.make_run(customer, agent) for customer in (one, other, one, other)]
    same = [db.make_run(customer, agent, id=ID) for customer in (one, other)]
    listing = db.workflow_executions.list_recent_workflows

    listed = [(row.customer_id, row.id) for row in listing(max_rows=9)]

    everything = sorted(
        ((run.customer_id, run.id) for run in [*runs, *same]), key=lambda k: k[::-1]
    )
    assert listed == everything[::-1]
    assert [(row.customer_id, row.id) for row in listing(max_rows=3)] == listed[:3]
    of_one = listing(max_rows=9, customer_id=one.id)
    assert [row.id for row in of_one] == [row for customer, row in listed if customer == one.id]
    assert {(row.customer_name, row.agent_name) for row in of_one} == {(one.name, agent.name)}
    assert listing(max_rows=9, customer_id=uuid4()) == []


def test_recent_workflows_by_state_type_and_agent_alone_or_together(db):
    customer, agent, other_agent = db.make_customer(), db.make_agent(), db.make_agent()
    runs = in_each_state(db, customer, agent)
    other = db.make_run(customer, other_agent)
    listing = db.workflow_executions.list_recent_workflows_by

    def ids(**given):
        return {row.id for row in listing(max_rows=99, **given)}

    for status, run in runs.items():
        assert ids(status=status, agent_id=agent.id) == {run.id}
        assert ids(status=status) == {run.id} | ({other.id} if status == "pending" else set())
    assert ids() == {run.id for run in runs.values()} | {other.id}
    assert ids(agent_id=other_agent.id) == {other.id}
    assert ids(workflow_type=WorkflowType.QUALITY_CHECK) == {runs[WorkflowStatus.TIMEOUT].id}
    assert ids(workflow_type=other.workflow_type, status="pending", agent_id=agent.id) == {
        runs[WorkflowStatus.PENDING].id
    }
    assert ids(workflow_type=WorkflowType.QUALITY_CHECK, status="pending") == set()
    assert ids(customer_id=uuid4()) == set()
    newest_first = [row.id for row in listing(max_rows=99)]
    assert newest_first == sorted(newest_first, reverse=True)
    assert [row.id for row in listing(max_rows=2)] == newest_first[:2]


def test_retries_are_added_up_and_the_first_failed_step_is_that_of_the_plan(db):
    run = db.start_run(db.make_run(step_names=["a", "b"]))
    for step in reversed(db.steps_of(run)):
        db.workflow_steps.start_workflow_step(**step_key(step))
        again = db.workflow_steps.fail_workflow_step(
            **step_attempt(step), retryable=True, error_details=ERROR, backoff_base_seconds=0
        )
        db.workflow_steps.start_workflow_step(**step_key(step))
        db.workflow_steps.fail_workflow_step(
            **step_attempt(again), retryable=False, error_details={"message": step.step_name}
        )

    functions = db.workflow_executions
    for function in (
        functions.list_recent_workflows,
        functions.list_recent_workflows_by,
        functions.list_open_workflows,
    ):
        (row,) = function(max_rows=9)
        assert (row.retries, row.failed_step_name, row.failed_step_error) == (2, "a", "a")


def test_open_workflows_are_those_that_run_or_wait(db):
    customer, agent = db.make_customer(), db.make_agent()
    runs = in_each_state(db, customer, agent)
    elsewhere = db.make_run(db.make_customer(), agent)
    listing = db.workflow_executions.list_open_workflows

    listed = listing(max_rows=9)

    assert {row.status for row in listed} == {"pending", "running"}
    opened = [elsewhere.id, *(runs[s].id for s in (WorkflowStatus.RUNNING, WorkflowStatus.PENDING))]
    assert [row.id for row in listed] == sorted(opened, reverse=True)
    assert len(listing(max_rows=9, customer_id=customer.id)) == 2
    assert listing(max_rows=1)[0].id == elsewhere.id
    assert listing(max_rows=9, customer_id=uuid4()) == []
    same = [db.make_run(of, agent, id=ID).customer_id for of in (customer, db.make_customer())]
    assert [r.customer_id for r in listing(max_rows=9) if r.id == ID] == sorted(same, reverse=True)


def test_a_range_of_ids_has_both_ends_and_every_customer(db):
    one, other = db.make_customer(), db.make_customer()
    agent, ids = db.make_agent(), [UUID(int=ID.int + n) for n in range(4)]
    for id_ in ids:
        db.make_run(one, agent, id=id_)
    db.make_run(other, agent, id=ids[1])
    listing = db.workflow_executions.list_workflow_executions_by_id_range
    ends = {"first_id": ids[1], "last_id": ids[2], "max_rows": 9}

    found = listing(**ends)

    pairs = [(row.id, row.customer_id) for row in found]
    assert pairs == sorted([(ids[1], one.id), (ids[1], other.id), (ids[2], one.id)], reverse=True)
    assert [row.id for row in listing(**ends, customer_id=other.id)] == [ids[1]]
    assert len(listing(**ends | {"max_rows": 1})) == 1
    assert listing(**ends, customer_id=uuid4()) == []
    assert listing(first_id=ids[2], last_id=ids[1], max_rows=9) == []


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


@pytest.mark.parametrize("end", ["complete", "finish", "fail", "cancel"])
def test_a_run_never_ends_before_it_started_whatever_the_clock_says(db, end):
    """The server's clock was set back after the start."""
    run = db.start_run(db.make_run(step_names=["a"] if end != "complete" else []))
    step_id = None
    for step in db.steps_of(run):
        step_id = db.workflow_steps.start_workflow_step(**step_key(step)).id
    for table in ("workflow_executions", "workflow_steps"):
        db.execute(f"UPDATE {table} SET started_at = now() + interval '1 hour'")
    arguments = {
        "complete": {"attempt": 1},
        "finish": {"workflow_step_id": step_id, "retry_count": 0},
        "fail": {"attempt": 1, "error_details": ERROR},
        "cancel": {"reason": "x"},
    }

    function = vars(db.workflow_executions)[f"{end}_workflow_execution"]
    ended = function(**key(run), **arguments[end])

    for row in (ended, *db.steps_of(run)):
        assert row.completed_at == row.started_at
