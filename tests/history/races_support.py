"""What the tests of races and of kills share: rows to work on, what became of them, what is wrong.

A `Scene` is a customer of its own with a run, its steps, a recommendation, its approval and its
optimization, in states that the test chooses. `observe` tells what became of it without ids and
times, so that two scenes compare. `findings` says which promises of the schema the rows break.
"""

from dataclasses import dataclass, field
from uuid import UUID, uuid4

import psycopg

from optiinfra_db.doctor import examine
from optiinfra_db.errors import OptiInfraError

REFUSED = (psycopg.Error, OptiInfraError)
"""What a call may raise: psycopg's error, or ours with that one as its cause."""

ARTIFACT = {
    "artifact_type": "report",
    "artifact_name": "Report",
    "artifact_path": "s3://bucket/report",
    "artifact_size_bytes": 1,
    "content_type": "text/plain",
    "sha256": "00" * 32,
}
"""What a step leaves."""

SERIALIZATION_FAILURE = "40001"
DEADLOCK = "40P01"


def sqlstate(error):
    """Return the SQLSTATE of an error of psycopg's, or of ours that has one as its cause."""
    if not isinstance(error, psycopg.Error):
        error = error.__cause__
    assert isinstance(error, psycopg.Error), error
    return error.sqlstate


def is_connection_lost(error):
    """Say whether an error means that the connection broke."""
    from optiinfra_db import errors

    lost = getattr(errors, "ConnectionLost", None)
    return isinstance(error, lost if lost else psycopg.OperationalError)


@dataclass(frozen=True)
class Plan:
    """The states in which a scene begins."""

    run: str = "completed"
    steps: tuple[str, ...] = ()
    recommendation: str | None = None
    approval: str | None = None
    optimizations: tuple[str, ...] = ()
    is_overdue: bool = False
    """Whether the run is past its deadline, and its heartbeat late."""
    is_linked: bool = False
    """Whether recommendation and optimizations are of the run."""


@dataclass(frozen=True)
class Scene:
    """The rows of one plan, by their ids."""

    plan: Plan
    customer_id: UUID = field(default_factory=uuid4)
    agent_id: UUID = field(default_factory=uuid4)
    run_id: UUID = field(default_factory=uuid4)
    recommendation_id: UUID = field(default_factory=uuid4)
    approval_id: UUID = field(default_factory=uuid4)
    step_ids: tuple[UUID, ...] = ()
    optimization_ids: tuple[UUID, ...] = ()

    @classmethod
    def of(cls, plan, **owner):
        return cls(
            plan,
            **owner,
            step_ids=tuple(uuid4() for _ in plan.steps),
            optimization_ids=tuple(uuid4() for _ in plan.optimizations),
        )

    @property
    def names(self):
        """Return what the ids stand for."""
        named = {
            self.run_id: "run",
            self.recommendation_id: "recommendation",
            self.approval_id: "approval",
        }
        named |= {id_: f"step {number}" for number, id_ in enumerate(self.step_ids, 1)}
        named |= {id_: f"optimization {n}" for n, id_ in enumerate(self.optimization_ids, 1)}
        return {str(id_): name for id_, name in named.items()}

    def run_key(self):
        return {"customer_id": self.customer_id, "id": self.run_id}

    def step_key(self, number):
        return {
            "customer_id": self.customer_id,
            "workflow_execution_id": self.run_id,
            "id": self.step_ids[number - 1],
        }

    def step_attempt(self, number):
        """Return the key of a step and the retry_count at which it was arranged."""
        status = self.plan.steps[number - 1]
        return self.step_key(number) | {"retry_count": int(status == "retrying")}

    def of_customer(self, id_):
        return {"customer_id": self.customer_id, "id": id_}


_INSERT_CUSTOMER = """
INSERT INTO customers (id, name, email)
SELECT %(customer_id)s, 'Ada', %(customer_id)s || '@example.com'
"""

