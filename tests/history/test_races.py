"""What holds when several connections change one row at the same moment, each committing.

Whatever the functions do to one another, it must end as if they had been called one after the
other in some order. So that is what is compared: the results and the rows that a race leaves with
those that the same calls leave in each order, which are found out by making them in turn. Two
winners, a lost write, a step left open or an event too many match no order.

What a function may do beyond that, because its documentation says so, stands with it in `CALLS`.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count, product
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import IsolationLevel

from optiinfra_db import connect
from optiinfra_db.generated import (
    agents,
    approvals,
    customers,
    optimizations,
    recommendations,
    workflow_artifacts,
    workflow_executions,
    workflow_steps,
)
from optiinfra_db.generated.models import AgentType, ApprovalStatus, WorkflowType

from ..conftest import cloned_database
from .races_support import (
    ARTIFACT,
    DEADLOCK,
    REFUSED,
    SERIALIZATION_FAILURE,
    Plan,
    arrange,
    findings,
    observe,
    sqlstate,
)

WRITERS = 6
ERROR = {"message": "x"}
FOREIGN_KEY_VIOLATION = "23503"
UNIQUE_VIOLATION = "23505"


@dataclass(frozen=True)
class Call:
    """A function with its arguments for a scene."""

    name: str
    make: Callable[[Any, Any], Any]
    instead: Callable[[Any, Any], Any] | None = None
    """What it may do instead where others write the same rows at the moment."""
    refused: frozenset[str] = frozenset()
    """The SQLSTATEs with which a race may refuse it, nothing being written."""
    can_repeat: bool = False
    """Whether several callers may be told the same."""
    upsets: frozenset[str] = frozenset()
    """The SQLSTATEs with which a race with it may refuse whichever call, itself included."""
    needs_overdue: bool = False
    plans: frozenset[str] | None = None
    """The plans from which it is raced; all if None."""

    def __repr__(self):
        return self.name


def of_run(function, **arguments):
    return lambda conn, scene: function(conn, **scene.run_key(), **arguments)


def of_step(function, number=2, **arguments):
    return lambda conn, scene: function(conn, **scene.step_attempt(number), **arguments)


def of_optimization(function, number=1, **arguments):
    return lambda conn, scene: function(
        conn, **scene.of_customer(scene.optimization_ids[number - 1]), **arguments
    )


def of_recommendation(function, **arguments):
    return lambda conn, scene: function(
        conn, **scene.of_customer(scene.recommendation_id), **arguments
    )


def of_approval(function, **arguments):
    return lambda conn, scene: function(conn, **scene.of_customer(scene.approval_id), **arguments)


def start_step(number):
    return lambda conn, scene: workflow_steps.start_workflow_step(conn, **scene.step_key(number))


def complete_only(conn, scene):
    completed = workflow_steps.complete_workflow_step(conn, **scene.step_attempt(2))
    return [completed] if completed else []


def complete_with_artifact(conn, scene):
    completed = complete_only(conn, scene)
    if completed:
        workflow_artifacts.register_workflow_artifact(
            conn,
            customer_id=scene.customer_id,
            workflow_execution_id=scene.run_id,
            workflow_step_id=scene.step_ids[1],
            **ARTIFACT | {"sha256": bytes.fromhex(ARTIFACT["sha256"])},
        )
    return completed


def finish(conn, scene):
    step = scene.step_attempt(2)
    return workflow_executions.finish_workflow_execution(
        conn,
        **scene.run_key(),
        workflow_step_id=step["id"],
        retry_count=step["retry_count"],
        artifacts=[ARTIFACT],
    )


def calls(*found):
    return {call.name: call for call in found}


# These lock the customer or the agent and then all that is theirs; every transition locks its row
# and then, for the audit log, the customer and the agent. Whoever loses is to try again.
OWNER_CALLS = [
    Call(
        "delete_customer",
        lambda conn, scene: customers.delete_customer(conn, id=scene.customer_id),
        upsets=frozenset({DEADLOCK}),
        plans=frozenset({"pending", "running", "failed", "executing"}),
    ),
    Call(
        "delete_agent",
        lambda conn, scene: agents.delete_agent(conn, id=scene.agent_id),
        upsets=frozenset({DEADLOCK}),
        plans=frozenset({"pending", "running", "failed", "executing"}),
    ),
]

RUN_CALLS = calls(
    Call("start", of_run(workflow_executions.start_workflow_execution)),
    Call("begin", of_run(workflow_executions.begin_workflow_execution)),
    Call(
        "claim",
        lambda conn, scene: workflow_executions.claim_workflow_execution(
            conn, agent_id=scene.agent_id
        ),
        instead=lambda *_: None,
    ),
    Call(
        "heartbeat",
        of_run(workflow_executions.heartbeat_workflow_execution, attempt=1),
        can_repeat=True,
    ),
    Call("complete", of_run(workflow_executions.complete_workflow_execution, attempt=1)),
    Call("finish", finish),
    Call(
        "fail", of_run(workflow_executions.fail_workflow_execution, attempt=1, error_details=ERROR)
    ),
    Call("cancel", of_run(workflow_executions.cancel_workflow_execution, reason="x")),
    Call(
        "time_out",
        lambda conn, _: workflow_executions.time_out_workflow_executions(
            conn, max_rows=10, heartbeat_timeout=timedelta(minutes=30)
        ),
        instead=lambda *_: [],
        needs_overdue=True,
    ),
    Call(
        "time_out_one",
        of_run(workflow_executions.time_out_workflow_execution),
        needs_overdue=True,
    ),
    Call("retry", of_run(workflow_executions.retry_workflow_execution), can_repeat=True),
    Call(
        "retry_failed",
        lambda conn, scene: workflow_executions.retry_failed_workflow_executions(
            conn,
            customer_id=scene.customer_id,
            workflow_type=WorkflowType.COST_ANALYSIS,
            since=datetime(2026, 1, 1, tzinfo=UTC),
            max_rows=10,
        ),
    ),
    Call("delete", of_run(workflow_executions.delete_workflow_execution)),
    Call(
        "add_step",
        lambda conn, scene: workflow_steps.add_workflow_step(
            conn,
            customer_id=scene.customer_id,
            workflow_execution_id=scene.run_id,
            step_name="late",
        ),
        can_repeat=True,
        refused=frozenset({UNIQUE_VIOLATION}),
    ),
    Call("start_step", start_step(2)),
    Call("start_next_step", start_step(3)),
    Call("complete_step", of_step(workflow_steps.complete_workflow_step)),
    Call(
        "put_back_step",
        of_step(
            workflow_steps.fail_workflow_step,
            retryable=True,
            backoff_base_seconds=3600,
            backoff_cap_seconds=3600,
            error_details=ERROR,
        ),
    ),
    Call(
        "fail_step",
        of_step(workflow_steps.fail_workflow_step, retryable=False, error_details=ERROR),
    ),
    Call("skip_first_step", of_step(workflow_steps.skip_workflow_step, number=1)),
    Call("skip_step", of_step(workflow_steps.skip_workflow_step)),
    Call("skip_next_step", of_step(workflow_steps.skip_workflow_step, number=3)),
    Call("advance_step", of_step(workflow_steps.advance_workflow_step), instead=complete_only),
    Call(
        "advance_step_with_artifact",
        of_step(workflow_steps.advance_workflow_step, artifacts=[ARTIFACT]),
        instead=complete_with_artifact,
    ),
    *OWNER_CALLS,
)

RUN_PLANS = {
    "pending": Plan("pending", ("pending", "pending", "pending")),
    "started": Plan("running", ("completed", "pending", "pending")),
    "running": Plan("running", ("completed", "running", "pending")),
    "retrying": Plan("running", ("completed", "retrying", "pending")),
    "last": Plan("running", ("completed", "running", "skipped")),
    "done": Plan("running", ("completed", "completed", "skipped")),
    "completed": Plan("completed", ("completed", "completed", "skipped")),
    "failed": Plan("failed", ("completed", "failed", "skipped")),
    "timeout": Plan("timeout", ("completed", "failed", "skipped")),
    "cancelled": Plan("cancelled", ("completed", "failed", "skipped")),
}

RECOMMENDATION_CALLS = calls(
    Call("approve", of_recommendation(recommendations.approve_recommendation)),
    Call("reject", of_recommendation(recommendations.reject_recommendation)),
    Call("delete", of_recommendation(recommendations.delete_recommendation)),
    Call(
        "decide_approved",
        of_approval(approvals.decide_approval, status=ApprovalStatus.APPROVED, approved_by="Ada"),
    ),
    Call(
        "decide_rejected",
        of_approval(approvals.decide_approval, status=ApprovalStatus.REJECTED, approved_by="Bob"),
    ),
    Call("delete_approval", of_approval(approvals.delete_approval)),
    Call("start", of_optimization(optimizations.start_optimization)),
    Call("start_other", of_optimization(optimizations.start_optimization, number=2)),
    Call(
        "progress",
        of_optimization(optimizations.update_optimization_progress, progress=50),
        can_repeat=True,
    ),
    Call("complete", of_optimization(optimizations.complete_optimization)),
    Call("fail", of_optimization(optimizations.fail_optimization, error="x")),
    Call("fail_other", of_optimization(optimizations.fail_optimization, number=2, error="x")),
    Call("roll_back", of_optimization(optimizations.roll_back_optimization)),
    Call("delete_optimization", of_optimization(optimizations.delete_optimization)),
    Call("delete_run", of_run(workflow_executions.delete_workflow_execution)),
    *OWNER_CALLS,
)

RECOMMENDATION_PLANS = {
    status: Plan(
        run="completed",
        recommendation=status,
        approval=approval,
        optimizations=(optimization, "queued"),
        is_linked=True,
    )
    for status, approval, optimization in [
        ("pending", "pending", "queued"),
        ("approved", "approved", "queued"),
        ("rejected", "rejected", "queued"),
        ("executing", "approved", "executing"),
        ("completed", "approved", "completed"),
        ("failed", "approved", "failed"),
    ]
}

ALL_CALLS = {"run": RUN_CALLS, "recommendation": RECOMMENDATION_CALLS}
ALL_PLANS = {"run": RUN_PLANS, "recommendation": RECOMMENDATION_PLANS}

GATES = {
    "run": {
        "the run": "SELECT FROM workflow_executions WHERE customer_id = %s AND id = %s FOR UPDATE",
        "its first step": "SELECT FROM workflow_steps WHERE customer_id = %s"
        " AND workflow_execution_id = %s AND step_order = 1 FOR UPDATE",
        "its second step": "SELECT FROM workflow_steps WHERE customer_id = %s"
        " AND workflow_execution_id = %s AND step_order = 2 FOR UPDATE",
        "its third step": "SELECT FROM workflow_steps WHERE customer_id = %s"
        " AND workflow_execution_id = %s AND step_order = 3 FOR UPDATE",
        "the audit log": "SELECT FROM customers WHERE id = %s AND %s IS NOT NULL FOR UPDATE",
    },
    "recommendation": {
        "the recommendation": "SELECT FROM recommendations"
        " WHERE customer_id = %s AND workflow_execution_id = %s FOR UPDATE",
        "its approval": "SELECT FROM approvals WHERE customer_id = %s AND %s IS NOT NULL"
        " FOR UPDATE",
        "its optimizations": "SELECT FROM optimizations"
        " WHERE customer_id = %s AND workflow_execution_id = %s FOR UPDATE",
        "the audit log": "SELECT FROM customers WHERE id = %s AND %s IS NOT NULL FOR UPDATE",
    },
}
"""Rows that a race queues up behind, so that all of it happens in one moment."""


# How the calls of a race are made.
AT_ONCE, IN_TRANSACTIONS, IN_SNAPSHOTS = "at once", "in transactions", "in snapshots"


def said(result, scene):
    """Return what a result says, without ids and times."""
    if isinstance(result, list):
        return tuple(said(row, scene) for row in result)
    if result is None or isinstance(result, int | str):
        return result
    subject = scene.names.get(str(result.id), "another")
    details = [getattr(result, name, None) for name in ("attempt", "retry_count", "step_order")]
    return (subject, str(result.status), *details)


class Writers:
    """Connections with a thread each, that make their calls together."""

    def __init__(self, url, number=WRITERS):
        self.url = url
        self.connections = [connect(url) for _ in range(number)]
        for conn in self.connections:
            # A deadlock is to show soon, and a wait for ever not to last for ever.
            conn.execute("SET deadlock_timeout = '100ms'")
            conn.execute("SET statement_timeout = '30s'")
        self.main = connect(url)
        self.main.execute("SET plan_cache_mode = force_custom_plan")
        self.gate = connect(url)
        self.executor = ThreadPoolExecutor(number)
        self.pids = [conn.info.backend_pid for conn in self.connections]

    def close(self):
        self.executor.shutdown()
        for conn in (*self.connections, self.main, self.gate):
            conn.close()

    def race(self, makers, scene, how=AT_ONCE, gate=None):
        """Make the calls at once, behind a locked row where one is given; return what they say."""
        barrier = threading.Barrier(len(makers))

        def run(conn, make):
            try:
                if how == AT_ONCE:
                    barrier.wait()
                    return said(make(conn, scene), scene)
                isolation = IsolationLevel.REPEATABLE_READ if how == IN_SNAPSHOTS else None
                conn.set_isolation_level(isolation)
                with conn.transaction():
                    conn.execute("SELECT")  # takes the snapshot
                    barrier.wait()
                    result = make(conn, scene)
                    if how == IN_TRANSACTIONS:
                        time.sleep(random.uniform(0, 0.001))
                return said(result, scene)
            except REFUSED as error:
                return f"SQLSTATE {sqlstate(error)}"
            finally:
                conn.set_isolation_level(None)

        if gate is None:
            return list(self.executor.map(run, self.connections, makers))
        with self.gate.transaction():
            self.gate.execute(gate, [scene.customer_id, scene.run_id])
            futures = [
                self.executor.submit(run, conn, make)
                for conn, make in zip(self.connections, makers, strict=True)
            ]
            self.await_queue(futures)
        return [future.result() for future in futures]

    def await_queue(self, futures, pids=None, seconds=0.2):
        """Wait until each call has ended or waits for a lock."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            (waiting,) = self.main.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE pid = ANY(%s) AND wait_event_type = 'Lock'",
                [pids or self.pids],
            ).fetchone()
            if waiting + sum(future.done() for future in futures) >= len(futures):
                return


