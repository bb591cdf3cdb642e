-- Makes a migrated database one that Citus spreads over several servers. Run as a whole, in one
-- transaction, by optiinfra-db distribute, and again by each migrate of a distributed database: for
-- the tables that came with new migrations, and for functions that these wrote anew. What is done
-- already is left as it is.
--
-- access_rules says how a table is laid out: one with a customer_column that is never NULL is
-- distributed by it, all in the same shards, so that what one customer owns lies on one server, and
-- foreign keys, triggers and transactions of one customer stay there. agent_metrics is distributed
-- by agent. The others are reference tables: a copy on every server. docs/guides/citus.md says what
-- that changes.

SET LOCAL client_min_messages = error;
-- Triggers of ours write rows of the customer of their own row only, which are on the same server.
SELECT set_config('citus.enable_unsafe_triggers', 'on', true);
-- To the shards one after the other, as foreign keys between them need it.
SELECT set_config('citus.multi_shard_modify_mode', 'sequential', true);

-- Changes a function of ours, unless it is changed already; fails where it does not hold the text.
CREATE FUNCTION pg_temp.amend(function_name text, plain text, distributed text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    definition text := pg_get_functiondef(function_name::regproc);
BEGIN
    IF strpos(definition, plain) > 0 THEN
        EXECUTE replace(definition, plain, distributed);
    ELSIF strpos(definition, distributed) = 0 THEN
        RAISE EXCEPTION 'function % does not hold %', function_name, quote_literal(plain);
    END IF;
END
$$;

-- On a server a trigger is one of a shard, whose name ends in a number.
DO $do$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT pg_get_functiondef(pg_proc.oid) AS definition
        FROM pg_proc
        WHERE
            pg_proc.pronamespace = current_schema()::regnamespace
            AND pg_proc.prorettype = 'trigger'::regtype
            AND pg_proc.prosrc ~ '(?<!rtrim\()TG_TABLE_NAME'
    LOOP
        EXECUTE replace(
            item.definition, 'TG_TABLE_NAME', 'rtrim(TG_TABLE_NAME, ''_0123456789'')'
        );
    END LOOP;
END
$do$;

-- Citus evaluates CASE x WHEN y in what a trigger writes, and hands on half of it; CASE WHEN x = y
-- it understands.
SELECT pg_temp.amend(
    'record_workflow_execution_event', 'CASE TG_OP WHEN ''INSERT''', 'CASE WHEN TG_OP = ''INSERT'''
);
SELECT pg_temp.amend(
    'record_workflow_execution_event',
    E'CASE step.status\n                        WHEN ''running''',
    'CASE WHEN step.status = ''running'''
);
SELECT pg_temp.amend(
    'record_optimization_event',
    E'CASE NEW.status\n            WHEN ''failed''\n                THEN jsonb',
    E'CASE\n            WHEN NEW.status = ''failed''\n                THEN jsonb'
);
-- Policies of distributed tables hold no sub-select: the customer is asked for by itself.
SELECT pg_temp.amend(
    'isolate_customers', '(SELECT current_customer_id())', 'current_customer_id()'
);
-- A CHECK that opens a savepoint gets in the way of the copy on the next server. Without it a value
-- that does not parse is refused by its cast, which is an InvalidValue as well.
SELECT pg_temp.amend(
    'config_value_parses',
    E'EXCEPTION\n    WHEN data_exception THEN RETURN false;\nEND',
    E'-- no EXCEPTION: it would open a savepoint\nEND'
);
-- In CASE of an UPDATE only what is immutable may stand. It is: the same values, the same error.
ALTER FUNCTION refuse_stale_write(text, uuid, integer, integer) IMMUTABLE;

-- One look-up over all shards, as nobody knows yet whose key it is, then one by the customer; what
-- a SQL function asks of a distributed table cannot depend on its parameters.
CREATE OR REPLACE FUNCTION authenticate_api_key(presented_hash bytea)
RETURNS TABLE (
    customer_id uuid,
    name text,
    plan customer_plan,
    status customer_status,
    api_key_id uuid,
    problem text
)
LANGUAGE plpgsql
SECURITY DEFINER
AS $$
#variable_conflict use_column
DECLARE
    known record;
    seen_at timestamptz := clock_timestamp();
BEGIN
    SELECT
        api_keys.customer_id,
        api_keys.id,
        api_keys.last_used_at,
        CASE
            WHEN api_keys.revoked_at IS NOT NULL THEN 'revoked'
            WHEN api_keys.expires_at <= seen_at THEN 'expired'
        END AS problem
    INTO known
    FROM api_keys
    WHERE api_keys.api_key_hash = presented_hash
    LIMIT 1;
    IF known.id IS NULL THEN
        RETURN;
    END IF;
    IF
        known.problem IS NULL
        AND (known.last_used_at > seen_at - interval '1 minute') IS NOT true
    THEN
        PERFORM
        FROM api_keys
        WHERE
            api_keys.customer_id = known.customer_id
            AND api_keys.id = known.id
            AND (api_keys.last_used_at > seen_at - interval '1 minute') IS NOT true
        FOR NO KEY UPDATE SKIP LOCKED;
        IF FOUND THEN
            UPDATE api_keys
            SET last_used_at = seen_at
            WHERE
                api_keys.customer_id = known.customer_id
                AND api_keys.id = known.id;
        END IF;
    END IF;
    RETURN QUERY
    SELECT
        customers.id,
        customers.name,
        customers.plan,
        customers.status,
        known.id,
        known.problem
    FROM customers
    WHERE customers.id = known.customer_id;
END
$$;

-- The months are made as Citus makes them, with their shards, and what waits in DEFAULT goes
-- through the coordinator.
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
    partition_name text;
    waiting bigint;
BEGIN
    IF months_ahead IS NULL OR months_ahead NOT BETWEEN 0 AND 120 THEN
        RAISE EXCEPTION 'months_ahead must be from 0 to 120, and is %',
            coalesce(months_ahead::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
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
            'SELECT array_agg(DISTINCT date_trunc(''month'', %1$I)) FROM %2$I '
            'WHERE %1$I >= ''1970-01-01'' AND %1$I < ''9999-01-01''',
            parent.key_column, default_name
        ) INTO months;
        FOR month_start IN
            SELECT m.month
            FROM (
                SELECT date_trunc('month', now()) + make_interval(months => n) AS month
                FROM generate_series(0, months_ahead) AS n
                UNION
                SELECT unnest(months)
            ) AS m
            ORDER BY m.month
        LOOP
            partition_name := parent.table_name || to_char(month_start, '_YYYY_MM');
            CONTINUE WHEN EXISTS (
                SELECT
                FROM pg_inherits
                WHERE
                    inhparent = parent.table_name::regclass
                    AND inhrelid = to_regclass(partition_name)
            );
            waiting := 0;
            IF month_start = ANY (months) THEN
                -- No row may slip into DEFAULT between its being emptied and the new month.
                EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent.table_name);
                EXECUTE format(
                    'CREATE TEMPORARY TABLE waiting ON COMMIT DROP AS '
                    'SELECT * FROM %2$I WHERE %1$I >= %3$L AND %1$I < %4$L',
                    parent.key_column, default_name,
                    month_start, month_start + interval '1 month'
                );
                GET DIAGNOSTICS waiting = ROW_COUNT;
                -- Nobody else writes, and to move an event is not to delete it.
                EXECUTE format('ALTER TABLE %I DISABLE TRIGGER USER', default_name);
                EXECUTE format(
                    'DELETE FROM %2$I WHERE %1$I >= %3$L AND %1$I < %4$L',
                    parent.key_column, default_name,
                    month_start, month_start + interval '1 month'
                );
                EXECUTE format('ALTER TABLE %I ENABLE TRIGGER USER', default_name);
            END IF;
            EXECUTE format(
                'CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                partition_name, parent.table_name,
                month_start, month_start + interval '1 month'
            );
            EXECUTE format(
                'COMMENT ON TABLE %I IS %L',
                partition_name, parent.table_name || ' of ' || to_char(month_start, 'YYYY-MM.')
            );
            IF waiting > 0 THEN
                EXECUTE format('ALTER TABLE %I DISABLE TRIGGER USER', partition_name);
                EXECUTE format('INSERT INTO %I SELECT * FROM waiting', partition_name);
                EXECUTE format('ALTER TABLE %I ENABLE TRIGGER USER', partition_name);
                DROP TABLE waiting;
            END IF;
            IF parent.table_name = 'events' THEN
                EXECUTE format(
                    'CREATE TRIGGER events_refuse_truncate BEFORE TRUNCATE ON %I '
                    'FOR EACH STATEMENT EXECUTE FUNCTION refuse_event_change()',
                    partition_name
                );
                PERFORM isolate_customers(partition_name::regclass, 'customer_id');
            END IF;
            RETURN NEXT partition_name;
        END LOOP;
    END LOOP;
