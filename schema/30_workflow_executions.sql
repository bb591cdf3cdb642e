-- A workflow execution (a run) is one go of an agent at a job for a customer: a cost analysis, a
-- quality check, ... It is created pending together with its planned steps, started, and ends once:
-- completed, failed, cancelled or timed out. A retry is a new run that points back at the one it
-- retries.
--
-- Written by the agent that runs it. Grows for ever, millions of rows; few are alive at a time, so
-- status stands only in partial indexes over the few, never in one over all. Small columns come
-- before the payloads: what compares two versions of a row stops before it reads those.

CREATE TYPE workflow_type AS ENUM (
    'cost_analysis',
    'performance_tuning',
    'resource_optimization',
    'quality_check',
    'scaling_decision',
    'configuration_update',
    'health_check',
    'anomaly_detection'
);
COMMENT ON TYPE workflow_type IS 'The job that a run does.';

CREATE TYPE workflow_status AS ENUM (
    'pending', 'running', 'completed', 'failed', 'cancelled', 'timeout'
);
COMMENT ON TYPE workflow_status IS
'State of a run: pending -> running -> completed | failed | cancelled | timeout; a pending '
'run may be cancelled or time out.';

CREATE TABLE workflow_executions (
    customer_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT uuidv7(),
    agent_id uuid NOT NULL,
    workflow_type workflow_type NOT NULL,
    status workflow_status NOT NULL DEFAULT 'pending',
    attempt integer NOT NULL DEFAULT 1,
    retried_from_id uuid,
    started_at timestamptz,
    heartbeat_at timestamptz,
    completed_at timestamptz,
    deadline_at timestamptz,
    input_data jsonb NOT NULL DEFAULT '{}',
    output_data jsonb NOT NULL DEFAULT '{}',
    error_details jsonb,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT workflow_executions_pkey PRIMARY KEY (customer_id, id),
    CONSTRAINT workflow_executions_customer_id_fkey FOREIGN KEY (customer_id)
    REFERENCES customers (id) ON DELETE CASCADE,
    CONSTRAINT workflow_executions_agent_id_fkey FOREIGN KEY (agent_id)
    REFERENCES agents (id) ON DELETE CASCADE,
    CONSTRAINT workflow_executions_retried_from_id_fkey FOREIGN KEY (customer_id, retried_from_id)
    REFERENCES workflow_executions (customer_id, id) ON DELETE SET NULL (retried_from_id),
    CONSTRAINT workflow_executions_attempt_check CHECK (attempt >= 1),
    CONSTRAINT workflow_executions_retried_from_id_check CHECK (retried_from_id != id),
    CONSTRAINT workflow_executions_started_at_check CHECK (
        CASE
            WHEN status = 'pending' THEN started_at IS NULL
            WHEN status IN ('running', 'completed', 'failed') THEN started_at IS NOT NULL
            ELSE true
        END
    ),
    CONSTRAINT workflow_executions_completed_at_check CHECK (
        (status IN ('completed', 'failed', 'cancelled', 'timeout')) = (completed_at IS NOT NULL)
        AND (completed_at >= started_at) IS NOT false
        AND (isfinite(started_at) AND isfinite(completed_at)) IS NOT false
    ),
    CONSTRAINT workflow_executions_error_details_check CHECK (
        (status IN ('failed', 'timeout')) = (error_details IS NOT NULL)
        AND (jsonb_typeof(error_details) = 'object') IS NOT false
    ),
    CONSTRAINT workflow_executions_metadata_check CHECK (jsonb_typeof(metadata) = 'object')
) WITH (
    -- A live run is updated by each heartbeat: room for the new version on the same page.
    fillfactor = 85,
    -- Old rows never change, so a share of the table says nothing about its live edge.
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_analyze_scale_factor = 0.01
);
COMMENT ON TABLE workflow_executions IS
'Runs of workflows: one go of an agent at a job for a customer.';
COMMENT ON COLUMN workflow_executions.customer_id IS 'Tenant.';
COMMENT ON COLUMN workflow_executions.id IS
'UUIDv7; the caller may supply it, to create safely twice.';
COMMENT ON COLUMN workflow_executions.agent_id IS 'The agent that runs it.';
COMMENT ON COLUMN workflow_executions.workflow_type IS 'The job that it does.';
COMMENT ON COLUMN workflow_executions.status IS 'State; see the type.';
COMMENT ON COLUMN workflow_executions.attempt IS
'1 for a first run, one more for each retry of it.';
COMMENT ON COLUMN workflow_executions.retried_from_id IS
'The run that this one retries; NULL for a first run, or where that one was deleted.';
COMMENT ON COLUMN workflow_executions.started_at IS 'When it was started; NULL while pending.';
COMMENT ON COLUMN workflow_executions.heartbeat_at IS
'When its executor last said that it is alive.';
COMMENT ON COLUMN workflow_executions.completed_at IS
'When it ended, however it ended; NULL before.';
COMMENT ON COLUMN workflow_executions.deadline_at IS 'When it is to be timed out; NULL for never.';
COMMENT ON COLUMN workflow_executions.input_data IS 'What the run was asked to do.';
COMMENT ON COLUMN workflow_executions.output_data IS 'What came of it.';
COMMENT ON COLUMN workflow_executions.error_details IS
'Object that says why it failed or timed out (type, message, step, retryable, ...); NULL '
'unless it did.';
COMMENT ON COLUMN workflow_executions.metadata IS
'Free-form object: trigger, trace id, cancel_reason, ...';
COMMENT ON COLUMN workflow_executions.created_at IS 'When the row was written.';
COMMENT ON COLUMN workflow_executions.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX workflow_executions_pkey IS
'Serves get_workflow_execution, get_workflow_detail, list_workflow_executions and every '
'transition.';

