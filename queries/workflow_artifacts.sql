-- name: register_workflow_artifact :one
-- Note what a run, or a step of it, left behind; sha256 is 32 bytes. The same path with the same
-- digest again writes nothing and returns the row that is there; None where the path is taken by
-- other content, which is left as it is.
--
-- Raises NotFound where the run is unknown, or the step is not one of that run.
--
-- @plan workflow_artifacts_artifact_path_key, rows <= 1
WITH turn AS MATERIALIZED (
    -- Callers with one path take turns: ON CONFLICT looks at one of the unique indexes only.
    SELECT
        pg_advisory_xact_lock(
            hashtextextended(concat(@workflow_execution_id::uuid, @artifact_path::text), 0)
        ) AS held
)

INSERT INTO workflow_artifacts (
    customer_id,
    workflow_execution_id,
    id,
    workflow_step_id,
    artifact_type,
    artifact_name,
    artifact_path,
    artifact_size_bytes,
    content_type,
    sha256,
    metadata,
    -- Not when the transaction began, which may have started the step as well.
    created_at,
    updated_at
)
SELECT
    @customer_id::uuid,
    @workflow_execution_id::uuid,
    coalesce(sqlc.narg('id')::uuid, uuidv7()),
    sqlc.narg('workflow_step_id')::uuid,
    @artifact_type::artifact_type,
    @artifact_name::text,
    @artifact_path::text,
    @artifact_size_bytes::bigint,
    @content_type::text,
    @sha256::bytea,
    coalesce(sqlc.narg('metadata')::jsonb, '{}'),
    clock_timestamp(),
    clock_timestamp()
FROM turn
ON CONFLICT (customer_id, workflow_execution_id, artifact_path) DO UPDATE
    SET artifact_path = excluded.artifact_path
    WHERE workflow_artifacts.sha256 = excluded.sha256
RETURNING *;

-- name: get_workflow_artifact :one
-- One artifact.
--
-- @plan workflow_artifacts_pkey, rows <= 1
SELECT *
FROM workflow_artifacts
WHERE
    customer_id = @customer_id
    AND workflow_execution_id = @workflow_execution_id
    AND id = @id;

-- name: list_workflow_artifacts :many
-- All artifacts of a run, oldest first.
--
-- @plan workflow_artifacts_pkey, rows <= artifacts
SELECT *
FROM workflow_artifacts
WHERE
    customer_id = @customer_id
    AND workflow_execution_id = @workflow_execution_id
ORDER BY id;

-- name: list_step_artifacts :many
-- All artifacts of one step, oldest first.
--
-- @plan workflow_artifacts_workflow_step_id_idx, workflow_artifacts_pkey, rows <= artifacts
SELECT *
FROM workflow_artifacts
WHERE
    customer_id = @customer_id
    AND workflow_execution_id = @workflow_execution_id
    AND workflow_step_id = @workflow_step_id::uuid
ORDER BY id;

-- name: list_artifacts_by_type :many
-- Artifacts of a customer of one type, newest first, up to max_rows; the next page starts before
-- the last id of this one.
--
-- @plan workflow_artifacts_customer_id_artifact_type_id_idx, rows <= max_rows
SELECT *
FROM workflow_artifacts
WHERE
    customer_id = @customer_id
    AND artifact_type = @artifact_type
    AND id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: update_workflow_artifact_metadata :one
-- Replace the metadata of an artifact.
--
-- @plan workflow_artifacts_pkey, rows <= 1
UPDATE workflow_artifacts
SET metadata = @metadata
WHERE
    customer_id = @customer_id
    AND workflow_execution_id = @workflow_execution_id
    AND id = @id
RETURNING *;

-- name: delete_workflow_artifact :execrows
-- Delete the row of an artifact (not its content). Returns 1, or 0 where there was none.
--
-- @plan workflow_artifacts_pkey, rows <= 1
DELETE FROM workflow_artifacts
WHERE
    customer_id = @customer_id
    AND workflow_execution_id = @workflow_execution_id
    AND id = @id;
