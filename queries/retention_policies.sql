-- name: set_retention_policy :one
-- Keep what is over for so long: the runs (table_name workflow_executions) of a customer, of a
-- type, of both, or of neither, that is, all; or all events, or all agent_metrics. Replaces the
-- policy that is there for the same. Runs go by the policy that says most of them: customer and
-- type, customer, type, then the general one.
--
-- Raises NotFound where there is no such customer, InvalidValue where keep_for is not more than 0.
-- @returns exactly one
--
-- @plan retention_policies_customer_id_table_name_workflow_type_key, rows <= 0
INSERT INTO retention_policies (table_name, customer_id, workflow_type, keep_for)
VALUES (
    @table_name::text,
    sqlc.narg('customer_id')::uuid,
    sqlc.narg('workflow_type')::workflow_type,
    @keep_for::interval
)
ON CONFLICT (customer_id, table_name, workflow_type) DO UPDATE SET keep_for = excluded.keep_for
RETURNING *;

-- name: list_retention_policies :many
-- All policies: those of all customers first, by table, customer and type.
--
-- @plan catalogue, rows <= policies
SELECT *
FROM retention_policies
ORDER BY table_name, customer_id NULLS FIRST, workflow_type NULLS FIRST;

-- name: delete_retention_policy :execrows
-- Keep what a policy spoke of for ever, or as the next more general one says. Returns 1, or 0 where
-- there was none.
--
-- @plan retention_policies_pkey, rows <= 1
DELETE FROM retention_policies
WHERE id = @id;