CREATE INDEX workflow_executions_agent_id_customer_id_id_idx
ON workflow_executions (agent_id, customer_id, id);
COMMENT ON INDEX workflow_executions_agent_id_customer_id_id_idx IS
'Serves list_workflow_executions_by_agent, and deleting an agent.';

CREATE INDEX workflow_executions_customer_id_workflow_type_id_idx
ON workflow_executions (customer_id, workflow_type, id);
COMMENT ON INDEX workflow_executions_customer_id_workflow_type_id_idx IS
'Serves list_workflow_executions_by_type.';

CREATE UNIQUE INDEX workflow_executions_retried_from_id_key
ON workflow_executions (customer_id, retried_from_id)
WHERE retried_from_id IS NOT NULL;
COMMENT ON INDEX workflow_executions_retried_from_id_key IS
'One retry a run. Serves retry_workflow_execution, retry_failed_workflow_executions, '
'get_workflow_lineage, and deleting a run that was retried.';

CREATE INDEX workflow_executions_id_customer_id_running_idx
ON workflow_executions (id, customer_id)
WHERE status = 'running';
COMMENT ON INDEX workflow_executions_id_customer_id_running_idx IS
'Serves list_running_workflows, list_available_agents, and time_out_workflow_executions where '
'heartbeats are late.';

CREATE INDEX workflow_executions_agent_id_id_pending_idx
ON workflow_executions (agent_id, id)
WHERE status = 'pending';
COMMENT ON INDEX workflow_executions_agent_id_id_pending_idx IS
'The queue of an agent. Serves claim_workflow_execution and claim_workflow_executions.';

CREATE INDEX workflow_executions_deadline_at_open_idx
ON workflow_executions (deadline_at)
WHERE status IN ('pending', 'running') AND deadline_at IS NOT NULL;
COMMENT ON INDEX workflow_executions_deadline_at_open_idx IS
'Serves time_out_workflow_executions.';

CREATE INDEX workflow_executions_customer_id_id_open_idx
ON workflow_executions (customer_id, id)
WHERE status IN ('pending', 'running');
COMMENT ON INDEX workflow_executions_customer_id_id_open_idx IS
'Serves list_open_workflow_executions.';

-- What failed is what people look for, and is little: these two are on final states for that.
CREATE INDEX workflow_executions_id_customer_id_failed_idx
ON workflow_executions (id, customer_id)
WHERE status IN ('failed', 'timeout');
COMMENT ON INDEX workflow_executions_id_customer_id_failed_idx IS 'Serves list_failed_workflows.';

-- Says failed otherwise than the one before, so that the planner cannot take that one, over all
-- customers, for a question about one.
CREATE INDEX workflow_executions_customer_id_id_failed_idx
ON workflow_executions (customer_id, id)
WHERE error_details IS NOT NULL;
COMMENT ON INDEX workflow_executions_customer_id_id_failed_idx IS
'Serves list_failed_workflows_by_customer.';

-- What is over, by how and when it ended: an entry a run, written by its last transition.
CREATE INDEX workflow_executions_customer_id_status_id_ended_idx
ON workflow_executions (customer_id, status, id)
WHERE completed_at IS NOT NULL;
COMMENT ON INDEX workflow_executions_customer_id_status_id_ended_idx IS
'Serves list_workflow_executions_by_status.';

CREATE INDEX workflow_executions_customer_id_completed_at_idx
ON workflow_executions (customer_id, completed_at)
WHERE completed_at IS NOT NULL;
COMMENT ON INDEX workflow_executions_customer_id_completed_at_idx IS
'Serves count_workflow_executions, retry_failed_workflow_executions and the other queries on what '
'ended in a window.';

