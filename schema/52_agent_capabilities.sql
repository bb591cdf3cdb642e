-- What an agent can do, one row a capability, each with its version, its settings and a switch.
--
-- Written by operators and by the agents' own set-up. A few rows an agent.

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
