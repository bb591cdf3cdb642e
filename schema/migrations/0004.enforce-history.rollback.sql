-- The package was not released yet: nothing else uses what goes.
-- squawk-ignore-file ban-drop-function, ban-drop-view
-- squawk-ignore-file require-concurrent-index-deletion, constraint-missing-not-valid

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

DROP INDEX events_xact_id_id_idx;
DROP FUNCTION forget_event_xact_ids();
DROP TRIGGER events_check ON events;
DROP FUNCTION check_event();
DROP TRIGGER events_refuse_change ON events;
DO $do$
DECLARE
    table_name text;
BEGIN
    FOR table_name IN
        SELECT tgrelid::regclass FROM pg_trigger WHERE tgfoid = 'refuse_event_change()'::regprocedure
    LOOP
        EXECUTE format('DROP TRIGGER events_refuse_truncate ON %s', table_name);
    END LOOP;
END
$do$;
DROP FUNCTION refuse_event_change();

CREATE OR REPLACE FUNCTION ensure_partitions(months_ahead integer) RETURNS SETOF text
LANGUAGE plpgsql
SET timezone = 'UTC'
SET lock_timeout = '2s'
AS $$
DECLARE
    parent record;
    default_name text;
    months timestamptz [];
    month_start timestamptz;
    month_end timestamptz;
    partition_name text;
    has_writers boolean;
BEGIN
    IF months_ahead IS NULL OR months_ahead NOT BETWEEN 0 AND 120 THEN
        RAISE EXCEPTION 'months_ahead must be from 0 to 120, and is %',
            coalesce(months_ahead::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    -- Nothing is missing and nothing waits, as on most calls: then no lock is kept, by the catalogue
    -- and the size of the files.
    IF NOT EXISTS (
        SELECT
        FROM (VALUES ('agent_metrics'), ('events')) AS p (table_name)
        WHERE
            pg_relation_size((p.table_name || '_default')::regclass) > 0
            OR (
                SELECT count(*)
                FROM pg_inherits
                INNER JOIN pg_class ON pg_inherits.inhrelid = pg_class.oid
                INNER JOIN generate_series(0, months_ahead) AS ahead
                    ON
                        pg_class.relname = p.table_name || to_char(
                            date_trunc('month', now()) + make_interval(months => ahead), '_YYYY_MM'
                        )
                WHERE pg_inherits.inhparent = p.table_name::regclass
            ) <= months_ahead
    ) THEN
        RETURN;
    END IF;

    -- One caller at a time, however long the others take; each sees what the one before it made.
    SET LOCAL lock_timeout = 0;
    PERFORM pg_advisory_xact_lock(hashtextextended('optiinfra_db.ensure_partitions', 0));
    SET LOCAL lock_timeout = '2s';

    FOR parent IN
        SELECT *
        FROM (VALUES ('agent_metrics', 'recorded_at'), ('events', 'created_at'))
            AS p (table_name, key_column)
    LOOP
        default_name := parent.table_name || '_default';
        -- Rows of absurd times (a clock gone wrong) stay in DEFAULT.
        EXECUTE format(
            $query$
                SELECT array_agg(m ORDER BY m)
                FROM (
                    SELECT generate_series(
                        date_trunc('month', now()),
                        date_trunc('month', now()) + make_interval(months => $1),
                        interval '1 month'
                    ) AS m
                    UNION
                    SELECT date_trunc('month', %1$I)
                    FROM %2$I
                    WHERE %1$I >= '1970-01-01' AND %1$I < '9999-01-01'
                ) AS wanted
            $query$,
            parent.key_column, default_name
        ) INTO months USING months_ahead;

        FOREACH month_start IN ARRAY months LOOP
            month_end := month_start + interval '1 month';
            partition_name := parent.table_name || to_char(month_start, '_YYYY_MM');
            CONTINUE WHEN EXISTS (
                SELECT
                FROM pg_inherits
                INNER JOIN pg_class ON pg_inherits.inhrelid = pg_class.oid
                WHERE
                    pg_inherits.inhparent = parent.table_name::regclass
                    AND pg_class.relname = partition_name
            );
            -- A writer that has chosen DEFAULT for its row when the month appears gets an error, so
            -- where the month may have writers, they wait before they choose.
            EXECUTE format(
                'SELECT $1 <= now() OR EXISTS (SELECT FROM %1$I WHERE %2$I >= $1 AND %2$I < $2)',
                default_name, parent.key_column
            ) INTO has_writers USING month_start, month_end;
            IF has_writers THEN
                EXECUTE format('LOCK TABLE %I IN SHARE ROW EXCLUSIVE MODE', parent.table_name);
            END IF;
            -- No row may slip into DEFAULT between its being emptied and the attaching.
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', default_name);
            EXECUTE format(
                'CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                partition_name, parent.table_name
            );
            EXECUTE format(
                $query$
                    WITH moved AS (
                        DELETE FROM %1$I WHERE %2$I >= %3$L AND %2$I < %4$L RETURNING *
                    )
                    INSERT INTO %5$I SELECT * FROM moved
                $query$,
                default_name, parent.key_column, month_start, month_end, partition_name
            );
            EXECUTE format(
                'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                parent.table_name, partition_name, month_start, month_end
            );
            EXECUTE format(
                'COMMENT ON TABLE %I IS %L',
                partition_name, parent.table_name || ' of ' || to_char(month_start, 'YYYY-MM.')
            );
            RETURN NEXT partition_name;
        END LOOP;
    END LOOP;
END
$$;
-- Whoever calls it, and whatever lies before it on the search path or among temporary tables.
DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION ensure_partitions(integer) SET search_path = %I, pg_temp', current_schema()
    );
