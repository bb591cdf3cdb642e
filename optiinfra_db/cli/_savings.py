"""The command on what was saved: optiinfra-db savings."""

from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from optiinfra_db import _words
from optiinfra_db.cli._shared import (
    AsJson,
    Column,
    CustomerOption,
    Since,
    Until,
    Url,
    customer_id,
    print_json,
    print_table,
)
from optiinfra_db.connection import connect

if TYPE_CHECKING:
    from optiinfra_db.shapes import Saving

app = typer.Typer()

_BAR = 30


@app.command("savings", epilog="Example: optiinfra-db savings --customer atlas --since 180d")
def savings(
    url: Url = None,
    customer: CustomerOption = None,
    since: Since = "365d",  # type: ignore[assignment]  # it is parsed
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Show what was to be saved and what is, in USD a month.

    By the month in which they were made. Bars: predicted, approved of that, realised of that.
    """
    from optiinfra_db.generated import recommendations
    from optiinfra_db.shapes import Saving

    with connect(url) as conn:
        rows = [
            Saving.of(row)
            for row in recommendations.list_savings(
                conn,
                since=since,
                until=until or datetime.now(UTC),
                customer_id=customer_id(conn, customer),
            )
        ]
    if as_json:
        print_json(rows)
        return
    print_table(
        [
            Column("month"),
            Column("customer", 3, least=12),
            Column("agent", 4, least=10),
            Column("made", 5, right=True),
            Column("predicted", right=True),
            Column("approved", 2, right=True),
            Column("realised", right=True),
        ],
        [
            (
                f"{row.month:%Y-%m}",
                row.customer,
                row.agent,
                str(row.recommendations),
                _words.money(row.predicted_savings),
                _words.money(row.approved_savings),
                _words.money(row.realised_savings),
            )
            for row in rows
        ],
        empty="No recommendation was made in this time.",
    )
    if rows:
        print()
        _bars(rows)


def _bars(rows: list["Saving"]) -> None:
    """Draw the sums of each month."""
    sums: dict[str, list[Decimal]] = defaultdict(lambda: [Decimal()] * 3)
    for row in rows:
        amounts = (row.predicted_savings, row.approved_savings, row.realised_savings)
        month = f"{row.month:%Y-%m}"
        sums[month] = [a + b for a, b in zip(sums[month], amounts, strict=True)]
    most = max(max(amounts) for amounts in sums.values()) or Decimal(1)
    print_table(
        [Column("month"), Column("", 1), Column("", 2), Column("USD a month", right=True)],
        [
            (
                month if place == 0 else "",
                name,
                Text("█" * round(amounts[place] / most * _BAR), style=style),
                _words.money(amounts[place]),
            )
            for month, amounts in sums.items()
            for place, (name, style) in enumerate(
                (("predicted", "dim"), ("approved", "cyan"), ("realised", "green"))
            )
        ],
        empty="",
    )
