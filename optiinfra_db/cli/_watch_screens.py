"""What the live views are made of: a connection in a thread, a table, a screen that stays current.

The table draws only the rows that are on the screen, so a refresh costs the same for ten rows as
for a thousand. Whatever comes from the database is shown as text: `_words.one_line` makes control
characters visible, and nothing is read as markup.
"""

import asyncio
import math
import signal
from asyncio import Event, wrap_future
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from threading import Thread
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar
from uuid import UUID

import psycopg
from psycopg import Connection
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.events import Click, ScreenResume
from textual.geometry import Size
from textual.reactive import reactive
from textual.screen import ModalScreen, Screen
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Button, Footer, Input, Static

from optiinfra_db import _words
from optiinfra_db.connection import Session, acting, connect, pauses
from optiinfra_db.errors import ConnectionLost, DatabaseUnreachable, OptiInfraError, typed_errors

Result = TypeVar("Result")

_PATIENCE = timedelta(seconds=5)  # until an answer is missed
INTERRUPTED = 128 + signal.SIGINT


class Database:
    """A connection in a thread of its own: however long it waits, keys are answered.

    The thread is a daemon, so that nobody who quits has to wait for a server that is silent.
    """

    def __init__(self, url: str | None, actor: str = "") -> None:
        """Connect. Raises DatabaseUnreachable, and what else `connect` raises."""
        self._conn = connect(url)
        self._actor = actor
        self._session = Session.of(self._conn)
        self._asked: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._serve, name="optiinfra-db watch", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._asked.put(None)
        self._thread.join(timeout=1)

    def now(self) -> datetime:
        """Return the time by the clock of the server."""
        return datetime.now(UTC) + self._session.clock_ahead

    def ask(self, function: Callable[[Connection[Any]], Result]) -> Future[Result]:
        """Call a function with the connection, connecting again if that was lost."""
        future: Future[Result] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                with typed_errors():
                    future.set_result(function(self._connected()))
            except BaseException as error:
                future.set_exception(error)

        self._asked.put(call)
        return future

    def act(self, function: Callable[[Connection[Any]], Result]) -> Future[Result]:
        """Do as `ask`, in a transaction of the actor's."""

        def acts(conn: Connection[Any]) -> Result:
            with acting(conn, self._actor):
                return function(conn)

        return self.ask(acts)

    def _serve(self) -> None:
        while call := self._asked.get():
            call()
        self._conn.close()

    def _connected(self) -> Connection[Any]:
        if self._conn.closed:
            self._conn = self._session.connect()
        return self._conn


