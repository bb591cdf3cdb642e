from dataclasses import asdict
from uuid import UUID

import pytest
from psycopg.errors import CheckViolation, UniqueViolation

from optiinfra_db.errors import AlreadyExists, InvalidValue
from optiinfra_db.generated.models import CustomerPlan, CustomerStatus

from .database import ZERO_DIGEST

ID = UUID("01941f29-7c00-7000-8000-0000000000ff")


def test_created_customer_is_read_back_with_defaults(db):
    created = db.customers.create_customer(
        name="Ada", email="ada@example.com", api_key_hash=ZERO_DIGEST
    )

    assert created.plan is CustomerPlan.FREE
    assert created.status is CustomerStatus.ACTIVE
    assert created.metadata == {}
    assert created.id.version == 7
    assert created.created_at.tzinfo is not None
    assert db.customers.get_customer(id=created.id) == created


def test_every_field_is_kept(db):
    metadata = {"région": "eu", "gpus": [1, 2.5, None], "nested": {"a": {"b": "\\ \" ' %s $1"}}}
    created = db.customers.create_customer(
        id=ID,
        name="Ada % ' \" \\",
        email="ada@example.com",
        api_key_hash=ZERO_DIGEST,
        plan=CustomerPlan.ENTERPRISE,
        metadata=metadata,
    )

    assert (created.id, created.name) == (ID, "Ada % ' \" \\")
    assert (created.plan, created.metadata) == (CustomerPlan.ENTERPRISE, metadata)


def test_creating_twice_with_one_id_returns_the_first(db):
    first = db.make_customer(id=ID)

    assert db.make_customer(id=ID, name="Somebody else") == first
    assert db.customers.get_customer(id=ID) == first
    assert len(db.api_keys.list_api_keys(customer_id=ID)) == 1


def test_email_is_unique_ignoring_case(db):
    customer = db.make_customer(email="Ada@Example.com")

    with db.refused(UniqueViolation, "customers_email_key"):
        db.make_customer(email="ada@example.COM")
    assert db.customers.get_customer_by_email(email="ADA@example.com") == customer


def test_a_customer_has_its_first_key_and_no_secret(db):
    customer = db.make_customer(api_key_hash=ZERO_DIGEST)

    assert ZERO_DIGEST not in asdict(customer).values()
    (key,) = db.api_keys.list_api_keys(customer_id=customer.id)
    assert (key.expires_at, key.revoked_at, key.last_used_at) == (None, None, None)
    found = db.api_keys.authenticate_api_key(api_key_hash=ZERO_DIGEST)
    assert (found.customer_id, found.api_key_id) == (customer.id, key.id)


def test_the_key_of_another_customer_is_refused_with_the_whole_customer(db):
    db.make_customer(api_key_hash=ZERO_DIGEST)

    with db.refused(AlreadyExists, "api_keys_api_key_hash_key"):
        db.make_customer(id=ID, api_key_hash=ZERO_DIGEST)
    assert db.customers.get_customer(id=ID) is None


def test_a_key_that_is_no_digest_is_refused_with_the_whole_customer(db):
    with db.refused(InvalidValue, "api_keys_api_key_hash_check"):
        db.make_customer(id=ID, api_key_hash=b"short")
    assert db.customers.get_customer(id=ID) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "x" * 256),
        ("email", "no at sign"),
        ("email", "two@at@signs"),
        ("email", "x" * 250 + "@example.com"),
        ("metadata", ["not an object"]),
    ],
)
def test_values_out_of_range_are_refused(db, field, value):
    with db.refused(CheckViolation, f"customers_{field}_check"):
        db.make_customer(**{field: value})


def test_customers_are_listed_newest_first_page_by_page(db):
    made = [db.make_customer() for _ in range(5)]

    first = db.customers.list_customers(max_rows=3)
    rest = db.customers.list_customers(max_rows=3, before_id=first[-1].id)

    assert first + rest == made[::-1]


def test_update_changes_what_is_given_only(db):
    customer = db.make_customer(metadata={"a": 1})

    updated = db.customers.update_customer(id=customer.id, status=CustomerStatus.SUSPENDED)

    assert updated.status is CustomerStatus.SUSPENDED
    assert (updated.name, updated.email) == (customer.name, customer.email)
    assert updated.metadata == {"a": 1}
    assert db.customers.get_customer(id=customer.id) == updated
    assert db.customers.update_customer(id=ID, name="Nobody") is None


def test_deleting_a_customer_deletes_all_that_is_theirs(db):
    customer, other = db.make_customer(), db.make_customer()
    for owner in (customer, other):
        run = db.make_run(owner)
        db.make_artifact(run)
        recommendation = db.make_recommendation(owner)
        db.approvals.create_approval(customer_id=owner.id, recommendation_id=recommendation.id)
        db.optimizations.create_optimization(
            customer_id=owner.id,
            recommendation_id=recommendation.id,
            agent_id=recommendation.agent_id,
        )
        db.events.create_event(customer_id=owner.id, event_type="x")

    assert db.customers.delete_customer(id=customer.id) == 1

    assert db.customers.get_customer(id=customer.id) is None
    for list_all, of_the_other in (
        (db.recommendations.list_recommendations, 1),
        (db.approvals.list_approvals, 1),
        (db.optimizations.list_optimizations, 1),
        (db.events.list_events, 5),  # four of them are those of the creations
    ):
        assert list_all(customer_id=customer.id, max_rows=10) == []
        assert len(list_all(customer_id=other.id, max_rows=10)) == of_the_other
    runs = db.workflow_executions.list_workflow_executions
    assert runs(customer_id=customer.id, max_rows=10) == []
    (kept,) = runs(customer_id=other.id, max_rows=10)
    assert len(db.steps_of(kept)) == 3
    assert db.customers.delete_customer(id=customer.id) == 0
