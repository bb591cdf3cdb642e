-- name: create_workflow_execution :one
-- Create a pending run together with its planned steps, in the order of step_names;
-- step_input_data (one a step, {} where missing), step_max_retries (one a step) and max_retries (of
-- the other steps, 3 unless given) may be left out. With an id that is taken already, nothing is
-- written and the run that is there is returned, so that a caller may safely try again.
-- @returns exactly one
--
-- @plan workflow_executions_pkey, rows <= 1
WITH created AS (
    INSERT INTO workflow_executions (
        customer_id,
        id,
        agent_id,
        workflow_type,
        deadline_at,
        input_data,
        metadata
    )
    VALUES (
        @customer_id,
        coalesce(sqlc.narg('id')::uuid, uuidv7()),
        @agent_id,
        @workflow_type,
        sqlc.narg('deadline_at'),
        coalesce(sqlc.narg('input_data')::jsonb, '{}'),
        coalesce(sqlc.narg('metadata')::jsonb, '{}')
    )
    ON CONFLICT (customer_id, id) DO UPDATE SET id = excluded.id
    RETURNING workflow_executions.*, (xmax = 0) AS is_new
),

planned AS (
    INSERT INTO workflow_steps (
        customer_id,
        workflow_execution_id,
        step_name,
        step_order,
        max_retries,
        input_data
    )
    SELECT
        created.customer_id,
        created.id,
        step.step_name,
        step.step_order,
        coalesce(step.max_retries, sqlc.narg('max_retries')::integer, 3),
        coalesce(step.input_data, '{}')
    FROM created
    CROSS JOIN
        unnest(
            @step_names::text[],
            sqlc.narg('step_input_data')::jsonb[],
            sqlc.narg('step_max_retries')::integer[]
        ) WITH ORDINALITY AS step (step_name, input_data, max_retries, step_order)
    WHERE created.is_new
)

SELECT
    customer_id,
    id,
    agent_id,
    workflow_type,
    status,
    attempt,
    retried_from_id,
    started_at,
    heartbeat_at,
    completed_at,
    deadline_at,
    input_data,
    output_data,
    error_details,
    metadata,
    created_at,
    updated_at
FROM created;

-- name: record_workflow_execution :one
-- Write a run as it happened elsewhere, with its steps and artifacts: one that is over, to import
-- history, or in any other state.
--
-- steps is a list of objects with step_name, step_order, status, and where they apply retry_count,
-- max_retries, next_attempt_at, started_at, completed_at, input_data, output_data, error_details,
-- metadata. artifacts is a list of objects with artifact_type, artifact_name, artifact_path,
-- artifact_size_bytes, content_type, sha256 (in hex), and where they apply step_order (of the step
-- that left it) and metadata. Times are ISO 8601 texts. With an id that is taken already, nothing
-- is written and the run that is there is returned.
-- @returns exactly one
--
-- @plan workflow_executions_pkey, rows <= 1
WITH created AS (
    INSERT INTO workflow_executions (
        customer_id,
        id,
        agent_id,
        workflow_type,
        status,
        attempt,
        retried_from_id,
        started_at,
        completed_at,
        deadline_at,
        input_data,
        output_data,
        error_details,
        metadata,
        created_at
    )
    VALUES (
        @customer_id,
        coalesce(sqlc.narg('id')::uuid, uuidv7()),
        @agent_id,
        @workflow_type,
        @status,
        coalesce(sqlc.narg('attempt')::integer, 1),
        sqlc.narg('retried_from_id'),
        sqlc.narg('started_at'),
        sqlc.narg('completed_at'),
        sqlc.narg('deadline_at'),
        coalesce(sqlc.narg('input_data')::jsonb, '{}'),
        coalesce(sqlc.narg('output_data')::jsonb, '{}'),
        sqlc.narg('error_details'),
        coalesce(sqlc.narg('metadata')::jsonb, '{}'),
        coalesce(sqlc.narg('created_at')::timestamptz, sqlc.narg('started_at'), now())
    )
    ON CONFLICT (customer_id, id) DO UPDATE SET id = excluded.id
    RETURNING workflow_executions.*, (xmax = 0) AS is_new
),

steps AS (
    INSERT INTO workflow_steps (
        customer_id,
        workflow_execution_id,
        step_name,
        step_order,
        status,
        retry_count,
        max_retries,
        next_attempt_at,
        started_at,
        completed_at,
        input_data,
        output_data,
        error_details,
        metadata,
        created_at
    )
    SELECT
        created.customer_id,
        created.id,
        step.step_name,
        step.step_order,
        step.status,
        coalesce(step.retry_count, 0),
        coalesce(step.max_retries, 3),
        step.next_attempt_at,
        step.started_at,
        step.completed_at,
        coalesce(step.input_data, '{}'),
        coalesce(step.output_data, '{}'),
        step.error_details,
        coalesce(step.metadata, '{}'),
        created.created_at
    FROM created
    CROSS JOIN
        jsonb_to_recordset(@steps::jsonb)
            AS step (
                step_name text,
                step_order integer,
                status step_status,
                retry_count integer,
                max_retries integer,
                next_attempt_at timestamptz,
                started_at timestamptz,
                completed_at timestamptz,
                input_data jsonb,
                output_data jsonb,
                error_details jsonb,
                metadata jsonb
            )
    WHERE created.is_new
    RETURNING id, step_order
),

artifacts AS (
    INSERT INTO workflow_artifacts (
        customer_id,
        workflow_execution_id,
        workflow_step_id,
        artifact_type,
        artifact_name,
        artifact_path,
        artifact_size_bytes,
        content_type,
        sha256,
        metadata,
        created_at
    )
    SELECT
        created.customer_id,
        created.id,
        -- A step that is not there violates the foreign key.
        CASE
            WHEN artifact.step_order IS NOT NULL
                THEN coalesce(steps.id, '00000000-0000-0000-0000-000000000000')
        END,
        artifact.artifact_type,
        artifact.artifact_name,
        artifact.artifact_path,
        artifact.artifact_size_bytes,
        artifact.content_type,
        decode(artifact.sha256, 'hex'),
        coalesce(artifact.metadata, '{}'),
        coalesce(created.completed_at, created.created_at)
    FROM created
    CROSS JOIN
        jsonb_to_recordset(@artifacts::jsonb)
            AS artifact (
                step_order integer,
                artifact_type artifact_type,
                artifact_name text,
                artifact_path text,
                artifact_size_bytes bigint,
                content_type text,
                sha256 text,
                metadata jsonb
            )
    LEFT JOIN steps ON artifact.step_order = steps.step_order
    WHERE
        created.is_new
        AND CASE
            WHEN artifact.sha256 !~ '^[0-9a-fA-F]{64}$'
                THEN refuse_value('sha256', 'not 64 hexadecimal digits: ' || artifact.sha256)
            ELSE true
        END
)

SELECT
    customer_id,
    id,
    agent_id,
    workflow_type,
    status,
    attempt,
    retried_from_id,
    started_at,
    heartbeat_at,
    completed_at,
    deadline_at,
    input_data,
    output_data,
    error_details,
    metadata,
    created_at,
    updated_at
FROM created;

-- name: record_workflow_executions :many
-- Write many runs of a customer as they happened elsewhere, in one statement: all or none of
-- them. Returns the id of each, in the order given, and whether it was new.
--
-- runs is a list of objects with agent_id, workflow_type, status, and where they apply id,
-- attempt, retried_from_id, started_at, completed_at, deadline_at, input_data, output_data,
-- error_details, metadata, created_at, steps and artifacts, all as record_workflow_execution
-- takes them. Of a run whose id is taken already nothing is written, so that an import may be
-- repeated. Some hundreds at a time are best.
--
-- Raises InvalidValue where an id stands twice.
--
-- @plan workflow_executions_pkey, rows <= runs, buffers <= 300 + 40 * runs
WITH given AS MATERIALIZED (
    SELECT
        run.place,
        run.value,
        coalesce((run.value ->> 'id')::uuid, uuidv7()) AS id,
        count(*) OVER (PARTITION BY (run.value ->> 'id')::uuid) AS times
    FROM jsonb_array_elements(@runs::jsonb) WITH ORDINALITY AS run (value, place)
),

created AS (
    INSERT INTO workflow_executions (
        customer_id,
        id,
        agent_id,
        workflow_type,
        status,
        attempt,
        retried_from_id,
        started_at,
        completed_at,
        deadline_at,
        input_data,
        output_data,
        error_details,
        metadata,
        created_at
    )
    SELECT
        @customer_id::uuid,
        given.id,
        run.agent_id,
        run.workflow_type,
        run.status,
        coalesce(run.attempt, 1),
        run.retried_from_id,
        run.started_at,
        run.completed_at,
        run.deadline_at,
        coalesce(run.input_data, '{}'),
        coalesce(run.output_data, '{}'),
        run.error_details,
        coalesce(run.metadata, '{}'),
        coalesce(run.created_at, run.started_at, now())
    FROM given
    CROSS JOIN
        jsonb_to_record(given.value)
            AS run (
                agent_id uuid,
                workflow_type workflow_type,
                status workflow_status,
                attempt integer,
                retried_from_id uuid,
                started_at timestamptz,
                completed_at timestamptz,
                deadline_at timestamptz,
                input_data jsonb,
                output_data jsonb,
                error_details jsonb,
                metadata jsonb,
                created_at timestamptz
            )
    WHERE
        CASE
            WHEN given.times > 1 AND given.value ->> 'id' IS NOT NULL
                THEN refuse_value('id', format('the id stands twice: %s', given.id))
            ELSE true
        END
    -- So that importers of the same runs lock them in one order.
    ORDER BY given.id
    ON CONFLICT (customer_id, id) DO UPDATE SET id = excluded.id
    RETURNING
        workflow_executions.customer_id,
        workflow_executions.id,
        workflow_executions.completed_at,
        workflow_executions.created_at,
        (xmax = 0) AS is_new
),

brought AS (
    SELECT
        created.*,
        given.value
    FROM created
    INNER JOIN given ON created.id = given.id
    WHERE created.is_new
),

