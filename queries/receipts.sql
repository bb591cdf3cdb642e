-- name: create_receipt :one
-- Note what housekeeping did, in the transaction that does it.
-- @returns exactly one
--
-- @plan rows <= 0
INSERT INTO receipts (
    operation, customer_id, row_counts, archive_url, archive_sha256, data
)
VALUES (
    @operation::text,
    sqlc.narg('customer_id')::uuid,
    @row_counts::jsonb,
    sqlc.narg('archive_url')::text,
    sqlc.narg('archive_sha256')::bytea,
    coalesce(sqlc.narg('data')::jsonb, '{}')
)
RETURNING *;

-- name: list_receipts :many
-- What housekeeping did, newest first, up to max_rows; the next page starts before the last id of
-- this one.
--
-- @plan receipts_pkey, rows <= max_rows
SELECT *
FROM receipts
WHERE id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;
