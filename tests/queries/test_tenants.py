"""No function shows or moves what belongs to another customer, even under the same ids."""

import inspect
from datetime import UTC, datetime, timedelta
from uuid import UUID

from optiinfra_db.generated.models import (
    ApprovalStatus,
    ArtifactType,
    RecommendationPriority,
    RecommendationStatus,
    WorkflowStatus,
    WorkflowType,
)

from .database import ZERO_DIGEST, customers_in

AT = datetime(2026, 5, 1, tzinfo=UTC)
RUN, STEP, ARTIFACT, RECOMMENDATION, APPROVAL, OPTIMIZATION, EVENT, RETRY, API_KEY = (
    UUID(f"01941f29-7c00-7000-8000-{number:012x}") for number in range(9)
)
NOUNS = {
    "api_keys": API_KEY,
    "approvals": APPROVAL,
    "events": EVENT,
    "optimizations": OPTIMIZATION,
    "recommendations": RECOMMENDATION,
    "workflow_artifacts": ARTIFACT,
    "workflow_executions": RUN,
    "workflow_steps": STEP,
}
STATUSES = {
    "approvals": ApprovalStatus.APPROVED,
    "recommendations": RecommendationStatus.PENDING,
}


IN_ITS_RUN = f"customer_id = '{{}}' AND workflow_execution_id = '{RUN}'"
BEFORE = {
    "complete_workflow_execution": f"DELETE FROM workflow_steps WHERE {IN_ITS_RUN}",
    "finish_workflow_execution": (
        f"UPDATE workflow_steps SET status = 'running', started_at = now() WHERE {IN_ITS_RUN}"
    ),
}
"""What has to be done first, to the rows of the customer."""
PENDING_RUN = {"begin_workflow_execution", "start_workflow_execution"}
"""What is done to a run that is pending."""


def make_everything(db, agent):
    """Make a customer with one row of each noun, under ids that all customers here share."""
    customer = db.make_customer()
    db.api_keys.create_api_key(
        customer_id=customer.id, id=API_KEY, api_key_hash=customer.id.bytes * 2
    )
    run = db.make_run(customer, agent, id=RUN, step_names=[])
    db.make_run(customer, agent, id=RETRY, step_names=["a"])
    db.execute(
        f"UPDATE workflow_executions SET retried_from_id = '{RUN}' "
        f"WHERE customer_id = '{customer.id}' AND id = '{RETRY}'"
    )
    db.start_run(run)
    of_run = {"customer_id": customer.id, "workflow_execution_id": RUN}
    db.workflow_steps.add_workflow_step(**of_run, id=STEP, step_name="a")
    db.make_artifact(run, id=ARTIFACT, workflow_step_id=STEP, artifact_path="s3://a")
    db.make_recommendation(customer, agent, id=RECOMMENDATION, workflow_execution_id=RUN)
    theirs = {"customer_id": customer.id, "recommendation_id": RECOMMENDATION}
    db.approvals.create_approval(**theirs, id=APPROVAL)
    db.optimizations.create_optimization(
        **theirs, id=OPTIMIZATION, agent_id=agent.id, workflow_execution_id=RUN
    )
    db.events.create_event(
        customer_id=customer.id,
        id=EVENT,
        created_at=AT,
        event_type="x",
        subject_type="workflow_execution",
        subject_id=RUN,
    )
    return customer


def arguments_for(noun, function, customer, agent):
    """Choose arguments for the parameters that a function cannot do without."""
    values = {
        "id": NOUNS[noun],
        "customer_id": customer.id,
        "agent_id": agent.id,
        "workflow_execution_id": RUN,
        "workflow_step_id": STEP,
        "recommendation_id": RECOMMENDATION,
        "retried_from_id": RUN,
        "subject_id": RUN,
        "created_at": AT,
        "max_rows": 99,
        "after_xact_id": 0,
        "after_id": UUID(int=0),
        "first_id": UUID(int=0),
        "last_id": UUID(int=2**128 - 1),
        "attempt": 1,
        "retry_count": 0,
        "since": AT,
        "until": AT + timedelta(days=365),
        "status": STATUSES.get(noun, WorkflowStatus.RUNNING),
        "priority": RecommendationPriority.MEDIUM,
        "api_key_hash": ZERO_DIGEST,
        "overlap": timedelta(hours=1),
        "older_than": timedelta(0),
        "workflow_types": list(WorkflowType),
        "ids": [RUN, RETRY],
        "approved_by": "ada",
        "reason": "x",
        "runs": [
            {"agent_id": str(agent.id), "workflow_type": "cost_analysis", "status": "pending"}
            | of_id
            for of_id in ({"id": str(RUN)}, {})
        ],
        "error": "x",
        "error_details": {"message": "x"},
        "metadata": {"changed": True},
        "progress": 50,
        "retryable": True,
        "artifact_type": ArtifactType.REPORT,
        "artifact_name": "Report",
        "artifact_path": "s3://a",
        "artifact_size_bytes": 1,
        "content_type": "text/plain",
        "sha256": ZERO_DIGEST,
        "workflow_type": WorkflowType.COST_ANALYSIS,
        "step_name": "a",
        "step_names": ["a"],
        "event_type": "x",
        "type": "x",
        "title": "x",
    }
    parameters = inspect.signature(function).parameters.values()
    needed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    optional = {"id", "customer_id"} & {p.name for p in parameters}
    return {name: values[name] for name in {*needed, *optional}}


def contents(db, customer):
    return {
        noun: sorted(
            str(row)
            for row in db.execute(f"SELECT * FROM {noun} WHERE customer_id = '{customer.id}'")
        )
        for noun in NOUNS
    }


def test_functions_touch_the_rows_of_their_customer_only(db):
    agent = db.make_agent()
    mine, other = make_everything(db, agent), make_everything(db, agent)
    before = contents(db, other)
    assert all(before.values())
    called = 0
    for noun in NOUNS:
        for name, call in vars(getattr(db, noun)).items():
            function = db.functions[noun, name]
            if "customer_id" not in inspect.signature(function).parameters:
                continue
            if name in {"record_workflow_execution"}:  # creates, by id, as create_ does
                continue
            db.execute("SAVEPOINT one_call")
            if name in BEFORE:
                db.execute(BEFORE[name].format(mine.id))
            arguments = arguments_for(noun, function, mine, agent)
            if name in PENDING_RUN:
                arguments["id"] = RETRY
            result = call(**arguments)
            assert result or name not in {*BEFORE, *PENDING_RUN}, name
            assert customers_in(result) <= {mine.id}, name
            assert contents(db, other) == before, name
            db.execute("ROLLBACK TO SAVEPOINT one_call")
            called += 1
    assert called > 50