steps AS (
    INSERT INTO workflow_steps (
        customer_id,
        workflow_execution_id,
        step_name,
        step_order,
        status,
        retry_count,
        max_retries,
        next_attempt_at,
        started_at,
        completed_at,
        input_data,
        output_data,
        error_details,
        metadata,
        created_at
    )
    SELECT
        brought.customer_id,
        brought.id,
        step.step_name,
        step.step_order,
        step.status,
        coalesce(step.retry_count, 0),
        coalesce(step.max_retries, 3),
        step.next_attempt_at,
        step.started_at,
        step.completed_at,
        coalesce(step.input_data, '{}'),
        coalesce(step.output_data, '{}'),
        step.error_details,
        coalesce(step.metadata, '{}'),
        brought.created_at
    FROM brought
    CROSS JOIN
        jsonb_to_recordset(nullif(brought.value -> 'steps', 'null'))
            AS step (
                step_name text,
                step_order integer,
                status step_status,
                retry_count integer,
                max_retries integer,
                next_attempt_at timestamptz,
                started_at timestamptz,
                completed_at timestamptz,
                input_data jsonb,
                output_data jsonb,
                error_details jsonb,
                metadata jsonb
            )
    RETURNING
        workflow_execution_id,
        id,
        step_order
),

artifacts AS (
    INSERT INTO workflow_artifacts (
        customer_id,
        workflow_execution_id,
        workflow_step_id,
        artifact_type,
        artifact_name,
        artifact_path,
        artifact_size_bytes,
        content_type,
        sha256,
        metadata,
        created_at
    )
    SELECT
        brought.customer_id,
        brought.id,
        -- A step that is not there violates the foreign key.
        CASE
            WHEN artifact.step_order IS NOT NULL
                THEN coalesce(steps.id, '00000000-0000-0000-0000-000000000000')
        END,
        artifact.artifact_type,
        artifact.artifact_name,
        artifact.artifact_path,
        artifact.artifact_size_bytes,
        artifact.content_type,
        decode(artifact.sha256, 'hex'),
        coalesce(artifact.metadata, '{}'),
        coalesce(brought.completed_at, brought.created_at)
    FROM brought
    CROSS JOIN
        jsonb_to_recordset(nullif(brought.value -> 'artifacts', 'null'))
            AS artifact (
                step_order integer,
                artifact_type artifact_type,
                artifact_name text,
                artifact_path text,
                artifact_size_bytes bigint,
                content_type text,
                sha256 text,
                metadata jsonb
            )
    LEFT JOIN steps
        ON
            brought.id = steps.workflow_execution_id
            AND artifact.step_order = steps.step_order
    WHERE
        CASE
            WHEN artifact.sha256 !~ '^[0-9a-fA-F]{64}$'
                THEN refuse_value('sha256', 'not 64 hexadecimal digits: ' || artifact.sha256)
            ELSE true
        END
)

SELECT
    created.id,
    created.is_new
FROM created
INNER JOIN given ON created.id = given.id
ORDER BY given.place;

-- name: get_workflow_execution :one
-- One run.
--
-- @plan workflow_executions_pkey, rows <= 1
SELECT *
FROM workflow_executions
WHERE
    customer_id = @customer_id
    AND id = @id;

-- name: get_workflow_detail :one
-- One run with its agent, its customer, its steps in order and its artifacts, oldest first.
-- @many steps workflow_steps
-- @many artifacts workflow_artifacts
--
-- @plan workflow_executions_pkey, workflow_steps_step_order_key, workflow_steps_pkey,
--   workflow_artifacts_pkey, customers_pkey, agents_pkey, rows <= 1 + customers + agents + steps +
--   artifacts
SELECT
    sqlc.embed(workflow_executions),
    sqlc.embed(agents),
    sqlc.embed(customers),
    array(
        SELECT step
        FROM (
            SELECT workflow_steps.*
            FROM workflow_steps
            WHERE
                workflow_steps.customer_id = workflow_executions.customer_id
                AND workflow_steps.workflow_execution_id = workflow_executions.id
            ORDER BY workflow_steps.step_order
        ) AS step
    ) AS steps,
    array(
        SELECT artifact
        FROM (
            SELECT workflow_artifacts.*
            FROM workflow_artifacts
            WHERE
                workflow_artifacts.customer_id = workflow_executions.customer_id
                AND workflow_artifacts.workflow_execution_id = workflow_executions.id
            ORDER BY workflow_artifacts.id
        ) AS artifact
    ) AS artifacts
FROM workflow_executions
INNER JOIN agents ON workflow_executions.agent_id = agents.id
INNER JOIN customers ON workflow_executions.customer_id = customers.id
WHERE
    workflow_executions.customer_id = @customer_id
    AND workflow_executions.id = @id;

-- name: list_workflow_executions :many
-- Runs of a customer without their payloads, newest first, up to max_rows; the next page starts
-- before the last id of this one.
-- @row WorkflowSummary
--
-- @plan workflow_executions_pkey, rows <= max_rows
SELECT
    customer_id,
    id,
    agent_id,
    workflow_type,
    status,
    attempt,
    retried_from_id,
    started_at,
    heartbeat_at,
    completed_at,
    deadline_at,
    created_at,
    updated_at
FROM workflow_executions
WHERE
    customer_id = @customer_id
    AND id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_workflow_executions_by_status :many
-- Runs of a customer in one state, paged like list_workflow_executions.
-- @row WorkflowSummary
-- @required customer_id, status, max_rows
--
-- @plan workflow_executions_customer_id_status_id_ended_idx, workflow_executions_pkey,
--   workflow_executions_customer_id_id_open_idx, workflow_executions_id_customer_id_running_idx,
--   rows <= 2 * max_rows + open_runs
WITH ended AS (
    SELECT
        customer_id,
        id,
        agent_id,
        workflow_type,
        status,
        attempt,
        retried_from_id,
        started_at,
        heartbeat_at,
        completed_at,
        deadline_at,
        created_at,
        updated_at
    FROM workflow_executions
    WHERE
        customer_id = @customer_id
        AND status = @status
        AND completed_at IS NOT NULL
        AND id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    ORDER BY id DESC
    LIMIT @max_rows
),

open AS (
    SELECT
        customer_id,
        id,
        agent_id,
        workflow_type,
        status,
        attempt,
        retried_from_id,
        started_at,
        heartbeat_at,
        completed_at,
        deadline_at,
        created_at,
        updated_at
    FROM workflow_executions
    WHERE
        customer_id = @customer_id
        AND status = @status
        AND status IN ('pending', 'running')
        AND id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    ORDER BY id DESC
    LIMIT @max_rows
)

SELECT * FROM ended
UNION ALL
SELECT * FROM open
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_open_workflow_executions :many
-- Runs of a customer that are not over (pending or running), paged like list_workflow_executions.
-- @row WorkflowSummary
--
-- @plan workflow_executions_customer_id_id_open_idx, rows <= max_rows
SELECT
    customer_id,
    id,
    agent_id,
    workflow_type,
    status,
    attempt,
    retried_from_id,
    started_at,
    heartbeat_at,
    completed_at,
    deadline_at,
    created_at,
    updated_at
FROM workflow_executions
WHERE
    customer_id = @customer_id
    AND status IN ('pending', 'running')
    AND id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_workflow_executions_by_type :many
-- Runs of a customer of one type, paged like list_workflow_executions.
-- @row WorkflowSummary
--
-- @plan workflow_executions_customer_id_workflow_type_id_idx, rows <= max_rows
SELECT
    customer_id,
    id,
    agent_id,
    workflow_type,
    status,
    attempt,
    retried_from_id,
    started_at,
    heartbeat_at,
    completed_at,
    deadline_at,
    created_at,
    updated_at
FROM workflow_executions
WHERE
    customer_id = @customer_id
    AND workflow_type = @workflow_type
    AND id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_workflow_executions_by_agent :many
-- Runs of a customer by one agent, paged like list_workflow_executions.
-- @row WorkflowSummary
--
-- @plan workflow_executions_agent_id_customer_id_id_idx, rows <= max_rows
SELECT
    customer_id,
    id,
    agent_id,
    workflow_type,
    status,
    attempt,
    retried_from_id,
    started_at,
    heartbeat_at,
    completed_at,
    deadline_at,
    created_at,
    updated_at
FROM workflow_executions
WHERE
    customer_id = @customer_id
    AND agent_id = @agent_id
    AND id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: get_workflow_lineage :many
-- All attempts at what a run is an attempt at, the first one first: the runs that it retries, the
-- run itself and those that retry it, without their payloads. Empty where there is no such run. A
-- deleted run splits the line.
-- @row WorkflowSummary
-- @required customer_id, id
--
-- @plan workflow_executions_pkey, workflow_executions_retried_from_id_key, rows <= 3 * attempts
WITH RECURSIVE earlier AS (
    SELECT
        id,
        retried_from_id
    FROM workflow_executions
    WHERE
        customer_id = @customer_id
        AND id = @id
    UNION
    SELECT
        workflow_executions.id,
        workflow_executions.retried_from_id
    FROM earlier
    INNER JOIN workflow_executions ON earlier.retried_from_id = workflow_executions.id
    WHERE workflow_executions.customer_id = @customer_id
),

later AS (
    SELECT id
    FROM workflow_executions
    WHERE
        customer_id = @customer_id
        AND id = @id
    UNION
    SELECT workflow_executions.id
    FROM later
    INNER JOIN workflow_executions ON later.id = workflow_executions.retried_from_id
    WHERE workflow_executions.customer_id = @customer_id
)

SELECT
    customer_id,
    id,
    agent_id,
    workflow_type,
    status,
    attempt,
    retried_from_id,
    started_at,
    heartbeat_at,
    completed_at,
    deadline_at,
    created_at,
    updated_at
FROM workflow_executions
WHERE
    customer_id = @customer_id
    AND id IN (
        SELECT earlier.id
        FROM earlier
        UNION ALL
        SELECT later.id
        FROM later
    )
ORDER BY attempt, id;

-- name: get_workflow_timeline :many
-- The story of a run in order: created, started, every attempt at every step, artifacts, the end,
-- and by whom. status is the one entered, NULL for an artifact. Where an attempt at a step or the
-- run ends, duration says how long it ran and error why it failed. name is that of the step or the
-- artifact. What was imported, and so did not happen under the eyes of the audit log, is told from
-- the rows. Of a run that was deleted its own events remain.
-- @nullable status, name, step_order, attempt, duration, error, actor
--
-- @plan workflow_executions_pkey, workflow_steps_step_order_key, workflow_steps_pkey,
--   workflow_artifacts_artifact_path_key, workflow_artifacts_pkey,
--   events_customer_id_subject_id_created_at_id_idx, rows <= 1 + 8 * (steps + artifacts)
WITH run AS (
    SELECT *
    FROM workflow_executions
    WHERE
        customer_id = @customer_id
        AND id = @id::uuid
),

