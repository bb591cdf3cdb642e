"""Through PgBouncer, which pools transactions or sessions, and must be the one that was said.

Where it pools transactions, each query may run on a connection that another client used a moment
ago, so nothing may be left on it: no prepared statement, no setting.
"""

import asyncio
import configparser
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from optiinfra_db import (
    acting,
    acting_async,
    connect,
    connect_async,
    pool,
    pool_async,
    tenant,
    tenant_async,
)
from optiinfra_db.connection import Session
from optiinfra_db.errors import InvalidPooler, InvalidValue
from optiinfra_db.feed import START, AsyncFeed, Feed
from optiinfra_db.generated import agent_metrics, customers, events, workflow_executions
from optiinfra_db.generated.aio import customers as customers_async
from optiinfra_db.generated.aio import events as events_async
from optiinfra_db.generated.models import MetricType, WorkflowType
from optiinfra_db.migrate import migrate, status
from optiinfra_db.seed import ATLAS, COST, COST_RUN, INDIE, NIMBUS, QUALITY_RUN, seed
from optiinfra_db.workflows import aio, record_workflow

from .cli.command import run as run_command
from .pgbouncer import needs_pgbouncer, running

RUNS = {ATLAS: COST_RUN, INDIE: QUALITY_RUN}
LEFT = """
SELECT
    coalesce(current_setting('optiinfra.actor', true), ''),
    coalesce(current_setting('optiinfra.client', true), '')
"""

pytestmark = needs_pgbouncer


@pytest.fixture
def seeded_url(database_url):
    with connect(database_url) as conn:
        seed(conn)
    return database_url


@pytest.fixture
def pgbouncer(seeded_url, server, tmp_path):
    """Start PgBouncers in front of the sample data; each call returns the URL of one."""
    with ExitStack() as stack:

        def start(**settings):
            directory = tmp_path / f"pgbouncer{len(list(tmp_path.iterdir()))}"
            return stack.enter_context(running(seeded_url, server.pgdata, directory, settings))

        yield start


@pytest.fixture
def pooled_url(pgbouncer, monkeypatch):
    """Start a PgBouncer that has one server connection for everybody; return its URL."""
    monkeypatch.setenv("OPTIINFRA_POOLER", "transaction")
    return pgbouncer()


def left(url):
    """Return what clients left on the one server connection."""
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as conn:
        return conn.execute(LEFT).fetchone()


# One server connection for all


def statements(url):
    """Return what is prepared on the one server connection."""
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as conn:
        return [name for (name,) in conn.execute("SELECT name FROM pg_prepared_statements")]


def test_clients_that_share_a_connection_get_their_own_answers(pooled_url):
    def ask(customer_id):
        with connect(pooled_url) as conn:
            for _ in range(200):
                customer = customers.get_customer(conn, id=customer_id)
                assert customer.id == customer_id
                run = workflow_executions.get_workflow_detail(
                    conn, customer_id=customer_id, id=RUNS[customer_id]
                )
                assert run.workflow_execution.customer_id == customer_id
                assert {step.customer_id for step in run.steps} == {customer_id}
        return True

    with ThreadPoolExecutor(4) as executor:
        assert list(executor.map(ask, [ATLAS, INDIE, ATLAS, INDIE])) == [True] * 4


ROUNDS = 150


def work(url, customer_id, actor):
    """Make 12 calls in a round, with those of the blocks."""
    written = {"customer_id": customer_id, "event_type": "x"}
    with connect(url) as conn:
        for _ in range(ROUNDS):
            assert customers.get_customer(conn, id=customer_id).id == customer_id
            assert customers.get_customer(conn, id=uuid4()) is None
            with acting(conn, actor):
                event = events.create_event(conn, **written)
            assert (event.customer_id, event.actor) == (customer_id, actor)
            with tenant(conn, customer_id):
                (seen,) = customers.list_customers(conn, max_rows=9)
            assert seen.id == customer_id
            with acting(conn, actor), tenant(conn, customer_id):
                event = events.create_event(conn, **written)
            assert event.actor == f"postgres:{actor}"
            assert events.create_event(conn, **written).actor == "postgres"
            assert len(customers.list_customers(conn, max_rows=9)) == 3


async def work_async(connections, customer_id, actor):
    """Make 5 calls in a round."""
    for _ in range(ROUNDS):
        async with connections.connection() as conn:
            found = await customers_async.get_customer(conn, id=customer_id)
            assert found.id == customer_id
            async with acting_async(conn, actor):
                event = await events_async.create_event(
                    conn, customer_id=customer_id, event_type="x"
                )
            assert (event.customer_id, event.actor) == (customer_id, actor)
            async with tenant_async(conn, customer_id):
                (seen,) = await customers_async.list_customers(conn, max_rows=9)
            assert seen.id == customer_id


