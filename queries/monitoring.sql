-- name: count_workflow_executions :many
-- How many runs there are by type and status: those that ended in [since, until), and of those that
-- are open now the ones created in it. Of one customer where customer_id is given, else for
-- operators: it spans customers.
-- @required since, until
--
-- @plan customers_pkey, workflow_executions_customer_id_completed_at_idx,
--   workflow_executions_customer_id_id_open_idx, rows <= customers + window_runs + open_runs
WITH run AS (
    SELECT
        ended.workflow_type,
        ended.status
    FROM customers
    CROSS JOIN
        LATERAL (
            SELECT
                workflow_executions.workflow_type,
                workflow_executions.status
            FROM workflow_executions
            WHERE
                workflow_executions.customer_id = customers.id
                AND workflow_executions.completed_at >= @since::timestamptz
                AND workflow_executions.completed_at < @until::timestamptz
            OFFSET 0
        ) AS ended
    WHERE customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
    UNION ALL
    SELECT
        workflow_type,
        status
    FROM workflow_executions
    WHERE
        status IN ('pending', 'running')
        AND customer_id = coalesce(sqlc.narg('customer_id')::uuid, customer_id)
        AND created_at >= @since::timestamptz
        AND created_at < @until::timestamptz
)

SELECT
    workflow_type,
    status,
    count(*) AS runs
FROM run
GROUP BY workflow_type, status
ORDER BY workflow_type, status;

-- name: list_workflow_stats :many
-- How the runs went that ended in [since, until), by type: how many ended and how; failure_rate is
-- the share of them that failed or timed out, retry_rate the share that were retries of another
-- run. Durations are from start to end, queue waits from creation to start, however the run ended;
-- None where none was ever started. Of one customer where customer_id is given, else for
-- operators: it spans customers.
-- @nullable duration_p50, duration_p95, duration_p99
-- @nullable queue_wait_p50, queue_wait_p95, queue_wait_p99
--
-- @plan customers_pkey, workflow_executions_customer_id_completed_at_idx,
--   rows <= customers + window_runs
SELECT
    run.workflow_type,
    count(*) AS ended,
    count(*) FILTER (WHERE run.status = 'completed') AS completed,
    count(*) FILTER (WHERE run.status = 'failed') AS failed,
    count(*) FILTER (WHERE run.status = 'timeout') AS timed_out,
    count(*) FILTER (WHERE run.status = 'cancelled') AS cancelled,
    avg((run.status IN ('failed', 'timeout'))::integer)::double precision AS failure_rate,
    avg((run.attempt > 1)::integer)::double precision AS retry_rate,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY run.duration) AS duration_p50,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY run.duration) AS duration_p95,
    percentile_cont(0.99) WITHIN GROUP (ORDER BY run.duration) AS duration_p99,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY run.queue_wait) AS queue_wait_p50,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY run.queue_wait) AS queue_wait_p95,
    percentile_cont(0.99) WITHIN GROUP (ORDER BY run.queue_wait) AS queue_wait_p99
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
            AND workflow_executions.completed_at >= @since::timestamptz
            AND workflow_executions.completed_at < @until::timestamptz
        OFFSET 0
    ) AS run
WHERE customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
GROUP BY run.workflow_type
ORDER BY run.workflow_type;

