from datetime import UTC, datetime, timedelta

import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation, UniqueViolation

from optiinfra_db.errors import AlreadyExists
from optiinfra_db.generated.models import ApprovalStatus, RecommendationStatus

from .database import key


@pytest.fixture
def recommendation(db):
    return db.make_recommendation()


def ask(db, recommendation, **given):
    values = {"customer_id": recommendation.customer_id, "recommendation_id": recommendation.id}
    return db.approvals.create_approval(**values | given)


def test_created_approval_is_read_back_with_defaults(db, recommendation):
    made = ask(db, recommendation)

    assert made.status is ApprovalStatus.PENDING
    assert (made.approved_by, made.comment) == (None, "")
    assert (made.expires_at, made.decided_at) == (None, None)
    assert db.approvals.get_approval(**key(made)) == made


def test_creating_twice_with_one_id_returns_the_first(db, recommendation):
    first = ask(db, recommendation)

    assert ask(db, recommendation, id=first.id) == first


def test_at_most_one_is_pending(db, recommendation):
    first = ask(db, recommendation)
    with db.refused(UniqueViolation, "approvals_recommendation_id_pending_key"):
        ask(db, recommendation)

    db.approvals.decide_approval(
        **key(first), status=ApprovalStatus.REJECTED, approved_by="ada@example.com"
    )
    second = ask(db, recommendation)

    listed = db.approvals.list_recommendation_approvals(
        customer_id=recommendation.customer_id, recommendation_id=recommendation.id
    )
    assert [approval.id for approval in listed] == [first.id, second.id]


@pytest.mark.parametrize("status", [ApprovalStatus.APPROVED, ApprovalStatus.REJECTED])
def test_a_decision_moves_the_recommendation_and_is_final(db, recommendation, status):
    made = ask(db, recommendation)

    decided = db.approvals.decide_approval(
        **key(made), status=status, approved_by="ada@example.com", comment="Fine."
    )

    assert decided.status is status
    assert (decided.approved_by, decided.comment) == ("ada@example.com", "Fine.")
    assert decided.decided_at is not None
    moved = db.recommendations.get_recommendation(**key(recommendation))
    assert moved.status is RecommendationStatus(status)
    assert (moved.approved_at is not None) == (status is ApprovalStatus.APPROVED)
    for again in (ApprovalStatus.APPROVED, ApprovalStatus.REJECTED):
        assert db.approvals.decide_approval(**key(made), status=again, approved_by="eve") is None
    assert db.approvals.get_approval(**key(made)) == decided


@pytest.mark.parametrize("way", ["approve_recommendation", "reject_recommendation"])
def test_what_was_settled_without_the_question_is_not_decided_again(db, recommendation, way):
    made = ask(db, recommendation)
    settled = getattr(db.recommendations, way)(**key(recommendation))

    for status in (ApprovalStatus.APPROVED, ApprovalStatus.REJECTED):
        decided = db.approvals.decide_approval(**key(made), status=status, approved_by="ada")
        assert decided is None

    assert db.approvals.get_approval(**key(made)) == made
    assert db.recommendations.get_recommendation(**key(recommendation)) == settled
    pending = db.approvals.list_pending_approvals
    assert pending(customer_id=recommendation.customer_id, max_rows=9) == []


def test_a_decision_of_nobody_or_of_nothing_is_refused(db, recommendation):
    made = ask(db, recommendation)

    with db.refused(CheckViolation, "approvals_approved_by_check"):
        db.approvals.decide_approval(**key(made), status=ApprovalStatus.APPROVED, approved_by="")
    with db.refused(CheckViolation):
        db.approvals.decide_approval(**key(made), status=ApprovalStatus.PENDING, approved_by="a")
    assert db.approvals.get_approval(**key(made)) == made


def test_what_has_expired_cannot_be_decided(db, recommendation):
    made = ask(db, recommendation, expires_at=datetime.now(UTC) - timedelta(seconds=1))

    assert (
        db.approvals.decide_approval(**key(made), status=ApprovalStatus.APPROVED, approved_by="a")
        is None
    )
    assert (
        db.approvals.list_pending_approvals(customer_id=recommendation.customer_id, max_rows=9)
        == []
    )
    assert (
        db.recommendations.get_recommendation(**key(recommendation)).status
        is RecommendationStatus.PENDING
    )


