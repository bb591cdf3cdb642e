-- What people in psql ask of the runs: which run now, which failed and why, how far each is, how
-- busy the agents are, how the last day went. Columns to read come first, ids to go on with last;
-- durations are cut to whole seconds.
--
-- Each is computed when it is read, through the indexes of the tables beneath, and by the rights of
-- who reads it (security_invoker), row-level security included. workflow_progress has a row for
-- every run there is: give it a customer_id or a workflow_id. Its steps are looked up in the
-- select list, and so only for the rows that a LIMIT leaves. OFFSET 0 keeps the planner from
-- reading the runs of all times to find those of the last hours.

CREATE VIEW workflow_progress
WITH (security_invoker = true) AS
SELECT
    customers.name AS customer,
    run.workflow_type,
    run.status,
    agents.name AS agent,
    (
        SELECT
            count(*) FILTER (
                WHERE
                step.status IN ('completed', 'skipped') AND NOT step.metadata ? 'closed_with_run'
            )
        FROM workflow_steps AS step
        WHERE
            step.customer_id = run.customer_id
            AND step.workflow_execution_id = run.id
    ) AS steps_done,
    (
        SELECT count(*)
        FROM workflow_steps AS step
        WHERE
            step.customer_id = run.customer_id
            AND step.workflow_execution_id = run.id
    ) AS steps_total,
    (
        SELECT
            100 * count(*) FILTER (
                WHERE
                step.status IN ('completed', 'skipped') AND NOT step.metadata ? 'closed_with_run'
            ) / nullif(count(*), 0)
        FROM workflow_steps AS step
        WHERE
            step.customer_id = run.customer_id
            AND step.workflow_execution_id = run.id
    )::integer AS percent,
    (
        SELECT step.step_name
        FROM workflow_steps AS step
        WHERE
            step.customer_id = run.customer_id
            AND step.workflow_execution_id = run.id
            AND step.status IN ('running', 'retrying')
        ORDER BY step.step_order
        LIMIT 1
    ) AS current_step,
    date_trunc('second', coalesce(run.started_at, run.completed_at, now()) - run.created_at)
        AS waited_for,
    date_trunc('second', coalesce(run.completed_at, now()) - run.started_at) AS ran_for,
    run.attempt,
    run.created_at,
    run.started_at,
    run.heartbeat_at,
    run.completed_at,
    run.deadline_at,
    run.customer_id,
    run.agent_id,
    run.id AS workflow_id
FROM workflow_executions AS run
INNER JOIN customers ON run.customer_id = customers.id
INNER JOIN agents ON run.agent_id = agents.id;
COMMENT ON VIEW workflow_progress IS
'How far each run is, a row a run. Ask with WHERE customer_id = ... or workflow_id = ...; of a '
'customer, ORDER BY workflow_id DESC is newest first.';
COMMENT ON COLUMN workflow_progress.customer IS 'Name of the customer.';
COMMENT ON COLUMN workflow_progress.workflow_type IS 'The job that the run does.';
COMMENT ON COLUMN workflow_progress.status IS 'State of the run.';
COMMENT ON COLUMN workflow_progress.agent IS 'Name of the agent that runs it.';
COMMENT ON COLUMN workflow_progress.steps_done IS
'How many of its steps completed or were skipped, but not those that the end of the run closed.';
COMMENT ON COLUMN workflow_progress.steps_total IS 'How many steps it has.';
COMMENT ON COLUMN workflow_progress.percent IS
'steps_done in percent of steps_total; NULL where there are none.';
COMMENT ON COLUMN workflow_progress.current_step IS
'The step that it is at: the first that is running or waits to be tried again; NULL where none is.';
COMMENT ON COLUMN workflow_progress.waited_for IS
'From its creation to its start, or its end without one; while it is pending, until now.';
COMMENT ON COLUMN workflow_progress.ran_for IS
'From its start to its end, or until now; NULL where it was never started.';
COMMENT ON COLUMN workflow_progress.attempt IS '1 for a first run, one more for each retry of it.';
COMMENT ON COLUMN workflow_progress.created_at IS 'When it was created.';
COMMENT ON COLUMN workflow_progress.started_at IS 'When it was started; NULL where it never was.';
COMMENT ON COLUMN workflow_progress.heartbeat_at IS
'When its executor last said that it is alive.';
COMMENT ON COLUMN workflow_progress.completed_at IS 'When it ended, however it ended; NULL before.';
COMMENT ON COLUMN workflow_progress.deadline_at IS 'When it is to be timed out; NULL for never.';
COMMENT ON COLUMN workflow_progress.customer_id IS 'Tenant.';
COMMENT ON COLUMN workflow_progress.agent_id IS 'The agent that runs it.';
COMMENT ON COLUMN workflow_progress.workflow_id IS
'The run; workflow_execution_id in other tables.';

