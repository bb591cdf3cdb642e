-- Retention policies, legal holds that nothing deletes past, and receipts of what housekeeping did.
-- depends: 0014.separate-customers

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE retention_policies (
    id uuid NOT NULL DEFAULT uuidv7(),
    table_name text NOT NULL,
    customer_id uuid,
    workflow_type workflow_type,
    keep_for interval NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT retention_policies_pkey PRIMARY KEY (id),
    CONSTRAINT retention_policies_customer_id_table_name_workflow_type_key
    UNIQUE NULLS NOT DISTINCT (customer_id, table_name, workflow_type),
    CONSTRAINT retention_policies_customer_id_fkey FOREIGN KEY (customer_id)
    REFERENCES customers (id) ON DELETE CASCADE,
    CONSTRAINT retention_policies_table_name_check CHECK (
        table_name IN ('workflow_executions', 'events', 'agent_metrics')
    ),
    CONSTRAINT retention_policies_customer_id_check CHECK (
        table_name = 'workflow_executions' OR (customer_id IS NULL AND workflow_type IS NULL)
    ),
    CONSTRAINT retention_policies_keep_for_check CHECK (
        keep_for > interval '0' AND keep_for <= interval '100 years'
    )
);
COMMENT ON TABLE retention_policies IS
'How long what is over is kept; what no policy speaks of is kept for ever.';
COMMENT ON COLUMN retention_policies.id IS 'UUIDv7.';
COMMENT ON COLUMN retention_policies.table_name IS
'Of what: workflow_executions (with their steps and artifacts), events or agent_metrics.';
COMMENT ON COLUMN retention_policies.customer_id IS 'Of this customer; NULL for all.';
COMMENT ON COLUMN retention_policies.workflow_type IS 'Of this type; NULL for all.';
COMMENT ON COLUMN retention_policies.keep_for IS
'How long after it is over; of events and metrics, after the end of their month.';
COMMENT ON COLUMN retention_policies.created_at IS 'When the row was written.';
COMMENT ON COLUMN retention_policies.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX retention_policies_pkey IS 'Serves delete_retention_policy.';
COMMENT ON INDEX retention_policies_customer_id_table_name_workflow_type_key IS
'One policy for each. Serves set_retention_policy, and deleting a customer.';

CREATE TRIGGER retention_policies_set_updated_at
BEFORE UPDATE ON retention_policies
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER retention_policies_set_updated_at ON retention_policies IS 'Keeps updated_at.';

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

CREATE TABLE receipts (
    id uuid NOT NULL DEFAULT uuidv7(),
    operation text NOT NULL,
    customer_id uuid,
    row_counts jsonb NOT NULL,
    archive_url text,
    archive_sha256 bytea,
    actor text NOT NULL DEFAULT current_actor(),
    data jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT receipts_pkey PRIMARY KEY (id),
    CONSTRAINT receipts_operation_check CHECK (
        operation IN ('prune', 'drop_partition', 'erase', 'import')
    ),
    CONSTRAINT receipts_row_counts_check CHECK (jsonb_typeof(row_counts) = 'object'),
    CONSTRAINT receipts_archive_url_check CHECK (
        (archive_url IS NULL) = (archive_sha256 IS NULL)
        AND char_length(archive_url) BETWEEN 1 AND 1024
    ),
    CONSTRAINT receipts_archive_sha256_check CHECK (octet_length(archive_sha256) = 32),
    CONSTRAINT receipts_data_check CHECK (jsonb_typeof(data) = 'object')
);
COMMENT ON TABLE receipts IS
'What housekeeping deleted or brought back: how much, by whom, when; append-only.';
COMMENT ON COLUMN receipts.id IS 'UUIDv7.';
COMMENT ON COLUMN receipts.operation IS 'prune, drop_partition, erase or import.';
COMMENT ON COLUMN receipts.customer_id IS
'Whose rows; NULL for those of several. No foreign key, as it outlives its customer.';
COMMENT ON COLUMN receipts.row_counts IS 'Object: how many rows of each table.';
COMMENT ON COLUMN receipts.archive_url IS
'Where they were archived, up to 1,024 characters; NULL where they were not.';
COMMENT ON COLUMN receipts.archive_sha256 IS
'SHA-256 of the manifest of that archive, which has those of its files; 32 bytes.';
COMMENT ON COLUMN receipts.actor IS
'Who did it: the setting optiinfra.actor, else the database user; see current_actor().';
COMMENT ON COLUMN receipts.data IS 'Object with what else is to be known: partition, before, ...';
COMMENT ON COLUMN receipts.created_at IS 'When it was done.';

