"""Runs driven by random functions with random arguments, beside a model of what must come of it.

The model is a few lines of Python for each function. After each call the database must hold what
the model holds, and the audit log must have grown by what the model logged: no more, no less. Each
example is one transaction that is rolled back, so now() stands still in it.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import ClassVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from psycopg.pq import TransactionStatus
from psycopg.types.json import Jsonb

from optiinfra_db import connect
from optiinfra_db.doctor import examine
from optiinfra_db.generated import (
    agents,
    customers,
    workflow_artifacts,
    workflow_executions,
    workflow_steps,
)
from optiinfra_db.generated.models import AgentType, ArtifactType, WorkflowStatus, WorkflowType

from .model_support import (
    ARROWS,
    FOREIGN_KEY_VIOLATION,
    ILLEGAL_TRANSITION,
    IMMUTABLE_HISTORY,
    STALE_WRITER,
    TENANT_MISMATCH,
    UNIQUE_VIOLATION,
    refused,
)

CHECK_VIOLATION = "23514"
INVALID_VALUE = "22023"
RUN_ARROWS = ARROWS["workflow_executions"]
STEP_ARROWS = ARROWS["workflow_steps"]
MAX_RUNS = 8
OPEN_STEP = {status for status, targets in STEP_ARROWS.items() if targets}


class Run:
    """What must be of a run."""

    def __init__(self, name, id, customer_id, **given):
        self.name = name
        self.id = id
        self.customer_id = customer_id
        self.status = "pending"
        self.attempt = 1
        self.retried_from = None
        self.retry = None
        self.deadline = None
        self.output = {}
        self.error = None
        self.metadata = {}
        self.steps = []
        self.artifacts = {}
        self.is_deleted = False
        vars(self).update(given)

    def __repr__(self):
        steps = " ".join(map(repr, self.steps))
        return f"<{self.name} {'deleted' if self.is_deleted else self.status}: {steps}>"

    @property
    def is_over(self):
        return not RUN_ARROWS[self.status]

    def add(self, step):
        self.steps = sorted([*self.steps, step], key=lambda step: step.order)
        return step

    @property
    def open_steps(self):
        return [step for step in self.steps if step.is_open]

    @property
    def next_order(self):
        return 1 + max((step.order for step in self.steps), default=0)


class Step:
    """What must be of a step."""

    def __init__(self, order, **given):
        self.id = None  # until the database has given one
        self.order = order
        self.status = "pending"
        self.retry_count = 0
        self.max_retries = 3
        self.input = {}
        self.output = {}
        self.error = None
        self.metadata = {}
        vars(self).update(given)

    def __repr__(self):
        return f"{self.order}:{self.status}({self.retry_count}/{self.max_retries})"

    @property
    def is_open(self):
        return bool(STEP_ARROWS[self.status])


@dataclass(frozen=True)
class Aim:
    """Which run or step is meant: the nth that is ready for it, or of all where it is blind."""

    nth: int
    is_blind: bool = False

    def at(self, ready, everything):
        targets = everything if self.is_blind else ready or everything
        return targets[self.nth % len(targets)]


rarely = st.sampled_from([False] * 9 + [True])
aims = st.builds(Aim, st.integers(0, 20), st.sampled_from([False] * 4 + [True]))
seen = st.sampled_from([0] * 9 + [1, -1])
"""By how much a writer is wrong about the attempt that it writes about."""
outputs = st.one_of(st.none(), st.builds(lambda n: {"n": n}, st.integers(0, 9)))
paths = st.sampled_from(["s3://a", "s3://b"])
digests = st.sampled_from([b"1" * 32, b"2" * 32])
lefts = st.one_of(st.none(), st.dictionaries(paths, digests))
"""What a step leaves: digests by their paths."""
plans = st.lists(st.sampled_from(list(STEP_ARROWS)), max_size=4)


class History(RuleBasedStateMachine):
    """Several runs of two customers by one agent."""

    conn = None
    outcomes: ClassVar = Counter()

    def __init__(self):
        super().__init__()
        self.numbers = count(1)
        self.all_runs = []
        self.logged = []
        self.read_events = 0

    @initialize()
    def begin(self):
        self.customers = [
            customers.create_customer(
                self.conn,
                name=f"Customer {n}",
                email=f"customer-{n}@example.com",
                api_key_hash=n.to_bytes(32, "big"),
            ).id
            for n in (1, 2)
        ]
        self.agent_id = agents.upsert_agent(
            self.conn, type=AgentType.COST, name="cost", version="1"
        ).id
        self.now = self.conn.execute("SELECT now()").fetchone()[0]
        self.create_run(0, [1, 2, 3], 1, None)

    def teardown(self):
        try:
            # The check of an example that failed would only hide how.
            if (
                hasattr(self, "now")
                and self.conn.info.transaction_status == TransactionStatus.INTRANS
            ):
                assert examine(self.conn) == []
                self.check_times()
        finally:
            self.conn.rollback()

    # --- What rules are made of

    def call(self, function, expected, **arguments):
        """Call a function that is to answer, or to be refused with the SQLSTATE expected."""
        name = function.__name__
        if expected is None:
            answer = function(self.conn, **arguments)
            self.outcomes[name, "moved" if answer else "none"] += 1
            note(f"  {name}: {'a row' if answer else answer}")
            return answer
        with refused(self.conn, expected):
            function(self.conn, **arguments)
            pytest.fail(f"{name} was to be refused with {expected}")
        self.outcomes[name, expected] += 1
        note(f"  {name}: refused with {expected}")
        return None

    def write(self, expected, statement, **arguments):
        """Execute a statement that is to change one row, or to be refused."""

        def raw_sql(conn, **arguments):
            cursor = conn.execute(statement, arguments)
            assert cursor.rowcount == 1
            return cursor

        return self.call(raw_sql, expected, **arguments)

    def key(self, run, is_foreign=False):
        other = next(other for other in self.customers if other != run.customer_id)
        return {"customer_id": other if is_foreign else run.customer_id, "id": run.id}

    def step_key(self, run, step, is_foreign=False):
        key = self.key(run, is_foreign)
        return {
            "customer_id": key["customer_id"],
            "workflow_execution_id": run.id,
            "id": step.id if step else uuid4(),
        }

    def aim_at_run(self, aim, is_ready):
        ready = [run for run in self.all_runs if not run.is_deleted and is_ready(run)]
        run = aim.at(ready, self.all_runs)
        note(f"  at {run}")
        return run

    def aim_at_step(self, aim, ready, runs=RUN_ARROWS):
        """Return a step and its run; None for the step where a run without any is hit."""
        everything = [(run, step) for run in self.all_runs for step in run.steps or [None]]
        targets = [
            (run, step)
            for run, step in everything
            if step and not run.is_deleted and run.status in runs and step.status in ready
        ]
        run, step = aim.at(targets, everything)
        note(f"  at {step} of {run}")
        return run, step

    def move_run(self, run, status, *, error=None, output=None):
        before, run.status = run.status, status
        if status in {"failed", "timeout", "cancelled"}:
            for step in run.steps:
                if step.is_open:
                    if step.status == "running":
                        step.error = error
                        self.move_step(step, "failed")
                    else:
                        step.metadata = step.metadata | {"closed_with_run": True}
                        self.move_step(step, "skipped")
        run.error = error if status in {"failed", "timeout"} else None
        run.output = run.output if output is None else output
        self.logged.append((run.id, before, status, run.attempt, error))

    def move_step(self, step, status):
        before, step.status = step.status, status
        if status == "retrying":
            step.retry_count += 1
        error = step.error if status in {"failed", "retrying"} else None
        self.logged.append((step.id, before, status, step.retry_count, error))

    def listed(self, left):
        """Return what a step leaves as functions take it."""
        if left is None:
            return None
        return [
            {
                "artifact_type": "report",
                "artifact_name": "Report",
                "artifact_path": path,
                "artifact_size_bytes": 1,
                "content_type": "application/pdf",
                "sha256": digest.hex(),
            }
            for path, digest in left.items()
        ]

    def clashes(self, run, left):
        """Say whether something that a step leaves has the path of something else."""
        there = {path: digest for path, (_, digest) in run.artifacts.items()}
        return any(there.get(path, digest) != digest for path, digest in (left or {}).items())

    def leave(self, run, left):
        """Take up what a step left, with the ids that the database gave it."""
        rows = self.conn.execute(
            "SELECT artifact_path, id, sha256 FROM workflow_artifacts "
            "WHERE workflow_execution_id = %s",
            [run.id],
        ).fetchall()
        there = {path: (artifact_id, digest) for path, artifact_id, digest in rows}
        new = {path: digest for path, digest in (left or {}).items() if path not in run.artifacts}
        assert set(there) == {*run.artifacts, *new}
        run.artifacts |= {path: (there[path][0], digest) for path, digest in new.items()}
        assert there == run.artifacts

    def new_run(self, customer_id, **given):
        return Run(f"run {next(self.numbers)}", None, customer_id, **given)

    def bring(self, run, row_id):
        """Take up a run that the database has made, with the ids that it gave to the steps."""
        run.id = row_id
        ids = dict(
            self.conn.execute(
                "SELECT step_order, id FROM workflow_steps WHERE workflow_execution_id = %s",
                [run.id],
            ).fetchall()
        )
        assert set(ids) == {step.order for step in run.steps}
        for step in run.steps:
            step.id = ids[step.order]
        self.all_runs.append(run)
        self.logged.append((run.id, None, run.status, run.attempt, run.error))
        note(f"  made {run}")

    @property
    def has_room(self):
        return sum(not run.is_deleted for run in self.all_runs) < MAX_RUNS

    # --- Runs

    @rule(
        customer=st.integers(0, 1),
        inputs=st.lists(st.integers(0, 9), max_size=4),
        max_retries=st.sampled_from([None, 0, 1, 2]),
        deadline=st.sampled_from([None, None, "passed", "ahead"]),
    )
    def create(self, customer, inputs, max_retries, deadline):
        self.create_run(customer, inputs, max_retries, deadline)

    def create_run(self, customer, inputs, max_retries, deadline):
        if not self.has_room:
            return
        number = len(self.all_runs)
        ahead = {"passed": timedelta(seconds=number - 1000), "ahead": timedelta(hours=1)}
        run = self.new_run(self.customers[customer])
        if deadline:
            run.deadline = self.now + ahead[deadline]
        for order, value in enumerate(inputs, 1):
            run.add(
                Step(
                    order,
                    max_retries=3 if max_retries is None else max_retries,
                    input={"n": value},
                )
            )
        row = self.call(
            workflow_executions.create_workflow_execution,
            None,
            customer_id=run.customer_id,
            agent_id=self.agent_id,
            workflow_type=WorkflowType.COST_ANALYSIS,
            deadline_at=run.deadline,
            step_names=[f"step {step.order}" for step in run.steps],
            step_input_data=[step.input for step in run.steps],
            max_retries=max_retries,
        )
        assert row.status == "pending"
        self.bring(run, row.id)

    @rule(aim=aims)
    def create_again(self, aim):
        run = self.aim_at_run(aim, lambda run: not run.is_over)
        if run.is_deleted:
            return
        row = self.call(
            workflow_executions.create_workflow_execution,
            None,
            **self.key(run),
            agent_id=self.agent_id,
            workflow_type=WorkflowType.HEALTH_CHECK,
            step_names=["other"],
        )
        assert (row.id, row.status, row.workflow_type) == (run.id, run.status, "cost_analysis")

    def imported_run(self, status, steps):
        """Return a run as it is to be after an import, without the ids."""
        run = self.new_run(self.customers[0], status=status)
        if status in {"failed", "timeout"}:
            run.error = "Imported"
        for order, step_status in enumerate(steps, 1):
            step = run.add(Step(order, status=step_status))
            step.error = "Imported" if step_status in {"failed", "retrying"} else None
        return run

    def imported_steps(self, run):
        now = self.now.isoformat()
        return [
            {
                "step_name": f"step {step.order}",
                "step_order": step.order,
                "status": step.status,
                "started_at": None if step.status == "pending" else now,
                "completed_at": None if step.is_open else now,
                "next_attempt_at": now if step.status == "retrying" else None,
                "error_details": {"type": step.error} if step.error else None,
            }
            for step in run.steps
        ]

    @rule(status=st.sampled_from(list(RUN_ARROWS)), steps=plans)
    def record(self, status, steps):
        if not self.has_room:
            return
        run = self.imported_run(status, steps)
        is_refused = run.is_over and run.open_steps
        row = self.call(
            workflow_executions.record_workflow_execution,
            ILLEGAL_TRANSITION if is_refused else None,
            customer_id=run.customer_id,
            agent_id=self.agent_id,
            workflow_type=WorkflowType.COST_ANALYSIS,
            status=WorkflowStatus(status),
            started_at=None if status == "pending" else self.now,
            completed_at=self.now if run.is_over else None,
            error_details={"type": run.error} if run.error else None,
            steps=self.imported_steps(run),
            artifacts=[],
        )
        if not is_refused:
            self.bring(run, row.id)

    @rule(
        aim=aims,
        contents=st.lists(
            st.tuples(st.sampled_from(list(RUN_ARROWS)), plans, lefts), min_size=1, max_size=2
        ),
    )
    def record_many(self, aim, contents):
        """Record some runs together with one that is there, of that customer or the other."""
        if not self.has_room:
            return
        known = self.aim_at_run(aim, lambda run: True)
        if known.is_deleted:
            return
        new = [(self.imported_run(status, steps), left) for status, steps, left in contents]
        is_mine = known.customer_id == self.customers[0]
        again = self.new_run(self.customers[0])
        runs = [(again, None), *new]
        is_refused = any(run.is_over and run.open_steps for run, _ in new)
        now = self.now.isoformat()
        rows = self.call(
            workflow_executions.record_workflow_executions,
            ILLEGAL_TRANSITION if is_refused else None,
            customer_id=self.customers[0],
            runs=[
                {
                    "id": str(known.id) if is_mine and run is again else None,
                    "agent_id": str(self.agent_id),
                    "workflow_type": "cost_analysis",
                    "status": run.status,
                    "started_at": None if run.status == "pending" else now,
                    "completed_at": now if run.is_over else None,
                    "error_details": {"type": run.error} if run.error else None,
                    "steps": self.imported_steps(run),
                    "artifacts": self.listed(left),
                }
                for run, left in runs
            ],
        )
        if is_refused:
            return
        for row, (run, left) in zip(rows, runs, strict=True):
            assert row.is_new == (run is not again or not is_mine)
            if row.is_new:
                self.bring(run, row.id)
                self.leave(run, left)
            else:
                assert row.id == known.id

    @rule(aim=aims, is_foreign=rarely)
    def start(self, aim, is_foreign):
        run = self.aim_at_run(aim, lambda run: run.status == "pending")
        row = self.call(
            workflow_executions.start_workflow_execution, None, **self.key(run, is_foreign)
        )
        can_start = run.status == "pending" and not run.is_deleted and not is_foreign
        assert (row is not None) == can_start
        if can_start:
            self.move_run(run, "running")

    @rule(aim=aims, is_foreign=rarely)
    def begin_run(self, aim, is_foreign):
        run = self.aim_at_run(aim, lambda run: run.status == "pending" and run.steps)
        row = self.call(
            workflow_executions.begin_workflow_execution, None, **self.key(run, is_foreign)
        )
        waiting = [step for step in run.steps if step.status == "pending"]
        can_begin = run.status == "pending" and waiting and not run.is_deleted and not is_foreign
        assert (row and row.id) == (waiting[0].id if can_begin else None)
        if can_begin:
            assert row.retry_count == waiting[0].retry_count
            self.move_run(run, "running")
            self.move_step(waiting[0], "running")

    @rule()
    def claim(self):
        row = self.call(workflow_executions.claim_workflow_execution, None, agent_id=self.agent_id)
        waiting = [
            run
            for run in self.all_runs
            if run.status == "pending"
            and not run.is_deleted
            and (run.deadline is None or run.deadline > self.now)
        ]
        if not waiting:
            assert row is None
            return
        run = min(waiting, key=lambda run: run.id)
        assert row.id == run.id
        self.move_run(run, "running")

    def judge(self, run, is_foreign, off, is_ready):
        """Return whether a writer with its idea of the attempt moves a run, and the refusal."""
        if run.is_deleted or is_foreign:
            return False, None
        if off:
            return False, STALE_WRITER
        return is_ready, None

    @rule(aim=aims, is_foreign=rarely, off=seen)
    def heartbeat(self, aim, is_foreign, off):
        run = self.aim_at_run(aim, lambda run: run.status == "running")
        is_alive, refusal = self.judge(run, is_foreign, off, run.status == "running")
        row = self.call(
            workflow_executions.heartbeat_workflow_execution,
            refusal,
            **self.key(run, is_foreign),
            attempt=run.attempt + off,
        )
        assert (row is not None) == is_alive

    @rule(aim=aims, is_foreign=rarely, off=seen, output=outputs)
    def complete(self, aim, is_foreign, off, output):
        run = self.aim_at_run(aim, lambda run: run.status == "running" and not run.open_steps)
        moves, refusal = self.judge(run, is_foreign, off, run.status == "running")
        if moves and run.open_steps:
            moves, refusal = False, ILLEGAL_TRANSITION
        row = self.call(
            workflow_executions.complete_workflow_execution,
            refusal,
            **self.key(run, is_foreign),
            attempt=run.attempt + off,
            output_data=output,
        )
        assert (row is not None) == moves
        if moves:
            self.move_run(run, "completed", output=output)

    @rule(aim=aims, is_foreign=rarely, off=seen)
    def fail(self, aim, is_foreign, off):
        run = self.aim_at_run(aim, lambda run: run.status == "running")
        moves, refusal = self.judge(run, is_foreign, off, run.status == "running")
        row = self.call(
            workflow_executions.fail_workflow_execution,
            refusal,
            **self.key(run, is_foreign),
            attempt=run.attempt + off,
            error_details={"type": "RunFailed"},
        )
        assert (row is not None) == moves
        if moves:
            self.move_run(run, "failed", error="RunFailed")

    @rule(aim=aims, is_foreign=rarely)
    def cancel(self, aim, is_foreign):
        run = self.aim_at_run(aim, lambda run: not run.is_over)
        self.cancel_run(run, is_foreign)

    def cancel_run(self, run, is_foreign):
        row = self.call(
            workflow_executions.cancel_workflow_execution,
            None,
            **self.key(run, is_foreign),
            reason="no need",
        )
        moves = not (run.is_over or run.is_deleted or is_foreign)
        assert (row is not None) == moves
        if moves:
            run.metadata = run.metadata | {"cancel_reason": "no need"}
            self.move_run(run, "cancelled", error="WorkflowCancelled")

    @rule(max_rows=st.integers(0, 3), by_heartbeat=rarely)
    def time_out(self, max_rows, by_heartbeat):
        if by_heartbeat:  # now() stands still, so the beats are set back
            self.conn.execute(
                "UPDATE workflow_executions SET heartbeat_at = now() - interval '1 hour' "
                "WHERE status = 'running'"
            )
        rows = self.call(
            workflow_executions.time_out_workflow_executions,
            None,
            max_rows=100 if by_heartbeat else max_rows,
            heartbeat_timeout=timedelta(minutes=1) if by_heartbeat else None,
        )
        alive = [run for run in self.all_runs if not (run.is_over or run.is_deleted)]
        late = [run for run in alive if run.deadline and run.deadline < self.now]
        late.sort(key=lambda run: run.deadline)
        if by_heartbeat:
            silent = [run for run in alive if run.status == "running" and run not in late]
        else:
            late, silent = late[:max_rows], []
        assert {row.id for row in rows} == {run.id for run in late + silent}
        for run in late + silent:
            error = "HeartbeatLost" if run in silent else "DeadlineExceeded"
            self.move_run(run, "timeout", error=error)

    @rule(aim=aims, is_foreign=rarely)
    def time_out_one(self, aim, is_foreign):
        run = self.aim_at_run(aim, lambda run: run.deadline and not run.is_over)
        row = self.call(
            workflow_executions.time_out_workflow_execution, None, **self.key(run, is_foreign)
        )
        is_late = run.deadline is not None and run.deadline < self.now
        moves = is_late and not (run.is_over or run.is_deleted or is_foreign)
        assert (row is not None) == moves
        if moves:
            self.move_run(run, "timeout", error="DeadlineExceeded")

    @rule(aim=aims, is_foreign=rarely, from_step=st.sampled_from([None] * 4 + [1, 2, 3]))
    def retry(self, aim, is_foreign, from_step):
        run = self.aim_at_run(aim, lambda run: run.status in {"failed", "timeout", "cancelled"})
        self.retry_run(run, is_foreign, from_step)

    def retry_run(self, run, is_foreign, from_step):
        is_there = not (run.is_deleted or is_foreign)
        if is_there and run.retry is None and not self.has_room:
            return
        refusal = None
        if is_there and from_step not in [None, *(step.order for step in run.steps)]:
            refusal = INVALID_VALUE
        moves = is_there and not refusal and run.status in {"failed", "timeout", "cancelled"}
        row = self.call(
            workflow_executions.retry_workflow_execution,
            refusal,
            **self.key(run, is_foreign),
            from_step=from_step,
        )
        assert (row is not None) == moves
        if not moves:
            return
        if run.retry is not None:
            assert (row.id, row.status) == (run.retry.id, run.retry.status)
            return
        assert (row.status, row.attempt) == ("pending", run.attempt + 1)
        begin_at = from_step or self.first_to_do(run)
        new = self.new_run(
            run.customer_id,
            attempt=run.attempt + 1,
            retried_from=run,
            deadline=run.deadline,
            metadata={k: v for k, v in run.metadata.items() if k != "cancel_reason"},
        )
        for step in run.steps:
            again = Step(step.order, max_retries=step.max_retries, input=step.input)
            again.metadata = {
                key: value
                for key, value in step.metadata.items()
                if key not in {"carried_over_from", "closed_with_run"}
            }
            is_done = step.status == "completed" or "carried_over_from" in step.metadata
            if step.order < begin_at or (from_step is None and is_done):
                again.status = "skipped"
                again.output = step.output
                again.metadata["carried_over_from"] = str(step.id)
            new.add(again)
        run.retry = new
        self.bring(new, row.id)

    def first_to_do(self, run):
        """Return the place of the first step that failed, or that the end of the run closed."""
        undone = [
            step.order
            for step in run.steps
            if step.status == "failed" or "closed_with_run" in step.metadata
        ]
        return min(undone, default=10**9)

    @rule(aim=aims, is_foreign=rarely)
    def read(self, aim, is_foreign):
        run = self.aim_at_run(aim, lambda run: True)
        detail = self.call(
            workflow_executions.get_workflow_detail, None, **self.key(run, is_foreign)
        )
        assert (detail is not None) == (not (run.is_deleted or is_foreign))
        if detail:
            assert [step.id for step in detail.steps] == [step.id for step in run.steps]
            assert {artifact.id for artifact in detail.artifacts} == {
                artifact_id for artifact_id, *_ in run.artifacts.values()
            }

    @rule(aim=aims, is_foreign=rarely)
    def trace(self, aim, is_foreign):
        run = self.aim_at_run(aim, lambda run: run.retry or run.retried_from)
        line = self.call(
            workflow_executions.get_workflow_lineage, None, **self.key(run, is_foreign)
        )
        if run.is_deleted or is_foreign:
            assert line == []
            return
        expected = [run]
        while expected[0].retried_from:
            expected.insert(0, expected[0].retried_from)
        while expected[-1].retry:
            expected.append(expected[-1].retry)
        assert [row.id for row in line] == [run.id for run in expected]

    @rule(aim=aims, is_foreign=rarely)
    def delete(self, aim, is_foreign):
        run = self.aim_at_run(aim, lambda run: run.retry and run.retry.is_over)
        self.delete_run(run, is_foreign)

    def delete_run(self, run, is_foreign):
        deleted = self.call(
            workflow_executions.delete_workflow_execution, None, **self.key(run, is_foreign)
        )
        assert deleted == (0 if run.is_deleted or is_foreign else 1)
        if deleted:
            run.is_deleted = True
            if run.retry:
                self.outcomes["deleting clears a link", run.retry.status] += 1
                run.retry.retried_from = None
            if run.retried_from:
                run.retried_from.retry = None

    # --- What agents do all day; the other rules alone would seldom come far

    @rule(
        nth=st.integers(0, 9),
        outcomes=st.lists(
            st.sampled_from(["complete", "advance", "finish", "fail", "skip"]), min_size=1
        ),
    )
    def work(self, nth, outcomes):
        aim = Aim(nth)
        left = {"s3://a": (b"1" if nth % 4 else b"2") * 32}
        for outcome in outcomes:
            statuses = {step.status for run in self.working_runs for step in run.open_steps}
            if "running" in statuses and outcome != "skip":
                if outcome == "complete":
                    self.complete_step(aim, off=0, is_foreign=False, output={"n": nth})
                elif outcome == "advance":
                    self.advance_step(aim, off=0, is_foreign=False, output={"n": nth}, left=left)
                elif outcome == "finish":
                    said = {"run": nth}, {"step": nth}
                    self.finish_run(aim, off=0, is_foreign=False, said=said, left=left)
                else:
                    self.fail_step(aim, off=0, is_foreign=False, is_retryable=nth % 4 > 0)
            elif outcome == "skip" and nth > 6:
                self.skip_step(aim, off=0, is_foreign=False)
            elif statuses:
                self.start_step(aim, is_foreign=False)
            elif self.working_runs:
                self.complete(aim, is_foreign=False, off=0, output={"n": nth})
            elif any(run.status == "pending" and not run.is_deleted for run in self.all_runs):
                start = self.begin_run if outcome in {"advance", "finish"} else self.start
                start(aim, is_foreign=False)
            else:
                break
            self.the_database_is_as_the_model()
            self.the_audit_log_is_what_happened()

    @rule(nth=st.integers(0, 9))
    def go_on(self, nth):
        self.work(nth, ["complete"])

    @rule(nth=st.integers(0, 9))
    def go_on_quickly(self, nth):
        self.work(nth, ["advance", "advance", "advance", "finish"])

    @rule(aim=aims, is_over=st.booleans())
    def retry_and_forget(self, aim, is_over):
        run = self.aim_at_run(aim, lambda run: run.status != "completed")
        self.cancel_run(run, is_foreign=False)
        self.retry_run(run, is_foreign=False, from_step=None)
        if is_over and run.retry:
            self.cancel_run(run.retry, is_foreign=False)
        self.delete_run(run, is_foreign=False)

    @rule(nth=st.integers(0, 9))
    def try_and_try_again(self, nth):
        self.work(nth, ["fail", "fail", "complete"])

    @property
    def working_runs(self):
        return [run for run in self.all_runs if run.status == "running" and not run.is_deleted]

    # --- Steps

    @rule(aim=aims, is_foreign=rarely, order=st.sampled_from([None, None, None, 2, 5]))
    def add_step(self, aim, is_foreign, order):
        run = self.aim_at_run(aim, lambda run: not run.is_over)
        is_open = not (run.is_deleted or is_foreign or run.is_over)
        is_taken = is_open and order in [step.order for step in run.steps]
        row = self.call(
            workflow_steps.add_workflow_step,
            UNIQUE_VIOLATION if is_taken else None,
            customer_id=self.key(run, is_foreign)["customer_id"],
            workflow_execution_id=run.id,
            step_name="added",
            step_order=order,
            max_retries=1,
        )
        assert (row is not None) == (is_open and not is_taken)
        if row:
            assert row.step_order == order or order is None
            run.add(Step(order or run.next_order, id=row.id, max_retries=1))

    @rule(aim=aims, is_foreign=rarely)
    def start_step(self, aim, is_foreign):
        run, step = self.aim_at_step(aim, {"pending", "retrying"}, {"running"})
        row = self.call(
            workflow_steps.start_workflow_step,
            None,
            **self.step_key(run, step, is_foreign),
        )
        is_there = step and not (run.is_deleted or is_foreign)
        moves = is_there and run.status == "running" and step.status in {"pending", "retrying"}
        assert (row is not None) == bool(moves)
        if moves:
            assert row.retry_count == step.retry_count
            self.move_step(step, "running")

    def write_step(self, function, aim, ready, *, off, is_foreign, **arguments):
        """Call an executor's function; return the run and step where one is to have moved."""
        run, step = self.aim_at_step(aim, ready)
        is_there = step and not (run.is_deleted or is_foreign)
        moves = is_there and not off and step.status in ready
        refusal = STALE_WRITER if is_there and off else None
        if "left" in arguments:
            left = arguments.pop("left")
            arguments["artifacts"] = self.listed(left)
            if moves and self.clashes(run, left):
                moves, refusal = False, INVALID_VALUE
        answer = self.call(
            function,
            refusal,
            **self.step_key(run, step, is_foreign),
            retry_count=(step.retry_count if step else 0) + off,
            **arguments,
        )
        assert bool(answer) == bool(moves)
        return (run, step) if moves else (None, None)

    @rule(aim=aims, off=seen, is_foreign=rarely, output=outputs)
    def complete_step(self, aim, off, is_foreign, output):
        _, step = self.write_step(
            workflow_steps.complete_workflow_step,
            aim,
            {"running"},
            off=off,
            is_foreign=is_foreign,
            output_data=output,
        )
        if step:
            step.output = step.output if output is None else output
            self.move_step(step, "completed")

    @rule(aim=aims, off=seen, is_foreign=rarely, output=outputs, left=lefts)
    def advance_step(self, aim, off, is_foreign, output, left):
        run, step = self.write_step(
            workflow_steps.advance_workflow_step,
            aim,
            {"running"},
            off=off,
            is_foreign=is_foreign,
            output_data=output,
            left=left,
        )
        if step:
            self.leave(run, left)
            step.output = step.output if output is None else output
            self.move_step(step, "completed")
            later = [
                other
                for other in run.steps
                if other.order > step.order and other.status == "pending"
            ]
            if later:
                self.move_step(later[0], "running")

    @rule(
        aim=aims,
        off=seen,
        is_foreign=rarely,
        said=st.tuples(outputs, outputs),
        left=lefts,
    )
    def finish_run(self, aim, off, is_foreign, said, left):
        output, step_output = said
        run, step = self.aim_at_step(aim, {"running"}, {"running"})
        is_there = step and not (run.is_deleted or is_foreign)
        moves = is_there and not off and run.status == step.status == "running"
        refusal = STALE_WRITER if is_there and off else None
        if moves and self.clashes(run, left):
            moves, refusal = False, INVALID_VALUE
        elif moves and run.open_steps != [step]:
            moves, refusal = False, ILLEGAL_TRANSITION
        row = self.call(
            workflow_executions.finish_workflow_execution,
            refusal,
            **self.key(run, is_foreign),
            workflow_step_id=step.id if step else uuid4(),
            retry_count=(step.retry_count if step else 0) + off,
            output_data=output,
            step_output_data=step_output,
            artifacts=self.listed(left),
        )
        assert (row is not None) == bool(moves)
        if moves:
            assert (row.id, row.status) == (run.id, "completed")
            self.leave(run, left)
            step.output = step.output if step_output is None else step_output
            self.move_step(step, "completed")
            self.move_run(run, "completed", output=output)

    @rule(aim=aims, off=seen, is_foreign=rarely, is_retryable=st.booleans())
    def fail_step(self, aim, off, is_foreign, is_retryable):
        _, step = self.write_step(
            workflow_steps.fail_workflow_step,
            aim,
            {"running"},
            off=off,
            is_foreign=is_foreign,
            retryable=is_retryable,
            backoff_base_seconds=0,
            error_details={"type": "StepFailed"},
        )
        if step:
            step.error = "StepFailed"
            can_retry = is_retryable and step.retry_count < step.max_retries
            self.move_step(step, "retrying" if can_retry else "failed")

    @rule(aim=aims, off=seen, is_foreign=rarely)
    def skip_step(self, aim, off, is_foreign):
        _, step = self.write_step(
            workflow_steps.skip_workflow_step,
            aim,
            {"pending", "running", "retrying"},
            off=off,
            is_foreign=is_foreign,
        )
        if step:
            self.move_step(step, "skipped")

    # --- Artifacts

    @rule(
        aim=aims,
        place=st.one_of(st.none(), st.integers(0, 4)),
        path=paths,
        digest=digests,
    )
    def register_artifact(self, aim, place, path, digest):
        run = self.aim_at_run(aim, lambda run: True)
        step = None
        if run.steps and place is not None and not run.is_deleted:
            step = run.steps[place % len(run.steps)]
        row = self.call(
            workflow_artifacts.register_workflow_artifact,
            FOREIGN_KEY_VIOLATION if run.is_deleted else None,
            customer_id=run.customer_id,
            workflow_execution_id=run.id,
            workflow_step_id=step and step.id,
            artifact_type=ArtifactType.REPORT,
            artifact_name="Report",
            artifact_path=path,
            artifact_size_bytes=1,
            content_type="application/pdf",
            sha256=digest,
        )
        if run.is_deleted:
            return
        if path not in run.artifacts:
            run.artifacts[path] = (row.id, digest)
        there, its_digest = run.artifacts[path]
        assert (row and row.id) == (there if digest == its_digest else None)

    # --- Whoever writes by hand

    @rule(aim=aims, status=st.sampled_from(list(RUN_ARROWS)))
    def move_run_by_hand(self, aim, status):
        """Try all that is to be refused, then what was drawn."""
        run = self.aim_at_run(aim, lambda run: not run.is_over)
        if run.is_deleted:
            return
        refused_moves = set(RUN_ARROWS) - {run.status, *RUN_ARROWS[run.status]}
        if run.open_steps:
            refused_moves.add("completed")
        for wrong in sorted(refused_moves):
            self.write_run_status(ILLEGAL_TRANSITION, run, wrong)
        if status not in {run.status, *refused_moves}:
            self.write_run_status(None, run, status)
            error = {"cancelled": "WorkflowCancelled", "failed": "ByHand", "timeout": "ByHand"}
            self.move_run(run, status, error=error.get(status))

    def write_run_status(self, refusal, run, status):
        error = "ByHand" if status in {"failed", "timeout"} else None
        self.write(
            refusal,
            """
            UPDATE workflow_executions
            SET
                status = %(status)s::text::workflow_status,
                started_at = CASE
                    WHEN %(status)s::text != 'pending' THEN coalesce(started_at, now())
                END,
                completed_at = CASE WHEN %(is_over)s THEN now() END,
                error_details = %(error)s
            WHERE customer_id = %(customer_id)s AND id = %(id)s
            """,
            status=status,
            is_over=not RUN_ARROWS[status],
            error=Jsonb({"type": error}) if error else None,
            **self.key(run),
        )

    @rule(aim=aims, ready=st.sampled_from([OPEN_STEP, {"retrying"}]), nth=st.integers(0, 3))
    def move_step_by_hand(self, aim, ready, nth):
        """Try all that is to be refused, then the nth of what is not."""
        run, step = self.aim_at_step(aim, ready)
        if step is None or run.is_deleted:
            return
        for wrong in sorted(set(STEP_ARROWS) - {step.status, *STEP_ARROWS[step.status]}):
            self.write_step_status(ILLEGAL_TRANSITION, run, step, wrong)
        if not step.is_open:
            return
        status = STEP_ARROWS[step.status][nth % len(STEP_ARROWS[step.status])]
        if status == "retrying" and step.retry_count == step.max_retries:
            self.write_step_status(CHECK_VIOLATION, run, step, status)
            return
        self.write_step_status(None, run, step, status)
        step.error = "ByHand" if status in {"failed", "retrying"} else step.error
        self.move_step(step, status)

    def write_step_status(self, refusal, run, step, status):
        error = "ByHand" if status in {"failed", "retrying"} else None
        self.write(
            refusal,
            """
            UPDATE workflow_steps
            SET
                status = %(status)s::text::step_status,
                retry_count = retry_count + (%(status)s::text = 'retrying')::integer,
                started_at = CASE
                    WHEN %(status)s::text != 'pending' THEN coalesce(started_at, now())
                END,
                completed_at = CASE WHEN %(is_over)s THEN now() END,
                next_attempt_at = CASE WHEN %(status)s::text = 'retrying' THEN now() END,
                error_details = coalesce(%(error)s, error_details)
            WHERE
                customer_id = %(customer_id)s
                AND workflow_execution_id = %(workflow_execution_id)s
                AND id = %(id)s
            """,
            status=status,
            is_over=not STEP_ARROWS[status],
            error=Jsonb({"type": error}) if error else None,
            **self.step_key(run, step),
        )

    @rule(aim=aims, status=st.sampled_from(list(STEP_ARROWS)))
    def add_step_by_hand(self, aim, status):
        run = self.aim_at_run(aim, lambda run: not run.is_over)
        # This transaction brought the run, so it may bring steps to it that are over.
        if run.is_deleted:
            return
        step = Step(run.next_order, status=status)
        step.error = "ByHand" if status in {"failed", "retrying"} else None
        refusal = ILLEGAL_TRANSITION if run.is_over and step.is_open else None
        answer = self.write(
            refusal,
            """
            INSERT INTO workflow_steps (
                customer_id, workflow_execution_id, step_name, step_order, status,
                started_at, completed_at, next_attempt_at, error_details
            )
            SELECT
                %(customer_id)s, %(id)s, 'by hand', %(order)s, %(status)s::text::step_status,
                CASE WHEN %(status)s::text != 'pending' THEN now() END,
                CASE WHEN %(is_over)s THEN now() END,
                CASE WHEN %(status)s::text = 'retrying' THEN now() END,
                %(error)s
            RETURNING id
            """,
            **self.key(run),
            order=step.order,
            status=status,
            is_over=not step.is_open,
            error=Jsonb({"type": step.error}) if step.error else None,
        )
        if answer:
            (step.id,) = answer.fetchone()
            run.add(step)

    @rule(aim=aims, is_step=st.booleans(), number=st.integers(0, 9))
    def change_payload_by_hand(self, aim, is_step, number):
        run, step = self.aim_at_step(aim, STEP_ARROWS)
        step = step if is_step else None
        if run.is_deleted:
            return
        subject = step or run
        payload = subject.metadata | {"touched": number}
        if payload == subject.metadata:
            return
        is_final = not step.is_open if step else run.is_over
        table = "workflow_steps" if step else "workflow_executions"
        self.write(
            IMMUTABLE_HISTORY if is_final else None,
            f"UPDATE {table} SET status = status, metadata = %(payload)s WHERE id = %(id)s",
            payload=Jsonb(payload),
            id=subject.id,
        )
        if not is_final:
            subject.metadata = payload

    @rule(aim=aims, is_step=st.booleans())
    def change_identity_by_hand(self, aim, is_step):
        run, step = self.aim_at_step(aim, OPEN_STEP)
        step = step if is_step else None
        if run.is_deleted:
            return
        table = "workflow_steps" if step else "workflow_executions"
        subject = step or run
        self.write(
            TENANT_MISMATCH,
            f"UPDATE {table} SET customer_id = %(other)s WHERE id = %(id)s",
            other=self.key(run, is_foreign=True)["customer_id"],
            id=subject.id,
        )
        self.write(
            IMMUTABLE_HISTORY,
            f"UPDATE {table} SET id = %(other)s WHERE id = %(id)s",
            other=uuid4(),
            id=subject.id,
        )
        if step:
            others = [other.id for other in self.all_runs if other is not run]
            self.write(
                IMMUTABLE_HISTORY,
                "UPDATE workflow_steps SET workflow_execution_id = %(other)s WHERE id = %(id)s",
                other=others[0] if others else uuid4(),
                id=step.id,
            )

    # --- What must be

    @invariant()
    def the_database_is_as_the_model(self):
        if not hasattr(self, "now"):
            return
        there = [run for run in self.all_runs if not run.is_deleted]
        expected = {
            run.id: (
                run.customer_id,
                run.status,
                run.attempt,
                run.retried_from and run.retried_from.id,
                run.deadline,
                run.output,
                run.error,
                run.metadata,
            )
            for run in there
        }
        rows = self.conn.execute(
            """
            SELECT
                id, customer_id, status::text, attempt, retried_from_id, deadline_at, output_data,
                error_details ->> 'type', metadata
            FROM workflow_executions
            """
        )
        assert {run_id: tuple(values) for run_id, *values in rows} == expected

        expected = [
            (
                run.id,
                step.order,
                step.id,
                step.status,
                step.retry_count,
                step.max_retries,
                step.input,
                step.output,
                step.error,
                step.metadata,
            )
            for run in sorted(there, key=lambda run: run.id)
            for step in run.steps
        ]
        rows = self.conn.execute(
            """
            SELECT
                workflow_execution_id, step_order, id, status::text, retry_count, max_retries,
                input_data, output_data, error_details ->> 'type', metadata
            FROM workflow_steps ORDER BY workflow_execution_id, step_order
            """
        )
        assert rows.fetchall() == expected
        for run in there:
            assert not (run.is_over and run.open_steps), run

    @invariant()
    def the_audit_log_is_what_happened(self):
        if not hasattr(self, "now"):
            return
        rows = self.conn.execute(
            """
            SELECT subject_id, data ->> 'from', data ->> 'to',
                coalesce(data ->> 'attempt', data ->> 'retry_count')::integer,
                data -> 'error' ->> 'type'
            FROM events ORDER BY created_at, id OFFSET %s
            """,
            [self.read_events],
        ).fetchall()
        # What one statement does to several rows has no order of its own.
        assert sorted(rows, key=repr) == sorted(self.logged, key=repr)
        self.read_events += len(rows)
        self.logged.clear()
        self.outcomes["steps", "all"] += 1

    def check_times(self):
        """Check what the model does not hold."""
        wrong = self.conn.execute(
            """
            SELECT id FROM (
                SELECT id, created_at, started_at, completed_at, updated_at FROM workflow_executions
                UNION ALL
                SELECT id, created_at, started_at, completed_at, updated_at FROM workflow_steps
            ) AS timed
            WHERE
                started_at < created_at
                OR completed_at < coalesce(started_at, created_at)
                OR updated_at < created_at
            UNION ALL
            SELECT step.id FROM workflow_steps AS step
            CROSS JOIN LATERAL (
                SELECT count(*) AS retries FROM events
                WHERE subject_id = step.id AND data ->> 'to' = 'retrying'
            ) AS logged
            WHERE step.retry_count != logged.retries
            """
        ).fetchall()
        assert wrong == []


def test_whatever_is_called_the_database_does_as_the_model(
    shared_database_url, pytestconfig, capsys
):
    is_soak = pytestconfig.getoption("--soak")
    size = (
        {"max_examples": 500, "stateful_step_count": 60}
        if is_soak
        else {"max_examples": 120, "stateful_step_count": 40, "derandomize": True}
    )
    History.outcomes = Counter()
    try:
        with connect(shared_database_url) as conn:
            # The doctor's queries look costly where nothing was analysed, and are not.
            conn.execute("SET jit = off")
            conn.autocommit = False
            History.conn = conn
            run_state_machine_as_test(
                History,
                settings=settings(
                    **size,
                    database=None,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
    finally:
        steps = History.outcomes.pop(("steps", "all"), 0)
        with capsys.disabled():
            print(f"\n{steps} steps of the model")
            if is_soak:
                for (function, outcome), times in sorted(History.outcomes.items()):
                    print(f"{times:8} {function}: {outcome}")
