"""What the commands share: options, what an id or a name stands for, tables and JSON."""

import getpass
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, TypeVar
from uuid import UUID

import typer
from psycopg import Connection
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from optiinfra_db import _words
from optiinfra_db._paging import newest_first
from optiinfra_db.connection import configured_url, describe
from optiinfra_db.errors import OptiInfraError, UnknownReference

if TYPE_CHECKING:
    from pydantic import BaseModel

    from optiinfra_db.generated.api_keys import ApiKey
    from optiinfra_db.generated.models import Agent, Customer, LegalHold, RetentionPolicy

T = TypeVar("T")

# --- options


def duration(text: str) -> timedelta:
    """Read a duration such as 90s, 5m, 24h, 7d or 2w."""
    found = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip())
    if not found:
        raise typer.BadParameter(f"{text!r} is no duration: write one such as 90s, 5m, 24h, 7d, 2w")
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    try:
        return timedelta(**{units[found[2]]: int(found[1])})
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is too long") from None


def time(text: str) -> datetime:
    """Read a time: a date, an ISO 8601 time (UTC unless it says otherwise), or how long ago."""
    try:
        given = datetime.fromisoformat(text)
        return given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    try:
        return datetime.now(UTC) - duration(text)
    except (typer.BadParameter, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time: write how long ago (24h, 7d), or 2026-01-31, or 2026-01-31T08:00"
        ) from None


Url = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        "--url",
        metavar="URL",
        help="postgresql://user:password@host:port/dbname, instead of OPTIINFRA_DATABASE_URL.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Utc = Annotated[bool, typer.Option("--utc", help="Print exact times, in UTC.")]
CustomerOption = Annotated[
    str | None,
    typer.Option(
        "--customer",
        "-c",
        metavar="CUSTOMER",
        help="Only this customer: its name, e-mail address or id, or the beginning of those.",
        show_default=False,
    ),
]
Limit = Annotated[
    int, typer.Option("--limit", "-n", metavar="N", min=1, max=10000, help="At most so many.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
By = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="NAME",
        help="Who does it, for the audit log.",
        show_default="the user of the system",
    ),
]
Since = Annotated[
    datetime,
    typer.Option(
        "--since",
        parser=time,
        metavar="TIME",
        help="From when: how long ago (24h, 7d), a date, or a time of ISO 8601, in UTC.",
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option("--until", parser=time, metavar="TIME", help="Until when.", show_default="now"),
]
CustomerName = Annotated[
    str,
    typer.Argument(
        metavar="CUSTOMER", help="Its name, e-mail address or id, or the beginning of those."
    ),
]
WorkflowId = Annotated[
    str, typer.Argument(metavar="RUN", help="The id of a run, or the beginning of it.")
]


def choices(values: type[StrEnum]) -> str:
    """Say what an option takes."""
    return ", ".join(values)


def group(name: str, help: str) -> typer.Typer:
    """Make a group of commands."""
    return typer.Typer(
        name=name,
        help=help,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


def actor(by: str | None) -> str:
    """Return who acts, for the audit log."""
    if by:
        return by
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "optiinfra-db"


def confirm(question: str, *, yes: bool) -> None:
    """Ask, where there is somebody to ask; otherwise it is meant."""
    if not yes and sys.stdin and sys.stdin.isatty():
        typer.confirm(question, abort=True, err=True)


# --- what an id or a name stands for


def id_range(text: str) -> tuple[UUID, UUID] | None:
    """Return the first and the last id that begin like this; None where none can."""
    digits = text.replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{1,32}", digits):
        return None
    return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))


def find_customer(conn: Connection[Any], text: str) -> "Customer":
    """Return the customer of an e-mail address, a name, an id, or the beginning of those."""
    from optiinfra_db.generated import customers

    between = id_range(text)
    if (
        between
        and between[0] == between[1]
        and (one := customers.get_customer(conn, id=between[0]))
    ):
        return one
    if "@" in text and (one := customers.get_customer_by_email(conn, email=text)):
        return one
    everyone = list(newest_first(customers.list_customers, conn, max_rows=1000))
    return _only(
        "customer",
        text,
        _called(text, everyone, lambda one: one.name),
        lambda one: f"{one.id}  {one.name}  {one.email}",
        "optiinfra-db customers list",
    )


def find_api_key(conn: Connection[Any], text: str, customer: "Customer") -> "ApiKey":
    """Return the key of a customer that an id, or the beginning of one, stands for."""
    from optiinfra_db.generated import api_keys

    everyone = api_keys.list_api_keys(conn, customer_id=customer.id)
    return _only(
        "key",
        text,
        _with_id(text, everyone),
        lambda one: f"{one.id}",
        f"optiinfra-db customers keys {customer.id}",
    )