class Orders:
    """What calls say and leave when they are made one after the other, in each order."""

    def __init__(self, conn, calls):
        self.conn = conn
        self.calls = calls
        self.paths = {}  # (plan, what was observed) -> the calls that lead there
        self.steps = {}  # (plan, what was observed, a call) -> what it says, what it leaves
        self.ends = {}
        self.begun = {}
        customer = customers.create_customer(
            conn, name="Ada", email=f"{uuid4()}@example.com", api_key_hash=uuid4().bytes * 2
        )
        agent = agents.upsert_agent(conn, type=AgentType.COST, name=str(uuid4()), version="1")
        self.owner = {"customer_id": customer.id, "agent_id": agent.id}

    def begin(self, plan):
        """Return what is observed of a plan before any call."""
        if plan not in self.begun:
            with self.undone():
                self.begun[plan] = observe(self.conn, arrange(self.conn, plan, self.owner))
            self.paths[plan, self.begun[plan]] = ()
        return self.begun[plan]

    def step(self, plan, observed, move):
        """Return what a move (a call, and whether it acts instead) says, and what it leaves."""
        if (plan, observed, move) not in self.steps:
            path = self.paths[plan, observed]
            moves = {move}
            # What stands near the beginning is asked about by every race.
            if len(path) < (1 if plan.is_overdue else 2):
                moves |= {(name, False) for name in self.calls}
            with self.undone():
                scene = arrange(self.conn, plan, self.owner)
                for earlier in path:
                    self.make(earlier, scene)
                self.conn.execute("SAVEPOINT before")
                for each in moves:
                    result = self.make(each, scene)
                    after = observe(self.conn, scene)
                    self.conn.execute("ROLLBACK TO SAVEPOINT before")
                    self.steps[plan, observed, each] = result, after
                    self.paths.setdefault((plan, after), (*path, each))
        return self.steps[plan, observed, move]

    def make(self, move, scene):
        name, is_instead = move
        call = self.calls[name]
        self.conn.execute("SAVEPOINT made")
        try:
            return said((call.instead if is_instead else call.make)(self.conn, scene), scene)
        except REFUSED as error:
            self.conn.execute("ROLLBACK TO SAVEPOINT made")
            return f"SQLSTATE {sqlstate(error)}"

    @contextmanager
    def undone(self):
        with self.conn.transaction(force_rollback=True):
            yield

    def all_ends(self, plan, made, *, is_busy):
        """Return every end of calls (a Counter of names): what they say, and what they leave."""
        key = (plan, frozenset(made.items()), is_busy)
        if key not in self.ends:
            self.ends[key] = self._ends(plan, self.begin(plan), made, is_busy, {})
        return self.ends[key]

    def _ends(self, plan, observed, made, is_busy, known):
        """Return the ends of the calls that are still to be made, from a state on."""
        key = observed, frozenset(made.items())
        if key not in known:
            ends = known[key] = set()
            if not made:
                ends.add((observed, frozenset()))
            for name in made:
                options = {self.step(plan, observed, (name, False))}
                if is_busy and self.calls[name].instead:
                    options.add(self.step(plan, observed, (name, True)))
                for result, after in options:
                    for left, others in self._ends(
                        plan, after, made - Counter([name]), is_busy, known
                    ):
                        says = Counter(dict(others)) + Counter([(name, result)])
                        ends.add((left, frozenset(says.items())))
        return known[key]


