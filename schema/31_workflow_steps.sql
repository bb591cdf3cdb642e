-- A step is one part of a run's plan, worked on in step_order. A step that fails goes to retrying
-- while it has retries left (next_attempt_at says from when), else to failed.
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
COMMENT ON COLUMN workflow_steps.metadata IS
'Free-form object: carried_over_from (the step of the run before, in a retry), closed_with_run '
'(skipped because the run ended), ...';
COMMENT ON COLUMN workflow_steps.created_at IS 'When the row was written.';
COMMENT ON COLUMN workflow_steps.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX workflow_steps_pkey IS 'Serves get_workflow_step and every transition of a step.';
COMMENT ON INDEX workflow_steps_step_order_key IS
'One step a place. Serves list_workflow_steps, begin_workflow_execution, advance_workflow_step, '
'get_workflow_detail and the progress of list_running_workflows.';

-- Without it the planner takes a run for one row, and any index that begins with its key for the
-- primary key.
CREATE STATISTICS workflow_steps_customer_id_workflow_execution_id_stat (DEPENDENCIES)
ON customer_id, workflow_execution_id FROM workflow_steps;
COMMENT ON STATISTICS workflow_steps_customer_id_workflow_execution_id_stat IS
'A run is of one customer.';

CREATE TRIGGER workflow_steps_enforce_transitions
BEFORE UPDATE ON workflow_steps
FOR EACH ROW
EXECUTE FUNCTION enforce_transitions(
    'pending -> running | skipped',
    'running -> completed | failed | retrying | skipped',
    'retrying -> running | failed | skipped'
);
COMMENT ON TRIGGER workflow_steps_enforce_transitions ON workflow_steps IS
'The state machine; also keeps updated_at.';

CREATE FUNCTION record_workflow_step_event() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO events (
        customer_id, created_at, event_type, severity, subject_type, subject_id, data
    )
    VALUES (
        NEW.customer_id,
        clock_timestamp(),
        'workflow_step.' || NEW.status,
        CASE NEW.status
            WHEN 'failed' THEN 'error'
            WHEN 'retrying' THEN 'warning'
            ELSE 'info'
        END::event_severity,
        'workflow_step',
        NEW.id,
        CASE
            WHEN NEW.status IN ('failed', 'retrying')
                THEN jsonb_build_object(
                    'from', OLD.status,
                    'to', NEW.status,
                    'workflow_execution_id', NEW.workflow_execution_id,
                    'retry_count', NEW.retry_count,
                    'error', NEW.error_details
                )
            ELSE jsonb_build_object(
                'from', OLD.status,
                'to', NEW.status,
                'workflow_execution_id', NEW.workflow_execution_id,
                'retry_count', NEW.retry_count
            )
        END
    );
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION record_workflow_step_event() IS
'Trigger: writes status changes to the audit log, with the error of the attempt that ended.';

CREATE TRIGGER workflow_steps_record_event
AFTER UPDATE ON workflow_steps
FOR EACH ROW WHEN (OLD.status != NEW.status)
EXECUTE FUNCTION record_workflow_step_event();
COMMENT ON TRIGGER workflow_steps_record_event ON workflow_steps IS 'The audit log.';

-- A run that is over gets no more steps, but from the transaction that brought it, which leaves its
-- creation in the audit log; and no open one at all. One that is not over is held until the step is
-- in: by an update that changes nothing rather than by a lock, because whoever ends the run in an
-- older snapshot (REPEATABLE READ) would wait for a lock and then not see the step. Run by run,
-- each by its key: what joins `added` reads all runs where the table was small when planned.
CREATE FUNCTION check_added_workflow_steps() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    held record;
    run_status workflow_status;
    is_of_this_transaction boolean;
    refused record;
BEGIN
    FOR held IN
        SELECT
            added.customer_id,
            added.workflow_execution_id AS id,
            bool_or(added.status IN ('pending', 'running', 'retrying')) AS has_open_steps
        FROM added
        GROUP BY added.customer_id, added.workflow_execution_id
        ORDER BY added.customer_id, added.workflow_execution_id
    LOOP
        SELECT
            run.status,
            run.xmin = pg_current_xact_id()::xid
        INTO run_status, is_of_this_transaction
        FROM workflow_executions AS run
        WHERE
            run.customer_id = held.customer_id
            AND run.id = held.id;
        IF NOT is_of_this_transaction THEN
            UPDATE workflow_executions AS run
            SET id = run.id
            WHERE
                run.customer_id = held.customer_id
                AND run.id = held.id
            RETURNING run.status INTO run_status;
        END IF;

        IF
            run_status NOT IN ('pending', 'running')
            AND (
                held.has_open_steps
                OR NOT EXISTS (
                    SELECT
                    FROM events
                    WHERE
                        events.customer_id = held.customer_id
                        AND events.subject_id = held.id
                        AND events.subject_type = 'workflow_execution'
                        AND events.created_at >= now()
                        AND events.xact_id = pg_current_xact_id()
                        AND events.data -> 'from' = 'null'
                )
            )
        THEN
            SELECT added.*
            INTO refused
            FROM added
            WHERE
                added.customer_id = held.customer_id
                AND added.workflow_execution_id = held.id
            ORDER BY added.status IN ('pending', 'running', 'retrying') DESC
            LIMIT 1;
            RAISE EXCEPTION 'workflow_execution % of customer % is %; step "%" (%) cannot be added',
                held.id, held.customer_id, run_status, refused.step_name, refused.status
                USING ERRCODE = 'OI001', TABLE = TG_TABLE_NAME, COLUMN = 'status',
                    DETAIL = 'A run that is over gets steps only in the transaction that inserts '
                        'it, and only such as are over.',
                    HINT = 'To have more done, retry the run as a new one.';
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION check_added_workflow_steps() IS
'Trigger: refuses a step for a run that is over, unless both come in one transaction.';

CREATE TRIGGER workflow_steps_check_added
AFTER INSERT ON workflow_steps
REFERENCING NEW TABLE AS added
FOR EACH STATEMENT
EXECUTE FUNCTION check_added_workflow_steps();
COMMENT ON TRIGGER workflow_steps_check_added ON workflow_steps IS
'Keeps steps out of runs that are over.';

DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION record_workflow_step_event() SET search_path = %I, pg_temp', current_schema()
    );
    EXECUTE format(
        'ALTER FUNCTION check_added_workflow_steps() SET search_path = %I, pg_temp', current_schema()
    );
END
$do$;
