"""What is left when the server is killed, or a connection is, in the middle of the work.

An acknowledged write is there, and one that was not is there as a whole or not at all: a run has
its planned steps, a status its event, and a run that is over no open step.
"""

import os
import random
import signal
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from uuid import UUID, uuid4

import psutil
import pytest

from optiinfra_db import connect, embedded
from optiinfra_db.generated import agents, customers, workflow_executions, workflow_steps
from optiinfra_db.generated.models import AgentType, WorkflowType
from optiinfra_db.migrate import migrate

from ..conftest import cloned_database, running_server
from .races_support import (
    ARTIFACT,
    REFUSED,
    Plan,
    arrange,
    findings,
    is_connection_lost,
    observe,
)

WRITERS = 6
STEPS = ("collect", "analyze", "report")
ERROR = {"message": "x"}


@dataclass(frozen=True)
class Known:
    """A run as its executor knows it: what was acknowledged."""

    id: UUID
    attempt: int = 1
    status: str = "pending"
    steps: tuple[tuple[str, int], ...] = (("pending", 0),) * len(STEPS)
    events: int = 1
    """How many events its run and its steps have."""
    left: tuple[str, ...] = ()
    """What its steps left: the paths."""

    def with_step(self, number, status, retry_count=None):
        steps = list(self.steps)
        before = steps[number - 1][1]
        steps[number - 1] = status, before if retry_count is None else retry_count
        return replace(self, steps=tuple(steps), events=self.events + 1)

    def leaving(self, number):
        return replace(self, left=(*self.left, str(number)))

    def ended(self, status):
        """Return the run over, with its open steps closed as the schema promises."""
        closed = {"pending": "skipped", "retrying": "skipped", "running": "failed"}
        steps = tuple((closed.get(found, found), count) for found, count in self.steps)
        moved = sum(was != now for was, now in zip(self.steps, steps, strict=True))
        return replace(self, status=status, steps=steps, events=self.events + 1 + moved)


def open_steps_of(run):
    """Return the numbers of the steps that are still to be done."""
    return [
        number
        for number, (status, _) in enumerate(run.steps, 1)
        if status in ("pending", "running", "retrying")
    ]


