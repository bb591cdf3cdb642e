import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from psycopg import Error
from psycopg.errors import CheckViolation, ForeignKeyViolation, UniqueViolation

from optiinfra_db.errors import InvalidValue, StaleWriter
from optiinfra_db.generated.models import ArtifactType, StepStatus

from .database import ZERO_DIGEST, artifact_left, run_attempt, step_attempt, step_key

OTHER_DIGEST = hashlib.sha256(b"other").hexdigest()
ERROR = {"type": "Timeout", "message": "no answer in 30 s"}


@pytest.fixture
def run(db):
    run = db.make_run(step_names=["a", "b", "c"])
    return db.start_run(run)


def add(db, run, **given):
    values = {"customer_id": run.customer_id, "workflow_execution_id": run.id, "step_name": "d"}
    return db.workflow_steps.add_workflow_step(**values | given)


def in_each_state(db, run):
    """Make a step in each state, by the functions that lead there."""
    functions = db.workflow_steps
    steps = {status: add(db, run, step_name=status) for status in StepStatus}
    for status, step in steps.items():
        if status not in {StepStatus.PENDING, StepStatus.SKIPPED}:
            functions.start_workflow_step(**step_key(step))
    functions.complete_workflow_step(**step_attempt(steps[StepStatus.COMPLETED]))
    functions.skip_workflow_step(**step_attempt(steps[StepStatus.SKIPPED]))
    functions.fail_workflow_step(
        **step_attempt(steps[StepStatus.FAILED]), retryable=False, error_details=ERROR
    )
    functions.fail_workflow_step(
        **step_attempt(steps[StepStatus.RETRYING]), retryable=True, error_details=ERROR
    )
    return {status: functions.get_workflow_step(**step_key(step)) for status, step in steps.items()}


def test_an_added_step_is_read_back_with_defaults_at_the_end(db, run):
    made = add(db, run)

    assert (made.step_order, made.status) == (4, StepStatus.PENDING)
    assert (made.retry_count, made.max_retries, made.next_attempt_at) == (0, 3, None)
    assert (made.started_at, made.completed_at, made.error_details) == (None, None, None)
    assert (made.input_data, made.output_data, made.metadata) == ({}, {}, {})
    assert db.workflow_steps.get_workflow_step(**step_key(made)) == made
    assert db.steps_of(run)[-1] == made


def test_every_field_is_kept(db, run):
    made = add(db, run, step_order=9, max_retries=0, input_data=[1], metadata={"a": "b"})

    assert (made.step_order, made.max_retries) == (9, 0)
    assert (made.input_data, made.metadata) == ([1], {"a": "b"})


def test_adding_twice_with_one_id_returns_the_first(db, run):
    first = add(db, run)

    assert add(db, run, id=first.id, step_name="other") == first
    assert len(db.steps_of(run)) == 4


def test_step_order_is_unique_in_a_run_and_from_one_on(db, run):
    with db.refused(UniqueViolation, "workflow_steps_step_order_key"):
        add(db, run, step_order=2)
    with db.refused(CheckViolation, "workflow_steps_step_order_check"):
        add(db, run, step_order=0)
    with db.refused(CheckViolation, "workflow_steps_max_retries_check"):
        add(db, run, max_retries=-1)


def test_no_step_is_added_to_a_run_that_is_over_or_of_another_customer(db, run):
    assert add(db, run, customer_id=db.make_customer().id) is None

    db.workflow_executions.fail_workflow_execution(**run_attempt(run), error_details=ERROR)
    assert add(db, run) is None
    assert len(db.steps_of(run)) == 3


def test_another_customers_run_cannot_be_referenced(db, run):
    other = db.make_customer()

    with db.refused(ForeignKeyViolation, "workflow_steps_workflow_execution_id_fkey"):
        db.execute(
            "INSERT INTO workflow_steps"
            "(customer_id, workflow_execution_id, step_name, step_order)"
            f"VALUES ('{other.id}', '{run.id}', 'a', 1)"
        )


