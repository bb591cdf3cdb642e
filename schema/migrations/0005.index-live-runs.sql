-- transactional: false
-- It runs outside a transaction, and drops first what an interrupted go left, invalid perhaps:
-- squawk-ignore-file ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
--
-- depends: 0004.enforce-history

SET lock_timeout = '5s';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS workflow_executions_retried_from_id_key;
CREATE UNIQUE INDEX CONCURRENTLY workflow_executions_retried_from_id_key
ON workflow_executions (customer_id, retried_from_id)
WHERE retried_from_id IS NOT NULL;
COMMENT ON INDEX workflow_executions_retried_from_id_key IS
'One retry a run. Serves retry_workflow_execution, retry_failed_workflow_executions, '
'get_workflow_lineage, and deleting a run that was retried.';

DROP INDEX CONCURRENTLY IF EXISTS workflow_executions_agent_id_id_pending_idx;
CREATE INDEX CONCURRENTLY workflow_executions_agent_id_id_pending_idx
ON workflow_executions (agent_id, id)
WHERE status = 'pending';
COMMENT ON INDEX workflow_executions_agent_id_id_pending_idx IS
'The queue of an agent. Serves claim_workflow_execution.';

DROP INDEX CONCURRENTLY IF EXISTS workflow_executions_deadline_at_open_idx;
CREATE INDEX CONCURRENTLY workflow_executions_deadline_at_open_idx
ON workflow_executions (deadline_at)
WHERE status IN ('pending', 'running') AND deadline_at IS NOT NULL;
COMMENT ON INDEX workflow_executions_deadline_at_open_idx IS
'Serves time_out_workflow_executions.';

DROP INDEX CONCURRENTLY IF EXISTS workflow_executions_customer_id_retried_from_id_idx;

COMMENT ON INDEX workflow_executions_id_customer_id_running_idx IS
'Serves list_running_workflows, and time_out_workflow_executions where heartbeats are late.';
