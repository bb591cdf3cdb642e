"""The live views: `workflows watch` and `agents watch`.

They read through the generated functions, in a thread, and outlive the server's restarts.
"""

from asyncio import wrap_future
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeAlias, TypeVar
from uuid import UUID

import psycopg
from psycopg import Connection
from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.notifications import SeverityLevel
from textual.widgets import Footer, Static

from optiinfra_db import _words, shapes
from optiinfra_db.cli._advice import SILENT
from optiinfra_db.cli._shared import status_text
from optiinfra_db.cli._show import run_panel
from optiinfra_db.cli._watch_screens import (
    INTERRUPTED,
    Column,
    Confirm,
    Database,
    Help,
    LiveScreen,
    TableScreen,
    WatchApp,
)
from optiinfra_db.errors import OptiInfraError
from optiinfra_db.generated import monitoring, workflow_executions
from optiinfra_db.generated.models import AgentStatus, WorkflowExecution, WorkflowStatus
from optiinfra_db.shapes import AgentLine, Workflow, WorkflowLine

MAX_ROWS = 1000
"""How many runs are read at most."""

_REASON = "cancelled by hand"
_WIDE, _WIDER = 110, 140  # columns of the terminal
_DATE = len("2026-01-01")
_ID, _ID_WIDE = 13, 18

Result = TypeVar("Result")
Answer = TypeVar("Answer")
_RunColumn: TypeAlias = Column[WorkflowLine]
_AgentColumn: TypeAlias = Column[AgentLine]


def watch_workflows(
    url: str | None,
    *,
    customer_id: UUID | None = None,
    utc: bool = False,
    interval: float = 2.0,
    actor: str = "",
) -> None:
    """Show the runs as they go, until the user quits; `interval` seconds are between two looks.

    Raises DatabaseUnreachable, or what else keeps them from being read at first, and
    KeyboardInterrupt.
    """
    with Database(url, actor) as database:
        _show(WorkflowsScreen(database, customer_id=customer_id, interval=interval, utc=utc))


def watch_agents(url: str | None, *, utc: bool = False, interval: float = 2.0) -> None:
    """Show the agents and their load, until the user quits; otherwise as `watch_workflows`."""
    with Database(url) as database:
        _show(AgentsScreen(database, interval=interval, utc=utc))


def _show(screen: LiveScreen[Any]) -> None:
    screen.database.ask(screen.load).result()
    app = WatchApp(screen)
    app.run()
    if app.return_code == INTERRUPTED:
        raise KeyboardInterrupt
    if app.return_code:
        raise SystemExit(app.return_code)


_ACTIONS = (Binding("c", "cancel", "Cancel"), Binding("r", "retry", "Retry"))


