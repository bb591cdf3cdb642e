-- A legal hold keeps what is to be evidence: while it stands, nothing deletes the customer that it
-- is on, or the run, whoever asks: housekeeping, a generated function, psql, an agent that goes
-- with its runs. A hold on a customer covers all that is theirs; a hold on a run covers that run,
-- its steps and artifacts, and the recommendations and optimizations that came of it. A month of
-- events in which a customer under a hold has any is not dropped.
--
-- To release a hold is to delete its row; both are in the audit log. Written by operators, rarely.

CREATE TABLE legal_holds (
    customer_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT uuidv7(),
    workflow_execution_id uuid,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT legal_holds_pkey PRIMARY KEY (customer_id, id),
    CONSTRAINT legal_holds_customer_id_fkey FOREIGN KEY (customer_id)
    REFERENCES customers (id),
    CONSTRAINT legal_holds_workflow_execution_id_fkey
    FOREIGN KEY (customer_id, workflow_execution_id)
    REFERENCES workflow_executions (customer_id, id),
    CONSTRAINT legal_holds_reason_check CHECK (char_length(reason) BETWEEN 1 AND 1000)
);
COMMENT ON TABLE legal_holds IS 'What nobody may delete for now: customers, and single runs.';
COMMENT ON COLUMN legal_holds.customer_id IS 'Tenant.';
COMMENT ON COLUMN legal_holds.id IS
'UUIDv7; the caller may supply it, to create safely twice.';
COMMENT ON COLUMN legal_holds.workflow_execution_id IS
'The run that is to stay; NULL for all that is the customer''s.';
COMMENT ON COLUMN legal_holds.reason IS 'Why, 1 to 1,000 characters: a case number, ...';
COMMENT ON COLUMN legal_holds.created_at IS 'When the row was written.';
COMMENT ON COLUMN legal_holds.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX legal_holds_pkey IS
'Serves place_legal_hold, release_legal_hold and list_legal_holds.';

CREATE INDEX legal_holds_customer_id_workflow_execution_id_idx
ON legal_holds (customer_id, workflow_execution_id);
COMMENT ON INDEX legal_holds_customer_id_workflow_execution_id_idx IS
'Serves list_prunable_workflow_executions, and deleting anything.';

CREATE TRIGGER legal_holds_set_updated_at
BEFORE UPDATE ON legal_holds
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER legal_holds_set_updated_at ON legal_holds IS 'Keeps updated_at.';

-- Who deletes holds this shared, who places a hold has it alone: so that nothing goes after a hold
-- on it is committed.
CREATE FUNCTION await_deletions() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('optiinfra_db.legal_holds', 0));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION await_deletions() IS
'Trigger: has who places a legal hold wait for those who are deleting.';

CREATE TRIGGER legal_holds_await_deletions
BEFORE INSERT OR UPDATE ON legal_holds
FOR EACH STATEMENT
EXECUTE FUNCTION await_deletions();
COMMENT ON TRIGGER legal_holds_await_deletions ON legal_holds IS
'A hold that is placed is kept from then on.';

CREATE FUNCTION record_legal_hold_event() RETURNS trigger
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

CREATE TRIGGER legal_holds_record_event
AFTER INSERT OR DELETE ON legal_holds
FOR EACH ROW
EXECUTE FUNCTION record_legal_hold_event();
COMMENT ON TRIGGER legal_holds_record_event ON legal_holds IS 'The audit log.';

CREATE TRIGGER legal_holds_record_change
AFTER UPDATE ON legal_holds
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION record_legal_hold_event();
COMMENT ON TRIGGER legal_holds_record_change ON legal_holds IS 'The audit log.';

CREATE FUNCTION refuse_held_deletion() RETURNS trigger
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

-- What goes with its parent was asked about with that.
CREATE TRIGGER customers_refuse_held_deletion
BEFORE DELETE ON customers
FOR EACH ROW
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER customers_refuse_held_deletion ON customers IS 'Legal holds.';

CREATE TRIGGER workflow_executions_refuse_held_deletion
BEFORE DELETE ON workflow_executions
FOR EACH ROW
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER workflow_executions_refuse_held_deletion ON workflow_executions IS
'Legal holds.';

CREATE TRIGGER workflow_steps_refuse_held_deletion
BEFORE DELETE ON workflow_steps
FOR EACH ROW WHEN (pg_trigger_depth() = 0)
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER workflow_steps_refuse_held_deletion ON workflow_steps IS 'Legal holds.';

CREATE TRIGGER workflow_artifacts_refuse_held_deletion
BEFORE DELETE ON workflow_artifacts
FOR EACH ROW WHEN (pg_trigger_depth() = 0)
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER workflow_artifacts_refuse_held_deletion ON workflow_artifacts IS
'Legal holds.';

CREATE TRIGGER recommendations_refuse_held_deletion
BEFORE DELETE ON recommendations
FOR EACH ROW
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER recommendations_refuse_held_deletion ON recommendations IS 'Legal holds.';

CREATE TRIGGER approvals_refuse_held_deletion
BEFORE DELETE ON approvals
FOR EACH ROW WHEN (pg_trigger_depth() = 0)
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER approvals_refuse_held_deletion ON approvals IS 'Legal holds.';

CREATE TRIGGER optimizations_refuse_held_deletion
BEFORE DELETE ON optimizations
FOR EACH ROW
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER optimizations_refuse_held_deletion ON optimizations IS 'Legal holds.';

CREATE TRIGGER customers_refuse_held_truncation
BEFORE TRUNCATE ON customers
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER customers_refuse_held_truncation ON customers IS 'Legal holds.';

CREATE TRIGGER workflow_executions_refuse_held_truncation
BEFORE TRUNCATE ON workflow_executions
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER workflow_executions_refuse_held_truncation ON workflow_executions IS
'Legal holds.';

CREATE TRIGGER workflow_steps_refuse_held_truncation
BEFORE TRUNCATE ON workflow_steps
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER workflow_steps_refuse_held_truncation ON workflow_steps IS 'Legal holds.';

CREATE TRIGGER workflow_artifacts_refuse_held_truncation
BEFORE TRUNCATE ON workflow_artifacts
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER workflow_artifacts_refuse_held_truncation ON workflow_artifacts IS
'Legal holds.';

CREATE TRIGGER recommendations_refuse_held_truncation
BEFORE TRUNCATE ON recommendations
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER recommendations_refuse_held_truncation ON recommendations IS 'Legal holds.';

CREATE TRIGGER approvals_refuse_held_truncation
BEFORE TRUNCATE ON approvals
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER approvals_refuse_held_truncation ON approvals IS 'Legal holds.';

CREATE TRIGGER optimizations_refuse_held_truncation
BEFORE TRUNCATE ON optimizations
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER optimizations_refuse_held_truncation ON optimizations IS 'Legal holds.';

CREATE TRIGGER legal_holds_refuse_held_truncation
BEFORE TRUNCATE ON legal_holds
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_held_deletion();
COMMENT ON TRIGGER legal_holds_refuse_held_truncation ON legal_holds IS 'Legal holds.';

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