step AS (
    SELECT *
    FROM workflow_steps
    WHERE
        customer_id = @customer_id
        AND workflow_execution_id = @id::uuid
),

audited AS (
    SELECT
        events.created_at,
        events.id,
        events.subject_type,
        events.subject_id,
        events.actor,
        events.data ->> 'from' AS from_status,
        events.data ->> 'to' AS to_status,
        CASE events.subject_type
            WHEN 'workflow_execution' THEN (events.data ->> 'attempt')::integer
            -- A step that is put back has counted its next attempt already.
            ELSE
                (events.data ->> 'retry_count')::integer
                + (events.data ->> 'to' != 'retrying')::integer
        END AS attempt,
        events.data -> 'error' AS error,
        CASE
            WHEN events.data ->> 'from' = 'running'
                THEN
                    events.created_at
                    - lag(events.created_at) OVER (
                        PARTITION BY events.subject_id ORDER BY events.created_at, events.id
                    )
        END AS duration
    FROM events
    WHERE
        events.customer_id = @customer_id
        -- Not @id || array(...): that is not leakproof, so newer minor releases do not let a
        -- tenant's query use it with an index.
        AND events.subject_id = any(
            array(
                SELECT @id::uuid AS id
                UNION ALL
                SELECT step.id FROM step
            )
        )
        AND (
            events.subject_type = 'workflow_execution'
            OR (
                events.subject_type = 'workflow_step'
                AND (events.data ->> 'workflow_execution_id')::uuid = @id
            )
        )
        AND events.data ? 'from'
),

witnessed AS (
    SELECT *
    FROM audited
    WHERE
        -- One that was inserted in a later state came from elsewhere.
        from_status IS NOT NULL
        OR to_status = 'pending'
),

told AS (
    SELECT
        'workflow_execution' AS subject_type,
        run.id AS subject_id,
        milestone.happened_at,
        milestone.status,
        run.attempt,
        CASE WHEN milestone.is_end THEN run.completed_at - run.started_at END AS duration,
        CASE WHEN milestone.is_end THEN run.error_details END AS error
    FROM run
    CROSS JOIN
        unnest(
            ARRAY['pending', 'running', run.status::text],
            ARRAY[run.created_at, run.started_at, run.completed_at],
            ARRAY[false, false, true]
        ) AS milestone (status, happened_at, is_end)
    UNION ALL
    SELECT
        'workflow_step' AS subject_type,
        step.id AS subject_id,
        milestone.happened_at,
        milestone.status,
        step.retry_count + 1 AS attempt,
        CASE WHEN milestone.is_end THEN step.completed_at - step.started_at END AS duration,
        CASE WHEN milestone.is_end AND step.status = 'failed' THEN step.error_details END AS error
    FROM step
    CROSS JOIN
        unnest(
            ARRAY['running', step.status::text],
            ARRAY[step.started_at, step.completed_at],
            ARRAY[false, true]
        ) AS milestone (status, happened_at, is_end)
)

SELECT
    story.happened_at::timestamptz AS happened_at,
    story.subject_type::text AS subject_type,
    story.subject_id::uuid AS subject_id,
    story.status,
    coalesce(story.name, step.step_name) AS name,
    step.step_order,
    story.attempt,
    story.duration,
    story.error,
    story.actor
FROM (
    SELECT
        created_at AS happened_at,
        subject_type,
        subject_id,
        to_status AS status,
        NULL AS name,
        attempt,
        duration,
        error,
        actor,
        id AS tie
    FROM witnessed
    UNION ALL
    SELECT
        told.happened_at,
        told.subject_type,
        told.subject_id,
        told.status,
        NULL AS name,
        told.attempt,
        told.duration,
        told.error,
        (
            SELECT audited.actor
            FROM audited
            WHERE
                audited.from_status IS NULL
                AND audited.to_status != 'pending'
            ORDER BY audited.created_at DESC
            LIMIT 1
        ) AS actor,
        told.subject_id AS tie
    FROM told
    WHERE
        told.happened_at IS NOT NULL
        AND NOT EXISTS (
            SELECT
            FROM witnessed
            WHERE
                witnessed.subject_id = told.subject_id
                AND witnessed.to_status = told.status
        )
    UNION ALL
    SELECT
        workflow_artifacts.created_at,
        'workflow_artifact' AS subject_type,
        workflow_artifacts.id,
        NULL AS status,
        workflow_artifacts.artifact_name AS name,
        NULL AS attempt,
        NULL AS duration,
        NULL AS error,
        NULL AS actor,
        workflow_artifacts.id AS tie
    FROM workflow_artifacts
    WHERE
        workflow_artifacts.customer_id = @customer_id
        AND workflow_artifacts.workflow_execution_id = @id::uuid
) AS story
LEFT JOIN step ON story.subject_id = step.id
ORDER BY
    story.happened_at,
    -- Of what is told to have happened at one moment: the run begins first and ends last.
    CASE
        WHEN story.subject_type != 'workflow_execution' THEN 3
        WHEN story.status = 'pending' THEN 1
        WHEN story.status = 'running' THEN 2
        ELSE 4
    END,
    step.step_order,
    story.status != 'running',
    story.tie;

-- name: list_workflow_progress :many
-- The board of a customer: runs with their agent, how many of their steps are over (completed or
-- skipped, but not those that the end of the run closed), how long they took or have taken, and
-- the first failed step with its error message; paged like list_workflow_executions.
-- @nullable duration, failed_step_name, failed_step_error
--
-- @plan workflow_executions_pkey, workflow_steps_step_order_key, workflow_steps_pkey, agents_pkey,
--   rows <= max_rows * (2 + 2 * steps)
SELECT
    workflow_executions.customer_id,
    workflow_executions.id,
    workflow_executions.workflow_type,
    workflow_executions.status,
    workflow_executions.attempt,
    workflow_executions.agent_id,
    agents.name AS agent_name,
    progress.steps_done,
    progress.steps_total,
    workflow_executions.created_at,
    workflow_executions.started_at,
    workflow_executions.completed_at,
    coalesce(workflow_executions.completed_at, now()) - workflow_executions.started_at AS duration,
    failed_step.step_name AS failed_step_name,
    failed_step.error_details ->> 'message' AS failed_step_error
FROM workflow_executions
INNER JOIN agents ON workflow_executions.agent_id = agents.id
CROSS JOIN
    LATERAL (
        SELECT
            count(*) FILTER (
                WHERE
                workflow_steps.status IN ('completed', 'skipped')
                AND NOT workflow_steps.metadata ? 'closed_with_run'
            ) AS steps_done,
            count(*) AS steps_total
        FROM workflow_steps
        WHERE
            workflow_steps.customer_id = @customer_id
            AND workflow_steps.workflow_execution_id = workflow_executions.id
    ) AS progress
LEFT JOIN LATERAL (
    SELECT
        workflow_steps.step_name,
        workflow_steps.error_details
    FROM workflow_steps
    WHERE
        workflow_steps.customer_id = @customer_id
        AND workflow_steps.workflow_execution_id = workflow_executions.id
        AND workflow_steps.status = 'failed'
    ORDER BY workflow_steps.step_order
    LIMIT 1
) AS failed_step ON true
WHERE
    workflow_executions.customer_id = @customer_id
    AND workflow_executions.id
    < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY workflow_executions.id DESC
LIMIT @max_rows;

-- name: list_recent_workflows :many
-- The newest runs, whatever their state, up to max_rows, of one customer where customer_id is
-- given, else for operators: it spans customers. With customer and agent, how many of its steps are
-- over (completed or skipped, but not those that the end of the run closed), the step that it is
-- at, how often its steps were tried again in all, the first failed step with its error message,
-- and how long it took or has taken. Of each customer it reads max_rows runs.
-- @row WorkflowProgress
-- @nullable current_step_name, failed_step_name, failed_step_error, duration
-- @required max_rows
--
-- @plan customers_pkey, workflow_executions_pkey, agents_pkey, workflow_steps_step_order_key,
--   workflow_steps_pkey, rows <= customers + agents + customers * max_rows + max_rows * (3 + steps)
WITH run AS (
    SELECT
        of_customer.*,
        customers.name AS customer_name,
        -- For those that LIMIT leaves, and beside the run: Citus joins no shards to what it picked.
        (
            SELECT
                jsonb_build_object(
                    'steps_done',
                    count(*) FILTER (
                        WHERE
                        workflow_steps.status IN ('completed', 'skipped')
                        AND NOT workflow_steps.metadata ? 'closed_with_run'
                    ),
                    'steps_total', count(*),
                    'retries', coalesce(sum(workflow_steps.retry_count), 0),
                    'current_step_name',
                    (
                        array_agg(workflow_steps.step_name ORDER BY workflow_steps.step_order)
                        FILTER (WHERE workflow_steps.status IN ('running', 'retrying'))
                    )[1],
                    'failed_step_name',
                    (
                        array_agg(workflow_steps.step_name ORDER BY workflow_steps.step_order)
                        FILTER (WHERE workflow_steps.status = 'failed')
                    )[1],
                    'failed_step_error',
                    (
                        array_agg(
                            workflow_steps.error_details ->> 'message'
                            ORDER BY workflow_steps.step_order
                        )
                        FILTER (WHERE workflow_steps.status = 'failed')
                    )[1]
                )
            FROM workflow_steps
            WHERE
                workflow_steps.customer_id = of_customer.customer_id
                AND workflow_steps.workflow_execution_id = of_customer.id
        ) AS progress
    FROM customers
    CROSS JOIN
        LATERAL (
            SELECT workflow_executions.*
            FROM workflow_executions
            WHERE
                workflow_executions.customer_id = customers.id
            ORDER BY workflow_executions.id DESC
            LIMIT @max_rows
        ) AS of_customer
    WHERE customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
    ORDER BY of_customer.id DESC, of_customer.customer_id DESC
    LIMIT @max_rows
)

