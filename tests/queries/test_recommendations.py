from decimal import Decimal

import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation

from optiinfra_db.generated.models import RecommendationPriority, RecommendationStatus

from .database import key


def test_created_recommendation_is_read_back_with_defaults(db):
    made = db.make_recommendation()

    assert made.status is RecommendationStatus.PENDING
    assert made.priority is RecommendationPriority.MEDIUM
    assert (made.estimated_savings, made.estimated_improvement) == (None, None)
    assert (made.confidence_score, made.workflow_execution_id) == (None, None)
    assert (made.description, made.data) == ("", {})
    assert (made.approved_at, made.executed_at) == (None, None)
    assert db.recommendations.get_recommendation(**key(made)) == made


def test_every_field_is_kept(db):
    customer, agent = db.make_customer(), db.make_agent()
    run = db.make_run(customer, agent)
    made = db.make_recommendation(
        customer,
        agent,
        workflow_execution_id=run.id,
        description="Long.",
        estimated_savings=Decimal("9999999999.99"),
        estimated_improvement=Decimal("1.80"),
        confidence_score=0.1,
        priority=RecommendationPriority.CRITICAL,
        data={"gpus": ["a", "b"]},
    )

    assert made.estimated_savings == Decimal("9999999999.99")
    assert made.estimated_improvement == Decimal("1.80")
    assert made.confidence_score == 0.1
    assert made.priority is RecommendationPriority.CRITICAL
    second = db.make_recommendation(customer, agent, workflow_execution_id=run.id)
    assert db.recommendations.list_workflow_recommendations(
        customer_id=customer.id, workflow_execution_id=run.id
    ) == [made, second]


def test_creating_twice_with_one_id_returns_the_first(db):
    customer, agent = db.make_customer(), db.make_agent()
    first = db.make_recommendation(customer, agent)

    assert db.make_recommendation(customer, agent, id=first.id, title="Other") == first


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", ""),
        ("title", ""),
        ("estimated_savings", Decimal("-0.01")),
        ("estimated_savings", Decimal("NaN")),
        ("estimated_improvement", Decimal(-1)),
        ("confidence_score", 1.01),
        ("confidence_score", -0.01),
        ("confidence_score", float("nan")),
        ("data", []),
    ],
)
def test_values_out_of_range_are_refused(db, field, value):
    customer, agent = db.make_customer(), db.make_agent()

    with db.refused(CheckViolation, f"recommendations_{field}_check"):
        db.make_recommendation(customer, agent, **{field: value})


def test_a_run_of_another_customer_cannot_be_referenced(db):
    customer, agent = db.make_customer(), db.make_agent()
    run = db.make_run()

    with db.refused(ForeignKeyViolation, "recommendations_workflow_execution_id_fkey"):
        db.make_recommendation(customer, agent, workflow_execution_id=run.id)


def test_deleting_the_run_keeps_the_recommendation_and_its_customer(db):
    customer, agent = db.make_customer(), db.make_agent()
    run = db.make_run(customer, agent)
    made = db.make_recommendation(customer, agent, workflow_execution_id=run.id)

    db.workflow_executions.delete_workflow_execution(**key(run))

    kept = db.recommendations.get_recommendation(**key(made))
    assert (kept.customer_id, kept.workflow_execution_id) == (customer.id, None)


def test_recommendations_are_listed_newest_first_page_by_page(db):
    customer, agent = db.make_customer(), db.make_agent()
    made = [db.make_recommendation(customer, agent) for _ in range(5)]
    other = db.make_recommendation(customer, db.make_agent())
    db.make_recommendation(None, agent)

    list_all = db.recommendations.list_recommendations
    first = list_all(customer_id=customer.id, max_rows=4)
    rest = list_all(customer_id=customer.id, max_rows=4, before_id=first[-1].id)
    assert first + rest == [other, *made[::-1]]

    by_agent = db.recommendations.list_recommendations_by_agent
    first = by_agent(customer_id=customer.id, agent_id=agent.id, max_rows=3)
    rest = by_agent(customer_id=customer.id, agent_id=agent.id, max_rows=3, before_id=first[-1].id)
    assert first + rest == made[::-1]


def test_approving_moves_a_pending_recommendation_once(db):
    made = db.make_recommendation()

    approved = db.recommendations.approve_recommendation(**key(made))

    assert approved.status is RecommendationStatus.APPROVED
    assert approved.approved_at is not None
    assert db.recommendations.approve_recommendation(**key(made)) is None
    assert db.recommendations.get_recommendation(**key(made)) == approved


@pytest.mark.parametrize("approve_first", [False, True])
def test_rejecting_moves_a_pending_or_approved_recommendation_once(db, approve_first):
    made = db.make_recommendation()
    if approve_first:
        db.recommendations.approve_recommendation(**key(made))

    rejected = db.recommendations.reject_recommendation(**key(made))

    assert rejected.status is RecommendationStatus.REJECTED
    assert db.recommendations.reject_recommendation(**key(made)) is None
    assert db.recommendations.approve_recommendation(**key(made)) is None
    assert db.recommendations.get_recommendation(**key(made)) == rejected


def test_transitions_of_another_customers_recommendation_change_nothing(db):
    made, other = db.make_recommendation(), db.make_customer()

    for move in (
        db.recommendations.approve_recommendation,
        db.recommendations.reject_recommendation,
    ):
        assert move(customer_id=other.id, id=made.id) is None
    assert db.recommendations.delete_recommendation(customer_id=other.id, id=made.id) == 0
    assert db.recommendations.get_recommendation(customer_id=other.id, id=made.id) is None
    assert db.recommendations.get_recommendation(**key(made)) == made


def test_deleting_a_recommendation_deletes_approvals_and_optimizations(db):
    made = db.make_recommendation()
    approval = db.approvals.create_approval(customer_id=made.customer_id, recommendation_id=made.id)
    optimization = db.optimizations.create_optimization(
        customer_id=made.customer_id, recommendation_id=made.id, agent_id=made.agent_id
    )

    assert db.recommendations.delete_recommendation(**key(made)) == 1

    assert db.approvals.get_approval(**key(approval)) is None
    assert db.optimizations.get_optimization(**key(optimization)) is None