def record(url, customer_id, actor):
    with connect(url) as conn:
        for _ in range(10):
            with record_workflow(
                conn,
                customer_id=customer_id,
                agent_id=COST,
                workflow_type=WorkflowType.HEALTH_CHECK,
                steps=["look", "tell"],
                actor=actor,
                heartbeat_seconds=0.01,
            ) as run:
                for name in ("look", "tell"):
                    with run.step(name):
                        pass
            assert actors_of(conn, customer_id, run.id) == {actor}


def actors_of(conn, customer_id, run_id):
    entries = workflow_executions.get_workflow_timeline(conn, customer_id=customer_id, id=run_id)
    assert entries[-1].status == "completed"
    return {entry.actor for entry in entries if entry.actor}


def test_ten_thousand_calls_through_two_connections(pgbouncer, monkeypatch):
    """Threads and tasks, each for a customer and with an actor of its own: 15,300, and runs."""
    monkeypatch.setenv("OPTIINFRA_POOLER", "transaction")
    url = pgbouncer(default_pool_size=2)
    everyone = [*enumerate([ATLAS, INDIE, NIMBUS] * 2)]

    async def all_tasks():
        async with pool_async(url, max_size=4) as connections, asyncio.TaskGroup() as tasks:
            for number, customer_id in everyone:
                tasks.create_task(work_async(connections, customer_id, f"task-{number}"))

    with ThreadPoolExecutor(10) as executor:
        workers = [
            *(executor.submit(work, url, whose, f"thread-{n}") for n, whose in everyone),
            *(executor.submit(record, url, whose, f"recorder-{n}") for n, whose in everyone[:3]),
        ]
        asyncio.run(all_tasks())
        for worker in workers:
            worker.result()
    with connect(url) as conn:
        counted = conn.execute(
            "SELECT actor, count(*) FROM events WHERE event_type = 'x' GROUP BY actor"
        )
        names = [f"{kind}-{n}" for kind in ("thread", "postgres:thread", "task") for n in range(6)]
        assert dict(counted) == {"postgres": 6 * ROUNDS, **dict.fromkeys(names, ROUNDS)}


async def test_the_asynchronous_recorder_acts_through_it(pooled_url):
    async def record(number):
        async with (
            await connect_async(pooled_url) as conn,
            aio.record_workflow(
                conn,
                customer_id=ATLAS,
                agent_id=COST,
                workflow_type=WorkflowType.HEALTH_CHECK,
                actor=f"agent-{number}",
                heartbeat_seconds=0.01,
            ) as run,
            asyncio.TaskGroup() as steps,
        ):
            for name in ("one", "two", "three"):  # they overlap
                steps.create_task(_do(run, name))
        return run.id

    runs = await asyncio.gather(*(record(number) for number in range(4)))
    with connect(pooled_url) as conn:
        for number, run_id in enumerate(runs):
            assert actors_of(conn, ATLAS, run_id) == {f"agent-{number}"}


async def _do(run, name):
    async with run.step(name):
        await asyncio.sleep(0.02)


def test_an_actor_is_of_a_block_and_not_of_the_connection(pooled_url):
    with connect(pooled_url) as alice, connect(pooled_url) as bob:
        with acting(alice, "alice"):
            by_alice = events.create_event(alice, customer_id=NIMBUS, event_type="x")
            with acting(alice, "alice's boss"):
                by_boss = events.create_event(alice, customer_id=NIMBUS, event_type="x")
            again = events.create_event(alice, customer_id=NIMBUS, event_type="x")
        by_bob = events.create_event(bob, customer_id=NIMBUS, event_type="x")
    actors = [event.actor for event in (by_alice, by_boss, again, by_bob)]
    assert actors == ["alice", "alice's boss", "alice", "postgres"]
    assert left(pooled_url) == ("", "")


@pytest.mark.parametrize("given", [{"actor": "a"}, {"customer_id": ATLAS}])
def test_an_actor_or_customer_of_the_connection_is_refused(pooled_url, given):
    (field,) = given
    for attempt in (connect, pool, pool_async):
        with pytest.raises(InvalidValue, match=r"with (acting|tenant)\(conn") as refused:
            attempt(pooled_url, **given)
        assert refused.value.field == field
    with pytest.raises(InvalidValue):
        asyncio.run(connect_async(pooled_url, **given))