_INSERT_AGENT = """
INSERT INTO agents (id, type, name, version)
SELECT %(agent_id)s, 'cost', %(agent_id)s::text, '1'
"""

_INSERT_RUN = """
INSERT INTO workflow_executions (
    customer_id, id, agent_id, workflow_type, status, started_at, heartbeat_at, completed_at,
    deadline_at, error_details, created_at
)
SELECT
    %(customer_id)s, %(run_id)s, %(agent_id)s, 'cost_analysis', %(run)s::workflow_status,
    CASE WHEN %(run)s != 'pending' THEN now() - interval '1 h' END,
    CASE WHEN %(run)s != 'pending' THEN now() - %(silence)s::interval END,
    CASE WHEN %(run)s NOT IN ('pending', 'running') THEN now() END,
    now() + %(deadline)s::interval,
    CASE WHEN %(run)s IN ('failed', 'timeout') THEN '{"message": "arranged"}'::jsonb END,
    now() - interval '2 h'
"""

_INSERT_STEPS = """
INSERT INTO workflow_steps (
    customer_id, workflow_execution_id, id, step_name, step_order, status, retry_count,
    next_attempt_at, started_at, completed_at, error_details
)
SELECT
    %(customer_id)s, %(run_id)s, id, 'step ' || place, place, status::step_status,
    (status = 'retrying')::integer,
    CASE WHEN status = 'retrying' THEN now() - interval '1 min' END,
    CASE WHEN status NOT IN ('pending', 'skipped') THEN now() - interval '1 h' END,
    CASE WHEN status IN ('completed', 'failed', 'skipped') THEN now() END,
    CASE WHEN status IN ('retrying', 'failed') THEN '{"message": "arranged"}'::jsonb END
FROM unnest(%(step_ids)s::uuid[], %(steps)s::text[]) WITH ORDINALITY AS step (id, status, place)
ORDER BY place DESC  -- neither the ids nor the places on disk are in step_order
"""

_INSERT_RECOMMENDATION = """
INSERT INTO recommendations (
    customer_id, id, agent_id, workflow_execution_id, type, title, status, approved_at, executed_at
)
SELECT
    %(customer_id)s, %(recommendation_id)s, %(agent_id)s, %(linked_id)s, 'x', 'x',
    %(recommendation)s::recommendation_status,
    CASE WHEN %(recommendation)s NOT IN ('pending', 'rejected') THEN now() END,
    CASE
        WHEN %(recommendation)s IN ('completed', 'failed', 'rolled_back') THEN now()
    END
"""

_INSERT_APPROVAL = """
INSERT INTO approvals (customer_id, id, recommendation_id, status, approved_by, decided_at)
SELECT
    %(customer_id)s, %(approval_id)s, %(recommendation_id)s, %(approval)s::approval_status,
    CASE WHEN %(approval)s != 'pending' THEN 'Ada' END,
    CASE WHEN %(approval)s != 'pending' THEN now() END
"""

_INSERT_OPTIMIZATIONS = """
INSERT INTO optimizations (
    customer_id, id, recommendation_id, agent_id, workflow_execution_id, status, started_at,
    completed_at, rolled_back_at, error
)
SELECT
    %(customer_id)s, id, %(recommendation_id)s, %(agent_id)s, %(linked_id)s,
    status::optimization_status,
    CASE WHEN status != 'queued' THEN now() END,
    CASE WHEN status IN ('completed', 'failed', 'rolled_back') THEN now() END,
    CASE WHEN status = 'rolled_back' THEN now() END,
    CASE WHEN status = 'failed' THEN 'arranged' END
FROM unnest(%(optimization_ids)s::uuid[], %(optimizations)s::text[]) AS t (id, status)
"""


