-- transactional: false
-- It runs outside a transaction, and drops first what an interrupted go left, invalid perhaps:
-- squawk-ignore-file ban-concurrent-index-creation-in-transaction, prefer-robust-stmts

SET lock_timeout = '5s';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS workflow_executions_customer_id_retried_from_id_idx;
CREATE INDEX CONCURRENTLY workflow_executions_customer_id_retried_from_id_idx
ON workflow_executions (customer_id, retried_from_id)
WHERE retried_from_id IS NOT NULL;
COMMENT ON INDEX workflow_executions_customer_id_retried_from_id_idx IS
'Serves list_workflow_retries, and deleting a run that was retried.';

DROP INDEX CONCURRENTLY IF EXISTS workflow_executions_retried_from_id_key;
DROP INDEX CONCURRENTLY IF EXISTS workflow_executions_agent_id_id_pending_idx;
DROP INDEX CONCURRENTLY IF EXISTS workflow_executions_deadline_at_open_idx;

COMMENT ON INDEX workflow_executions_id_customer_id_running_idx IS
'Serves list_running_workflows.';
