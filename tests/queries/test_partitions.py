from datetime import UTC, datetime, timedelta

import pytest
from psycopg.errors import InvalidParameterValue


def partition_of(db, table, row):
    rows = db.execute(f"SELECT tableoid::regclass::text FROM {table} WHERE id = '{row.id}'")
    return next(iter(rows))[0]


def test_waiting_rows_are_moved_to_the_month_that_is_made(db):
    customer, agent = db.make_customer(), db.make_agent()
    event = db.events.create_event(
        customer_id=customer.id,
        agent_id=agent.id,
        event_type="late",
        created_at=datetime(2020, 2, 29, 23, 59, 59, 999999, tzinfo=UTC),
    )
    metric = db.agent_metrics.create_agent_metric(
        agent_id=agent.id,
        metric_name="late",
        metric_value=1,
        recorded_at=datetime(2020, 3, 1, tzinfo=UTC),
    )
    assert partition_of(db, "events", event) == "events_default"
    assert partition_of(db, "agent_metrics", metric) == "agent_metrics_default"

    # In a zone where it is another month, to show that months are those of UTC.
    db.execute("SET LOCAL TimeZone = 'Asia/Tokyo'")
    made = db.partitions.ensure_partitions(months_ahead=0)

    assert made == ["agent_metrics_2020_03", "events_2020_02"]
    assert partition_of(db, "events", event) == "events_2020_02"
    assert partition_of(db, "agent_metrics", metric) == "agent_metrics_2020_03"
    found = db.events.get_event(customer_id=customer.id, created_at=event.created_at, id=event.id)
    assert (found.id, found.created_at, found.xact_id) == (
        event.id,
        event.created_at,
        event.xact_id,
    )
    assert db.partitions.ensure_partitions(months_ahead=0) == []


def test_months_ahead_are_made_and_take_their_rows(db):
    now = datetime.now(UTC)
    months = [(now.year * 12 + now.month - 1 + ahead) for ahead in range(7)]
    names = {f"{month // 12}_{month % 12 + 1:02}" for month in months}

    db.partitions.ensure_partitions(months_ahead=6)

    rows = db.execute("SELECT inhrelid::regclass::text FROM pg_inherits")
    present = {row[0] for row in rows}
    assert {f"{table}_{name}" for table in ("events", "agent_metrics") for name in names} <= present
    event = db.events.create_event(
        customer_id=db.make_customer().id, event_type="soon", created_at=now + timedelta(days=40)
    )
    assert partition_of(db, "events", event) != "events_default"


def test_a_time_that_cannot_be_stays_in_the_default_partition(db):
    customer = db.make_customer()
    db.execute(
        "INSERT INTO events (customer_id, event_type, created_at)"
        f"VALUES ('{customer.id}', 'odd', '9999-12-31'), ('{customer.id}', 'odd', '0044-03-15 BC')"
    )

    assert db.partitions.ensure_partitions(months_ahead=0) == []

    rows = db.execute("SELECT count(*) FROM events_default")
    assert next(iter(rows))[0] == 2


@pytest.mark.parametrize("months_ahead", [-1, 121])
def test_an_absurd_number_of_months_is_refused(db, months_ahead):
    with db.refused(InvalidParameterValue):
        db.partitions.ensure_partitions(months_ahead=months_ahead)
