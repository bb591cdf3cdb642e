-- Settings of an agent, one row a key. The value is text that must parse as its type, so that
-- whoever edits one in psql learns of a typo at once, and not the agent at its next start.
--
-- Written by operators and by the agents' own set-up. Tens of rows an agent, read at start.

CREATE TYPE config_type AS ENUM ('string', 'integer', 'float', 'boolean', 'json');
COMMENT ON TYPE config_type IS 'How the text of a config value is to be read.';

CREATE FUNCTION config_value_parses(config_value text, config_type config_type) RETURNS boolean
LANGUAGE plpgsql
IMMUTABLE
PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
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