-- name: list_step_stats :many
-- How the steps went of the runs that ended in [since, until), by type of run and name of step.
-- failure_rate is the share that failed of those that completed or failed, None where there is none
-- of them; retry_rate the share of all that were tried again. A step's times are those of its
-- latest attempt: duration is from its start to its end, queue_wait to its start from the end of
-- the step before it in the plan, or the start of the run where that is later, but of steps that
-- were tried again it is not counted. None where there is none. One that was running when its run
-- was cancelled counts as skipped. Of one customer where customer_id is given, else for operators:
-- it spans customers.
-- @nullable failure_rate, duration_p50, duration_p95, duration_p99
-- @nullable queue_wait_p50, queue_wait_p95, queue_wait_p99
--
-- @plan customers_pkey, workflow_executions_customer_id_completed_at_idx,
--   workflow_steps_step_order_key, rows <= customers + window_runs * (1 + steps)
SELECT
    run.workflow_type,
    step.step_name,
    count(*) AS steps,
    count(*) FILTER (WHERE step.status = 'completed') AS completed,
    count(*) FILTER (WHERE step.status = 'failed') AS failed,
    count(*) FILTER (WHERE step.status = 'skipped') AS skipped,
    avg((step.status = 'failed')::integer) FILTER (
        WHERE step.status IN ('completed', 'failed')
    )::double precision AS failure_rate,
    avg((step.retry_count > 0)::integer)::double precision AS retry_rate,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY step.duration) AS duration_p50,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY step.duration) AS duration_p95,
    percentile_cont(0.99) WITHIN GROUP (ORDER BY step.duration) AS duration_p99,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY step.queue_wait) AS queue_wait_p50,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY step.queue_wait) AS queue_wait_p95,
    percentile_cont(0.99) WITHIN GROUP (ORDER BY step.queue_wait) AS queue_wait_p99
FROM customers
CROSS JOIN
    LATERAL (
        SELECT
            workflow_executions.id,
            workflow_executions.workflow_type,
            workflow_executions.started_at
        FROM workflow_executions
        WHERE
            workflow_executions.customer_id = customers.id
            AND workflow_executions.completed_at >= @since::timestamptz
            AND workflow_executions.completed_at < @until::timestamptz
        OFFSET 0
    ) AS run
CROSS JOIN
    LATERAL (
        SELECT
            workflow_steps.step_name,
            CASE
                WHEN workflow_steps.error_details ->> 'type' = 'WorkflowCancelled' THEN 'skipped'
                ELSE workflow_steps.status
            END AS status,
            workflow_steps.retry_count,
            workflow_steps.completed_at - workflow_steps.started_at AS duration,
            -- Steps that run side by side do not wait for each other.
            CASE
                WHEN workflow_steps.started_at IS NOT NULL AND workflow_steps.retry_count = 0
                    THEN greatest(
                        workflow_steps.started_at - greatest(
                            run.started_at,
                            lag(workflow_steps.completed_at)
                                OVER (ORDER BY workflow_steps.step_order)
                        ),
                        interval '0'
                    )
            END AS queue_wait
        FROM workflow_steps
        WHERE
            workflow_steps.customer_id = customers.id
            AND workflow_steps.workflow_execution_id = run.id
    ) AS step
WHERE customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
GROUP BY run.workflow_type, step.step_name
ORDER BY run.workflow_type, step.step_name;

