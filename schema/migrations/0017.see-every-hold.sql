-- transactional: false
-- depends: 0016.respect-holds
-- Has deletions see every hold, and TRUNCATE respect them. A trigger a statement: each locks its
-- table alone, for an instant.
-- squawk-ignore-file prefer-robust-stmts

SET lock_timeout = '5s';
SET statement_timeout = '60s';

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
    IF TG_OP != 'DELETE' THEN
        -- For refuse_held_deletion(), in transactions that do not see the hold.
        UPDATE customers SET name = name WHERE id = hold.customer_id;
    END IF;
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
    IF TG_OP = 'TRUNCATE' THEN
        IF current_setting('transaction_isolation') != 'read committed' THEN
            RAISE EXCEPTION 'what may be under a legal hold is truncated at READ COMMITTED only'
                USING ERRCODE = 'feature_not_supported', TABLE = TG_TABLE_NAME,
                    HINT = 'There, a transaction sees the holds that came since it began.';
        END IF;
        SELECT *
        INTO hold
        FROM legal_holds
        LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'a legal hold keeps % from being truncated', TG_TABLE_NAME
                USING ERRCODE = 'OI005', TABLE = TG_TABLE_NAME,
                    DETAIL = format('Legal hold %s: %s', hold.id, hold.reason),
                    HINT = 'Delete the rows that are under no hold.';
        END IF;
        RETURN NULL;
    END IF;
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
    IF current_setting('transaction_isolation') != 'read committed' THEN
        -- It fails (40001) where a hold came since its snapshot, as that wrote to this row.
        PERFORM FROM customers WHERE id = held_customer_id FOR SHARE;
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
'Trigger: refuses to delete what is under a legal hold, and to truncate while there is one.';

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

CREATE OR REPLACE TRIGGER customers_refuse_held_truncation
BEFORE TRUNCATE ON customers
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER customers_refuse_held_truncation ON customers IS 'Legal holds.';

CREATE OR REPLACE TRIGGER workflow_executions_refuse_held_truncation
BEFORE TRUNCATE ON workflow_executions
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER workflow_executions_refuse_held_truncation ON workflow_executions IS
'Legal holds.';

CREATE OR REPLACE TRIGGER workflow_steps_refuse_held_truncation
BEFORE TRUNCATE ON workflow_steps
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER workflow_steps_refuse_held_truncation ON workflow_steps IS 'Legal holds.';

CREATE OR REPLACE TRIGGER workflow_artifacts_refuse_held_truncation
BEFORE TRUNCATE ON workflow_artifacts
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER workflow_artifacts_refuse_held_truncation ON workflow_artifacts IS
'Legal holds.';

CREATE OR REPLACE TRIGGER recommendations_refuse_held_truncation
BEFORE TRUNCATE ON recommendations
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER recommendations_refuse_held_truncation ON recommendations IS 'Legal holds.';

CREATE OR REPLACE TRIGGER approvals_refuse_held_truncation
BEFORE TRUNCATE ON approvals
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER approvals_refuse_held_truncation ON approvals IS 'Legal holds.';

CREATE OR REPLACE TRIGGER optimizations_refuse_held_truncation
BEFORE TRUNCATE ON optimizations
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER optimizations_refuse_held_truncation ON optimizations IS 'Legal holds.';

CREATE OR REPLACE TRIGGER legal_holds_refuse_held_truncation
BEFORE TRUNCATE ON legal_holds
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER legal_holds_refuse_held_truncation ON legal_holds IS 'Legal holds.';