def test_a_step_goes_from_start_to_completion(db, run):
    step, *_ = db.steps_of(run)

    started = db.workflow_steps.start_workflow_step(**step_key(step))
    assert started.status is StepStatus.RUNNING
    assert started.started_at is not None

    completed = db.workflow_steps.complete_workflow_step(
        **step_attempt(step), output_data={"metrics": 1247}
    )
    assert completed.status is StepStatus.COMPLETED
    assert completed.output_data == {"metrics": 1247}
    assert completed.completed_at >= completed.started_at
    assert db.workflow_steps.get_workflow_step(**step_key(step)) == completed


def test_a_step_starts_only_in_a_running_run(db):
    pending = db.make_run()
    step, *_ = db.steps_of(pending)

    assert db.workflow_steps.start_workflow_step(**step_key(step)) is None
    db.start_run(pending)
    assert db.workflow_steps.start_workflow_step(**step_key(step)) is not None


def test_advancing_completes_a_step_and_starts_the_next_pending_one(db, run):
    advance = db.workflow_steps.advance_workflow_step
    a, b, c = db.steps_of(run)
    assert advance(**step_attempt(a)) == []
    db.workflow_steps.start_workflow_step(**step_key(a))
    db.workflow_steps.skip_workflow_step(**step_attempt(b))

    completed, started = advance(**step_attempt(a), output_data={"x": 1})
    assert (completed.id, completed.status) == (a.id, StepStatus.COMPLETED)
    assert completed.output_data == {"x": 1}
    assert (started.id, started.status) == (c.id, StepStatus.RUNNING)
    assert started.started_at is not None

    assert advance(**step_attempt(a)) == []
    (last,) = advance(**step_attempt(c))
    assert (last.id, last.status) == (c.id, StepStatus.COMPLETED)
    assert [step.status for step in db.steps_of(run)] == [
        StepStatus.COMPLETED,
        StepStatus.SKIPPED,
        StepStatus.COMPLETED,
    ]


def started(db, run):
    """Start the first step of a run."""
    return db.workflow_steps.start_workflow_step(**step_key(db.steps_of(run)[0]))


def test_advancing_notes_what_the_step_left(db, run):
    step = started(db, run)
    report = artifact_left(metadata={"pages": 3})
    chart = artifact_left(
        artifact_type="chart",
        artifact_name="Chart",
        artifact_path="s3://bucket/chart.svg",
        artifact_size_bytes=2**40,
        content_type="image/svg+xml",
        sha256=OTHER_DIGEST.upper(),
    )

    completed, _ = db.workflow_steps.advance_workflow_step(
        **step_attempt(step), artifacts=[report, chart]
    )

    first, second = db.artifacts_of(run)
    assert (first.artifact_name, first.artifact_type) == ("Report", ArtifactType.REPORT)
    assert (first.artifact_path, first.artifact_size_bytes) == ("s3://bucket/report.pdf", 1024)
    assert (first.content_type, first.sha256) == ("application/pdf", ZERO_DIGEST)
    assert first.metadata == {"pages": 3}
    assert (second.artifact_name, second.artifact_type) == ("Chart", ArtifactType.CHART)
    assert (second.artifact_path, second.artifact_size_bytes) == ("s3://bucket/chart.svg", 2**40)
    assert (second.content_type, second.sha256) == ("image/svg+xml", bytes.fromhex(OTHER_DIGEST))
    assert second.metadata == {}
    for made in (first, second):
        assert (made.customer_id, made.workflow_execution_id) == (run.customer_id, run.id)
        assert made.workflow_step_id == step.id
        assert completed.completed_at <= made.created_at <= made.updated_at


@pytest.mark.parametrize("artifacts", [None, []])
def test_a_step_may_leave_nothing(db, run, artifacts):
    step = started(db, run)

    moved = db.workflow_steps.advance_workflow_step(**step_attempt(step), artifacts=artifacts)

    assert [step.status for step in moved] == [StepStatus.COMPLETED, StepStatus.RUNNING]
    assert db.artifacts_of(run) == []


