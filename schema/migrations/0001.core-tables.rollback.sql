-- Drops the core tables with all that is in them.
--
-- Dropping is what a rollback is for:
-- squawk-ignore-file ban-drop-table, ban-drop-type, ban-drop-function

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

DROP TABLE events;
DROP TABLE optimizations;
DROP TABLE approvals;
DROP TABLE recommendations;
DROP TABLE agents;
DROP TABLE customers;

DROP TYPE event_severity;
DROP TYPE optimization_status;
DROP TYPE approval_status;
DROP TYPE recommendation_status;
DROP TYPE recommendation_priority;
DROP TYPE agent_status;
DROP TYPE agent_type;
DROP TYPE customer_status;
DROP TYPE customer_plan;

DROP FUNCTION set_updated_at();

-- Our own uuidv7(), where there is one; never the built-in of PostgreSQL 18.
DO $do$
BEGIN
    EXECUTE format('DROP FUNCTION IF EXISTS %I.uuidv7()', current_schema());
END
$do$;
