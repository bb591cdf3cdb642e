-- Runs of workflows, their steps and artifacts.

-- The foreign keys at the end point from tables that the migrations before this one have just made:
-- squawk-ignore-file adding-foreign-key-constraint, constraint-missing-not-valid
--
-- depends: 0002.agent-state-tables

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

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
'Serves get_workflow_execution, get_workflow_detail, list_workflow_executions, '
'list_workflow_executions_by_status and every transition.';

CREATE INDEX workflow_executions_agent_id_customer_id_id_idx
ON workflow_executions (agent_id, customer_id, id);
COMMENT ON INDEX workflow_executions_agent_id_customer_id_id_idx IS
'Serves list_workflow_executions_by_agent, and deleting an agent.';

CREATE INDEX workflow_executions_customer_id_workflow_type_id_idx
ON workflow_executions (customer_id, workflow_type, id);
COMMENT ON INDEX workflow_executions_customer_id_workflow_type_id_idx IS
'Serves list_workflow_executions_by_type.';

CREATE INDEX workflow_executions_customer_id_retried_from_id_idx
ON workflow_executions (customer_id, retried_from_id)
WHERE retried_from_id IS NOT NULL;
COMMENT ON INDEX workflow_executions_customer_id_retried_from_id_idx IS
'Serves list_workflow_retries, and deleting a run that was retried.';

CREATE INDEX workflow_executions_id_customer_id_running_idx
ON workflow_executions (id, customer_id)
WHERE status = 'running';
COMMENT ON INDEX workflow_executions_id_customer_id_running_idx IS
'Serves list_running_workflows.';

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

CREATE INDEX workflow_executions_customer_id_id_failed_idx
ON workflow_executions (customer_id, id)
WHERE status IN ('failed', 'timeout');
COMMENT ON INDEX workflow_executions_customer_id_id_failed_idx IS
'Serves list_failed_workflows_by_customer.';

CREATE TRIGGER workflow_executions_set_updated_at
BEFORE UPDATE ON workflow_executions
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER workflow_executions_set_updated_at ON workflow_executions IS 'Keeps updated_at.';

CREATE TYPE step_status AS ENUM (
    'pending', 'running', 'completed', 'failed', 'skipped', 'retrying'
);
COMMENT ON TYPE step_status IS
'State of a step: pending -> running -> completed | failed | skipped, by way of retrying '
'where it is tried again.';

CREATE TABLE workflow_steps (
    customer_id uuid NOT NULL,
    workflow_execution_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT uuidv7(),
    step_name text NOT NULL,
    step_order integer NOT NULL,
    status step_status NOT NULL DEFAULT 'pending',
    retry_count integer NOT NULL DEFAULT 0,
    max_retries integer NOT NULL DEFAULT 3,
    next_attempt_at timestamptz,
    started_at timestamptz,
    completed_at timestamptz,
    input_data jsonb NOT NULL DEFAULT '{}',
    output_data jsonb NOT NULL DEFAULT '{}',
    error_details jsonb,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT workflow_steps_pkey PRIMARY KEY (customer_id, workflow_execution_id, id),
    CONSTRAINT workflow_steps_step_order_key
    UNIQUE (customer_id, workflow_execution_id, step_order),
    CONSTRAINT workflow_steps_workflow_execution_id_fkey
    FOREIGN KEY (customer_id, workflow_execution_id)
    REFERENCES workflow_executions (customer_id, id) ON DELETE CASCADE,
    CONSTRAINT workflow_steps_step_name_check CHECK (char_length(step_name) BETWEEN 1 AND 255),
    CONSTRAINT workflow_steps_step_order_check CHECK (step_order >= 1),
    CONSTRAINT workflow_steps_max_retries_check CHECK (max_retries >= 0),
    CONSTRAINT workflow_steps_retry_count_check CHECK (retry_count BETWEEN 0 AND max_retries),
    CONSTRAINT workflow_steps_next_attempt_at_check CHECK (
        (status = 'retrying') = (next_attempt_at IS NOT NULL)
    ),
    CONSTRAINT workflow_steps_started_at_check CHECK (
        CASE
            WHEN status = 'pending' THEN started_at IS NULL
            WHEN status = 'skipped' THEN true
            ELSE started_at IS NOT NULL
        END
    ),
    CONSTRAINT workflow_steps_completed_at_check CHECK (
        (status IN ('completed', 'failed', 'skipped')) = (completed_at IS NOT NULL)
        AND (completed_at >= started_at) IS NOT false
        AND (isfinite(started_at) AND isfinite(completed_at)) IS NOT false
    ),
    CONSTRAINT workflow_steps_error_details_check CHECK (
        (status NOT IN ('failed', 'retrying') OR error_details IS NOT NULL)
        AND (jsonb_typeof(error_details) = 'object') IS NOT false
    ),
    CONSTRAINT workflow_steps_metadata_check CHECK (jsonb_typeof(metadata) = 'object')
) WITH (
    -- Two to four updates soon after the insert: room for them on the same page.
    fillfactor = 80,
    -- Old rows never change, so a share of the table says nothing about its live edge.
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_analyze_scale_factor = 0.01
);
COMMENT ON TABLE workflow_steps IS 'Parts of a run''s plan, in step_order.';
COMMENT ON COLUMN workflow_steps.customer_id IS 'Tenant.';
COMMENT ON COLUMN workflow_steps.workflow_execution_id IS 'The run that it is part of.';
COMMENT ON COLUMN workflow_steps.id IS 'UUIDv7; the caller may supply it.';
COMMENT ON COLUMN workflow_steps.step_name IS
'What it does, 1 to 255 characters: collect_metrics, ...';
COMMENT ON COLUMN workflow_steps.step_order IS 'Place in the plan, from 1; unique in the run.';
COMMENT ON COLUMN workflow_steps.status IS 'State; see the type.';
COMMENT ON COLUMN workflow_steps.retry_count IS 'How often it was put back to be tried again.';
COMMENT ON COLUMN workflow_steps.max_retries IS 'How often it may be tried again.';
COMMENT ON COLUMN workflow_steps.next_attempt_at IS
'From when a retrying step may be started again; NULL in every other state.';
COMMENT ON COLUMN workflow_steps.started_at IS
'When its latest attempt was started; NULL where none was.';
COMMENT ON COLUMN workflow_steps.completed_at IS 'When it ended, however it ended; NULL before.';
COMMENT ON COLUMN workflow_steps.input_data IS 'What the step works on.';
COMMENT ON COLUMN workflow_steps.output_data IS 'What came of it.';
COMMENT ON COLUMN workflow_steps.error_details IS
'Object that says why its latest failed attempt failed (type, message, ...).';
COMMENT ON COLUMN workflow_steps.metadata IS 'Free-form object.';
COMMENT ON COLUMN workflow_steps.created_at IS 'When the row was written.';
COMMENT ON COLUMN workflow_steps.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX workflow_steps_pkey IS 'Serves get_workflow_step and every transition of a step.';
COMMENT ON INDEX workflow_steps_step_order_key IS
'One step a place. Serves list_workflow_steps, advance_workflow_step, get_workflow_detail and'
' the progress of list_running_workflows.';