@pytest.fixture(scope="module")
def url(migrated_template):
    with cloned_database(migrated_template) as url:
        yield url


@pytest.fixture(scope="module")
def writers(url):
    writers = Writers(url)
    yield writers
    writers.close()


@pytest.fixture(scope="module")
def orders(writers):
    return {family: Orders(writers.main, calls) for family, calls in ALL_CALLS.items()}


@pytest.fixture(autouse=True)
def examined(writers):
    """Look at the whole database after each test."""
    yield
    assert findings(writers.main) == []


def moves_told(observed):
    """Count the changes of status in what was observed, each a subject and its new status."""
    histories = observed[5]
    return Counter(
        (subject, event.partition(".")[2]) for subject, *events in histories for event in events
    )


def assert_one_winner_a_move(race, orders, plan):
    """Whoever is told that a row moved is the only one, and the audit log says so too."""
    won = Counter()
    for name, result in zip(race.names, race.results, strict=True):
        if isinstance(result, tuple) and not orders.calls[name].can_repeat:
            rows = result if result and isinstance(result[0], tuple) else (result,)
            won.update(row[:2] for row in rows if row)
    made = moves_told(race.left) - moves_told(orders.begin(plan))
    is_customer_there = race.left[6]
    assert won <= made or not is_customer_there, f"{race.title}: {won} won, {made} happened"