def arrange(conn, plan, owner=None):
    """Write the rows of a plan, in one transaction, and return them as a scene.

    It gets a customer and an agent of its own, unless an owner (their ids) is there.
    """
    scene = Scene.of(plan, **owner or {})
    values = {
        "customer_id": scene.customer_id,
        "agent_id": scene.agent_id,
        "run_id": scene.run_id,
        "run": plan.run,
        "linked_id": scene.run_id if plan.is_linked else None,
        "silence": "1 h" if plan.is_overdue else "0",
        "deadline": "-1 min" if plan.is_overdue else "1 h",
        "step_ids": list(scene.step_ids),
        "steps": list(plan.steps),
        "recommendation_id": scene.recommendation_id,
        "recommendation": plan.recommendation,
        "approval_id": scene.approval_id,
        "approval": plan.approval,
        "optimization_ids": list(scene.optimization_ids),
        "optimizations": list(plan.optimizations),
    }
    with conn.pipeline(), conn.transaction():
        if owner is None:
            conn.execute(_INSERT_CUSTOMER, values)
            conn.execute(_INSERT_AGENT, values)
        conn.execute(_INSERT_RUN, values)
        if plan.steps:
            conn.execute(_INSERT_STEPS, values)
        if plan.recommendation:
            conn.execute(_INSERT_RECOMMENDATION, values)
        if plan.approval:
            conn.execute(_INSERT_APPROVAL, values)
        if plan.optimizations:
            conn.execute(_INSERT_OPTIMIZATIONS, values)
    return scene


_OBSERVE = """
SELECT
    (SELECT jsonb_agg(jsonb_build_array(id, status, attempt, retried_from_id))
        FROM workflow_executions WHERE customer_id = %(customer_id)s),
    (SELECT jsonb_agg(
            jsonb_build_array(id, workflow_execution_id, step_order, status, retry_count)
        )
        FROM workflow_steps WHERE customer_id = %(customer_id)s),
    (SELECT jsonb_agg(jsonb_build_array(id, status, workflow_execution_id))
        FROM recommendations WHERE customer_id = %(customer_id)s),
    (SELECT jsonb_agg(jsonb_build_array(id, status))
        FROM approvals WHERE customer_id = %(customer_id)s),
    (SELECT jsonb_agg(jsonb_build_array(id, status, progress, workflow_execution_id))
        FROM optimizations WHERE customer_id = %(customer_id)s),
    (SELECT jsonb_agg(jsonb_build_array(subject_id, event_type) ORDER BY created_at, id)
        FROM events WHERE customer_id = %(customer_id)s),
    (SELECT count(*) FROM customers WHERE id = %(customer_id)s),
    (SELECT count(*) FROM agents WHERE id = %(agent_id)s),
    (SELECT jsonb_agg(jsonb_build_array(workflow_step_id, artifact_path))
        FROM workflow_artifacts WHERE customer_id = %(customer_id)s)
"""


def observe(conn, scene):
    """Return what is there of a scene, without ids and times, its history included."""
    names = scene.names

    def name(value):
        is_id = isinstance(value, str) and len(value) == 36
        return names.get(value, "another") if is_id else value

    owner = {"customer_id": scene.customer_id, "agent_id": scene.agent_id}
    *tables, events, customers, agents, artifacts = conn.execute(_OBSERVE, owner).fetchone()
    *rows, left = (
        tuple(sorted((tuple(map(name, row)) for row in table or ()), key=repr))
        for table in (*tables, artifacts)
    )
    histories = {}
    for subject_id, event_type in events or ():
        histories.setdefault(subject_id, []).append(event_type)
    told = sorted((name(subject), *history) for subject, history in histories.items())
    return (*rows, tuple(told), customers, agents, left)


