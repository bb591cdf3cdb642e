"""The results for people: a table for the terminal, tables for the docs, a plot."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.goals import standings
from bench.results import Figure, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
HEADINGS = {
    "Goals": ("goal", "of", "measured", "quartiles", ""),
    "Medians": ("comparison", "case", "median", "quartiles"),
}
"""The columns of the tables."""

MANY = 5
"""Of more figures of one goal than these only the worst are shown."""

TICKS = (0.2, 0.5, 1, 2, 5, 10, 20)
PLOTTED = {
    "call: get a run": "Read a run",
    "call: list 50 runs": "List 50 runs",
    "call: transition": "Start a step",
    "detail": "Read a run with all that is in it",
    "run, 1 connection": "Record a run, 1 connection",
    "run, 8 connections": "Record a run, 8 connections",
    "import": "Import finished runs",
    "metrics: copy": "Copy metrics",
    "queue": "Claim and complete a job",
}
"""The comparisons in the plot, with their titles."""


def show(results: Results, console: Console) -> None:
    """Print what was measured, and where the goals stand."""
    for title, rows in (("Medians", _figures(results)), ("Goals", _standings(results))):
        table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        for heading in HEADINGS[title]:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def write_page(tables: str, page: Path) -> None:
    """Put tables into a page, between its marks."""
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{tables}{END}{after}")


def markdown(results: Results) -> str:
    """Return the tables for a page."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Results) -> Iterator[str]:
    about = results.about
    machine, versions = about["machine"], about["versions"]
    yield ""
    yield (
        f"- Measured on {about['date']} at commit `{about['commit'][:10]}`, "
        f"in {about['minutes']:.0f} minutes."
    )
    yield (
        f"- Machine: {machine['cores']} cores of {machine['processor']}, "
        f"{machine['memory_gib']} GiB, {machine['system']}."
    )
    for title, named in (("Versions", versions), ("Settings", about["settings"])):
        yield f"- {title}: {', '.join(f'{name} {value}' for name, value in named.items())}."
    for title, rows in (("Goals", _standings(results)), ("Medians", _figures(results))):
        yield ""
        yield f"| {' | '.join(HEADINGS[title])} |"
        yield "|---" * len(HEADINGS[title]) + "|"
        for row in rows:
            yield f"| {' | '.join(row).replace('[red]missed[/]', '**missed**')} |"


def _standings(results: Results) -> Iterator[tuple[str, ...]]:
    """Lay out the goals; of one with many figures the worst."""
    for goal, found in groupby(standings(results), key=lambda standing: standing.goal):
        wanted = f"{goal.measure} {goal.sign} {humane(goal.bound, goal.unit)}"
        shown = sorted(found, key=lambda standing: standing.figure.value)
        if len(shown) > MANY:
            met = sum(standing.is_met for standing in shown)
            yield wanted, f"{met} of {len(shown)} calls; the worst:", "", "", ""
            shown = shown[-MANY:]
        for standing in shown:
            yield (
                wanted,
                standing.label,
                humane(standing.figure.value, goal.unit),
                _spread(standing.figure, goal.unit),
                "met" if standing.is_met else "[red]missed[/]",
            )


def _figures(results: Results) -> Iterator[tuple[str, ...]]:
    """Lay out the medians, those of a comparison in their order, without the many of the sizes."""
    for name, comparison in results.comparisons.items():
        if name.startswith(("size", "whole history")):
            continue
        found = {case: results.figure(name, case) for case in comparison.samples}
        figures = [(case, figure) for case, figure in found.items() if figure]
        for case, figure in sorted(figures, key=lambda item: item[1].value):
            unit = comparison.unit
            yield name, case, humane(figure.value, unit), _spread(figure, unit)


def _spread(figure: Figure, unit: str) -> str:
    return f"{humane(figure.low, unit)} .. {humane(figure.high, unit)}"


def humane(value: float, unit: str) -> str:
    """Write a number with its unit as people read it."""
    if unit == "s":
        for factor, name in ((1, "s"), (1e3, "ms"), (1e6, "us")):
            if value * factor >= 1 or name == "us":
                return f"{value * factor:.3g} {name}"
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004
    return number if unit == "x" else f"{number} {unit}".strip()


def plot(results: Results, path: Path) -> None:
    """Draw how long the peers take for what takes the generated function 1."""
    import matplotlib as mpl  # noqa: PLC0415  (takes a second)

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "optiinfra-db"  # the same file for the same samples
    import matplotlib.pyplot as plt  # noqa: PLC0415

    drawn = [(name, title) for name, title in PLOTTED.items() if results.samples(name)]
    bars = {name: list(_bars(results, name)) for name, _ in drawn}
    heights = [len(bars[name]) + 0.8 for name, _ in drawn]
    figure, axes = plt.subplots(
        *(len(drawn), 1),
        figsize=(8.5, 0.26 * sum(heights) + 0.6),
        gridspec_kw={"height_ratios": heights},
        sharex=True,
        squeeze=False,
    )
    for axis, (name, title) in zip(axes[:, 0], drawn, strict=True):
        _draw(axis, title, bars[name])
    axes[-1, 0].set_xlabel("time of the peer / time of the generated function (less is faster)")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _bars(results: Results, comparison: str) -> Iterator[tuple[str, Figure]]:
    baseline = "record" if comparison == "import" else "generated"
    for case in results.samples(comparison):
        figure = results.ratio(comparison, case, baseline)
        if figure and case != baseline:
            yield case, figure


def _draw(axis: "Axes", title: str, bars: list[tuple[str, Figure]]) -> None:
    bars = sorted(bars, key=lambda bar: -bar[1].value)
    values = [figure.value for _, figure in bars]
    errors = [
        [figure.value - figure.low for _, figure in bars],
        [figure.high - figure.value for _, figure in bars],
    ]
    colours = ["#1f77b4" if value >= 1 else "#2ca02c" for value in values]
    axis.barh([case for case, _ in bars], values, xerr=errors, color=colours, height=0.7)
    for place, (_, figure) in enumerate(bars):
        axis.text(figure.high, place, f"  {figure.value:.2f}", va="center", fontsize=7)
    axis.set_title(title, loc="left", fontsize=9, fontweight="bold")
    axis.set_xscale("log")
    axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axis.minorticks_off()
    axis.axvline(1, color="black", linewidth=0.8)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