def test_a_pool_leaves_nothing_behind(pooled_url):
    with pool(pooled_url, max_size=3) as connections:
        for _ in range(5):
            with connections.connection() as conn:
                assert conn.prepare_threshold is None
                assert customers.get_customer(conn, id=ATLAS).id == ATLAS
    assert left(pooled_url) == ("", "")


def test_batches_pipelines_and_copies_go_through_it(pooled_url):
    at = datetime.now(UTC)
    rows = [
        agent_metrics.CopyAgentMetricsParams(
            agent_id=COST,
            metric_name="through",
            recorded_at=at,
            metric_value=n,
            metric_type=MetricType.GAUGE,
            tags={},
        )
        for n in range(1000)
    ]
    with connect(pooled_url) as conn, connect(pooled_url) as other:
        assert agent_metrics.copy_agent_metrics(conn, rows=rows) == 1000
        for _ in range(200):
            with conn.transaction(), conn.pipeline():
                for customer_id in (ATLAS, INDIE):
                    assert customers.get_customer(conn, id=customer_id).id == customer_id
            assert customers.get_customer(other, id=NIMBUS).id == NIMBUS


async def test_feeds_read_through_it(pooled_url):
    with Feed(pooled_url, after=START, pooler="transaction") as feed:
        expected = list(feed)
    async with AsyncFeed(pooled_url, after=START) as feed:
        assert [event async for event in feed] == expected
    assert len(expected) > 10


# What was said, and what is there


def attempts(url, **options):
    """Return each way to connect."""

    async def connected_async():
        async with await connect_async(url, **options):
            pass

    async def pooled_async():
        async with pool_async(url, **options):
            pass

    def pooled():
        with pool(url, **options):
            pass

    return [
        lambda: connect(url, **options).close(),
        lambda: asyncio.run(connected_async()),
        pooled,
        lambda: asyncio.run(pooled_async()),
    ]


@pytest.mark.parametrize("pool_mode", ["transaction", "session", "statement"])
def test_a_pooler_that_nobody_mentioned_is_refused(pgbouncer, pool_mode):
    url = pgbouncer(pool_mode=pool_mode)
    for attempt in attempts(url, actor="leaked"):
        with pytest.raises(InvalidPooler, match="OPTIINFRA_POOLER") as refused:
            attempt()
        assert refused.value.exit_code == 2
    assert left(url) == ("", "")


def test_a_connection_of_the_users_making_is_refused_by_what_opens_another(pgbouncer, monkeypatch):
    url = pgbouncer()
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as conn:
        with (
            pytest.raises(InvalidPooler, match="OPTIINFRA_POOLER"),
            record_workflow(
                conn, customer_id=ATLAS, agent_id=COST, workflow_type=WorkflowType.HEALTH_CHECK
            ),
        ):
            pytest.fail("it began")
        monkeypatch.setenv("OPTIINFRA_POOLER", "transaction")
        with Session.of(conn).connect() as another:
            assert another.prepare_threshold is None


def test_a_pooler_of_transactions_is_found_not_to_be_one_of_sessions(pgbouncer):
    for number in range(4):
        url = pgbouncer()
        with pytest.raises(InvalidPooler, match='was said to be pooler="session"'):
            attempts(url, pooler="session", actor="a")[number]()
        assert left(url) == ("", "")
        assert statements(url) == []


def test_one_that_forgets_settings_after_each_transaction_is_found_too(pgbouncer):
    url = pgbouncer(server_reset_query_always=1)
    with pytest.raises(InvalidPooler, match="was said to be"):
        connect(url, pooler="session")


def test_one_of_sessions_that_does_not_reset_them_is_found_too(pgbouncer):
    url = pgbouncer(pool_mode="session", server_reset_query="")
    with pytest.raises(InvalidPooler, match="server_reset_query"):
        connect(url, pooler="session")


@pytest.mark.parametrize("forgets", ["RESET ALL", "DEALLOCATE ALL"])
def test_one_of_sessions_that_forgets_half_is_found_too(pgbouncer, forgets):
    url = pgbouncer(pool_mode="session", server_reset_query=forgets)
    for attempt in attempts(url, pooler="session", actor="a"):
        with pytest.raises(InvalidPooler, match="server_reset_query"):
            attempt()
        assert left(url) == ("", "")


def test_a_pool_hands_out_connections_as_it_made_them(pooled_url, seeded_url):
    with pool(pooled_url, max_size=1) as connections:
        with connections.connection() as conn:
            conn.autocommit, conn.read_only, conn.prepare_threshold = False, True, 5
            conn.execute("SELECT 1")
        conn = connections.getconn()
        made = events.create_event(conn, customer_id=ATLAS, event_type="x")
        assert conn.prepare_threshold is None
        connections.putconn(conn)
    with connect(seeded_url) as conn:
        key = {"customer_id": ATLAS, "created_at": made.created_at, "id": made.id}
        assert events.get_event(conn, **key)


