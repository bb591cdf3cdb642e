import hashlib

import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation

from optiinfra_db.generated.models import ArtifactType

from .database import ZERO_DIGEST, step_key


@pytest.fixture
def run(db):
    return db.make_run()


def test_a_registered_artifact_is_read_back(db, run):
    step, *_ = db.steps_of(run)

    made = db.make_artifact(
        run, step, artifact_type=ArtifactType.CHART, artifact_size_bytes=2**62, metadata={"w": 1}
    )

    assert (made.workflow_step_id, made.artifact_type) == (step.id, ArtifactType.CHART)
    assert (made.artifact_size_bytes, made.sha256) == (2**62, ZERO_DIGEST)
    assert made.metadata == {"w": 1}
    assert db.workflow_artifacts.get_workflow_artifact(**step_key(made)) == made


def test_registering_the_same_content_again_returns_the_row_that_is_there(db, run):
    first = db.make_artifact(run, artifact_path="s3://a/b")

    assert db.make_artifact(run, artifact_path="s3://a/b", artifact_name="Other") == first


def test_a_path_that_holds_other_content_is_left_as_it_is(db, run):
    first = db.make_artifact(run, artifact_path="s3://a/b")
    other = hashlib.sha256(b"other").digest()

    assert db.make_artifact(run, artifact_path="s3://a/b", sha256=other) is None

    assert db.workflow_artifacts.list_workflow_artifacts(
        customer_id=run.customer_id, workflow_execution_id=run.id
    ) == [first]
    assert db.make_artifact(db.make_run(), artifact_path="s3://a/b", sha256=other) is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("artifact_name", ""),
        ("artifact_path", ""),
        ("artifact_path", "x" * 1025),
        ("artifact_size_bytes", -1),
        ("content_type", ""),
        ("sha256", b"short"),
        ("metadata", []),
    ],
)
def test_values_out_of_range_are_refused(db, run, field, value):
    with db.refused(CheckViolation, f"workflow_artifacts_{field}_check"):
        db.make_artifact(run, **{field: value})


def test_a_step_of_another_run_or_a_run_of_another_customer_is_refused(db, run):
    step, *_ = db.steps_of(db.make_run(db.customers.get_customer(id=run.customer_id)))

    with db.refused(ForeignKeyViolation, "workflow_artifacts_workflow_step_id_fkey"):
        db.make_artifact(run, step)
    with db.refused(ForeignKeyViolation, "workflow_artifacts_workflow_execution_id_fkey"):
        db.make_artifact(run, customer_id=db.make_customer().id)


def test_artifacts_are_listed_by_run_step_and_type(db, run):
    step, *_ = db.steps_of(run)
    chart, other_chart = (
        db.make_artifact(run, step, artifact_type=ArtifactType.CHART) for _ in range(2)
    )
    reports = [db.make_artifact(run) for _ in range(3)]
    db.make_artifact(db.make_run())
    functions = db.workflow_artifacts
    of_run = {"customer_id": run.customer_id, "workflow_execution_id": run.id}

    assert functions.list_workflow_artifacts(**of_run) == [chart, other_chart, *reports]
    assert functions.list_step_artifacts(**of_run, workflow_step_id=step.id) == [
        chart,
        other_chart,
    ]
    by_type = {"customer_id": run.customer_id, "artifact_type": ArtifactType.REPORT, "max_rows": 2}
    first = functions.list_artifacts_by_type(**by_type)
    rest = functions.list_artifacts_by_type(**by_type, before_id=first[-1].id)
    assert first + rest == reports[::-1]


def test_metadata_is_replaced(db, run):
    made = db.make_artifact(run, metadata={"pages": 1})
    update = db.workflow_artifacts.update_workflow_artifact_metadata

    assert update(**step_key(made), metadata={"pages": 2}).metadata == {"pages": 2}
    theirs = step_key(made) | {"customer_id": db.make_customer().id}
    assert update(**theirs, metadata={}) is None


def test_an_artifact_is_deleted_alone_or_with_its_step(db, run):
    step, *_ = db.steps_of(run)
    made, of_step = db.make_artifact(run), db.make_artifact(run, step)

    assert db.workflow_artifacts.delete_workflow_artifact(**step_key(made)) == 1
    assert db.workflow_artifacts.delete_workflow_artifact(**step_key(made)) == 0
    db.execute(f"DELETE FROM workflow_steps WHERE id = '{step.id}'")
    assert db.workflow_artifacts.get_workflow_artifact(**step_key(of_step)) is None
