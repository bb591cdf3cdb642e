-- What agents are configured to do, can do, do right now and measure; the monthly partitions.

-- depends: 0001.core-tables

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

CREATE TYPE config_type AS ENUM ('string', 'integer', 'float', 'boolean', 'json');
COMMENT ON TYPE config_type IS 'How the text of a config value is to be read.';

CREATE FUNCTION config_value_parses(config_value text, config_type config_type) RETURNS boolean
LANGUAGE plpgsql
IMMUTABLE
PARALLEL SAFE
AS $$
BEGIN
    -- The patterns keep out what not every version of PostgreSQL, nor of Python, reads: 0x1F, NaN.
    CASE config_type
        WHEN 'string' THEN
            RETURN true;
        WHEN 'integer' THEN
            PERFORM config_value::bigint;
            RETURN config_value ~ '^[+-]?[0-9]+$';
        WHEN 'float' THEN
            PERFORM config_value::double precision;
            RETURN config_value ~ '^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?$';
        WHEN 'boolean' THEN
            RETURN config_value IN ('true', 'false');
        WHEN 'json' THEN
            PERFORM config_value::jsonb;
            RETURN true;
    END CASE;
EXCEPTION
    WHEN data_exception THEN RETURN false;
END
$$;
COMMENT ON FUNCTION config_value_parses(text, config_type) IS
'Whether a config value parses as its type: 64-bit integer, finite float, true or false, or JSON.';

CREATE TABLE agent_configs (
    id uuid NOT NULL DEFAULT uuidv7(),
    agent_id uuid NOT NULL,
    config_key text NOT NULL,
    config_value text NOT NULL,
    config_type config_type NOT NULL DEFAULT 'string',
    description text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_configs_pkey PRIMARY KEY (id),
    CONSTRAINT agent_configs_agent_id_config_key_key UNIQUE (agent_id, config_key),
    CONSTRAINT agent_configs_agent_id_fkey FOREIGN KEY (agent_id)
    REFERENCES agents (id) ON DELETE CASCADE,
    CONSTRAINT agent_configs_config_key_check CHECK (char_length(config_key) BETWEEN 1 AND 255),
    CONSTRAINT agent_configs_config_value_check CHECK (
        config_value_parses(config_value, config_type)
    )
);
COMMENT ON TABLE agent_configs IS 'Settings of agents, one row a key.';
COMMENT ON COLUMN agent_configs.id IS 'UUIDv7.';
COMMENT ON COLUMN agent_configs.agent_id IS 'The agent that it configures.';
COMMENT ON COLUMN agent_configs.config_key IS
'Name of the setting, 1 to 255 characters; unique in the agent.';
COMMENT ON COLUMN agent_configs.config_value IS 'Its value, as text that parses as config_type.';
COMMENT ON COLUMN agent_configs.config_type IS 'How the text is to be read.';
COMMENT ON COLUMN agent_configs.description IS 'What the setting does, for people.';
COMMENT ON COLUMN agent_configs.created_at IS 'When the row was written.';
COMMENT ON COLUMN agent_configs.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX agent_configs_pkey IS 'Identity of a row.';
COMMENT ON INDEX agent_configs_agent_id_config_key_key IS
'One row a key. Serves get_agent_config, list_agent_configs and upsert_agent_config.';

CREATE TRIGGER agent_configs_set_updated_at
BEFORE UPDATE ON agent_configs
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER agent_configs_set_updated_at ON agent_configs IS 'Keeps updated_at.';

CREATE TYPE agent_status_detail AS ENUM ('idle', 'busy', 'processing', 'waiting', 'error');
COMMENT ON TYPE agent_status_detail IS 'What an agent is doing right now.';

