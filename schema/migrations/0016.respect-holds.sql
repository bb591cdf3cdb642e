-- transactional: false
-- depends: 0015.add-retention
-- Has deletions respect legal holds. A trigger a statement: each locks its table alone, for an
-- instant, as writers take these tables in more than one order.
-- squawk-ignore-file prefer-robust-stmts

SET lock_timeout = '5s';
SET statement_timeout = '60s';

CREATE OR REPLACE TRIGGER customers_refuse_held_deletion
BEFORE DELETE ON customers
FOR EACH ROW
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER customers_refuse_held_deletion ON customers IS 'Legal holds.';

CREATE OR REPLACE TRIGGER workflow_executions_refuse_held_deletion
BEFORE DELETE ON workflow_executions
FOR EACH ROW
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER workflow_executions_refuse_held_deletion ON workflow_executions IS
'Legal holds.';

CREATE OR REPLACE TRIGGER workflow_steps_refuse_held_deletion
BEFORE DELETE ON workflow_steps
FOR EACH ROW WHEN (pg_trigger_depth() = 0)
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER workflow_steps_refuse_held_deletion ON workflow_steps IS 'Legal holds.';

CREATE OR REPLACE TRIGGER workflow_artifacts_refuse_held_deletion
BEFORE DELETE ON workflow_artifacts
FOR EACH ROW WHEN (pg_trigger_depth() = 0)
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER workflow_artifacts_refuse_held_deletion ON workflow_artifacts IS
'Legal holds.';

CREATE OR REPLACE TRIGGER recommendations_refuse_held_deletion
BEFORE DELETE ON recommendations
FOR EACH ROW
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER recommendations_refuse_held_deletion ON recommendations IS 'Legal holds.';

CREATE OR REPLACE TRIGGER approvals_refuse_held_deletion
BEFORE DELETE ON approvals
FOR EACH ROW WHEN (pg_trigger_depth() = 0)
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER approvals_refuse_held_deletion ON approvals IS 'Legal holds.';

CREATE OR REPLACE TRIGGER optimizations_refuse_held_deletion
BEFORE DELETE ON optimizations
FOR EACH ROW
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER optimizations_refuse_held_deletion ON optimizations IS 'Legal holds.';
