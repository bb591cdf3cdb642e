-- Drops the workflow history with all that is in it.
--
-- Dropping is what a rollback is for:
-- squawk-ignore-file ban-drop-function, ban-drop-table, ban-drop-type, ban-drop-constraint

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

-- What pointed at runs points at nothing now, so that the constraints can come back.
UPDATE agent_states
SET
    current_workflow_customer_id = NULL,
    current_workflow_id = NULL
WHERE current_workflow_id IS NOT NULL;
UPDATE optimizations
SET workflow_execution_id = NULL
WHERE workflow_execution_id IS NOT NULL;
UPDATE recommendations
SET workflow_execution_id = NULL
WHERE workflow_execution_id IS NOT NULL;

ALTER TABLE agent_states DROP CONSTRAINT agent_states_current_workflow_id_fkey;
ALTER TABLE optimizations DROP CONSTRAINT optimizations_workflow_execution_id_fkey;
ALTER TABLE recommendations DROP CONSTRAINT recommendations_workflow_execution_id_fkey;

DROP FUNCTION close_workflow_steps(uuid, uuid, jsonb);
DROP FUNCTION workflow_has_open_steps(uuid, uuid);

DROP TABLE workflow_artifacts;
DROP TABLE workflow_steps;
DROP TABLE workflow_executions;

DROP TYPE artifact_type;
DROP TYPE step_status;
DROP TYPE workflow_status;
DROP TYPE workflow_type;
