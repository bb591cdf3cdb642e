-- Drops the agent state tables with all that is in them.
--
-- Dropping is what a rollback is for:
-- squawk-ignore-file ban-drop-table, ban-drop-type, ban-drop-function

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

DROP FUNCTION ensure_partitions(integer);

DROP TABLE agent_metrics;
DROP TABLE agent_capabilities;
DROP TABLE agent_states;
DROP TABLE agent_configs;

DROP FUNCTION config_value_parses(text, config_type);

DROP TYPE metric_type;
DROP TYPE agent_status_detail;
DROP TYPE config_type;
