-- The months of the two partitioned tables. Each has a partition a month, named <table>_YYYY_MM and
-- bounded in UTC, and a DEFAULT partition for what no month covers, so that nothing is ever lost.
--
-- ensure_partitions(n) is called by every migrate, and may be called at any time, by several
-- sessions at once: it makes the partition of this month, of the n months ahead, and of each month
-- that rows wait for in a DEFAULT partition, and moves those rows. Where nothing is missing it
-- keeps no lock. Where something is, readers of the partitioned table and writers of agents and
-- customers wait for the milliseconds that it takes; it gives up after 2 s on a lock that it
-- cannot get, with nothing changed, and does no harm when called again.

CREATE FUNCTION ensure_partitions(months_ahead integer) RETURNS SETOF text
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
        SELECT
            p.*,
            pg_get_userbyid(pg_class.relowner) AS owner
        FROM (VALUES ('agent_metrics', 'recorded_at'), ('events', 'created_at'))
            AS p (table_name, key_column)
        INNER JOIN pg_class ON pg_class.oid = p.table_name::regclass
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
                'ALTER TABLE %I OWNER TO %I', partition_name, parent.owner
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
                PERFORM isolate_customers(partition_name::regclass, 'customer_id');
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
COMMENT ON FUNCTION ensure_partitions(integer) IS
'Makes the missing monthly partitions of agent_metrics and events, up to so many months '
'ahead; moves waiting rows out of DEFAULT; returns the names of those made.';