-- name: list_failing_steps :many
-- Which steps of the runs that ended in [since, until) failed most often, by type of run and name
-- of step, up to max_rows: how many failed of how many that completed or failed, the share, how
-- often they were tried again in all, and the latest that failed: its error message (the whole
-- error where it has none), when and in which run. One that was running when its run was cancelled
-- did not fail. Of one customer where customer_id is given, else for operators: it spans customers.
-- @required since, until, max_rows
--
-- @plan customers_pkey, workflow_executions_customer_id_completed_at_idx,
--   workflow_steps_step_order_key, workflow_steps_pkey,
--   rows <= customers + max_rows + window_runs * (1 + steps)
WITH worst AS (
    -- Errors may be large: only those that are shown are read.
    SELECT
        run.workflow_type,
        step.step_name,
        count(*) FILTER (WHERE step.status = 'failed') AS failed,
        count(*) AS attempted,
        avg((step.status = 'failed')::integer)::double precision AS failure_rate,
        sum(step.retry_count) AS retries,
        (
            array_agg(run.customer_id ORDER BY step.completed_at DESC, step.id ASC)
            FILTER (WHERE step.status = 'failed')
        )[1] AS customer_id,
        (
            array_agg(run.id ORDER BY step.completed_at DESC, step.id ASC)
            FILTER (WHERE step.status = 'failed')
        )[1] AS workflow_execution_id,
        (
            array_agg(step.id ORDER BY step.completed_at DESC, step.id ASC)
            FILTER (WHERE step.status = 'failed')
        )[1] AS workflow_step_id
    FROM customers
    CROSS JOIN
        LATERAL (
            SELECT
                workflow_executions.customer_id,
                workflow_executions.id,
                workflow_executions.workflow_type
            FROM workflow_executions
            WHERE
                workflow_executions.customer_id = customers.id
                AND workflow_executions.completed_at >= @since::timestamptz
                AND workflow_executions.completed_at < @until::timestamptz
            OFFSET 0
        ) AS run
    CROSS JOIN
        LATERAL (
            SELECT
                workflow_steps.id,
                workflow_steps.step_name,
                workflow_steps.status,
                workflow_steps.retry_count,
                workflow_steps.completed_at
            FROM workflow_steps
            WHERE
                workflow_steps.customer_id = run.customer_id
                AND workflow_steps.workflow_execution_id = run.id
                AND workflow_steps.status IN ('completed', 'failed')
                AND workflow_steps.error_details ->> 'type' IS DISTINCT FROM 'WorkflowCancelled'
            OFFSET 0
        ) AS step
    WHERE customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
    GROUP BY run.workflow_type, step.step_name
    HAVING count(*) FILTER (WHERE step.status = 'failed') > 0
    ORDER BY failed DESC, failure_rate DESC, run.workflow_type ASC, step.step_name ASC
    LIMIT @max_rows
)

SELECT
    worst.workflow_type,
    worst.step_name,
    worst.failed,
    worst.attempted,
    worst.failure_rate,
    worst.retries,
    coalesce(
        latest.error_details ->> 'message', latest.error_details::text
    )::text AS latest_error,
    latest.completed_at::timestamptz AS latest_failed_at,
    latest.customer_id AS latest_customer_id,
    latest.workflow_execution_id AS latest_workflow_execution_id
FROM worst
INNER JOIN workflow_steps AS latest
    ON
        worst.customer_id = latest.customer_id
        AND worst.workflow_execution_id = latest.workflow_execution_id
        AND worst.workflow_step_id = latest.id
ORDER BY
    worst.failed DESC,
    worst.failure_rate DESC,
    worst.workflow_type ASC,
    worst.step_name ASC;

-- name: list_slowest_steps :many
-- The steps that took longest of the runs that ended in [since, until), the longest first, up to
-- max_rows: a row a step, with its run, customer and agent. duration is that of its latest attempt.
-- list_step_stats has them by name. Of one customer where customer_id is given, else for
-- operators: it spans customers.
--
-- @plan customers_pkey, workflow_executions_customer_id_completed_at_idx,
--   workflow_steps_step_order_key, workflow_steps_pkey, agents_pkey,
--   rows <= customers + agents + window_runs * (1 + 2 * steps)
SELECT
    run.customer_id,
    customers.name AS customer_name,
    run.id AS workflow_execution_id,
    run.workflow_type,
    run.agent_id,
    agents.name AS agent_name,
    step.id AS workflow_step_id,
    step.step_name,
    step.status,
    step.retry_count,
    step.started_at::timestamptz AS started_at,
    step.duration::interval AS duration
FROM customers
CROSS JOIN
    LATERAL (
        SELECT
            workflow_executions.customer_id,
            workflow_executions.id,
            workflow_executions.workflow_type,
            workflow_executions.agent_id
        FROM workflow_executions
        WHERE
            workflow_executions.customer_id = customers.id
            AND workflow_executions.completed_at >= @since::timestamptz
            AND workflow_executions.completed_at < @until::timestamptz
        OFFSET 0
    ) AS run
