-- An agent is a running service of the platform that works for all customers: the orchestrator, and
-- the cost, performance, resource and application agents. It registers itself at start under its
-- type and name (starting again finds the same row) and sends a heartbeat every few seconds.
--
-- Tens of rows, updated all the time: the pages are left half empty, so that heartbeats stay
-- heap-only (no index holds status or last_heartbeat). Deleting an agent deletes
-- its state, runs, recommendations and optimizations; the events about them stay.

CREATE TYPE agent_type AS ENUM (
    'orchestrator', 'cost', 'performance', 'resource', 'application'
);
COMMENT ON TYPE agent_type IS 'What an agent optimises; the orchestrator directs the others.';

CREATE TYPE agent_status AS ENUM ('starting', 'healthy', 'degraded', 'failed', 'stopped');
COMMENT ON TYPE agent_status IS 'Health of an agent, as it last reported it.';

CREATE TABLE agents (
    id uuid NOT NULL DEFAULT uuidv7(),
    type agent_type NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    status agent_status NOT NULL DEFAULT 'starting',
    last_heartbeat timestamptz,
    endpoint text,
    capabilities jsonb NOT NULL DEFAULT '[]',
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agents_pkey PRIMARY KEY (id),
    CONSTRAINT agents_type_name_key UNIQUE (type, name),
    CONSTRAINT agents_name_check CHECK (char_length(name) BETWEEN 1 AND 255),
    CONSTRAINT agents_version_check CHECK (char_length(version) BETWEEN 1 AND 64),
    CONSTRAINT agents_endpoint_check CHECK (char_length(endpoint) BETWEEN 1 AND 2048),
    CONSTRAINT agents_capabilities_check CHECK (jsonb_typeof(capabilities) = 'array'),
    CONSTRAINT agents_metadata_check CHECK (jsonb_typeof(metadata) = 'object')
) WITH (
    -- A heartbeat every few seconds on few rows: room for the new version on the same page,
    -- and vacuum once there is a page's worth to clean, not after each few dozen updates.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);
COMMENT ON TABLE agents IS 'Running services of the platform, one row an agent type and name.';
COMMENT ON COLUMN agents.id IS 'UUIDv7; the caller may supply it.';
COMMENT ON COLUMN agents.type IS 'What the agent optimises.';
COMMENT ON COLUMN agents.name IS
'Name of the instance, 1 to 255 characters; unique within its type.';
COMMENT ON COLUMN agents.version IS 'Version of the software that runs.';
COMMENT ON COLUMN agents.status IS 'Health, as last reported.';
COMMENT ON COLUMN agents.last_heartbeat IS
'When the agent last sent a heartbeat, or registered again; NULL before that.';
COMMENT ON COLUMN agents.endpoint IS
'URL at which the agent is reached; NULL where it only calls out.';
COMMENT ON COLUMN agents.capabilities IS
'List of what the agent announces that it can do; what is configured is in '
'agent_capabilities.';
COMMENT ON COLUMN agents.metadata IS 'Free-form object: host, region, build, ...';
COMMENT ON COLUMN agents.created_at IS 'When the row was written.';
COMMENT ON COLUMN agents.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX agents_pkey IS
'Serves get_agent, list_agents, record_agent_heartbeat and every foreign key.';
COMMENT ON INDEX agents_type_name_key IS
'One row an agent. Serves upsert_agent and list_agents_by_type.';

CREATE TRIGGER agents_set_updated_at
BEFORE UPDATE ON agents
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER agents_set_updated_at ON agents IS 'Keeps updated_at.';