@dataclass
class Executor:
    """Works on one run after the other, and notes what was acknowledged and what was asked."""

    customer_id: UUID
    agent_id: UUID
    known: dict[UUID, Known] = field(default_factory=dict)
    asked: Known | None = None
    """What the call whose answer is outstanding leaves."""
    current: UUID | None = None
    acknowledged: int = 0

    def work(self, conn, stop):
        """Make one call after the other until told to stop, or the connection is lost."""
        while not stop.is_set():
            self.call(conn)

    def call(self, conn):
        """Make the next call that the run asks for, or one of those."""
        owner = {"customer_id": self.customer_id}
        run = self.known.get(self.current)
        if run is None or run.status in ("completed", "cancelled"):
            run = Known(self.current if run is None and self.current else uuid4())
            self.current = run.id
            self.ask(
                run,
                workflow_executions.create_workflow_execution,
                conn,
                **owner,
                id=run.id,
                agent_id=self.agent_id,
                workflow_type=WorkflowType.COST_ANALYSIS,
                step_names=list(STEPS),
            )
            return
        key = owner | {"id": run.id}
        attempt = key | {"attempt": run.attempt}
        if run.status == "failed":
            self.retry(conn, run, key)
            return
        if run.status == "pending":
            started = replace(run, status="running", events=run.events + 1)
            if random.random() < 0.5:
                begun = started.with_step(open_steps_of(run)[0], "running")
                self.ask(begun, workflow_executions.begin_workflow_execution, conn, **key)
            else:
                self.ask(started, workflow_executions.start_workflow_execution, conn, **key)
            return
        if random.random() < 0.05:
            cancel = workflow_executions.cancel_workflow_execution
            self.ask(run.ended("cancelled"), cancel, conn, **key, reason="x")
            return
        open_steps = open_steps_of(run)
        if not open_steps:
            if any(status == "failed" for status, _ in run.steps):
                fail = workflow_executions.fail_workflow_execution
                self.ask(run.ended("failed"), fail, conn, **attempt, error_details=ERROR)
            else:
                complete = workflow_executions.complete_workflow_execution
                self.ask(run.ended("completed"), complete, conn, **attempt)
            return
        self.step(conn, run, open_steps[0])

    def step(self, conn, run, number):
        status, retry_count = run.steps[number - 1]
        key = {
            "customer_id": self.customer_id,
            "workflow_execution_id": run.id,
            "id": self.step_id(conn, run, number),
        }
        if status != "running":
            after = run.with_step(number, "running")
            self.ask(after, workflow_steps.start_workflow_step, conn, **key)
            return
        key["retry_count"] = retry_count
        choice = random.random()
        if choice < 0.3:
            is_last = retry_count == 3 or choice < 0.1
            after = (
                run.with_step(number, "failed")
                if is_last
                else run.with_step(number, "retrying", retry_count + 1)
            )
            fail = workflow_steps.fail_workflow_step
            options = {"retryable": not is_last, "backoff_base_seconds": 0, "error_details": ERROR}
            self.ask(after, fail, conn, **key, **options)
        elif choice < 0.7 and number < len(STEPS):
            left = [ARTIFACT | {"artifact_path": str(number)}]
            after = run.with_step(number, "completed")
            if following := [n for n in open_steps_of(after) if n > number]:
                after = after.with_step(following[0], "running")
            after = after.leaving(number)
            self.ask(after, workflow_steps.advance_workflow_step, conn, **key, artifacts=left)
        elif choice < 0.7 and all(status != "failed" for status, _ in run.steps):
            left = [ARTIFACT | {"artifact_path": str(number)}]
            after = run.with_step(number, "completed").leaving(number).ended("completed")
            key |= {"workflow_step_id": key["id"], "id": key.pop("workflow_execution_id")}
            finish = workflow_executions.finish_workflow_execution
            self.ask(after, finish, conn, **key, artifacts=left)
        else:
            after = run.with_step(number, "completed")
            self.ask(after, workflow_steps.complete_workflow_step, conn, **key)

    def step_id(self, conn, run, number):
        steps = workflow_steps.list_workflow_steps(
            conn, customer_id=self.customer_id, workflow_execution_id=run.id
        )
        return steps[number - 1].id

    def retry(self, conn, run, key):
        """Retry a run; which id the new one gets is only known from the answer."""
        # What is skipped in a run that failed was carried over to it.
        is_done = [status in ("completed", "skipped") for status, _ in run.steps]
        steps = tuple(("skipped" if done else "pending", 0) for done in is_done)
        self.asked = Known(run.id, run.attempt + 1, steps=steps)
        made = workflow_executions.retry_workflow_execution(conn, **key)
        self.acknowledge(replace(self.asked, id=made.id))
        self.current = made.id

    def ask(self, after, function, conn, **arguments):
        self.asked = after
        answer = function(conn, **arguments)
        assert answer, (function.__name__, after)  # nobody else works on this run
        self.acknowledge(after)

    def acknowledge(self, after):
        self.known[after.id] = after
        self.asked = None
        self.acknowledged += 1

    def verify(self, conn):
        """Compare what is there with what was acknowledged; return how many runs were there."""
        there = {run.id: run for run in everything(conn, self.customer_id)}
        asked, self.asked = self.asked, None
        if asked and asked.attempt > 1 and self.known[asked.id].status == "failed":
            # A retry without an answer: its id is that of the run that nobody knows.
            unknown = [run for id_, run in there.items() if id_ not in self.known]
            assert [replace(run, id=asked.id) for run in unknown] in ([], [asked])
            self.known |= {run.id: run for run in unknown}
            if unknown:
                self.current = unknown[0].id
        elif asked and there.get(asked.id) == asked:
            self.known[asked.id] = asked
        assert there == self.known
        return len(there)


def everything(conn, customer_id):
    """Return all runs of a customer as they are."""
    query = """
        SELECT
            run.id, run.attempt, run.status,
            (SELECT json_agg(json_build_array(status, retry_count) ORDER BY step_order)
                FROM workflow_steps AS step
                WHERE step.customer_id = run.customer_id AND workflow_execution_id = run.id),
            (SELECT count(*) FROM events
                WHERE
                    events.customer_id = run.customer_id
                    AND (
                        subject_id = run.id
                        OR data ->> 'workflow_execution_id' = run.id::text
                    )),
            array(SELECT artifact_path FROM workflow_artifacts AS artifact
                WHERE artifact.customer_id = run.customer_id AND workflow_execution_id = run.id
                ORDER BY artifact_path)
        FROM workflow_executions AS run
        WHERE run.customer_id = %s
    """
    for id_, attempt, status, steps, *rest in conn.execute(query, [customer_id]):
        events, left = rest
        yield Known(id_, attempt, status, tuple(map(tuple, steps or ())), events, tuple(left))