class WatchApp(App[None]):
    """One screen that stays current, and what is opened from it."""

    TITLE = "optiinfra-db"
    ENABLE_COMMAND_PALETTE = False
    CSS = "Toast { width: 64; max-width: 90%; padding: 0 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "interrupt", show=False, priority=True)
    ]

    def __init__(self, screen: Screen[None]) -> None:
        super().__init__()
        self._first = screen

    def on_mount(self) -> None:
        """Show the screen."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._quit, 128 + number)
        self.push_screen(self._first)

    def action_interrupt(self) -> None:
        """Quit at once."""
        self._quit(INTERRUPTED)

    def _quit(self, return_code: int) -> None:
        self.exit(return_code=return_code)


class Line(Protocol):
    """What the table needs to know of what a row shows."""

    @property
    def id(self) -> UUID:
        """What tells it from the others, across refreshes."""
        ...


LineT = TypeVar("LineT", bound=Line)


@dataclass(frozen=True)
class Column(Generic[LineT]):
    """A column of the table."""

    title: str
    width: int
    """Of one column, 0: it takes what the others leave."""
    cell: Callable[[LineT], Text]
    is_right: bool = False

    def fit(self, text: Text, width: int) -> Text:
        """Cut or pad a cell."""
        text.truncate(width, overflow="ellipsis")
        text.align("right" if self.is_right else "left", width)
        return text


class LiveTable(ScrollView, Generic[LineT], can_focus=True):
    """Rows under a header, with a cursor that stays on what it is on while rows come and go."""

    DEFAULT_CSS = """
    LiveTable {
        height: 1fr;
        overflow-x: hidden;
        scrollbar-gutter: stable;
        scrollbar-size-vertical: 1;
        & > .table--header { text-style: bold; background: $panel; }
        & > .table--cursor { background: $primary-muted; }
    }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--header", "table--cursor"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "move_to(0)", "First", show=False),
        Binding("end", "move_to(-1)", "Last", show=False),
    ]

    cursor = reactive(0)
    """The row that it is on, from 0."""

    def __init__(self, columns: Callable[[int], Sequence[Column[LineT]]]) -> None:
        """Take the columns for a width."""
        super().__init__()
        self._columns_for = columns
        self._columns: Sequence[Column[LineT]] = ()
        self._lines: Sequence[LineT] = []
        self._empty = ""

    @property
    def current(self) -> LineT | None:
        """What the cursor is on."""
        return self._lines[self.cursor] if self._lines else None

    def show(self, lines: Sequence[LineT], *, empty: str) -> None:
        """Show other rows, or others' values; `empty` where there are none."""
        kept = self.current
        place = next((n for n, line in enumerate(lines) if kept and line.id == kept.id), None)
        moved = 0 if place is None else place - self.cursor
        self._lines, self._empty = lines, empty
        self._measure()
        if moved and self.scroll_target_y:
            self.scroll_to(y=self.scroll_target_y + moved, animate=False, force=True)
        self.cursor += moved
        self._keep_in_view()
        self.refresh()

    def watch_cursor(self) -> None:
        """Follow the cursor."""
        self._keep_in_view()
        self.refresh()

    def validate_cursor(self, cursor: int) -> int:
        """Keep it on a row."""
        return max(min(cursor, len(self._lines) - 1), 0)

    def action_move(self, rows: int) -> None:
        """Move the cursor by so many rows."""
        self.cursor += rows

    def action_page(self, pages: int) -> None:
        """Move the cursor by so many screens."""
        self.cursor += pages * max(self.size.height - 2, 1)

    def action_move_to(self, row: int) -> None:
        """Move the cursor to a row; -1 is the last."""
        self.cursor = row if row >= 0 else len(self._lines) - 1

    def on_click(self, event: Click) -> None:
        """Move the cursor to where it was clicked."""
        row = event.y - 1 + self.scroll_offset.y
        if event.y and row < len(self._lines):
            self.cursor = row

    def on_resize(self) -> None:
        """Take the new width."""
        self._measure()
        self._keep_in_view()
        self.refresh()

    def _measure(self) -> None:
        self._columns = self._columns_for(self.size.width)
        self.virtual_size = Size(self.size.width, len(self._lines) + 1)

    def _keep_in_view(self) -> None:
        rows = self.size.height - 1
        top = self.scroll_target_y
        if rows > 0 and not top <= self.cursor < top + rows:
            wanted = self.cursor if self.cursor < top else self.cursor - rows + 1
            self.scroll_to(y=wanted, animate=False, force=True)

    def render_line(self, y: int) -> Strip:
        """Draw a line of what is on the screen."""
        width = self.size.width
        row = y - 1 + self.scroll_offset.y
        style = self.rich_style
        if y == 0:
            style += self.get_component_rich_style("table--header", partial=True)
            text = self._row(lambda column: Text(column.title), width)
        elif row < len(self._lines):
            line = self._lines[row]
            text = self._row(lambda column: column.cell(line), width)
            if row == self.cursor:
                style += self.get_component_rich_style("table--cursor", partial=True)
        else:
            said = self._empty if row == 0 and not self._lines else ""
            text = Text(said, style="dim", end="")
            text.truncate(width, overflow="ellipsis")
        strip = Strip(text.render(self.app.console)).apply_style(style)
        return strip.adjust_cell_length(width, style)

    def _row(self, cell: Callable[[Column[LineT]], Text], width: int) -> Text:
        left = width - sum(column.width + 1 for column in self._columns) + 1
        cells = [column.fit(cell(column), column.width or max(left, 1)) for column in self._columns]
        row = Text(" ", end="").join(cells)
        row.truncate(width)
        return row


