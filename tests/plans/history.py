"""A long history, written in about a minute: what the plans of queries are looked at on.

Runs of 120 days, or as many as told, the same number each day, and of 50 customers, of which the
largest has a fifth of all and the smallest one in 200; 5 steps, 5 events, 5 values of metrics and
2 artifacts a run, and a recommendation every 4 runs, with what became of it. Runs and metrics are
of 12 agents; a 13th has none. Statuses, times and links are as the functions would have left them.
What is rare is so where that is hard: of the largest customer's runs one in 5,000 was cancelled.
"""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import psycopg

from optiinfra_db import connect

RUNS = 200_000
DAYS = 120

# The rows bring what triggers would write, and keys are right by construction.
_SETTINGS = "SET session_replication_role = replica; SET synchronous_commit = off"

_FUNCTIONS = """
CREATE FUNCTION history_id(at timestamptz, number bigint) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (
        lpad(to_hex((extract(EPOCH FROM at) * 1000)::bigint), 12, '0')
        || '7' || lpad(to_hex(number % 4096), 3, '0')
        || '8' || lpad(to_hex(number), 15, '0')
    )::uuid
$$;

-- From 0 up to and without 1, the same for the same number.
CREATE FUNCTION history_chance(number bigint) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (hashint8(number)::bigint + 2147483648) / 4294967296.0::double precision
$$;
"""

# Each run has its number in metadata.
_VIEW = """
CREATE VIEW history_runs AS
SELECT *, (metadata -> 'number')::bigint AS n FROM workflow_executions
"""

_PLATFORM = """
INSERT INTO customers (id, name, email, created_at)
SELECT
    history_id(now() - interval '1 year', n),
    'Customer ' || n,
    'customer-' || n || '@example.com',
    now() - interval '1 year'
FROM generate_series(1, 50) AS n;

INSERT INTO api_keys (customer_id, api_key_hash, expires_at)
SELECT
    history_id(now() - interval '1 year', n % 50 + 1),
    sha256(n::text::bytea),
    CASE WHEN n > 50 THEN now() - interval '1 day' END
FROM generate_series(1, 1000) AS n;

INSERT INTO agents (id, type, name, version, status, last_heartbeat, created_at)
SELECT
    history_id(now() - interval '1 year', 1000 + n),
    (enum_range(NULL::agent_type))[1 + n % 5],
    'agent-' || n,
    '1.0',
    CASE WHEN n % 6 = 0 THEN 'degraded' ELSE 'healthy' END::agent_status,
    now() - make_interval(secs => CASE WHEN n % 5 = 0 THEN 3600 ELSE n END),
    now() - interval '1 year'
FROM generate_series(1, 13) AS n;

INSERT INTO agent_capabilities (agent_id, capability_name)
SELECT id, 'capability-' || n FROM agents CROSS JOIN generate_series(1, 5) AS n;

INSERT INTO agent_configs (agent_id, config_key, config_value)
SELECT id, 'key-' || n, 'value' FROM agents CROSS JOIN generate_series(1, 10) AS n;

INSERT INTO agent_states (agent_id, current_status)
SELECT id, 'idle' FROM agents;
"""

_MONTHS = """
INSERT INTO events (customer_id, event_type, created_at)
SELECT customers.id, 'month.seen', now() - make_interval(months => n)
FROM generate_series(0, %(months)s) AS n
CROSS JOIN (SELECT id FROM customers LIMIT 1) AS customers;
INSERT INTO agent_metrics (agent_id, metric_name, metric_value, recorded_at)
SELECT agents.id, 'month_seen', n, now() - make_interval(months => n)
FROM generate_series(0, %(months)s) AS n
CROSS JOIN (SELECT id FROM agents LIMIT 1) AS agents;
SELECT ensure_partitions(3);
"""

