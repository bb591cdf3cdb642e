"""From what a run was measured to take, to machines: `python -m bench.capacity`.

The figures are medians of the newest bench/results, of runs of 5 steps and 3 artifacts. What is
assumed beside them stands as a constant here. All of it is linear: twice the steps take twice the
cores, the WAL and the disk.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Self

from bench import data, report
from bench.results import FOLDER, ROOT, Results

PAGE = ROOT / "docs" / "scaling.md"

STEPS_PER_DAY = (1e6, 1e8, 1e10)
KEEP_DAYS = (7.0, 90.0)
"""What the page shows."""

PEAK = 3
"""Steps a second in the busiest hour, by those on average. Assumed."""

BUSY = 0.5
"""Share of a machine's cores that may record runs at the peak. Assumed: the rest is for reads,
autovacuum, housekeeping, checkpoints and the operating system."""

FULL = 0.7
"""Share of a disk that may be full. Assumed: the rest is for WAL, temporary files and bad days."""

MONTH = 31
"""Days for which a month's first events wait for its end, before they are kept as long as asked."""

ONE_SERVER = {"create": 1.7, "begin": 1.6, "advance": 1.6}
OWNING_WORKER = {"create": 10, "begin": 5.4, "advance": 15}
"""Medians of a call in ms, on one server and on the worker that has the customer: PostgreSQL 15,
Citus 13.2.2, 2 cores that all its servers share (docs/guides/citus.md)."""

MOST = 1e15
"""Of anything that is asked for."""


@dataclass(frozen=True)
class Measured:
    """What a run takes on one server."""

    core_seconds: float
    """At most, recorded as it happens: what the statements from C took with as many connections as
    keep all cores of the bench's machine busy, pgbench and the disk's time included, by cores."""

    batch_core_seconds: float
    """At most, imported when it is over: one connection, whose client and server take turns."""

    wal_bytes: float
    """Without full page images: the bench has no checkpoint in between."""

    disk_bytes: float
    """Tables and indexes, with what autovacuum leaves of dead rows."""

    event_bytes: float
    """Of these, the audit log."""

    pruned_rows_per_second: float
    """By one connection; events are not among them, which go by the month."""

    @classmethod
    def of(cls, results: Results) -> Self:
        """Take the medians of a run of the bench in full."""

        def median(comparison: str, case: str) -> float:
            figure = results.figure(comparison, case)
            if figure is None:
                raise ValueError(f"The results lack {case!r} of {comparison!r}.")
            return figure.value

        disk = "cost: a run, on disk"
        return cls(
            core_seconds=median("run, 8 connections", "pgbench")
            * results.about["machine"]["cores"],
            batch_core_seconds=median("import", "batch"),
            wal_bytes=median("cost: a run, WAL", "all"),
            disk_bytes=median(disk, "all"),
            event_bytes=median(disk, "events, table") + median(disk, "events, indexes"),
            pruned_rows_per_second=median("prune", "rows"),
        )


@dataclass(frozen=True)
class Machine:
    """What can be bought."""

    cores: float = 32
    disk_bytes: float = 16e12


@dataclass(frozen=True)
class Load:
    """What is to be recorded, and kept."""

    steps_per_day: float
    keep_days: float
    payload_bytes: float = 0
    """JSON of a step, beyond the 60 bytes or so of the bench, as PostgreSQL stores it."""


@dataclass(frozen=True)
class Need:
    """What a load takes."""

    steps_per_second: float
    """At the peak, as all that is a second."""

    cores: float
    """That are busy on one server, or on several databases with nothing between them."""

    batch_cores: float
    """The same, where runs are imported when they are over."""

    citus_cores: float
    wal_bytes_per_second: float
    wal_bytes_per_day: float
    disk_bytes: float
    event_bytes: float
    prune_hours_per_day: float
    """Of one connection, to delete a day's runs."""

    servers: int
    """As many as cores and disks want."""

    workers: int
    """Of Citus; 0 where one server is enough."""

    @property
    def machines(self) -> int:
        """Servers, and a standby of each: the one there is, or the workers and a coordinator."""
        return 2 * (self.workers + 1)

    @classmethod
    def of(cls, load: Load, measured: Measured, machine: Machine) -> Self:
        """Do the arithmetic."""
        steps = len(data.STEPS)
        runs_per_day = load.steps_per_day / steps
        runs_per_second = PEAK * runs_per_day / 86400
        payload = load.payload_bytes * steps
        wal = measured.wal_bytes + payload
        events = runs_per_day * (load.keep_days + MONTH) * measured.event_bytes
        row_bytes = measured.disk_bytes - measured.event_bytes + payload
        disk = events + runs_per_day * load.keep_days * row_bytes
        cores = runs_per_second * measured.core_seconds
        citus_cores = cores * citus_factor()

        def machines(cores: float) -> int:
            by_cores = cores / (BUSY * machine.cores)
            return max(1, math.ceil(by_cores), math.ceil(disk / (FULL * machine.disk_bytes)))

        servers = machines(cores)
        rows = 1 + steps + len(data.ARTIFACTS)
        return cls(
            steps_per_second=runs_per_second * steps,
            cores=cores,
            batch_cores=runs_per_second * measured.batch_core_seconds,
            citus_cores=citus_cores,
            wal_bytes_per_second=runs_per_second * wal,
            wal_bytes_per_day=runs_per_day * wal,
            disk_bytes=disk,
            event_bytes=events,
            prune_hours_per_day=runs_per_day * rows / measured.pruned_rows_per_second / 3600,
            servers=servers,
            workers=machines(citus_cores) if servers > 1 else 0,
        )