async def test_an_asynchronous_pool_hands_out_connections_as_it_made_them(pooled_url):
    async with pool_async(pooled_url, max_size=1) as connections:
        async with connections.connection() as conn:
            await conn.set_autocommit(False)
            await conn.set_read_only(True)
            await conn.execute("SELECT 1")
        async with connections.connection() as conn:
            assert (conn.autocommit, conn.read_only, conn.isolation_level) == (True, None, None)
            await events_async.create_event(conn, customer_id=ATLAS, event_type="x")


async def test_a_pool_whose_replica_is_refused_is_closed(pgbouncer, seeded_url):
    refused = pgbouncer()  # nobody mentioned it
    for_threads, for_tasks = (make(seeded_url, read_url=refused) for make in (pool, pool_async))
    with pytest.raises(InvalidPooler):
        for_threads.open()
    with pytest.raises(InvalidPooler):
        await for_tasks.open()
    assert (for_threads.closed, for_tasks.closed) == (True, True)


def test_another_connection_like_one_prepares_nothing(pooled_url):
    with psycopg.connect(pooled_url, autocommit=True) as conn, Session.of(conn).connect() as other:
        for _ in range(20):
            customers.get_customer(other, id=ATLAS)
    assert statements(pooled_url) == []


def test_the_configuration_of_the_guide_starts(pgbouncer, seeded_url):
    guide = Path(__file__).parents[1] / "docs" / "guides" / "poolers.md"
    [text] = re.findall(r"^```ini\n(.*?)^```", guide.read_text(), re.S | re.M)
    shown = configparser.ConfigParser(interpolation=None, comment_prefixes=(";", "#"))
    shown.read_string(text)
    with connect(pgbouncer(**shown["pgbouncer"]), pooler="transaction") as conn:
        assert customers.get_customer(conn, id=ATLAS)


def test_a_pooler_of_sessions_is_as_no_pooler(pgbouncer, monkeypatch):
    monkeypatch.setenv("OPTIINFRA_POOLER", "session")
    url = pgbouncer(pool_mode="session", default_pool_size=3)
    for _ in range(3):
        with connect(url, actor="agent", customer_id=ATLAS) as conn:
            for _ in range(10):  # and prepares
                event = events.create_event(conn, customer_id=ATLAS, event_type="x")
                assert event.actor == "agent"
            with record_workflow(
                conn, customer_id=ATLAS, agent_id=COST, workflow_type=WorkflowType.HEALTH_CHECK
            ) as run:
                pass
            assert actors_of(conn, ATLAS, run.id) == {"agent"}
    with pool(url, actor="pooled", max_size=2) as connections:
        for _ in range(4):
            with connections.connection() as conn:
                event = events.create_event(conn, customer_id=ATLAS, event_type="x")
                assert event.actor == "pooled"
    assert migrate(url, say=lambda _: None).applied == []
    assert left(url) == ("", "")


def test_one_server_connection_is_enough_for_a_pooler_of_sessions(pgbouncer):
    url = pgbouncer(pool_mode="session", query_wait_timeout=5)
    with connect(url, pooler="session", actor="a") as conn:
        assert events.create_event(conn, customer_id=ATLAS, event_type="x").actor == "a"


def test_without_a_pooler_each_setting_will_do(seeded_url):
    for pooler in ("session", "transaction"):
        for attempt in attempts(seeded_url, pooler=pooler):
            attempt()
    with connect(seeded_url, pooler="transaction") as conn:
        assert conn.execute(LEFT).fetchone() == ("", "")


def test_a_tunnel_is_no_pooler(seeded_url):
    target = conninfo_to_dict(seeded_url)

    def forward(source, sink):
        while data := source.recv(65536):
            sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve():
            client, _ = listener.accept()
            with client, socket.socket(socket.AF_UNIX) as server:
                server.connect(f"{target['host']}/.s.PGSQL.{target['port']}")
                there = threading.Thread(target=forward, args=(client, server))
                there.start()
                forward(server, client)
                there.join()

        thread = threading.Thread(target=serve)
        thread.start()
        tunnel = f"postgresql://postgres@127.0.0.1:{port}/{target['dbname']}?sslmode=disable"
        with connect(tunnel, actor="far away") as conn:
            event = events.create_event(conn, customer_id=ATLAS, event_type="x")
        assert event.actor == "far away"
        thread.join()


# Times


