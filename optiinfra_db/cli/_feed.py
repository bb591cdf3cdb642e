"""The command on the change feed: optiinfra-db feed."""

import sys
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from optiinfra_db import _words
from optiinfra_db.cli._shared import (
    AsJson,
    CustomerOption,
    Url,
    Utc,
    customer_id,
    messages,
    output,
    when,
)
from optiinfra_db.connection import connect

if TYPE_CHECKING:
    from optiinfra_db.shapes import EventLine

app = typer.Typer()

_SEVERITIES = {"info": "", "warning": "yellow", "error": "red", "critical": "bold red"}


@app.command("feed", epilog="Example: optiinfra-db feed --follow --json >> events.ndjson")
def feed(
    url: Url = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more, until Ctrl-C.")
    ] = False,
    after: Annotated[
        str | None,
        typer.Option(
            metavar="CURSOR",
            help="Begin after this place: a cursor, `start` or `latest`.",
            show_default="start, with --follow latest",
        ),
    ] = None,
    customer: CustomerOption = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", "-n", metavar="N", min=1, help="At most so many.", show_default="all"
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.05, help="How often to look, with --follow.")
    ] = 1,
    utc: Utc = False,
    as_json: AsJson = False,
) -> None:
    """Print the audit log, in an order that skips nothing.

    An event a line.
    With --json a line is an object, and its cursor is where to go on: --after CURSOR.
    """
    from optiinfra_db.feed import START, Cursor, Feed, latest
    from optiinfra_db.shapes import EventLine

    place = after or ("latest" if follow else "start")
    with connect(url) as conn:
        of = customer_id(conn, customer)
        begin = (
            latest(conn)
            if place == "latest"
            else START
            if place == "start"
            else Cursor.parse(place)
        )
    console, line = output(), None
    with Feed(
        url, after=begin, customer_id=of, poll_seconds=interval if follow else None
    ) as events:
        if follow:
            messages().print(f"Waiting for events after {begin}. Ctrl-C ends it.")
        for event in islice(events, limit):
            line = EventLine.of(event)
            if as_json:
                print(line.model_dump_json(), flush=True)
            else:
                console.print(_line(line, utc=utc or not follow), soft_wrap=True)
    if line is None and not as_json:
        print(f"There is no event after {begin}.", file=sys.stderr)


def _line(event: "EventLine", *, utc: bool) -> Text:
    subject = f"{event.subject_type} {event.subject_id}" if event.subject_id else ""
    told = ", ".join(
        f"{name} {event.data[name]}"
        for name in ("step_name", "attempt", "retry_count")
        if event.data.get(name) is not None
    )
    error = event.data.get("error")
    message = error.get("message") if isinstance(error, dict) else None
    line = Text()
    line.append(
        f"{_words.exact(event.created_at) if utc else when(event.created_at, utc=False)}  ", "dim"
    )
    line.append(
        f"{_words.one_line(event.event_type):<32}",
        _SEVERITIES[event.severity] or _status_style(event),
    )
    line.append(f"  {_words.one_line(subject)}")
    for part in (told, message):
        line.append(f"  {_words.one_line(str(part))}" if part else "")
    line.append(f"  by {_words.one_line(event.actor)}", "dim")
    return line


def _status_style(event: "EventLine") -> str:
    return _words.STYLES.get(event.event_type.rpartition(".")[2], "")