_RUNS = """
WITH shares AS (
    SELECT
        id,
        name,
        sum(share) OVER (ORDER BY id) - share AS low,
        sum(share) OVER (ORDER BY id) AS high
    FROM (
        SELECT id, name, (1.0 / n) / sum(1.0 / n) OVER () AS share
        FROM (SELECT id, name, row_number() OVER (ORDER BY id) AS n FROM customers) AS numbered
    ) AS weighted
),

runs AS (
    SELECT
        n,
        shares.id AS customer_id,
        now() - interval '1 minute' - (%(runs)s - n) * (%(days)s * interval '1 day' / %(runs)s)
            AS created_at,
        CASE
            WHEN %(runs)s - n < %(season)s / 800 THEN 'pending'
            WHEN %(runs)s - n < %(season)s / 400 THEN 'running'
            WHEN shares.name = 'Customer 1' AND n %% 5000 != 0 THEN
                CASE
                    WHEN n %% 50 = 7 THEN 'failed'
                    WHEN n %% 97 = 1 THEN 'timeout'
                    ELSE 'completed'
                END
            WHEN n %% 25 = 0 THEN 'cancelled'
            WHEN n %% 20 = 7 THEN 'failed'
            WHEN n %% 50 = 1 THEN 'timeout'
            ELSE 'completed'
        END::workflow_status AS status
    FROM generate_series(1, %(runs)s) AS n
    INNER JOIN shares ON history_chance(n) >= shares.low AND history_chance(n) < shares.high
)

INSERT INTO workflow_executions (
    customer_id, id, agent_id, workflow_type, status, started_at, heartbeat_at, completed_at,
    deadline_at, input_data, output_data, error_details, metadata, created_at, updated_at
)
SELECT
    customer_id,
    history_id(created_at, n),
    (SELECT array_agg(id ORDER BY id) FROM agents)[1 + floor(12 * history_chance(-n))],
    (enum_range(NULL::workflow_type))[1 + n %% 8],
    status,
    CASE WHEN status != 'pending' THEN created_at + (5 + n %% 60) * interval '1 second' END,
    CASE WHEN status = 'running' THEN now() - (n %% 300) * interval '1 second' END,
    CASE
        WHEN status NOT IN ('pending', 'running')
            THEN created_at + (100 + n %% 600) * interval '1 second'
    END,
    CASE
        WHEN status IN ('pending', 'running')
            THEN now() + CASE WHEN n %% 10 = 0 THEN -1 ELSE 60 END * interval '1 minute'
    END,
    '{"window": "30d", "regions": ["us-east-1", "eu-west-1"]}',
    CASE
        WHEN status = 'completed' THEN jsonb_build_object('summary', repeat('x', 100))
        ELSE '{}'
    END,
    CASE
        WHEN status IN ('failed', 'timeout')
            THEN '{"type": "QuotaExceeded", "message": "no GPU"}'::jsonb
    END,
    jsonb_build_object('number', n),
    created_at,
    created_at
FROM runs
ORDER BY n;

-- Each fourth failed run was retried, well.
INSERT INTO workflow_executions (
    customer_id, id, agent_id, workflow_type, status, attempt, retried_from_id, started_at,
    completed_at, metadata, created_at
)
SELECT
    customer_id,
    history_id(completed_at + interval '1 second', %(runs)s + n),
    agent_id,
    workflow_type,
    'completed',
    2,
    id,
    completed_at + interval '2 seconds',
    completed_at + interval '1 minute',
    jsonb_build_object('number', %(runs)s + n),
    completed_at + interval '1 second'
FROM history_runs
WHERE status = 'failed' AND n %% 4 = 3;
"""