CREATE VIEW running_workflows
WITH (security_invoker = true) AS
SELECT
    customer,
    workflow_type,
    agent,
    steps_done,
    steps_total,
    percent,
    current_step,
    ran_for AS running_for,
    date_trunc('second', now() - coalesce(heartbeat_at, started_at)) AS silent_for,
    date_trunc('second', deadline_at - now()) AS time_left,
    attempt,
    started_at,
    customer_id,
    agent_id,
    workflow_id
FROM workflow_progress
WHERE status = 'running'
ORDER BY started_at, workflow_id;
COMMENT ON VIEW running_workflows IS 'What runs right now, the longest running first.';
COMMENT ON COLUMN running_workflows.customer IS 'Name of the customer.';
COMMENT ON COLUMN running_workflows.workflow_type IS 'The job that the run does.';
COMMENT ON COLUMN running_workflows.agent IS 'Name of the agent that runs it.';
COMMENT ON COLUMN running_workflows.steps_done IS
'How many of its steps are over: completed or skipped.';
COMMENT ON COLUMN running_workflows.steps_total IS 'How many steps it has.';
COMMENT ON COLUMN running_workflows.percent IS
'steps_done in percent of steps_total; NULL where there are none.';
COMMENT ON COLUMN running_workflows.current_step IS
'The step that it is at: the first that is running or waits to be tried again; NULL where none is.';
COMMENT ON COLUMN running_workflows.running_for IS 'How long it has been running.';
COMMENT ON COLUMN running_workflows.silent_for IS
'How long ago its executor last said that it is alive; since its start where it never did.';
COMMENT ON COLUMN running_workflows.time_left IS
'Until its deadline, negative where that is past; NULL where it has none.';
COMMENT ON COLUMN running_workflows.attempt IS '1 for a first run, one more for each retry of it.';
COMMENT ON COLUMN running_workflows.started_at IS 'When it was started.';
COMMENT ON COLUMN running_workflows.customer_id IS 'Tenant.';
COMMENT ON COLUMN running_workflows.agent_id IS 'The agent that runs it.';
COMMENT ON COLUMN running_workflows.workflow_id IS 'The run.';

CREATE VIEW failed_workflows
WITH (security_invoker = true) AS
SELECT
    customers.name AS customer,
    run.workflow_type,
    run.status,
    agents.name AS agent,
    failed_step.step_name AS failed_step,
    coalesce(
        failed_step.error_details ->> 'message',
        run.error_details ->> 'message',
        run.error_details::text
    )::text AS error,
    run.completed_at AS failed_at,
    date_trunc('second', run.completed_at - run.started_at) AS ran_for,
    run.attempt,
    run.customer_id,
    run.agent_id,
    run.id AS workflow_id,
    failed_step.id AS failed_step_id,
    retry.id AS retry_id
FROM workflow_executions AS run
INNER JOIN customers ON run.customer_id = customers.id
INNER JOIN agents ON run.agent_id = agents.id
LEFT JOIN LATERAL (
    SELECT
        step.id,
        step.step_name,
        step.error_details
    FROM workflow_steps AS step
    WHERE
        step.customer_id = run.customer_id
        AND step.workflow_execution_id = run.id
        AND step.status = 'failed'
    ORDER BY step.step_order
    LIMIT 1
) AS failed_step ON true
LEFT JOIN LATERAL (
    SELECT again.id
    FROM workflow_executions AS again
    WHERE
        again.customer_id = run.customer_id
        AND again.retried_from_id = run.id
    LIMIT 1
) AS retry ON true
WHERE
    run.status IN ('failed', 'timeout')
    AND run.error_details IS NOT NULL -- as all that failed have, and an index by customer says
