-- What an agent is doing right now, one row an agent: idle or busy, the run that it works on, the
-- locks that it holds, what it uses.
--
-- Written by the agent itself, every few seconds. Tens of rows, updated all the time: the pages are
-- left half empty, and the only index on a column that changes is that of the
-- current run, which changes once a run.
--
-- A lock stands in the row of the agent that has it, with its token and the time at which it
-- expires, by the clock of the database. One that has expired is none, wherever it still stands.

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
COMMENT ON COLUMN agent_states.locks IS
'Object of the resources that it has locked, by name: token, acquired_at, expires_at; written '
'by acquire_agent_lock, extend_agent_lock and release_agent_lock.';
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

-- A function, as one statement alone has one view of the table, from before it waits: here each
-- looks anew. Of those who want a resource one at a time gets past the advisory lock. An extension
-- of the lock that it finds expired is in time, or it is not: the row lock tells, and who takes the
-- lock over deletes it there.
CREATE FUNCTION acquire_agent_lock(
    holder_id uuid, resource text, lease interval, new_token uuid
) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    seen_at timestamptz;
    granted_at timestamptz;
    found_id uuid;
    lock jsonb;
BEGIN
    IF (char_length(resource) BETWEEN 1 AND 255) IS NOT true THEN
        RAISE EXCEPTION 'the name of a resource must have 1 to 255 characters'
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'resource';
    END IF;
    IF (lease > '0' AND lease <= '1 year') IS NOT true THEN
        RAISE EXCEPTION 'a lease must be longer than 0, and a year at most'
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'lease';
    END IF;
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'a lock cannot be acquired in a transaction that is %',
            upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'invalid_transaction_state',
                HINT = 'It would not see who got the lock since it began. Acquire it outside.';
    END IF;

    PERFORM pg_advisory_xact_lock(hashtextextended('optiinfra_db.agent_lock.' || resource, 0));
    seen_at := clock_timestamp();
    -- In one order, so that two who take over from each other do not deadlock.
    PERFORM
    FROM agent_states
    WHERE
        agent_id = holder_id
        OR (
            locks ? resource
            AND ((locks -> resource ->> 'expires_at')::timestamptz > seen_at) IS NOT true
        )
    ORDER BY agent_id
    FOR NO KEY UPDATE;

    SELECT agent_id, locks -> resource
    INTO found_id, lock
    FROM agent_states
    WHERE (locks -> resource ->> 'expires_at')::timestamptz > seen_at;
    IF FOUND THEN
        RETURN CASE WHEN found_id = holder_id AND lock ->> 'token' = new_token::text THEN lock END;
    END IF;

    UPDATE agent_states
    SET locks = locks - resource
    WHERE
        locks ? resource
        AND agent_id != holder_id;
    granted_at := clock_timestamp();
    lock := jsonb_build_object(
        'token', coalesce(new_token, uuidv7()),
        'acquired_at', granted_at,
        'expires_at', granted_at + lease
    );
    INSERT INTO agent_states (agent_id, locks)
    VALUES (holder_id, jsonb_build_object(resource, lock))
    ON CONFLICT (agent_id) DO UPDATE SET locks = agent_states.locks || excluded.locks;
    RETURN lock;
END
$$;
-- Whoever calls it, and whatever lies before it on the search path or among temporary tables.
DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION acquire_agent_lock(uuid, text, interval, uuid) SET search_path = %I, pg_temp',
        current_schema()
    );
END
$do$;
COMMENT ON FUNCTION acquire_agent_lock(uuid, text, interval, uuid) IS
'Locks a resource for an agent for as long as the lease, unless an agent has it locked: returns '
'the lock (token, acquired_at, expires_at), or NULL.';