SELECT
    run.customer_id,
    run.customer_name,
    run.id,
    run.workflow_type,
    run.status,
    run.attempt,
    run.agent_id,
    agents.name AS agent_name,
    (run.progress ->> 'steps_done')::bigint AS steps_done,
    (run.progress ->> 'steps_total')::bigint AS steps_total,
    run.progress ->> 'current_step_name' AS current_step_name,
    (run.progress ->> 'retries')::integer AS retries,
    run.progress ->> 'failed_step_name' AS failed_step_name,
    run.progress ->> 'failed_step_error' AS failed_step_error,
    run.created_at,
    run.started_at,
    run.heartbeat_at,
    run.completed_at,
    run.deadline_at,
    coalesce(run.completed_at, now()) - run.started_at AS duration
FROM run
INNER JOIN agents ON run.agent_id = agents.id
ORDER BY run.id DESC, run.customer_id DESC;

-- name: list_recent_workflows_by :many
-- What list_recent_workflows says, of the runs in a state, of a type, or of an agent, alone or
-- together. Of each customer it reads about max_rows runs: more where what is asked for together
-- rarely comes together, and where the statement is prepared and the type or agent is rare.
-- @row WorkflowProgress
-- @nullable current_step_name, failed_step_name, failed_step_error, duration
-- @required max_rows
--
-- @plan customers_pkey, workflow_executions_pkey,
--   workflow_executions_customer_id_workflow_type_id_idx,
--   workflow_executions_customer_id_status_id_ended_idx,
--   workflow_executions_customer_id_id_open_idx, workflow_executions_id_customer_id_running_idx,
--   workflow_executions_agent_id_customer_id_id_idx, agents_pkey, workflow_steps_step_order_key,
--   workflow_steps_pkey, rows <= customers + agents + runs + max_rows * (3 + steps)
WITH run AS (
    SELECT
        of_customer.*,
        customers.name AS customer_name,
        -- For those that LIMIT leaves, and beside the run: Citus joins no shards to what it picked.
        (
            SELECT
                jsonb_build_object(
                    'steps_done',
                    count(*) FILTER (
                        WHERE
                        workflow_steps.status IN ('completed', 'skipped')
                        AND NOT workflow_steps.metadata ? 'closed_with_run'
                    ),
                    'steps_total', count(*),
                    'retries', coalesce(sum(workflow_steps.retry_count), 0),
                    'current_step_name',
                    (
                        array_agg(workflow_steps.step_name ORDER BY workflow_steps.step_order)
                        FILTER (WHERE workflow_steps.status IN ('running', 'retrying'))
                    )[1],
                    'failed_step_name',
                    (
                        array_agg(workflow_steps.step_name ORDER BY workflow_steps.step_order)
                        FILTER (WHERE workflow_steps.status = 'failed')
                    )[1],
                    'failed_step_error',
                    (
                        array_agg(
                            workflow_steps.error_details ->> 'message'
                            ORDER BY workflow_steps.step_order
                        )
                        FILTER (WHERE workflow_steps.status = 'failed')
                    )[1]
                )
            FROM workflow_steps
            WHERE
                workflow_steps.customer_id = of_customer.customer_id
                AND workflow_steps.workflow_execution_id = of_customer.id
        ) AS progress
    FROM customers
    CROSS JOIN
        LATERAL (
            (
                SELECT workflow_executions.*
                FROM workflow_executions
                WHERE
                    workflow_executions.customer_id = customers.id
                    AND workflow_executions.status = sqlc.narg('status')::workflow_status
                    AND workflow_executions.completed_at IS NOT NULL
                    AND (
                        sqlc.narg('workflow_type')::workflow_type IS NULL
                        OR workflow_executions.workflow_type
                        = sqlc.narg('workflow_type')::workflow_type
                    )
                    AND (
                        sqlc.narg('agent_id')::uuid IS NULL
                        OR workflow_executions.agent_id = sqlc.narg('agent_id')::uuid
                    )
                ORDER BY workflow_executions.id DESC
                LIMIT @max_rows
            )
            UNION ALL
            (
                SELECT workflow_executions.*
                FROM workflow_executions
                WHERE
                    workflow_executions.customer_id = customers.id
                    AND workflow_executions.status = sqlc.narg('status')::workflow_status
                    AND workflow_executions.status IN ('pending', 'running')
                    AND (
                        sqlc.narg('workflow_type')::workflow_type IS NULL
                        OR workflow_executions.workflow_type
                        = sqlc.narg('workflow_type')::workflow_type
                    )
                    AND (
                        sqlc.narg('agent_id')::uuid IS NULL
                        OR workflow_executions.agent_id = sqlc.narg('agent_id')::uuid
                    )
                ORDER BY workflow_executions.id DESC
                LIMIT @max_rows
            )
            UNION ALL
            (
                SELECT workflow_executions.*
                FROM workflow_executions
                WHERE
                    workflow_executions.customer_id = customers.id
                    AND sqlc.narg('status')::workflow_status IS NULL
                    AND (
                        sqlc.narg('workflow_type')::workflow_type IS NULL
                        OR workflow_executions.workflow_type
                        = sqlc.narg('workflow_type')::workflow_type
                    )
                    AND (
                        sqlc.narg('agent_id')::uuid IS NULL
                        OR workflow_executions.agent_id = sqlc.narg('agent_id')::uuid
                    )
                ORDER BY workflow_executions.id DESC
                LIMIT @max_rows
            )
        ) AS of_customer
    WHERE customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
    ORDER BY of_customer.id DESC, of_customer.customer_id DESC
    LIMIT @max_rows
)

SELECT
    run.customer_id,
    run.customer_name,
    run.id,
    run.workflow_type,
    run.status,
    run.attempt,
    run.agent_id,
    agents.name AS agent_name,
    (run.progress ->> 'steps_done')::bigint AS steps_done,
    (run.progress ->> 'steps_total')::bigint AS steps_total,
    run.progress ->> 'current_step_name' AS current_step_name,
    (run.progress ->> 'retries')::integer AS retries,
    run.progress ->> 'failed_step_name' AS failed_step_name,
    run.progress ->> 'failed_step_error' AS failed_step_error,
    run.created_at,
    run.started_at,
    run.heartbeat_at,
    run.completed_at,
    run.deadline_at,
    coalesce(run.completed_at, now()) - run.started_at AS duration
FROM run
INNER JOIN agents ON run.agent_id = agents.id
ORDER BY run.id DESC, run.customer_id DESC;

-- name: list_open_workflows :many
-- What is not over, running or waiting, newest first, up to max_rows, with what
-- list_recent_workflows says of each. Of one customer where customer_id is given, else for
-- operators: it spans customers.
-- @row WorkflowProgress
-- @nullable current_step_name, failed_step_name, failed_step_error, duration
-- @required max_rows
--
-- @plan customers_pkey, workflow_executions_customer_id_id_open_idx, agents_pkey,
--   workflow_steps_step_order_key, workflow_steps_pkey,
--   rows <= customers + agents + open_runs + max_rows * (3 + steps)
WITH run AS (
    SELECT
        workflow_executions.*,
        customers.name AS customer_name,
        -- For those that LIMIT leaves, and beside the run: Citus joins no shards to what it picked.
        (
            SELECT
                jsonb_build_object(
                    'steps_done',
                    count(*) FILTER (
                        WHERE
                        workflow_steps.status IN ('completed', 'skipped')
                        AND NOT workflow_steps.metadata ? 'closed_with_run'
                    ),
                    'steps_total', count(*),
                    'retries', coalesce(sum(workflow_steps.retry_count), 0),
                    'current_step_name',
                    (
                        array_agg(workflow_steps.step_name ORDER BY workflow_steps.step_order)
                        FILTER (WHERE workflow_steps.status IN ('running', 'retrying'))
                    )[1],
                    'failed_step_name',
                    (
                        array_agg(workflow_steps.step_name ORDER BY workflow_steps.step_order)
                        FILTER (WHERE workflow_steps.status = 'failed')
                    )[1],
                    'failed_step_error',
                    (
                        array_agg(
                            workflow_steps.error_details ->> 'message'
                            ORDER BY workflow_steps.step_order
                        )
                        FILTER (WHERE workflow_steps.status = 'failed')
                    )[1]
                )
            FROM workflow_steps
            WHERE
                workflow_steps.customer_id = workflow_executions.customer_id
                AND workflow_steps.workflow_execution_id = workflow_executions.id
        ) AS progress
    FROM customers
    INNER JOIN workflow_executions ON customers.id = workflow_executions.customer_id
    WHERE
        customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
        AND workflow_executions.status IN ('pending', 'running')
    ORDER BY workflow_executions.id DESC, workflow_executions.customer_id DESC
    LIMIT @max_rows
)

SELECT
    run.customer_id,
    run.customer_name,
    run.id,
    run.workflow_type,
    run.status,
    run.attempt,
    run.agent_id,
    agents.name AS agent_name,
    (run.progress ->> 'steps_done')::bigint AS steps_done,
    (run.progress ->> 'steps_total')::bigint AS steps_total,
    run.progress ->> 'current_step_name' AS current_step_name,
    (run.progress ->> 'retries')::integer AS retries,
    run.progress ->> 'failed_step_name' AS failed_step_name,
    run.progress ->> 'failed_step_error' AS failed_step_error,
    run.created_at,
    run.started_at,
    run.heartbeat_at,
    run.completed_at,
    run.deadline_at,
    coalesce(run.completed_at, now()) - run.started_at AS duration
FROM run
INNER JOIN agents ON run.agent_id = agents.id
ORDER BY run.id DESC, run.customer_id DESC;

-- name: list_workflow_executions_by_id_range :many
-- The runs whose ids are from first_id to last_id, both included, of one customer where customer_id
-- is given, else for operators: it spans customers. Newest first, up to max_rows: what an
-- abbreviated id may stand for.
-- @row WorkflowSummary
-- @required first_id, last_id, max_rows
--
-- @plan customers_pkey, workflow_executions_pkey, rows <= customers + customers * max_rows
SELECT
    of_customer.customer_id,
    of_customer.id,
    of_customer.agent_id,
    of_customer.workflow_type,
    of_customer.status,
    of_customer.attempt,
    of_customer.retried_from_id,
    of_customer.started_at,
    of_customer.heartbeat_at,
    of_customer.completed_at,
    of_customer.deadline_at,
    of_customer.created_at,
    of_customer.updated_at