ORDER BY run.id DESC, run.customer_id DESC;
COMMENT ON VIEW failed_workflows IS
'What failed or timed out and why, the newest run first, with the first of its steps that failed.';
COMMENT ON COLUMN failed_workflows.customer IS 'Name of the customer.';
COMMENT ON COLUMN failed_workflows.workflow_type IS 'The job that the run did.';
COMMENT ON COLUMN failed_workflows.status IS 'failed or timeout.';
COMMENT ON COLUMN failed_workflows.agent IS 'Name of the agent that ran it.';
COMMENT ON COLUMN failed_workflows.failed_step IS
'Its first step that failed; NULL where none did.';
COMMENT ON COLUMN failed_workflows.error IS
'Message of the error of that step, else of the run, else all that is known of the latter.';
COMMENT ON COLUMN failed_workflows.failed_at IS 'When it ended.';
COMMENT ON COLUMN failed_workflows.ran_for IS
'From its start to its end; NULL where it was never started.';
COMMENT ON COLUMN failed_workflows.attempt IS '1 for a first run, one more for each retry of it.';
COMMENT ON COLUMN failed_workflows.customer_id IS 'Tenant.';
COMMENT ON COLUMN failed_workflows.agent_id IS 'The agent that ran it.';
COMMENT ON COLUMN failed_workflows.workflow_id IS 'The run.';
COMMENT ON COLUMN failed_workflows.failed_step_id IS 'The step; NULL where none failed.';
COMMENT ON COLUMN failed_workflows.retry_id IS
'The run that retries it; NULL where it was not retried.';

CREATE VIEW agent_workload
WITH (security_invoker = true) AS
WITH running AS (
    SELECT
        agent_id,
        count(*) AS runs
    FROM workflow_executions
    WHERE status = 'running'
    GROUP BY agent_id
),

pending AS (
    SELECT
        agent_id,
        count(*) AS runs,
        min(created_at) AS oldest_created_at
    FROM workflow_executions
    WHERE status = 'pending'
    GROUP BY agent_id
),

ended AS (
    SELECT
        run.agent_id,
        count(*) AS runs,
        count(*) FILTER (WHERE run.status IN ('failed', 'timeout')) AS failed_runs
    FROM customers
    CROSS JOIN
        LATERAL (
            SELECT
                workflow_executions.agent_id,
                workflow_executions.status
            FROM workflow_executions
            WHERE
                workflow_executions.customer_id = customers.id
                AND workflow_executions.completed_at >= now() - interval '1 hour'
            OFFSET 0
        ) AS run
    GROUP BY run.agent_id
)

SELECT
    agents.name AS agent,
    agents.type AS agent_type,
    agents.status,
    date_trunc('second', now() - agents.last_heartbeat) AS silent_for,
    coalesce(running.runs, 0) AS running,
    coalesce(pending.runs, 0) AS pending,
    date_trunc('second', now() - pending.oldest_created_at) AS oldest_pending_for,
    coalesce(ended.runs, 0) AS ended_last_hour,
    coalesce(ended.failed_runs, 0) AS failed_last_hour,
    agent_states.current_status AS activity,
    current_run.workflow_type AS current_workflow_type,
    agents.id AS agent_id,
    current_run.customer_id AS current_customer_id,
    current_run.id AS current_workflow_id
FROM agents
LEFT JOIN agent_states ON agents.id = agent_states.agent_id
LEFT JOIN workflow_executions AS current_run
    ON
        agent_states.current_workflow_customer_id = current_run.customer_id
        AND agent_states.current_workflow_id = current_run.id
