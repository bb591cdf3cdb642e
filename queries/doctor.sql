-- name: find_open_steps_of_ended_runs :many
-- Steps that are open though their run is over.
-- @row Finding
--
-- @plan whole workflow_executions, whole workflow_steps, workflow_executions_pkey,
--   workflow_steps_step_order_key, rows <= 2 * (runs + all_steps)
SELECT
    workflow_steps.customer_id,
    'workflow_step' AS subject_type,
    workflow_steps.id AS subject_id,
    format(
        'is %s in run %s, which is %s',
        workflow_steps.status, workflow_executions.id, workflow_executions.status
    )::text AS problem
FROM workflow_steps
INNER JOIN workflow_executions
    ON
        workflow_steps.customer_id = workflow_executions.customer_id
        AND workflow_steps.workflow_execution_id = workflow_executions.id
WHERE
    workflow_steps.status IN ('pending', 'running', 'retrying')
    AND workflow_executions.status NOT IN ('pending', 'running')
    AND workflow_executions.updated_at >= @since
ORDER BY workflow_steps.id
LIMIT @max_rows;

-- name: find_states_unlike_audit_log :many
-- Rows whose status, retry_count or attempt is not what the last event about them says.
-- @required since, max_rows
-- @row Finding
--
-- @plan whole workflow_executions, whole workflow_steps, whole recommendations, whole approvals,
--   whole optimizations, events_customer_id_subject_id_created_at_id_idx, rows <= 3 * (runs +
--   all_steps)
WITH subject AS (
    SELECT
        customer_id,
        id,
        'workflow_execution' AS subject_type,
        NULL AS run_id,
        status::text AS status,
        attempt AS number,
        ', attempt ' AS counted,
        updated_at
    FROM workflow_executions
    UNION ALL
    SELECT
        customer_id,
        id,
        'workflow_step' AS subject_type,
        workflow_execution_id::text AS run_id,
        status::text AS status,
        retry_count AS number,
        ', retry_count ' AS counted,
        updated_at
    FROM workflow_steps
    UNION ALL
    SELECT
        customer_id,
        id,
        'recommendation' AS subject_type,
        NULL AS run_id,
        status::text AS status,
        NULL AS number,
        ', ' AS counted,
        updated_at
    FROM recommendations
    UNION ALL
    SELECT
        customer_id,
        id,
        'approval' AS subject_type,
        NULL AS run_id,
        status::text AS status,
        NULL AS number,
        ', ' AS counted,
        updated_at
    FROM approvals
    UNION ALL
    SELECT
        customer_id,
        id,
        'optimization' AS subject_type,
        NULL AS run_id,
        status::text AS status,
        NULL AS number,
        ', ' AS counted,
        updated_at
    FROM optimizations
)

SELECT
    subject.customer_id,
    subject.subject_type,
    subject.id AS subject_id,
    format(
        'is %s and its last event says %s',
        concat_ws(subject.counted, subject.status, subject.number),
        concat_ws(subject.counted, last_event.status, last_event.number)
    )::text AS problem
FROM subject
CROSS JOIN
    LATERAL (
        SELECT
            events.data ->> 'to' AS status,
            coalesce(events.data ->> 'retry_count', events.data ->> 'attempt')::integer AS number
        FROM events
        WHERE
            events.customer_id = subject.customer_id
            AND events.subject_id = subject.id
            AND events.subject_type = subject.subject_type
            AND (events.data ->> 'workflow_execution_id') IS NOT DISTINCT FROM subject.run_id
            AND events.data ? 'from'
        ORDER BY events.created_at DESC, events.id DESC
        LIMIT 1
    ) AS last_event
WHERE
    subject.updated_at >= @since
    AND (
        subject.status != last_event.status
        OR subject.number IS DISTINCT FROM last_event.number
    )
ORDER BY subject.id
LIMIT @max_rows;

