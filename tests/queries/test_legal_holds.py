from uuid import UUID, uuid4

import pytest

from optiinfra_db.errors import InvalidValue, NotFound, UnderLegalHold

from .database import key

ID = UUID("01941f29-7c00-7000-8000-0000000000fe")


def place(db, customer, **given):
    return db.legal_holds.place_legal_hold(customer_id=customer.id, **{"reason": "case 7"} | given)


def test_holds_are_placed_listed_and_released(db):
    customer, other, agent = db.make_customer(), db.make_customer(), db.make_agent()
    run = db.make_run(customer, agent)
    on_run = place(db, customer, workflow_execution_id=run.id)
    on_customer, of_other = place(db, customer), place(db, other)

    assert (on_run.workflow_execution_id, on_customer.workflow_execution_id) == (run.id, None)
    assert db.legal_holds.list_legal_holds() == [on_run, on_customer, of_other]
    assert db.legal_holds.list_legal_holds(customer_id=customer.id) == [on_run, on_customer]

    assert db.legal_holds.release_legal_hold(**key(on_run)) == on_run
    assert db.legal_holds.release_legal_hold(**key(on_run)) is None
    assert db.legal_holds.release_legal_hold(customer_id=customer.id, id=of_other.id) is None
    assert db.legal_holds.list_legal_holds() == [on_customer, of_other]


def test_placing_twice_with_one_id_returns_the_first(db):
    customer = db.make_customer()
    hold = place(db, customer, id=ID)
    assert place(db, customer, id=ID, reason="another") == hold
    (event,) = db.events.list_events(customer_id=customer.id, max_rows=9)
    assert event.event_type == "legal_hold.placed"


def test_a_hold_keeps_what_it_is_on_until_it_is_released(db):
    customer, agent = db.make_customer(), db.make_agent()
    run = db.make_run(customer, agent)
    hold = place(db, customer, workflow_execution_id=run.id)
    db.execute("SAVEPOINT before")
    with pytest.raises(UnderLegalHold, match="case 7"):
        db.workflow_executions.delete_workflow_execution(**key(run))
    db.execute("ROLLBACK TO before")
    db.legal_holds.release_legal_hold(**key(hold))
    assert db.workflow_executions.delete_workflow_execution(**key(run)) == 1


@pytest.mark.parametrize("reason", ["", "x" * 1001])
def test_a_reason_is_needed_and_has_bounds(db, reason):
    with pytest.raises(InvalidValue) as caught:
        place(db, db.make_customer(), reason=reason)
    assert caught.value.field == "reason"


def test_what_is_not_there_cannot_be_held(db):
    customer, other, agent = db.make_customer(), db.make_customer(), db.make_agent()
    run = db.make_run(other, agent)
    db.execute("SAVEPOINT before")
    for given in ({"workflow_execution_id": uuid4()}, {"workflow_execution_id": run.id}):
        with pytest.raises(NotFound) as caught:
            place(db, customer, **given)
        assert caught.value.field == "workflow_execution_id"
        db.execute("ROLLBACK TO before")