FROM customers
CROSS JOIN
    LATERAL (
        SELECT workflow_executions.*
        FROM workflow_executions
        WHERE
            workflow_executions.customer_id = customers.id
            AND workflow_executions.id BETWEEN @first_id AND @last_id
        ORDER BY workflow_executions.id DESC
        LIMIT @max_rows
    ) AS of_customer
WHERE customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
ORDER BY of_customer.id DESC, of_customer.customer_id DESC
LIMIT @max_rows;

-- name: list_running_workflows :many
-- What runs right now, newest first, with customer and agent, how many of its steps are over
-- (completed or skipped), the step that it is at, and how long it has been running; up to
-- max_rows, the next page starts before the last id and customer_id of this one. For operators: it
-- spans customers.
-- @nullable current_step_name
--
-- @plan workflow_executions_id_customer_id_running_idx, workflow_steps_step_order_key,
--   workflow_steps_pkey, customers_pkey, agents_pkey, rows <= customers + agents + max_rows * (3 +
--   2 * steps)
SELECT
    workflow_executions.customer_id,
    customers.name AS customer_name,
    workflow_executions.id,
    workflow_executions.workflow_type,
    workflow_executions.attempt,
    workflow_executions.agent_id,
    agents.name AS agent_name,
    progress.steps_done,
    progress.steps_total,
    current_step.step_name AS current_step_name,
    workflow_executions.started_at,
    workflow_executions.heartbeat_at,
    workflow_executions.deadline_at,
    now() - workflow_executions.started_at AS duration
FROM workflow_executions
INNER JOIN customers ON workflow_executions.customer_id = customers.id
INNER JOIN agents ON workflow_executions.agent_id = agents.id
CROSS JOIN
    LATERAL (
        SELECT
            count(*) FILTER (WHERE workflow_steps.status IN ('completed', 'skipped')) AS steps_done,
            count(*) AS steps_total
        FROM workflow_steps
        WHERE
            workflow_steps.customer_id = workflow_executions.customer_id
            AND workflow_steps.workflow_execution_id = workflow_executions.id
    ) AS progress
LEFT JOIN LATERAL (
    SELECT workflow_steps.step_name
    FROM workflow_steps
    WHERE
        workflow_steps.customer_id = workflow_executions.customer_id
        AND workflow_steps.workflow_execution_id = workflow_executions.id
        AND workflow_steps.status IN ('running', 'retrying')
    ORDER BY workflow_steps.step_order
    LIMIT 1
) AS current_step ON true
WHERE
    workflow_executions.status = 'running'
    AND (workflow_executions.id, workflow_executions.customer_id) < (
        least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
        greatest(sqlc.narg('before_customer_id')::uuid, '00000000-0000-0000-0000-000000000000')
    )
ORDER BY workflow_executions.id DESC, workflow_executions.customer_id DESC
LIMIT @max_rows;

-- name: list_failed_workflows :many
-- What failed or timed out, newest first, with customer and agent, and the first failed step with
-- its error; up to max_rows, the next page starts before the last id and customer_id of this one.
-- For operators: it spans customers.
-- @nullable failed_step_id, failed_step_name, failed_step_order, failed_step_error_details
--
-- @plan workflow_executions_id_customer_id_failed_idx, workflow_steps_step_order_key,
--   workflow_steps_pkey, customers_pkey, agents_pkey, rows <= customers + agents + max_rows * (3 +
--   steps)
SELECT
    workflow_executions.customer_id,
    customers.name AS customer_name,
    workflow_executions.id,
    workflow_executions.workflow_type,
    workflow_executions.status,
    workflow_executions.attempt,
    workflow_executions.agent_id,
    agents.name AS agent_name,
    workflow_executions.started_at,
    workflow_executions.completed_at,
    workflow_executions.error_details,
    failed_step.id AS failed_step_id,
    failed_step.step_name AS failed_step_name,
    failed_step.step_order AS failed_step_order,
    failed_step.error_details AS failed_step_error_details
FROM workflow_executions
INNER JOIN customers ON workflow_executions.customer_id = customers.id
INNER JOIN agents ON workflow_executions.agent_id = agents.id
LEFT JOIN LATERAL (
    SELECT
        workflow_steps.id,
        workflow_steps.step_name,
        workflow_steps.step_order,
        workflow_steps.error_details
    FROM workflow_steps
    WHERE
        workflow_steps.customer_id = workflow_executions.customer_id
        AND workflow_steps.workflow_execution_id = workflow_executions.id
        AND workflow_steps.status = 'failed'
    ORDER BY workflow_steps.step_order
    LIMIT 1
) AS failed_step ON true
WHERE
    workflow_executions.status IN ('failed', 'timeout')
    AND (workflow_executions.id, workflow_executions.customer_id) < (
        least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
        greatest(sqlc.narg('before_customer_id')::uuid, '00000000-0000-0000-0000-000000000000')
    )
ORDER BY workflow_executions.id DESC, workflow_executions.customer_id DESC
LIMIT @max_rows;

-- name: list_failed_workflows_by_customer :many
-- What failed or timed out of one customer; else like list_failed_workflows.
-- @nullable failed_step_id, failed_step_name, failed_step_order, failed_step_error_details
--
-- @plan workflow_executions_customer_id_id_failed_idx, workflow_steps_step_order_key,
--   workflow_steps_pkey, agents_pkey, rows <= agents + max_rows * (2 + steps)
SELECT
    workflow_executions.customer_id,
    workflow_executions.id,
    workflow_executions.workflow_type,
    workflow_executions.status,
    workflow_executions.attempt,
    workflow_executions.agent_id,
    agents.name AS agent_name,
    workflow_executions.started_at,
    workflow_executions.completed_at,
    workflow_executions.error_details,
    failed_step.id AS failed_step_id,
    failed_step.step_name AS failed_step_name,
    failed_step.step_order AS failed_step_order,
    failed_step.error_details AS failed_step_error_details
FROM workflow_executions
INNER JOIN agents ON workflow_executions.agent_id = agents.id
LEFT JOIN LATERAL (
    SELECT
        workflow_steps.id,
        workflow_steps.step_name,
        workflow_steps.step_order,
        workflow_steps.error_details
    FROM workflow_steps
    WHERE
        workflow_steps.customer_id = @customer_id
        AND workflow_steps.workflow_execution_id = workflow_executions.id
        AND workflow_steps.status = 'failed'
    ORDER BY workflow_steps.step_order
    LIMIT 1
) AS failed_step ON true
WHERE
    workflow_executions.customer_id = @customer_id
    AND workflow_executions.error_details IS NOT NULL
    AND workflow_executions.id
    < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY workflow_executions.id DESC
LIMIT @max_rows;

-- name: start_workflow_execution :one
-- Move a run from pending to running; None where it was not pending.
--
-- @plan workflow_executions_pkey, workflow_executions_customer_id_id_open_idx, rows <= 1
UPDATE workflow_executions
SET
    status = 'running',
    started_at = greatest(now(), created_at),
    heartbeat_at = greatest(now(), created_at)
WHERE
    customer_id = @customer_id
    AND id = @id
    AND status = 'pending'
RETURNING *;

-- name: begin_workflow_execution :one
-- Start a pending run together with the first pending step of its plan, in one statement. Returns
-- the step as it is now, whose retry_count this attempt's writes carry; None where the run was not
-- pending, or has no step to start, and then it stays as it was.
-- @required customer_id, id
--
-- @plan workflow_executions_pkey, workflow_executions_customer_id_id_open_idx,
--   workflow_steps_step_order_key, workflow_steps_pkey, rows <= 3 + steps
WITH pending AS MATERIALIZED (
    SELECT
        customer_id,
        id
    FROM workflow_executions
    WHERE
        customer_id = @customer_id::uuid
        AND id = @id::uuid
        AND status = 'pending'
    FOR NO KEY UPDATE
),

first_step AS MATERIALIZED (
    -- Locked before the run moves: one that is skipped at the moment is not the first, and the run
    -- does not start without any.
    SELECT
        workflow_steps.customer_id,
        workflow_steps.workflow_execution_id,
        workflow_steps.id
    FROM workflow_steps
    WHERE
        workflow_steps.customer_id = @customer_id::uuid
        AND workflow_steps.workflow_execution_id = @id::uuid
        AND workflow_steps.status = 'pending'
        AND EXISTS (SELECT FROM pending)
    ORDER BY workflow_steps.step_order
    LIMIT 1
    FOR NO KEY UPDATE
),

started AS (
    UPDATE workflow_executions
    SET
        status = 'running',
        started_at = greatest(now(), workflow_executions.created_at),
        heartbeat_at = greatest(now(), workflow_executions.created_at)
    FROM first_step
    WHERE
        workflow_executions.customer_id = @customer_id::uuid
        AND workflow_executions.id = first_step.workflow_execution_id
    RETURNING
        first_step.customer_id,
        first_step.workflow_execution_id,
        first_step.id
)

UPDATE workflow_steps
SET
    status = 'running',
    started_at = greatest(now(), workflow_steps.created_at)
FROM started
WHERE
    workflow_steps.customer_id = @customer_id::uuid
    AND workflow_steps.workflow_execution_id = started.workflow_execution_id
    AND workflow_steps.id = started.id
RETURNING workflow_steps.*;

-- name: claim_workflow_execution :one
-- Move the oldest pending run of an agent, if it is not past its deadline, to running and return
-- it; None where none waits. Callers at the same moment get different runs, without waiting for one
-- another. For agents: it spans customers.
-- @required agent_id
--
-- @plan workflow_executions_agent_id_id_pending_idx, workflow_executions_pkey,
--   workflow_executions_customer_id_id_open_idx, rows <= 2 + pending_runs
WITH next_run AS MATERIALIZED (
    SELECT
        customer_id,
        id
    FROM workflow_executions
    WHERE
        agent_id = @agent_id
        AND status = 'pending'
        AND coalesce(deadline_at, 'infinity') > now()
    ORDER BY id
    LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED
)

UPDATE workflow_executions
SET
    status = 'running',
    started_at = greatest(now(), workflow_executions.created_at),
    heartbeat_at = greatest(now(), workflow_executions.created_at)
