-- transactional: false
-- TRUNCATE asks for no hold any more.

SET lock_timeout = '5s';
SET statement_timeout = '60s';

DROP TRIGGER IF EXISTS customers_refuse_held_truncation ON customers;
DROP TRIGGER IF EXISTS workflow_executions_refuse_held_truncation ON workflow_executions;
DROP TRIGGER IF EXISTS workflow_steps_refuse_held_truncation ON workflow_steps;
DROP TRIGGER IF EXISTS workflow_artifacts_refuse_held_truncation ON workflow_artifacts;
DROP TRIGGER IF EXISTS recommendations_refuse_held_truncation ON recommendations;
DROP TRIGGER IF EXISTS approvals_refuse_held_truncation ON approvals;
DROP TRIGGER IF EXISTS optimizations_refuse_held_truncation ON optimizations;
DROP TRIGGER IF EXISTS legal_holds_refuse_held_truncation ON legal_holds;

CREATE OR REPLACE FUNCTION record_legal_hold_event() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    hold legal_holds := CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
BEGIN
    INSERT INTO events (
        customer_id, created_at, event_type, severity, subject_type, subject_id, data
    )
    VALUES (
        hold.customer_id,
        clock_timestamp(),
        CASE
            WHEN TG_OP = 'INSERT' THEN 'legal_hold.placed'
            WHEN TG_OP = 'UPDATE' THEN 'legal_hold.changed'
            ELSE 'legal_hold.released'
        END,
        'warning',
        CASE WHEN hold.workflow_execution_id IS NOT NULL THEN 'workflow_execution' END,
        hold.workflow_execution_id,
        jsonb_build_object('legal_hold_id', hold.id, 'reason', hold.reason)
    );
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION record_legal_hold_event() IS
'Trigger: writes to the audit log that a legal hold was placed, changed or released.';

CREATE OR REPLACE FUNCTION refuse_held_deletion() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    held_customer_id uuid;
    held_run_id uuid;
    hold legal_holds;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('optiinfra_db.legal_holds', 0));
    IF TG_TABLE_NAME = 'customers' THEN
        held_customer_id := OLD.id;
    ELSE
        held_customer_id := OLD.customer_id;
        IF TG_TABLE_NAME = 'workflow_executions' THEN
            held_run_id := OLD.id;
        ELSIF TG_TABLE_NAME = 'approvals' THEN
            held_run_id := (
                SELECT recommendations.workflow_execution_id
                FROM recommendations
                WHERE
                    recommendations.customer_id = OLD.customer_id
                    AND recommendations.id = OLD.recommendation_id
            );
        ELSE
            held_run_id := OLD.workflow_execution_id;
        END IF;
    END IF;
    SELECT *
    INTO hold
    FROM legal_holds
    WHERE
        customer_id = held_customer_id
        AND (
            TG_TABLE_NAME = 'customers'
            OR workflow_execution_id IS NULL
            OR workflow_execution_id = held_run_id
        )
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'a legal hold on % of customer % keeps it from being deleted',
            coalesce('run ' || hold.workflow_execution_id, 'all'), held_customer_id
            USING ERRCODE = 'OI005', TABLE = TG_TABLE_NAME,
                DETAIL = format('Legal hold %s: %s', hold.id, hold.reason),
                HINT = 'Whoever may release the hold deletes its row; then delete this again.';
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION refuse_held_deletion() IS
'Trigger: refuses to delete what is under a legal hold.';

DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION record_legal_hold_event() SET search_path = %I, pg_temp', current_schema()
    );
    EXECUTE format(
        'ALTER FUNCTION refuse_held_deletion() SET search_path = %I, pg_temp', current_schema()
    );
END
$do$;
