"""What the package is to reach, and where a run of the bench stands."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.results import Figure, Results, percentile

CALLS = ("call: get a run", "call: list 50 runs", "call: transition")


@dataclass(frozen=True)
class Goal:
    """A bound on figures: each of them is to keep to it."""

    measure: str
    sign: str
    """`<=` or `>=`."""

    bound: float
    figures: Callable[[Results], Iterator[tuple[str, Figure | None]]]
    """What is measured, each with a label."""

    unit: str = "x"


@dataclass(frozen=True)
class Standing:
    """A goal, and one of its figures."""

    goal: Goal
    label: str
    figure: Figure

    @property
    def is_met(self) -> bool:
        """Say whether the figure keeps to the bound."""
        value, bound = self.figure.value, self.goal.bound
        return value <= bound if self.goal.sign == "<=" else value >= bound


def standings(results: Results) -> list[Standing]:
    """Return the figures of all goals for which there are samples."""
    return [
        Standing(goal, label, figure)
        for goal in GOALS
        for label, figure in goal.figures(results)
        if figure
    ]


def _ratio(
    comparisons: tuple[str, ...], over: str, under: str
) -> Callable[[Results], Iterator[tuple[str, Figure | None]]]:
    def figures(results: Results) -> Iterator[tuple[str, Figure | None]]:
        for comparison in comparisons:
            yield f"{comparison}", results.ratio(comparison, over, under)

    return figures


def _of(comparison: str, case: str) -> Callable[[Results], Iterator[tuple[str, Figure | None]]]:
    def figures(results: Results) -> Iterator[tuple[str, Figure | None]]:
        yield comparison, results.figure(comparison, case)

    return figures


def _growth(kind: str) -> Callable[[Results], Iterator[tuple[str, Figure | None]]]:
    """Compare each read query on the largest history with the same on the least."""

    def figures(results: Results) -> Iterator[tuple[str, Figure | None]]:
        for comparison in results.comparisons:
            if comparison.startswith(f"{kind}: "):
                cases = sorted(results.samples(comparison).items(), key=lambda case: int(case[0]))
                (_, least), (_, largest) = cases[0], cases[-1]
                half, most = (
                    percentile(largest, share) / percentile(least, share) for share in (0.5, 0.95)
                )
                figure = Figure(most, min(half, most), max(half, most))
                yield comparison.removeprefix(f"{kind}: "), figure

    return figures


def _flatness(results: Results) -> Iterator[tuple[str, Figure | None]]:
    """Compare how long readers wait for the drop of the largest partition and of the least."""
    cases = sorted(results.samples("partition drop, wait"), key=int)
    if cases:
        yield "partition drop, wait", results.ratio("partition drop, wait", cases[-1], cases[0])


def _beyond_psycopg(results: Results) -> Iterator[tuple[str, Figure | None]]:
    """Return what an import takes beyond that of psycopg."""
    for case in ("optiinfra_db.generated", "one module", "all modules"):
        yield f"start-up: {case}", results.figure("start-up", case)


GOALS = (
    Goal("generated / RawCursor by hand", "<=", 1.05, _ratio(CALLS, "generated", "raw cursor")),
    Goal("generated / asyncpg", "<=", 0.95, _ratio(CALLS, "generated", "asyncpg")),
    Goal("generated async / asyncpg", "<=", 1.15, _ratio(CALLS, "generated async", "asyncpg")),
    Goal("generated / SQLAlchemy Core", "<=", 0.5, _ratio(CALLS, "generated", "sqlalchemy core")),
    Goal("generated / SQLAlchemy ORM", "<=", 0.35, _ratio(CALLS, "generated", "sqlalchemy orm")),
    Goal("generated / pgbench", "<=", 1.3, _ratio(CALLS[2:], "generated", "pgbench")),
    Goal("DBOS / ours", ">=", 10, _ratio(("run, 1 connection",), "dbos", "generated")),
    Goal(
        *("ORM / ours", ">=", 10),
        _ratio(("run, 1 connection", "run, 8 connections"), "orm", "generated"),
    ),
    Goal("ORM / record, a run each", ">=", 10, _ratio(("import",), "orm", "record")),
    Goal("ORM / batch", ">=", 20, _ratio(("import",), "orm", "batch")),
    Goal("ours / psql \\copy", "<=", 1.6, _ratio(("metrics: copy",), "generated", "psql \\copy")),
    Goal("ORM lazy / ours", ">=", 10, _ratio(("detail",), "orm lazy", "generated")),
    Goal("tenant / owner", "<=", 1.1, _ratio(("access: get a run",), "tenant", "owner")),
    Goal("p95 on the longest / shortest history", "<=", 1.5, _growth("size")),
    Goal("the same, with generic plans", "<=", 1.5, _growth("size, generic plans")),
    Goal("procrastinate / ours", ">=", 2, _ratio(("queue",), "procrastinate", "generated")),
    Goal(
        *("pgqueuer / ours, one at a time", ">=", 2),
        _ratio(("queue",), "pgqueuer, one at a time", "generated"),
    ),
    Goal(
        *("pgqueuer / ours, 10 at a time", ">=", 2),
        _ratio(("queue",), "pgqueuer", "generated, 10 at a time"),
    ),
    Goal("wait for the drop of the largest / least partition", "<=", 1.5, _flatness),
    Goal("prune", ">=", 50_000, _of("prune", "rows"), "rows/s"),
    Goal("migrate an empty database", "<=", 0.5, _of("migrate", "empty database"), "s"),
    Goal("import, beyond psycopg", "<=", 0.06, _beyond_psycopg, "s"),
)