FROM next_run
WHERE
    workflow_executions.customer_id = next_run.customer_id
    AND workflow_executions.id = next_run.id
RETURNING workflow_executions.*;

-- name: claim_workflow_executions :many
-- Claim up to max_rows runs at once, oldest first, as claim_workflow_execution does one: for
-- executors of short runs, which wait less for the disk so.
-- @required agent_id, max_rows
--
-- @plan workflow_executions_agent_id_id_pending_idx, workflow_executions_pkey,
--   workflow_executions_customer_id_id_open_idx, rows <= 2 * max_rows + pending_runs
WITH next_runs AS MATERIALIZED (
    SELECT
        customer_id,
        id
    FROM workflow_executions
    WHERE
        agent_id = @agent_id
        AND status = 'pending'
        AND coalesce(deadline_at, 'infinity') > now()
    ORDER BY id
    LIMIT @max_rows
    FOR NO KEY UPDATE SKIP LOCKED
),

claimed AS (
    UPDATE workflow_executions
    SET
        status = 'running',
        started_at = greatest(now(), workflow_executions.created_at),
        heartbeat_at = greatest(now(), workflow_executions.created_at)
    FROM next_runs
    WHERE
        workflow_executions.customer_id = next_runs.customer_id
        AND workflow_executions.id = next_runs.id
    RETURNING workflow_executions.*
)

SELECT *
FROM claimed
ORDER BY id;

-- name: claim_customer_workflow_executions :many
-- Claim up to max_rows pending runs of one customer for an agent, as claim_workflow_executions does
-- of all customers: for databases whose customers are spread over servers (Citus).
-- @required customer_id, agent_id, max_rows
--
-- @plan workflow_executions_agent_id_id_pending_idx, workflow_executions_pkey,
--   workflow_executions_customer_id_id_open_idx, rows <= 2 * max_rows + pending_runs + open_runs
WITH next_runs AS MATERIALIZED (
    SELECT id
    FROM workflow_executions
    WHERE
        customer_id = @customer_id
        AND agent_id = @agent_id
        AND status = 'pending'
        AND coalesce(deadline_at, 'infinity') > now()
    ORDER BY id
    LIMIT @max_rows
    FOR NO KEY UPDATE SKIP LOCKED
),

claimed AS (
    UPDATE workflow_executions
    SET
        status = 'running',
        started_at = greatest(now(), workflow_executions.created_at),
        heartbeat_at = greatest(now(), workflow_executions.created_at)
    FROM next_runs
    WHERE
        workflow_executions.customer_id = @customer_id
        AND workflow_executions.id = next_runs.id
    RETURNING workflow_executions.*
)

SELECT *
FROM claimed
ORDER BY id;

-- name: heartbeat_workflow_execution :one
-- Note that a running run is alive; None where it is not running (any more), which tells its
-- executor to stop. The payloads are left out: a heartbeat is to cost little. attempt is that of
-- the run as its executor got it.
--
-- Raises StaleWriter where the run is another attempt.
-- @row WorkflowSummary
--
-- @plan workflow_executions_pkey, workflow_executions_customer_id_id_open_idx,
--   workflow_executions_id_customer_id_running_idx, rows <= 1
UPDATE workflow_executions
SET heartbeat_at = now()
WHERE
    customer_id = @customer_id
    AND id = @id
    AND CASE
        WHEN attempt = @attempt THEN status = 'running'
        ELSE refuse_stale_write('workflow_execution', id, @attempt, attempt)
    END
RETURNING
    customer_id,
    id,
    agent_id,
    workflow_type,
    status,
    attempt,
    retried_from_id,
    started_at,
    heartbeat_at,
    completed_at,
    deadline_at,
    created_at,
    updated_at;

-- name: complete_workflow_execution :one
-- Move a run from running to completed, with what came of it; None where it was not running. That
-- steps of it failed does not keep it from being completed. attempt is that of the run as its
-- executor got it.
--
-- Raises IllegalTransition where steps of it are still open, and StaleWriter where the run is
-- another attempt.
--
-- @plan workflow_executions_pkey, workflow_executions_customer_id_id_open_idx,
--   workflow_executions_id_customer_id_running_idx, rows <= 1
UPDATE workflow_executions
SET
    status = 'completed',
    completed_at = greatest(now(), started_at),
    output_data = coalesce(sqlc.narg('output_data')::jsonb, output_data)
WHERE
    customer_id = @customer_id
    AND id = @id
    AND CASE
        WHEN attempt = @attempt THEN status = 'running'
        ELSE refuse_stale_write('workflow_execution', id, @attempt, attempt)
    END
RETURNING *;

-- name: complete_workflow_executions :many
-- Move many runs from running to completed, in one statement, each as complete_workflow_execution
-- does one. Run for run: customer_ids, ids, attempts, and output_data where there is any. Returns
-- the keys of those that it completed: one that is missing there was not running, or is another
-- attempt.
--
-- Raises IllegalTransition where steps of one are still open, and then completes none.
-- @row WorkflowKey
-- @required customer_ids, ids, attempts
--
-- @plan workflow_executions_pkey, workflow_executions_customer_id_id_open_idx,
--   workflow_executions_id_customer_id_running_idx, rows <= 2 * ids
WITH given AS MATERIALIZED (
    SELECT
        run.customer_id,
        run.id,
        run.attempt,
        run.output_data
    FROM
        unnest(
            @customer_ids::uuid[],
            @ids::uuid[],
            @attempts::integer[],
            sqlc.narg('output_data')::jsonb[]
        ) AS run (customer_id, id, attempt, output_data)
    ORDER BY run.customer_id, run.id
),

running AS MATERIALIZED (
    -- In the order in which all lock them.
    SELECT
        held.customer_id,
        held.id,
        given.output_data
    FROM given
    CROSS JOIN LATERAL (
        SELECT
            workflow_executions.customer_id,
            workflow_executions.id
        FROM workflow_executions
        WHERE
            workflow_executions.customer_id = given.customer_id
            AND workflow_executions.id = given.id
            AND workflow_executions.attempt = given.attempt
            AND workflow_executions.status = 'running'
        FOR NO KEY UPDATE
    ) AS held
)

UPDATE workflow_executions
SET
    status = 'completed',
    completed_at = greatest(now(), workflow_executions.started_at),
    output_data = coalesce(running.output_data, workflow_executions.output_data)
FROM running
WHERE
    workflow_executions.customer_id = running.customer_id
    AND workflow_executions.id = running.id
    AND workflow_executions.status = 'running'
RETURNING
    workflow_executions.customer_id,
    workflow_executions.id;

-- name: finish_workflow_execution :one
-- Complete the last step of a run, and the run with it, in one statement: output_data is what came
-- of the run, step_output_data what came of the step, artifacts what the step left, as
-- advance_workflow_step takes them. Returns the run; None where the step or the run was not
-- running. retry_count is that of the step as its executor started it.
--
-- Raises IllegalTransition where other steps of the run are open, StaleWriter where the step was
-- put back for another attempt since, and InvalidValue where the path of an artifact is taken by
-- other content, or stands twice; then nothing is changed.
-- @required customer_id, id, workflow_step_id, retry_count
--
-- @plan workflow_executions_pkey, workflow_executions_customer_id_id_open_idx,
--   workflow_executions_id_customer_id_running_idx, workflow_steps_pkey,
--   workflow_artifacts_artifact_path_key, rows <= 3
WITH running AS MATERIALIZED (
    -- Locked before the step, as everywhere.
    SELECT
        customer_id,
        id
    FROM workflow_executions
    WHERE
        customer_id = @customer_id::uuid
        AND id = @id::uuid
        AND status = 'running'
    FOR NO KEY UPDATE
),

completed AS (
    UPDATE workflow_steps
    SET
        status = 'completed',
        completed_at = greatest(now(), started_at),
        output_data = coalesce(sqlc.narg('step_output_data')::jsonb, output_data)
    WHERE
        customer_id = @customer_id::uuid
        AND workflow_execution_id = @id::uuid
        AND id = @workflow_step_id::uuid
        AND CASE
            WHEN retry_count = @retry_count
                THEN status = 'running' AND EXISTS (SELECT FROM running)
            ELSE refuse_stale_write('workflow_step', id, @retry_count, retry_count)
        END
    RETURNING
        customer_id,
        workflow_execution_id,
        id
),

left_artifacts AS (
    INSERT INTO workflow_artifacts (
        customer_id,
        workflow_execution_id,
        workflow_step_id,
        artifact_type,
        artifact_name,
        artifact_path,
        artifact_size_bytes,
        content_type,
        sha256,
        metadata,
        created_at,
        updated_at
    )
    SELECT
        completed.customer_id,
        completed.workflow_execution_id,
        completed.id,
        artifact.artifact_type,
        artifact.artifact_name,
        artifact.artifact_path,
        artifact.artifact_size_bytes,
        artifact.content_type,
        decode(artifact.sha256, 'hex'),
        coalesce(artifact.metadata, '{}'),
        clock_timestamp(),
        clock_timestamp()
    FROM completed
    CROSS JOIN
        jsonb_to_recordset(sqlc.narg('artifacts')::jsonb)
            AS artifact (
                artifact_type artifact_type,
                artifact_name text,
                artifact_path text,
                artifact_size_bytes bigint,
                content_type text,
                sha256 text,
                metadata jsonb
            )
    WHERE
        CASE
            WHEN
                artifact.artifact_path IN (
                    SELECT listed.value ->> 'artifact_path'
                    FROM jsonb_array_elements(sqlc.narg('artifacts')::jsonb) AS listed (value)
                    GROUP BY listed.value ->> 'artifact_path'
                    HAVING count(*) > 1
                )
                THEN refuse_value(
                    'artifact_path', 'the path stands twice: ' || artifact.artifact_path
                )
            WHEN artifact.sha256 !~ '^[0-9a-fA-F]{64}$'
                THEN refuse_value('sha256', 'not 64 hexadecimal digits: ' || artifact.sha256)
            ELSE true
        END
    ON CONFLICT (customer_id, workflow_execution_id, artifact_path) DO UPDATE
        SET artifact_path = excluded.artifact_path
        WHERE workflow_artifacts.sha256 = excluded.sha256
    RETURNING artifact_path
),

