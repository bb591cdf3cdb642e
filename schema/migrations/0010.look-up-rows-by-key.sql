-- Triggers look up runs and steps by their keys, in order, however small the tables were when that
-- was planned.
-- depends: 0009.lease-agent-locks

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

-- A run that is over gets no more steps, but from the transaction that brought it, which leaves its
-- creation in the audit log; and no open one at all. One that is not over is held until the step is
-- in: by an update that changes nothing rather than by a lock, because whoever ends the run in an
-- older snapshot (REPEATABLE READ) would wait for a lock and then not see the step. Run by run,
-- each by its key: what joins `added` reads all runs where the table was small when planned.
CREATE OR REPLACE FUNCTION check_added_workflow_steps() RETURNS trigger
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

-- The end of a run is the end of its steps, whoever ends it. By the time that this looks for open
-- steps the run's row is locked, and whoever adds a step waits for it.
CREATE OR REPLACE FUNCTION record_workflow_execution_event() RETURNS trigger
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
-- Replacing a function drops its settings.
DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION check_added_workflow_steps() SET search_path = %I, pg_temp', current_schema()
    );
    EXECUTE format(
        'ALTER FUNCTION record_workflow_execution_event() SET search_path = %I, pg_temp', current_schema()
    );
END
$do$;

COMMENT ON INDEX workflow_executions_agent_id_id_pending_idx IS
'The queue of an agent. Serves claim_workflow_execution and claim_workflow_executions.';
COMMENT ON INDEX workflow_steps_step_order_key IS
'One step a place. Serves list_workflow_steps, begin_workflow_execution, advance_workflow_step, '
'get_workflow_detail and the progress of list_running_workflows.';
COMMENT ON INDEX workflow_artifacts_artifact_path_key IS
'One row a path in a run. Serves register_workflow_artifact, advance_workflow_step and '
'finish_workflow_execution.';
