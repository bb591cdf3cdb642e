-- The view and the functions hold no data:
-- squawk-ignore-file ban-drop-function, ban-drop-view

-- No row-level security, no group roles: everything is whose it was, that is, of the role that
-- migrates. The roles themselves stay, as other databases may use them.

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';
-- Before, migrations were not run as optiinfra_owner.
RESET ROLE;

DO $do$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT
            format(
                'LOCK TABLE %s IN ACCESS EXCLUSIVE MODE',
                string_agg(quote_ident(rules.relation_name), ', ' ORDER BY rules.place)
            ) AS statement
        FROM access_rules AS rules
        INNER JOIN pg_class
            ON
                pg_class.oid = to_regclass(rules.relation_name)
                AND pg_class.relkind IN ('r', 'p')
    LOOP
        EXECUTE item.statement;
    END LOOP;
    FOR item IN
        SELECT pg_policy.polrelid::regclass AS tenant_table
        FROM pg_policy
        INNER JOIN pg_class ON pg_policy.polrelid = pg_class.oid
        WHERE
            pg_policy.polname = 'own_rows'
            AND pg_class.relnamespace = quote_ident(current_schema())::regnamespace
    LOOP
        EXECUTE format('DROP POLICY own_rows ON %s', item.tenant_table);
        EXECUTE format('DROP POLICY all_rows ON %s', item.tenant_table);
        EXECUTE format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', item.tenant_table);
        EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', item.tenant_table);
    END LOOP;

    FOR item IN
        SELECT
            c.oid::regclass AS relation,
            r.rolname
        FROM pg_class AS c
        CROSS JOIN pg_roles AS r
        WHERE
            c.relnamespace = quote_ident(current_schema())::regnamespace
            AND c.relkind IN ('r', 'p', 'v')
            AND pg_has_role(c.relowner, 'USAGE')
            AND r.rolname IN ('optiinfra_service', 'optiinfra_tenant', 'optiinfra_reader')
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %I', item.relation, item.rolname);
    END LOOP;

    IF
        EXISTS (
            SELECT
            FROM pg_class
            WHERE
                oid = 'customers'::regclass
                AND relowner = to_regrole('optiinfra_owner')
        )
    THEN
        EXECUTE format(
            'ALTER DEFAULT PRIVILEGES FOR ROLE optiinfra_owner IN SCHEMA %I '
            'REVOKE ALL ON TABLES FROM optiinfra_service, optiinfra_reader',
            current_schema()
        );
        FOR item IN
            SELECT format('ALTER TABLE %s', c.oid::regclass) AS alter_it
            FROM pg_class AS c
            WHERE
                c.relnamespace = quote_ident(current_schema())::regnamespace
                AND c.relkind IN ('r', 'p', 'v')
                AND c.relowner = 'optiinfra_owner'::regrole
            UNION ALL
            SELECT format('ALTER TYPE %s', t.oid::regtype) AS alter_it
            FROM pg_type AS t
            WHERE
                t.typnamespace = quote_ident(current_schema())::regnamespace
                AND t.typtype = 'e'
                AND t.typowner = 'optiinfra_owner'::regrole
            UNION ALL
            SELECT format('ALTER FUNCTION %s', p.oid::regprocedure) AS alter_it
            FROM pg_proc AS p
            WHERE
                p.pronamespace = quote_ident(current_schema())::regnamespace
                AND p.proowner = 'optiinfra_owner'::regrole
        LOOP
            EXECUTE item.alter_it || ' OWNER TO SESSION_USER';
        END LOOP;
    END IF;
END
$do$;

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
    is_in_use boolean;
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
            -- A writer that has chosen DEFAULT for its row when the month appears gets an error, and a
            -- reader that has not heard of the month does not see what moves there: so where there
            -- may be any, they wait before they choose.
            EXECUTE format(
                'SELECT $1 <= now() OR EXISTS (SELECT FROM %1$I WHERE %2$I >= $1 AND %2$I < $2)',
                default_name, parent.key_column
            ) INTO is_in_use USING month_start, month_end;
            IF is_in_use THEN
                EXECUTE format('LOCK TABLE ONLY %I IN ACCESS EXCLUSIVE MODE', parent.table_name);
            END IF;
            -- No row may slip into DEFAULT between its being emptied and the attaching.
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', default_name);
            EXECUTE format(
                'CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                partition_name, parent.table_name
            );
            -- Nobody else writes, and to move an event is not to delete it.
            EXECUTE format('ALTER TABLE %I DISABLE TRIGGER USER', default_name);
            EXECUTE format(
                $query$
                    WITH moved AS (
                        DELETE FROM %1$I WHERE %2$I >= %3$L AND %2$I < %4$L RETURNING *
                    )
                    INSERT INTO %5$I SELECT * FROM moved
                $query$,
                default_name, parent.key_column, month_start, month_end, partition_name
            );
            EXECUTE format('ALTER TABLE %I ENABLE TRIGGER USER', default_name);
            EXECUTE format(
                'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                parent.table_name, partition_name, month_start, month_end
            );
            EXECUTE format(
                'COMMENT ON TABLE %I IS %L',
                partition_name, parent.table_name || ' of ' || to_char(month_start, 'YYYY-MM.')
            );
            IF parent.table_name = 'events' THEN
                EXECUTE format(
                    'CREATE TRIGGER events_refuse_truncate BEFORE TRUNCATE ON %1$I '
                    'FOR EACH STATEMENT EXECUTE FUNCTION refuse_event_change(); '
                    'COMMENT ON TRIGGER events_refuse_truncate ON %1$I IS ''Append-only.''',
                    partition_name
                );
            END IF;
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

COMMENT ON COLUMN events.actor IS
'Who did it: the setting optiinfra.actor, else the database user.';
ALTER TABLE events ALTER COLUMN actor SET DEFAULT coalesce(
    nullif(current_setting('optiinfra.actor', true), ''), session_user
);
DROP FUNCTION grant_access(boolean);
DROP FUNCTION isolate_customers(regclass, name);
DROP VIEW access_rules;
DROP FUNCTION current_actor();
DROP FUNCTION current_customer_id();
