-- name: create_approval :one
-- Ask whether a recommendation may be carried out. With an id that is taken already, nothing is
-- written and the approval that is there is returned.
--
-- Raises AlreadyExists where another approval of the recommendation is still pending, expired or
-- not: delete_approval withdraws it.
-- @returns exactly one
--
-- @plan approvals_pkey, rows <= 0
WITH turn AS MATERIALIZED (
    -- Callers with one id take turns: ON CONFLICT looks at one of the unique indexes only.
    SELECT pg_advisory_xact_lock(hashtextextended(sqlc.narg('id')::uuid::text, 0)) AS held
)

INSERT INTO approvals (customer_id, id, recommendation_id, expires_at)
SELECT
    @customer_id::uuid,
    coalesce(sqlc.narg('id')::uuid, uuidv7()),
    @recommendation_id::uuid,
    sqlc.narg('expires_at')::timestamptz
FROM turn
ON CONFLICT (customer_id, id) DO UPDATE SET id = excluded.id
RETURNING *;

-- name: get_approval :one
-- One approval.
--
-- @plan approvals_pkey, rows <= 1
SELECT *
FROM approvals
WHERE
    customer_id = @customer_id
    AND id = @id;

-- name: list_approvals :many
-- Approvals of a customer, newest first, up to max_rows; the next page starts before the last id
-- of this one.
--
-- @plan approvals_pkey, rows <= max_rows
SELECT *
FROM approvals
WHERE
    customer_id = @customer_id
    AND id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_recommendation_approvals :many
-- All approvals of one recommendation, oldest first.
--
-- @plan approvals_customer_id_recommendation_id_idx, rows <= approvals
SELECT *
FROM approvals
WHERE
    customer_id = @customer_id
    AND recommendation_id = @recommendation_id
ORDER BY id;

-- name: list_pending_approvals :many
-- What a customer has still to decide, oldest first: each approval that is pending and has not
-- expired, with its recommendation, if that is pending too; up to max_rows, the next page starts
-- after the last approval's id of this one.
-- @required customer_id, max_rows
--
-- @plan approvals_recommendation_id_pending_key, recommendations_pkey,
--   recommendations_customer_id_status_id_idx, rows <= 2 * pending_approvals
WITH undecided AS MATERIALIZED (
    -- By itself, or the planner may go through all approvals in the order of their ids.
    SELECT *
    FROM approvals
    WHERE
        customer_id = @customer_id
        AND status = 'pending'
        AND (expires_at IS NULL OR expires_at > now())
        AND id > greatest(sqlc.narg('after_id')::uuid, '00000000-0000-0000-0000-000000000000')
)

SELECT
    sqlc.embed(approvals),
    sqlc.embed(recommendations)
FROM undecided AS approvals
INNER JOIN recommendations
    ON
        approvals.customer_id = recommendations.customer_id
        AND approvals.recommendation_id = recommendations.id
WHERE
    recommendations.customer_id = @customer_id
    AND recommendations.status = 'pending'
ORDER BY approvals.id
LIMIT @max_rows;

-- name: list_expired_approvals :many
-- What a customer let expire undecided, oldest first: each approval that is pending and has
-- expired, with its recommendation, if that is pending still; paged like list_pending_approvals. To
-- ask again, withdraw it (delete_approval) and create another one.
-- @required customer_id, max_rows
--
-- @plan approvals_recommendation_id_pending_key, recommendations_pkey,
--   recommendations_customer_id_status_id_idx, rows <= 2 * pending_approvals
WITH expired AS MATERIALIZED (
    -- By itself, or the planner may go through all approvals in the order of their ids.
    SELECT *
    FROM approvals
    WHERE
        customer_id = @customer_id
        AND status = 'pending'
        AND expires_at <= now()
        AND id > greatest(sqlc.narg('after_id')::uuid, '00000000-0000-0000-0000-000000000000')
)

SELECT
    sqlc.embed(approvals),
    sqlc.embed(recommendations)
FROM expired AS approvals
INNER JOIN recommendations
    ON
        approvals.customer_id = recommendations.customer_id
        AND approvals.recommendation_id = recommendations.id
WHERE
    recommendations.customer_id = @customer_id
    AND recommendations.status = 'pending'
ORDER BY approvals.id
LIMIT @max_rows;

-- name: decide_approval :one
-- Approve or reject (status), by whom and why, and move the recommendation the same way. None
-- where the approval was decided before or has expired, or the recommendation is no longer
-- pending; get_approval tells who decided it, or that it has expired, get_recommendation that it
-- was decided without it.
--
-- Raises InvalidValue where status is pending or approved_by is empty.
--
-- @plan approvals_pkey, approvals_recommendation_id_pending_key, recommendations_pkey,
--   rows <= 4 + pending_approvals
WITH recommendation AS MATERIALIZED (
    -- The parent is locked before the child, everywhere. Its status is what it is by then.
    SELECT
        recommendations.id,
        recommendations.status
    FROM approvals
    INNER JOIN recommendations
        ON
            approvals.customer_id = recommendations.customer_id
            AND approvals.recommendation_id = recommendations.id
    WHERE
        approvals.customer_id = @customer_id
        AND approvals.id = @id
    FOR NO KEY UPDATE OF recommendations
),

ready AS MATERIALIZED (
    SELECT
        approvals.customer_id,
        approvals.id,
        approvals.recommendation_id
    FROM approvals
    WHERE
        approvals.customer_id = @customer_id
        AND approvals.id = @id
        AND approvals.status = 'pending'
        AND (approvals.expires_at IS NULL OR approvals.expires_at > now())
        AND EXISTS (
            SELECT
            FROM recommendation
            WHERE recommendation.status = 'pending'
        )
    FOR NO KEY UPDATE
),

moved AS (
    UPDATE recommendations
    SET
        status = CASE
            WHEN @status::approval_status = 'approved' THEN 'approved'
            ELSE 'rejected'
        END::recommendation_status,
        approved_at = now()
        + CASE WHEN @status::approval_status = 'approved' THEN interval '0' END
    FROM ready
    WHERE
        recommendations.customer_id = @customer_id
        AND recommendations.id = ready.recommendation_id
)

UPDATE approvals
SET
    status = @status::approval_status,
    approved_by = @approved_by::text,
    comment = coalesce(sqlc.narg('comment')::text, ''),
    decided_at = now()
FROM ready
WHERE
    approvals.customer_id = @customer_id
    AND approvals.id = ready.id
RETURNING approvals.*;

-- name: delete_approval :execrows
-- Withdraw a question that is still pending. Returns 1, or 0 where there was none.
--
-- @plan approvals_pkey, approvals_recommendation_id_pending_key, rows <= 1 + pending_approvals
DELETE FROM approvals
WHERE
    customer_id = @customer_id
    AND id = @id
    AND status = 'pending';
