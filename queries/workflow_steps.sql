-- name: add_workflow_step :one
-- Add a pending step to a run that is not over, at the end of its plan or at step_order where
-- given; None where the run is over or unknown. With an id that is taken already, nothing is
-- written and the step that is there is returned.
--
-- Raises AlreadyExists where another step of the run has that step_order, which without one
-- given happens to callers that add steps to one run at the same moment.
-- @required step_name, customer_id, workflow_execution_id
--
-- @plan workflow_executions_pkey, workflow_executions_customer_id_id_open_idx,
--   workflow_steps_step_order_key, workflow_steps_pkey, rows <= 2 + steps
WITH open_run AS (
    -- Locked, so that the run does not end, nor get another step, before this one is in.
    SELECT
        customer_id,
        id
    FROM workflow_executions
    WHERE
        customer_id = @customer_id
        AND id = @workflow_execution_id
        AND status IN ('pending', 'running')
    FOR NO KEY UPDATE
)

INSERT INTO workflow_steps (
    customer_id,
    workflow_execution_id,
    id,
    step_name,
    step_order,
    max_retries,
    input_data,
    metadata
)
SELECT
    open_run.customer_id,
    open_run.id,
    coalesce(sqlc.narg('id')::uuid, uuidv7()),
    @step_name::text,
    coalesce(
        sqlc.narg('step_order')::integer,
        (
            SELECT 1 + coalesce(max(planned.step_order), 0)
            FROM workflow_steps AS planned
            WHERE
                planned.customer_id = @customer_id
                AND planned.workflow_execution_id = @workflow_execution_id
        )
    ),
    coalesce(sqlc.narg('max_retries')::integer, 3),
    coalesce(sqlc.narg('input_data')::jsonb, '{}'),
    coalesce(sqlc.narg('metadata')::jsonb, '{}')
FROM open_run
ON CONFLICT (customer_id, workflow_execution_id, id) DO UPDATE SET id = excluded.id
RETURNING *;

-- name: get_workflow_step :one
-- One step.
--
-- @plan workflow_steps_pkey, rows <= 1
SELECT *
FROM workflow_steps
WHERE
    customer_id = @customer_id
    AND workflow_execution_id = @workflow_execution_id
    AND id = @id;

-- name: list_workflow_steps :many
-- All steps of a run, in order.
--
-- @plan workflow_steps_step_order_key, rows <= steps
SELECT *
FROM workflow_steps
WHERE
    customer_id = @customer_id
    AND workflow_execution_id = @workflow_execution_id
ORDER BY step_order;

-- name: start_workflow_step :one
-- Move a step to running: a pending one, or a retrying one whose time has come (next_attempt_at),
-- of a running run; None where it was neither. It need not be the next in step_order. What comes
-- back has the retry_count that this attempt's writes carry.
-- @required customer_id, workflow_execution_id, id
--
-- @plan workflow_executions_pkey, workflow_executions_customer_id_id_open_idx,
--   workflow_executions_id_customer_id_running_idx, workflow_steps_pkey, rows <= 2
UPDATE workflow_steps
SET
    status = 'running',
    started_at = greatest(now(), created_at),
    next_attempt_at = NULL
WHERE
    customer_id = @customer_id
    AND workflow_execution_id = @workflow_execution_id
    AND id = @id
    AND (status = 'pending' OR (status = 'retrying' AND next_attempt_at <= now()))
    AND EXISTS (
        SELECT
        FROM workflow_executions
        WHERE
            workflow_executions.customer_id = workflow_steps.customer_id
            AND workflow_executions.id = workflow_steps.workflow_execution_id
            AND workflow_executions.status = 'running'
    )
RETURNING *;

-- name: complete_workflow_step :one
-- Move a step from running to completed, with what came of it; None where it was not running.
-- retry_count is that of the step as its executor started it.
--
-- Raises StaleWriter where the step was put back for another attempt since, and changes nothing.
--
-- @plan workflow_steps_pkey, rows <= 1
UPDATE workflow_steps
SET
    status = 'completed',
    completed_at = greatest(now(), started_at),
    output_data = coalesce(sqlc.narg('output_data')::jsonb, output_data)
WHERE
    customer_id = @customer_id
    AND workflow_execution_id = @workflow_execution_id
    AND id = @id
    AND CASE
        WHEN retry_count = @retry_count THEN status = 'running'
        ELSE refuse_stale_write('workflow_step', id, @retry_count, retry_count)
    END
RETURNING *;

-- name: advance_workflow_step :many
-- Complete a running step and start the next pending one of the plan, in one statement. Returns
-- the step completed and the step started; only the first where none was left to start, or another
-- session took it at that moment; nothing where the step was not running. retry_count is that of
-- the step as its executor started it.
--
-- artifacts is what the step left, a list of objects with artifact_type, artifact_name,
-- artifact_path, artifact_size_bytes, content_type, sha256 (in hex), and where it applies metadata.
-- A path with the same digest that is there already stays as it is.
--
-- Raises StaleWriter where the step was put back for another attempt since, and InvalidValue where
-- the path of an artifact is taken by other content, or stands twice; then nothing is changed.
-- @required customer_id, workflow_execution_id, id, retry_count
--
-- @plan workflow_executions_pkey, workflow_steps_pkey, workflow_steps_step_order_key,
--   workflow_artifacts_artifact_path_key, rows <= 4 + steps
WITH run AS MATERIALIZED (
    -- Artifacts lock the run, and that is to be before the steps, as everywhere. Not without any:
    -- who waited for the step evaluates this when the step is locked.
    SELECT id
    FROM workflow_executions
    WHERE
        customer_id = @customer_id::uuid
        AND id = @workflow_execution_id::uuid
        AND sqlc.narg('artifacts')::jsonb IS NOT NULL
    FOR KEY SHARE
),

