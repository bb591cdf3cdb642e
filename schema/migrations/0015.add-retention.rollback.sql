-- Policies, holds and receipts are lost:
-- squawk-ignore-file ban-drop-table, ban-drop-function

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

DROP TABLE receipts;
DROP TABLE legal_holds;
DROP TABLE retention_policies;
DROP FUNCTION refuse_receipt_change();
DROP FUNCTION refuse_held_deletion();
DROP FUNCTION record_legal_hold_event();
DROP FUNCTION await_deletions();

CREATE OR REPLACE VIEW access_rules WITH (security_invoker = true) AS
-- noqa: disable=LT02, LT09
-- A rule a line.
SELECT
    1 AS place,
    'workflow_executions' AS relation_name,
    'customer_id' AS customer_column,
    'SELECT, INSERT, UPDATE' AS service,
    'SELECT, INSERT, UPDATE' AS tenant,
    'SELECT' AS reader
UNION ALL
SELECT 2, 'workflow_steps', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT 3, 'workflow_artifacts', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT 4, 'recommendations', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT 5, 'approvals', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT 6, 'optimizations', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT
    7,
    'events',
    'customer_id',
    'SELECT, INSERT (customer_id, created_at, id, agent_id, event_type, severity, subject_type, '
    'subject_id, actor, data)',
    'SELECT, INSERT (customer_id, created_at, id, agent_id, event_type, severity, subject_type, '
    'subject_id, data)',
    'SELECT'
UNION ALL
SELECT 8, 'event_seals', 'customer_id', 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT
    9,
    'api_keys',
    'customer_id',
    'SELECT (customer_id, id, created_at, updated_at, expires_at, revoked_at, last_used_at), '
    'INSERT, UPDATE (expires_at, revoked_at)',
    NULL,
    'SELECT (customer_id, id, created_at, updated_at, expires_at, revoked_at, last_used_at)'
UNION ALL
SELECT 10, 'agent_metrics', NULL, 'SELECT, INSERT', NULL, 'SELECT'
UNION ALL
SELECT 11, 'agent_states', NULL, 'SELECT, INSERT, UPDATE, DELETE', NULL, 'SELECT'
UNION ALL
SELECT 12, 'agent_configs', NULL, 'SELECT, INSERT, UPDATE, DELETE', NULL,
    'SELECT (id, agent_id, config_key, config_type, description, created_at, updated_at)'
UNION ALL
SELECT 13, 'agent_capabilities', NULL, 'SELECT, INSERT, UPDATE, DELETE', NULL, 'SELECT'
UNION ALL
SELECT 14, 'agents', NULL, 'SELECT, INSERT, UPDATE', 'SELECT', 'SELECT'
UNION ALL
SELECT 15, 'customers', 'id', 'SELECT, INSERT, UPDATE', 'SELECT', 'SELECT'
UNION ALL
SELECT 16, 'status_transitions', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 17, 'access_rules', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 18, 'workflow_progress', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 19, 'running_workflows', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 20, 'failed_workflows', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 21, 'workflow_stats', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 22, 'recommendation_trace', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 23, 'savings_by_month', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 24, 'agent_workload', NULL, 'SELECT', NULL, 'SELECT'
UNION ALL
SELECT 25, '_yoyo_migration', NULL, 'SELECT', NULL, 'SELECT'
UNION ALL
SELECT 26, '_yoyo_log', NULL, 'SELECT', NULL, 'SELECT'
UNION ALL
SELECT 27, '_yoyo_checksum', NULL, 'SELECT', NULL, 'SELECT'
UNION ALL
SELECT 28, '_yoyo_version', NULL, NULL, NULL, NULL
ORDER BY place;
-- noqa: enable=LT02, LT09
