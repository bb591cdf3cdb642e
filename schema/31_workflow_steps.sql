-- A step is one part of a run's plan, worked on in step_order. A step that fails goes to retrying
-- while it has retries left (next_attempt_at says from when), else to failed.
--
--     pending  -> running | skipped
--     running  -> completed | failed | retrying | skipped
--     retrying -> running | failed | skipped
--
-- Written by the agent that executes the run. About five rows a run, each updated two to four times
-- in quick succession and then never again. No index holds a column that those updates change, so
-- they are heap-only where the page has room (all of them for a run that is worked on when it was
-- made, three quarters for one that waited). A run that ends leaves no open step.

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
