-- name: place_legal_hold :one
-- Let nothing delete a customer with all that is theirs, or, where it is given, one run. With an id
-- that is taken already, nothing is written and the hold that is there is returned. Waits for those
-- who are deleting at the moment.
--
-- Raises NotFound where there is no such customer or run.
-- @returns exactly one
--
-- @plan legal_holds_pkey, rows <= 0
INSERT INTO legal_holds (customer_id, id, workflow_execution_id, reason)
VALUES (
    @customer_id,
    coalesce(sqlc.narg('id')::uuid, uuidv7()),
    sqlc.narg('workflow_execution_id')::uuid,
    @reason::text
)
ON CONFLICT (customer_id, id) DO UPDATE SET id = excluded.id
RETURNING *;

-- name: release_legal_hold :one
-- End a legal hold. Returns it, or None where there was none.
--
-- @plan legal_holds_pkey, rows <= 1
DELETE FROM legal_holds
WHERE
    customer_id = @customer_id
    AND id = @id
RETURNING *;

-- name: list_legal_holds :many
-- The legal holds that stand, of a customer or of all, oldest first.
--
-- @plan legal_holds_pkey, legal_holds_customer_id_workflow_execution_id_idx, rows <= holds
SELECT *
FROM legal_holds
WHERE
    customer_id >= greatest(
        sqlc.narg('customer_id')::uuid, '00000000-0000-0000-0000-000000000000'
    )
    AND customer_id <= least(
        sqlc.narg('customer_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'
    )
ORDER BY id;
