-- name: upsert_agent :one
-- Register an agent under its type and name: a new row, or the one from its last start with
-- version, endpoint, capabilities and metadata as given now, starting again. The id counts for a
-- new row only.
-- @returns exactly one
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
        endpoint = excluded.endpoint,
        capabilities = excluded.capabilities,
        metadata = excluded.metadata
RETURNING *;

-- name: get_agent :one
-- The agent of this id.
SELECT *
FROM agents
WHERE id = @id;

-- name: get_agent_by_name :one
-- The agent of this type and name.
SELECT *
FROM agents
WHERE
    type = @type
    AND name = @name;

-- name: list_agents :many
-- Agents, newest first, up to max_rows; the next page starts before the last id of this one.
SELECT *
FROM agents
WHERE id < coalesce(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_agents_by_type :many
-- All agents of a type, by name.
SELECT *
FROM agents
WHERE type = @type
ORDER BY name;

-- name: record_agent_heartbeat :one
-- Note that an agent is alive, and its health where given (else it stays as it was).
UPDATE agents
SET
    last_heartbeat = now(),
    status = coalesce(sqlc.narg('status'), status)
WHERE id = @id
RETURNING *;

-- name: delete_agent :execrows
-- Delete an agent with its state, configs, capabilities, metrics, runs, recommendations and
-- optimizations; the events about it stay. Returns 1, or 0 where there was none.
DELETE FROM agents
WHERE id = @id;
