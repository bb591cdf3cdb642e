-- transactional: false
-- It runs outside a transaction, and drops first what an interrupted go left, invalid perhaps:
-- squawk-ignore-file ban-concurrent-index-creation-in-transaction, prefer-robust-stmts

-- CONCURRENTLY waits for transactions that are open, and keeps nobody waiting.
SET lock_timeout = '1h';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS recommendations_customer_id_created_at_idx;
DROP INDEX CONCURRENTLY IF EXISTS recommendations_customer_id_estimated_savings_id_idx;
DROP INDEX CONCURRENTLY IF EXISTS recommendations_customer_id_priority_id_idx;
DROP INDEX CONCURRENTLY IF EXISTS recommendations_customer_id_type_id_idx;
DROP INDEX CONCURRENTLY IF EXISTS recommendations_customer_id_status_id_idx;
DROP INDEX CONCURRENTLY IF EXISTS workflow_executions_customer_id_completed_at_idx;
DROP INDEX CONCURRENTLY IF EXISTS workflow_executions_customer_id_status_id_ended_idx;

COMMENT ON INDEX workflow_executions_id_customer_id_running_idx IS
'Serves list_running_workflows, and time_out_workflow_executions where heartbeats are late.';
COMMENT ON INDEX workflow_executions_pkey IS
'Serves get_workflow_execution, get_workflow_detail, list_workflow_executions, '
'list_workflow_executions_by_status and every transition.';

DROP INDEX CONCURRENTLY IF EXISTS workflow_executions_customer_id_id_failed_idx;
CREATE INDEX CONCURRENTLY workflow_executions_customer_id_id_failed_idx
ON workflow_executions (customer_id, id)
WHERE status IN ('failed', 'timeout');
COMMENT ON INDEX workflow_executions_customer_id_id_failed_idx IS
'Serves list_failed_workflows_by_customer.';

DROP STATISTICS IF EXISTS workflow_steps_customer_id_workflow_execution_id_stat;
DROP STATISTICS IF EXISTS workflow_artifacts_customer_id_workflow_execution_id_stat;