@dataclass(frozen=True)
class Race:
    """Calls that were made at once, what they said, and what they left."""

    title: str
    names: list[str]
    results: list[Any]
    left: Any
    how: str
    gate: str | None


def assert_as_one_after_the_other(race, orders, plan):
    """Compare what a race left with what the calls leave in each order."""
    calls, names, results, left = orders.calls, race.names, race.results, race.left
    dropped = {f"SQLSTATE {state}" for name in names for state in calls[name].upsets}
    if race.how == IN_SNAPSHOTS:
        dropped.add(f"SQLSTATE {SERIALIZATION_FAILURE}")
    made, says = Counter(), Counter()
    for name, result in zip(names, results, strict=True):
        refusals = dropped | {f"SQLSTATE {state}" for state in calls[name].refused}
        if result not in refusals:
            made[name] += 1
            says[name, result] += 1
    is_busy = race.gate is not None or any(result not in (None, (), 0) for result in results)
    ends = orders.all_ends(plan, made, is_busy=is_busy)
    assert (left, frozenset(says.items())) in ends, "\n".join(
        [
            f"{race.title} ended as in no order of its calls:",
            *(f"    {name}: {result}" for name, result in zip(names, results, strict=True)),
            f"left:\n    {left}",
            *(
                f"one order would leave:\n    {end}\n    {sorted(told, key=repr)}"
                for end, told in list(ends)[:8]
            ),
        ]
    )


