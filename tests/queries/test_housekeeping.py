from datetime import timedelta
from uuid import uuid4

import pytest

from optiinfra_db.errors import UnderLegalHold
from optiinfra_db.generated.models import WorkflowType

from .database import key


def ended_runs(db, customer, agent, count=3):
    """Return runs that were cancelled an hour ago, and an hour more each."""
    runs = [db.make_run(customer, agent, step_names=["a", "b"]) for _ in range(count)]
    for run in runs:
        db.workflow_executions.cancel_workflow_execution(**key(run), reason="old")
    db.execute("SET LOCAL session_replication_role = replica")
    for hours, run in enumerate(runs, 1):
        db.execute(
            f"UPDATE workflow_executions SET completed_at = now() - interval '{hours} hours' "
            f"WHERE id = '{run.id}'"
        )
    db.execute("SET LOCAL session_replication_role = origin")
    return runs


def prunable(db, customer, **given):
    found = db.workflow_executions.list_prunable_workflow_executions(
        **{
            "customer_id": customer.id,
            "older_than": timedelta(minutes=30),
            "workflow_types": list(WorkflowType),
            "max_rows": 9,
        }
        | given
    )
    return [run.id for run in found]


def test_prunable_are_the_longest_over_first_page_by_page(db):
    customer, agent = db.make_customer(), db.make_agent()
    runs = ended_runs(db, customer, agent)
    db.make_run(customer, agent)
    newest_first = [run.id for run in runs]
    assert prunable(db, customer) == newest_first[::-1]
    assert prunable(db, customer, older_than=timedelta(minutes=90)) == newest_first[:0:-1]
    assert prunable(db, customer, workflow_types=[WorkflowType.HEALTH_CHECK]) == []
    assert prunable(db, db.make_customer()) == []

    (oldest,) = db.workflow_executions.list_prunable_workflow_executions(
        customer_id=customer.id,
        older_than=timedelta(0),
        workflow_types=list(WorkflowType),
        max_rows=1,
    )
    rest = {"after_completed_at": oldest.completed_at, "after_id": oldest.id}
    assert prunable(db, customer, **rest) == newest_first[1::-1]


def test_nothing_under_a_hold_is_prunable(db):
    customer, agent = db.make_customer(), db.make_agent()
    runs = ended_runs(db, customer, agent)
    held = {"customer_id": customer.id, "reason": "case 7"}
    hold = db.legal_holds.place_legal_hold(**held, workflow_execution_id=runs[1].id)
    assert prunable(db, customer) == [runs[2].id, runs[0].id]
    db.legal_holds.release_legal_hold(**key(hold))
    db.legal_holds.place_legal_hold(**held)
    assert prunable(db, customer) == []


def test_ended_runs_are_locked_and_deleted_and_open_ones_are_not(db):
    customer, agent = db.make_customer(), db.make_agent()
    runs = ended_runs(db, customer, agent)
    open_run = db.make_run(customer, agent)
    of = {"customer_id": customer.id, "ids": [run.id for run in (*runs, open_run)]}
    assert db.workflow_executions.lock_ended_workflow_executions(**of) == of["ids"][:3]

    gone = db.workflow_executions.delete_ended_workflow_executions(**of)

    assert (gone.workflow_executions, gone.workflow_steps, gone.workflow_artifacts) == (3, 6, 0)
    left = db.workflow_executions.list_workflow_executions(customer_id=customer.id, max_rows=9)
    assert [run.id for run in left] == [open_run.id]


def test_none_of_several_is_deleted_where_one_is_under_a_hold(db):
    customer, agent = db.make_customer(), db.make_agent()
    runs = ended_runs(db, customer, agent)
    db.legal_holds.place_legal_hold(
        customer_id=customer.id, workflow_execution_id=runs[1].id, reason="case 7"
    )
    with pytest.raises(UnderLegalHold, match=f"run {runs[1].id} of customer {customer.id}"):
        db.workflow_executions.delete_ended_workflow_executions(
            customer_id=customer.id, ids=[run.id for run in runs]
        )


def test_rows_of_a_customer_are_counted_by_table_and_partition(db):
    customer, agent = db.make_customer(), db.make_agent()
    db.make_run(customer, agent, step_names=["a", "b"])
    counted = db.housekeeping.count_customer_rows(customer_id=customer.id)
    counts = {row.relation_name: row.row_count for row in counted}
    (events,) = [name for name in counts if name.startswith("events_")]
    assert counts == {
        "api_keys": 1,
        "customers": 1,
        events: 1,
        "workflow_executions": 1,
        "workflow_steps": 2,
    }
    assert db.housekeeping.count_customer_rows(customer_id=uuid4()) == []


def test_customers_under_a_hold_with_events_in_a_window_are_listed(db):
    customer, other, agent = db.make_customer(), db.make_customer(), db.make_agent()
    now = db.make_run(customer, agent).created_at
    hour = timedelta(hours=1)
    window = {"since": now - hour, "until": now + hour}
    assert db.partitions.list_held_customers(**window) == []
    for one in (customer, other):
        db.execute(
            "SET LOCAL session_replication_role = replica; "
            "INSERT INTO legal_holds (customer_id, reason) "
            f"VALUES ('{one.id}', 'case 7')"
        )
    assert db.partitions.list_held_customers(**window) == [customer.id]
    assert db.partitions.list_held_customers(since=now + hour, until=now + 2 * hour) == []


def test_a_customer_is_locked_and_the_turn_is_taken_and_given_back(db):
    customer = db.make_customer()
    assert db.housekeeping.lock_customer(customer_id=customer.id) == customer.id
    assert db.housekeeping.lock_customer(customer_id=uuid4()) is None
    assert db.housekeeping.await_legal_holds() is None
    assert db.housekeeping.begin_housekeeping() is True
    assert db.housekeeping.end_housekeeping() is None