class LiveScreen(Screen[None], Generic[Result]):
    """A screen that is read again and again while it is seen, and says when it cannot be."""

    DEFAULT_CSS = """
    LiveScreen {
        #said {
            height: 1; padding: 0 1; background: $surface; color: $text;
            text-wrap: nowrap; text-overflow: ellipsis;
        }
        #said.trouble { background: $error; color: $text; text-style: bold; }
    }
    """

    def __init__(self, database: Database, *, interval: float, utc: bool) -> None:
        super().__init__()
        self.database, self.interval, self.utc = database, interval, utc
        # Kept, not looked up: an answer may come while the screen is being taken down.
        self.said = Static(id="said")
        self.now = database.now()
        """When what is shown was read."""
        self._wanted = Event()
        self._asked_at: datetime | None = None
        self._lost_at: datetime | None = None
        self._trouble: str | None = None

    def load(self, conn: Connection[Any]) -> Result:
        """Read what is shown, in the thread of the database."""
        raise NotImplementedError

    def show(self, data: Result) -> None:
        """Show what was read."""
        raise NotImplementedError

    def summary(self) -> str:
        """Say in a line what is shown."""
        raise NotImplementedError

    def on_mount(self) -> None:
        """Begin to read."""
        self.set_interval(1, self.tell)
        self._keep_reading()

    def on_screen_resume(self, _: ScreenResume) -> None:
        """Read at once what may have changed."""
        self.read_soon()

    def read_soon(self) -> None:
        """Read without waiting for the interval to pass."""
        self._wanted.set()

    @work
    async def _keep_reading(self) -> None:
        tries = pauses(math.inf)
        while True:
            self._wanted.clear()
            self._asked_at, pause = datetime.now(UTC), self.interval
            try:
                data = await wrap_future(self.database.ask(self.load))
            except (ConnectionLost, DatabaseUnreachable):
                self._lost_at = self._lost_at or datetime.now(UTC)
                pause = next(tries)
            except (OptiInfraError, psycopg.Error) as error:
                self._lost_at, self._trouble = None, str(error)
            else:
                self._lost_at = self._trouble = None
                tries = pauses(math.inf)
                self.now = self.database.now()
                self.show(data)
            self._asked_at = None
            self.tell()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            if not self.is_current:
                await self._wanted.wait()

    def tell(self) -> None:
        """Say what is shown, or what is wrong."""
        trouble = self._told_trouble()
        self.said.set_class(trouble is not None, "trouble")
        self.said.update(Text(_words.one_line(trouble or self.summary())))

    def _told_trouble(self) -> str | None:
        if self._lost_at:
            return f"Connection lost {_words.ago(self._lost_at)}, trying again"
        if self._asked_at and datetime.now(UTC) - self._asked_at > _PATIENCE:
            return f"The database does not answer: it was asked {_words.ago(self._asked_at)}"
        return self._trouble