def test_an_artifact_with_the_same_content_that_is_there_stays_as_it_is(db, run):
    step = started(db, run)
    there = db.make_artifact(run, artifact_path="s3://bucket/report.pdf", metadata={"by": "hand"})

    moved = db.workflow_steps.advance_workflow_step(
        **step_attempt(step), artifacts=[artifact_left(artifact_name="Other", metadata={})]
    )

    assert len(moved) == 2
    assert db.artifacts_of(run) == [there]


def test_a_path_that_holds_other_content_keeps_a_step_from_advancing(db, run):
    step = started(db, run)
    there = db.make_artifact(run, artifact_path="s3://bucket/taken")
    before = db.steps_of(run)
    new = artifact_left(artifact_path="s3://bucket/new")
    taken = artifact_left(artifact_path="s3://bucket/taken", sha256=OTHER_DIGEST)

    with db.refused(InvalidValue) as caught:
        db.workflow_steps.advance_workflow_step(**step_attempt(step), artifacts=[new, taken])

    assert caught.value.field == "artifact_path"
    assert "s3://bucket/taken" in str(caught.value)
    assert (db.steps_of(run), db.artifacts_of(run)) == (before, [there])
    # The path is taken in that run only.
    other = db.start_run(db.make_run(db.customers.get_customer(id=run.customer_id)))
    assert db.workflow_steps.advance_workflow_step(
        **step_attempt(started(db, other)), artifacts=[taken]
    )


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"artifact_name": None}, "artifact_name"),
        ({"artifact_name": ""}, "artifact_name"),
        ({"artifact_path": None}, "artifact_path"),
        ({"artifact_path": "x" * 1025}, "artifact_path"),
        ({"artifact_size_bytes": None}, "artifact_size_bytes"),
        ({"artifact_size_bytes": -1}, "artifact_size_bytes"),
        ({"artifact_type": None}, "artifact_type"),
        ({"artifact_type": "poem"}, "artifact_type"),
        ({"content_type": ""}, "content_type"),
        ({"metadata": []}, "metadata"),
        ({"sha256": None}, "sha256"),
        ({"sha256": "00"}, "sha256"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"sha256": "g" * 64}, "sha256"),
        ({"sha256": "\\x" + ZERO_DIGEST.hex()}, "sha256"),
        ({"artifact_path": "s3://bucket/log"}, "artifact_path"),
    ],
)
def test_an_artifact_that_cannot_be_keeps_a_step_from_advancing(db, run, given, field):
    step = started(db, run)
    before = db.steps_of(run)
    artifacts = [artifact_left(artifact_path="s3://bucket/log"), artifact_left(**given)]

    with db.refused(InvalidValue) as caught:
        db.workflow_steps.advance_workflow_step(**step_attempt(step), artifacts=artifacts)

    # Of an enum PostgreSQL names the type, and no column.
    assert caught.value.field == (None if given.get("artifact_type") else field)
    assert field in str(caught.value)
    assert (db.steps_of(run), db.artifacts_of(run)) == (before, [])


@pytest.mark.parametrize("artifacts", [artifact_left(), "report", 1, ["report"], [None]])
def test_what_is_no_list_of_artifacts_keeps_a_step_from_advancing(db, run, artifacts):
    step = started(db, run)
    before = db.steps_of(run)

    with db.refused(InvalidValue):
        db.workflow_steps.advance_workflow_step(**step_attempt(step), artifacts=artifacts)

    assert db.steps_of(run) == before


def test_a_step_that_is_not_running_leaves_no_artifacts(db, run):
    for status, step in in_each_state(db, run).items():
        if status is not StepStatus.RUNNING:
            arguments = step_attempt(step) | {"artifacts": [artifact_left()]}
            assert db.workflow_steps.advance_workflow_step(**arguments) == []
            assert db.artifacts_of(run) == []


