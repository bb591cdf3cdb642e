"""Seals by themselves; what they notice is in tests/test_audit.py."""

import hashlib
from datetime import timedelta

import pytest

SEALABLE = (
    "SET LOCAL session_replication_role = replica; UPDATE events SET xact_id = '5' WHERE true"
)


@pytest.fixture
def customer(db):
    """Make a customer with three events that the feed has, as of another transaction."""
    customer = db.make_customer()
    for number in range(3):
        db.events.create_event(customer_id=customer.id, event_type=f"x.{number}")
    for statement in (*SEALABLE.split("; "), "SET LOCAL session_replication_role = origin"):
        db.execute(statement)
    return customer


def test_events_are_sealed_once_and_in_the_order_of_the_feed(db, customer):
    [seal] = db.event_seals.seal_events(max_events=100)
    assert (seal.customer_id, seal.seal_number, seal.event_count) == (customer.id, 1, 3)
    assert seal.previous_hash == bytes(32)
    assert db.event_seals.seal_events(max_events=100) == []
    assert db.event_seals.list_event_seals(customer_id=customer.id, max_rows=9) == [seal]
    assert seal in db.event_seals.list_event_seal_heads()

    [entries] = db.event_seals.list_event_seal_entries(customer_id=customer.id, max_rows=9)
    texts = db.event_seals.list_canonical_events(customer_id=customer.id, max_rows=9)
    assert entries.event_ids == [text.id for text in texts]
    assert entries.event_digests == [
        hashlib.sha256(text.canonical_text.encode()).digest() for text in texts
    ]


def test_a_batch_is_bounded_and_the_next_seal_goes_on_from_the_one_before(db, customer):
    db.execute("SET LOCAL session_replication_role = replica")
    db.execute("UPDATE events SET xact_id = '6' WHERE event_type != 'x.0'")
    db.execute("SET LOCAL session_replication_role = origin")
    [first] = db.event_seals.seal_events(max_events=1)
    [second] = db.event_seals.seal_events(max_events=2)
    assert (first.event_count, second.event_count) == (1, 2)
    assert (second.seal_number, second.previous_hash) == (2, first.hash)
    chain = {"customer_id": customer.id, "max_rows": 1}
    assert db.event_seals.list_event_seals(**chain) == [first]
    assert db.event_seals.list_event_seals(**chain, after_seal_number=1) == [second]
    [entries] = db.event_seals.list_event_seal_entries(**chain, after_seal_number=1)
    assert entries.seal_number == 2
    [found] = db.event_seals.list_event_seal_entries(**chain, event_ids=entries.event_ids[1:])
    assert found == entries


def test_seals_that_nothing_happened_to_are_good(db, customer):
    db.event_seals.seal_events(max_events=100)
    [check] = db.event_seals.verify_event_seals(customer_id=customer.id, max_rows=9)
    assert (check.seal_number, check.event_count, check.problem) == (1, 3, None)
    assert (check.event_id, check.event_time) == (None, None)
    assert db.event_seals.find_unsealed_events(customer_id=customer.id, max_rows=9) == []


def test_a_deviation_is_named(db, customer):
    db.event_seals.seal_events(max_events=100)
    _, second, _ = db.event_seals.list_canonical_events(customer_id=customer.id, max_rows=9)
    db.execute("SET LOCAL session_replication_role = replica")
    db.execute(f"DELETE FROM events WHERE id = '{second.id}'")
    inserted = db.events.create_event(customer_id=customer.id, event_type="y")
    db.execute(f"UPDATE events SET xact_id = '1' WHERE id = '{inserted.id}'")
    db.execute("SET LOCAL session_replication_role = origin")
    [check] = db.event_seals.verify_event_seals(customer_id=customer.id, max_rows=9)
    assert (check.problem, check.event_id) == ("an event was removed", second.id)
    [unsealed] = db.event_seals.find_unsealed_events(customer_id=customer.id, max_rows=9)
    assert (unsealed.event_id, unsealed.event_time) == (inserted.id, inserted.created_at)
    later = inserted.created_at + timedelta(seconds=1)
    [kept] = db.event_seals.verify_event_seals(
        customer_id=customer.id, max_rows=9, kept_since=later
    )
    assert kept.problem is None


def test_canonical_events_are_paged_and_found_by_what_they_are_about(db, customer):
    whole = db.event_seals.list_canonical_events(customer_id=customer.id, max_rows=9)
    page = db.event_seals.list_canonical_events(customer_id=customer.id, max_rows=1)
    rest = db.event_seals.list_canonical_events(
        customer_id=customer.id,
        max_rows=9,
        after_created_at=page[0].created_at,
        after_id=page[0].id,
    )
    assert page + rest == whole
    run = db.make_run(customer)
    [created] = db.event_seals.list_canonical_events_by_subject(
        customer_id=customer.id, subject_ids=[run.id]
    )
    assert '"event_type": "workflow_execution.pending"' in created.canonical_text
