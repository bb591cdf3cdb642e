"""The long history, and what each query does on it."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from optiinfra_db import connect

from .cases import BEFORE, RUNS_ONCE, Arguments, Sample, arguments
from .explain import MODES, Explainer, Promise, Seen, function_of, names_in, promises, value_of

QUANTITIES = {
    "agents": "SELECT count(*) FROM agents",
    "api_keys": "SELECT count(*) FROM api_keys WHERE customer_id = %(customer_id)s",
    "all_steps": "SELECT count(*) FROM workflow_steps",
    "approvals": "SELECT 10",
    "artifacts": "SELECT 10",
    "attempts": "SELECT 10",
    "capabilities": "SELECT count(*) FROM agent_capabilities",
    "configs": "SELECT count(*) FROM agent_configs",
    "customers": "SELECT count(*) FROM customers",
    "events": "SELECT count(*) FROM events",
    "events_of_others": "SELECT count(*) FROM events WHERE xact_id > '0' "
    "AND customer_id != %(customer_id)s AND (xact_id, id) > ("
    "%(after_xact_id)s::text::xid8, %(after_id)s)",
    "holds": "SELECT count(*) FROM customers",
    "metric_names": "SELECT count(DISTINCT metric_name) FROM agent_metrics "
    "WHERE agent_id = %(agent_id)s",
    "hour_runs": "SELECT count(*) FROM workflow_executions "
    "WHERE completed_at >= now() - interval '1 hour'",
    "open_recommendations": "SELECT count(*) FROM recommendations WHERE "
    "customer_id = %(customer_id)s AND status IN ('pending', 'approved', 'executing')",
    "open_runs": "SELECT count(*) FROM workflow_executions WHERE status IN ('pending', 'running')",
    "optimizations": "SELECT 10",
    "partitions": "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass",
    "pending_approvals": "SELECT count(*) FROM approvals WHERE "
    "customer_id = %(customer_id)s AND status = 'pending'",
    "pending_runs": "SELECT count(*) FROM workflow_executions WHERE status = 'pending'",
    "policies": "SELECT 1",
    "recommendations": "SELECT 10",
    "recent_runs": "SELECT count(*) FROM workflow_executions "
    "WHERE customer_id = %(customer_id)s AND completed_at >= %(since)s",
    "running_runs": "SELECT count(*) FROM workflow_executions WHERE status = 'running'",
    "runs": "SELECT count(*) FROM workflow_executions",
    "sealed_events": "SELECT 500",
    "seals": "SELECT 100",
    "states": "SELECT count(*) FROM agent_states",
    "steps": "SELECT 10",
    "waiting_events": "SELECT count(*) FROM events "
    "WHERE xact_id >= pg_snapshot_xmin(pg_current_snapshot())",
    "window_metrics": "SELECT count(*) FROM agent_metrics WHERE agent_id = %(agent_id)s "
    "AND metric_name = %(metric_name)s AND recorded_at >= %(since)s AND recorded_at < %(until)s",
    "window_recommendations": "SELECT count(*) FROM recommendations "
    "WHERE created_at >= %(since)s AND created_at < %(until)s "
    "AND (%(customer_id)s::uuid IS NULL OR customer_id = %(customer_id)s)",
    "window_runs": "SELECT count(*) FROM workflow_executions "
    "WHERE completed_at >= %(since)s AND completed_at < %(until)s "
    "AND (%(customer_id)s::uuid IS NULL OR customer_id = %(customer_id)s)",
}
"""What a bound may speak of, beside the parameters; docs/plans.md says it in words."""

OBSERVED = pytest.StashKey[dict[str, "list[Observation]"]]()


@dataclass(frozen=True)
class Observation:
    """What a query did in one call, and what it promised to keep to."""

    mode: str
    arguments: Arguments
    has_work: bool
    result: Any
    own: Seen
    nested: Seen
    rows_bound: float
    buffers_bound: float


def assert_kept(promise: Promise, bounds: Observation, own: Seen, nested: Seen, where: str) -> None:
    """Compare what a call and its triggers did to what the query promised."""
    assert own.indexes <= promise.indexes, f"an index that is not named, {where}"
    assert own.scanned <= promise.whole, f"a large table read whole, {where}"
    assert nested.scanned <= promise.whole, f"by a trigger:{nested.plan}"
    assert own.rows <= bounds.rows_bound, f"too many rows, {where}"
    assert own.buffers <= bounds.buffers_bound, f"too many buffers, {where}"


@pytest.fixture(scope="session")
def history_conn(history_url: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(history_url) as conn:
        yield conn


@pytest.fixture(scope="session")
def explainer(history_conn: psycopg.Connection[Any]) -> Explainer:
    return Explainer(history_conn)


@pytest.fixture(scope="session")
def largest(history_conn: psycopg.Connection[Any]) -> Sample:
    return Sample(history_conn, "Customer 1")


@pytest.fixture(scope="session")
def smallest(history_conn: psycopg.Connection[Any]) -> Sample:
    return Sample(history_conn, "Customer 50")


@pytest.fixture(scope="session")
def observe(
    history_conn: psycopg.Connection[Any],
    explainer: Explainer,
    largest: Sample,
    smallest: Sample,
    pytestconfig: pytest.Config,
) -> Callable[[str], list[Observation]]:
    """Call a query in all its ways, and say what each call did."""
    promised = promises()
    known: dict[str, list[Observation]] = {}
    pytestconfig.stash[OBSERVED] = known

    def bound(expression: str, given: Arguments) -> float:
        quantities = {
            key: len(value) if isinstance(value, list) else value
            for key, value in given.items()
            if isinstance(value, int | float | list)
        }
        for name in names_in(expression) - set(quantities):
            values = {"customer_id": None} | given
            row = history_conn.execute(QUANTITIES[name].encode(), values).fetchone()
            assert row is not None
            quantities[name] = row[0]
        return value_of(expression, quantities)

    def call(name: str) -> Iterator[Observation]:
        promise = promised[name] or Promise()
        parameters = inspect.signature(function_of(name)).parameters
        calls = [(given, True) for given in arguments(largest, name, parameters)]
        if "customer_id" in parameters:
            if parameters["customer_id"].default is None:
                calls += [(given | {"customer_id": None}, True) for given, _ in calls]
            with suppress(LookupError):  # who has few rows may have none of a kind
                calls += [(given, False) for given in arguments(smallest, name, parameters)]
        for given, has_work in calls:
            rows_bound = bound(promise.rows, given)
            for mode in MODES[:1] if name in RUNS_ONCE else MODES:
                result, own, nested = explainer.call(name, mode, given, BEFORE.get(name, ""))
                # A row costs the descent of an index and its page; a write its indexes, and the
                # catalogues on a first call.
                base = 300 if own.has_written else 60
                buffers_bound = (
                    bound(promise.buffers, given) if promise.buffers else base + 8 * rows_bound
                )
                yield Observation(
                    mode, given, has_work, result, own, nested, rows_bound, buffers_bound
                )

    def observed(name: str) -> list[Observation]:
        if name not in known:
            known[name] = list(call(name))
        return known[name]

    return observed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of plans, where it was asked for."""
    config = terminalreporter.config
    if not config.getoption("--plans"):
        return
    terminalreporter.section("plans")
    for line in table(config.stash.get(OBSERVED, {})):
        terminalreporter.write_line(line)


def table(observed: Mapping[str, list[Observation]]) -> Iterator[str]:
    """Lay out what the queries did, a line a query and mode, with the worst of its calls."""
    yield (
        f"{'query':60} {'mode':7} {'rows':>8} {'bound':>9} {'set off':>8} {'buffers':>8} {'ms':>9}"
        "  plan"
    )
    for name, observations in observed.items():
        for mode in dict.fromkeys(call.mode for call in observations):
            calls = [call for call in observations if call.mode == mode]
            worst = max(calls, key=lambda call: call.own.buffers)
            plan = ", ".join(sorted(set().union(*(call.own.indexes for call in calls)))) or "-"
            yield (
                f"{name:60} {mode:7} {worst.own.rows:8} {worst.rows_bound:9.0f} "
                f"{worst.nested.rows:8} "
                f"{worst.own.buffers:8} {worst.own.milliseconds:9.2f}  {plan}"
            )