def find_retention_policy(conn: Connection[Any], text: str) -> "RetentionPolicy":
    """Return the policy that an id, or the beginning of one, stands for."""
    from optiinfra_db.generated import retention_policies

    return _only(
        "policy",
        text,
        _with_id(text, retention_policies.list_retention_policies(conn)),
        lambda one: f"{one.id}  {one.table_name}",
        "optiinfra-db retention list",
    )


def find_legal_hold(conn: Connection[Any], text: str) -> "LegalHold":
    """Return the legal hold that an id, or the beginning of one, stands for."""
    from optiinfra_db.generated import legal_holds

    return _only(
        "hold",
        text,
        _with_id(text, legal_holds.list_legal_holds(conn)),
        lambda one: f"{one.id}  {one.reason}",
        "optiinfra-db holds list",
    )


def find_agent(conn: Connection[Any], text: str) -> "Agent":
    """Return the agent of a name or an id, or the beginning of those."""
    everyone = every_agent(conn)
    return _only(
        "agent",
        text,
        _called(text, everyone, lambda one: one.name),
        lambda one: f"{one.id}  {one.name}  ({one.type})",
        "optiinfra-db agents list",
    )


def every_agent(conn: Connection[Any]) -> "list[Agent]":
    """Return all agents, the newest first."""
    from optiinfra_db.generated import agents

    return list(newest_first(agents.list_agents, conn, max_rows=1000))


def customer_id(conn: Connection[Any], customer: str | None) -> UUID | None:
    """Return the id of the customer asked for; None for all."""
    return None if customer is None else find_customer(conn, customer).id


class Key(TypedDict):
    """The key of a row that belongs to a customer."""

    customer_id: UUID
    id: UUID


def find_workflow(conn: Connection[Any], text: str, customer: str | None) -> Key:
    """Return the key of the run that an id, or the beginning of one, stands for."""
    from optiinfra_db.generated import workflow_executions

    found = _in_range(
        text, conn, customer, workflow_executions.list_workflow_executions_by_id_range
    )
    one = _only(
        "run",
        text,
        found,
        lambda one: f"{one.id}  {one.workflow_type}  {one.status}  customer {one.customer_id}",
        "optiinfra-db workflows list",
    )
    return {"customer_id": one.customer_id, "id": one.id}


def find_recommendation(conn: Connection[Any], text: str, customer: str | None) -> Key:
    """Return the key of the recommendation that an id, or the beginning of one, stands for."""
    from optiinfra_db.generated import recommendations

    found = _in_range(text, conn, customer, recommendations.list_recommendations_by_id_range)
    one = _only(
        "recommendation",
        text,
        found,
        lambda one: f"{one.id}  {one.status}  customer {one.customer_id}  {one.title}",
        "optiinfra-db recommendations list",
    )
    return {"customer_id": one.customer_id, "id": one.id}


def _called(text: str, everyone: Sequence[T], name: Callable[[T], str]) -> list[T]:
    """Return those whose name it is, else whose name or id begins with it."""
    wanted, between = text.casefold(), id_range(text)
    return [one for one in everyone if name(one).casefold() == wanted] or [
        one
        for one in everyone
        if name(one).casefold().startswith(wanted) or _is_within(one, between)
    ]


def _with_id(text: str, everyone: Sequence[T]) -> list[T]:
    """Return those whose id begins with it."""
    between = id_range(text)
    return [one for one in everyone if _is_within(one, between)]


def _is_within(one: object, between: tuple[UUID, UUID] | None) -> bool:
    return between is not None and between[0] <= one.id <= between[1]  # type: ignore[attr-defined]


_SHOWN = 5


def _in_range(
    text: str, conn: Connection[Any], customer: str | None, query: Callable[..., list[T]]
) -> list[T]:
    between = id_range(text)
    if between is None:
        return []
    return query(
        conn,
        first_id=between[0],
        last_id=between[1],
        customer_id=customer_id(conn, customer),
        max_rows=_SHOWN + 1,
    )


def _only(what: str, text: str, found: Sequence[T], line: Callable[[T], str], listing: str) -> T:
    if len(found) == 1:
        return found[0]
    if not found:
        raise UnknownReference(f"There is no {what} {text!r}. List them with: {listing}")
    lines = "".join(f"\n  {line(one)}" for one in found[:_SHOWN])
    more = "\n  and others" if len(found) > _SHOWN else ""
    raise UnknownReference(
        f"{text!r} stands for more than one {what}. Write more of the id, or name the customer "
        f"(--customer):{lines}{more}"
    )