CREATE TRIGGER workflow_executions_enforce_transitions
BEFORE UPDATE ON workflow_executions
FOR EACH ROW
EXECUTE FUNCTION enforce_transitions(
    'pending -> running | cancelled | timeout',
    'running -> completed | failed | cancelled | timeout'
);
COMMENT ON TRIGGER workflow_executions_enforce_transitions ON workflow_executions IS
'The state machine; also keeps updated_at.';

-- The end of a run is the end of its steps, whoever ends it. By the time that this looks for open
-- steps the run's row is locked, and whoever adds a step waits for it.
CREATE FUNCTION record_workflow_execution_event() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    open_steps text;
    open_step record;
    error jsonb := NEW.error_details;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.status = 'completed' THEN
            SELECT string_agg(format('%s (%s)', step_name, status), ', ' ORDER BY step_order)
            INTO open_steps
            FROM workflow_steps
            WHERE
                customer_id = NEW.customer_id
                AND workflow_execution_id = NEW.id
                AND status IN ('pending', 'running', 'retrying');
            IF open_steps IS NOT NULL THEN
                RAISE EXCEPTION 'workflow_execution % of customer % has open steps; % -> % is not allowed',
                    NEW.id, NEW.customer_id, OLD.status, NEW.status
                    USING ERRCODE = 'OI001', TABLE = TG_TABLE_NAME, COLUMN = 'status',
                        DETAIL = format('Open: %s.', open_steps),
                        HINT = 'Complete or skip them first, or fail or cancel the run.';
            END IF;
        ELSIF NEW.status IN ('failed', 'cancelled', 'timeout') THEN
            IF NEW.status = 'cancelled' THEN
                error := jsonb_build_object(
                    'type', 'WorkflowCancelled',
                    'message', coalesce(NEW.metadata ->> 'cancel_reason', 'cancelled')
                );
            END IF;
            -- One by one, in their order, which a join would not keep to.
            FOR open_step IN
                SELECT id
                FROM workflow_steps
                WHERE
                    customer_id = NEW.customer_id
                    AND workflow_execution_id = NEW.id
                    AND status IN ('pending', 'running', 'retrying')
                ORDER BY step_order
                FOR NO KEY UPDATE
            LOOP
                UPDATE workflow_steps AS step
                SET
                    status = CASE step.status
                        WHEN 'running' THEN 'failed'
                        ELSE 'skipped'
                    END::step_status,
                    completed_at = greatest(NEW.completed_at, step.started_at),
                    next_attempt_at = NULL,
                    error_details = CASE step.status
                        WHEN 'running' THEN error
                        ELSE step.error_details
                    END,
                    -- A retry of the run does it, and not what was skipped on purpose.
                    metadata = CASE step.status
                        WHEN 'running' THEN step.metadata
                        ELSE step.metadata || '{"closed_with_run": true}'
                    END
                WHERE
                    step.customer_id = NEW.customer_id
                    AND step.workflow_execution_id = NEW.id
                    AND step.id = open_step.id;
            END LOOP;
        END IF;
    END IF;

    INSERT INTO events (
        customer_id, created_at, agent_id, event_type, severity, subject_type, subject_id, data
    )
    VALUES (
        NEW.customer_id,
        clock_timestamp(),
        -- Once a run: with each event all runs of an agent would lock its row, at the same time.
        CASE TG_OP WHEN 'INSERT' THEN NEW.agent_id END,
        'workflow_execution.' || NEW.status,
        CASE
            WHEN NEW.status IN ('failed', 'timeout') THEN 'error'
            WHEN NEW.status = 'cancelled' THEN 'warning'
            ELSE 'info'
        END::event_severity,
        'workflow_execution',
        NEW.id,
        CASE
            WHEN error IS NULL
                THEN jsonb_build_object(
                    'from', OLD.status, 'to', NEW.status, 'attempt', NEW.attempt
                )
            ELSE jsonb_build_object(
                'from', OLD.status, 'to', NEW.status, 'attempt', NEW.attempt, 'error', error
            )
        END
    );
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION record_workflow_execution_event() IS
'Trigger: closes the open steps of a run that ends (a running one fails, the others are skipped), '
'refuses to complete one that has any, and writes creation and status changes to the audit log.';

CREATE TRIGGER workflow_executions_record_creation
AFTER INSERT ON workflow_executions
FOR EACH ROW
EXECUTE FUNCTION record_workflow_execution_event();
COMMENT ON TRIGGER workflow_executions_record_creation ON workflow_executions IS 'The audit log.';

CREATE TRIGGER workflow_executions_record_event
AFTER UPDATE ON workflow_executions
FOR EACH ROW WHEN (OLD.status != NEW.status)
EXECUTE FUNCTION record_workflow_execution_event();
COMMENT ON TRIGGER workflow_executions_record_event ON workflow_executions IS
'The audit log; also ends the steps of a run that ends.';

DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION record_workflow_execution_event() SET search_path = %I, pg_temp', current_schema()
    );
END
$do$;