# Each says which rows break one promise; {of} narrows it to a customer.
_PROMISES = {
    "a run that is over has an open step": """
        SELECT run.id, run.status, step.step_order, step.status
        FROM workflow_executions AS run
        INNER JOIN workflow_steps AS step
            ON run.customer_id = step.customer_id AND run.id = step.workflow_execution_id
        WHERE
            run.status NOT IN ('pending', 'running')
            AND step.status IN ('pending', 'running', 'retrying')
            AND {of}""",
    "a change of status did not begin where the one before ended": """
        SELECT subject_type, subject_id, was, data
        FROM (
            SELECT
                *,
                lag(data ->> 'to') OVER (PARTITION BY subject_id ORDER BY created_at, id) AS was
            FROM events AS run
            WHERE data ? 'from' AND {of}
        ) AS event
        WHERE was IS DISTINCT FROM data ->> 'from' AND (was IS NOT NULL OR subject_type IN (
            'workflow_execution', 'recommendation', 'approval', 'optimization'
        ))""",
    "a status is not the one that the audit log tells last": """
        SELECT subject.kind, subject.id, subject.status, told.status
        FROM (
            SELECT 'run' AS kind, customer_id, id, status::text, true AS is_told
            FROM workflow_executions
            UNION ALL SELECT 'step', customer_id, id, status::text, false FROM workflow_steps
            UNION ALL SELECT 'recommendation', customer_id, id, status::text, true
            FROM recommendations
            UNION ALL SELECT 'approval', customer_id, id, status::text, true FROM approvals
            UNION ALL SELECT 'optimization', customer_id, id, status::text, true
            FROM optimizations
        ) AS subject
        LEFT JOIN LATERAL (
            SELECT data ->> 'to' AS status
            FROM events
            WHERE
                events.customer_id = subject.customer_id
                AND subject_id = subject.id
                AND data ? 'from'
            ORDER BY created_at DESC, id DESC
            LIMIT 1
        ) AS told ON true
        CROSS JOIN LATERAL (SELECT subject.customer_id) AS run
        WHERE
            (subject.is_told OR told.status IS NOT NULL)
            AND told.status IS DISTINCT FROM subject.status
            AND {of}""",
    "a step moved without an event": """
        SELECT step.id, step.status, step.retry_count
        FROM workflow_executions AS run
        INNER JOIN workflow_steps AS step
            ON run.customer_id = step.customer_id AND run.id = step.workflow_execution_id
        WHERE
            step.status != 'pending'
            AND NOT step.metadata ? 'carried_over_from'
            AND EXISTS (
                SELECT FROM events
                WHERE
                    events.customer_id = run.customer_id
                    AND subject_id = run.id
                    AND event_type = 'workflow_execution.pending'
                    AND data -> 'from' = 'null'
            )
            AND NOT EXISTS (
                SELECT FROM events
                WHERE events.customer_id = run.customer_id AND subject_id = step.id
            )
            AND {of}""",
    "a retry is not the next attempt of a run that is over": """
        SELECT run.id, run.attempt, original.id, original.attempt, original.status
        FROM workflow_executions AS run
        INNER JOIN workflow_executions AS original
            ON run.customer_id = original.customer_id AND run.retried_from_id = original.id
        WHERE
            (
                run.attempt != original.attempt + 1
                OR original.status NOT IN ('failed', 'timeout', 'cancelled')
                OR (
                    SELECT array_agg(step_order ORDER BY step_order) FROM workflow_steps AS step
                    WHERE
                        step.customer_id = run.customer_id
                        AND step.workflow_execution_id = original.id
                ) IS DISTINCT FROM (
                    SELECT array_agg(step_order ORDER BY step_order) FROM workflow_steps AS step
                    WHERE
                        step.customer_id = run.customer_id
                        AND step.workflow_execution_id = run.id
                )
            )
            AND {of}""",
}


def findings(conn, customer_id=None):
    """Return what breaks a promise of the schema, of one customer, or of all by the doctor too."""
    found = [] if customer_id else examine(conn)
    of = "run.customer_id = %(customer_id)s" if customer_id else "true"
    with conn.pipeline():
        cursors = [
            (promise, conn.execute(query.replace("{of}", of), {"customer_id": customer_id}))
            for promise, query in _PROMISES.items()
        ]
        for promise, cursor in cursors:
            found += [(promise, row) for row in cursor]
    return found