END
$do$;

DROP TRIGGER workflow_steps_check_added ON workflow_steps;
DROP FUNCTION check_added_workflow_steps();

DROP TRIGGER workflow_executions_record_creation ON workflow_executions;
DROP TRIGGER workflow_executions_record_event ON workflow_executions;
DROP FUNCTION record_workflow_execution_event();
DROP TRIGGER workflow_executions_enforce_transitions ON workflow_executions;
CREATE TRIGGER workflow_executions_set_updated_at
BEFORE UPDATE ON workflow_executions
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER workflow_executions_set_updated_at ON workflow_executions IS 'Keeps updated_at.';

DROP TRIGGER workflow_steps_record_event ON workflow_steps;
DROP FUNCTION record_workflow_step_event();
DROP TRIGGER workflow_steps_enforce_transitions ON workflow_steps;
CREATE TRIGGER workflow_steps_set_updated_at
BEFORE UPDATE ON workflow_steps
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER workflow_steps_set_updated_at ON workflow_steps IS 'Keeps updated_at.';

DROP TRIGGER recommendations_record_creation ON recommendations;
DROP TRIGGER recommendations_record_event ON recommendations;
DROP FUNCTION record_recommendation_event();
DROP TRIGGER recommendations_enforce_transitions ON recommendations;
CREATE TRIGGER recommendations_set_updated_at
BEFORE UPDATE ON recommendations
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER recommendations_set_updated_at ON recommendations IS 'Keeps updated_at.';

DROP TRIGGER approvals_record_creation ON approvals;
DROP TRIGGER approvals_record_event ON approvals;
DROP FUNCTION record_approval_event();
DROP TRIGGER approvals_enforce_transitions ON approvals;
CREATE TRIGGER approvals_set_updated_at
BEFORE UPDATE ON approvals
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER approvals_set_updated_at ON approvals IS 'Keeps updated_at.';

DROP TRIGGER optimizations_record_creation ON optimizations;
DROP TRIGGER optimizations_record_event ON optimizations;
DROP FUNCTION record_optimization_event();
DROP TRIGGER optimizations_enforce_transitions ON optimizations;
CREATE TRIGGER optimizations_set_updated_at
BEFORE UPDATE ON optimizations
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER optimizations_set_updated_at ON optimizations IS 'Keeps updated_at.';

DROP VIEW status_transitions;
DROP FUNCTION enforce_transitions();
DROP FUNCTION refuse_stale_write(text, uuid, integer, integer);
DROP FUNCTION refuse_value(text, text);

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

COMMENT ON COLUMN workflow_steps.metadata IS 'Free-form object.';

COMMENT ON COLUMN events.agent_id IS
'The agent that it happened to or that caused it; NULL where none did, or that one was '
'deleted.';

UPDATE events SET actor = left(actor, 255), subject_type = left(subject_type, 100)
WHERE char_length(actor) > 255 OR char_length(subject_type) > 100;

ALTER TABLE events ADD CONSTRAINT events_subject_type_check
CHECK (char_length(subject_type) BETWEEN 1 AND 100);

ALTER TABLE events ADD CONSTRAINT events_actor_check
CHECK (char_length(actor) BETWEEN 1 AND 255);

DO $do$
BEGIN
    IF to_regprocedure('pg_catalog.uuidv7()') IS NULL THEN
        -- RFC 9562: 48 bits of milliseconds, version, 12 bits of the rest of the millisecond,
        -- variant, 62 random bits (those of gen_random_uuid, whose variant bits we keep).
        CREATE OR REPLACE FUNCTION uuidv7() RETURNS uuid
        LANGUAGE sql
        VOLATILE
        PARALLEL SAFE
        AS $$
            SELECT encode(
                overlay(
                    pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
                    PLACING substring(pg_catalog.int8send(t.microseconds / 1000) FROM 3)
                        || substring(
                            pg_catalog.int4send(
                                28672 + ((t.microseconds % 1000) * 4096 / 1000)::int
                            ) FROM 3
                        )
                    FROM 1
                ),
                'hex'
            )::uuid
            FROM (
                SELECT (extract(EPOCH FROM pg_catalog.clock_timestamp()) * 1000000)::bigint
                    AS microseconds
            ) AS t
        $$;
        COMMENT ON FUNCTION uuidv7() IS
            'Time-ordered UUID (RFC 9562 version 7). Stands in for the built-in of PostgreSQL 18.';
    END IF;
END
$do$;
