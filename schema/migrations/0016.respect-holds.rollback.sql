-- transactional: false
-- Holds keep nothing any more.

SET lock_timeout = '5s';
SET statement_timeout = '60s';

DROP TRIGGER IF EXISTS customers_refuse_held_deletion ON customers;
DROP TRIGGER IF EXISTS workflow_executions_refuse_held_deletion ON workflow_executions;
DROP TRIGGER IF EXISTS workflow_steps_refuse_held_deletion ON workflow_steps;
DROP TRIGGER IF EXISTS workflow_artifacts_refuse_held_deletion ON workflow_artifacts;
DROP TRIGGER IF EXISTS recommendations_refuse_held_deletion ON recommendations;
DROP TRIGGER IF EXISTS approvals_refuse_held_deletion ON approvals;
DROP TRIGGER IF EXISTS optimizations_refuse_held_deletion ON optimizations;
