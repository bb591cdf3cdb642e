"""The live views, driven by keys on a real database."""

import asyncio
import os
import signal
import sys
import textwrap
from collections import defaultdict
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from types import SimpleNamespace

import pexpect
import pyte
import pytest
from rich.cells import cell_len
from textual.widgets._toast import Toast

from optiinfra_db import connect, embedded
from optiinfra_db.cli import _watch_screens
from optiinfra_db.cli._watch import (
    MAX_ROWS,
    AgentsScreen,
    RunScreen,
    WorkflowsScreen,
    watch_agents,
    watch_workflows,
)
from optiinfra_db.cli._watch_screens import Confirm, Database, WatchApp
from optiinfra_db.errors import DatabaseUnreachable, NotMigrated
from optiinfra_db.generated import agents, workflow_executions
from optiinfra_db.generated.models import AgentStatus, WorkflowStatus
from optiinfra_db.migrate import migrate
from optiinfra_db.pytest_plugin import MakeAgent, MakeCustomer, MakeWorkflow

from ..conftest import running_server
from .command import MISSING_URL

HOSTILE = "[red]x[/] \x1b[2J\nnext [@click=app.bell]y[/]"
HOSTILE_SHOWN = r"[red]x[/] \x1b[2J\nnext [@click=app.bell]y[/]"


@pytest.fixture
def made(database_url):
    with connect(database_url, actor="tester") as conn:
        yield made_on(conn, database_url)


def made_on(conn, url):
    numbers = defaultdict(partial(count, 1))
    return SimpleNamespace(
        conn=conn,
        url=url,
        customer=MakeCustomer(conn, numbers),
        agent=MakeAgent(conn, numbers),
        workflow=MakeWorkflow(conn, numbers),
    )


@asynccontextmanager
async def watching(url, *, size=(80, 24), screen=WorkflowsScreen, utc=False, **options):
    """Run the app without a terminal; give what drives it, and tells what is on the screen."""
    if screen is WorkflowsScreen:
        options.setdefault("customer_id", None)
    with Database(url, "watcher") as database:
        first = screen(database, interval=0.05, utc=utc, **options)
        app = WatchApp(first)
        async with app.run_test(size=size, notifications=True) as pilot:
            view = View(app, pilot, first)
            await view.until(lambda: "running" in view.text)
            yield view


class View:
    def __init__(self, app, pilot, first):
        self.app, self.pilot, self.first = app, pilot, first

    @property
    def lines(self):
        return [strip.text for strip in self.app.screen._compositor.render_strips()]

    @property
    def text(self):
        return "\n".join(line.rstrip() for line in self.lines)

    @property
    def words(self):
        """What is on the screen, wherever lines are broken."""
        return " ".join(self.text.replace("│", " ").split())

    @property
    def current(self):
        return self.first.table.current

    async def press(self, *keys):
        await self.pilot.press(*keys)

    async def until(self, condition):
        try:
            async with asyncio.timeout(8):
                while not condition():
                    await self.pilot.pause(0.01)
        except TimeoutError:
            pytest.fail(f"It does not come about. The screen is:\n{self.text}")

    async def shows(self, *texts):
        await self.until(lambda: all(text in self.words for text in texts))

    async def tells(self, *texts):
        """Wait for notifications."""

        def told():
            return "\n".join(f"{one.title}: {one.message}" for one in self.app._notifications)

        await self.until(lambda: all(text in told() for text in texts))
        await self.until(lambda: len(self.app.screen.query(Toast)) == len(self.app._notifications))

    async def hides(self, text):
        await self.until(lambda: text not in self.words)

    async def put_cursor_on(self, run):
        await self.until(lambda: any(line.id == run.id for line in self.first.lines))
        await self.press("home")
        while self.current.id != run.id:
            await self.press("down")


def status_of(made, run):
    return workflow_executions.get_workflow_execution(
        made.conn, customer_id=run.customer_id, id=run.id
    ).status


# Rows