-- name: find_gaps_in_audit_log :many
-- Events that do not begin where the one before them about the same thing ended, that follow no
-- arrow of status_transitions, or that count retries wrongly.
-- @row Finding
--
-- @plan whole events, events_pkey, rows <= 2 * events, buffers <= 4 * events
WITH step AS (
    SELECT
        customer_id,
        subject_type,
        subject_id,
        created_at,
        id,
        data ->> 'from' AS from_status,
        data ->> 'to' AS to_status,
        (data ->> 'retry_count')::integer AS retry_count,
        lag(data ->> 'to') OVER in_order AS was_status,
        lag((data ->> 'retry_count')::integer) OVER in_order AS was_retry_count
    FROM events
    WHERE
        subject_type IN (
            'workflow_execution', 'workflow_step', 'recommendation', 'approval', 'optimization'
        )
        AND data ? 'from'
        AND created_at >= @since
    WINDOW in_order AS (
        PARTITION BY customer_id, subject_type, subject_id, data ->> 'workflow_execution_id'
        ORDER BY created_at, id
    )
)

SELECT
    step.customer_id,
    step.subject_type::text AS subject_type,
    step.subject_id::uuid AS subject_id,
    CASE
        WHEN step.from_status != step.was_status
            THEN
                format(
                    'went from %s to %s at %s, and was %s before',
                    step.from_status, step.to_status, step.created_at, step.was_status
                )
        WHEN step.retry_count != step.was_retry_count + (step.to_status = 'retrying')::integer
            THEN
                format(
                    'went to %s at %s with retry_count %s, and had %s before',
                    step.to_status, step.created_at, step.retry_count, step.was_retry_count
                )
        ELSE
            format(
                'went from %s to %s at %s, which is not allowed',
                step.from_status, step.to_status, step.created_at
            )
    END::text AS problem
FROM step
WHERE
    step.from_status != step.was_status
    OR step.retry_count != step.was_retry_count + (step.to_status = 'retrying')::integer
    OR (
        step.from_status IS NOT NULL
        AND NOT EXISTS (
            SELECT
            FROM status_transitions
            WHERE
                status_transitions.table_name = step.subject_type || 's'
                AND status_transitions.from_status = step.from_status
                AND status_transitions.to_status = step.to_status
        )
    )
ORDER BY step.created_at, step.id
LIMIT @max_rows;

-- name: find_times_out_of_order :many
-- Runs and steps that ended before they started, runs that started before they were created, where
-- the audit log saw them created, and retries that do not count on from what they retry.
-- @row Finding
--
-- @plan whole workflow_executions, whole workflow_steps,
--   events_customer_id_subject_id_created_at_id_idx, rows <= 3 * (runs + all_steps)
SELECT
    run.customer_id,
    'workflow_execution' AS subject_type,
    run.id AS subject_id,
    CASE
        WHEN run.completed_at < run.started_at THEN 'ended before it started'
        WHEN original.attempt + 1 != run.attempt
            THEN format('is attempt %s and retries attempt %s', run.attempt, original.attempt)
        ELSE 'started before it was created'
    END::text AS problem
FROM workflow_executions AS run
LEFT JOIN workflow_executions AS original
    ON run.customer_id = original.customer_id AND run.retried_from_id = original.id
WHERE
    run.updated_at >= @since
    AND (
        run.completed_at < run.started_at
        OR original.attempt + 1 != run.attempt
        OR (
            run.started_at < run.created_at
            AND EXISTS (
                SELECT
                FROM events
                WHERE
                    events.customer_id = run.customer_id
                    AND events.subject_id = run.id
                    AND events.event_type = 'workflow_execution.pending'
            )
        )
    )
UNION ALL
SELECT
    workflow_steps.customer_id,
    'workflow_step' AS subject_type,
    workflow_steps.id AS subject_id,
    'ended before it started' AS problem
FROM workflow_steps
WHERE
    workflow_steps.updated_at >= @since
    AND workflow_steps.completed_at < workflow_steps.started_at
ORDER BY subject_id
LIMIT @max_rows;