COMMENT ON INDEX receipts_pkey IS 'Serves list_receipts.';

CREATE FUNCTION refuse_receipt_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '% of receipts is refused: receipts are append-only', TG_OP
        USING ERRCODE = 'OI004', TABLE = TG_TABLE_NAME,
            HINT = 'Receipts stay.';
END
$$;
COMMENT ON FUNCTION refuse_receipt_change() IS
'Trigger: refuses to change, delete or truncate receipts.';

CREATE TRIGGER receipts_refuse_change
BEFORE UPDATE OR DELETE ON receipts
FOR EACH ROW
EXECUTE FUNCTION refuse_receipt_change();
COMMENT ON TRIGGER receipts_refuse_change ON receipts IS 'Append-only.';

CREATE TRIGGER receipts_refuse_truncate
BEFORE TRUNCATE ON receipts
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_receipt_change();
COMMENT ON TRIGGER receipts_refuse_truncate ON receipts IS 'Append-only.';

CREATE OR REPLACE VIEW access_rules WITH (security_invoker = true) AS
-- noqa: disable=LT02, LT09
-- A rule a line.
SELECT
    1 AS place,
    'legal_holds' AS relation_name,
    'customer_id' AS customer_column,
    'SELECT' AS service,
    NULL AS tenant,
    'SELECT' AS reader
UNION ALL
SELECT 2, 'workflow_executions', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT 3, 'workflow_steps', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT 4, 'workflow_artifacts', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT 5, 'recommendations', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT 6, 'approvals', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT 7, 'optimizations', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT
    8,
    'events',
    'customer_id',
    'SELECT, INSERT (customer_id, created_at, id, agent_id, event_type, severity, subject_type, '
    'subject_id, actor, data)',
    'SELECT, INSERT (customer_id, created_at, id, agent_id, event_type, severity, subject_type, '
    'subject_id, data)',
    'SELECT'
UNION ALL
SELECT 9, 'event_seals', 'customer_id', 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT
    10,
    'api_keys',
    'customer_id',
    'SELECT (customer_id, id, created_at, updated_at, expires_at, revoked_at, last_used_at), '
    'INSERT, UPDATE (expires_at, revoked_at)',
    NULL,
    'SELECT (customer_id, id, created_at, updated_at, expires_at, revoked_at, last_used_at)'
UNION ALL
SELECT 11, 'agent_metrics', NULL, 'SELECT, INSERT', NULL, 'SELECT'
UNION ALL
SELECT 12, 'agent_states', NULL, 'SELECT, INSERT, UPDATE, DELETE', NULL, 'SELECT'
UNION ALL
SELECT 13, 'agent_configs', NULL, 'SELECT, INSERT, UPDATE, DELETE', NULL,
    'SELECT (id, agent_id, config_key, config_type, description, created_at, updated_at)'
UNION ALL
SELECT 14, 'agent_capabilities', NULL, 'SELECT, INSERT, UPDATE, DELETE', NULL, 'SELECT'
UNION ALL
SELECT 15, 'agents', NULL, 'SELECT, INSERT, UPDATE', 'SELECT', 'SELECT'
UNION ALL
SELECT 16, 'retention_policies', 'customer_id', 'SELECT', NULL, 'SELECT'
UNION ALL
SELECT 17, 'customers', 'id', 'SELECT, INSERT, UPDATE', 'SELECT', 'SELECT'
UNION ALL
SELECT 18, 'receipts', 'customer_id', 'SELECT', NULL, 'SELECT'
UNION ALL
SELECT 19, 'status_transitions', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 20, 'access_rules', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 21, 'workflow_progress', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 22, 'running_workflows', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 23, 'failed_workflows', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 24, 'workflow_stats', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 25, 'recommendation_trace', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 26, 'savings_by_month', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 27, 'agent_workload', NULL, 'SELECT', NULL, 'SELECT'
UNION ALL
SELECT 28, '_yoyo_migration', NULL, 'SELECT', NULL, 'SELECT'
UNION ALL
SELECT 29, '_yoyo_log', NULL, 'SELECT', NULL, 'SELECT'
UNION ALL
SELECT 30, '_yoyo_checksum', NULL, 'SELECT', NULL, 'SELECT'
UNION ALL
SELECT 31, '_yoyo_version', NULL, NULL, NULL, NULL
ORDER BY place;
-- noqa: enable=LT02, LT09

-- Only the new tables: no writer of the others waits. The rest is by default privileges.
SELECT isolate_customers('legal_holds', 'customer_id');
SELECT isolate_customers('retention_policies', 'customer_id');
SELECT isolate_customers('receipts', 'customer_id');