def test_a_retryable_failure_is_tried_again_with_growing_pauses_until_none_is_left(db, run):
    step = add(db, run, max_retries=3)
    now = next(iter(db.execute("SELECT now()")))[0]
    pauses = []
    for attempt in range(3):
        db.workflow_steps.start_workflow_step(**step_key(step))
        failed = db.workflow_steps.fail_workflow_step(
            **step_attempt(step) | {"retry_count": attempt},
            retryable=True,
            error_details=ERROR,
            backoff_base_seconds=10,
            backoff_cap_seconds=25,
        )
        assert (failed.status, failed.retry_count) == (StepStatus.RETRYING, attempt + 1)
        assert (failed.error_details, failed.completed_at) == (ERROR, None)
        pauses.append(failed.next_attempt_at - now)
        assert db.workflow_steps.start_workflow_step(**step_key(step)) is None
        db.execute(f"UPDATE workflow_steps SET next_attempt_at = now() WHERE id = '{step.id}'")
    for pause, whole in zip(pauses, (10, 20, 25), strict=True):
        assert timedelta(seconds=whole / 2) <= pause <= timedelta(seconds=whole)

    started = db.workflow_steps.start_workflow_step(**step_key(step))
    failed = db.workflow_steps.fail_workflow_step(
        **step_attempt(started), retryable=True, error_details=ERROR
    )
    assert (failed.status, failed.retry_count) == (StepStatus.FAILED, 3)
    assert failed.next_attempt_at is None
    assert failed.completed_at is not None


@pytest.mark.parametrize(("base", "cap"), [(-5, 10), (1e300, 1e300), (1, -1)])
def test_a_pause_is_never_negative_and_at_most_a_year(db, run, base, cap):
    step = add(db, run, max_retries=1)
    db.workflow_steps.start_workflow_step(**step_key(step))
    now = next(iter(db.execute("SELECT now()")))[0]

    failed = db.workflow_steps.fail_workflow_step(
        **step_attempt(step),
        retryable=True,
        error_details=ERROR,
        backoff_base_seconds=base,
        backoff_cap_seconds=cap,
    )

    assert timedelta(0) <= failed.next_attempt_at - now <= timedelta(days=365)


def test_a_failure_that_is_not_retryable_is_final(db, run):
    step, *_ = db.steps_of(run)
    db.workflow_steps.start_workflow_step(**step_key(step))

    failed = db.workflow_steps.fail_workflow_step(
        **step_attempt(step), retryable=False, error_details=ERROR
    )

    assert (failed.status, failed.retry_count) == (StepStatus.FAILED, 0)


def test_a_failure_needs_a_reason_that_is_an_object(db, run):
    step, *_ = db.steps_of(run)
    started = db.workflow_steps.start_workflow_step(**step_key(step))

    with db.refused(CheckViolation, "workflow_steps_error_details_check"):
        db.workflow_steps.fail_workflow_step(
            **step_attempt(step), retryable=False, error_details="because"
        )
    assert db.workflow_steps.get_workflow_step(**step_key(step)) == started


def test_transitions_from_the_wrong_state_return_none_and_change_nothing(db, run):
    functions = db.workflow_steps
    open_states = {StepStatus.PENDING, StepStatus.RUNNING, StepStatus.RETRYING}
    fail = {"retryable": True, "error_details": ERROR}
    moves = {
        "complete": (functions.complete_workflow_step, {}, {StepStatus.RUNNING}),
        "advance": (functions.advance_workflow_step, {}, {StepStatus.RUNNING}),
        "fail": (functions.fail_workflow_step, fail, {StepStatus.RUNNING}),
        "skip": (functions.skip_workflow_step, {}, open_states),
    }
    for status, step in in_each_state(db, run).items():
        assert step.status is status
        if status is not StepStatus.PENDING:  # nor is a retrying one, before its time has come
            assert functions.start_workflow_step(**step_key(step)) is None
        for name, (move, arguments, sources) in moves.items():
            if status not in sources:
                assert not move(**step_attempt(step), **arguments), f"{name} from {status}"
        assert functions.get_workflow_step(**step_key(step)) == step


