-- name: begin_housekeeping :one
-- Take the turn of housekeeping, which ends with end_housekeeping or with the session. False where
-- another session has it. Not behind a pooler that gives each transaction another session.
-- @returns exactly one
--
-- @plan catalogue
SELECT pg_try_advisory_lock(hashtextextended('optiinfra_db.housekeeping', 0)) AS has_begun;

-- name: end_housekeeping :exec
-- Let others have the turn that begin_housekeeping took.
--
-- @plan catalogue
SELECT pg_advisory_unlock(hashtextextended('optiinfra_db.housekeeping', 0)) AS has_ended;

-- name: await_legal_holds :exec
-- In a transaction that is about to delete what no trigger watches over: wait for legal holds that
-- are being placed, and have those that come wait for its end.
--
-- @plan catalogue
SELECT pg_advisory_xact_lock_shared(hashtextextended('optiinfra_db.legal_holds', 0)) AS has_waited;

-- name: lock_customer :one
-- Lock a customer who is about to be erased, in a transaction: nobody writes rows of theirs from
-- then on. None where there is no such customer.
--
-- @plan customers_pkey, rows <= customers
SELECT id
FROM customers
WHERE id = @customer_id
FOR UPDATE;

-- name: count_customer_rows :many
-- How many rows of a customer each table has, partitions by themselves, but for those that have
-- none. Empty means that nothing is left of the customer. Receipts are not counted: they name a
-- customer by id and say no more.
-- @notnull relation_name, row_count
-- @required customer_id
--
-- @plan customers_pkey, api_keys_pkey, legal_holds_pkey, workflow_executions_pkey,
--   workflow_steps_pkey, workflow_artifacts_pkey, recommendations_pkey, approvals_pkey,
--   optimizations_pkey, events_pkey, event_seals_pkey,
--   legal_holds_customer_id_workflow_execution_id_idx,
--   agent_states_current_workflow_id_idx,
--   retention_policies_customer_id_table_name_workflow_type_key,
--   recommendations_customer_id_created_at_idx, recommendations_customer_id_status_id_idx,
--   recommendations_customer_id_type_id_idx, recommendations_customer_id_priority_id_idx,
--   recommendations_customer_id_estimated_savings_id_idx,
--   recommendations_customer_id_workflow_execution_id_idx,
--   approvals_customer_id_recommendation_id_idx, optimizations_customer_id_recommendation_id_idx,
--   workflow_executions_customer_id_workflow_type_id_idx,
--   workflow_executions_customer_id_status_id_ended_idx,
--   workflow_executions_customer_id_completed_at_idx, workflow_steps_step_order_key,
--   workflow_artifacts_artifact_path_key, workflow_artifacts_customer_id_artifact_type_id_idx,
--   whole workflow_executions,
--   whole workflow_steps, whole workflow_artifacts, whole recommendations, whole approvals,
--   whole optimizations, whole events, rows <= 16 * runs, buffers <= 2 * runs
SELECT
    counted.relation_name::text AS relation_name,
    counted.row_count
FROM (
    SELECT
        tableoid::regclass AS relation_name,
        count(*) AS row_count
    FROM customers
    WHERE id = @customer_id
    GROUP BY tableoid
    UNION ALL
    SELECT
        tableoid::regclass AS relation_name,
        count(*) AS row_count
    FROM api_keys
    WHERE customer_id = @customer_id
    GROUP BY tableoid
    UNION ALL
    SELECT
        tableoid::regclass AS relation_name,
        count(*) AS row_count
    FROM retention_policies
    WHERE customer_id = @customer_id
    GROUP BY tableoid
    UNION ALL
    SELECT
        tableoid::regclass AS relation_name,
        count(*) AS row_count
    FROM legal_holds
    WHERE customer_id = @customer_id
    GROUP BY tableoid
    UNION ALL
    SELECT
        tableoid::regclass AS relation_name,
        count(*) AS row_count
    FROM workflow_executions
    WHERE customer_id = @customer_id
    GROUP BY tableoid
    UNION ALL
    SELECT
        tableoid::regclass AS relation_name,
        count(*) AS row_count
    FROM workflow_steps
    WHERE customer_id = @customer_id
    GROUP BY tableoid
    UNION ALL
    SELECT
        tableoid::regclass AS relation_name,
        count(*) AS row_count
    FROM workflow_artifacts
    WHERE customer_id = @customer_id
    GROUP BY tableoid
    UNION ALL
    SELECT
        tableoid::regclass AS relation_name,
        count(*) AS row_count
    FROM recommendations
    WHERE customer_id = @customer_id
    GROUP BY tableoid
    UNION ALL
    SELECT
        tableoid::regclass AS relation_name,
        count(*) AS row_count
    FROM approvals
    WHERE customer_id = @customer_id
    GROUP BY tableoid
    UNION ALL
    SELECT
        tableoid::regclass AS relation_name,
        count(*) AS row_count
    FROM optimizations
    WHERE customer_id = @customer_id
    GROUP BY tableoid
    UNION ALL
    SELECT
        tableoid::regclass AS relation_name,
        count(*) AS row_count
    FROM agent_states
    WHERE current_workflow_customer_id = @customer_id
    GROUP BY tableoid
    UNION ALL
    SELECT
        tableoid::regclass AS relation_name,
        count(*) AS row_count
    FROM events
    WHERE customer_id = @customer_id
    GROUP BY tableoid
    UNION ALL
    SELECT
        tableoid::regclass AS relation_name,
        count(*) AS row_count
    FROM event_seals
    WHERE customer_id = @customer_id
    GROUP BY tableoid
) AS counted
ORDER BY counted.relation_name::text;
