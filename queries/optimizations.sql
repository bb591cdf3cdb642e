-- name: create_optimization :one
-- Queue a recommendation to be carried out by an agent. With an id that is taken already, nothing
-- is written and the optimization that is there is returned.
-- @returns exactly one
--
-- @plan optimizations_pkey, rows <= 0
INSERT INTO optimizations (customer_id, id, recommendation_id, agent_id, workflow_execution_id)
VALUES (
    @customer_id,
    coalesce(sqlc.narg('id')::uuid, uuidv7()),
    @recommendation_id,
    @agent_id,
    sqlc.narg('workflow_execution_id')
)
ON CONFLICT (customer_id, id) DO UPDATE SET id = excluded.id
RETURNING *;

-- name: get_optimization :one
-- One optimization.
--
-- @plan optimizations_pkey, rows <= 1
SELECT *
FROM optimizations
WHERE
    customer_id = @customer_id
    AND id = @id;

-- name: list_optimizations :many
-- Optimizations of a customer, newest first, up to max_rows; the next page starts before the last
-- id of this one.
--
-- @plan optimizations_pkey, rows <= max_rows
SELECT *
FROM optimizations
WHERE
    customer_id = @customer_id
    AND id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_optimizations_by_agent :many
-- Optimizations of a customer that one agent carries out, newest first, paged like
-- list_optimizations.
--
-- @plan optimizations_agent_id_customer_id_id_idx, rows <= max_rows
SELECT *
FROM optimizations
WHERE
    customer_id = @customer_id
    AND agent_id = @agent_id
    AND id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_recommendation_optimizations :many
-- All optimizations of one recommendation, oldest first.
--
-- @plan optimizations_customer_id_recommendation_id_idx, rows <= optimizations
SELECT *
FROM optimizations
WHERE
    customer_id = @customer_id
    AND recommendation_id = @recommendation_id
ORDER BY id;

-- name: list_workflow_optimizations :many
-- All optimizations that one run carries out, oldest first.
--
-- @plan optimizations_customer_id_workflow_execution_id_idx, rows <= optimizations
SELECT *
FROM optimizations
WHERE
    customer_id = @customer_id
    AND workflow_execution_id = @workflow_execution_id::uuid
ORDER BY id;

-- name: start_optimization :one
-- Move an optimization from queued to executing, and its recommendation from approved with it;
-- None where the one was not queued or the other not approved.
--
-- @plan optimizations_pkey, recommendations_pkey, rows <= 5
WITH recommendation AS MATERIALIZED (
    -- The parent is locked before the child, everywhere. Its status is what it is by then.
    SELECT
        recommendations.id,
        recommendations.status
    FROM optimizations
    INNER JOIN recommendations
        ON
            optimizations.customer_id = recommendations.customer_id
            AND optimizations.recommendation_id = recommendations.id
    WHERE
        optimizations.customer_id = @customer_id
        AND optimizations.id = @id
    FOR NO KEY UPDATE OF recommendations
),

ready AS MATERIALIZED (
    SELECT
        optimizations.customer_id,
        optimizations.id,
        optimizations.recommendation_id
    FROM optimizations
    WHERE
        optimizations.customer_id = @customer_id
        AND optimizations.id = @id
        AND optimizations.status = 'queued'
        AND EXISTS (
            SELECT
            FROM recommendation
            WHERE recommendation.status = 'approved'
        )
    FOR NO KEY UPDATE
),

moved AS (
    UPDATE recommendations
    SET status = 'executing'
    FROM ready
    WHERE
        recommendations.customer_id = @customer_id
        AND recommendations.id = ready.recommendation_id
)

UPDATE optimizations
SET
    status = 'executing',
    started_at = greatest(now(), optimizations.created_at)
FROM ready
WHERE
    optimizations.customer_id = @customer_id
    AND optimizations.id = ready.id
RETURNING optimizations.*;

-- name: update_optimization_progress :one
-- Note how far an executing optimization is, 0 to 100; None where it was not executing.
--
-- @plan optimizations_pkey, rows <= 1
UPDATE optimizations
SET progress = @progress
WHERE
    customer_id = @customer_id
    AND id = @id
    AND status = 'executing'
RETURNING *;

-- name: complete_optimization :one
-- Move an optimization from executing to completed, with what it brought (savings in USD a month,
-- improvement as a multiplier), and its recommendation with it; None where it was not executing.
-- @required customer_id, id
--
-- @plan optimizations_pkey, recommendations_pkey, recommendations_customer_id_status_id_idx,
--   rows <= 4
WITH recommendation AS MATERIALIZED (
    -- The parent is locked before the child, everywhere.
    SELECT recommendations.id
    FROM optimizations
    INNER JOIN recommendations
        ON
            optimizations.customer_id = recommendations.customer_id
            AND optimizations.recommendation_id = recommendations.id
    WHERE
        optimizations.customer_id = @customer_id
        AND optimizations.id = @id
    FOR NO KEY UPDATE OF recommendations
),

