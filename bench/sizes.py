"""Each read query on histories of different lengths: the same question, with an answer as long.

The histories are those of tests/plans, each in a database of its own, and differ in how long they
are only: with as many runs a day, as many of them open, as many customers and agents. The shortest
is of 5 days, so one of a hundred times as many runs is of 500, which makes `events` and
`agent_metrics` tables of 22 partitions instead of 6. Windows of time are the last two days.

Each generated function that gets, lists, counts or reads is called as tests/plans calls it: for
the largest customer, for the smallest, and for all where it takes that. A sample is the time of a
call, in Python and in the database. A round makes each call once on each history, in random order,
on connections that stay open, after calls by which statements are prepared and pages in memory.
Slow calls are in the first rounds only.

"size: <query>, <customer>" is a comparison, with the number of runs as the case. "size, generic
plans: ..." is the same with plan_cache_mode = force_generic_plan: without it PostgreSQL takes the
plan that a statement was prepared with for some queries on a short history, and plans anew at each
call on a longer one, where it thinks that worth it. Either is in "whole history, ..." where the
question is not the same: where its window begins before the shortest history; where it has none,
and the answers are not as long, as of what fills no page in a short history; and for the sizes of
all tables, indexes and partitions.
"""

import inspect
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg

from bench.harness import Bench, say
from optiinfra_db import connect
from tests.plans import history
from tests.plans.cases import BEFORE, Arguments, Sample, arguments
from tests.plans.explain import function_of, promises

KINDS = {"size": "auto", "size, generic plans": "force_generic_plan"}
"""How PostgreSQL is to plan."""

READS = [
    name
    for name in promises()
    if name.partition(".")[2].startswith(("get_", "list_", "count_", "read_"))
]
OF_EVERYTHING = {
    "monitoring.list_table_sizes",
    "monitoring.list_index_sizes",
    "monitoring.list_partition_sizes",
}
DAYS = 5
"""Of the shortest history."""

PAGE = 20
"""Rows of a page: so many there are in the shortest history, too, of most that is asked for."""

WARM_UP = 12
"""Calls, after which PostgreSQL has chosen whether to plan anew each time."""

ROUNDS = 2
"""How many times as many as the scale says: the 95th percentile needs more calls than a median."""

SECONDS = 1.5
"""How long a call is repeated on one history, at most."""

AS_LONG = 1.25
"""By how much answers may differ in length."""

PREWARM = """
CREATE EXTENSION pg_prewarm;
SELECT sum(pg_prewarm(oid, 'read')) FROM pg_class WHERE relkind IN ('r', 'i', 't')
"""


@dataclass(frozen=True)
class History:
    """A history, and rows of it to call functions with."""

    runs: int
    conn: psycopg.Connection[Any]
    largest: Sample
    smallest: Sample

    def calls(self, name: str) -> dict[str, Arguments]:
        """Return the arguments of each call of a query, by what tells it from the others."""
        parameters = inspect.signature(function_of(name)).parameters
        found: dict[str, list[Arguments]] = {}
        with suppress(LookupError):  # who has few rows may have none of a kind
            calls = arguments(self.largest, name, parameters)
            if "customer_id" not in parameters:
                found[name] = calls
            else:
                found[f"{name}, largest customer"] = calls
                if parameters["customer_id"].default is None:
                    found[f"{name}, all"] = [call | {"customer_id": None} for call in calls]
                found[f"{name}, smallest customer"] = arguments(self.smallest, name, parameters)
        return {
            f"{title}, {number}" if number > 1 else title: call | _page(call)
            for title, calls in found.items()
            for number, call in enumerate(calls, start=1)
        }


@dataclass
class Question:
    """A query and its arguments, put to each history."""

    title: str
    calls: Mapping[str, Callable[[], object]]
    """By the number of runs."""

    seconds: float = 0.0
    """That it took so far."""


def measure(bench: Bench) -> None:
    """Measure."""
    least = min(bench.scale.histories)
    with ExitStack() as stack:
        urls = {
            # The largest first, as it takes longest, and what is alive in a history ages.
            runs: stack.enter_context(_database(bench, runs, DAYS * runs // least))
            for runs in sorted(bench.scale.histories, reverse=True)
        }
        with bench.apart():
            questions = []
            for kind, mode in KINDS.items():
                conns = {
                    runs: stack.enter_context(_connect(url, mode)) for runs, url in urls.items()
                }
                histories = [
                    History(runs, conn, Sample(conn, "Customer 1"), Sample(conn, "Customer 50"))
                    for runs, conn in conns.items()
                ]
                questions += [
                    question for name in READS for question in _ask(kind, name, histories)
                ]
            _measure(bench, questions)


@contextmanager
def _database(bench: Bench, runs: int, days: int) -> Iterator[str]:
    say(f"sizes: a history of {runs} runs")
    with bench.database() as url:
        history.build(url, runs, days=days)
        with connect(url) as conn:
            for name in BEFORE.keys() & set(READS):
                conn.execute(BEFORE[name].encode())
            conn.execute("VACUUM ANALYZE")
            conn.execute("CHECKPOINT")
            conn.execute(PREWARM)
        yield url


@contextmanager
def _connect(url: str, plan_cache_mode: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(url) as conn:
        conn.prepared_max = 10 * len(READS)
        conn.execute("SELECT set_config('plan_cache_mode', %s, false)", [plan_cache_mode])
        yield conn


def _ask(kind: str, name: str, histories: list[History]) -> Iterator[Question]:
    """Call a query in each of its ways, and see whether the answers can be compared."""
    function = function_of(name)
    found = {one: one.calls(name) for one in histories}
    for title in sorted(set.intersection(*map(set, found.values()))):
        say(f"sizes: {title}")
        calls = {
            str(one.runs): partial(function, one.conn, **given[title])
            for one, given in found.items()
        }
        lengths = [[_length(call()) for _ in range(WARM_UP)][-1] for call in calls.values()]
        windows = [_window(given[title], one) for one, given in found.items()]
        is_same = name not in OF_EVERYTHING and (
            max(windows) <= timedelta(days=DAYS)
            if any(windows)
            else max(lengths) <= AS_LONG * min(lengths)
        )
        yield Question(f"{'' if is_same else 'whole history, '}{kind}: {title}", calls)


def _length(answer: object) -> int:
    return len(answer) if isinstance(answer, list) else int(answer is not None)


def _window(given: Arguments, one: History) -> timedelta:
    """Return how far a call looks back, where it says so."""
    return one.largest.now - given["since"] if "since" in given else timedelta()


def _page(given: Arguments) -> Arguments:
    return {"max_rows": min(given["max_rows"], PAGE)} if "max_rows" in given else {}


def _measure(bench: Bench, questions: list[Question]) -> None:
    rounds = ROUNDS * bench.scale.calls
    for number in range(1, rounds + 1):
        say(f"sizes: round {number} of {rounds}")
        for question in random.sample(questions, len(questions)):
            if question.seconds > SECONDS * len(question.calls):
                continue
            for runs in random.sample(list(question.calls), len(question.calls)):
                started = time.perf_counter()
                question.calls[runs]()
                seconds = time.perf_counter() - started
                question.seconds += seconds
                bench.record(question.title, runs, seconds)