taken AS (
    SELECT
        refuse_value(
            'artifact_path', 'other content has the path ' || listed.artifact_path
        ) AS is_refused
    FROM jsonb_to_recordset(sqlc.narg('artifacts')::jsonb) AS listed (artifact_path text)
    WHERE
        EXISTS (SELECT FROM completed)
        AND listed.artifact_path NOT IN (SELECT left_artifacts.artifact_path FROM left_artifacts)
)

UPDATE workflow_executions
SET
    status = 'completed',
    completed_at = greatest(now(), workflow_executions.started_at),
    output_data = coalesce(sqlc.narg('output_data')::jsonb, workflow_executions.output_data)
FROM completed
WHERE
    workflow_executions.customer_id = @customer_id::uuid
    AND workflow_executions.id = completed.workflow_execution_id
    AND workflow_executions.status = 'running'
    AND NOT EXISTS (
        SELECT
        FROM taken
        WHERE taken.is_refused
    )
RETURNING workflow_executions.*;

-- name: fail_workflow_execution :one
-- Move a run from running to failed, with the reason (an object: type, message, ...). Its open
-- steps are closed: a running one fails with the same reason, the others are skipped. None where
-- the run was not running. attempt is that of the run as its executor got it.
--
-- Raises StaleWriter where the run is another attempt.
--
-- @plan workflow_executions_pkey, workflow_executions_customer_id_id_open_idx,
--   workflow_executions_id_customer_id_running_idx, rows <= 1
UPDATE workflow_executions
SET
    status = 'failed',
    completed_at = greatest(now(), started_at),
    error_details = @error_details::jsonb
WHERE
    customer_id = @customer_id
    AND id = @id
    AND CASE
        WHEN attempt = @attempt THEN status = 'running'
        ELSE refuse_stale_write('workflow_execution', id, @attempt, attempt)
    END
RETURNING *;

-- name: cancel_workflow_execution :one
-- Move a run from pending or running to cancelled, and note the reason (as cancel_reason in its
-- metadata). Its open steps are closed: a running one fails with that reason, the others are
-- skipped. None where the run was over. Who did it is the actor of the connection, or actor, which
-- then acts for the rest of the transaction.
--
-- @plan workflow_executions_pkey, workflow_executions_customer_id_id_open_idx, rows <= 1
WITH acting AS MATERIALIZED (
    SELECT
        set_config(
            'optiinfra.actor',
            coalesce(sqlc.narg('actor')::text, current_setting('optiinfra.actor', true), ''),
            true
        ) AS actor
)

UPDATE workflow_executions
SET
    status = 'cancelled',
    completed_at = greatest(now(), workflow_executions.started_at),
    metadata = workflow_executions.metadata || jsonb_build_object('cancel_reason', @reason::text)
FROM acting
WHERE
    workflow_executions.customer_id = @customer_id
    AND workflow_executions.id = @id
    AND workflow_executions.status IN ('pending', 'running')
RETURNING workflow_executions.*;

-- name: time_out_workflow_execution :one
-- Move a run that is past its deadline_at from pending or running to timeout, as
-- time_out_workflow_executions does, for the executor that keeps watch over its own. None where its
-- deadline has not come, or it has none, or was over.
-- @row WorkflowSummary
-- @required customer_id, id
--
-- @plan workflow_executions_pkey, workflow_executions_customer_id_id_open_idx,
--   workflow_executions_id_customer_id_running_idx, rows <= 2
WITH overdue AS MATERIALIZED (
    SELECT
        id,
        jsonb_build_object(
            'type', 'DeadlineExceeded',
            'message', format('not over by its deadline, %s', deadline_at)
        ) AS error_details
    FROM workflow_executions
    WHERE
        customer_id = @customer_id
        AND id = @id
        AND status IN ('pending', 'running')
        -- Not bare, so that the planner takes the key and not the index of deadlines.
        AND coalesce(deadline_at, 'infinity') < now()
    FOR NO KEY UPDATE
)

UPDATE workflow_executions
SET
    status = 'timeout',
    completed_at = greatest(now(), workflow_executions.started_at),
    error_details = overdue.error_details
FROM overdue
WHERE
    workflow_executions.customer_id = @customer_id
    AND workflow_executions.id = overdue.id
RETURNING
    workflow_executions.customer_id,
    workflow_executions.id,
    workflow_executions.agent_id,
    workflow_executions.workflow_type,
    workflow_executions.status,
    workflow_executions.attempt,
    workflow_executions.retried_from_id,
    workflow_executions.started_at,
    workflow_executions.heartbeat_at,
    workflow_executions.completed_at,
    workflow_executions.deadline_at,
    workflow_executions.created_at,
    workflow_executions.updated_at;

-- name: time_out_workflow_executions :many
-- Move up to max_rows runs to timeout that are past their deadline_at, and, where
-- heartbeat_timeout is given, running ones whose last heartbeat is longer ago than that; the
-- longest overdue first. error_details says which (type DeadlineExceeded or HeartbeatLost); their
-- open steps are closed as by fail_workflow_execution. Returns them. Runs that somebody is writing
-- at the moment are left for the next sweep. A run whose executor sends no heartbeats counts from
-- its start. For operators: it spans customers.
--
-- Raises InvalidValue where heartbeat_timeout is not more than 0.
-- @row WorkflowSummary
--
-- @plan workflow_executions_deadline_at_open_idx, workflow_executions_id_customer_id_running_idx,
--   workflow_executions_pkey, rows <= 4 * max_rows + running_runs, buffers <= 300 + 40 * max_rows +
--   running_runs
WITH past_deadline AS MATERIALIZED (
    SELECT
        customer_id,
        id,
        jsonb_build_object(
            'type', 'DeadlineExceeded',
            'message', format('not over by its deadline, %s', deadline_at)
        ) AS error_details
    FROM workflow_executions
    WHERE
        status IN ('pending', 'running')
        AND deadline_at < now()
    ORDER BY deadline_at
    LIMIT @max_rows
    FOR NO KEY UPDATE SKIP LOCKED
),

without_heartbeat AS MATERIALIZED (
    SELECT
        customer_id,
        id,
        jsonb_build_object(
            'type', 'HeartbeatLost',
            'message', format('no heartbeat since %s', coalesce(heartbeat_at, started_at))
        ) AS error_details
    FROM workflow_executions
    WHERE
        status = 'running'
        AND CASE
            WHEN (sqlc.narg('heartbeat_timeout')::interval > '0') IS NOT false
                THEN
                    coalesce(heartbeat_at, started_at)
                    < now() - sqlc.narg('heartbeat_timeout')::interval
            ELSE refuse_value('heartbeat_timeout', 'a time-out must be more than 0')
        END
        AND (deadline_at < now()) IS NOT true
    ORDER BY coalesce(heartbeat_at, started_at)
    LIMIT @max_rows
    FOR NO KEY UPDATE SKIP LOCKED
),

overdue AS (
    SELECT * FROM past_deadline
    UNION ALL
    SELECT * FROM without_heartbeat
    LIMIT @max_rows
),

timed_out AS (
    UPDATE workflow_executions
    SET
        status = 'timeout',
        completed_at = greatest(now(), workflow_executions.started_at),
        error_details = overdue.error_details
    FROM overdue
    WHERE
        workflow_executions.customer_id = overdue.customer_id
        AND workflow_executions.id = overdue.id
    RETURNING workflow_executions.*
)

SELECT
    customer_id,
    id,
    agent_id,
    workflow_type,
    status,
    attempt,
    retried_from_id,
    started_at,
    heartbeat_at,
    completed_at,
    deadline_at,
    created_at,
    updated_at
FROM timed_out
ORDER BY id;

-- name: retry_workflow_execution :one
-- Retry a run that failed, timed out or was cancelled: a new pending run with attempt + 1 and
-- retried_from_id, and its steps. What was completed, and all before the first step that failed or
-- was still open when the run ended, is carried over, as skipped steps with their outputs
-- (carried_over_from in their metadata); the others are pending again. from_step, the step_order of
-- a step, says to begin there instead: it and all after it are pending.
-- A deadline stays as long after the creation as it was, unless deadline_at says otherwise. A run
-- is retried once: retrying it again returns the run that already does, as it is, whatever the
-- arguments (retry that one, in turn).
-- None where the run is unknown, not over, or completed.
--
-- Raises InvalidValue where the run has no step from_step.
-- @required customer_id, id
--
-- @plan workflow_executions_pkey, workflow_executions_retried_from_id_key,
--   workflow_steps_step_order_key, workflow_steps_pkey, rows <= 4 + steps
WITH original AS MATERIALIZED (
    SELECT *
    FROM workflow_executions
    WHERE
        customer_id = @customer_id
        AND id = @id
        AND CASE
            WHEN
                sqlc.narg('from_step')::integer IS NULL
                OR EXISTS (
                    SELECT
                    FROM workflow_steps
                    WHERE
                        workflow_steps.customer_id = workflow_executions.customer_id
                        AND workflow_steps.workflow_execution_id = workflow_executions.id
                        AND workflow_steps.step_order = sqlc.narg('from_step')::integer
                )
                THEN status IN ('failed', 'timeout', 'cancelled')
            ELSE
                refuse_value(
                    'from_step',
                    format('run %s has no step %s', id, sqlc.narg('from_step')::integer)
                )
        END
    FOR KEY SHARE
),

retry AS (
    INSERT INTO workflow_executions (
        customer_id,
        agent_id,
        workflow_type,
        attempt,
        retried_from_id,
        deadline_at,
        input_data,
        metadata
    )
    SELECT
        original.customer_id,
        original.agent_id,
        original.workflow_type,
        original.attempt + 1,
        original.id,
        coalesce(
            sqlc.narg('deadline_at')::timestamptz,
            now() + (original.deadline_at - original.created_at)
        ),
        original.input_data,
        original.metadata - 'cancel_reason'
    FROM original
    ON CONFLICT (customer_id, retried_from_id) WHERE retried_from_id IS NOT NULL
    DO UPDATE SET retried_from_id = excluded.retried_from_id
    RETURNING workflow_executions.*, (xmax = 0) AS is_new
),

