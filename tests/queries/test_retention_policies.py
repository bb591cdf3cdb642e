from datetime import timedelta
from uuid import uuid4

import pytest

from optiinfra_db.errors import InvalidValue, NotFound
from optiinfra_db.generated.models import WorkflowType

DAY = timedelta(days=1)


def set_policy(db, keep_for=DAY, table_name="workflow_executions", **of):
    return db.retention_policies.set_retention_policy(
        table_name=table_name, keep_for=keep_for, **of
    )


def test_there_is_one_policy_for_each_and_a_new_one_replaces_it(db):
    customer = db.make_customer()
    of = [
        {},
        {"workflow_type": WorkflowType.COST_ANALYSIS},
        {"customer_id": customer.id},
        {"customer_id": customer.id, "workflow_type": WorkflowType.COST_ANALYSIS},
    ]
    first = [set_policy(db, **each) for each in of]
    events = set_policy(db, table_name="events")
    assert len({policy.id for policy in first}) == 4

    again = [set_policy(db, 2 * DAY, **each) for each in of]

    assert [policy.id for policy in again] == [policy.id for policy in first]
    assert {policy.keep_for for policy in again} == {2 * DAY}
    there = db.retention_policies.list_retention_policies()
    assert there == [events, again[0], again[1], again[2], again[3]]


def test_a_policy_that_is_deleted_is_gone(db):
    policy = set_policy(db)
    assert db.retention_policies.delete_retention_policy(id=policy.id) == 1
    assert db.retention_policies.delete_retention_policy(id=policy.id) == 0
    assert db.retention_policies.list_retention_policies() == []


def test_policies_go_with_their_customer(db):
    customer = db.make_customer()
    set_policy(db, customer_id=customer.id)
    db.customers.delete_customer(id=customer.id)
    assert db.retention_policies.list_retention_policies() == []


@pytest.mark.parametrize(
    ("given", "error", "field"),
    [
        ({"keep_for": timedelta(0)}, InvalidValue, "keep_for"),
        ({"keep_for": -DAY}, InvalidValue, "keep_for"),
        ({"keep_for": 40_000 * DAY}, InvalidValue, "keep_for"),
        ({"table_name": "customers"}, InvalidValue, "table_name"),
        ({"table_name": "events", "workflow_type": "cost_analysis"}, InvalidValue, "customer_id"),
        ({"customer_id": uuid4()}, NotFound, "customer_id"),
    ],
)
def test_what_makes_no_policy_is_refused(db, given, error, field):
    with pytest.raises(error) as caught:
        set_policy(db, **given)
    assert caught.value.field == field