CROSS JOIN
    LATERAL (
        SELECT
            workflow_steps.id,
            workflow_steps.step_name,
            workflow_steps.status,
            workflow_steps.retry_count,
            workflow_steps.started_at,
            workflow_steps.completed_at - workflow_steps.started_at AS duration
        FROM workflow_steps
        WHERE
            workflow_steps.customer_id = run.customer_id
            AND workflow_steps.workflow_execution_id = run.id
            AND workflow_steps.started_at IS NOT NULL
        OFFSET 0
    ) AS step
INNER JOIN agents ON run.agent_id = agents.id
WHERE customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
ORDER BY step.duration DESC, step.id ASC
LIMIT @max_rows;

-- name: list_oldest_running_workflows :many
-- What has been running longest, the longest first, up to max_rows: rows of the view
-- running_workflows, whose durations are in whole seconds. For operators: it spans customers.
-- @nullable percent, current_step, time_left
-- @notnull started_at
--
-- @plan workflow_executions_id_customer_id_running_idx,
--   workflow_executions_customer_id_id_open_idx, customers_pkey, agents_pkey,
--   workflow_steps_step_order_key,
--   rows <= customers + agents + 3 * open_runs + 4 * running_runs * steps
SELECT *
FROM running_workflows
ORDER BY started_at, workflow_id
LIMIT @max_rows;

-- name: list_stuck_workflows :many
-- Open runs on which nothing moves, up to max_rows, the longest stuck first, with the reason in
-- words: past their deadline; or, of those that are running, no heartbeat for longer than
-- silent_for (since the start where none ever came); or none of their steps running, nor waiting
-- for its time to be tried again, for longer than silent_for. Of one customer where customer_id is
-- given, else for operators: it spans customers.
--
-- Raises InvalidValue where silent_for is not more than 0.
-- @nullable started_at, heartbeat_at, deadline_at
-- @required silent_for, max_rows
--
-- @plan workflow_executions_customer_id_id_open_idx, customers_pkey, agents_pkey,
--   workflow_steps_step_order_key, workflow_steps_pkey,
--   rows <= customers + agents + 2 * open_runs + running_runs * steps
WITH run AS (
    SELECT
        workflow_executions.customer_id,
        customers.name AS customer_name,
        workflow_executions.id,
        workflow_executions.workflow_type,
        workflow_executions.status,
        workflow_executions.attempt,
        workflow_executions.agent_id,
        workflow_executions.started_at,
        workflow_executions.heartbeat_at,
        workflow_executions.deadline_at,
        CASE
            WHEN workflow_executions.deadline_at < now() THEN workflow_executions.deadline_at
        END AS overdue_since,
        CASE
            WHEN workflow_executions.status = 'running'
                THEN coalesce(workflow_executions.heartbeat_at, workflow_executions.started_at)
        END AS silent_since,
        CASE
            WHEN NOT step.is_running THEN greatest(workflow_executions.started_at, step.moved_at)
        END AS idle_since
    FROM customers
    INNER JOIN workflow_executions ON customers.id = workflow_executions.customer_id
    CROSS JOIN
        LATERAL (
            SELECT
                bool_or(workflow_steps.status = 'running') AS is_running,
                max(
                    greatest(
                        workflow_steps.created_at,
                        workflow_steps.completed_at,
                        workflow_steps.next_attempt_at
                    )
                ) AS moved_at
            FROM workflow_steps
            WHERE
                workflow_steps.customer_id = workflow_executions.customer_id
                AND workflow_steps.workflow_execution_id = workflow_executions.id
                AND workflow_executions.status = 'running'
        ) AS step
    WHERE
        customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
        AND workflow_executions.status IN ('pending', 'running')
        AND CASE
            WHEN @silent_for::interval > '0' THEN true
            ELSE refuse_value('silent_for', 'a time of silence must be more than 0')
        END
),

stuck AS (
    SELECT
        run.*,
        CASE
            WHEN run.silent_since < now() - @silent_for::interval THEN run.silent_since
        END AS stuck_silent_since,
        CASE
            WHEN run.idle_since < now() - @silent_for::interval THEN run.idle_since
        END AS stuck_idle_since
    FROM run
)

