"""`tenant(conn, customer_id)`: what holds in the block, and that nothing of it is left after it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from optiinfra_db import connect, connect_async, pool, pool_async, tenant, tenant_async
from optiinfra_db.errors import InvalidValue, PermissionDenied, TenantMismatch
from optiinfra_db.generated import customers, events, workflow_executions
from optiinfra_db.generated.aio import customers as customers_async
from optiinfra_db.generated.models import WorkflowType
from optiinfra_db.seed import ATLAS, COST, INDIE, NIMBUS, seed

from ..pgbouncer import needs_pgbouncer
from ..test_pgbouncer import pgbouncer, pooled_url, seeded_url  # noqa: F401  (fixtures)

WHO = "SELECT current_user::text, coalesce(current_setting('optiinfra.customer_id', true), '')"


@pytest.fixture
def url(database_url):
    with connect(database_url) as conn:
        seed(conn)
    return database_url


def seen(conn):
    return {customer.id for customer in customers.list_customers(conn, max_rows=9)}


def test_in_the_block_there_is_one_customer_and_after_it_all(url):
    with connect(url) as conn:
        with tenant(conn, ATLAS):
            assert seen(conn) == {ATLAS}
            assert (
                workflow_executions.list_workflow_executions(conn, customer_id=INDIE, max_rows=9)
                == []
            )
        assert len(seen(conn)) == 3
        assert conn.execute(WHO).fetchone() == ("postgres", "")
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


async def test_the_asynchronous_block_is_the_same(url):
    async with await connect_async(url) as conn:
        async with tenant_async(conn, ATLAS):
            found = await customers_async.list_customers(conn, max_rows=9)
            async with tenant_async(conn, ATLAS):
                pass
            with pytest.raises(InvalidValue, match=f"for customer {ATLAS} and not for {INDIE}"):
                async with tenant_async(conn, INDIE):
                    pass
        assert [customer.id for customer in found] == [ATLAS]
        assert len(await customers_async.list_customers(conn, max_rows=9)) == 3


def test_what_is_written_in_the_block_is_committed_at_its_end(url):
    with connect(url) as conn, connect(url) as other:
        with tenant(conn, ATLAS):
            run = workflow_executions.create_workflow_execution(
                conn,
                customer_id=ATLAS,
                agent_id=COST,
                workflow_type=WorkflowType.HEALTH_CHECK,
                step_names=[],
            )
            key = {"customer_id": ATLAS, "id": run.id}
            assert workflow_executions.get_workflow_execution(other, **key) is None
        assert workflow_executions.get_workflow_execution(other, **key) == run


def test_another_customers_row_is_refused_and_the_block_undone(url):
    def write_both(conn):
        with tenant(conn, ATLAS):
            events.create_event(conn, customer_id=ATLAS, event_type="mine")
            events.create_event(conn, customer_id=INDIE, event_type="not.mine")

    with connect(url) as conn:
        with pytest.raises(TenantMismatch):
            write_both(conn)
        assert conn.execute(WHO).fetchone() == ("postgres", "")
        written = conn.execute("SELECT count(*) FROM events WHERE event_type ~ 'mine'").fetchone()
        assert written == (0,)


def test_a_tenant_deletes_nothing(url):
    with connect(url) as conn, tenant(conn, ATLAS):
        with pytest.raises(PermissionDenied, match="access_rules"), conn.transaction():
            customers.delete_customer(conn, id=ATLAS)
        assert seen(conn) == {ATLAS}


def test_within_a_transaction_the_block_ends_before_it(url):
    with connect(url, customer_id=NIMBUS) as conn:
        with conn.transaction():
            with tenant(conn, ATLAS):
                assert seen(conn) == {ATLAS}
            assert len(seen(conn)) == 3
            assert conn.execute(WHO).fetchone() == ("postgres", str(NIMBUS))
            with pytest.raises(psycopg.errors.DivisionByZero), tenant(conn, ATLAS):
                conn.execute("SELECT 1 / 0")
            assert conn.execute(WHO).fetchone() == ("postgres", str(NIMBUS))
            with tenant(conn, INDIE):
                assert seen(conn) == {INDIE}
        assert conn.execute(WHO).fetchone() == ("postgres", str(NIMBUS))


def test_a_block_within_one_of_another_customer_is_refused(url):
    with connect(url) as conn, tenant(conn, ATLAS):
        refused = pytest.raises(InvalidValue, match=f"for customer {ATLAS} and not for {INDIE}")
        with refused, tenant(conn, INDIE):
            pytest.fail("it began")
        with tenant(conn, ATLAS):
            assert seen(conn) == {ATLAS}
        assert seen(conn) == {ATLAS}


def test_a_connection_of_the_users_making_will_do(url):
    with psycopg.connect(
        url, row_factory=dict_row, cursor_factory=psycopg.RawCursor, prepare_threshold=0
    ) as conn:
        for customer in (ATLAS, INDIE, ATLAS, INDIE):
            with tenant(conn, customer):
                assert seen(conn) == {customer}
        assert len(seen(conn)) == 3


def test_who_is_a_member_of_no_group_may_not(url):
    role = f"test_{uuid4().hex}"
    with connect(url) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN")
        with connect(url.replace("//postgres@", f"//{role}@")) as conn:
            with pytest.raises(PermissionDenied, match="set role"), tenant(conn, ATLAS):
                pytest.fail("it began")
            assert conn.execute(WHO).fetchone() == (role, "")
        admin.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("group", ["owner", "service", "tenant"])
def test_who_is_a_member_may(url, group):
    role = f"test_{uuid4().hex}"
    with connect(url) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN IN ROLE optiinfra_{group}")
        with connect(url.replace("//postgres@", f"//{role}@")) as conn, tenant(conn, ATLAS):
            assert seen(conn) == {ATLAS}
        admin.execute(f"DROP ROLE {role}")


def test_the_next_user_of_a_pooled_connection_finds_nothing_of_it(url):
    with pool(url, max_size=1) as connections:
        for _ in range(3):
            with connections.connection() as conn, tenant(conn, ATLAS):
                assert seen(conn) == {ATLAS}
            with connections.connection() as conn:
                assert conn.execute(WHO).fetchone() == ("postgres", "")
        interrupted = pytest.raises(KeyboardInterrupt)
        with interrupted, connections.connection() as conn, tenant(conn, ATLAS):
            raise KeyboardInterrupt
        with connections.connection() as conn:
            assert conn.execute(WHO).fetchone() == ("postgres", "")


async def test_a_cancelled_task_leaves_nothing_in_the_pool(url):
    async with pool_async(url, max_size=1) as connections:
        entered = asyncio.Event()

        async def work():
            async with connections.connection() as conn, tenant_async(conn, ATLAS):
                entered.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await entered.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with connections.connection() as conn:
            cursor = await conn.execute(WHO)
            assert await cursor.fetchone() == ("postgres", "")


@needs_pgbouncer
def test_behind_pgbouncer_clients_see_their_own_customer_only(pooled_url):  # noqa: F811
    def ask(customer):
        with connect(pooled_url) as conn:
            for _ in range(150):
                with tenant(conn, customer):
                    assert seen(conn) == {customer}
        return True

    def watch(_):
        with connect(pooled_url) as conn:
            for _ in range(150):
                assert len(seen(conn)) == 3
                assert conn.execute(WHO).fetchone() == ("postgres", "")
        return True

    with ThreadPoolExecutor(6) as executor:
        asked = executor.map(ask, [ATLAS, INDIE, NIMBUS, ATLAS])
        watched = executor.map(watch, range(2))
        assert [*asked, *watched] == [True] * 6