async def test_rows_fit_80_columns(made):
    run = made.workflow(
        status="running",
        steps=["collect", {"step_name": "analyze", "status": "running", "retry_count": 2}, "end"],
        attempt=3,
        started_at=datetime.now(UTC) - timedelta(minutes=12),
    )
    workflow_executions.heartbeat_workflow_execution(
        made.conn, customer_id=run.customer_id, id=run.id, attempt=3
    )
    async with watching(made.url) as view:
        await view.shows(str(run.id)[:13])
        _, header, row = view.lines[:3]
        assert header.split() == [
            "Run",
            "Type",
            "Status",
            "Progress",
            "Step",
            "Took",
            "Beat",
            "Retry",
        ]
        assert row.split() == [
            *(str(run.id)[:13], "cost_analys…", "running", "━───", "1/3", "analyze", "12m"),
            *(row.split()[7:-2]),
            *("2", "#3"),
        ]
        assert [cell_len(line) for line in view.lines] == [80] * 24
        for key in ("Filter", "Open", "All/open", "Cancel", "Retry", "Help", "Quit"):
            assert key in view.lines[-1]


async def test_a_wider_terminal_shows_customer_and_agent(made):
    made.workflow(
        status="running",
        customer_id=made.customer(name="Atlas Bank").id,
        agent_id=made.agent(name="frugal").id,
    )
    async with watching(made.url) as view:
        assert "Atlas Bank" not in view.text
        await view.pilot.resize_terminal(160, 48)
        await view.shows("Customer", "Agent", "Heartbeat", "Atlas Bank", "frugal", "cost_analysis")
        assert [cell_len(line) for line in view.lines] == [160] * 48
        await view.pilot.resize_terminal(30, 10)
        await view.hides("Atlas Bank")
        assert [cell_len(line) for line in view.lines] == [30] * 10


@pytest.mark.parametrize("size", [(80, 24), (160, 24)])
async def test_times_are_exact_on_demand(made, size):
    run = made.workflow(status="running")
    beat = workflow_executions.heartbeat_workflow_execution(
        made.conn, customer_id=run.customer_id, id=run.id, attempt=1
    )
    async with watching(made.url, size=size, utc=True) as view:
        await view.shows(f"{beat.heartbeat_at:%H:%M:%SZ}")


async def test_only_the_runs_of_a_customer_are_shown(made):
    ours, _ = (made.workflow(status="running") for _ in range(2))
    async with watching(made.url, customer_id=ours.customer_id) as view:
        await view.shows("1 running, 0 pending")
        assert [line.id for line in view.first.lines] == [ours.id]


async def test_the_cursor_stays_on_its_run_while_others_come_and_go(made):
    runs = [made.workflow(status="running") for _ in range(40)]
    async with watching(made.url) as view:
        await view.put_cursor_on(runs[5])
        seen_at = view.lines.index(
            next(line for line in view.lines if str(runs[5].id)[:13] in line)
        )
        newest = made.workflow(status="pending")
        await view.until(lambda: view.first.lines[0].id == newest.id)
        assert view.current.id == runs[5].id
        assert str(runs[5].id)[:13] in view.lines[seen_at]
        workflow_executions.cancel_workflow_execution(
            made.conn, customer_id=runs[5].customer_id, id=runs[5].id, reason="test"
        )
        await view.until(lambda: view.current.id == runs[4].id)


async def test_names_are_shown_as_they_are(made):
    run = made.workflow(
        status="running",
        customer_id=made.customer(name=HOSTILE).id,
        agent_id=made.agent(name=f"a {HOSTILE}").id,
        steps=[(HOSTILE, "running")],
        input_data={"a": HOSTILE},
    )
    async with watching(made.url, size=(260, 40)) as view:
        await view.shows(HOSTILE_SHOWN)
        await view.press("enter")
        shown = r"[red]x[/] \x1b[2J next [@click=app.bell]y[/]"
        await view.shows(f"customer {shown}", f"agent a {shown}", r"1 [red]x[/] \x1b[2J")
        assert "\x1b" not in view.text
        await view.press("c")
        await view.shows(f"for {HOSTILE_SHOWN}")
        await view.press("enter")
        await view.tells("is cancelled")
    assert status_of(made, run) is WorkflowStatus.CANCELLED