SELECT
    stuck.customer_id,
    stuck.customer_name,
    stuck.id,
    stuck.workflow_type,
    stuck.status,
    stuck.attempt,
    stuck.agent_id,
    agents.name AS agent_name,
    stuck.started_at,
    stuck.heartbeat_at,
    stuck.deadline_at,
    least(
        stuck.overdue_since, stuck.stuck_silent_since, stuck.stuck_idle_since
    )::timestamptz AS stuck_since,
    concat_ws(
        '; ',
        'past its deadline since ' || stuck.overdue_since,
        'no heartbeat since ' || stuck.stuck_silent_since,
        'no step running since ' || stuck.stuck_idle_since
    ) AS reason
FROM stuck
INNER JOIN agents ON stuck.agent_id = agents.id
WHERE
    coalesce(stuck.overdue_since, stuck.stuck_silent_since, stuck.stuck_idle_since) IS NOT NULL
ORDER BY stuck_since, stuck.id
LIMIT @max_rows;

-- name: list_workflow_throughput :many
-- How many runs ended in each hour (UTC) of [since, until), and how; an hour in which none ended
-- has zeros. The first and the last hour count only what is in the window. Of one customer where
-- customer_id is given, else for operators: it spans customers. Raises InvalidValue where the
-- window is longer than 10 years.
--
-- @plan customers_pkey, workflow_executions_customer_id_completed_at_idx,
--   rows <= customers + window_runs
WITH hours AS MATERIALIZED (
    SELECT hour
    FROM
        generate_series(
            date_trunc('hour', @since::timestamptz, 'UTC'),
            sqlc.arg('until')::timestamptz - interval '1 microsecond',
            interval '1 hour'
        ) AS series (hour)
    WHERE
        CASE
            WHEN @since::timestamptz >= sqlc.arg('until')::timestamptz - interval '10 years'
                THEN true
            ELSE refuse_value('since', 'a window of hours must not be longer than 10 years')
        END
        AND sqlc.arg('since')::timestamptz < sqlc.arg('until')::timestamptz
),

run AS (
    SELECT
        date_trunc('hour', ended.completed_at, 'UTC') AS hour,
        ended.status
    FROM customers
    CROSS JOIN
        LATERAL (
            SELECT
                workflow_executions.completed_at,
                workflow_executions.status
            FROM workflow_executions
            WHERE
                workflow_executions.customer_id = customers.id
                AND workflow_executions.completed_at >= @since::timestamptz
                AND workflow_executions.completed_at < @until::timestamptz
            OFFSET 0
        ) AS ended
    WHERE customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
)

SELECT
    hours.hour::timestamptz AS hour,
    count(run.status) AS ended,
    count(*) FILTER (WHERE run.status = 'completed') AS completed,
    count(*) FILTER (WHERE run.status = 'failed') AS failed,
    count(*) FILTER (WHERE run.status = 'timeout') AS timed_out,
    count(*) FILTER (WHERE run.status = 'cancelled') AS cancelled
FROM hours
LEFT JOIN run ON hours.hour = run.hour
GROUP BY hours.hour
ORDER BY hours.hour;

-- name: list_agent_workload :many
-- How busy each agent is, by type and name: rows of the view agent_workload, whose durations are in
-- whole seconds. For operators: it spans customers.
-- @nullable silent_for, oldest_pending_for
--
-- @plan workflow_executions_id_customer_id_running_idx,
--   workflow_executions_agent_id_id_pending_idx, workflow_executions_customer_id_id_open_idx,
--   workflow_executions_customer_id_completed_at_idx,
--   workflow_executions_pkey, agents_pkey, agents_type_name_key, agent_states_agent_id_key,
--   customers_pkey, rows <= customers + 3 * agents + 2 * open_runs + hour_runs
SELECT *
FROM agent_workload
ORDER BY agent_type, agent;

