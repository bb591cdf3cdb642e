-- name: create_workflow_execution :one
-- Create a pending run together with its planned steps, in the order of step_names;
-- step_input_data (one a step) and max_retries (of each step, 3 unless given) may be left out.
-- With an id that is taken already, nothing is written and the run that is there is returned, so
-- that a caller may safely try again.
-- @returns exactly one
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
        coalesce(sqlc.narg('max_retries')::integer, 3),
        coalesce(step.input_data, '{}')
    FROM created
    CROSS JOIN
        unnest(@step_names::text[], sqlc.narg('step_input_data')::jsonb[])
        WITH ORDINALITY AS step (step_name, input_data, step_order)
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

-- name: get_workflow_execution :one
-- One run.
SELECT *
FROM workflow_executions
WHERE
    customer_id = @customer_id
    AND id = @id;

-- name: get_workflow_detail :one
-- One run with its agent, its customer, its steps in order and its artifacts, oldest first.
-- @many steps workflow_steps
-- @many artifacts workflow_artifacts
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
    AND id < coalesce(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_workflow_executions_by_status :many
-- Runs of a customer in one state, paged like list_workflow_executions. It reads the customer's
-- runs from the newest on and skips the others; list_open_workflow_executions and
-- list_failed_workflows_by_customer go straight to what is not over and to what failed.
-- @row WorkflowSummary
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
    AND id < coalesce(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_open_workflow_executions :many
-- Runs of a customer that are not over (pending or running), paged like list_workflow_executions.
-- @row WorkflowSummary
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
    AND id < coalesce(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_workflow_executions_by_type :many
-- Runs of a customer of one type, paged like list_workflow_executions.
-- @row WorkflowSummary
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
    AND id < coalesce(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_workflow_executions_by_agent :many
-- Runs of a customer by one agent, paged like list_workflow_executions.
-- @row WorkflowSummary
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
    AND id < coalesce(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_workflow_retries :many
-- Runs that retry this one, oldest first, without their payloads.
-- @row WorkflowSummary
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
    AND retried_from_id = @retried_from_id::uuid
ORDER BY id;

-- name: list_workflow_progress :many
-- The board of a customer: runs with their agent, how many of their steps are over (completed or
-- skipped), how long they took or have taken, and the first failed step with its error message;
-- paged like list_workflow_executions.
-- @nullable duration, failed_step_name, failed_step_error
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
            count(*) FILTER (WHERE workflow_steps.status IN ('completed', 'skipped')) AS steps_done,
            count(*) AS steps_total
        FROM workflow_steps
        WHERE
            workflow_steps.customer_id = workflow_executions.customer_id
            AND workflow_steps.workflow_execution_id = workflow_executions.id
    ) AS progress
LEFT JOIN LATERAL (
    SELECT
        workflow_steps.step_name,
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
    workflow_executions.customer_id = @customer_id
    AND workflow_executions.id
    < coalesce(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY workflow_executions.id DESC
LIMIT @max_rows;

-- name: list_running_workflows :many
-- What runs right now, newest first, with customer and agent, how many of its steps are over
-- (completed or skipped), the step that it is at, and how long it has been running; up to
-- max_rows, the next page starts before the last id and customer_id of this one. For operators: it
-- spans customers.
-- @nullable current_step_name
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
        coalesce(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
        coalesce(sqlc.narg('before_customer_id')::uuid, '00000000-0000-0000-0000-000000000000')
    )
ORDER BY workflow_executions.id DESC, workflow_executions.customer_id DESC
LIMIT @max_rows;

-- name: list_failed_workflows :many
-- What failed or timed out, newest first, with customer and agent, and the first failed step with
-- its error; up to max_rows, the next page starts before the last id and customer_id of this one.
-- For operators: it spans customers.
-- @nullable failed_step_id, failed_step_name, failed_step_order, failed_step_error_details
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
        coalesce(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
        coalesce(sqlc.narg('before_customer_id')::uuid, '00000000-0000-0000-0000-000000000000')
    )
ORDER BY workflow_executions.id DESC, workflow_executions.customer_id DESC
LIMIT @max_rows;

-- name: list_failed_workflows_by_customer :many
-- What failed or timed out of one customer; else like list_failed_workflows.
-- @nullable failed_step_id, failed_step_name, failed_step_order, failed_step_error_details
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
        workflow_steps.customer_id = workflow_executions.customer_id
        AND workflow_steps.workflow_execution_id = workflow_executions.id
        AND workflow_steps.status = 'failed'
    ORDER BY workflow_steps.step_order
    LIMIT 1
) AS failed_step ON true
WHERE
    workflow_executions.customer_id = @customer_id
    AND workflow_executions.status IN ('failed', 'timeout')
    AND workflow_executions.id
    < coalesce(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY workflow_executions.id DESC
LIMIT @max_rows;

-- name: start_workflow_execution :one
-- Move a run from pending to running; None where it was not pending.
UPDATE workflow_executions
SET
    status = 'running',
    started_at = now(),
    heartbeat_at = now()
WHERE
    customer_id = @customer_id
    AND id = @id
    AND status = 'pending'
RETURNING *;

-- name: heartbeat_workflow_execution :one
-- Note that a running run is alive; None where it is not running (any more), which tells its
-- executor to stop. The payloads are left out: a heartbeat is to cost little.
-- @row WorkflowSummary
UPDATE workflow_executions
SET heartbeat_at = now()
WHERE
    customer_id = @customer_id
    AND id = @id
    AND status = 'running'
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
-- Move a run from running to completed, with what came of it; None where it was not running, or
-- has steps that are still open.
WITH ready AS MATERIALIZED (
    -- Locked first, so that no step is added once we have looked for open ones.
    SELECT
        customer_id,
        id
    FROM workflow_executions
    WHERE
        customer_id = @customer_id
        AND id = @id
        AND status = 'running'
    FOR NO KEY UPDATE
)

UPDATE workflow_executions
SET
    status = 'completed',
    completed_at = greatest(now(), workflow_executions.started_at),
    output_data = coalesce(sqlc.narg('output_data')::jsonb, workflow_executions.output_data)
FROM ready
WHERE
    workflow_executions.customer_id = ready.customer_id
    AND workflow_executions.id = ready.id
    AND NOT workflow_has_open_steps(ready.customer_id, ready.id)
RETURNING workflow_executions.*;

-- name: fail_workflow_execution :one
-- Move a run from running to failed, with the reason (an object: type, message, ...), and close
-- its open steps: a running one fails with the same reason, the others are skipped. None where the
-- run was not running.
WITH failed AS (
    UPDATE workflow_executions
    SET
        status = 'failed',
        completed_at = greatest(now(), started_at),
        error_details = @error_details::jsonb
    WHERE
        customer_id = @customer_id
        AND id = @id
        AND status = 'running'
    RETURNING *
)

SELECT failed.*
FROM failed
CROSS JOIN close_workflow_steps(failed.customer_id, failed.id, failed.error_details);

-- name: cancel_workflow_execution :one
-- Move a run from pending or running to cancelled, note the reason (as cancel_reason in its
-- metadata), and close its open steps: a running one fails with that reason, the others are
-- skipped. None where the run was over.
WITH cancelled AS (
    UPDATE workflow_executions
    SET
        status = 'cancelled',
        completed_at = greatest(now(), started_at),
        metadata = metadata || jsonb_build_object('cancel_reason', @reason::text)
    WHERE
        customer_id = @customer_id
        AND id = @id
        AND status IN ('pending', 'running')
    RETURNING *
)

SELECT cancelled.*
FROM cancelled
CROSS JOIN
    close_workflow_steps(
        cancelled.customer_id,
        cancelled.id,
        jsonb_build_object('type', 'WorkflowCancelled', 'message', @reason::text)
    );

-- name: delete_workflow_execution :execrows
-- Delete a run with its steps and artifacts; the events about it stay. Returns 1, or 0 where there
-- was none.
DELETE FROM workflow_executions
WHERE
    customer_id = @customer_id
    AND id = @id;