async def test_three_thousand_runs(made):
    agent_id = str(made.agent().id)
    step = {"step_name": "collect", "step_order": 1, "status": "pending"}
    run = {
        "agent_id": agent_id,
        "workflow_type": "cost_analysis",
        "status": "pending",
        "steps": [step],
    }
    customer_id = made.customer().id
    for _ in range(6):
        workflow_executions.record_workflow_executions(
            made.conn, customer_id=customer_id, runs=[run] * 500
        )
    async with watching(made.url) as view:
        await view.shows("0 running, 3,000 pending newest 1,000 of 3,000")
        await view.press("end")
        oldest = view.current
        assert view.first.lines.index(oldest) == MAX_ROWS - 1
        assert str(oldest.id)[:13] in view.lines[-2]
        await view.press("home")
        assert str(view.current.id)[:13] in view.lines[2]
        await view.press("pagedown", "pagedown", "a")
        await view.shows("All recent runs", "newest 1,000, there are more")
    async with watching(made.url, customer_id=customer_id) as view:
        await view.shows("newest 1,000, there are more")


# Filter and kind


async def test_filter(made):
    atlas = made.customer(name="Atlas Bank")
    wanted = made.workflow(
        status="running", customer_id=atlas.id, workflow_type="quality_check", steps=["judge"]
    )
    waiting = made.workflow(status="pending", customer_id=atlas.id)
    other = made.workflow(status="running")
    async with watching(made.url) as view:
        await view.shows(*(str(run.id)[:13] for run in (wanted, waiting, other)))
        for words in ("JUDGE", "atlas running", "quality", str(wanted.id), "q"):
            await view.press("slash")
            view.first.box.value = ""
            await view.press(*("space" if key == " " else key for key in words))
            await view.shows("1 of 3 match")
            assert view.current.id == wanted.id
        await view.press("enter", "a")
        await view.shows("All recent runs", "1 of 3 match")
        await view.press("escape")
        await view.shows(*(str(run.id)[:13] for run in (wanted, waiting, other)))
        assert "match" not in view.text
        await view.press("slash", "x", "y", "z")
        await view.shows("Nothing matches.")
        await view.press("escape")
        await view.hides("Nothing matches.")


async def test_open_runs_or_all(made):
    failed = made.workflow(status="failed", steps=["collect", "analyze"])
    async with watching(made.url) as view:
        await view.shows("No run is open. Press a")
        await view.press("a")
        await view.shows("All recent runs", str(failed.id)[:13], "failed", "analyze: …")
        await view.press("a")
        await view.shows("Open runs", "No run is open.")


async def test_help(made):
    async with watching(made.url) as view:
        await view.press("question_mark")
        await view.shows("retry one that failed, timed out or was cancelled", "q Ctrl-C quit")
        await view.press("escape")
        await view.hides("q Ctrl-C quit")


# A run


async def test_a_run_is_opened_and_followed(made):
    run = made.workflow(status="running", steps=["collect", "analyze"])
    detail = workflow_executions.get_workflow_detail(
        made.conn, customer_id=run.customer_id, id=run.id
    )
    async with watching(made.url) as view:
        await view.put_cursor_on(run)
        await view.press("enter")
        await view.shows(str(run.id), "0/2 steps", "1 collect running", "2 analyze pending")
        assert detail.steps[0].status == "running"
        workflow_executions.cancel_workflow_execution(
            made.conn, customer_id=run.customer_id, id=run.id, reason="too dear"
        )
        await view.shows("cost_analysis cancelled", "1 collect failed", "2 analyze skipped")
        await view.press("escape")
        await view.shows("No run is open.")


async def test_the_input_that_failed_is_shown(made):
    step = {
        "step_name": "analyze",
        "status": "failed",
        "input_data": {"region": "eu-north-1"},
        "error_details": {"type": "NoData", "message": "nothing there"},
    }
    run = made.workflow(status="failed", steps=["collect", step])
    async with watching(made.url, size=(80, 40)) as view:
        await view.press("a")
        await view.put_cursor_on(run)
        await view.press("enter")
        await view.shows("NoData: nothing there", '"region": "eu-north-1"')
        await view.pilot.resize_terminal(120, 40)
        await view.shows("NoData: nothing there")