def ways(family, is_long):
    """Return how races are made: each a mode and the row that it queues up behind."""
    gated = [(AT_ONCE, gate) for gate in GATES[family]]
    plain = [(AT_ONCE, None), (IN_TRANSACTIONS, None), (IN_SNAPSHOTS, None)]
    late = [(IN_SNAPSHOTS, gate) for gate in GATES[family]] if is_long else []
    return gated + plain + late


CALLS = [(family, name) for family, calls in ALL_CALLS.items() for name in calls]

turns = count()
"""Goes through the ways to make a race, one a race."""


def arranged(plan, *calls):
    """Return a plan as the calls need it."""
    return replace(plan, is_overdue=any(call.needs_overdue for call in calls))


def races_of(family, first, orders):
    """Yield the second call, the name of the plan, and the plan, of what can race at all."""
    calls = ALL_CALLS[family]
    names = list(calls)
    for second, (state, bare) in product(names[names.index(first) :], ALL_PLANS[family].items()):
        pair = calls[first], calls[second]
        plan = arranged(bare, *pair)
        begun = orders.begin(plan)
        is_raced = all(call.plans is None or state in call.plans for call in pair)
        if is_raced and any(
            orders.step(plan, begun, (call.name, False))[1] != begun for call in pair
        ):
            yield second, state, plan