-- name: list_agent_stats :many
-- How the runs went that ended in [since, until), by the agent that did them, by type and name of
-- agent: how many ended and how, and busy_for, how long they ran, added up: runs of the same time
-- all count. Agents without such runs are left out. Of one customer where customer_id is given,
-- else for operators: it spans customers.
--
-- @plan customers_pkey, workflow_executions_customer_id_completed_at_idx, agents_pkey,
--   rows <= customers + agents + window_runs
WITH run AS (
    SELECT
        of_customer.agent_id,
        count(*) AS ended,
        count(*) FILTER (WHERE of_customer.status = 'completed') AS completed,
        count(*) FILTER (WHERE of_customer.status = 'failed') AS failed,
        count(*) FILTER (WHERE of_customer.status = 'timeout') AS timed_out,
        count(*) FILTER (WHERE of_customer.status = 'cancelled') AS cancelled,
        coalesce(sum(of_customer.duration), '0')::interval AS busy_for
    FROM customers
    CROSS JOIN
        LATERAL (
            SELECT
                workflow_executions.agent_id,
                workflow_executions.status,
                workflow_executions.completed_at - workflow_executions.started_at AS duration
            FROM workflow_executions
            WHERE
                workflow_executions.customer_id = customers.id
                AND workflow_executions.completed_at >= @since::timestamptz
                AND workflow_executions.completed_at < @until::timestamptz
            OFFSET 0
        ) AS of_customer
    WHERE customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
    GROUP BY of_customer.agent_id
)

SELECT
    run.agent_id,
    agents.name AS agent_name,
    agents.type AS agent_type,
    run.ended,
    run.completed,
    run.failed,
    run.timed_out,
    run.cancelled,
    run.busy_for
FROM run
INNER JOIN agents ON run.agent_id = agents.id
ORDER BY agents.type, agents.name;

-- name: list_artifact_volume :many
-- How many artifacts of each type the runs left that ended in [since, until), and how large they
-- are, in bytes: all together, and the largest. Most bytes first. Of one customer where customer_id
-- is given, else for operators: it spans customers.
--
-- @plan customers_pkey, workflow_executions_customer_id_completed_at_idx,
--   workflow_artifacts_pkey, workflow_artifacts_artifact_path_key,
--   rows <= customers + window_runs * (1 + artifacts)
SELECT
    artifact.artifact_type,
    count(*) AS artifacts,
    sum(artifact.artifact_size_bytes)::bigint AS size_bytes,
    max(artifact.artifact_size_bytes)::bigint AS largest_size_bytes
FROM customers
CROSS JOIN
    LATERAL (
        SELECT workflow_executions.id
        FROM workflow_executions
        WHERE
            workflow_executions.customer_id = customers.id
            AND workflow_executions.completed_at >= @since::timestamptz
            AND workflow_executions.completed_at < @until::timestamptz
        OFFSET 0
    ) AS run
CROSS JOIN
    LATERAL (
        SELECT
            workflow_artifacts.artifact_type,
            workflow_artifacts.artifact_size_bytes
        FROM workflow_artifacts
        WHERE
            workflow_artifacts.customer_id = customers.id
            AND workflow_artifacts.workflow_execution_id = run.id
        OFFSET 0
    ) AS artifact
WHERE customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
GROUP BY artifact.artifact_type
ORDER BY size_bytes DESC, artifact.artifact_type ASC;