def test_times_are_aware_and_utc(pooled_url, seeded_url):
    with connect(pooled_url) as conn, connect(seeded_url, pooler="session") as direct:
        through = workflow_executions.get_workflow_execution(conn, customer_id=ATLAS, id=COST_RUN)
        assert through.created_at.utcoffset() == timedelta(0)
        assert through == workflow_executions.get_workflow_execution(
            direct, customer_id=ATLAS, id=COST_RUN
        )
        at = datetime(2026, 5, 1, 12, tzinfo=UTC)
        event = events.create_event(conn, customer_id=ATLAS, event_type="x", created_at=at)
        assert event.created_at == at


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("TimeZone", "Asia/Tokyo", "UTC"),
        ("DateStyle", "German", "ISO"),
        ("IntervalStyle", "iso_8601", "postgres"),
    ],
)
def test_a_server_that_writes_them_otherwise_is_refused(pgbouncer, seeded_url, name, value, wanted):
    database = conninfo_to_dict(seeded_url)["dbname"]
    with connect(seeded_url) as admin:
        admin.execute(f"ALTER DATABASE {database} SET {name} = '{value}'")
    for attempt in attempts(pgbouncer(), pooler="transaction"):
        with pytest.raises(InvalidPooler, match=f"ALTER ROLE .* SET {name} = '{wanted}'"):
            attempt()
    with connect(seeded_url) as admin:
        admin.execute(f"ALTER DATABASE {database} RESET {name}")
    connect(pgbouncer(), pooler="transaction").close()


def test_a_client_may_ask_for_utc_where_its_pooler_keeps_that(pgbouncer, seeded_url, monkeypatch):
    database = conninfo_to_dict(seeded_url)["dbname"]
    with connect(seeded_url) as admin:
        admin.execute(f"ALTER DATABASE {database} SET TimeZone = 'Asia/Tokyo'")
    url = pgbouncer()
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as other:
        monkeypatch.setenv("PGTZ", "UTC")
        with connect(url, pooler="transaction") as conn:
            for _ in range(3):
                assert other.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)
                assert conn.execute("SHOW TimeZone").fetchone() == ("UTC",)


# The rest of the package


def test_migrations_go_past_a_pooler_of_transactions(pooled_url, seeded_url):
    with pytest.raises(InvalidPooler, match="--database-url"):
        migrate(pooled_url, say=lambda _: None)
    assert migrate(seeded_url, say=lambda _: None).applied == []
    assert {item.state for item in status(pooled_url)} == {"applied"}


def test_the_command_line_works_through_it(pooled_url):
    def run(*arguments, exit_code=0):
        done = run_command(*arguments, url=pooled_url, env={"OPTIINFRA_POOLER": "transaction"})
        assert done.returncode == exit_code, done.stderr
        return done

    for command in (
        ["status"],
        ["doctor"],
        ["feed"],
        ["seal"],
        ["verify-audit"],
        ["report", "--json"],
    ):
        run(*command)
    with connect(pooled_url) as conn:
        waiting = workflow_executions.create_workflow_execution(
            conn,
            customer_id=ATLAS,
            agent_id=COST,
            workflow_type=WorkflowType.HEALTH_CHECK,
            step_names=[],
        )
        run("workflows", "cancel", str(waiting.id), "--by", "ada", "--yes")
        entries = workflow_executions.get_workflow_timeline(conn, customer_id=ATLAS, id=waiting.id)
        assert entries[-1].actor == "ada"
    assert "--database-url" in run("migrate", exit_code=2).stderr
    assert left(pooled_url) == ("", "")


def test_prepared_statements_are_why_there_must_be_none(pooled_url):
    """With psycopg's default the answers are errors, or those to another client's query."""

    def ask(conn, customer_id):
        assert customers.get_customer(conn, id=customer_id).id == customer_id
        runs = workflow_executions.list_workflow_executions(
            conn, customer_id=customer_id, max_rows=9
        )
        assert {run.customer_id for run in runs} == {customer_id}

    def take_turns():
        with (
            psycopg.connect(pooled_url, autocommit=True) as one,
            psycopg.connect(pooled_url, autocommit=True) as other,
        ):
            for _ in range(20):
                ask(one, ATLAS)
                ask(other, INDIE)

    with pytest.raises((psycopg.Error, AssertionError)):
        take_turns()


def test_settings_of_the_session_are_why_there_must_be_none(pooled_url):
    with (
        psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as mallory,
        connect(pooled_url) as conn,
    ):
        mallory.execute("SET optiinfra.actor = 'mallory'")
        assert events.create_event(conn, customer_id=ATLAS, event_type="x").actor == "mallory"
        with acting(conn, "alice"):
            assert events.create_event(conn, customer_id=ATLAS, event_type="x").actor == "alice"