class _ActingScreen(LiveScreen[Result]):
    """Runs can be cancelled and retried from it."""

    def selected(self) -> WorkflowLine | Workflow | None:
        """Return the run that is meant, if any."""
        raise NotImplementedError

    @work
    async def action_cancel(self) -> None:
        """Cancel the run, if that is confirmed."""
        run = self.selected()
        if run is None:
            return
        if run.completed_at:
            self._refuse(run, f"it is over already, {run.status}.")
            return
        reason = await self.app.push_screen_wait(
            Confirm(
                "Cancel this run?",
                f"{_told(run)}\n\n{_CANCELLING[run.status]}",
                yes="Cancel the run",
                no="Let it be",
                reason=_REASON,
            )
        )
        if reason is None:
            return
        moved = await self._done(lambda conn: _cancel(conn, run, reason))
        if moved is None:
            return
        cancelled, status = moved
        if cancelled:
            self._say("Cancelled", f"Run {run.id} is cancelled.")
        else:
            self._refuse(run, f"it is over already, {status}.")

    @work
    async def action_retry(self) -> None:
        """Retry the run, if that is confirmed."""
        run = self.selected()
        if run is None:
            return
        if run.status not in _RETRIED:
            self._refuse(run, f"it is {run.status}. {_NO_RETRY}")
            return
        agreed = await self.app.push_screen_wait(
            Confirm(
                "Retry this run?",
                f"{_told(run)}\n\nA new run is made, attempt {run.attempt + 1}, which waits for "
                f"{_words.one_line(run.agent)}. It takes over what was completed, and goes on from "
                "there. Where it was retried before, that run is named, and none is made.",
                yes="Retry the run",
                no="Let it be",
            )
        )
        if agreed is None:
            return
        moved = await self._done(lambda conn: _retry(conn, run))
        if moved is None:
            return
        (retry,) = moved
        if retry:
            self._say("Retried", f"Run {retry.id} is attempt {retry.attempt}, {retry.status}.")
        else:
            self._refuse(run, f"it is not there any more, or not over. {_NO_RETRY}")

    async def _done(self, function: Callable[[Connection[Any]], Answer]) -> Answer | None:
        """Do something in the database; None where that fails, which is told."""
        try:
            return await wrap_future(self.database.act(function))
        except (OptiInfraError, psycopg.Error) as error:
            self._say("Failed", _words.one_line(str(error)), "error")
            return None
        finally:
            self.read_soon()

    def _refuse(self, run: WorkflowLine | Workflow, why: str) -> None:
        self._say("Nothing was done", f"Run {run.id}: {why}", "warning")

    def _say(self, title: str, text: str, severity: SeverityLevel = "information") -> None:
        """Notify in place of what was said before."""
        self.app.clear_notifications()
        self.notify(text, title=title, severity=severity, timeout=10, markup=False)


def _cancel(conn: Connection[Any], run: WorkflowLine | Workflow, reason: str) -> tuple[bool, str]:
    """Return whether it was cancelled, and how the run is now."""
    of, run_id = run.customer_id, run.id
    cancelled = workflow_executions.cancel_workflow_execution(
        conn, customer_id=of, id=run_id, reason=reason
    )
    now = cancelled or workflow_executions.get_workflow_execution(conn, customer_id=of, id=run_id)
    return cancelled is not None, now.status if now else "deleted"


def _retry(conn: Connection[Any], run: WorkflowLine | Workflow) -> tuple[WorkflowExecution | None]:
    return (
        workflow_executions.retry_workflow_execution(conn, customer_id=run.customer_id, id=run.id),
    )


_CANCELLING = {
    WorkflowStatus.PENDING: "It has not begun: its steps are skipped.",
    WorkflowStatus.RUNNING: (
        "What is completed stays. The running step fails with the reason, those after it are "
        "skipped, and its agent is told when it reports next."
    ),
}
_RETRIED = {WorkflowStatus.FAILED, WorkflowStatus.TIMEOUT, WorkflowStatus.CANCELLED}
_NO_RETRY = "Only what failed, timed out or was cancelled is retried."


def _told(run: WorkflowLine | Workflow) -> str:
    attempt = f", attempt {run.attempt}" if run.attempt > 1 else ""
    return (
        f"{run.workflow_type} for {_words.one_line(run.customer)}, {run.status}{attempt}\n{run.id}"
    )


@dataclass(frozen=True)
class _Runs:
    """What is read of the runs."""

    lines: list[WorkflowLine]
    ids: dict[UUID, str]
    load: tuple[int, int] | None
    """Runs that are running and pending, of all customers."""


