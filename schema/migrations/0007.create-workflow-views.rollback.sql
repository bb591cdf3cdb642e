-- Views hold no data:
-- squawk-ignore-file ban-drop-view

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

DROP VIEW workflow_stats;
DROP VIEW agent_workload;
DROP VIEW failed_workflows;
DROP VIEW running_workflows;
DROP VIEW workflow_progress;