completed AS (
    UPDATE optimizations
    SET
        status = 'completed',
        progress = 100,
        completed_at = greatest(now(), started_at),
        actual_savings = sqlc.narg('actual_savings'),
        actual_improvement = sqlc.narg('actual_improvement'),
        result = coalesce(sqlc.narg('result')::jsonb, result)
    FROM recommendation
    WHERE
        optimizations.customer_id = @customer_id
        AND optimizations.id = @id
        AND optimizations.recommendation_id = recommendation.id
        AND optimizations.status = 'executing'
    RETURNING optimizations.*
),

moved AS (
    UPDATE recommendations
    SET
        status = 'completed',
        executed_at = greatest(now(), recommendations.approved_at)
    FROM completed
    WHERE
        recommendations.customer_id = @customer_id
        AND recommendations.id = completed.recommendation_id
        -- Not bare, so that the planner takes the key and not the index of statuses.
        AND (recommendations.status = 'executing') IS true
)

SELECT * FROM completed;

-- name: fail_optimization :one
-- Move an optimization from queued or executing to failed, with the reason, and its recommendation
-- with it where it was executing; None where it was neither.
-- @required error, customer_id, id
--
-- @plan optimizations_pkey, recommendations_pkey, recommendations_customer_id_status_id_idx,
--   rows <= 4
WITH recommendation AS MATERIALIZED (
    -- The parent is locked before the child, everywhere. Its status is what it is by then.
    SELECT
        recommendations.id,
        recommendations.status
    FROM optimizations
    INNER JOIN recommendations
        ON
            optimizations.customer_id = recommendations.customer_id
            AND optimizations.recommendation_id = recommendations.id
    WHERE
        optimizations.customer_id = @customer_id
        AND optimizations.id = @id
    FOR NO KEY UPDATE OF recommendations
),

failed AS (
    UPDATE optimizations
    SET
        status = 'failed',
        completed_at = greatest(now(), started_at),
        error = @error::text,
        result = coalesce(sqlc.narg('result')::jsonb, result)
    FROM recommendation
    WHERE
        optimizations.customer_id = @customer_id
        AND optimizations.id = @id
        AND optimizations.recommendation_id = recommendation.id
        AND optimizations.status IN ('queued', 'executing')
    RETURNING optimizations.*
),

moved AS (
    UPDATE recommendations
    SET
        status = 'failed',
        executed_at = greatest(now(), recommendations.approved_at)
    FROM failed
    INNER JOIN recommendation ON failed.recommendation_id = recommendation.id
    WHERE
        recommendations.customer_id = @customer_id
        AND recommendations.id = failed.recommendation_id
        AND recommendation.status = 'executing'
        AND failed.started_at IS NOT NULL
)

SELECT * FROM failed;

-- name: roll_back_optimization :one
-- Note that a completed or failed optimization was undone, and its recommendation with it; None
-- where it was neither.
-- @required customer_id, id
--
-- @plan optimizations_pkey, recommendations_pkey, recommendations_customer_id_status_id_idx,
--   rows <= 4
WITH recommendation AS MATERIALIZED (
    -- The parent is locked before the child, everywhere.
    SELECT recommendations.id
    FROM optimizations
    INNER JOIN recommendations
        ON
            optimizations.customer_id = recommendations.customer_id
            AND optimizations.recommendation_id = recommendations.id
    WHERE
        optimizations.customer_id = @customer_id
        AND optimizations.id = @id
    FOR NO KEY UPDATE OF recommendations
),

rolled_back AS (
    UPDATE optimizations
    SET
        status = 'rolled_back',
        rolled_back_at = greatest(now(), completed_at),
        result = coalesce(sqlc.narg('result')::jsonb, result)
    FROM recommendation
    WHERE
        optimizations.customer_id = @customer_id
        AND optimizations.id = @id
        AND optimizations.recommendation_id = recommendation.id
        AND optimizations.status IN ('completed', 'failed')
    RETURNING optimizations.*
),

moved AS (
    UPDATE recommendations
    SET status = 'rolled_back'
    FROM rolled_back
    WHERE
        recommendations.customer_id = @customer_id
        AND recommendations.id = rolled_back.recommendation_id
        AND rolled_back.started_at IS NOT NULL
        AND recommendations.status IN ('completed', 'failed')
)

SELECT * FROM rolled_back;

-- name: delete_optimization :execrows
-- Delete an optimization. Returns 1, or 0 where there was none.
--
-- @plan optimizations_pkey, rows <= 1
DELETE FROM optimizations
WHERE
    customer_id = @customer_id
    AND id = @id;
