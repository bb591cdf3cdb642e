"""Measure the package side by side with its peers: `make bench`, `make bench-quick`.

It starts a PostgreSQL of its own in a temporary directory, durable as by default, and leaves
nothing behind. The full scale takes an hour and 25 GB of disk.
"""

import argparse
import dataclasses
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench import (
    access,
    calls,
    capacity,
    costs,
    details,
    housekeeping,
    imports,
    metrics,
    queues,
    report,
    runs,
    sizes,
    startup,
)
from bench.harness import FULL, QUICK, TINY, running
from bench.results import FOLDER, ROOT, Results, checkout

SECTIONS = {
    "call": calls.measure,
    "detail": details.measure,
    "access": access.measure,
    "run": runs.measure,
    "import": imports.measure,
    "queue": queues.measure,
    "metrics": metrics.measure,
    "housekeeping": housekeeping.measure,
    "startup": startup.measure,
    "cost": costs.measure,
    "size": sizes.measure,
}
SCALES = {scale.name: scale for scale in (TINY, QUICK, FULL)}
WIDTH = 160
"""Of the tables, where no terminal says."""

PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance.svg"


def main() -> int:
    """Run from the command line."""
    options = _options()
    # The server is to be stopped then, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    started, code = datetime.now(UTC), checkout()
    scale = SCALES[options.scale]
    if options.rows:
        scale = dataclasses.replace(scale, histories=tuple(sorted(options.rows)))
    with running(scale) as bench:
        try:
            for name in options.section or SECTIONS:
                print(f"Measuring: {name}", file=sys.stderr, flush=True)
                SECTIONS[name](bench)
        except KeyboardInterrupt:
            print("\nInterrupted: what follows is what was measured so far.", file=sys.stderr)
            report.show(Results.of(bench, started, code), console)
            return 130
        results = Results.of(bench, started, code)
    report.show(results, console)
    if options.publish:
        return _publish(results)
    if options.output:
        results.save(options.output)
    return 0


def _publish(results: Results) -> int:
    """Write the results where the docs show them, if they are those of what is committed."""
    path = FOLDER / f"{results.about['date']}.json"
    if not results.about["is_clean"]:
        path = Path(f"bench-{results.about['date']}.json").resolve()
        results.save(path)
        print(
            f"There are uncommitted changes: the results went to {path}, and the docs stay as they "
            "are. Commit, and measure again.",
            file=sys.stderr,
        )
        return 1
    results.save(path)
    results = Results.load(path)
    report.write_page(report.markdown(results), PAGE)
    report.plot(results, PLOT)
    capacity.write_page(results)
    print(f"Written: {path}, {PAGE}, {PLOT}, {capacity.PAGE}", file=sys.stderr)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add(
        *("section",),
        nargs="*",
        metavar="SECTION",
        help=f"what to measure: {', '.join(SECTIONS)} (default: all)",
    )
    add("--scale", choices=SCALES, default="quick", help="how much (default: quick)")
    add(
        "--rows",
        type=_positive,
        nargs="+",
        metavar="RUNS",
        help="sizes of the histories on which queries are compared, in runs of five steps",
    )
    to = parser.add_mutually_exclusive_group()
    to.add_argument("--output", type=Path, metavar="FILE", help="write the samples, as JSON")
    to.add_argument(
        "--publish",
        action="store_true",
        help="write bench/results/<date>.json and what docs/performance.md and scaling.md show",
    )
    options = parser.parse_args()
    if unknown := set(options.section) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}: {', '.join(SECTIONS)}")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
