"""The command that makes a page of how it went: optiinfra-db report."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from optiinfra_db.cli._shared import (
    AsJson,
    CustomerOption,
    Since,
    Until,
    Url,
    customer_id,
    messages,
    print_json,
    write_page,
)
from optiinfra_db.connection import connect

app = typer.Typer()


@app.command("report", epilog="Example: optiinfra-db report --html atlas.html --customer atlas")
def report(
    url: Url = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it as a page; - for stdout.", show_default=False),
    ] = None,
    customer: CustomerOption = None,
    since: Since = "30d",  # type: ignore[assignment]  # it is parsed
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Make a page of how it went, for a customer or for all.

    Runs over time, durations, failures, agents, savings. With --json, its numbers.
    """
    from optiinfra_db import shapes

    if bool(html) == as_json:
        raise typer.BadParameter("say --html FILE or --json.")
    until = until or datetime.now(UTC)
    if until <= since:
        raise typer.BadParameter("--until is before --since.")
    with connect(url) as conn, messages().status("Reading"):
        found = shapes.load_report(
            conn, since=since, until=until, customer_id=customer_id(conn, customer)
        )
    if html:
        from optiinfra_db.pages import report_page

        write_page(html, report_page(found))
    else:
        print_json(found)
