-- name: upsert_agent :one
-- Register an agent under its type and name: a new row, or the one from its last start with
-- version, endpoint, capabilities and metadata as given now, starting again, which counts as a
-- heartbeat. The id counts for a new row only.
--
-- @returns exactly one
-- @plan agents_type_name_key, rows <= 1
WITH turn AS MATERIALIZED (
    -- Callers with one name take turns: ON CONFLICT looks at one of the unique indexes only.
    SELECT
        pg_advisory_xact_lock(
            hashtextextended(sqlc.arg('type')::agent_type || ':' || sqlc.arg('name')::text, 0)
        ) AS held
)

INSERT INTO agents (id, type, name, version, endpoint, capabilities, metadata)
SELECT
    coalesce(sqlc.narg('id')::uuid, uuidv7()),
    @type::agent_type,
    @name::text,
    @version::text,
    sqlc.narg('endpoint')::text,
    coalesce(sqlc.narg('capabilities')::jsonb, '[]'),
    coalesce(sqlc.narg('metadata')::jsonb, '{}')
FROM turn
ON CONFLICT (type, name) DO UPDATE
    SET
        version = excluded.version,
        status = 'starting',
        last_heartbeat = excluded.created_at,
        endpoint = excluded.endpoint,
        capabilities = excluded.capabilities,
        metadata = excluded.metadata
RETURNING *;

-- name: get_agent :one
-- The agent of this id.
--
-- @plan agents_pkey, rows <= agents
SELECT *
FROM agents
WHERE id = @id;

-- name: get_agent_by_name :one
-- The agent of this type and name.
--
-- @plan agents_type_name_key, rows <= agents
SELECT *
FROM agents
WHERE
    type = @type
    AND name = @name;

-- name: list_agents :many
-- Agents, newest first, up to max_rows; the next page starts before the last id of this one.
--
-- @plan agents_pkey, rows <= agents
SELECT *
FROM agents
WHERE id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_agents_by_type :many
-- All agents of a type, by name.
--
-- @plan agents_type_name_key, rows <= agents
SELECT *
FROM agents
WHERE type = @type
ORDER BY name;

-- name: list_available_agents :many
-- Healthy agents that have a capability, switched on, and are of the type, where that is given: up
-- to max_rows, those with the fewest running runs first, of as many by name. Each with the number
-- of its running runs. For operators: it spans customers.
--
-- @plan workflow_executions_id_customer_id_running_idx, agents_pkey,
--   agent_capabilities_agent_id_capability_name_key, rows <= running_runs + agents + capabilities
WITH workload AS (
    SELECT
        agent_id,
        count(*) AS running_runs
    FROM workflow_executions
    WHERE status = 'running'
    GROUP BY agent_id
)

SELECT
    sqlc.embed(agents),
    coalesce(workload.running_runs, 0)::bigint AS running_runs
FROM agents
INNER JOIN agent_capabilities ON agents.id = agent_capabilities.agent_id
LEFT JOIN workload ON agents.id = workload.agent_id
WHERE
    agents.status = 'healthy'
    AND agents.type = coalesce(sqlc.narg('type')::agent_type, agents.type)
    AND agent_capabilities.capability_name = @capability_name
    AND agent_capabilities.enabled
ORDER BY running_runs, agents.name, agents.id
LIMIT @max_rows;

-- name: record_agent_heartbeat :one
-- Note that an agent is alive, its health where given (else it stays as it was, failed too) and
-- what it uses where given (an object: cpu_percent, memory_mb, ...), which goes to its state; one
-- without a state gets one. Returns the agent, or None where there is none.
--
-- @required id
-- @plan agents_pkey, agent_states_agent_id_key, rows <= agents
WITH beating AS (
    UPDATE agents
    SET
        last_heartbeat = now(),
        status = coalesce(sqlc.narg('status')::agent_status, status)
    WHERE id = @id
    RETURNING *
),

used AS (
    INSERT INTO agent_states (agent_id, resource_usage)
    SELECT
        id,
        sqlc.narg('resource_usage')::jsonb
    FROM beating
    WHERE sqlc.narg('resource_usage')::jsonb IS NOT NULL
    ON CONFLICT (agent_id) DO UPDATE
        SET
            resource_usage = excluded.resource_usage,
            last_activity = excluded.last_activity
)

SELECT *
FROM beating;

-- name: fail_stale_agents :many
-- Mark up to max_rows agents as failed whose last heartbeat is before cutoff, or that have had none
-- and were registered before it; the longest silent first. Stopped ones are meant to be silent, and
-- stay. An agent that somebody is writing at the moment is left for the next sweep. Returns them,
-- by id.
--
-- @plan agents_pkey, rows <= 2 * agents
WITH stale AS MATERIALIZED (
    SELECT id
    FROM agents
    WHERE
        status NOT IN ('failed', 'stopped')
        AND coalesce(last_heartbeat, created_at) < @cutoff::timestamptz
    ORDER BY coalesce(last_heartbeat, created_at), id
    LIMIT @max_rows
    FOR NO KEY UPDATE SKIP LOCKED
),

failed AS (
    UPDATE agents
    SET status = 'failed'
    FROM stale
    WHERE agents.id = stale.id
    RETURNING agents.*
)

SELECT *
FROM failed
ORDER BY id;

-- name: delete_agent :execrows
-- Delete an agent with its state, configs, capabilities, metrics, runs, recommendations and
-- optimizations; the events about it stay. Returns 1, or 0 where there was none.
--
-- @plan agents_pkey, rows <= agents
DELETE FROM agents
WHERE id = @id;