-- name: find_missing_guards :many
-- What should watch over the history and does not: triggers that are missing or disabled, row-level
-- security that is off, constraints that were not validated, indexes that are invalid; each with
-- its table.
-- @row MissingGuard
--
-- @plan catalogue, buffers <= 600
WITH expected (table_name, trigger_name) AS (
    SELECT
        machine.table_name,
        machine.table_name || suffix.suffix
    FROM
        unnest(
            ARRAY[
                'workflow_executions',
                'workflow_steps',
                'recommendations',
                'approvals',
                'optimizations'
            ]
        ) AS machine (table_name)
    CROSS JOIN unnest(ARRAY['_enforce_transitions', '_record_event']) AS suffix (suffix)
    UNION ALL
    SELECT
        creation.table_name,
        creation.table_name || '_record_creation' AS trigger_name
    FROM
        unnest(
            ARRAY['workflow_executions', 'recommendations', 'approvals', 'optimizations']
        ) AS creation (table_name)
    UNION ALL
    SELECT
        'workflow_steps' AS table_name,
        'workflow_steps_check_added' AS trigger_name
    UNION ALL
    SELECT
        'event_seals' AS table_name,
        guard.name AS trigger_name
    FROM
        unnest(ARRAY['event_seals_refuse_change', 'event_seals_refuse_truncate']) AS guard (name)
    UNION ALL
    SELECT
        partition.relid::text AS table_name,
        guard.name AS trigger_name
    FROM pg_partition_tree('events') AS partition
    CROSS JOIN
        unnest(ARRAY['events_check', 'events_refuse_change', 'events_refuse_truncate'])
            AS guard (name)
)

SELECT
    expected.table_name::text AS table_name,
    format(
        'trigger %s is %s',
        expected.trigger_name,
        CASE WHEN pg_trigger.oid IS NULL THEN 'missing' ELSE 'disabled' END
    )::text AS problem
FROM expected
LEFT JOIN pg_catalog.pg_trigger
    ON
        expected.table_name::regclass = pg_trigger.tgrelid
        AND expected.trigger_name = pg_trigger.tgname
WHERE
    pg_trigger.oid IS NULL
    OR pg_trigger.tgenabled NOT IN ('O', 'A')
UNION ALL
SELECT
    pg_class.oid::regclass::text AS table_name,
    CASE
        WHEN NOT pg_class.relrowsecurity THEN 'row-level security is off'
        WHEN NOT pg_class.relforcerowsecurity THEN 'row-level security is not forced'
        ELSE 'a policy of row-level security is missing, or there is another'
    END AS problem
FROM access_rules
CROSS JOIN
    LATERAL (
        SELECT to_regclass(access_rules.relation_name) AS relid
        UNION
        SELECT pg_inherits.inhrelid
        FROM pg_catalog.pg_inherits
        WHERE pg_inherits.inhparent = to_regclass(access_rules.relation_name)
    ) AS tree
INNER JOIN pg_catalog.pg_class ON tree.relid = pg_class.oid
WHERE
    access_rules.customer_column IS NOT NULL
    AND (
        NOT pg_class.relrowsecurity
        OR NOT pg_class.relforcerowsecurity
        OR ARRAY['all_rows', 'own_rows'] != array(
            SELECT pg_policy.polname::text
            FROM pg_catalog.pg_policy
            WHERE pg_policy.polrelid = pg_class.oid
            ORDER BY pg_policy.polname
        )
    )
UNION ALL
SELECT
    pg_constraint.conrelid::regclass::text AS table_name,
    format('constraint %s is not validated', pg_constraint.conname) AS problem
FROM pg_catalog.pg_constraint
WHERE
    pg_constraint.connamespace = current_schema()::regnamespace
    AND pg_constraint.conrelid != 0
    AND NOT pg_constraint.convalidated
UNION ALL
SELECT
    pg_index.indrelid::regclass::text AS table_name,
    format('index %s is invalid', pg_index.indexrelid::regclass) AS problem
FROM pg_catalog.pg_index
INNER JOIN pg_catalog.pg_class ON pg_index.indexrelid = pg_class.oid
WHERE
    pg_class.relnamespace = current_schema()::regnamespace
    AND NOT pg_index.indisvalid
ORDER BY table_name, problem;

-- name: count_events_from_the_future :one
-- How many events are of transactions that are yet to come: those of another cluster, after dump
-- and restore. The change feed waits for them until forget_event_xact_ids is run.
-- @returns exactly one
--
-- @plan events_xact_id_id_idx, rows <= 0
SELECT count(*) AS events
FROM events
WHERE
    xact_id >= pg_snapshot_xmax(pg_current_snapshot())
    AND xact_id IS DISTINCT FROM pg_current_xact_id_if_assigned();