CREATE TABLE agent_states (
    id uuid NOT NULL DEFAULT uuidv7(),
    agent_id uuid NOT NULL,
    current_status agent_status_detail NOT NULL DEFAULT 'idle',
    last_activity timestamptz NOT NULL DEFAULT now(),
    current_workflow_customer_id uuid,
    current_workflow_id uuid,
    active_workflows jsonb NOT NULL DEFAULT '[]',
    locks jsonb NOT NULL DEFAULT '{}',
    resource_usage jsonb NOT NULL DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_states_pkey PRIMARY KEY (id),
    CONSTRAINT agent_states_agent_id_key UNIQUE (agent_id),
    CONSTRAINT agent_states_agent_id_fkey FOREIGN KEY (agent_id)
    REFERENCES agents (id) ON DELETE CASCADE,
    CONSTRAINT agent_states_current_workflow_id_check CHECK (
        (current_workflow_customer_id IS NULL) = (current_workflow_id IS NULL)
    ),
    CONSTRAINT agent_states_active_workflows_check CHECK (
        jsonb_typeof(active_workflows) = 'array'
    ),
    CONSTRAINT agent_states_locks_check CHECK (jsonb_typeof(locks) = 'object'),
    CONSTRAINT agent_states_resource_usage_check CHECK (jsonb_typeof(resource_usage) = 'object'),
    CONSTRAINT agent_states_metadata_check CHECK (jsonb_typeof(metadata) = 'object')
) WITH (
    -- An update every few seconds on few rows: room for the new version on the same page,
    -- and vacuum once there is a page's worth to clean, not after each few dozen updates.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);
COMMENT ON TABLE agent_states IS 'What agents are doing right now, one row an agent.';
COMMENT ON COLUMN agent_states.id IS 'UUIDv7.';
COMMENT ON COLUMN agent_states.agent_id IS 'The agent; unique.';
COMMENT ON COLUMN agent_states.current_status IS 'What it is doing.';
COMMENT ON COLUMN agent_states.last_activity IS
'When it last wrote this row for something that it did.';
COMMENT ON COLUMN agent_states.current_workflow_customer_id IS
'Tenant of the run that it works on; NULL where it works on none.';
COMMENT ON COLUMN agent_states.current_workflow_id IS
'The run that it works on; NULL where it works on none, or that one was deleted.';
COMMENT ON COLUMN agent_states.active_workflows IS
'List of the ids of the runs that it has in hand.';
COMMENT ON COLUMN agent_states.locks IS 'Object of the resources that it holds, by name.';
COMMENT ON COLUMN agent_states.resource_usage IS
'Object of what it uses: cpu_percent, memory_mb, ...';
COMMENT ON COLUMN agent_states.metadata IS 'Free-form object.';
COMMENT ON COLUMN agent_states.created_at IS 'When the row was written.';
COMMENT ON COLUMN agent_states.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX agent_states_pkey IS 'Identity of a row.';
COMMENT ON INDEX agent_states_agent_id_key IS
'One row an agent. Serves get_agent_state and upsert_agent_state.';

CREATE INDEX agent_states_current_workflow_id_idx
ON agent_states (current_workflow_customer_id, current_workflow_id)
WHERE current_workflow_id IS NOT NULL;
COMMENT ON INDEX agent_states_current_workflow_id_idx IS
'Serves list_agent_states_by_workflow, and deleting a run.';

CREATE TRIGGER agent_states_set_updated_at
BEFORE UPDATE ON agent_states
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER agent_states_set_updated_at ON agent_states IS 'Keeps updated_at.';

CREATE TABLE agent_capabilities (
    id uuid NOT NULL DEFAULT uuidv7(),
    agent_id uuid NOT NULL,
    capability_name text NOT NULL,
    capability_version text NOT NULL DEFAULT '1.0.0',
    enabled boolean NOT NULL DEFAULT true,
    config jsonb NOT NULL DEFAULT '{}',
    description text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_capabilities_pkey PRIMARY KEY (id),
    CONSTRAINT agent_capabilities_agent_id_capability_name_key UNIQUE (agent_id, capability_name),
    CONSTRAINT agent_capabilities_agent_id_fkey FOREIGN KEY (agent_id)
    REFERENCES agents (id) ON DELETE CASCADE,
    CONSTRAINT agent_capabilities_capability_name_check CHECK (
        char_length(capability_name) BETWEEN 1 AND 255
    ),
    CONSTRAINT agent_capabilities_capability_version_check CHECK (
        char_length(capability_version) BETWEEN 1 AND 64
    ),
    CONSTRAINT agent_capabilities_config_check CHECK (jsonb_typeof(config) = 'object')
);
COMMENT ON TABLE agent_capabilities IS 'What agents can do, one row a capability.';
COMMENT ON COLUMN agent_capabilities.id IS 'UUIDv7.';
COMMENT ON COLUMN agent_capabilities.agent_id IS 'The agent that can do it.';
COMMENT ON COLUMN agent_capabilities.capability_name IS
'What it can do, 1 to 255 characters; unique in the agent.';
COMMENT ON COLUMN agent_capabilities.capability_version IS 'Version of the capability.';
COMMENT ON COLUMN agent_capabilities.enabled IS 'Whether it may be used.';
COMMENT ON COLUMN agent_capabilities.config IS 'Object with its settings.';
COMMENT ON COLUMN agent_capabilities.description IS 'What it does, for people.';
COMMENT ON COLUMN agent_capabilities.created_at IS 'When the row was written.';
COMMENT ON COLUMN agent_capabilities.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX agent_capabilities_pkey IS 'Identity of a row.';
COMMENT ON INDEX agent_capabilities_agent_id_capability_name_key IS
'One row a capability. Serves list_agent_capabilities, upsert_agent_capability and '
'set_agent_capability_enabled.';

CREATE TRIGGER agent_capabilities_set_updated_at
BEFORE UPDATE ON agent_capabilities
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER agent_capabilities_set_updated_at ON agent_capabilities IS 'Keeps updated_at.';

CREATE TYPE metric_type AS ENUM ('counter', 'gauge', 'histogram');
COMMENT ON TYPE metric_type IS
'How the values of a metric are to be read: a counter only grows (until its process '
'restarts), a gauge goes up and down, a histogram holds single observations.';

CREATE TABLE agent_metrics (
    agent_id uuid NOT NULL,
    metric_name text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    id uuid NOT NULL DEFAULT uuidv7(),
    metric_value double precision NOT NULL,
    metric_type metric_type NOT NULL DEFAULT 'gauge',
    tags jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_metrics_pkey PRIMARY KEY (agent_id, metric_name, recorded_at, id),
    CONSTRAINT agent_metrics_agent_id_fkey FOREIGN KEY (agent_id)
    REFERENCES agents (id) ON DELETE CASCADE,
    CONSTRAINT agent_metrics_metric_name_check CHECK (
        char_length(metric_name) BETWEEN 1 AND 255
    ),
    CONSTRAINT agent_metrics_recorded_at_check CHECK (isfinite(recorded_at)),
    -- Strict bounds keep NaN and the infinities out: one of them would spoil every average.
    CONSTRAINT agent_metrics_metric_value_check CHECK (
        metric_value > '-Infinity'
        AND metric_value < 'Infinity'
    ),
    CONSTRAINT agent_metrics_tags_check CHECK (jsonb_typeof(tags) = 'object')
) PARTITION BY RANGE (recorded_at);
COMMENT ON TABLE agent_metrics IS
'Numbers that agents measure; append-only, partitioned by month of recorded_at.';
COMMENT ON COLUMN agent_metrics.agent_id IS 'The agent that measured.';
COMMENT ON COLUMN agent_metrics.metric_name IS
'What was measured, unit included: gpu_utilization_percent, ..., 1 to 255 characters.';
COMMENT ON COLUMN agent_metrics.recorded_at IS 'When it was measured.';
COMMENT ON COLUMN agent_metrics.id IS 'UUIDv7.';
COMMENT ON COLUMN agent_metrics.metric_value IS 'The value; finite.';
COMMENT ON COLUMN agent_metrics.metric_type IS 'How the value is to be read.';
COMMENT ON COLUMN agent_metrics.tags IS 'Object of what tells series apart: region, model, ...';
COMMENT ON COLUMN agent_metrics.created_at IS 'When the row was written.';

COMMENT ON INDEX agent_metrics_pkey IS
'Serves list_agent_metrics and get_latest_agent_metric, and deleting an agent.';

CREATE TABLE agent_metrics_default PARTITION OF agent_metrics DEFAULT;
COMMENT ON TABLE agent_metrics_default IS
'Metrics of months that have no partition; ensure_partitions() moves them to theirs.';

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
COMMENT ON FUNCTION ensure_partitions(integer) IS
'Makes the missing monthly partitions of agent_metrics and events, up to so many months '
'ahead; moves waiting rows out of DEFAULT; returns the names of those made.';