END
$$;
DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION authenticate_api_key(bytea) SET search_path = %I, pg_temp', current_schema()
    );
    EXECUTE format(
        'ALTER FUNCTION ensure_partitions(integer) SET search_path = %I, pg_temp', current_schema()
    );
    -- One connection a server: two of them would wait for each other.
    EXECUTE 'ALTER FUNCTION ensure_partitions(integer) '
        'SET citus.multi_shard_modify_mode = sequential';
    EXECUTE 'ALTER FUNCTION ensure_partitions(integer) '
        'SET citus.max_adaptive_executor_pool_size = 1';
END
$do$;

-- Citus takes no SET NULL in a foreign key that holds the distribution column, of which it would
-- leave nothing: this trigger clears the links to a run that is deleted, and the foreign key looks
-- when the transaction ends.
CREATE OR REPLACE FUNCTION clear_workflow_links() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE workflow_executions
    SET retried_from_id = NULL
    WHERE
        customer_id = OLD.customer_id
        AND retried_from_id = OLD.id;
    UPDATE recommendations
    SET workflow_execution_id = NULL
    WHERE
        customer_id = OLD.customer_id
        AND workflow_execution_id = OLD.id;
    UPDATE optimizations
    SET workflow_execution_id = NULL
    WHERE
        customer_id = OLD.customer_id
        AND workflow_execution_id = OLD.id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION clear_workflow_links() IS
