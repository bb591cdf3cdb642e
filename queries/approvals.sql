-- name: create_approval :one
-- Ask whether a recommendation may be carried out. With an id that is taken already, nothing is
-- written and the approval that is there is returned.
--
-- Raises UniqueViolation where another approval of the recommendation is still pending.
-- @returns exactly one
INSERT INTO approvals (customer_id, id, recommendation_id, expires_at)
VALUES (
    @customer_id,
    coalesce(sqlc.narg('id')::uuid, uuidv7()),
    @recommendation_id,
    sqlc.narg('expires_at')
)
ON CONFLICT (customer_id, id) DO UPDATE SET id = excluded.id
RETURNING *;

-- name: get_approval :one
-- One approval.
SELECT *
FROM approvals
WHERE
    customer_id = @customer_id
    AND id = @id;

-- name: list_approvals :many
-- Approvals of a customer, newest first, up to max_rows; the next page starts before the last id
-- of this one.
SELECT *
FROM approvals
WHERE
    customer_id = @customer_id
    AND id < coalesce(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_recommendation_approvals :many
-- All approvals of one recommendation, oldest first.
SELECT *
FROM approvals
WHERE
    customer_id = @customer_id
    AND recommendation_id = @recommendation_id
ORDER BY id;

-- name: list_pending_approvals :many
-- What a customer has still to decide, oldest first: each approval that is pending and has not
-- expired, with its recommendation.
SELECT
    sqlc.embed(approvals),
    sqlc.embed(recommendations)
FROM approvals
INNER JOIN recommendations
    ON
        approvals.customer_id = recommendations.customer_id
        AND approvals.recommendation_id = recommendations.id
WHERE
    approvals.customer_id = @customer_id
    AND approvals.status = 'pending'
    AND (approvals.expires_at IS NULL OR approvals.expires_at > now())
ORDER BY approvals.id
LIMIT @max_rows;

-- name: decide_approval :one
-- Approve or reject (status), by whom and why, and move the recommendation, where it is pending,
-- the same way. None where the approval was decided before or has expired.
WITH decided AS (
    UPDATE approvals
    SET
        status = @status,
        approved_by = @approved_by::text,
        comment = coalesce(sqlc.narg('comment')::text, ''),
        decided_at = now()
    WHERE
        customer_id = @customer_id
        AND id = @id
        AND status = 'pending'
        AND (expires_at IS NULL OR expires_at > now())
    RETURNING *
),

moved AS (
    UPDATE recommendations
    SET
        status = decided.status::text::recommendation_status,
        approved_at = CASE WHEN decided.status = 'approved' THEN now() END
    FROM decided
    WHERE
        recommendations.customer_id = decided.customer_id
        AND recommendations.id = decided.recommendation_id
        AND recommendations.status = 'pending'
)

SELECT * FROM decided;

-- name: delete_approval :execrows
-- Withdraw a question that is still pending. Returns 1, or 0 where there was none.
DELETE FROM approvals
WHERE
    customer_id = @customer_id
    AND id = @id
    AND status = 'pending';