class WorkflowsScreen(TableScreen[_Runs, WorkflowLine], _ActingScreen[_Runs]):
    """The runs."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open"),
        Binding("a", "show_all", "All/open"),
        *_ACTIONS,
        Binding("question_mark", "help", "Help"),
        Binding("q", "app.quit", "Quit"),
    ]

    def __init__(
        self, database: Database, *, customer_id: UUID | None, interval: float, utc: bool
    ) -> None:
        super().__init__(database, interval=interval, utc=utc)
        self._customer_id = customer_id
        self._is_all = False
        self._data = _Runs([], {}, None)

    def load(self, conn: Connection[Any]) -> _Runs:
        """Read the runs."""
        of, most = self._customer_id, MAX_ROWS + 1
        if self._is_all:
            rows = workflow_executions.list_recent_workflows(conn, customer_id=of, max_rows=most)
        else:
            rows = workflow_executions.list_open_workflows(conn, customer_id=of, max_rows=most)
        lines = [WorkflowLine.of(row) for row in rows]
        load = None
        if self._customer_id is None:
            agents = monitoring.list_agent_workload(conn)
            load = sum(row.running for row in agents), sum(row.pending for row in agents)
        return _Runs(lines, _words.short_ids([line.id for line in lines]), load)

    def show(self, data: _Runs) -> None:
        """Show the runs."""
        self._data, self.lines = data, data.lines[:MAX_ROWS]
        self.show_lines()

    def selected(self) -> WorkflowLine | None:
        """Return the run at the cursor."""
        return self.table.current

    def words_of(self, line: WorkflowLine) -> str:
        """Return what one may filter a run by."""
        step = line.current_step or line.failed_step or ""
        words = (line.id, line.workflow_type, line.customer, line.agent, step, line.status)
        return "\n".join(str(word) for word in words)

    def empty(self) -> str:
        """Say that there are none."""
        return "No runs yet." if self._is_all else "No run is open. Press a for those that ended."

    def summary(self) -> str:
        """Say which runs are shown, and how many there are."""
        running, pending = self._data.load or (
            sum(line.status is WorkflowStatus.RUNNING for line in self.lines),
            sum(line.status is WorkflowStatus.PENDING for line in self.lines),
        )
        which = "All recent runs" if self._is_all else "Open runs"
        load = f"{running:,} running, {pending:,} pending"
        return f"{which}  {load}{self._told_rest()}{self.told_filter()}"

    def _told_rest(self) -> str:
        if len(self._data.lines) <= MAX_ROWS:
            return ""
        if self._data.load is None or self._is_all:
            return f"  newest {MAX_ROWS:,}, there are more"
        return f"  newest {MAX_ROWS:,} of {max(sum(self._data.load), MAX_ROWS + 1):,}"

    def columns(self, width: int) -> Sequence[_RunColumn]:
        """Return the columns for a width: the customer and the agent where there is room."""
        is_wide, is_wider = width >= _WIDE, width >= _WIDER
        bar = 12 if is_wider else 8 if is_wide else 4
        longest = max(map(len, self._data.ids.values()), default=_ID)
        digits = min(longest, _ID_WIDE) if is_wide else _ID
        columns = [
            _RunColumn("Run", digits, lambda line: Text(self._data.ids[line.id][:digits])),
            _RunColumn(
                "Type",
                21 if is_wider else 18 if is_wide else 12,
                lambda line: Text(line.workflow_type),
            ),
            _RunColumn("Status", 9, lambda line: status_text(line.status)),
            _RunColumn("Progress", bar + 6, lambda line: _progress(line, bar)),
            _RunColumn("Step", 0, _step),
            _RunColumn("Took", 7, self._took, is_right=True),
            _RunColumn(
                "Heartbeat" if is_wide else "Beat", *self._heartbeat(is_wide), is_right=True
            ),
            _RunColumn("Retry", 5, _retries, is_right=True),
        ]
        if is_wide:
            columns.insert(
                2, _RunColumn("Customer", 16, lambda line: Text(_words.one_line(line.customer)))
            )
        if is_wider:
            columns.insert(
                3, _RunColumn("Agent", 16, lambda line: Text(_words.one_line(line.agent)))
            )
        return columns

    def _took(self, line: WorkflowLine) -> Text:
        if line.duration_seconds is None and line.completed_at is None:
            return Text(_words.duration(self.now - line.created_at), "dim")
        return Text(_words.duration(line.duration_seconds))

    def _heartbeat(self, is_wide: bool) -> tuple[int, Callable[[WorkflowLine], Text]]:
        def cell(line: WorkflowLine) -> Text:
            if line.heartbeat_at is None or line.completed_at:
                return Text()
            is_silent = self.now - line.heartbeat_at > SILENT
            said = _time(line.heartbeat_at, self.now, utc=self.utc, is_wide=is_wide)
            return Text(said, "yellow" if is_silent else "")

        narrow = _DATE if self.utc else 7
        return (20 if self.utc else 11) if is_wide else narrow, cell

    def action_open(self) -> None:
        """Open the run at the cursor."""
        if line := self.selected():
            self.app.push_screen(RunScreen(self, line))

    def action_show_all(self) -> None:
        """Show all recent runs, or only open ones again."""
        self._is_all = not self._is_all
        self.read_soon()

    def action_help(self) -> None:
        """Explain what is shown."""
        self.app.push_screen(Help(_HELP))


_HELP = f"""\
Progress  steps that are done or were skipped, of all
Step      that runs, or waits to be tried again; in colour
          the one that failed, and why
