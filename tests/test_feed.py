"""Each event once, none missed, whatever the order of commits, however often a reader returns."""

import asyncio
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial, wraps
from itertools import count, islice, pairwise
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest

from optiinfra_db import connect, connect_async, embedded
from optiinfra_db.errors import (
    CursorAhead,
    DatabaseUnreachable,
    InvalidCursor,
    InvalidValue,
    NotMigrated,
    PermissionDenied,
)
from optiinfra_db.feed import RESTORED, START, AsyncFeed, Cursor, Feed, latest, latest_async
from optiinfra_db.generated import customers, events
from optiinfra_db.migrate import migrate
from optiinfra_db.seed import seed

from .conftest import running_server

ID = UUID("01941f29-7c00-7000-8000-0000000000ff")
DOCS = Path(__file__).parents[1] / "docs" / "feed.md"
NUMBERS = count(1)


def make_customer(conn):
    number = next(NUMBERS)
    return customers.create_customer(
        conn,
        name=f"Customer {number}",
        email=f"customer-{number}@example.com",
        api_key_hash=hashlib.sha256(b"%d" % number).digest(),
    ).id


def write(conn, customer_id, **given):
    return events.create_event(conn, customer_id=customer_id, **{"event_type": "x"} | given)


async def collected(feed):
    async with feed:
        return [event async for event in feed]


def read_sync(url, **options):
    with Feed(url, **options) as feed:
        return list(feed), feed.cursor


def read_async(url, **options):
    feed = AsyncFeed(url, **options)
    return asyncio.run(collected(feed)), feed.cursor


@pytest.fixture(params=[read_sync, read_async], ids=["sync", "async"])
def read(request):
    """Read a feed to its end, and return its events and its cursor."""
    return request.param


@pytest.fixture
def conn(database_url):
    with connect(database_url) as connection:
        yield connection


@pytest.fixture
def customer(conn):
    return make_customer(conn)


@contextmanager
def open_transaction(url, customer_id):
    """Write an event, and commit it at the end."""
    with connect(url) as conn, conn.transaction():
        yield write(conn, customer_id)


def named(url, name):
    return f"{url}&application_name={name}"


def connections(conn, name):
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
    return [pid for (pid,) in conn.execute(query, [name])]


def eventually(condition):
    deadline = time.monotonic() + 10
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


# Cursors


def test_a_cursor_goes_through_text_and_sorts_like_the_feed():
    cursors = [Cursor(n, i) for n in (0, 9, 10, 2**63 - 1) for i in (UUID(int=0), ID, uuid4())]

    assert [Cursor.parse(str(cursor)) for cursor in cursors] == cursors
    assert str(Cursor(7, ID)) == f"7:{ID}"
    assert START < Cursor(0, ID) < RESTORED < Cursor(9, ID) < Cursor(10, UUID(int=0))


@pytest.mark.parametrize(
    "text", ["", "7", f"7{ID}", f":{ID}", f"x:{ID}", f"-1:{ID}", f"07:{ID}", f"{2**63}:{ID}", "7:7"]
)
def test_what_is_no_cursor_is_refused(text):
    with pytest.raises(InvalidCursor, match=re.escape(repr(text))):
        Cursor.parse(text)


def test_a_cursor_out_of_range_is_refused():
    with pytest.raises(InvalidCursor, match="not -1"):
        Cursor(-1, ID)


@pytest.mark.parametrize(
    ("xact_id", "message"),
    [(-1, "negative after_xact_id: -1"), (2**63, "out of range"), (2**64, "out of range")],
)
def test_read_events_refuses_a_number_that_is_no_xact_id(conn, xact_id, message):
    with pytest.raises(InvalidValue, match=message):
        events.read_events(conn, after_xact_id=xact_id, after_id=ID, max_rows=1)


