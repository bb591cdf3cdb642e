-- What an agent is doing right now, one row an agent: idle or busy, the run that it works on, the
-- locks that it holds, what it uses.
--
-- Written by the agent itself, every few seconds. Tens of rows, updated all the time: the pages are
-- left half empty, and the only index on a column that changes is that of the
-- current run, which changes once a run.

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
    CONSTRAINT agent_states_current_workflow_id_fkey
    FOREIGN KEY (current_workflow_customer_id, current_workflow_id)
    REFERENCES workflow_executions (customer_id, id) ON DELETE SET NULL,
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
