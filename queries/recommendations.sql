-- name: create_recommendation :one
-- Propose a change to a customer. estimated_savings is in USD a month, estimated_improvement a
-- multiplier, confidence_score 0 to 1. With an id that is taken already, nothing is written and
-- the recommendation that is there is returned.
-- @returns exactly one
INSERT INTO recommendations (
    customer_id,
    id,
    agent_id,
    workflow_execution_id,
    type,
    title,
    description,
    estimated_savings,
    estimated_improvement,
    confidence_score,
    priority,
    data
)
VALUES (
    @customer_id,
    coalesce(sqlc.narg('id')::uuid, uuidv7()),
    @agent_id,
    sqlc.narg('workflow_execution_id'),
    @type,
    @title,
    coalesce(sqlc.narg('description')::text, ''),
    sqlc.narg('estimated_savings'),
    sqlc.narg('estimated_improvement'),
    sqlc.narg('confidence_score'),
    coalesce(sqlc.narg('priority')::recommendation_priority, 'medium'),
    coalesce(sqlc.narg('data')::jsonb, '{}')
)
ON CONFLICT (customer_id, id) DO UPDATE SET id = excluded.id
RETURNING *;

-- name: get_recommendation :one
-- One recommendation.
SELECT *
FROM recommendations
WHERE
    customer_id = @customer_id
    AND id = @id;

-- name: list_recommendations :many
-- Recommendations to a customer, newest first, up to max_rows; the next page starts before the
-- last id of this one.
SELECT *
FROM recommendations
WHERE
    customer_id = @customer_id
    AND id < coalesce(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_recommendations_by_agent :many
-- Recommendations of one agent to a customer, newest first, paged like list_recommendations.
SELECT *
FROM recommendations
WHERE
    customer_id = @customer_id
    AND agent_id = @agent_id
    AND id < coalesce(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_workflow_recommendations :many
-- All recommendations that one run produced, oldest first.
SELECT *
FROM recommendations
WHERE
    customer_id = @customer_id
    AND workflow_execution_id = @workflow_execution_id::uuid
ORDER BY id;

-- name: approve_recommendation :one
-- Move a recommendation from pending to approved; None where it was not pending.
UPDATE recommendations
SET
    status = 'approved',
    approved_at = now()
WHERE
    customer_id = @customer_id
    AND id = @id
    AND status = 'pending'
RETURNING *;

-- name: reject_recommendation :one
-- Move a recommendation from pending or approved to rejected; None where it was neither.
UPDATE recommendations
SET status = 'rejected'
WHERE
    customer_id = @customer_id
    AND id = @id
    AND status IN ('pending', 'approved')
RETURNING *;

-- name: delete_recommendation :execrows
-- Delete a recommendation with its approvals and optimizations. Returns 1, or 0 where there was
-- none.
DELETE FROM recommendations
WHERE
    customer_id = @customer_id
    AND id = @id;