async def test_a_run_that_is_deleted_while_it_is_shown_is_told_so(made):
    run = made.workflow(status="completed")
    async with watching(made.url) as view:
        await view.press("a")
        await view.put_cursor_on(run)
        await view.press("enter")
        await view.shows("3/3 steps")
        workflow_executions.delete_workflow_execution(
            made.conn, customer_id=run.customer_id, id=run.id
        )
        await view.shows(f"There is no run {run.id}")
        await view.press("escape")
        await view.shows("No runs yet.")


# Actions


@pytest.mark.parametrize("is_opened", [False, True])
async def test_cancel(made, is_opened):
    run = made.workflow(status="running")
    async with watching(made.url) as view:
        await view.put_cursor_on(run)
        if is_opened:
            await view.press("enter")
            await view.shows("0/3 steps")
        await view.press("c")
        await view.shows("Cancel this run?", str(run.id), "The running step fails", "by hand")
        await view.press(*"dear", "enter")
        await view.tells(f"Run {run.id} is cancelled.")
    cancelled = workflow_executions.get_workflow_execution(
        made.conn, customer_id=run.customer_id, id=run.id
    )
    assert cancelled.status is WorkflowStatus.CANCELLED
    assert cancelled.metadata["cancel_reason"] == "dear"
    actors = made.conn.execute(
        "SELECT actor FROM events WHERE event_type = 'workflow_execution.cancelled'"
    ).fetchall()
    assert actors == [("watcher",)]


@pytest.mark.parametrize("keys", [["escape"], ["tab", "tab", "enter"]])
async def test_what_is_not_confirmed_is_not_cancelled(made, keys):
    run = made.workflow(status="pending")
    async with watching(made.url) as view:
        await view.put_cursor_on(run)
        await view.press("c")
        await view.shows("It has not begun: its steps are skipped.")
        await view.press(*keys)
        await view.hides("Cancel this run?")
        await view.shows("0 running, 1 pending")
    assert status_of(made, run) is WorkflowStatus.PENDING


async def test_cancelling_without_a_reason_takes_the_one_proposed(made):
    run = made.workflow(status="pending")
    async with watching(made.url) as view:
        await view.put_cursor_on(run)
        await view.press("c")
        await view.shows("Cancel this run?")
        await view.press("backspace", "tab", "enter")
        await view.tells("is cancelled")
    cancelled = workflow_executions.get_workflow_execution(
        made.conn, customer_id=run.customer_id, id=run.id
    )
    assert cancelled.metadata["cancel_reason"] == "cancelled by hand"


async def test_a_run_that_ends_before_the_confirmation_is_not_cancelled(made):
    run = made.workflow(status="pending")
    async with watching(made.url) as view:
        await view.put_cursor_on(run)
        await view.press("c")
        await view.shows("Cancel this run?")
        workflow_executions.cancel_workflow_execution(
            made.conn, customer_id=run.customer_id, id=run.id, reason="first"
        )
        await view.press("enter")
        await view.tells("Nothing was done: Run", "it is over already, cancelled.")


async def test_what_is_over_is_not_cancelled_and_what_is_not_is_not_retried(made):
    done, running = made.workflow(status="completed"), made.workflow(status="running")
    async with watching(made.url) as view:
        await view.press("a")
        await view.put_cursor_on(done)
        await view.press("c")
        await view.tells(f"Run {done.id}: it is over already, completed.")
        await view.press("r")
        await view.tells(f"Run {done.id}: it is completed. Only what failed")
        await view.put_cursor_on(running)
        await view.press("r")
        await view.tells(f"Run {running.id}: it is running. Only what failed")
        assert not isinstance(view.app.screen, Confirm)


async def test_nothing_is_done_without_a_run(made):
    async with watching(made.url) as view:
        await view.press("c", "r", "enter", "down", "end")
        await view.shows("No run is open.")
        assert view.app.screen is view.first