Took      how long it took or has taken; grey while it waits
Beat      since it was last heard of; yellow after {SILENT.seconds // 60} minutes
Retry     how often steps were tried again; #2: second attempt

/         filter by id, type, customer, agent, step, status:
          all words must match
a         all recent runs, or only those pending or running
Enter     open the run
Escape    go back, or clear the filter
c         cancel the run
r         retry one that failed, timed out or was cancelled
j k ↑ ↓   move
q Ctrl-C  quit"""


def _progress(line: WorkflowLine, width: int) -> Text:
    if not line.steps_total:
        return Text()
    done = width * line.steps_done // line.steps_total or min(line.steps_done, 1)
    return Text.assemble(
        ("━" * done, _words.STYLES[line.status]),
        ("─" * (width - done), "dim"),
        f" {line.steps_done}/{line.steps_total}",
    )


def _step(line: WorkflowLine) -> Text:
    if line.failed_step is None:
        return Text(_words.one_line(line.current_step or ""))
    error = f": {_words.one_line(line.error)}" if line.error else ""
    return Text(f"{_words.one_line(line.failed_step)}{error}", _words.STYLES[line.status])


def _retries(line: WorkflowLine) -> Text:
    retries = f"{line.retries}" if line.retries else ""
    attempt = f"#{line.attempt}" if line.attempt > 1 else ""
    return Text(f"{retries} {attempt}".strip())


class RunScreen(_ActingScreen[Workflow]):
    """A run, with all there is to know of it."""

    DEFAULT_CSS = "RunScreen VerticalScroll { padding: 1 1 0 1; scrollbar-size-vertical: 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", "Back"),
        *_ACTIONS,
        Binding("q", "app.quit", "Quit"),
    ]

    def __init__(self, parent: WorkflowsScreen, line: WorkflowLine) -> None:
        """Show the run of a line."""
        super().__init__(parent.database, interval=parent.interval, utc=parent.utc)
        self._line = line
        self._run: Workflow | None = None
        self._shown = Static()
        self._scroll = VerticalScroll(self._shown)

    def compose(self) -> ComposeResult:
        """Put one below the other."""
        yield self.said
        yield self._scroll
        yield Footer()

    def load(self, conn: Connection[Any]) -> Workflow:
        """Read the run."""
        return shapes.load_workflow(conn, customer_id=self._line.customer_id, id=self._line.id)

    def show(self, data: Workflow) -> None:
        """Show the run."""
        self._run = data
        self._draw()

    def selected(self) -> Workflow | None:
        """Return the run."""
        return self._run

    def summary(self) -> str:
        """Say whose run it is."""
        line = self._run or self._line
        return f"{line.workflow_type} for {line.customer}"

    def on_resize(self) -> None:
        """Take the new width."""
        self._draw()

    def _draw(self) -> None:
        if self._run:
            width = self._scroll.size.width
            self._shown.update(run_panel(self._run, utc=self.utc, width=width, now=self.now))


class AgentsScreen(TableScreen[list[AgentLine], AgentLine]):
    """The agents and their load."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q", "app.quit", "Quit")]

    def load(self, conn: Connection[Any]) -> list[AgentLine]:
        """Read the agents."""
        return [AgentLine.of(row) for row in monitoring.list_agent_workload(conn)]

    def show(self, data: list[AgentLine]) -> None:
        """Show the agents."""
        self.lines = data
        self.show_lines()

    def words_of(self, line: AgentLine) -> str:
        """Return what one may filter an agent by."""
        words = (line.id, line.name, line.type, line.status, line.activity or "")
        return "\n".join(str(word) for word in words)

    def empty(self) -> str:
        """Say that there are none."""
        return "No agents yet."

    def summary(self) -> str:
        """Say how many agents there are, and how busy they are."""
        running = sum(line.running for line in self.lines)
        pending = sum(line.pending for line in self.lines)
        silent = sum(map(_is_silent, self.lines))
        return (
            f"{len(self.lines):,} agents{f', {silent:,} silent' if silent else ''}"
            f"  {running:,} runs running, {pending:,} pending{self.told_filter()}"
        )

    def columns(self, width: int) -> Sequence[_AgentColumn]:
        """Return the columns for a width."""
        is_wide = width >= _WIDE
        narrow = _DATE if self.utc else 7
        silent = (20 if self.utc else 11) if is_wide else narrow

        def number(title: str, value: Callable[[AgentLine], int]) -> _AgentColumn:
            digits = 9 if is_wide else max(len(title), 4)
            return _AgentColumn(title, digits, lambda line: _number(value(line)), is_right=True)

        return [
            _AgentColumn(
                "Agent", 0, lambda line: Text(_words.one_line(line.name), _of_agent(line))
            ),
            _AgentColumn("Type", 12 if is_wide else 11, lambda line: Text(line.type)),
            _AgentColumn("Status", 8, lambda line: status_text(line.status)),
            _AgentColumn(
                "Last heard" if is_wide else "Silent",
                silent,
                lambda line: Text(self._heard(line, is_wide), _of_agent(line)),
                is_right=True,
            ),
            number("Running" if is_wide else "Run", lambda line: line.running),
            number("Waiting" if is_wide else "Wait", lambda line: line.pending),
            _AgentColumn("Oldest", 7, _oldest, is_right=True),
            number("Ended 1h" if is_wide else "Ended", lambda line: line.ended_last_hour),
            _AgentColumn(
                "Failed 1h" if is_wide else "Fail",
                9 if is_wide else 4,
                lambda line: _number(line.failed_last_hour, "red"),
                is_right=True,
            ),
            _AgentColumn("Activity" if is_wide else "Doing", 32 if is_wide else 7, _activity),
        ]

    def _heard(self, line: AgentLine, is_wide: bool) -> str:
        if line.silent_seconds is None:
            return "never"
        heard_at = self.now - timedelta(seconds=line.silent_seconds)
        return _time(heard_at, self.now, utc=self.utc, is_wide=is_wide)


def _is_silent(line: AgentLine) -> bool:
    """Say whether an agent should be heard of, and is not."""
    if line.status is AgentStatus.STOPPED:
        return False
    return line.silent_seconds is not None and line.silent_seconds > SILENT.total_seconds()


def _of_agent(line: AgentLine) -> str:
    return "bold red" if _is_silent(line) else ""


def _number(value: int, style: str = "") -> Text:
    return Text(f"{value:,}", style) if value else Text("0", "dim")


def _oldest(line: AgentLine) -> Text:
    return Text(_words.duration(line.oldest_pending_seconds))


def _activity(line: AgentLine) -> Text:
    said = (line.activity, line.current_workflow_type)
    return Text(" ".join(word for word in said if word))


def _time(time: datetime, now: datetime, *, utc: bool, is_wide: bool) -> str:
    """Say when something was: how long ago, or with `utc` exactly, in short where it is narrow."""
    if not utc:
        return _words.ago(time, now).removesuffix("" if is_wide else " ago")
    said = _words.exact(time)
    date, _, of_day = said.partition(" ")
    if is_wide:
        return said
    return of_day if date == _words.exact(now)[:_DATE] else date