completed AS (
    UPDATE workflow_steps
    SET
        status = 'completed',
        completed_at = greatest(now(), started_at),
        output_data = coalesce(sqlc.narg('output_data')::jsonb, output_data)
    WHERE
        customer_id = @customer_id::uuid
        AND workflow_execution_id = @workflow_execution_id::uuid
        AND id = @id::uuid
        AND CASE
            WHEN retry_count = @retry_count
                THEN
                    status = 'running'
                    AND (sqlc.narg('artifacts')::jsonb IS NULL OR EXISTS (SELECT FROM run))
            ELSE refuse_stale_write('workflow_step', id, @retry_count, retry_count)
        END
    RETURNING *
),

started AS (
    UPDATE workflow_steps
    SET
        status = 'running',
        started_at = greatest(now(), workflow_steps.created_at)
    FROM completed
    WHERE
        workflow_steps.customer_id = @customer_id::uuid
        AND workflow_steps.workflow_execution_id = @workflow_execution_id::uuid
        AND workflow_steps.status = 'pending'
        AND workflow_steps.step_order = (
            SELECT min(planned.step_order)
            FROM workflow_steps AS planned
            WHERE
                planned.customer_id = @customer_id::uuid
                AND planned.workflow_execution_id = @workflow_execution_id::uuid
                AND planned.step_order > completed.step_order
                AND planned.status = 'pending'
        )
    RETURNING workflow_steps.*
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

SELECT * FROM completed
WHERE
    NOT EXISTS (
        SELECT
        FROM taken
        WHERE taken.is_refused
    )
UNION ALL
SELECT * FROM started
ORDER BY step_order;

-- name: fail_workflow_step :one
-- Note that the attempt of a running step failed, with the reason (an object: type, message, ...).
-- While it is retryable and retries are left, the step goes to retrying, to be started again after
-- backoff_base_seconds (1 unless given), doubled with each retry up to backoff_cap_seconds (300
-- unless given), and spread over half to the whole of that; else it goes to failed. None where it
-- was not running. retry_count is that of the step as its executor started it.
--
-- Raises StaleWriter where the step was put back for another attempt since, and changes nothing.
-- @required customer_id, workflow_execution_id, id, retry_count, retryable, error_details
--
-- @plan workflow_steps_pkey, rows <= 2
WITH failing AS MATERIALIZED (
    SELECT
        id,
        @retryable::boolean AND retry_count < max_retries AS is_retried,
        greatest(now(), started_at) AS failed_at,
        now()
        + make_interval(
            secs => greatest(
                least(
                    coalesce(sqlc.narg('backoff_cap_seconds')::double precision, 300),
                    least(
                        coalesce(sqlc.narg('backoff_base_seconds')::double precision, 1),
                        31536000
                    )
                    * power(2, least(retry_count, 60)),
                    31536000
                ),
                0
            )
            -- A spread that is the same whenever it is computed: half the hash of the row.
            * (0.5 + (hashtext(id::text || retry_count) & 65535) / 131072.0)
        ) AS next_attempt_at
    FROM workflow_steps
    WHERE
        customer_id = @customer_id
        AND workflow_execution_id = @workflow_execution_id
        AND id = @id
        AND CASE
            WHEN retry_count = @retry_count THEN status = 'running'
            ELSE refuse_stale_write('workflow_step', id, @retry_count, retry_count)
        END
    FOR NO KEY UPDATE
)

UPDATE workflow_steps
SET
    status = CASE WHEN failing.is_retried THEN 'retrying' ELSE 'failed' END::step_status,
    retry_count = workflow_steps.retry_count + failing.is_retried::integer,
    next_attempt_at = CASE WHEN failing.is_retried THEN failing.next_attempt_at END,
    completed_at = CASE WHEN NOT failing.is_retried THEN failing.failed_at END,
    error_details = @error_details::jsonb
FROM failing
WHERE
    workflow_steps.customer_id = @customer_id
    AND workflow_steps.workflow_execution_id = @workflow_execution_id
    AND workflow_steps.id = failing.id
RETURNING workflow_steps.*;

-- name: skip_workflow_step :one
-- Move a step that is not over to skipped; None where it was over. retry_count is that of the step
-- as the caller saw it.
--
-- Raises StaleWriter where the step was put back for another attempt since, and changes nothing.
--
-- @plan workflow_steps_pkey, rows <= 1
UPDATE workflow_steps
SET
    status = 'skipped',
    completed_at = greatest(now(), started_at),
    next_attempt_at = NULL
WHERE
    customer_id = @customer_id
    AND workflow_execution_id = @workflow_execution_id
    AND id = @id
    AND CASE
        WHEN retry_count = @retry_count THEN status IN ('pending', 'running', 'retrying')
        ELSE refuse_stale_write('workflow_step', id, @retry_count, retry_count)
    END
RETURNING *;
