"""The dashboard of docs/grafana, and its SQL as Grafana sends it to PostgreSQL."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).parents[1] / "docs" / "grafana" / "optiinfra.json"
DASHBOARD: Mapping[str, Any] = json.loads(FILE.read_text())
PANELS: list[Mapping[str, Any]] = DASHBOARD["panels"]
VARIABLES: list[Mapping[str, Any]] = DASHBOARD["templating"]["list"]
QUERIED = [panel for panel in PANELS if panel["type"] != "row"]

INTERVAL_SECONDS = 900
"""What Grafana makes of $__interval in a panel of 96 points that shows 24 hours."""


class Window(NamedTuple):
    """The time range of the dashboard."""

    since: datetime
    until: datetime


def titles(panels: list[Mapping[str, Any]]) -> list[str]:
    """Return what to call the panels in the name of a test."""
    return [panel["title"] for panel in panels]


def sql_of(panel: Mapping[str, Any]) -> str:
    """Return the SQL of a panel, with its variables and macros."""
    (target,) = panel["targets"]
    sql: str = target["rawSql"]
    return sql


def expanded(sql: str, window: Window, customer: str | None) -> str:
    """Put in what Grafana does: the variable as a literal, or its text for all; then the macros."""
    (variable,) = VARIABLES
    chosen = variable["allValue"] if customer is None else _literal(customer)
    sql = sql.replace("${customer:sqlstring}", chosen).replace(
        "$__interval", f"{INTERVAL_SECONDS}s"
    )
    # Up to the first closing parenthesis: what a macro is given has none.
    return re.sub(r"\$(\w+)\(([^)]*)\)", lambda call: _macro(call, window), sql)


def _macro(call: re.Match[str], window: Window) -> str:
    column, *more = [argument.strip() for argument in call[2].split(",")]
    since, until = (_literal(time.isoformat()) for time in window)
    macros: Mapping[str, Callable[[], str]] = {
        "__timeFilter": lambda: f"{column} BETWEEN {since} AND {until}",
        "__timeFrom": lambda: since,
        "__timeTo": lambda: until,
        "__timeGroup": lambda: _group(column, more[0]),
        "__timeGroupAlias": lambda: f'{_group(column, more[0])} AS "time"',
    }
    return macros[call[1]]()


def _group(column: str, interval: str) -> str:
    seconds = int(interval.strip("'").removesuffix("s"))
    return f"floor(extract(epoch from {column})/{seconds})*{seconds}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def overrides(panel: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name of each field that a panel shows in its own way, and how."""
    for override in panel["fieldConfig"]["overrides"]:
        assert override["matcher"]["id"] == "byName"
        yield (
            override["matcher"]["options"],
            {shown["id"]: shown["value"] for shown in override["properties"]},
        )
