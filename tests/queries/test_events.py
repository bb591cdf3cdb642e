from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from psycopg import Error
from psycopg.errors import CheckViolation, ForeignKeyViolation

from optiinfra_db.errors import ImmutableHistory
from optiinfra_db.generated.events import CopyEventsParams
from optiinfra_db.generated.models import EventSeverity

from .database import key

ID = UUID("01941f29-7c00-7000-8000-0000000000ff")
AT = datetime(2026, 3, 31, 23, 59, 59, 123456, tzinfo=UTC)


def test_created_event_is_read_back_with_defaults(db):
    customer = db.make_customer()

    event = db.events.create_event(customer_id=customer.id, event_type="customer.greeted")

    assert event.severity is EventSeverity.INFO
    assert (event.agent_id, event.subject_type, event.subject_id) == (None, None, None)
    assert (event.data, event.actor) == ({}, "postgres")
    assert event.xact_id > 0
    found = db.events.get_event(customer_id=customer.id, created_at=event.created_at, id=event.id)
    assert found == event


def test_actor_is_the_setting_of_the_connection(db):
    db.execute("SET LOCAL optiinfra.actor = 'alice'")

    event = db.events.create_event(customer_id=db.make_customer().id, event_type="x")

    assert event.actor == "alice"


def test_creating_twice_with_one_key_returns_the_first(db):
    customer = db.make_customer()
    values = {"customer_id": customer.id, "id": ID, "created_at": AT}

    first = db.events.create_event(**values, event_type="first")

    assert db.events.create_event(**values, event_type="second") == first
    assert db.events.list_events(customer_id=customer.id, max_rows=9) == [first]


def test_many_events_are_copied_in_one_go(db):
    customer, agent = db.make_customer(), db.make_agent()
    rows = [
        CopyEventsParams(
            customer_id=customer.id,
            created_at=AT + timedelta(seconds=number),
            agent_id=agent.id if number % 2 else None,
            event_type="workflow_step.completed",
            severity=EventSeverity.WARNING,
            subject_type="workflow_step" if number % 2 else None,
            subject_id=ID if number % 2 else None,
            actor="importer",
            data={"number": number, "text": "tab\t newline\n backslash\\ ünïcode"},
        )
        for number in range(1000)
    ]

    assert db.events.copy_events(rows=iter(rows)) == 1000

    newest, *_ = page = db.events.list_events(customer_id=customer.id, max_rows=2000)
    assert len(page) == 1000
    assert newest.data == rows[-1].data
    assert (newest.severity, newest.actor) == (EventSeverity.WARNING, "importer")


@pytest.mark.parametrize(
    ("given", "constraint"),
    [
        ({"event_type": ""}, "events_event_type_check"),
        ({"subject_type": "x"}, "events_subject_id_check"),
        ({"subject_id": ID}, "events_subject_id_check"),
        ({"data": []}, "events_data_check"),
    ],
)
def test_values_out_of_range_are_refused(db, given, constraint):
    customer = db.make_customer()

    with db.refused(CheckViolation, constraint):
        db.events.create_event(**{"customer_id": customer.id, "event_type": "x"} | given)


def test_an_event_of_an_unknown_customer_is_refused(db):
    with db.refused(ForeignKeyViolation, "events_customer_id_fkey"):
        db.events.create_event(customer_id=ID, event_type="x")


def test_events_are_listed_newest_first_page_by_page_over_months(db):
    customer, agent = db.make_customer(), db.make_agent()
    made = [
        db.events.create_event(
            customer_id=customer.id,
            agent_id=agent.id,
            subject_type="workflow_execution",
            subject_id=ID,
            created_at=AT + timedelta(days=20 * number),
            event_type=f"event.{number}",
        )
        for number in range(7)
    ]
    other = db.events.create_event(customer_id=customer.id, created_at=AT, event_type="other")

    for list_page, expected in (
        (
            lambda **page: db.events.list_events(customer_id=customer.id, **page),
            sorted([*made, other], key=lambda event: (event.created_at, event.id), reverse=True),
        ),
        (lambda **page: db.events.list_events_by_agent(agent_id=agent.id, **page), made[::-1]),
        (
            lambda **page: db.events.list_events_by_subject(
                customer_id=customer.id, subject_id=ID, **page
            ),
            made[::-1],
        ),
    ):
        listed = page = list_page(max_rows=3)
        while len(page) == 3:
            page = list_page(
                max_rows=3, before_created_at=page[-1].created_at, before_id=page[-1].id
            )
            listed = listed + page
        assert listed == expected


def test_events_about_a_deleted_run_stay(db):
    run = db.make_run()
    event = db.events.create_event(
        customer_id=run.customer_id,
        event_type="workflow_execution.deleted",
        subject_type="workflow_execution",
        subject_id=run.id,
    )

    db.workflow_executions.delete_workflow_execution(**key(run))

    found = db.events.list_events_by_subject(
        customer_id=run.customer_id, subject_id=run.id, max_rows=9
    )
    assert {row.id for row in found} >= {event.id}
    assert {row.event_type for row in found} == {event.event_type, "workflow_execution.pending"}


@pytest.mark.parametrize("subject", ["workflow_execution", "workflow_step", "approval"])
def test_nobody_writes_by_hand_that_a_status_changed(db, subject):
    run = db.make_run()
    values = {
        "customer_id": run.customer_id,
        "event_type": f"{subject}.completed",
        "subject_type": subject,
        "subject_id": run.id,
    }

    with db.refused(ImmutableHistory):
        db.events.create_event(**values, data={"from": "running", "to": "completed"})
    assert db.events.create_event(**values, data={"note": "seen"}).data == {"note": "seen"}


def test_the_place_of_an_event_in_the_feed_is_not_for_its_writer_to_choose(db):
    customer = db.make_customer()
    for xact_id in (1, 2**62):
        db.execute(
            "INSERT INTO events (customer_id, event_type, xact_id) "
            f"VALUES ('{customer.id}', 'x', '{xact_id}')"
        )
    (now,) = next(iter(db.execute("SELECT pg_current_xact_id()::text::bigint")))
    written = db.events.list_events(customer_id=customer.id, max_rows=9)
    assert {event.xact_id for event in written} == {now}


def test_events_go_with_their_customer_only(db):
    """Also where a statement gives the customer another id while it deletes them."""
    run = db.make_run()
    with db.refused(Error):
        db.execute(
            "WITH moved AS MATERIALIZED ("
            f"UPDATE customers SET id = uuidv7() WHERE id = '{run.customer_id}' RETURNING 1) "
            f"DELETE FROM events WHERE customer_id = '{run.customer_id}' "
            "AND (SELECT count(*) FROM moved) = 1"
        )
    assert len(db.events.list_events(customer_id=run.customer_id, max_rows=9)) == 1


def test_a_customers_events_can_be_read_up_to_the_oldest_open_transaction(db):
    customer = db.make_customer()
    event = db.events.create_event(customer_id=customer.id, event_type="note.taken")
    assert db.events.get_customer_feed_end(customer_id=customer.id) <= event.xact_id
    assert db.events.get_customer_feed_end(customer_id=UUID(int=0)) is None


def test_a_plain_database_is_not_distributed(db):
    assert db.access.is_distributed() is False