CREATE TRIGGER workflow_steps_set_updated_at
BEFORE UPDATE ON workflow_steps
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER workflow_steps_set_updated_at ON workflow_steps IS 'Keeps updated_at.';

-- The two that follow are for functions that end a run. They are VOLATILE so that each call looks
-- anew: a step that was added while the caller waited for the run's row is seen as well.

CREATE FUNCTION workflow_has_open_steps(customer_id uuid, workflow_execution_id uuid)
RETURNS boolean
LANGUAGE sql
VOLATILE
AS $$
    SELECT EXISTS (
        SELECT
        FROM workflow_steps AS s
        WHERE
            s.customer_id = $1
            AND s.workflow_execution_id = $2
            AND s.status IN ('pending', 'running', 'retrying')
    )
$$;
COMMENT ON FUNCTION workflow_has_open_steps(uuid, uuid) IS
'Whether a run has steps that are not over.';

CREATE FUNCTION close_workflow_steps(
    customer_id uuid, workflow_execution_id uuid, error_details jsonb
)
RETURNS bigint
LANGUAGE sql
VOLATILE
AS $$
    WITH closed AS (
        UPDATE workflow_steps AS s
        SET
            status = CASE WHEN s.status = 'running' THEN 'failed' ELSE 'skipped' END::step_status,
            completed_at = greatest(now(), s.started_at),
            next_attempt_at = NULL,
            error_details = CASE WHEN s.status = 'running' THEN $3 ELSE s.error_details END
        WHERE
            s.customer_id = $1
            AND s.workflow_execution_id = $2
            AND s.status IN ('pending', 'running', 'retrying')
        RETURNING 1
    )

    SELECT count(*) FROM closed
$$;
COMMENT ON FUNCTION close_workflow_steps(uuid, uuid, jsonb) IS
'Closes the open steps of a run that ends: a running one fails, the others are skipped.';

DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION workflow_has_open_steps(uuid, uuid) SET search_path = %I, pg_temp',
        current_schema()
    );
    EXECUTE format(
        'ALTER FUNCTION close_workflow_steps(uuid, uuid, jsonb) SET search_path = %I, pg_temp',
        current_schema()
    );
END
$do$;

CREATE TYPE artifact_type AS ENUM (
    'report', 'config', 'log', 'recommendation', 'chart', 'metrics', 'alert', 'diagnostic'
);
COMMENT ON TYPE artifact_type IS 'What an artifact is.';