def test_pending_approvals_come_with_their_recommendations(db, recommendation):
    made = ask(db, recommendation, expires_at=datetime.now(UTC) + timedelta(hours=1))
    ask(db, db.make_recommendation())

    (row,) = db.approvals.list_pending_approvals(customer_id=recommendation.customer_id, max_rows=9)

    assert (row.approval, row.recommendation) == (made, recommendation)


def test_pending_approvals_are_listed_oldest_first_page_by_page(db):
    customer, agent = db.make_customer(), db.make_agent()
    made = [ask(db, db.make_recommendation(customer, agent)) for _ in range(3)]

    first = db.approvals.list_pending_approvals(customer_id=customer.id, max_rows=2)
    rest = db.approvals.list_pending_approvals(
        customer_id=customer.id, max_rows=2, after_id=first[-1].approval.id
    )

    assert [row.approval for row in first] == made[:2]
    assert [row.approval for row in rest] == made[2:]


def test_what_expired_undecided_is_listed_oldest_first_page_by_page(db):
    customer, agent = db.make_customer(), db.make_agent()
    past, future = (datetime.now(UTC) + timedelta(hours=hours) for hours in (-1, 1))
    recommendations = [db.make_recommendation(customer, agent) for _ in range(3)]
    made = [ask(db, recommendation, expires_at=past) for recommendation in recommendations]
    ask(db, db.make_recommendation(customer, agent))
    ask(db, db.make_recommendation(customer, agent), expires_at=future)
    ask(db, db.make_recommendation(None, agent), expires_at=past)
    settled = db.make_recommendation(customer, agent)
    ask(db, settled, expires_at=past)
    db.recommendations.reject_recommendation(**key(settled))
    expired = db.approvals.list_expired_approvals

    first = expired(customer_id=customer.id, max_rows=2)
    rest = expired(customer_id=customer.id, max_rows=2, after_id=first[-1].approval.id)

    assert [row.approval for row in first + rest] == made
    assert [row.recommendation for row in first + rest] == recommendations


def test_what_expired_is_asked_again_once_it_is_withdrawn(db, recommendation):
    expired = ask(db, recommendation, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with db.refused(AlreadyExists, "approvals_recommendation_id_pending_key"):
        ask(db, recommendation)

    db.approvals.delete_approval(**key(expired))
    again = ask(db, recommendation)

    of_customer = {"customer_id": recommendation.customer_id, "max_rows": 9}
    assert db.approvals.list_expired_approvals(**of_customer) == []
    (row,) = db.approvals.list_pending_approvals(**of_customer)
    assert row.approval == again


@pytest.mark.parametrize("by_whom", ["nobody", "somebody"])
def test_who_is_refused_a_decision_learns_why_from_the_approval(db, recommendation, by_whom):
    made = ask(db, recommendation, expires_at=datetime.now(UTC) + timedelta(hours=1))
    if by_whom == "somebody":
        db.approvals.decide_approval(**key(made), status=ApprovalStatus.REJECTED, approved_by="bob")
    else:
        db.execute("UPDATE approvals SET expires_at = now() - interval '1 second'")

    refused = db.approvals.decide_approval(
        **key(made), status=ApprovalStatus.APPROVED, approved_by="ada"
    )

    assert refused is None
    why = db.approvals.get_approval(**key(made))
    if by_whom == "somebody":
        assert (why.status, why.approved_by) == (ApprovalStatus.REJECTED, "bob")
    else:
        assert why.status is ApprovalStatus.PENDING
        assert why.expires_at < datetime.now(UTC)


def test_approvals_are_listed_newest_first_page_by_page(db):
    customer, agent = db.make_customer(), db.make_agent()
    made = [ask(db, db.make_recommendation(customer, agent)) for _ in range(4)]

    first = db.approvals.list_approvals(customer_id=customer.id, max_rows=3)
    rest = db.approvals.list_approvals(customer_id=customer.id, max_rows=3, before_id=first[-1].id)

    assert first + rest == made[::-1]


def test_another_customers_recommendation_cannot_be_referenced(db, recommendation):
    other = db.make_customer()

    with db.refused(ForeignKeyViolation, "approvals_recommendation_id_fkey"):
        ask(db, recommendation, customer_id=other.id)


def test_only_a_pending_approval_can_be_withdrawn(db, recommendation):
    made = ask(db, recommendation)
    assert db.approvals.delete_approval(**key(made)) == 1
    assert db.approvals.get_approval(**key(made)) is None

    made = ask(db, recommendation)
    db.approvals.decide_approval(**key(made), status=ApprovalStatus.APPROVED, approved_by="ada")
    assert db.approvals.delete_approval(**key(made)) == 0