@pytest.mark.parametrize("status", [StepStatus.RETRYING, StepStatus.RUNNING, StepStatus.COMPLETED])
@pytest.mark.parametrize("move", ["complete", "advance", "fail", "skip"])
def test_a_write_of_an_earlier_attempt_is_stale_whatever_became_of_the_step(db, run, status, move):
    functions = db.workflow_steps
    step, other, *_ = db.steps_of(run)
    late = functions.start_workflow_step(**step_key(step))
    functions.fail_workflow_step(
        **step_attempt(step), retryable=True, error_details=ERROR, backoff_base_seconds=0
    )
    if status is not StepStatus.RETRYING:
        again = functions.start_workflow_step(**step_key(step))
        assert again.retry_count == late.retry_count + 1
    if status is StepStatus.COMPLETED:
        functions.complete_workflow_step(**step_attempt(again))
    before = db.steps_of(run)
    arguments = {"retryable": True, "error_details": ERROR} if move == "fail" else {}

    for setting in ("on", "off"):
        db.execute(f"SET LOCAL enable_indexscan = {setting}")
        db.execute(f"SET LOCAL enable_bitmapscan = {setting}")
        with db.refused(StaleWriter):
            vars(functions)[f"{move}_workflow_step"](**step_attempt(late), **arguments)
        assert db.steps_of(run) == before
        # The others of the run are none of its business.
        assert functions.complete_workflow_step(**step_attempt(other)) is None


def test_every_open_step_can_be_skipped(db, run):
    for status, step in in_each_state(db, run).items():
        if status in {StepStatus.PENDING, StepStatus.RUNNING, StepStatus.RETRYING}:
            skipped = db.workflow_steps.skip_workflow_step(**step_attempt(step))
            assert skipped.status is StepStatus.SKIPPED
            assert skipped.completed_at <= datetime.now(UTC)


def test_transitions_of_another_customers_step_change_nothing(db, run):
    step, *_ = db.steps_of(run)
    theirs = step_key(step) | {"customer_id": db.make_customer().id}
    functions = db.workflow_steps

    assert functions.start_workflow_step(**theirs) is None
    assert functions.skip_workflow_step(**theirs, retry_count=0) is None
    started = functions.start_workflow_step(**step_key(step))
    theirs |= {"retry_count": 0}
    assert functions.complete_workflow_step(**theirs) is None
    assert functions.advance_workflow_step(**theirs) == []
    assert functions.fail_workflow_step(**theirs, retryable=True, error_details=ERROR) is None
    del theirs["retry_count"]
    assert functions.get_workflow_step(**theirs) is None
    assert functions.get_workflow_step(**step_key(step)) == started


@pytest.mark.parametrize("end", ["complete", "advance", "fail", "skip"])
def test_a_step_never_ends_before_it_started_whatever_the_clock_says(db, run, end):
    """The server's clock was set back after the start."""
    step, *_ = db.steps_of(run)
    db.workflow_steps.start_workflow_step(**step_key(step))
    db.execute(
        f"UPDATE workflow_steps SET started_at = now() + interval '1 hour'WHERE id = '{step.id}'"
    )
    arguments = {"retryable": False, "error_details": ERROR} if end == "fail" else {}

    vars(db.workflow_steps)[f"{end}_workflow_step"](**step_attempt(step), **arguments)

    ended = db.workflow_steps.get_workflow_step(**step_key(step))
    assert ended.completed_at == ended.started_at


@pytest.mark.parametrize(
    "change", ["retry_count = retry_count + 1", "created_at = now() - interval '1 day'"]
)
def test_what_tells_attempts_apart_is_not_changed_by_hand(db, run, change):
    step, *_ = db.steps_of(run)

    with db.refused(Error):
        db.execute(f"UPDATE workflow_steps SET {change} WHERE id = '{step.id}'")
    with db.refused(Error):
        db.execute(f"UPDATE workflow_executions SET attempt = 2 WHERE id = '{run.id}'")
    assert db.steps_of(run)[0] == step