planned AS (
    INSERT INTO workflow_steps (
        customer_id,
        workflow_execution_id,
        step_name,
        step_order,
        status,
        max_retries,
        completed_at,
        input_data,
        output_data,
        metadata
    )
    SELECT
        step.customer_id,
        retry.id,
        step.step_name,
        step.step_order,
        CASE WHEN step.is_done THEN 'skipped' ELSE 'pending' END::step_status,
        step.max_retries,
        CASE WHEN step.is_done THEN now() END,
        step.input_data,
        CASE WHEN step.is_done THEN step.output_data ELSE '{}' END,
        (step.metadata - '{carried_over_from,closed_with_run}'::text[])
        || CASE
            WHEN step.is_done THEN jsonb_build_object('carried_over_from', step.id)
            ELSE '{}'
        END
    FROM retry
    CROSS JOIN
        LATERAL (
            SELECT
                workflow_steps.*,
                workflow_steps.step_order < coalesce(
                    sqlc.narg('from_step')::integer,
                    min(workflow_steps.step_order) FILTER (
                        WHERE
                        workflow_steps.status = 'failed'
                        OR workflow_steps.metadata ? 'closed_with_run'
                    ) OVER (),
                    2147483647
                )
                OR (
                    sqlc.narg('from_step')::integer IS NULL
                    AND (
                        workflow_steps.status = 'completed'
                        OR workflow_steps.metadata ? 'carried_over_from'
                    )
                ) AS is_done
            FROM workflow_steps
            WHERE
                workflow_steps.customer_id = @customer_id
                AND workflow_steps.workflow_execution_id = retry.retried_from_id
        ) AS step
    WHERE retry.is_new
)

SELECT
    customer_id,
    id,
    agent_id,
    workflow_type,
    status,
    attempt,
    retried_from_id,
    started_at,
    heartbeat_at,
    completed_at,
    deadline_at,
    input_data,
    output_data,
    error_details,
    metadata,
    created_at,
    updated_at
FROM retry;

-- name: retry_failed_workflow_executions :many
-- Retry up to max_rows runs of a customer and type that failed or timed out since a time and are
-- not retried yet, the oldest first, each as retry_workflow_execution does. Returns the new runs;
-- call it until none comes.
-- @row WorkflowSummary
-- @required customer_id, workflow_type, since, max_rows
--
-- @plan workflow_executions_customer_id_completed_at_idx, workflow_executions_pkey,
--   workflow_executions_retried_from_id_key, workflow_steps_step_order_key, workflow_steps_pkey,
--   rows <= 2 * recent_runs + max_rows * (2 + steps)
WITH recent AS MATERIALIZED (
    -- What ended since is less than what ever failed.
    SELECT
        id,
        workflow_type,
        status
    FROM workflow_executions
    WHERE
        customer_id = @customer_id
        AND completed_at >= @since
),

original AS MATERIALIZED (
    SELECT *
    FROM workflow_executions
    WHERE
        customer_id = @customer_id
        AND id = any(
            array(
                SELECT recent.id
                FROM recent
                WHERE
                    recent.workflow_type = @workflow_type
                    AND recent.status IN ('failed', 'timeout')
            )
        )
        AND NOT EXISTS (
            SELECT
            FROM workflow_executions AS retry
            WHERE
                retry.customer_id = workflow_executions.customer_id
                AND retry.retried_from_id = workflow_executions.id
        )
    ORDER BY id
    LIMIT @max_rows
    FOR KEY SHARE
),

retry AS (
    INSERT INTO workflow_executions (
        customer_id,
        agent_id,
        workflow_type,
        attempt,
        retried_from_id,
        deadline_at,
        input_data,
        metadata
    )
    SELECT
        customer_id,
        agent_id,
        workflow_type,
        attempt + 1,
        id,
        now() + (deadline_at - created_at),
        input_data,
        metadata
    FROM original
    ON CONFLICT (customer_id, retried_from_id) WHERE retried_from_id IS NOT NULL DO NOTHING
    RETURNING *
),

planned AS (
    INSERT INTO workflow_steps (
        customer_id,
        workflow_execution_id,
        step_name,
        step_order,
        status,
        max_retries,
        completed_at,
        input_data,
        output_data,
        metadata
    )
    SELECT
        step.customer_id,
        retry.id,
        step.step_name,
        step.step_order,
        CASE WHEN step.is_done THEN 'skipped' ELSE 'pending' END::step_status,
        step.max_retries,
        CASE WHEN step.is_done THEN now() END,
        step.input_data,
        CASE WHEN step.is_done THEN step.output_data ELSE '{}' END,
        (step.metadata - '{carried_over_from,closed_with_run}'::text[])
        || CASE
            WHEN step.is_done THEN jsonb_build_object('carried_over_from', step.id)
            ELSE '{}'
        END
    FROM retry
    CROSS JOIN
        LATERAL (
            SELECT
                workflow_steps.*,
                workflow_steps.step_order < coalesce(
                    min(workflow_steps.step_order) FILTER (
                        WHERE
                        workflow_steps.status = 'failed'
                        OR workflow_steps.metadata ? 'closed_with_run'
                    ) OVER (),
                    2147483647
                )
                OR workflow_steps.status = 'completed'
                OR workflow_steps.metadata ? 'carried_over_from' AS is_done
            FROM workflow_steps
            WHERE
                workflow_steps.customer_id = @customer_id
                AND workflow_steps.workflow_execution_id = retry.retried_from_id
        ) AS step
)

SELECT
    customer_id,
    id,
    agent_id,
    workflow_type,
    status,
    attempt,
    retried_from_id,
    started_at,
    heartbeat_at,
    completed_at,
    deadline_at,
    created_at,
    updated_at
FROM retry
ORDER BY id;

-- name: delete_workflow_execution :execrows
-- Delete a run with its steps and artifacts; the events about it stay. Returns 1, or 0 where there
-- was none.
-- @required customer_id, id
--
-- @plan workflow_executions_pkey, workflow_steps_step_order_key, workflow_steps_pkey, rows <= 2 +
--   steps
WITH run AS MATERIALIZED (
    SELECT
        customer_id,
        id
    FROM workflow_executions
    WHERE
        customer_id = @customer_id
        AND id = @id
    FOR UPDATE
),

step AS MATERIALIZED (
    -- In step_order, as everybody does: the foreign key would take them as the planner likes.
    SELECT id
    FROM workflow_steps
    WHERE
        customer_id = @customer_id
        AND workflow_execution_id = @id
        AND EXISTS (SELECT FROM run)
    ORDER BY step_order
    FOR UPDATE
)

DELETE FROM workflow_executions
USING run
WHERE
    workflow_executions.customer_id = @customer_id
    AND workflow_executions.id = run.id
    AND (SELECT count(*) FROM step) >= 0;

-- name: list_prunable_workflow_executions :many
-- Runs of a customer that are of one of these types, ended longer ago than older_than, and are
-- under no legal hold: the longest over first, up to max_rows; the next page starts after the last
-- completed_at and id of this one.
-- @required customer_id, max_rows
--
-- @plan workflow_executions_customer_id_completed_at_idx,
--   legal_holds_customer_id_workflow_execution_id_idx, legal_holds_pkey, rows <= 2 * max_rows
SELECT
    run.id,
    run.completed_at::timestamptz AS completed_at
FROM workflow_executions AS run
WHERE
    run.customer_id = @customer_id
    AND run.completed_at IS NOT NULL
    AND run.completed_at < now() - @older_than::interval
    AND run.completed_at
    >= greatest(sqlc.narg('after_completed_at')::timestamptz, '-infinity')
    AND (run.completed_at, run.id) > (
        greatest(sqlc.narg('after_completed_at')::timestamptz, '-infinity'),
        greatest(sqlc.narg('after_id')::uuid, '00000000-0000-0000-0000-000000000000')
    )
    AND run.workflow_type = any(@workflow_types::workflow_type[])
    AND NOT EXISTS (
        SELECT
        FROM legal_holds
        WHERE
            legal_holds.customer_id = run.customer_id
            AND (
                legal_holds.workflow_execution_id IS NULL
                OR legal_holds.workflow_execution_id = run.id
            )
    )
ORDER BY run.completed_at, run.id
LIMIT @max_rows;

-- name: lock_ended_workflow_executions :many
-- Of these runs, those that are over and that nobody else is deleting, locked so that they get no
-- more artifacts. To be called in a transaction, before delete_ended_workflow_executions.
-- @required customer_id, ids
--
-- @plan workflow_executions_pkey, rows <= ids
SELECT id
FROM workflow_executions
WHERE
    customer_id = @customer_id
    AND id = any(@ids::uuid[])
    AND completed_at IS NOT NULL
ORDER BY id
FOR UPDATE SKIP LOCKED;

-- name: delete_ended_workflow_executions :one
-- Delete these runs, of those that are over, with their steps and artifacts; the events about them
-- stay. Returns how many rows of each went.
--
-- Raises UnderLegalHold, and deletes nothing, where one of them is under a hold.
-- @returns exactly one
-- @required customer_id, ids
--
-- @plan workflow_executions_pkey, workflow_steps_pkey, workflow_steps_step_order_key,
--   workflow_artifacts_pkey, workflow_artifacts_artifact_path_key, rows <= 20 * ids
WITH ended AS MATERIALIZED (
    SELECT id
    FROM workflow_executions
    WHERE
        customer_id = @customer_id
        AND id = any(@ids::uuid[])
        AND completed_at IS NOT NULL
),

step_count AS MATERIALIZED (
    SELECT count(*) AS of_all
    FROM ended
    INNER JOIN workflow_steps
        ON
            workflow_steps.customer_id = @customer_id
            AND ended.id = workflow_steps.workflow_execution_id
),

artifact_count AS MATERIALIZED (
    SELECT count(*) AS of_all
    FROM ended
    INNER JOIN workflow_artifacts
        ON
            workflow_artifacts.customer_id = @customer_id
            AND ended.id = workflow_artifacts.workflow_execution_id
),

deleted AS (
    DELETE FROM workflow_executions
    USING ended
    WHERE
        workflow_executions.customer_id = @customer_id
        AND workflow_executions.id = ended.id
    RETURNING workflow_executions.id
)

SELECT
    (SELECT count(*) FROM deleted)::bigint AS workflow_executions,
    (SELECT of_all FROM step_count)::bigint AS workflow_steps,
    (SELECT of_all FROM artifact_count)::bigint AS workflow_artifacts;
