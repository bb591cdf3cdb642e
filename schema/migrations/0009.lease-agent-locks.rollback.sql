-- The version before has no query that calls the function:
-- squawk-ignore-file ban-drop-function

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

COMMENT ON INDEX agent_metrics_pkey IS
'Serves list_agent_metrics and get_latest_agent_metric, and deleting an agent.';
COMMENT ON COLUMN agents.last_heartbeat IS
'When the agent last reported; NULL before its first heartbeat.';
COMMENT ON COLUMN agent_states.locks IS 'Object of the resources that it holds, by name.';

DROP FUNCTION acquire_agent_lock(uuid, text, interval, uuid);