def citus_factor() -> float:
    """Return by how much dearer a run is on its worker, as if all of a call's time were CPU.

    Its last call, finish_workflow_execution, was not measured and counts as one more advance.
    """
    calls = {"create": 1, "begin": 1, "advance": len(data.STEPS)}
    worker, one = (
        sum(number * times[call] for call, number in calls.items())
        for times in (OWNING_WORKER, ONE_SERVER)
    )
    return worker / one


def newest() -> Results:
    """Read the newest results of the bench."""
    return Results.load(max(FOLDER.glob("*.json")))


def markdown(results: Results, loads: Sequence[Load], machine: Machine) -> str:
    """Return what was measured, and what the loads need, as tables."""
    measured = Measured.of(results)
    needs = [Need.of(load, measured, machine) for load in loads]
    return "\n".join(
        [
            "",
            *_table(["measured", "a run", "a step", "`bench/results`"], _figures(measured)),
            "",
            *_table(
                ["steps a day, days kept", *(_title(load) for load in loads)],
                _needs(needs, machine),
            ),
            "",
        ]
    )


def write_page(results: Results) -> None:
    """Put the tables into the page on scaling."""
    report.write_page(markdown(results, shown(), Machine()), PAGE)


def shown() -> list[Load]:
    """Return the loads that the page shows."""
    return [Load(*pair) for pair in product(STEPS_PER_DAY, KEEP_DAYS)]


def _figures(measured: Measured) -> Iterator[list[str]]:
    steps = len(data.STEPS)
    for name, value, unit, source in (
        ("core, at most", measured.core_seconds, "s", "run, 8 connections: pgbench, x cores"),
        ("core, in batches, at most", measured.batch_core_seconds, "s", "import: batch"),
        ("WAL, but for full pages", measured.wal_bytes, "B", "cost: a run, WAL"),
        ("disk", measured.disk_bytes, "B", "cost: a run, on disk: all"),
        ("of which events", measured.event_bytes, "B", "cost: a run, on disk: events"),
    ):
        yield [name, report.humane(value, unit), report.humane(value / steps, unit), source]
    yield ["rows pruned", f"{measured.pruned_rows_per_second:,.0f}/s", "", "prune: rows"]


def _needs(needs: Sequence[Need], machine: Machine) -> Iterator[list[str]]:
    for name, cells in (
        (f"steps a second at the peak, {PEAK} x the average", [n.steps_per_second for n in needs]),
        ("cores busy then", [n.cores for n in needs]),
        ("if runs are imported in batches", [n.batch_cores for n in needs]),
    ):
        yield [name, *map(_short, cells)]
    for name, cells in (
        ("WAL a second then", [n.wal_bytes_per_second for n in needs]),
        ("WAL a day", [n.wal_bytes_per_day for n in needs]),
        ("disk, before a month is dropped", [n.disk_bytes for n in needs]),
        ("of which events", [n.event_bytes for n in needs]),
    ):
        yield [name, *(_bytes(cell) for cell in cells)]
    yield ["hours to prune a day's runs", *(_short(n.prune_hours_per_day) for n in needs)]
    size = f"{machine.cores:g} cores, {_bytes(machine.disk_bytes)}"
    yield [f"**servers of {size}**", *(f"{n.servers:,}" for n in needs)]
    yield ["Citus workers, at most", *(f"{n.workers:,}" if n.workers else "" for n in needs)]
    yield ["machines, standbys included", *(f"{n.machines:,}" for n in needs)]


def _title(load: Load) -> str:
    number = _scaled(load.steps_per_day, ((1e9, " G"), (1e6, " M"), (1, "")))
    return f"{number}, {load.keep_days:g} days"


def _bytes(value: float) -> str:
    return _scaled(value, ((1e15, " PB"), (1e12, " TB"), (1e9, " GB"), (1e6, " MB")))


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    """Write a number in the largest unit of which there is one, else in the last."""
    size, unit = next((pair for pair in units if value >= pair[0]), units[-1])
    return f"{_short(value / size)}{unit}"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"  # noqa: PLR2004


def _table(headings: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    rows = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for place, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield f"| {' | '.join(cells)} |"
        if place == 0:
            yield f"|{'|'.join('-' * (width + 2) for width in widths)}|"


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0, up to {MOST:g}")
    return number


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.capacity", description=__doc__)
    add = parser.add_argument
    add(
        *("--steps-per-day",),
        type=_amount,
        nargs="+",
        default=STEPS_PER_DAY,
        metavar="STEPS",
        help="steps that are recorded a day, such as 1e8 (default: 1e6 1e8 1e10)",
    )
    add(
        *("--keep-days",),
        type=_amount,
        nargs="+",
        default=KEEP_DAYS,
        metavar="DAYS",
        help="how long runs and events are kept (default: 7 90)",
    )
    add(
        *("--payload-bytes",),
        type=_amount,
        default=0,
        metavar="BYTES",
        help="JSON of a step beyond the bench's, as stored (default: none)",
    )
    add("--cores", type=_amount, default=Machine.cores, help="of a machine (default: 32)")
    add(
        *("--disk-tb",),
        type=_amount,
        default=Machine.disk_bytes / 1e12,
        help="of a machine, in TB (default: 16)",
    )
    add("--publish", action="store_true", help="write the tables of docs/scaling.md")
    return parser.parse_args()


def main() -> int:
    """Run from the command line."""
    options = _options()
    if options.publish:
        write_page(newest())
        print(f"Written: {PAGE}", file=sys.stderr)
        return 0
    loads = [
        Load(steps, days, options.payload_bytes)
        for steps, days in product(options.steps_per_day, options.keep_days)
    ]
    print(markdown(newest(), loads, Machine(options.cores, options.disk_tb * 1e12)).strip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