@pytest.mark.parametrize(("family", "first"), CALLS)
def test_racing_calls_end_as_if_made_one_after_the_other(family, first, writers, orders, is_soak):
    calls, orders = ALL_CALLS[family], orders[family]
    races, problems = 0, []
    for second, state, plan in races_of(family, first, orders):
        choices = ways(family, is_soak)
        for how, gate in choices if is_soak else [choices[next(turns) % len(choices)]]:
            scene = arrange(writers.main, plan)
            names = [first, second] * (WRITERS // 2)
            makers = [calls[name].make for name in names]
            results = writers.race(makers, scene, how, gate and GATES[family][gate])
            left = observe(writers.main, scene)
            broken = ()
            if plan.is_overdue:  # before another sweep finds it
                broken = findings(writers.main, scene.customer_id)
                customers.delete_customer(writers.main, id=scene.customer_id)
            title = f"{first} against {second}, {state}, {how}, behind {gate}"
            races += 1
            try:
                race = Race(title, names, results, left, how, gate)
                assert not broken, title
                assert_one_winner_a_move(race, orders, plan)
                assert_as_one_after_the_other(race, orders, plan)
            except AssertionError as problem:
                problems.append(str(problem))
    print(f"{races} races")
    assert not problems, f"{len(problems)} of {races} races:\n" + "\n\n".join(problems[:5])


@pytest.fixture(scope="module", params=["in the order of an index", "in the order on disk"])
def planned(request, url):
    """Connect with a planner that reads the rows in one order or the other."""
    with connect(url) as conn:
        if request.param == "in the order on disk":
            conn.execute("SET enable_indexscan = off; SET enable_seqscan = off")
        yield conn


RUN_ROW = "SELECT FROM workflow_executions WHERE customer_id = %s AND id = %s"
STEP_ROW = (
    "SELECT FROM workflow_steps"
    " WHERE customer_id = %s AND workflow_execution_id = %s AND step_order = "
)
LINKED_ROWS = "SELECT FROM {} WHERE customer_id = %s AND workflow_execution_id = %s"

ROWS = {
    "run": [
        (0, "run", RUN_ROW),
        *((number, f"step {number}", f"{STEP_ROW}{number}") for number in (1, 2, 3)),
    ],
    "recommendation": [
        (0, "run", RUN_ROW),
        (1, "recommendation", LINKED_ROWS.format("recommendations")),
        (2, "approval", "SELECT FROM approvals WHERE customer_id = %s AND %s IS NOT NULL"),
        (2, "optimizations", LINKED_ROWS.format("optimizations")),
    ],
}
"""The rows of a scene with the order in which they are to be locked."""


@pytest.mark.parametrize(
    ("family", "name"),
    [call for call in CALLS if call[1] not in ("delete_customer", "delete_agent")],
)
def test_locks_are_taken_from_the_parent_to_the_child_and_in_step_order(
    family, name, writers, orders, planned
):
    """Whoever waits for a row holds none that comes after it, whatever the planner chooses."""
    call, plans = ALL_CALLS[family][name], ALL_PLANS[family]
    rows = ROWS[family]
    held_too_early = set()
    for state, bare in plans.items():
        plan = arranged(bare, call)
        begun = orders[family].begin(plan)
        if orders[family].step(plan, begun, (name, False))[1] == begun:
            continue
        for place, row, query in rows:
            scene = arrange(writers.main, plan)
            ids = [scene.customer_id, scene.run_id]
            with writers.gate.transaction():
                writers.gate.execute(f"{query} FOR UPDATE", ids)
                made = writers.executor.submit(call.make, planned, scene)
                writers.await_queue([made], [planned.info.backend_pid])
                later_rows = [(later, query) for rank, later, query in rows if rank > place]
                for later, later_query in later_rows:
                    found, free = (
                        len(writers.main.execute(later_query + how, ids).fetchall())
                        for how in ("", " FOR UPDATE SKIP LOCKED")
                    )
                    if free < found and not made.done():
                        held_too_early.add(f"waits for {row} ({state}) and holds {later}")
            made.result()
            if plan.is_overdue:
                customers.delete_customer(writers.main, id=scene.customer_id)
    assert not held_too_early, sorted(held_too_early)


@pytest.fixture(scope="module", params=["custom", "generic"])
def prepared(request, url):
    """Connect with statements prepared for one call, or for all."""
    with connect(url) as conn:
        conn.prepare_threshold = 0
        conn.execute(f"SET plan_cache_mode = force_{request.param}_plan")
        yield conn


@pytest.mark.parametrize("name", [name for name in RUN_CALLS if not name.startswith("delete_")])
def test_who_waits_for_a_step_holds_its_run_or_does_not_come_to_need_it(
    name, writers, orders, prepared
):
    """Else whoever holds the run, and waits for the step next, would wait for ever."""
    call, locker = RUN_CALLS[name], writers.connections[0]
    stuck = set()
    for state, bare in RUN_PLANS.items():
        plan = arranged(bare, call)
        begun = orders["run"].begin(plan)
        if orders["run"].step(plan, begun, (name, False))[1] == begun:
            continue
        for number in (1, 2, 3):
            scene = arrange(writers.main, plan)
            ids = [scene.customer_id, scene.run_id]
            with locker.transaction():
                with writers.gate.transaction():
                    # A new version of it, which whoever waited looks at anew.
                    writers.gate.execute(
                        "UPDATE workflow_steps SET id = id WHERE customer_id = %s"
                        f" AND workflow_execution_id = %s AND step_order = {number}",
                        ids,
                    )
                    made = writers.executor.submit(call.make, prepared, scene)
                    writers.await_queue([made], [prepared.info.backend_pid])
                    locker.execute(f"{RUN_ROW} FOR UPDATE SKIP LOCKED", ids)
                if wait([made], timeout=2).not_done:
                    stuck.add(f"waited for step {number} ({state}), and then for the run")
            made.result()
            if plan.is_overdue:
                customers.delete_customer(writers.main, id=scene.customer_id)
    assert not stuck, sorted(stuck)


def arrange_many(conn, plan, number):
    """Write the same plan many times for one customer and one agent."""
    first = arrange(conn, plan)
    owner = {"customer_id": first.customer_id, "agent_id": first.agent_id}
    return [first, *(arrange(conn, plan, owner) for _ in range(number - 1))]


def together(writers, *functions):
    """Run each function on a connection of its own at once; return what they return."""
    barrier = threading.Barrier(len(functions))

    def run(conn, function):
        barrier.wait()
        return function(conn)

    return list(writers.executor.map(run, writers.connections, functions))


@pytest.mark.parametrize("mishap", [None, "rollback"])
def test_workers_that_drain_a_queue_claim_each_run_once_and_in_order(writers, is_soak, mishap):
    """Also where some of them fail and so put back what they had claimed."""
    for _ in range(20 if is_soak else 1):
        scenes = arrange_many(writers.main, Plan("pending"), 60)

        def drain(conn, agent_id=scenes[0].agent_id):
            claimed, put_back = [], 0
            while True:
                with conn.transaction():
                    run = workflow_executions.claim_workflow_execution(conn, agent_id=agent_id)
                    if run and mishap and random.random() < 0.3:
                        put_back += 1
                        raise psycopg.Rollback
                    if run is None:
                        return claimed, put_back
                    claimed.append(run.id)

        drained = together(writers, *[drain] * WRITERS)
        while sum(len(claimed) for claimed, _ in drained) < len(scenes):  # what was put back last
            assert mishap
            drained.append(drain(writers.main))

        claimed = [run_id for ids, _ in drained for run_id in ids]
        assert sorted(claimed) == sorted(scene.run_id for scene in scenes)
        if not mishap:
            assert all(ids == sorted(ids) for ids, _ in drained)


@pytest.mark.parametrize("name", ["claim", "time_out"])
def test_what_somebody_writes_at_the_moment_is_passed_over(writers, name):
    """Neither waited for, nor in the way of the others."""
    plan = arranged(RUN_PLANS["pending"], RUN_CALLS[name])
    scenes = sorted(arrange_many(writers.main, plan, 2), key=lambda scene: scene.run_id)
    with writers.gate.transaction():
        writers.gate.execute(f"{RUN_ROW} FOR UPDATE", [scenes[0].customer_id, scenes[0].run_id])
        made = writers.executor.submit(RUN_CALLS[name].make, writers.connections[0], scenes[0])
        result = made.result(timeout=10)
    taken = result if isinstance(result, list) else [result]
    assert [run.id for run in taken] == [scenes[1].run_id]
    customers.delete_customer(writers.main, id=scenes[0].customer_id)


def test_retrying_one_by_one_and_in_bulk_at_once_retries_each_run_once(writers, is_soak):
    for _ in range(20 if is_soak else 2):
        scenes = arrange_many(writers.main, RUN_PLANS["failed"], 30)
        retry, retry_failed = RUN_CALLS["retry"].make, RUN_CALLS["retry_failed"].make

        def one_by_one(conn, scenes=scenes, retry=retry):
            shuffled = random.sample(scenes, len(scenes))
            return {retry(conn, scene).id for scene in shuffled}

        def in_bulk(conn, scene=scenes[0], retry_failed=retry_failed):
            made = []
            while runs := retry_failed(conn, scene):
                made += runs
            return [run.id for run in made]

        *singles, bulk, more = together(writers, *[one_by_one] * 4, in_bulk, in_bulk)

        query = "SELECT id FROM workflow_executions WHERE customer_id = %s AND attempt = 2"
        retries = {id_ for (id_,) in writers.main.execute(query, [scenes[0].customer_id])}
        assert len(retries) == len(scenes)
        assert singles == [retries] * 4
        assert len(set(bulk + more)) == len(bulk + more)
        assert set(bulk + more) <= retries


def test_sweeps_and_executors_at_once_end_each_run_once(writers, is_soak):
    """A run is timed out by one sweep, or its executor completes it, or shows that it is alive."""
    for _ in range(20 if is_soak else 2):
        plan = Plan("running", ("completed", "completed"), is_overdue=True)
        scenes = arrange_many(writers.main, plan, 40)
        writers.main.execute(
            "UPDATE workflow_executions SET deadline_at = NULL WHERE customer_id = %s",
            [scenes[0].customer_id],
        )

        def sweep(conn):
            swept = []
            for _ in range(12):
                swept += workflow_executions.time_out_workflow_executions(
                    conn, max_rows=4, heartbeat_timeout=timedelta(minutes=30)
                )
            return {run.id for run in swept}, len(swept)

        def execute(function, scenes=scenes):
            def run(conn):
                made = [function(conn, scene) for scene in random.sample(scenes, len(scenes))]
                return {row.id for row in made if row}

            return run

        (first, first_number), (second, second_number), completed, also_completed, alive = together(
            writers,
            sweep,
            sweep,
            execute(RUN_CALLS["complete"].make),
            execute(RUN_CALLS["complete"].make),
            execute(RUN_CALLS["heartbeat"].make),
        )

        assert len(first | second) == first_number + second_number
        assert not completed & also_completed
        assert not (first | second) & (completed | also_completed)
        query = (
            "SELECT id, status, heartbeat_at > now() - interval '1 min' AS is_alive"
            " FROM workflow_executions WHERE customer_id = %s"
        )
        rows = writers.main.execute(query, [scenes[0].customer_id]).fetchall()
        by_status = {
            status: {id_ for id_, found, _ in rows if found == status}
            for status in ("timeout", "completed", "running")
        }
        assert by_status["timeout"] == first | second
        assert by_status["completed"] == completed | also_completed
        assert alive == {id_ for id_, _, is_alive in rows if is_alive}
        assert not alive & by_status["timeout"]
        customers.delete_customer(writers.main, id=scenes[0].customer_id)


def test_failing_what_is_being_started_at_the_moment_fails_its_recommendation_too(writers):
    scene = arrange(writers.main, RECOMMENDATION_PLANS["approved"])
    start, fail = RECOMMENDATION_CALLS["start"].make, RECOMMENDATION_CALLS["fail"].make
    with writers.gate.transaction():
        assert start(writers.gate, scene)
        failing = writers.executor.submit(fail, writers.connections[0], scene)
        writers.await_queue([failing])
    assert failing.result()
    recommendation = recommendations.get_recommendation(
        writers.main, **scene.of_customer(scene.recommendation_id)
    )
    assert recommendation.status == "failed"