_STEPS = """
INSERT INTO workflow_steps (
    customer_id, workflow_execution_id, id, step_name, step_order, status, retry_count,
    next_attempt_at, started_at, completed_at, output_data, error_details, created_at
)
SELECT
    customer_id,
    run_id,
    history_id(created_at, 8 * n + step),
    (ARRAY['collect', 'analyze', 'simulate', 'recommend', 'report'])[step],
    step,
    status,
    CASE WHEN status = 'retrying' OR n %% 30 = 0 THEN 1 ELSE 0 END,
    CASE WHEN status = 'retrying' THEN now() + interval '1 minute' END,
    CASE WHEN status NOT IN ('pending', 'skipped') THEN started_at + (step - 1) * pace END,
    CASE
        WHEN status = 'skipped' THEN completed_at
        WHEN status IN ('completed', 'failed') THEN started_at + step * pace
    END,
    CASE
        WHEN status = 'completed'
            THEN jsonb_build_object('rows', n %% 1000, 'note', repeat('y', 60))
        ELSE '{}'
    END,
    CASE
        WHEN status IN ('failed', 'retrying')
            THEN '{"type": "Timeout", "message": "too slow"}'::jsonb
    END,
    created_at
FROM (
    SELECT
        run.customer_id,
        run.id AS run_id,
        run.n,
        step,
        run.created_at,
        run.started_at,
        run.completed_at,
        coalesce((run.completed_at - run.started_at) / 5, interval '1 second') AS pace,
        CASE run.status
            WHEN 'completed' THEN 'completed'
            WHEN 'pending' THEN 'pending'
            WHEN 'running' THEN
                CASE
                    WHEN step = 1 THEN 'completed'
                    WHEN step > 2 THEN 'pending'
                    WHEN run.n %% 10 = 0 THEN 'retrying'
                    ELSE 'running'
                END
            WHEN 'cancelled' THEN CASE WHEN step = 1 THEN 'completed' ELSE 'skipped' END
            ELSE
                CASE
                    WHEN step < failing.step_order THEN 'completed'
                    WHEN step = failing.step_order THEN 'failed'
                    ELSE 'skipped'
                END
        END::step_status AS status
    FROM history_runs AS run
    CROSS JOIN LATERAL (SELECT 1 + run.n %% 5 AS step_order) AS failing
    CROSS JOIN generate_series(1, 5) AS step
) AS planned
ORDER BY n, step;
"""

_EVENTS = """
INSERT INTO events (
    customer_id, created_at, id, agent_id, event_type, severity, subject_type, subject_id, actor,
    data, xact_id
)
SELECT
    run.customer_id,
    coalesce(run.completed_at, run.created_at + interval '10 seconds')
    - (5 - part) * interval '1 second',
    history_id(run.created_at, 8 * n + part),
    CASE WHEN part = 1 THEN run.agent_id END,
    (ARRAY[
        'workflow_execution.pending', 'workflow_execution.running', 'workflow_step.running',
        'workflow_step.completed', 'workflow_execution.' || run.status
    ])[part],
    'info',
    CASE WHEN part IN (3, 4) THEN 'workflow_step' ELSE 'workflow_execution' END,
    CASE WHEN part IN (3, 4) THEN history_id(run.created_at, 8 * n + 1) ELSE run.id END,
    'history',
    '{"from": "pending", "to": "running", "attempt": 1}',
    (3 + n %% 500)::text::xid8
FROM history_runs AS run
CROSS JOIN generate_series(1, 5) AS part
ORDER BY n, part;
"""

_ARTIFACTS = """
INSERT INTO workflow_artifacts (
    customer_id, workflow_execution_id, id, workflow_step_id, artifact_type, artifact_name,
    artifact_path, artifact_size_bytes, content_type, sha256, created_at
)
SELECT
    customer_id,
    id,
    history_id(created_at, 2 * n + part),
    CASE part WHEN 1 THEN history_id(created_at, 8 * n + 1) END,
    (enum_range(NULL::artifact_type))[1 + (n + part) %% 8],
    'Report',
    's3://reports/' || n || '/' || part,
    1000 + n,
    'application/pdf',
    sha256(n::text::bytea),
    created_at
FROM history_runs AS run
CROSS JOIN generate_series(1, 2) AS part
WHERE status = 'completed'
ORDER BY n, part;
"""

_METRICS = """
INSERT INTO agent_metrics (agent_id, metric_name, recorded_at, metric_value, metric_type, tags)
SELECT
    (SELECT array_agg(id ORDER BY id) FROM agents)[1 + n %% 12],
    'metric_' || n / 12 %% 20,
    now() - (5 * %(runs)s - n) * (%(days)s * interval '1 day' / (5 * %(runs)s)),
    CASE WHEN n / 12 %% 20 < 5 THEN n / 240 %% 1000 ELSE 100 * history_chance(n) END,
    CASE WHEN n / 12 %% 20 < 5 THEN 'counter' ELSE 'gauge' END::metric_type,
    jsonb_build_object('region', CASE n / 240 %% 2 WHEN 0 THEN 'us-east-1' ELSE 'eu-west-1' END)
FROM generate_series(1, 5 * %(runs)s) AS n;
"""