-- name: list_table_sizes :many
-- The tables by size, the largest first; one that is partitioned is the sum of its partitions.
-- Sizes are in bytes: of all, of the rows (what is stored out of line included), of the indexes.
-- Rows, live and dead (which vacuum is yet to remove), are PostgreSQL's estimates; when it was last
-- vacuumed and analyzed, by hand or by autovacuum, is the latest of the partitions', None where it
-- never was since the statistics were reset. For operators: it spans customers.
-- @nullable last_vacuum, last_autovacuum, last_analyze, last_autoanalyze
--
-- @plan catalogue, buffers <= 5000
SELECT
    root.relname::text AS table_name,
    sum(pg_total_relation_size(stats.relid))::bigint AS total_bytes,
    sum(pg_table_size(stats.relid))::bigint AS table_bytes,
    sum(pg_indexes_size(stats.relid))::bigint AS index_bytes,
    sum(stats.n_live_tup)::bigint AS live_rows,
    sum(stats.n_dead_tup)::bigint AS dead_rows,
    max(stats.last_vacuum) AS last_vacuum,
    max(stats.last_autovacuum) AS last_autovacuum,
    max(stats.last_analyze) AS last_analyze,
    max(stats.last_autoanalyze) AS last_autoanalyze
FROM pg_catalog.pg_stat_user_tables AS stats
INNER JOIN pg_catalog.pg_class AS root
    ON coalesce(pg_partition_root(stats.relid), stats.relid) = root.oid
WHERE
    stats.schemaname = current_schema()
    AND root.relname !~ '^_?yoyo_'
GROUP BY root.oid, root.relname
ORDER BY total_bytes DESC, table_name ASC;

-- name: list_index_sizes :many
-- The indexes by size in bytes, the largest first, each with its table and how often it was used
-- since the statistics were reset; one of a partitioned table is the sum of its partitions'. One
-- that is unique or of a primary key is needed though it is never used. For operators: it spans
-- customers.
--
-- @plan catalogue, buffers <= 5000
SELECT
    root_table.relname::text AS table_name,
    root.relname::text AS index_name,
    sum(pg_total_relation_size(stats.indexrelid))::bigint AS size_bytes,
    sum(stats.idx_scan)::bigint AS scans,
    pg_index.indisunique AS is_unique
FROM pg_catalog.pg_stat_user_indexes AS stats
INNER JOIN pg_catalog.pg_class AS root
    ON coalesce(pg_partition_root(stats.indexrelid), stats.indexrelid) = root.oid
INNER JOIN pg_catalog.pg_index ON root.oid = pg_index.indexrelid
INNER JOIN pg_catalog.pg_class AS root_table ON pg_index.indrelid = root_table.oid
WHERE
    stats.schemaname = current_schema()
    AND root_table.relname !~ '^_?yoyo_'
GROUP BY root.oid, root.relname, root_table.relname, pg_index.indisunique
ORDER BY size_bytes DESC, index_name ASC;

-- name: list_partition_sizes :many
-- The partitions of each partitioned table, in their order: the time that each covers and how long
-- that is over (less than 0 for months to come), NULL of a DEFAULT partition; their bounds in
-- words, their size in bytes with indexes, and PostgreSQL's estimates of their rows, live and dead.
-- Rows in a DEFAULT partition wait for ensure_partitions. For operators: it spans customers.
-- @nullable since, until, over_for
--
-- @plan catalogue, buffers <= 5000
SELECT
    found.table_name,
    found.partition_name,
    found.since,
    (found.since + interval '1 month')::timestamptz AS until,
    (now() - (found.since + interval '1 month'))::interval AS over_for,
    found.bounds,
    found.total_bytes,
    found.live_rows,
    found.dead_rows
FROM (
    SELECT
        root.relname::text AS table_name,
        leaf.relname::text AS partition_name,
        (
            to_date(substring(leaf.relname FROM '_([0-9]{4}_[0-9]{2})$'), 'YYYY_MM')::timestamp
            AT TIME ZONE 'UTC'
        )::timestamptz AS since,
        pg_get_expr(leaf.relpartbound, leaf.oid)::text AS bounds,
        pg_total_relation_size(leaf.oid)::bigint AS total_bytes,
        stats.n_live_tup::bigint AS live_rows,
        stats.n_dead_tup::bigint AS dead_rows
    FROM pg_catalog.pg_stat_user_tables AS stats
    INNER JOIN pg_catalog.pg_class AS leaf ON stats.relid = leaf.oid
    INNER JOIN pg_catalog.pg_class AS root ON pg_partition_root(leaf.oid) = root.oid
    WHERE
        stats.schemaname = current_schema()
        AND leaf.relispartition
) AS found
ORDER BY found.table_name, found.partition_name;