CREATE TABLE workflow_artifacts (
    customer_id uuid NOT NULL,
    workflow_execution_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT uuidv7(),
    workflow_step_id uuid,
    artifact_type artifact_type NOT NULL,
    artifact_name text NOT NULL,
    artifact_path text NOT NULL,
    artifact_size_bytes bigint NOT NULL,
    content_type text NOT NULL,
    sha256 bytea NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT workflow_artifacts_pkey PRIMARY KEY (customer_id, workflow_execution_id, id),
    CONSTRAINT workflow_artifacts_artifact_path_key
    UNIQUE (customer_id, workflow_execution_id, artifact_path),
    CONSTRAINT workflow_artifacts_workflow_execution_id_fkey
    FOREIGN KEY (customer_id, workflow_execution_id)
    REFERENCES workflow_executions (customer_id, id) ON DELETE CASCADE,
    CONSTRAINT workflow_artifacts_workflow_step_id_fkey
    FOREIGN KEY (customer_id, workflow_execution_id, workflow_step_id)
    REFERENCES workflow_steps (customer_id, workflow_execution_id, id) ON DELETE CASCADE,
    CONSTRAINT workflow_artifacts_artifact_name_check CHECK (
        char_length(artifact_name) BETWEEN 1 AND 255
    ),
    CONSTRAINT workflow_artifacts_artifact_path_check CHECK (
        char_length(artifact_path) BETWEEN 1 AND 1024
    ),
    CONSTRAINT workflow_artifacts_artifact_size_bytes_check CHECK (artifact_size_bytes >= 0),
    CONSTRAINT workflow_artifacts_content_type_check CHECK (
        char_length(content_type) BETWEEN 1 AND 255
    ),
    CONSTRAINT workflow_artifacts_sha256_check CHECK (octet_length(sha256) = 32),
    CONSTRAINT workflow_artifacts_metadata_check CHECK (jsonb_typeof(metadata) = 'object')
);
COMMENT ON TABLE workflow_artifacts IS
'What runs left behind: where it lies, how large it is, and its digest.';
COMMENT ON COLUMN workflow_artifacts.customer_id IS 'Tenant.';
COMMENT ON COLUMN workflow_artifacts.workflow_execution_id IS 'The run that left it.';
COMMENT ON COLUMN workflow_artifacts.id IS 'UUIDv7; the caller may supply it.';
COMMENT ON COLUMN workflow_artifacts.workflow_step_id IS
'The step of the same run that left it; NULL for the run''s own.';
COMMENT ON COLUMN workflow_artifacts.artifact_type IS 'What it is.';
COMMENT ON COLUMN workflow_artifacts.artifact_name IS 'Display name, 1 to 255 characters.';
COMMENT ON COLUMN workflow_artifacts.artifact_path IS
'Where the content lies: s3://... or a file path, up to 1,024 characters; unique in the run.';
COMMENT ON COLUMN workflow_artifacts.artifact_size_bytes IS 'Size of the content, in bytes.';
COMMENT ON COLUMN workflow_artifacts.content_type IS
'Media type of the content: application/pdf, ...';
COMMENT ON COLUMN workflow_artifacts.sha256 IS 'SHA-256 of the content, 32 bytes.';
COMMENT ON COLUMN workflow_artifacts.metadata IS 'Free-form object: pages, dimensions, format, ...';
COMMENT ON COLUMN workflow_artifacts.created_at IS 'When the row was written.';
COMMENT ON COLUMN workflow_artifacts.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX workflow_artifacts_pkey IS
'Serves get_workflow_artifact, list_workflow_artifacts and get_workflow_detail.';
COMMENT ON INDEX workflow_artifacts_artifact_path_key IS
'One row a path in a run. Serves register_workflow_artifact.';

CREATE INDEX workflow_artifacts_workflow_step_id_idx
ON workflow_artifacts (customer_id, workflow_execution_id, workflow_step_id)
WHERE workflow_step_id IS NOT NULL;
COMMENT ON INDEX workflow_artifacts_workflow_step_id_idx IS
'Serves deleting a step, and list_step_artifacts where a run has many artifacts.';

CREATE INDEX workflow_artifacts_customer_id_artifact_type_id_idx
ON workflow_artifacts (customer_id, artifact_type, id);
COMMENT ON INDEX workflow_artifacts_customer_id_artifact_type_id_idx IS
'Serves list_artifacts_by_type.';

CREATE TRIGGER workflow_artifacts_set_updated_at
BEFORE UPDATE ON workflow_artifacts
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER workflow_artifacts_set_updated_at ON workflow_artifacts IS 'Keeps updated_at.';

-- The tables of the earlier migrations that point at runs.

ALTER TABLE recommendations
ADD CONSTRAINT recommendations_workflow_execution_id_fkey
FOREIGN KEY (customer_id, workflow_execution_id)
REFERENCES workflow_executions (customer_id, id) ON DELETE SET NULL (workflow_execution_id);

ALTER TABLE optimizations
ADD CONSTRAINT optimizations_workflow_execution_id_fkey
FOREIGN KEY (customer_id, workflow_execution_id)
REFERENCES workflow_executions (customer_id, id) ON DELETE SET NULL (workflow_execution_id);

ALTER TABLE agent_states
ADD CONSTRAINT agent_states_current_workflow_id_fkey
FOREIGN KEY (current_workflow_customer_id, current_workflow_id)
REFERENCES workflow_executions (customer_id, id) ON DELETE SET NULL;
