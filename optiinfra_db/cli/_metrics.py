"""The commands on metrics: optiinfra-db metrics."""

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from optiinfra_db import _words
from optiinfra_db.cli._shared import (
    AsJson,
    Column,
    Since,
    Until,
    Url,
    Utc,
    duration,
    find_agent,
    group,
    output,
    print_json,
    print_table,
    show,
    when,
)
from optiinfra_db.connection import connect
from optiinfra_db.errors import UnknownReference
from optiinfra_db.generated.models import MetricType

if TYPE_CHECKING:
    from optiinfra_db.shapes import MetricPoint

app = group("metrics", "Look at the metrics of agents.")

AgentArgument = Annotated[
    str, typer.Argument(metavar="AGENT", help="The id of an agent, or its name.")
]
_BUCKETS = 60
_TICKS = 5
_SIZES = [
    timedelta(**{unit: number})
    for unit, numbers in {
        "seconds": (1, 5, 10, 30),
        "minutes": (1, 2, 5, 10, 15, 30),
        "hours": (1, 2, 3, 6, 12),
        "days": (1, 7, 28),
    }.items()
    for number in numbers
]


@app.command("list", epilog="Example: optiinfra-db metrics list cost-1")
def list_metrics(
    agent: AgentArgument, url: Url = None, utc: Utc = False, as_json: AsJson = False
) -> None:
    """List the metrics of an agent with their latest values."""
    from optiinfra_db.generated import agent_metrics
    from optiinfra_db.shapes import MetricLine

    with connect(url) as conn:
        found = agent_metrics.list_latest_agent_metrics(conn, agent_id=find_agent(conn, agent).id)
    if as_json:
        print_json([MetricLine.model_validate(row) for row in found])
        return
    print_table(
        [
            Column("metric", least=20),
            Column("latest", right=True),
            Column("type", 1),
            Column("recorded", 2, right=True),
        ],
        [
            (
                row.metric_name,
                f"{row.metric_value:,.6g}",
                row.metric_type,
                when(row.recorded_at, utc=utc),
            )
            for row in found
        ],
        empty=f"{agent} recorded no metrics.",
    )


@app.command("plot", epilog="Example: optiinfra-db metrics plot cost-1 monthly_cost_usd --since 7d")
def plot_metric(
    agent: AgentArgument,
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="The name of a metric.")],
    url: Url = None,
    since: Since = "24h",  # type: ignore[assignment]  # it is parsed
    until: Until = None,
    bucket: Annotated[
        timedelta | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="Of how long a time each point is: 30s, 5m, 1h.",
            show_default=f"{_BUCKETS} points or so",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Plot a metric over time.

    Averages and 95th percentiles; of a counter, how fast it grew.
    """
    from optiinfra_db.generated import agent_metrics
    from optiinfra_db.shapes import MetricPoint

    until = until or datetime.now(UTC)
    if until <= since:
        raise typer.BadParameter("--until is before --since.")
    length = bucket or next(
        (size for size in _SIZES if (until - since) / size <= _BUCKETS), _SIZES[-1]
    )
    with connect(url) as conn:
        of = find_agent(conn, agent)
        latest = agent_metrics.get_latest_agent_metric(conn, agent_id=of.id, metric_name=metric)
        if latest is None:
            raise UnknownReference(
                f"{of.name} has no metric {metric!r}. List them with: "
                f"optiinfra-db metrics list {of.name}"
            )
        is_counter = latest.metric_type is MetricType.COUNTER
        query = (
            agent_metrics.list_agent_metric_rates
            if is_counter
            else agent_metrics.list_agent_metric_buckets
        )
        rows = query(
            conn, agent_id=of.id, metric_name=metric, since=since, until=until, bucket=length
        )
    points = [MetricPoint.of(row) for row in rows]
    if as_json:
        print_json(points)
    elif not points:
        print(
            f"No value of {_words.one_line(metric)} since {_words.exact(since)}; the latest is of "
            f"{_words.ago(latest.recorded_at)}: look further back with --since.",
            file=sys.stderr,
        )
    else:
        title = _words.one_line(f"{metric} of {of.name}, by {_words.duration(length)}")
        title += ", per second" if is_counter else ""
        _plot(points, title, since, until, is_counter=is_counter)


def _plot(
    points: list["MetricPoint"],
    title: str,
    since: datetime,
    until: datetime,
    *,
    is_counter: bool,
) -> None:
    import plotext

    console = output()
    width = console.width if console.is_terminal else 100
    plotext.clear_figure()
    plotext.theme("pro" if console.is_terminal and not console.no_color else "clear")
    plotext.plot_size(width, 20)
    plotext.title(title)
    times = [point.started_at.timestamp() for point in points]
    if is_counter:
        plotext.plot(times, [point.increase_per_second for point in points], marker="braille")
    else:
        for name in ("average", "p95"):
            values = [getattr(point, name) for point in points]
            plotext.plot(times, values, marker="braille", label=name)
    plotext.xlim(since.timestamp(), until.timestamp())
    ticks = [since + (until - since) * place / _TICKS for place in range(_TICKS + 1)]
    plotext.xticks(
        [tick.timestamp() for tick in ticks], [tick.strftime("%m-%d %H:%M") for tick in ticks]
    )
    print_lines = plotext.build() if console.is_terminal else plotext.uncolorize(plotext.build())
    show(Text.from_ansi(print_lines), console)