class TableScreen(LiveScreen[Result], Generic[Result, LineT]):
    """A table, and a filter of it."""

    DEFAULT_CSS = """
    TableScreen {
        #filter { display: none; height: 1; padding: 0 1; border: none; background: $boost; }
        #filter.open { display: block; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter"),
        Binding("escape", "clear_filter", "Clear"),
    ]

    def __init__(self, database: Database, *, interval: float, utc: bool) -> None:
        super().__init__(database, interval=interval, utc=utc)
        self.lines: Sequence[LineT] = ()
        """All that were read, those that the filter hides included."""
        self.table = LiveTable[LineT](self.columns)
        self.box = Input(id="filter", placeholder="filter: all of these words")

    def columns(self, width: int) -> Sequence[Column[LineT]]:
        """Return the columns for a width."""
        raise NotImplementedError

    def words_of(self, line: LineT) -> str:
        """Return the text that the filter looks into."""
        raise NotImplementedError

    def empty(self) -> str:
        """Say that there are none."""
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        """Put one below the other."""
        yield self.said
        yield self.table
        yield self.box
        yield Footer()

    @property
    def filter(self) -> str:
        """What is filtered by, if anything."""
        return self.box.value.strip()

    def show_lines(self) -> None:
        """Show those that the filter lets through."""
        words = self.filter.casefold().split()
        matching = [
            line
            for line in self.lines
            if all(word in self.words_of(line).casefold() for word in words)
        ]
        self.table.show(matching, empty="Nothing matches." if words else self.empty())
        self.matching = len(matching)
        self.tell()

    def told_filter(self) -> str:
        """Say what the filter does."""
        if not self.filter:
            return ""
        return f'  {self.matching:,} of {len(self.lines):,} match "{self.filter}"'

    def on_input_changed(self) -> None:
        """Filter while it is typed."""
        self.show_lines()

    def on_input_submitted(self) -> None:
        """Go back to the table, and keep the filter."""
        self.table.focus()
        self.box.set_class(bool(self.filter), "open")
        self.refresh_bindings()

    def action_filter(self) -> None:
        """Ask for a filter."""
        self.box.add_class("open").focus()
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer what makes sense."""
        if action == "filter":
            return not self.box.has_focus
        return action != "clear_filter" or self.box.has_class("open")

    def action_clear_filter(self) -> None:
        """Show all again."""
        self.box.value = ""
        self.box.remove_class("open")
        self.table.focus()
        self.refresh_bindings()


class Confirm(ModalScreen[str | None]):
    """Asks before something is done: gives the reason, "" where none is asked for, None for no."""

    DEFAULT_CSS = """
    Confirm {
        align: center middle;
        & > Vertical {
            width: 66; max-width: 96%; height: auto; max-height: 96%;
            padding: 1 2; background: $panel; border: round $primary;
        }
        #title { text-style: bold; margin-bottom: 1; }
        Input { margin-top: 1; }
        Horizontal { height: auto; margin-top: 1; }
        Button { margin-right: 2; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "refuse", "No")]

    def __init__(self, title: str, text: str, *, yes: str, no: str, reason: str = "") -> None:
        """Ask for a reason where one is proposed."""
        super().__init__()
        self._title, self._text, self._yes, self._no = title, text, yes, no
        self._reason = reason

    def compose(self) -> ComposeResult:
        """Put one below the other."""
        with Vertical():
            yield Static(self._title, id="title", markup=False)
            yield Static(self._text, markup=False)
            if self._reason:
                yield Input(self._reason, placeholder="reason", select_on_focus=True)
            with Horizontal():
                yield Button(self._yes, id="yes", variant="warning")
                yield Button(f"{self._no} (Esc)", id="no")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Take the answer."""
        if event.button.id == "yes":
            self._agree()
        else:
            self.dismiss(None)

    def on_input_submitted(self) -> None:
        """Take it for yes."""
        self._agree()

    def action_refuse(self) -> None:
        """Answer no."""
        self.dismiss(None)

    def _agree(self) -> None:
        given = [box.value.strip() for box in self.query(Input)]
        self.dismiss(given[0] or self._reason if given else "")


class Help(ModalScreen[None]):
    """A page of text, which any of the usual keys closes."""

    DEFAULT_CSS = """
    Help {
        align: center middle;
        & > VerticalScroll {
            width: 70; max-width: 96%; height: auto; max-height: 96%;
            padding: 1 2; scrollbar-size-vertical: 1; background: $panel; border: round $primary;
        }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "dismiss", "Close", show=False)
    ]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """Show the text."""
        with VerticalScroll():
            yield Static(self._text, markup=False)