def kill(server):
    """Kill all processes of a server at once, the way that a crash of the machine would."""
    pid = int((server.pgdata / "postmaster.pid").read_text().partition("\n")[0])
    postmaster = psutil.Process(pid)
    children = postmaster.children(recursive=True)
    for process in (postmaster, *children):
        with suppress(psutil.NoSuchProcess):
            os.kill(process.pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)  # it is our child, and would stay as a zombie
    psutil.wait_procs(children, timeout=10)


DURABLE = {}
"""PostgreSQL's own settings: what is acknowledged is on disk."""


def test_what_was_acknowledged_survives_kills_of_the_server_and_nothing_is_half_there(
    request, is_soak
):
    kills, seconds = (20, 1.0) if is_soak else (3, 0.5)
    with running_server(str(request.config.getoption("--pg")), DURABLE) as server:
        server.ensure_database()
        migrate(server.url())
        executors = []
        with connect(server.url()) as conn:
            for number in range(WRITERS):
                customer = customers.create_customer(
                    conn,
                    name="Ada",
                    email=f"ada-{number}@example.com",
                    api_key_hash=bytes([number]) * 32,
                )
                agent = agents.upsert_agent(
                    conn, type=AgentType.COST, name=f"cost-{number}", version="1"
                )
                executors.append(Executor(customer.id, agent.id))

        losses = []

        def run(executor, stop):
            try:
                with connect(server.url()) as conn:
                    executor.work(conn, stop)
            except REFUSED as error:
                losses.append(error)

        runs = 0
        for _ in range(kills):
            stop = threading.Event()
            threads = [
                threading.Thread(target=run, args=(executor, stop), daemon=True)
                for executor in executors
            ]
            for thread in threads:
                thread.start()
            time.sleep(random.uniform(0.5, 1.5) * seconds)
            kill(server)
            stop.set()
            for thread in threads:
                thread.join()

            embedded.start(server.data_dir, bin_dir=server.bin_dir, options=DURABLE)
            with connect(server.url()) as conn:
                runs = sum(executor.verify(conn) for executor in executors)
                assert findings(conn) == []

        assert losses
        assert [error for error in losses if not is_connection_lost(error)] == []
        acknowledged = sum(executor.acknowledged for executor in executors)
        assert acknowledged > kills * WRITERS
        print(f"{kills} kills, {acknowledged} acknowledged writes, {runs} runs verified")


@pytest.fixture(scope="module")
def url(migrated_template):
    with cloned_database(migrated_template) as url:
        yield url


@pytest.fixture
def other(url):
    """Connect the one who terminates others, and look at the whole database in the end."""
    with connect(url) as conn:
        yield conn
        assert findings(conn) == []


def terminate(conn, pid):
    conn.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])


def run_of(scene, function, **arguments):
    return lambda conn: function(conn, **scene.run_key(), **arguments)


def step_of(scene, function, number, retry_count=0, **arguments):
    key = scene.step_key(number) | {"retry_count": retry_count}
    if function is workflow_steps.start_workflow_step:
        del key["retry_count"]
    return lambda conn: function(conn, **key, **arguments)


def a_life(scene):
    """Return the calls of a run from its start to its retry."""
    steps = workflow_steps
    failed = {"error_details": ERROR}
    return [
        run_of(scene, workflow_executions.start_workflow_execution),
        run_of(scene, workflow_executions.heartbeat_workflow_execution, attempt=1),
        step_of(scene, steps.start_workflow_step, 1),
        step_of(scene, steps.advance_workflow_step, 1),
        step_of(
            scene,
            steps.fail_workflow_step,
            2,
            retryable=True,
            backoff_base_seconds=0,
            **failed,
        ),
        step_of(scene, steps.start_workflow_step, 2),
        step_of(scene, steps.fail_workflow_step, 2, 1, retryable=False, **failed),
        run_of(scene, workflow_executions.fail_workflow_execution, attempt=1, **failed),
        run_of(scene, workflow_executions.retry_workflow_execution),
    ]


