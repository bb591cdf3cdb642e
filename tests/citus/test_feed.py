"""The feed of one customer, whose events are on one server, keeps its promise there."""

import hashlib
from uuid import uuid4

import pytest

from optiinfra_db import connect
from optiinfra_db.errors import CursorAhead, InvalidValue
from optiinfra_db.feed import RESTORED, START, AsyncFeed, Cursor, Feed, latest
from optiinfra_db.generated import customers, events


@pytest.fixture
def customer(conn):
    digest = hashlib.sha256(uuid4().bytes).digest()
    customer = customers.create_customer(
        conn, name="Nova", email=f"{digest.hex()[:20]}@example.com", api_key_hash=digest
    )
    yield customer
    customers.delete_customer(conn, id=customer.id)


def write(conn, customer, event_type):
    return events.create_event(conn, customer_id=customer.id, event_type=event_type)


def read(url, customer, after):
    with Feed(url, after=after, customer_id=customer.id) as feed:
        return [event.event_type for event in feed], feed.cursor


def test_the_feed_of_all_customers_is_refused(conn, distributed_url):
    with pytest.raises(InvalidValue, match="one customer's"):
        list(Feed(distributed_url, after=START))
    with pytest.raises(InvalidValue, match="one customer's"):
        latest(conn)


async def test_an_event_that_is_committed_late_is_not_skipped(conn, distributed_url, customer):
    with connect(distributed_url) as slow:
        with slow.transaction():
            write(slow, customer, "slow")
            write(conn, customer, "quick")
            seen, cursor = read(distributed_url, customer, START)
            assert seen == []
        more, cursor = read(distributed_url, customer, cursor)
    assert more == ["slow", "quick"]
    assert read(distributed_url, customer, cursor)[0] == []
    write(conn, customer, "next")
    async with AsyncFeed(distributed_url, after=cursor, customer_id=customer.id) as feed:
        assert [event.event_type async for event in feed] == ["next"]


def test_latest_is_after_what_was_written(conn, distributed_url, customer):
    write(conn, customer, "before")
    cursor = latest(conn, customer_id=customer.id)
    write(conn, customer, "after")
    assert read(distributed_url, customer, cursor)[0] == ["after"]


def test_the_events_of_a_customer_are_in_the_time_of_its_server(conn, customer):
    event = write(conn, customer, "x")
    of_server = events.get_customer_feed_end(conn, customer_id=customer.id)
    assert of_server - 50 < event.xact_id <= of_server


def test_after_a_shard_has_moved_consumers_go_on_from_restored(conn, distributed_url, customer):
    write(conn, customer, "before")
    seen, _ = read(distributed_url, customer, START)
    assert seen == ["before"]
    (shard, name, port) = conn.execute(
        "SELECT shardid, nodename, nodeport FROM citus_shards "
        "WHERE shardid = get_shard_id_for_distribution_column('customers', %s)",
        [customer.id],
    ).fetchone()
    (to_name, to_port) = conn.execute(
        "SELECT nodename, nodeport FROM pg_dist_node WHERE shouldhaveshards AND nodeport != %s",
        [port],
    ).fetchone()
    conn.execute(
        "SELECT citus_move_shard_placement(%s, %s, %s, %s, %s, 'block_writes')",
        [shard, name, port, to_name, to_port],
    )
    assert events.forget_event_xact_ids(conn) > 0
    write(conn, customer, "after")
    assert read(distributed_url, customer, RESTORED)[0] == ["after"]
    assert read(distributed_url, customer, START)[0] == ["before", "after"]


def test_a_cursor_ahead_of_the_server_is_refused(distributed_url, customer):
    with pytest.raises(CursorAhead):
        read(distributed_url, customer, Cursor(2**62, customer.id))
