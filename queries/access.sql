-- name: grant_access :many
-- Make the group roles that are missing and grant them what the view access_rules says. Returns the
-- statements that the role lacked the privileges for, in order: an administrator has to run them.
-- Where everything is granted, nothing is locked and the list is empty.
--
-- @plan catalogue, buffers <= 20000
SELECT needed.statement::text
FROM grant_access() WITH ORDINALITY AS needed (statement, place)
ORDER BY needed.place;

-- name: list_roles_without_group :many
-- Logins that may read runs, by privileges of their own, and are in no group role: because of
-- row-level security they see the rows of no customer.
--
-- @plan catalogue, buffers <= 2000
SELECT pg_roles.rolname::text
FROM pg_catalog.pg_roles
INNER JOIN pg_catalog.pg_class ON pg_class.oid = 'workflow_executions'::regclass
WHERE
    pg_roles.rolcanlogin
    AND NOT pg_roles.rolsuper
    AND NOT pg_roles.rolbypassrls
    AND has_table_privilege(pg_roles.oid, pg_class.oid, 'SELECT')
    AND NOT pg_has_role(pg_roles.oid, pg_class.relowner, 'USAGE')
    AND pg_has_role(pg_roles.oid, to_regrole('optiinfra_service'), 'USAGE') IS NOT true
    AND pg_has_role(pg_roles.oid, to_regrole('optiinfra_tenant'), 'USAGE') IS NOT true
    AND pg_has_role(pg_roles.oid, to_regrole('optiinfra_reader'), 'USAGE') IS NOT true
ORDER BY pg_roles.rolname;

-- name: enter_tenant :one
-- Limit the transaction to the rows of one customer, as the role optiinfra_tenant. Returns the role
-- and customer of before, for leave_tenant; optiinfra_db.tenant is the block that calls the two.
--
-- Raises InvalidValue where the transaction is for another customer already.
-- @returns exactly one
--
-- @plan catalogue, buffers <= 100
WITH former AS MATERIALIZED (
    SELECT
        sqlc.arg('customer_id')::uuid::text AS wanted,
        current_setting('role') AS role,
        coalesce(current_setting('optiinfra.customer_id', true), '') AS customer_id
)

SELECT
    former.role::text AS former_role,
    former.customer_id::text AS former_customer_id,
    to_regprocedure('clear_workflow_links()') IS NOT NULL AS is_distributed
FROM former
WHERE
    CASE
        WHEN former.role = 'optiinfra_tenant' AND former.customer_id != former.wanted
            THEN refuse_value(
                'customer_id',
                format(
                    'this transaction is for customer %s and not for %s',
                    former.customer_id, former.wanted
                )
            )
        ELSE set_config('role', 'optiinfra_tenant', true) IS NOT NULL
    END
    AND set_config('optiinfra.customer_id', former.wanted, true) IS NOT NULL;

-- name: leave_tenant :exec
-- Go on in the transaction with the role and the customer of before enter_tenant.
--
-- @plan catalogue, buffers <= 100
SELECT
    set_config('role', @former_role::text, true) AS role,
    set_config('optiinfra.customer_id', @former_customer_id::text, true) AS customer_id;

-- name: set_actor :one
-- Say who acts in the rest of the transaction, for the audit log; '' for nobody in particular.
-- Returns who did before. optiinfra_db.acting is the block that calls it.
--
-- @returns exactly one
--
-- @plan catalogue, buffers <= 100
WITH former AS MATERIALIZED (
    SELECT coalesce(current_setting('optiinfra.actor', true), '') AS actor
)

SELECT former.actor::text AS former_actor
FROM former
WHERE set_config('optiinfra.actor', @actor::text, true) IS NOT NULL;

-- name: is_distributed :one
-- Whether the customers are spread over several servers (Citus): by a function that only such a
-- database has.
-- @returns exactly one
--
-- @plan catalogue, buffers <= 100
SELECT (to_regprocedure('clear_workflow_links()') IS NOT NULL)::boolean AS is_distributed;