def a_short_life(scene):
    """Return the calls of a run that is begun, advanced and finished."""
    left = [[ARTIFACT | {"artifact_path": f"s3://{number}"}] for number in (1, 2, 3)]
    return [
        run_of(scene, workflow_executions.begin_workflow_execution),
        step_of(scene, workflow_steps.advance_workflow_step, 1, artifacts=left[0]),
        step_of(scene, workflow_steps.advance_workflow_step, 2, artifacts=left[1]),
        run_of(
            scene,
            workflow_executions.finish_workflow_execution,
            workflow_step_id=scene.step_ids[2],
            retry_count=0,
            artifacts=left[2],
        ),
    ]


CALLS = [(a_life, number) for number in range(9)] + [(a_short_life, number) for number in range(4)]
"""The calls of both lives."""

A_LIFE = Plan("pending", ("pending", "pending", "pending"))


@contextmanager
def lost():
    """Expect that the connection is lost, and that we are told so."""
    with pytest.raises(REFUSED) as caught:
        yield
    assert is_connection_lost(caught.value), repr(caught.value)


@pytest.mark.parametrize(("life", "made"), [*CALLS, (a_life, 9), (a_short_life, 4)])
def test_a_transaction_whose_connection_is_terminated_between_statements_leaves_nothing(
    url, other, life, made
):
    scene = arrange(other, A_LIFE)
    before = observe(other, scene)

    with connect(url) as conn:
        with lost(), conn.transaction():
            for call in life(scene)[:made]:
                assert call(conn)
            terminate(other, conn.info.backend_pid)
            workflow_executions.get_workflow_execution(conn, **scene.run_key())

        assert observe(other, scene) == before


WAITS = {
    "the run": "SELECT FROM workflow_executions WHERE customer_id = %s AND id = %s",
    **{
        f"step {number}": "SELECT FROM workflow_steps WHERE customer_id = %s"
        f" AND workflow_execution_id = %s AND step_order = {number}"
        for number in (1, 2, 3)
    },
    "the audit log": "SELECT FROM customers WHERE id = %s AND %s IS NOT NULL",
}
"""Rows that a call stumbles over on its way, from its first lock to its events."""


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize(("life", "made"), CALLS)
def test_a_call_whose_connection_is_terminated_on_its_way_leaves_nothing(
    url, other, life, made, wait
):
    scene = arrange(other, A_LIFE)
    *earlier, call = life(scene)[: made + 1]
    for each in earlier:
        assert each(other)
    before = observe(other, scene)

    answers = []

    def run(conn):
        try:
            answers.append(call(conn))
        except REFUSED as error:
            answers.append(error)

    with connect(url) as conn, connect(url) as holder:
        thread = threading.Thread(target=run, args=[conn])
        with holder.transaction():
            holder.execute(f"{WAITS[wait]} FOR UPDATE", [scene.customer_id, scene.run_id])
            thread.start()
            waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
            pid = conn.info.backend_pid
            while thread.is_alive() and other.execute(waits, [pid]).fetchone() != (True,):
                pass
            if thread.is_alive():
                terminate(other, pid)
        thread.join()
        (answer,) = answers
        if not isinstance(answer, Exception):  # it did not come by that row
            return
        assert is_connection_lost(answer), repr(answer)

    assert observe(other, scene) == before
    with connect(url) as conn:
        assert call(conn)  # and the next one does it


def test_connections_terminated_at_any_moment_leave_each_call_done_or_not(url, other, is_soak):
    """The moment is random: in the call, between two, in its commit."""
    scene = arrange(other, Plan())
    executor = Executor(scene.customer_id, scene.agent_id)
    workflow_executions.delete_workflow_execution(other, **scene.run_key())
    for _ in range(300 if is_soak else 30):
        with connect(url) as conn:
            pid = conn.info.backend_pid
            timer = threading.Timer(random.uniform(0.001, 0.03), terminate, [other, pid])
            timer.start()
            with lost():
                executor.work(conn, threading.Event())
            timer.join()
        executor.verify(other)
    assert executor.acknowledged