-- name: get_oldest_transaction :one
-- The transaction of another session that has been open longest, or one that is prepared for a
-- commit in two phases (pid, state and query are None then, and name its name); None where there
-- is none. xid_age says how many transactions have begun since it needs rows kept: vacuum of its
-- database removes nothing younger, and the change feed waits; None where it holds back nothing. A
-- role without the rights of pg_read_all_stats sees only sessions of its own. For operators: it
-- spans customers.
-- @nullable pid, name, user_name, database, state, query_started_at, query, xid_age
--
-- @plan catalogue
SELECT
    transaction.pid,
    transaction.name,
    transaction.user_name,
    transaction.database,
    transaction.state,
    transaction.started_at::timestamptz AS started_at,
    (clock_timestamp() - transaction.started_at)::interval AS age,
    transaction.query_started_at,
    transaction.query,
    transaction.xid_age
FROM (
    SELECT
        pid,
        application_name AS name,
        usename::text AS user_name,
        datname::text AS database,
        state,
        xact_start AS started_at,
        query_start AS query_started_at,
        query,
        greatest(age(backend_xid), age(backend_xmin)) AS xid_age
    FROM pg_catalog.pg_stat_activity
    WHERE
        backend_type = 'client backend'
        AND pid != pg_backend_pid()
        AND xact_start IS NOT NULL
    UNION ALL
    SELECT
        NULL AS pid,
        gid AS name,
        owner::text AS user_name,
        database::text AS database,
        NULL AS state,
        prepared AS started_at,
        NULL AS query_started_at,
        NULL AS query,
        age(transaction) AS xid_age
    FROM pg_catalog.pg_prepared_xacts
) AS transaction
ORDER BY transaction.started_at, transaction.pid
LIMIT 1;

-- name: list_vacuum_blockers :many
-- What keeps vacuum from removing dead rows of this database, the worst first: sessions in a
-- transaction (name is the pid), prepared transactions, replication slots; xid_age says how many
-- transactions have begun since each needs rows kept. End a session with pg_terminate_backend, a
-- prepared transaction with ROLLBACK PREPARED, drop a slot that nobody reads. started_at of a
-- session is None to a role without the rights of pg_read_all_stats. For operators: it spans
-- customers.
-- @nullable user_name, started_at
--
-- @plan catalogue
SELECT
    blocker.kind::text AS kind,
    blocker.name::text AS name,
    blocker.user_name,
    blocker.started_at,
    blocker.xid_age::integer AS xid_age
FROM (
    SELECT
        'session' AS kind,
        pid::text AS name,
        usename::text AS user_name,
        xact_start AS started_at,
        greatest(age(backend_xid), age(backend_xmin)) AS xid_age
    FROM pg_catalog.pg_stat_activity
    WHERE
        pid != pg_backend_pid()
        AND backend_type IS DISTINCT FROM 'autovacuum worker'
        AND coalesce(datname, current_database()) = current_database()
    UNION ALL
    SELECT
        'prepared transaction' AS kind,
        gid AS name,
        owner::text AS user_name,
        prepared AS started_at,
        age(transaction) AS xid_age
    FROM pg_catalog.pg_prepared_xacts
    WHERE database = current_database()
    UNION ALL
    SELECT
        'replication slot' AS kind,
        slot_name::text AS name,
        NULL AS user_name,
        NULL AS started_at,
        greatest(age(xmin), age(catalog_xmin)) AS xid_age
    FROM pg_catalog.pg_replication_slots
    WHERE coalesce(database, current_database()) = current_database()
) AS blocker
WHERE blocker.xid_age IS NOT NULL
ORDER BY blocker.xid_age DESC, blocker.kind ASC, blocker.name ASC
LIMIT @max_rows;
