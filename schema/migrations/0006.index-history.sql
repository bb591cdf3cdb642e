-- transactional: false
-- It runs outside a transaction, and drops first what an interrupted go left, invalid perhaps:
-- squawk-ignore-file ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
--
-- What people ask of a long history is answered from an index each.
-- depends: 0005.index-live-runs

-- CONCURRENTLY waits for transactions that are open, and keeps nobody waiting.
SET lock_timeout = '1h';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS workflow_executions_customer_id_id_failed_idx;
CREATE INDEX CONCURRENTLY workflow_executions_customer_id_id_failed_idx
ON workflow_executions (customer_id, id)
WHERE error_details IS NOT NULL;
COMMENT ON INDEX workflow_executions_customer_id_id_failed_idx IS
'Serves list_failed_workflows_by_customer.';

DROP INDEX CONCURRENTLY IF EXISTS workflow_executions_customer_id_status_id_ended_idx;
CREATE INDEX CONCURRENTLY workflow_executions_customer_id_status_id_ended_idx
ON workflow_executions (customer_id, status, id)
WHERE completed_at IS NOT NULL;
COMMENT ON INDEX workflow_executions_customer_id_status_id_ended_idx IS
'Serves list_workflow_executions_by_status.';

DROP INDEX CONCURRENTLY IF EXISTS workflow_executions_customer_id_completed_at_idx;
CREATE INDEX CONCURRENTLY workflow_executions_customer_id_completed_at_idx
ON workflow_executions (customer_id, completed_at)
WHERE completed_at IS NOT NULL;
COMMENT ON INDEX workflow_executions_customer_id_completed_at_idx IS
'Serves count_workflow_executions, retry_failed_workflow_executions and the other queries on what '
'ended in a window.';

DROP INDEX CONCURRENTLY IF EXISTS recommendations_customer_id_status_id_idx;
CREATE INDEX CONCURRENTLY recommendations_customer_id_status_id_idx
ON recommendations (customer_id, status, id);
COMMENT ON INDEX recommendations_customer_id_status_id_idx IS
'Serves list_recommendations_by_status, list_open_recommendations and '
'list_open_recommendations_by_savings.';

DROP INDEX CONCURRENTLY IF EXISTS recommendations_customer_id_type_id_idx;
CREATE INDEX CONCURRENTLY recommendations_customer_id_type_id_idx
ON recommendations (customer_id, type, id);
COMMENT ON INDEX recommendations_customer_id_type_id_idx IS
'Serves list_recommendations_by_type.';

DROP INDEX CONCURRENTLY IF EXISTS recommendations_customer_id_priority_id_idx;
CREATE INDEX CONCURRENTLY recommendations_customer_id_priority_id_idx
ON recommendations (customer_id, priority, id);
COMMENT ON INDEX recommendations_customer_id_priority_id_idx IS
'Serves list_recommendations_by_priority.';

DROP INDEX CONCURRENTLY IF EXISTS recommendations_customer_id_estimated_savings_id_idx;
CREATE INDEX CONCURRENTLY recommendations_customer_id_estimated_savings_id_idx
ON recommendations (customer_id, estimated_savings, id)
WHERE estimated_savings IS NOT NULL;
COMMENT ON INDEX recommendations_customer_id_estimated_savings_id_idx IS
'Serves list_recommendations_by_savings.';

DROP INDEX CONCURRENTLY IF EXISTS recommendations_customer_id_created_at_idx;
CREATE INDEX CONCURRENTLY recommendations_customer_id_created_at_idx
ON recommendations (customer_id, created_at);
COMMENT ON INDEX recommendations_customer_id_created_at_idx IS
'Serves list_savings.';

COMMENT ON INDEX workflow_executions_id_customer_id_running_idx IS
'Serves list_running_workflows, list_available_agents, and time_out_workflow_executions where '
'heartbeats are late.';
COMMENT ON INDEX workflow_executions_pkey IS
'Serves get_workflow_execution, get_workflow_detail, list_workflow_executions and every '
'transition.';

DROP STATISTICS IF EXISTS workflow_steps_customer_id_workflow_execution_id_stat;
CREATE STATISTICS workflow_steps_customer_id_workflow_execution_id_stat (DEPENDENCIES)
ON customer_id, workflow_execution_id FROM workflow_steps;
COMMENT ON STATISTICS workflow_steps_customer_id_workflow_execution_id_stat IS
'A run is of one customer.';

DROP STATISTICS IF EXISTS workflow_artifacts_customer_id_workflow_execution_id_stat;
CREATE STATISTICS workflow_artifacts_customer_id_workflow_execution_id_stat (DEPENDENCIES)
ON customer_id, workflow_execution_id FROM workflow_artifacts;
COMMENT ON STATISTICS workflow_artifacts_customer_id_workflow_execution_id_stat IS
'A run is of one customer.';
ANALYZE workflow_steps, workflow_artifacts;