'Trigger: clears the links to a run that is deleted, where foreign keys cannot (Citus).';

DO $do$
DECLARE
    item record;
    foreign_keys text [] := '{}';
    triggers text [] := '{}';
BEGIN
    EXECUTE format(
        'ALTER FUNCTION clear_workflow_links() SET search_path = %I, pg_temp', current_schema()
    );

    CREATE TEMPORARY TABLE layout ON COMMIT DROP AS
    SELECT
        pg_class.oid::regclass AS relation,
        rules.place,
        CASE
            WHEN rules.relation_name = 'agent_metrics' THEN 'agent_id'
            -- What may be of all customers is on every server.
            WHEN pg_attribute.attnotnull THEN rules.customer_column
        END AS distribution_column,
        pg_dist_partition.logicalrelid IS NULL AS is_new
    FROM access_rules AS rules
    INNER JOIN pg_class
        ON pg_class.oid = to_regclass(rules.relation_name) AND pg_class.relkind IN ('r', 'p')
    LEFT JOIN pg_attribute
        ON
            pg_class.oid = pg_attribute.attrelid
            AND pg_attribute.attname = rules.customer_column
    LEFT JOIN pg_dist_partition ON pg_class.oid = pg_dist_partition.logicalrelid
    WHERE rules.relation_name !~ '^_yoyo_';
    IF NOT EXISTS (SELECT FROM layout WHERE is_new) THEN
        RETURN;
    END IF;

    IF NOT EXISTS (SELECT FROM layout WHERE NOT is_new) THEN
        -- For the sessions to come: the months to come bring triggers, too; and only a plan for the
        -- values of a call knows whose shard it goes to, where the customer may be left out.
        EXECUTE format(
            'ALTER DATABASE %I SET citus.enable_unsafe_triggers = on', current_database()
        );
        EXECUTE format(
            'ALTER DATABASE %I SET plan_cache_mode = force_custom_plan', current_database()
        );
        -- One server logs in on another as the role that acts. None of them has a password.
        ALTER ROLE optiinfra_owner LOGIN;
        ALTER ROLE optiinfra_tenant LOGIN;
        -- Each server counts its transactions by itself: the ids of this one mean nothing there.
        PERFORM forget_event_xact_ids();
        -- A unique index holds the distribution column, or it cannot know of the other shards.
        -- These two are looked up by, and no longer unique.
        DROP INDEX customers_email_key;
        CREATE INDEX customers_email_key ON customers (lower(email));
        ALTER TABLE api_keys DROP CONSTRAINT api_keys_api_key_hash_key;
        CREATE INDEX api_keys_api_key_hash_key ON api_keys (api_key_hash);
        CREATE TRIGGER workflow_executions_clear_links
        AFTER DELETE ON workflow_executions
        FOR EACH ROW
        EXECUTE FUNCTION clear_workflow_links();
        -- Policies, as isolate_customers makes them now.
        PERFORM grant_access(anew => true);
    END IF;

    -- Triggers would take the rows that are copied into shards for new history, and a foreign key
    -- would have to be one of Citus on both its sides: both are off meanwhile.
    FOR item IN
        SELECT
            pg_trigger.tgname,
            pg_trigger.tgrelid::regclass AS relation,
            pg_get_triggerdef(pg_trigger.oid) AS definition
        FROM pg_trigger
        WHERE
            NOT pg_trigger.tgisinternal
            AND pg_trigger.tgparentid = 0
            AND (
                pg_trigger.tgrelid IN (SELECT layout.relation FROM layout WHERE layout.is_new)
                OR pg_trigger.tgrelid IN (
                    SELECT pg_inherits.inhrelid
                    FROM pg_inherits
                    INNER JOIN layout ON pg_inherits.inhparent = layout.relation AND layout.is_new
                )
            )
    LOOP
        triggers := triggers || item.definition;
        EXECUTE format('DROP TRIGGER %I ON %s', item.tgname, item.relation);
    END LOOP;
    FOR item IN
        SELECT
            pg_constraint.conname,
            pg_constraint.conrelid::regclass AS relation,
            pg_get_constraintdef(pg_constraint.oid) AS definition,
            own.distribution_column IS NULL
            AND other.distribution_column IS NOT NULL AS is_impossible
        FROM pg_constraint
        INNER JOIN layout AS own ON pg_constraint.conrelid = own.relation
        INNER JOIN layout AS other ON pg_constraint.confrelid = other.relation
        WHERE
            pg_constraint.contype = 'f'
            AND pg_constraint.conparentid = 0
            AND (own.is_new OR other.is_new)
        ORDER BY own.place
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', item.relation, item.conname);
        -- A copy on every server cannot point at a row that is on one. That of agent_states to its
        -- current run is such, which is then there or not.
        CONTINUE WHEN item.is_impossible;
        foreign_keys := foreign_keys || format(
            'ALTER TABLE %s ADD CONSTRAINT %I %s',
            item.relation,
            item.conname,
            regexp_replace(
                item.definition, 'ON DELETE SET NULL \(.*\)$', 'DEFERRABLE INITIALLY DEFERRED'
            )
        );
    END LOOP;

    FOR item IN
        SELECT *
        FROM layout
        WHERE layout.is_new
        ORDER BY
            layout.distribution_column IS NOT NULL,
            layout.relation != 'customers'::regclass,
            layout.place
    LOOP
        RAISE INFO 'Distributing %', item.relation;
        IF item.distribution_column IS NULL THEN
            PERFORM create_reference_table(item.relation);
        ELSIF item.relation IN ('customers'::regclass, 'agent_metrics'::regclass) THEN
            PERFORM create_distributed_table(
                item.relation, item.distribution_column, colocate_with => 'none'
            );
        ELSE
            PERFORM create_distributed_table(
                item.relation, item.distribution_column, colocate_with => 'customers'
            );
        END IF;
        PERFORM truncate_local_data_after_distributing_table(item.relation);
    END LOOP;

    FOR item IN SELECT unnest(foreign_keys || triggers) AS statement LOOP
        EXECUTE item.statement;
    END LOOP;
END
$do$;