@pytest.mark.parametrize("options", [{"max_rows": 0}, {"poll_seconds": 0}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Feed(after=START, **options)


# Order and completeness


@pytest.mark.parametrize("max_rows", [1, 2, 5, 100])
def test_events_are_read_once_and_in_order(database_url, conn, customer, read, max_rows):
    written = [write(conn, customer) for _ in range(5)]

    found, cursor = read(database_url, after=START, max_rows=max_rows)

    assert found == written
    assert read(database_url, after=cursor) == ([], cursor)
    more = write(conn, customer)
    assert read(database_url, after=cursor)[0] == [more]
    assert read(database_url, after=Cursor.of(written[2]))[0] == [*written[3:], more]


def test_an_event_that_is_committed_late_is_not_skipped(database_url, conn, customer, read):
    first = write(conn, customer)
    with open_transaction(database_url, customer) as late:
        early = write(conn, customer)
        found, cursor = read(database_url, after=START)
        assert found == [first]

    assert read(database_url, after=cursor)[0] == [late, early]


def test_latest_skips_what_could_be_read_and_nothing_else(database_url, conn, customer, read):
    assert latest(conn) == RESTORED
    write(conn, customer)
    with open_transaction(database_url, customer) as late:
        held_back = write(conn, customer)
        cursor = latest(conn)

        async def twin():
            async with await connect_async(database_url) as aconn:
                return await latest_async(aconn)

        assert asyncio.run(twin()) == cursor
    new = write(conn, customer)

    assert read(database_url, after=cursor)[0] == [late, held_back, new]


def test_a_quiet_customer_passes_the_events_of_others_once(
    database_url, conn, customer, monkeypatch
):
    mine = write(conn, customer)
    others = [write(conn, make_customer(conn)) for _ in range(3)]
    found, cursor = read_sync(database_url, after=START, customer_id=customer)
    assert found == [mine]
    assert cursor > Cursor.of(others[-1])
    assert cursor.id not in {event.id for event in others}

    monkeypatch.setattr(events, "read_events", None)
    assert read_sync(database_url, after=cursor, customer_id=customer) == ([], cursor)


def test_a_quiet_customer_does_not_pass_what_is_held_back(database_url, conn, customer, read):
    write(conn, make_customer(conn))
    with open_transaction(database_url, customer) as late:
        write(conn, make_customer(conn))
        mine = write(conn, customer)
        found, cursor = read(database_url, after=START, customer_id=customer)
        assert found == []

    assert read(database_url, after=cursor, customer_id=customer)[0] == [late, mine]


def test_a_page_is_passed_only_as_far_as_it_was_complete(database_url, conn, customer, monkeypatch):
    """What is written between the look at the end and the reading is not lost."""
    other = make_customer(conn)
    write(conn, other)
    get_feed_end, between = events.get_feed_end, []

    @wraps(get_feed_end)
    def slow_get_feed_end(reader):
        end = get_feed_end(reader)
        between.append(write(conn, customer))
        write(conn, other)
        return end

    monkeypatch.setattr(events, "get_feed_end", slow_get_feed_end)
    found, cursor = [], START
    for _ in range(5):
        page, cursor = read_sync(database_url, after=cursor, customer_id=customer)
        found += page

    monkeypatch.undo()
    found += read_sync(database_url, after=cursor, customer_id=customer)[0]
    assert found == between


def test_events_with_one_id_in_one_transaction_are_not_torn_apart(database_url, conn, read):
    with conn.transaction():
        tied = [write(conn, make_customer(conn), id=ID) for _ in range(3)]
    last = write(conn, tied[0].customer_id)

    found, _ = read(database_url, after=START, max_rows=1)

    assert {event.customer_id for event in found[:-1]} == {event.customer_id for event in tied}
    assert (len(found), found[-1]) == (4, last)


def test_pages_hold_about_max_rows(database_url, conn, customer):
    written = [write(conn, customer) for _ in range(5)]

    async def lengths():
        async with AsyncFeed(database_url, after=START, max_rows=2) as feed:
            return [len(page) async for page in feed.pages()]

    with Feed(database_url, after=START, max_rows=2) as feed:
        pages = [(page, feed.cursor) for page in feed.pages()]

    assert [page for page, _ in pages] == [written[:2], written[2:4], written[4:]]
    assert [cursor for _, cursor in pages] == [Cursor.of(page[-1]) for page, _ in pages]
    assert asyncio.run(lengths()) == [2, 2, 1]


def test_a_page_is_the_readers_to_empty(database_url, conn, customer):
    written = [write(conn, customer) for _ in range(5)]
    found = []

    async def read():
        async with AsyncFeed(database_url, after=START, max_rows=2) as feed:
            async for page in feed.pages():
                while page:
                    found.append(page.pop(0))

    with Feed(database_url, after=START, max_rows=2) as feed:
        for page in feed.pages():
            while page:
                found.append(page.pop(0))
    asyncio.run(read())

    assert found == written * 2


def test_events_that_move_to_their_month_while_one_reads_are_not_missed(
    database_url, conn, customer
):
    event = write(conn, customer)
    month = event.created_at + timedelta(days=200)
    moved = write(conn, customer, created_at=month)
    last = write(conn, customer)
    with ThreadPoolExecutor() as threads:
        with connect(database_url) as admin, admin.transaction():
            admin.execute("SELECT ensure_partitions(9)")
            reading = threads.submit(
                lambda: events.read_events(conn, after_xact_id=0, after_id=START.id, max_rows=9)
            )
            time.sleep(0.3)
        found = reading.result()

    assert found == [event, moved, last]


# Following


def test_following_delivers_what_is_written_later(database_url, conn, customer):
    with Feed(database_url, after=latest(conn), poll_seconds=0.01) as feed:
        iterator = iter(feed)
        for _ in range(3):
            event = write(conn, customer)
            assert next(iterator) == event
            assert feed.cursor == Cursor.of(event)


async def test_following_delivers_what_is_written_later_async(database_url, conn, customer):
    async with AsyncFeed(database_url, after=latest(conn), poll_seconds=0.01) as feed:
        iterator = aiter(feed)
        for _ in range(3):
            event = write(conn, customer)
            assert await anext(iterator) == event
            assert feed.cursor == Cursor.of(event)


def test_closing_ends_following_from_another_thread(database_url, conn, customer):
    write(conn, customer)
    feed = Feed(named(database_url, "closed"), after=START, poll_seconds=60)
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(list, feed)
        eventually(lambda: feed.cursor > START)
        feed.close()
        assert len(reading.result(timeout=5)) == 1
    eventually(lambda: not connections(conn, "closed"))
    assert list(feed) == []


async def test_closing_ends_following_from_another_task(database_url, conn, customer):
    write(conn, customer)
    feed = AsyncFeed(database_url, after=START, poll_seconds=60)
    reading = asyncio.create_task(collected(feed))
    async with asyncio.timeout(10):
        while feed.cursor == START:
            await asyncio.sleep(0.01)

    feed.close()

    assert len(await asyncio.wait_for(reading, 5)) == 1


def test_leaving_the_loop_closes_the_connection(database_url, conn, customer):
    written = [write(conn, customer) for _ in range(2)]
    feed = Feed(named(database_url, "left"), after=START, poll_seconds=60)

    for _ in feed:
        break

    eventually(lambda: not connections(conn, "left"))
    assert next(iter(feed)) == written[1]


async def test_leaving_the_loop_closes_the_connection_async(database_url, conn, customer):
    write(conn, customer)
    async with AsyncFeed(named(database_url, "left"), after=START, poll_seconds=60) as feed:
        async for _ in feed:
            break
        assert connections(conn, "left")
    eventually(lambda: not connections(conn, "left"))


async def test_a_cancelled_task_leaves_no_connection(database_url, conn):
    feed = AsyncFeed(named(database_url, "cancelled"), after=START, poll_seconds=60)
    reading = asyncio.create_task(collected(feed))
    async with asyncio.timeout(10):
        while feed._conn is None:  # cancelled in between, psycopg's attempt ends with the garbage
            await asyncio.sleep(0.01)
    assert connections(conn, "cancelled")

    reading.cancel()

    with pytest.raises(asyncio.CancelledError):
        await reading
    eventually(lambda: not connections(conn, "cancelled"))


def test_ctrl_c_leaves_no_connection(database_url, conn):
    name = "interrupted"

    def interrupt():
        try:
            with connect(database_url) as other:
                eventually(lambda: connections(other, name))
            time.sleep(0.1)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor() as threads:
        threads.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(Feed(named(database_url, name), after=START, poll_seconds=60))
    eventually(lambda: not connections(conn, name))


# Losing the server


def test_a_terminated_reader_goes_on_where_it_was(database_url, conn, customer):
    written = [write(conn, customer) for _ in range(6)]
    found, pids = [], set()
    with Feed(named(database_url, "terminated"), after=START, max_rows=2) as feed:
        for event in feed:
            found.append(event)
            for pid in connections(conn, "terminated"):
                conn.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
                pids.add(pid)
            if len(found) % 2:
                write(conn, make_customer(conn))

    assert [event for event in found if event.customer_id == customer] == written
    assert len(pids) > 2


async def test_a_terminated_reader_goes_on_where_it_was_async(database_url, conn, customer):
    written = [write(conn, customer) for _ in range(6)]
    found = []
    async with AsyncFeed(named(database_url, "terminated"), after=START, max_rows=2) as feed:
        async for event in feed:
            found.append(event)
            for pid in connections(conn, "terminated"):
                conn.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    assert found == written


@pytest.fixture(scope="module")
def other_server(request):
    """Start a server of these tests' own, which allows prepared transactions."""
    with running_server(str(request.config.getoption("--pg"))) as server:
        with connect(server.url("postgres")) as conn:
            conn.execute("ALTER SYSTEM SET max_prepared_transactions = 2")
        restart(server)
        yield server


def restart(server):
    server.stop()
    embedded.start(server.data_dir, bin_dir=server.bin_dir, options={"fsync": "off"})


@pytest.fixture
def other_url(other_server):
    """Make an empty database on the other server."""
    dbname = f"test_{uuid4().hex}"
    other_server.ensure_database(dbname)
    return other_server.url(dbname)


def test_a_restart_of_the_server_goes_unnoticed(other_server, other_url):
    migrate(other_url)
    with connect(other_url) as conn:
        customer = make_customer(conn)
        before = write(conn, customer)
    feed = Feed(other_url, after=START, poll_seconds=0.01)
    twin = AsyncFeed(other_url, after=START, poll_seconds=0.01)

    async def first_two():
        found = []
        async with twin:
            async for event in twin:
                found.append(event)
                if len(found) == 2:
                    break
        return found

    with ThreadPoolExecutor() as threads:
        reading = threads.submit(lambda: list(islice(feed, 2)))
        reading_async = threads.submit(lambda: asyncio.run(first_two()))
        eventually(lambda: feed.cursor > START < twin.cursor)
        restart(other_server)
        with connect(other_url) as conn:
            after = write(conn, customer)
        assert reading.result(timeout=20) == [before, after]
        assert reading_async.result(timeout=20) == [before, after]


def test_a_server_that_stays_away_is_given_up(other_server, other_url):
    migrate(other_url)
    options = {"after": START, "poll_seconds": 0.01, "give_up_seconds": 0.5}
    with ThreadPoolExecutor() as threads:
        feed, twin = Feed(other_url, **options), AsyncFeed(other_url, **options)
        reading = [
            threads.submit(list, feed),
            threads.submit(lambda: asyncio.run(collected(twin))),
        ]
        eventually(lambda: feed.cursor > START < twin.cursor)
        other_server.stop()
        try:
            for result in reading:
                with pytest.raises(DatabaseUnreachable, match=r"gave up after 0.5 s, at 0:ffff"):
                    result.result(timeout=20)
        finally:
            embedded.start(other_server.data_dir, bin_dir=other_server.bin_dir)


def test_a_server_that_was_never_there_is_an_error_at_once(tmp_path, read):
    with pytest.raises(DatabaseUnreachable, match="Cannot connect"):
        read(f"postgresql://postgres@/none?host={tmp_path}", after=START)


def test_an_answer_that_is_an_error_is_raised(empty_database_url, read):
    with pytest.raises(NotMigrated):
        read(empty_database_url, after=START)


def test_a_cursor_from_elsewhere_is_refused(database_url, read):
    with pytest.raises(CursorAhead, match=r"4000000000:.* is ahead of the database"):
        read(database_url, after=Cursor(4_000_000_000, ID))


# The consumer


def test_effects_that_are_kept_with_the_cursor_happen_once(database_url, conn, customer):
    written = [write(conn, customer) for _ in range(30)]
    conn.execute("CREATE TABLE effects (event_id uuid)")
    conn.execute("CREATE TABLE consumers (cursor text)")
    conn.execute("INSERT INTO consumers VALUES (%s)", [str(START)])
    chance = random.Random(7)
    crashes = 0

    def consume():
        text = conn.execute("SELECT cursor FROM consumers").fetchone()[0]
        with Feed(database_url, after=Cursor.parse(text), max_rows=3) as feed:
            for event in feed:
                with conn.transaction():
                    conn.execute("INSERT INTO effects VALUES (%s)", [event.id])
                    if chance.random() < 0.2:
                        raise ConnectionError
                    conn.execute("UPDATE consumers SET cursor = %s", [str(Cursor.of(event))])
                    if chance.random() < 0.2:
                        raise ConnectionError

    while True:
        try:
            consume()
        except ConnectionError:
            crashes += 1
        else:
            break

    assert crashes > 2
    effects = [event_id for (event_id,) in conn.execute("SELECT event_id FROM effects")]
    assert effects == [event.id for event in written]


# Lag


def test_lag_names_the_transaction_that_holds_the_feed_back(database_url, conn, customer):
    write(conn, customer)
    lag = events.get_feed_lag(conn)
    assert (lag.waiting_events, lag.waiting_since, lag.holder_pid) == (0, None, None)

    with connect(named(database_url, "slow")) as slow, slow.transaction():
        slow.execute("CREATE TABLE a_write_without_events ()")
        waiting = [write(conn, customer) for _ in range(2)]
        lag = events.get_feed_lag(conn)
        expected_pid = slow.info.backend_pid

    assert (lag.waiting_events, lag.waiting_since) == (2, waiting[0].created_at)
    assert lag.holder_pid == expected_pid
    assert lag.horizon_xact_id < waiting[0].xact_id
    assert (lag.holder_application, lag.holder_user) == ("slow", "postgres")
    assert lag.holder_state == "idle in transaction"
    assert lag.holder_query == "CREATE TABLE a_write_without_events ()"
    assert lag.holder_prepared is None
    assert timedelta() < lag.holder_age < timedelta(seconds=30)
    lag = events.get_feed_lag(conn)
    assert (lag.waiting_events, lag.holder_pid) == (0, None)


def test_who_only_reads_does_not_hold_the_feed_back(database_url, conn, customer, read):
    with connect(database_url) as reader, reader.transaction():
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT FROM customers")
        event = write(conn, customer)
        assert read(database_url, after=START)[0] == [event]
        assert events.get_feed_lag(conn).waiting_events == 0


def test_lag_can_be_asked_by_who_may_not_see_the_sessions_of_others(database_url, conn, customer):
    role = f"test_{uuid4().hex}"
    with connect(named(database_url, "slow")) as slow, slow.transaction():
        write(slow, customer)
        with conn.transaction(force_rollback=True):
            conn.execute(f"CREATE ROLE {role}")
            conn.execute(f"GRANT SELECT ON events TO {role}")
            conn.execute(f"SET LOCAL ROLE {role}")
            lag = events.get_feed_lag(conn)
            assert lag.holder_pid == slow.info.backend_pid
    assert (lag.holder_application, lag.holder_user) == ("slow", "postgres")
    assert (lag.holder_age, lag.holder_state) == (None, None)
    assert lag.holder_query == "<insufficient privilege>"


def test_lag_names_a_prepared_transaction(other_url):
    migrate(other_url)
    with connect(other_url) as conn, connect(other_url) as other:
        customer = make_customer(conn)
        with suppress(psycopg.errors.DuplicateObject):
            conn.execute("CREATE ROLE coordinator LOGIN SUPERUSER")
        other.execute("SET SESSION AUTHORIZATION coordinator")
        other.execute("BEGIN")
        prepared = write(other, customer)
        other.execute("PREPARE TRANSACTION 'transfer 7'")
        waiting = write(conn, customer)
        try:
            lag = events.get_feed_lag(conn)
            assert read_sync(other_url, after=START)[0] == []
        finally:
            conn.execute("COMMIT PREPARED 'transfer 7'")

        assert (lag.holder_prepared, lag.holder_pid) == ("transfer 7", None)
        assert (lag.holder_user, lag.waiting_events) == ("coordinator", 1)
        assert lag.holder_age > timedelta()
        assert read_sync(other_url, after=START)[0] == [prepared, waiting]


# Dump and restore


def next_xact_id(conn):
    return int(conn.execute("SELECT pg_current_xact_id()::text").fetchone()[0])


def use_xact_ids(conn, number):
    conn.execute(
        f"DO $$ BEGIN FOR n IN 1..{number} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; "
        "END $$"
    )


def dump_and_restore(server, source, target):
    dump = subprocess.Popen([server.bin_dir / "pg_dump", source], stdout=subprocess.PIPE)
    subprocess.run(
        [server.bin_dir / "psql", "-qX", "-v", "ON_ERROR_STOP=1", target],
        stdin=dump.stdout,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    dump.stdout.close()
    assert dump.wait() == 0


def test_restored_events_are_read_once_their_xact_ids_are_forgotten(
    database_url, conn, other_server, other_url, read
):
    customer = make_customer(conn)
    with connect(other_url) as restored:
        use_xact_ids(conn, 2000 + max(0, next_xact_id(restored) - next_xact_id(conn)))
        other = make_customer(conn)
        for _ in range(5):
            with conn.transaction():
                write(conn, customer)
                write(conn, other)
        with open_transaction(database_url, customer):
            write(conn, customer)
        written, drained = read_sync(database_url, after=START)
        assert len(written) == 12

        dump_and_restore(other_server, database_url, other_url)

        assert next_xact_id(restored) < written[0].xact_id
        assert read(other_url, after=START)[0] == []
        with pytest.raises(CursorAhead):
            read(other_url, after=drained)

        assert events.forget_event_xact_ids(restored) == 12
        assert events.forget_event_xact_ids(restored) == 0
        new = [write(restored, customer) for _ in range(2)]

        found, _ = read(other_url, after=START)
        assert [event.id for event in found[:-2]] == sorted(event.id for event in written)
        assert found[-2:] == new
        assert read(other_url, after=RESTORED)[0] == new
        found, _ = read(other_url, after=START, customer_id=other, max_rows=2)
        assert len(found) == 5

        for change in ("UPDATE events SET event_type = 'y'", "DELETE FROM events"):
            with pytest.raises(psycopg.Error, match="append-only"):
                restored.execute(change)
        query = "SELECT DISTINCT tgenabled FROM pg_trigger WHERE tgname ~ '^events_'"
        assert restored.execute(query).fetchall() == [("O",)]


def test_only_the_owner_makes_xact_ids_forgotten(database_url, conn, customer):
    event = write(conn, customer)
    role = f"test_{uuid4().hex}"
    with conn.transaction(force_rollback=True):
        conn.execute(f"CREATE ROLE {role}")
        conn.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        conn.execute(f"SET LOCAL ROLE {role}")
        with (
            pytest.raises(PermissionDenied, match="must be owner of table"),
            conn.transaction(),
        ):
            events.forget_event_xact_ids(conn)
    assert read_sync(database_url, after=START)[0] == [event]


# Plans


def nodes(plan):
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


@pytest.fixture(scope="module")
def many_events(server):
    """Make a database of 40 000 events in six months, two customers', a few of a third."""
    dbname = f"plans_{uuid4().hex}"
    server.ensure_database(dbname)
    migrate(server.url(dbname))
    with connect(server.url(dbname)) as conn:
        use_xact_ids(conn, 1000)
        conn.execute("SELECT ensure_partitions(6)")
        ids = [make_customer(conn) for _ in range(3)]
        conn.execute(
            """
            INSERT INTO events (customer_id, created_at, event_type, xact_id)
            SELECT
                CASE WHEN n % 1000 = 0 THEN %s WHEN n % 10 = 0 THEN %s ELSE %s END,
                date_trunc('month', now()) + n * interval '6 minutes',
                'x',
                (10 + n / 40)::text::xid8
            FROM generate_series(1, 40000) AS n
            """.replace("% 1", "%% 1"),
            ids[::-1],
        )
        conn.execute("ANALYZE events")
        yield conn, [None, *ids]
    with connect(server.url("postgres")) as conn:
        conn.execute(f"DROP DATABASE {dbname}")


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("after", [0, 500, 1005])
@pytest.mark.parametrize("whose", [0, 1, 2, 3], ids=["all", "90%", "10%", "0.1%"])
def test_a_page_is_read_in_order_from_the_index(many_events, mode, after, whose):
    conn, customer_ids = many_events
    customer_id = customer_ids[whose]
    with conn.transaction(force_rollback=True):
        conn.execute(f"SET LOCAL plan_cache_mode = {mode}")
        conn.execute(f"PREPARE page AS {events.READ_EVENTS}")
        whom = f"'{customer_id}'" if customer_id else "NULL"
        values = f"{after}, '{START.id}', {whom}, 100"
        (((explained,),),) = conn.execute(
            f"EXPLAIN (ANALYZE, FORMAT json) EXECUTE page({values})"
        ).fetchall()
        conn.execute("DEALLOCATE page")
    found = list(
        nodes((explained if isinstance(explained, dict) else json.loads(explained))["Plan"])
    )

    scans = [node for node in found if "Relation Name" in node and node["Actual Rows"]]
    assert {node["Node Type"] for node in scans} <= {"Index Scan", "Bitmap Heap Scan"}
    if mode == "force_generic_plan" or (whose < 3 and after < 1005):
        assert found[1]["Node Type"] == "Merge Append"
        assert not [node for node in found if node["Node Type"] == "Sort"]
        assert all(node["Index Name"].endswith("_xact_id_id_idx") for node in scans)
        assert all("ROW(xact_id, id) > ROW(" in node["Index Cond"] for node in scans)
        assert all("xact_id < pg_snapshot_xmin(" in node["Index Cond"] for node in scans)
    else:  # what there is left of few events may be sorted, but nothing else
        assert sum(node["Actual Rows"] for node in scans) <= 250


def test_the_end_and_the_lag_are_read_from_the_index(many_events):
    conn, _ = many_events
    for query in (events.GET_FEED_END, events.GET_FEED_LAG):
        (((explained,),),) = conn.execute(f"EXPLAIN (ANALYZE, FORMAT json) {query}").fetchall()
        scans = [node for node in nodes(explained["Plan"]) if "Relation Name" in node]
        read = [node for node in scans if node["Relation Name"].startswith("events_")]
        assert len(read) > 6
        assert sum(node["Actual Rows"] for node in read) <= len(read)
        assert not sum(node.get("Rows Removed by Filter", 0) for node in read)


# The documentation

SNIPPETS = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda text: text.splitlines()[-1].strip())
def test_the_snippets_run(snippet, database_url, conn, monkeypatch, capsys):
    monkeypatch.setenv("OPTIINFRA_DATABASE_URL", database_url)
    seed(conn)
    source = snippet.replace(", poll_seconds=1", "")  # which would never end

    exec(compile(source, "feed.md", "exec"), {"__name__": "snippet"})

    assert capsys.readouterr().out
    if "billed" in snippet:
        written = read_sync(database_url, after=START)[0]
        billed = [event_id for (event_id,) in conn.execute("SELECT event_id FROM bills")]
        assert billed == [event.id for event in written]


# All at once


class Torture:
    """Writers that commit out of order, and readers that are thrown out and come back."""

    def __init__(self, url, size):
        self.url, self.size = url, size
        self.reader_url = named(url, "tortured")
        self.done = threading.Event()
        self.committed = {}
        self.closers = set()
        self.returns = 0
        with connect(url) as conn:
            self.customers = [make_customer(conn) for _ in range(3)]

    def write(self, number):
        chance = random.Random(number)
        with connect(self.url) as conn:
            for _ in range(self.size):
                written = {}
                with conn.transaction() as transaction:
                    if chance.random() < 0.5:
                        conn.execute("SELECT pg_current_xact_id()")
                        time.sleep(chance.random() * 0.02)
                    for _ in range(chance.randint(1, 4)):
                        with conn.transaction() as savepoint:
                            event = write(conn, chance.choice(self.customers))
                            if chance.random() < 0.2:
                                raise psycopg.Rollback(savepoint)
                            written[event.id] = event
                    long = chance.random() < 0.05
                    time.sleep(0.3 if long else chance.random() * 0.03)
                    if chance.random() < 0.2:
                        written.clear()
                        raise psycopg.Rollback(transaction)
                self.committed |= written

    def terminate(self):
        chance = random.Random(0)
        terminated = 0
        with connect(self.url) as conn:
            while not self.done.wait(0.02):
                for pid in connections(conn, "tortured"):
                    if chance.random() < 0.2:
                        conn.execute("SELECT pg_terminate_backend(%s)", [pid])
                        terminated += 1
        return terminated

    def options(self, chance, cursor, customer_id):
        return {
            "after": Cursor.parse(cursor),
            "customer_id": customer_id,
            "poll_seconds": chance.choice([None, 0.005]),
            "max_rows": chance.randint(1, 20),
        }

    @contextmanager
    def watched(self, close):
        """Close the feed when the writers are done, and forgive a connection lost at the start."""
        self.closers.add(close)
        self.returns += 1
        if self.done.is_set():
            close()
        try:
            with suppress(DatabaseUnreachable, psycopg.OperationalError):
                yield
        finally:
            self.closers.discard(close)

    def read(self, number, customer_id):
        chance, found, cursor = random.Random(number), [], str(START)
        while not self.done.is_set():
            feed = Feed(self.reader_url, **self.options(chance, cursor, customer_id))
            with self.watched(feed.close):
                for event in feed:
                    found.append(event)
                    cursor = str(feed.cursor)
                    if chance.random() < 0.03:
                        break
                else:
                    cursor = str(feed.cursor)
        return found + read_sync(self.url, after=Cursor.parse(cursor), customer_id=customer_id)[0]

    async def read_async(self, number, customer_id):
        chance, found, cursor = random.Random(number), [], str(START)
        loop = asyncio.get_running_loop()
        while not self.done.is_set():
            feed = AsyncFeed(self.reader_url, **self.options(chance, cursor, customer_id))
            with self.watched(partial(loop.call_soon_threadsafe, feed.close)):
                async with feed:
                    async for event in feed:
                        found.append(event)
                        cursor = str(feed.cursor)
                        if chance.random() < 0.03:
                            break
                    else:
                        cursor = str(feed.cursor)
        feed = AsyncFeed(self.url, after=Cursor.parse(cursor), customer_id=customer_id)
        return found + await collected(feed)

    def finish(self):
        self.done.set()
        for close in list(self.closers):
            with suppress(RuntimeError):  # the event loop is closed already
                close()


def test_every_event_is_read_exactly_once_whatever_happens(request, database_url, capsys):
    soak = request.config.getoption("--soak")
    torture = Torture(database_url, size=800 if soak else 60)
    first = torture.customers[0]
    with ThreadPoolExecutor(16) as threads:
        terminating = threads.submit(torture.terminate)
        readers = {
            (how, whose): threads.submit(read, number, whose)
            for number, (how, read, whose) in enumerate(
                (how, read, whose)
                for how, read in (
                    ("sync", torture.read),
                    ("async", lambda *args: asyncio.run(torture.read_async(*args))),
                )
                for whose in (None, first)
            )
        }
        writers = [threads.submit(torture.write, number) for number in range(8)]
        try:
            for writer in writers:
                writer.result()
        finally:
            torture.finish()
        found = {reader: result.result() for reader, result in readers.items()}

    for (_, whose), read in found.items():
        expected = {
            event_id
            for event_id, event in torture.committed.items()
            if whose is None or event.customer_id == whose
        }
        places = [Cursor.of(event) for event in read]
        assert all(before < after for before, after in pairwise(places))
        assert {event.id for event in read} == expected
        assert len(read) == len(expected)
    assert torture.returns > 10
    assert terminating.result() > 10
    with capsys.disabled():
        if soak:
            print(
                f"\n{len(torture.committed)} events by 8 writers, read by {len(found)} readers; "
                f"{torture.returns} returns, {terminating.result()} connections terminated"
            )
