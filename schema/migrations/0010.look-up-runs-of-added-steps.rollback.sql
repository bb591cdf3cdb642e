-- The function as it was before.

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

-- Replacing a function drops its settings.
DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION check_added_workflow_steps() SET search_path = %I, pg_temp', current_schema()
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