LEFT JOIN running ON agents.id = running.agent_id
LEFT JOIN pending ON agents.id = pending.agent_id
LEFT JOIN ended ON agents.id = ended.agent_id
ORDER BY agents.type, agents.name;
COMMENT ON VIEW agent_workload IS
'How busy each agent is, by type and name: what runs, what waits, what ended in the last hour.';
COMMENT ON COLUMN agent_workload.agent IS 'Name of the agent.';
COMMENT ON COLUMN agent_workload.agent_type IS 'What it optimises.';
COMMENT ON COLUMN agent_workload.status IS 'Its health, as last reported.';
COMMENT ON COLUMN agent_workload.silent_for IS
'How long ago it last reported; NULL before its first heartbeat.';
COMMENT ON COLUMN agent_workload.running IS 'How many of its runs are running.';
COMMENT ON COLUMN agent_workload.pending IS 'How many runs wait for it.';
COMMENT ON COLUMN agent_workload.oldest_pending_for IS
'How long the oldest of those has been waiting; NULL where none waits.';
COMMENT ON COLUMN agent_workload.ended_last_hour IS
'How many of its runs ended in the last hour, however they ended.';
COMMENT ON COLUMN agent_workload.failed_last_hour IS 'How many of those failed or timed out.';
COMMENT ON COLUMN agent_workload.activity IS
'What it says that it is doing; NULL where it says nothing.';
COMMENT ON COLUMN agent_workload.current_workflow_type IS
'The job of the run that it says it works on; NULL where it works on none.';
COMMENT ON COLUMN agent_workload.agent_id IS 'The agent.';
COMMENT ON COLUMN agent_workload.current_customer_id IS 'Tenant of the run that it works on.';
COMMENT ON COLUMN agent_workload.current_workflow_id IS 'The run that it works on.';

CREATE VIEW workflow_stats
WITH (security_invoker = true) AS
SELECT
    run.workflow_type,
    count(*) AS ended,
    count(*) FILTER (WHERE run.status = 'completed') AS completed,
    count(*) FILTER (WHERE run.status = 'failed') AS failed,
    count(*) FILTER (WHERE run.status = 'timeout') AS timed_out,
    count(*) FILTER (WHERE run.status = 'cancelled') AS cancelled,
    round(100.0 * count(*) FILTER (WHERE run.status IN ('failed', 'timeout')) / count(*), 1)
        AS failed_percent,
    round(100.0 * count(*) FILTER (WHERE run.attempt > 1) / count(*), 1) AS retries_percent,
    date_trunc('second', percentile_cont(0.5) WITHIN GROUP (ORDER BY run.duration))
        AS duration_p50,
    date_trunc('second', percentile_cont(0.95) WITHIN GROUP (ORDER BY run.duration))
        AS duration_p95,
    date_trunc('second', percentile_cont(0.99) WITHIN GROUP (ORDER BY run.duration))
        AS duration_p99,
    date_trunc('second', percentile_cont(0.95) WITHIN GROUP (ORDER BY run.queue_wait))
        AS queue_wait_p95
FROM customers
CROSS JOIN
    LATERAL (
        SELECT
            workflow_executions.workflow_type,
            workflow_executions.status,
            workflow_executions.attempt,
            workflow_executions.completed_at - workflow_executions.started_at AS duration,
            workflow_executions.started_at - workflow_executions.created_at AS queue_wait
        FROM workflow_executions
        WHERE
            workflow_executions.customer_id = customers.id
            AND workflow_executions.completed_at >= now() - interval '24 hours'
        OFFSET 0
    ) AS run
GROUP BY run.workflow_type
ORDER BY run.workflow_type;
COMMENT ON VIEW workflow_stats IS
'How the runs went that ended in the last 24 hours, by workflow type.';
COMMENT ON COLUMN workflow_stats.workflow_type IS 'The job.';
COMMENT ON COLUMN workflow_stats.ended IS
'How many runs ended in the last 24 hours, however they ended.';
COMMENT ON COLUMN workflow_stats.completed IS 'How many of them completed.';
COMMENT ON COLUMN workflow_stats.failed IS 'How many of them failed.';
COMMENT ON COLUMN workflow_stats.timed_out IS 'How many of them timed out.';
COMMENT ON COLUMN workflow_stats.cancelled IS 'How many of them were cancelled.';
COMMENT ON COLUMN workflow_stats.failed_percent IS
'How many percent of them failed or timed out.';
COMMENT ON COLUMN workflow_stats.retries_percent IS
'How many percent of them were retries of another run.';
COMMENT ON COLUMN workflow_stats.duration_p50 IS
'Median of the time from start to end; like all durations here NULL where none was ever started.';
COMMENT ON COLUMN workflow_stats.duration_p95 IS '95 of 100 took no longer.';
COMMENT ON COLUMN workflow_stats.duration_p99 IS '99 of 100 took no longer.';
COMMENT ON COLUMN workflow_stats.queue_wait_p95 IS
'95 of 100 waited no longer between creation and start.';