@pytest.mark.parametrize("status", ["failed", "timeout", "cancelled"])
async def test_retry(made, status):
    run = made.workflow(status=status)
    async with watching(made.url) as view:
        await view.press("a")
        await view.put_cursor_on(run)
        await view.press("r")
        await view.shows("Retry this run?", "attempt 2")
        await view.press("escape")
        await view.hides("Retry this run?")
        assert [line.id for line in view.first.lines] == [run.id]

        await view.press("r")
        await view.shows("Retry this run?")
        await view.press("enter")
        await view.until(lambda: len(view.first.lines) == 2)
        retry = view.first.lines[0]
        await view.tells(f"Run {retry.id} is attempt 2, pending.")
        assert view.current.id == run.id

        await view.press("enter")
        await view.until(lambda: isinstance(view.app.screen, RunScreen))
        view.app.clear_notifications()
        await view.press("r")
        await view.shows("Retry this run?")
        await view.press("enter")
        await view.tells(f"Run {retry.id} is attempt 2, pending.")
    retries = workflow_executions.list_workflow_executions(
        made.conn, customer_id=run.customer_id, max_rows=10
    )
    assert [row.retried_from_id for row in retries] == [run.id, None]


async def test_a_run_that_is_gone_is_not_retried(made):
    run = made.workflow(status="failed")
    async with watching(made.url) as view:
        await view.press("a")
        await view.put_cursor_on(run)
        await view.press("r")
        await view.shows("Retry this run?")
        workflow_executions.delete_workflow_execution(
            made.conn, customer_id=run.customer_id, id=run.id
        )
        await view.press("enter")
        await view.tells("Nothing was done: Run", "it is not there any more")


# The server


async def test_a_connection_that_is_terminated_is_opened_again(made):
    made.workflow(status="running")
    terminate = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid != pg_backend_pid()"
    )
    async with watching(made.url) as view:
        for running in range(2, 5):
            assert made.conn.execute(terminate).rowcount == 1
            made.workflow(status="running")
            await view.shows(f"{running} running, 0 pending")
        await view.hides("Connection lost")


@pytest.fixture
def own_server(request):
    """Start a server that may be stopped and started."""
    with running_server(str(request.config.getoption("--pg"))) as server:
        server.ensure_database()
        migrate(server.url())
        yield server


async def test_a_server_that_is_away_is_waited_for(own_server):
    with connect(own_server.url()) as conn:
        run = made_on(conn, own_server.url()).workflow(status="running")
    async with watching(own_server.url()) as view:
        await view.put_cursor_on(run)
        await asyncio.to_thread(own_server.stop)
        await view.shows("Connection lost", "trying again", str(run.id)[:13])
        await view.shows("s ago, trying again")

        await view.press("c")
        await view.shows("Cancel this run?")
        await view.press("enter")
        await view.tells("Failed", "Cannot connect to PostgreSQL")

        await view.press("enter")
        await view.until(lambda: isinstance(view.app.screen, RunScreen))
        await view.shows("Connection lost")

        start = partial(embedded.start, own_server.data_dir, bin_dir=own_server.bin_dir)
        await asyncio.to_thread(start)
        await view.shows("0/3 steps")
        await view.hides("Connection lost")
        await view.press("escape")
        await view.shows("1 running, 0 pending")
        assert view.current.status is WorkflowStatus.RUNNING


async def test_nobody_waits_for_a_server_that_does_not_answer(made, monkeypatch):
    monkeypatch.setattr(_watch_screens, "_PATIENCE", timedelta(0))
    run = made.workflow(status="running")
    with made.conn.transaction():
        async with watching(made.url) as view:
            made.conn.execute("LOCK TABLE workflow_executions IN ACCESS EXCLUSIVE MODE")
            await view.shows("The database does not answer", str(run.id)[:13])
            await view.press("end", "slash", "x")
            await view.shows("Nothing matches.")
            thread = view.first.database._thread
    thread.join(timeout=30)
    assert not thread.is_alive()


async def test_a_database_that_refuses_is_told_and_asked_again(made):
    made.workflow(status="running")
    async with watching(made.url) as view:
        made.conn.execute("ALTER TABLE workflow_executions RENAME TO hidden")
        await view.shows("workflow_executions")
        made.conn.execute("ALTER TABLE hidden RENAME TO workflow_executions")
        await view.shows("1 running, 0 pending")


@pytest.mark.parametrize("watch", [watch_workflows, watch_agents])
def test_a_first_look_that_fails_is_an_error(watch, empty_database_url):
    with pytest.raises(DatabaseUnreachable):
        watch(MISSING_URL)
    with pytest.raises(NotMigrated):
        watch(empty_database_url)


# Agents


