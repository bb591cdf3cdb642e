-- The functions as they were before.

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

-- A run that is over gets no more steps, but from the transaction that brought it, which leaves its
-- creation in the audit log; and no open one at all. One that is not over is held until the step is
-- in: by an update that changes nothing rather than by a lock, because whoever ends the run in an
-- older snapshot (REPEATABLE READ) would wait for a lock and then not see the step.
CREATE OR REPLACE FUNCTION check_added_workflow_steps() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    refused record;
BEGIN
    UPDATE workflow_executions AS run
    SET id = run.id
    FROM (
        SELECT
            r.customer_id,
            r.id
        FROM workflow_executions AS r
        WHERE
            (r.customer_id, r.id) IN (SELECT customer_id, workflow_execution_id FROM added)
            AND r.xmin != pg_current_xact_id()::xid
        ORDER BY r.customer_id, r.id
        FOR NO KEY UPDATE
    ) AS held
    WHERE
        run.customer_id = held.customer_id
        AND run.id = held.id;

    SELECT
        added.*,
        run.status AS run_status
    INTO refused
    FROM added
    INNER JOIN workflow_executions AS run
        ON
            added.customer_id = run.customer_id
            AND added.workflow_execution_id = run.id
    WHERE
        run.status NOT IN ('pending', 'running')
        AND (
            added.status IN ('pending', 'running', 'retrying')
            OR NOT EXISTS (
                SELECT
                FROM events
                WHERE
                    events.customer_id = run.customer_id
                    AND events.subject_id = run.id
                    AND events.subject_type = 'workflow_execution'
                    AND events.created_at >= now()
                    AND events.xact_id = pg_current_xact_id()
                    AND events.data -> 'from' = 'null'
            )
        )
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'workflow_execution % of customer % is %; step "%" (%) cannot be added',
            refused.workflow_execution_id, refused.customer_id, refused.run_status,
            refused.step_name, refused.status
            USING ERRCODE = 'OI001', TABLE = TG_TABLE_NAME, COLUMN = 'status',
                DETAIL = 'A run that is over gets steps only in the transaction that inserts it, '
                    'and only such as are over.',
                HINT = 'To have more done, retry the run as a new one.';
    END IF;
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
            WITH open_step AS MATERIALIZED (
                SELECT id
                FROM workflow_steps
                WHERE
                    customer_id = NEW.customer_id
                    AND workflow_execution_id = NEW.id
                    AND status IN ('pending', 'running', 'retrying')
                ORDER BY step_order
                FOR NO KEY UPDATE
            )
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
            FROM open_step
            WHERE
                step.customer_id = NEW.customer_id
                AND step.workflow_execution_id = NEW.id
                AND step.id = open_step.id;
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
'The queue of an agent. Serves claim_workflow_execution.';
COMMENT ON INDEX workflow_steps_step_order_key IS
'One step a place. Serves list_workflow_steps, advance_workflow_step, get_workflow_detail and'
' the progress of list_running_workflows.';
COMMENT ON INDEX workflow_artifacts_artifact_path_key IS
'One row a path in a run. Serves register_workflow_artifact.';