_RECOMMENDATIONS = """
INSERT INTO recommendations (
    customer_id, id, agent_id, workflow_execution_id, type, title, estimated_savings,
    confidence_score, priority, status, approved_at, executed_at, created_at
)
SELECT
    customer_id,
    history_id(created_at, n),
    agent_id,
    id,
    'kind_' || n / 4 %% 20,
    'Release idle GPUs',
    CASE WHEN n / 4 %% 10 != 0 THEN round((20000 * history_chance(n) ^ 3)::numeric, 2) END,
    history_chance(n),
    (enum_range(NULL::recommendation_priority))[1 + floor(4 * history_chance(2 * n) ^ 3)],
    outcome.status::recommendation_status,
    CASE WHEN outcome.status NOT IN ('pending', 'rejected') THEN created_at + interval '1 hour' END,
    CASE
        WHEN outcome.status IN ('completed', 'failed', 'rolled_back')
            THEN created_at + interval '2 hours'
    END,
    created_at
FROM history_runs AS run
CROSS JOIN
    LATERAL (
        SELECT
            CASE
                WHEN %(runs)s - n BETWEEN 0 AND %(season)s / 100
                    THEN (ARRAY['pending', 'pending', 'approved', 'executing'])[1 + n / 4 %% 4]
                WHEN n / 4 %% 1000 = 0 THEN 'rolled_back'
                WHEN n / 4 %% 10 = 1 THEN 'failed'
                WHEN n / 4 %% 3 = 0 THEN 'rejected'
                ELSE 'completed'
            END AS status
    ) AS outcome
WHERE n %% 4 = 0
ORDER BY n;

INSERT INTO approvals (
    customer_id, id, recommendation_id, status, approved_by, expires_at, decided_at, created_at
)
SELECT
    customer_id,
    id,
    id,
    CASE
        WHEN status IN ('pending', 'rejected') THEN status::text
        ELSE 'approved'
    END::approval_status,
    CASE WHEN status != 'pending' THEN 'ada' END,
    created_at + interval '30 days',
    CASE WHEN status != 'pending' THEN created_at + interval '1 hour' END,
    created_at
FROM recommendations;

INSERT INTO optimizations (
    customer_id, id, recommendation_id, agent_id, workflow_execution_id, status, progress,
    started_at, completed_at, rolled_back_at, actual_savings, error, created_at
)
SELECT
    customer_id,
    id,
    id,
    agent_id,
    workflow_execution_id,
    CASE status WHEN 'approved' THEN 'queued' ELSE status::text END::optimization_status,
    CASE status WHEN 'completed' THEN 100 ELSE 0 END,
    CASE WHEN status != 'approved' THEN approved_at END,
    executed_at,
    CASE WHEN status = 'rolled_back' THEN executed_at END,
    CASE WHEN status = 'completed' THEN round(estimated_savings * 0.9, 2) END,
    CASE WHEN status = 'failed' THEN 'no quota' END,
    created_at
FROM recommendations
WHERE status NOT IN ('pending', 'rejected');
"""


def build(url: str, runs: int = RUNS, *, days: int = DAYS) -> None:
    """Write the history of so many runs and days into a migrated, empty database; analyze it.

    How many are open is a matter of how many come in 120 days, and not of how many there were.
    """
    values = {
        "runs": runs,
        "days": days,
        "months": math.ceil(days / 30),
        "season": runs * DAYS // days,
    }
    _run(url, _FUNCTIONS)
    _run(url, _VIEW)
    _run(url, _PLATFORM)
    with connect(url) as conn:
        psycopg.ClientCursor(conn).execute(_MONTHS, values)
    _run(url, _RUNS, values)
    with ThreadPoolExecutor() as pool:
        steps = pool.submit(_run, url, _STEPS, values)
        for statements in (_EVENTS, _METRICS, _ARTIFACTS, _RECOMMENDATIONS):
            _run(url, statements, values)
        steps.result()
    _run(url, "DROP VIEW history_runs; DROP FUNCTION history_id, history_chance")
    with connect(url) as conn:
        conn.execute("VACUUM ANALYZE")


def _run(url: str, statements: str, values: Mapping[str, int] | None = None) -> None:
    with connect(url) as conn, conn.transaction():
        conn.execute(_SETTINGS)
        psycopg.ClientCursor(conn).execute(statements, values)