async def test_agents(made):
    made.agent(name="busy", status=AgentStatus.HEALTHY)
    silent = made.agent(name="silent", status=AgentStatus.DEGRADED)
    stopped = made.agent(name="stopped", status=AgentStatus.STOPPED)
    never = made.agent(name="never", type="performance")
    busy = next(one for one in agents.list_agents(made.conn, max_rows=9) if one.name == "busy")
    made.conn.execute(
        "UPDATE agents SET last_heartbeat = now() - interval '6 minutes' WHERE id = ANY(%s)",
        [[silent.id, stopped.id]],
    )
    made.workflow(status="running", agent_id=busy.id)
    made.workflow(status="failed", agent_id=busy.id)
    made.workflow(
        agent_id=busy.id, created_at=datetime.now(UTC) - timedelta(minutes=3), status="pending"
    )
    async with watching(made.url, screen=AgentsScreen) as view:
        await view.shows("4 agents, 1 silent 1 runs running, 1 pending")
        rows = {line.split()[0]: line for line in view.lines[2:6]}
        header = "Agent Type Status Silent Run Wait Oldest Ended Fail Doing"
        assert view.lines[1].split() == header.split()
        assert rows["busy"].split()[1:3] == ["cost", "healthy"]
        assert rows["busy"].split()[-6:-3] == ["1", "1", "3m"]
        assert rows["busy"].split()[-2:] == ["1", "1"]
        assert "6m 0s" in rows["silent"]
        assert "6m 0s" in rows["stopped"]
        assert "never" in rows[never.name]
        loud = [
            segment.text.strip()
            for strip in view.app.screen._compositor.render_strips()[2:6]
            for segment in strip
            if segment.style and segment.style.bold
        ]
        assert loud == ["silent", "6m 0s"]
        await view.press("slash", *"degraded")
        await view.shows('1 of 4 match "degraded"')
        assert view.current.id == silent.id
        await view.pilot.resize_terminal(140, 30)
        await view.shows("Last heard", "Failed 1h")


# In a terminal


@pytest.fixture
def terminal(made, tmp_path):
    """Start `watch_workflows` in a terminal, between two looks at its settings."""
    made.workflow(status="running")
    script = tmp_path / "watch.py"
    script.write_text(
        textwrap.dedent(
            f"""
            from optiinfra_db.cli._watch import watch_workflows
            try:
                watch_workflows({made.url!r})
            except KeyboardInterrupt:
                raise SystemExit(130)
            """
        )
    )
    command = f"stty -a; echo before; {sys.executable} {script}; echo exit=$?; stty -a"
    with pexpect.spawn("sh", ["-c", command], dimensions=(24, 80), timeout=30) as child:
        child.expect("before")
        settings = child.before
        child.expect("Quit")
        yield child, settings


def left_behind(child, settings):
    """Return the exit code, after a look at what is left of the app."""
    child.expect(r"exit=(\d+)\r\n")
    drawn, code = child.before, int(child.match[1])
    assert child.read() == settings
    assert drawn.rfind(b"\x1b[?1049l") > drawn.rfind(b"\x1b[?1049h")
    assert drawn.rfind(b"\x1b[?25h") > drawn.rfind(b"\x1b[?25l")
    assert drawn.rfind(b"\x1b[?1003l") > drawn.rfind(b"\x1b[?1003h")
    assert b"Traceback" not in drawn
    return code


def test_in_a_terminal(made, terminal):
    child, settings = terminal
    screen = pyte.Screen(80, 24)
    stream = pyte.ByteStream(screen)
    stream.feed(child.before + child.after)
    while "Open runs  1 running, 0 pending" not in screen.display[0]:
        stream.feed(child.read_nonblocking(1000))
    assert "cost_analys… running" in screen.display[2]
    child.send("q")
    assert left_behind(child, settings) == 0


def test_ctrl_c_quits_wherever_it_is_pressed(terminal):
    child, settings = terminal
    child.send("/")
    child.expect("all of these words")
    child.sendcontrol("c")
    assert left_behind(child, settings) == 130


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_the_terminal_as_it_was(terminal, number, code):
    child, settings = terminal
    (pid,) = (int(line) for line in pexpect.run(f"pgrep -P {child.pid}").decode().split() if line)
    os.kill(pid, number)
    assert left_behind(child, settings) == code