# --- output


def print_json(shape: "BaseModel | Sequence[BaseModel]") -> None:
    """Print what a command shows, as JSON."""
    from pydantic import TypeAdapter

    print(TypeAdapter(Any).dump_json(shape, indent=2).decode())


@dataclass(frozen=True)
class Column:
    """A column of a table. Of those that do not fit, the last by `rank` is left out first."""

    name: str
    rank: int = 0
    """0 is always shown."""
    right: bool = False
    least: int | None = None
    """How narrow it may become, with its text cut; None for never."""
    fold: bool = False
    """Break the text, and do not cut it."""


def print_table(
    columns: Sequence[Column], rows: Iterable[Sequence[str | Text]], *, empty: str
) -> None:
    """Print a table as wide as the terminal; all of it where there is none."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    if not cells:
        print(empty, file=sys.stderr)
        return
    console = output()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    shown = _widths(columns, cells, console.width if console.is_terminal else _PIPED_WIDTH)
    for place, width in shown.items():
        column = columns[place]
        table.add_column(
            column.name,
            width=width,
            justify="right" if column.right else "left",
            no_wrap=not column.fold,
            overflow="fold" if column.fold else "ellipsis",
        )
    for row in cells:
        table.add_row(*(row[place] for place in shown))
    show(table, console)


_GAP = 2


def _widths(
    columns: Sequence[Column], cells: Sequence[Sequence[Text]], width: int
) -> dict[int, int]:
    """Return the places of the columns that fit, with their widths."""
    whole = [
        max(len(column.name), *(row[place].cell_len for row in cells))
        for place, column in enumerate(columns)
    ]
    widths = {
        place: whole[place] if column.least is None else min(column.least, whole[place])
        for place, column in enumerate(columns)
    }

    def spare() -> int:
        return width + _GAP - sum(each + _GAP for each in widths.values())

    while spare() < 0 and (droppable := [place for place in widths if columns[place].rank]):
        del widths[max(droppable, key=lambda place: columns[place].rank)]
    for place, least in list(widths.items()):
        widths[place] = min(whole[place], least + max(spare(), 0))
    return widths


def plain(text: str, style: str = "") -> Text:
    """Return text as it is: no markup, and nothing in it moves the cursor."""
    return Text(_words.lines(text), style)


def _cell(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else Text(_words.one_line(cell))


class _Output(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def output() -> Console:
    """Return the console of what a command is asked for."""
    return _Output(highlight=False)


_PIPED_WIDTH = 100_000


def show(what: RenderableType, console: Console | None = None) -> None:
    """Print something; where there is no terminal, without cutting or breaking lines."""
    console = console or output()
    if console.is_terminal:
        console.print(what)
        return
    console.width = max(console.measure(what, options=_unlimited(console)).maximum, 1)
    with console.capture() as capture:
        console.print(what)
    for line in capture.get().splitlines():
        print(line.rstrip())


def _unlimited(console: Console) -> ConsoleOptions:
    return console.options.update(width=_PIPED_WIDTH)


def announce(url: str | None) -> None:
    """Say which database is about to change; the embedded one is named when it is started."""
    if configured := configured_url(url):
        print(f"Database: {_words.one_line(describe(configured))}", file=sys.stderr)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Show what is going on, on stderr: by a spinner in a terminal, else by a line each."""
    console = messages()
    with console.status("Connecting") as spinner:
        yield spinner.update if console.is_terminal else console.print


def need_terminal(instead: str) -> None:
    """Refuse to go on where nobody looks."""
    if not (sys.stdout.isatty() and sys.stdin and sys.stdin.isatty()):
        raise Refused(f"This is for a terminal. Elsewhere: {instead}")


def messages() -> Console:
    """Return the console of what goes on, which is not what a command is asked for."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def status_text(status: str) -> Text:
    """Return a status in its colour."""
    return Text(status, style=_words.STYLES.get(status, ""))


def write_page(file: Path, page: str) -> None:
    """Write a page to a file, or stdout where that is -."""
    if str(file) == "-":
        print(page)
        return
    file.write_text(page, encoding="utf-8")
    print(f"wrote {_words.one_line(str(file))}")


class Refused(OptiInfraError):  # noqa: N818 -- as the package's other errors are named
    """What was asked for cannot be done."""

    exit_code = 4


def when(time: datetime | None, *, utc: bool) -> str:
    """Say when: how long ago, or exactly."""
    return _words.exact(time) if utc else _words.ago(time)
