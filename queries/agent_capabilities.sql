-- name: upsert_agent_capability :one
-- Note that an agent can do something, with which settings. What is not given stays as it was.
--
-- @returns exactly one
-- @plan agent_capabilities_agent_id_capability_name_key, rows <= 1
INSERT INTO agent_capabilities (
    agent_id,
    capability_name,
    capability_version,
    enabled,
    config,
    description
)
VALUES (
    @agent_id,
    @capability_name,
    coalesce(sqlc.narg('capability_version')::text, '1.0.0'),
    coalesce(sqlc.narg('enabled')::boolean, true),
    coalesce(sqlc.narg('config')::jsonb, '{}'),
    coalesce(sqlc.narg('description')::text, '')
)
ON CONFLICT (agent_id, capability_name) DO UPDATE
    SET
        capability_version = coalesce(
            sqlc.narg('capability_version')::text, agent_capabilities.capability_version
        ),
        enabled = coalesce(sqlc.narg('enabled')::boolean, agent_capabilities.enabled),
        config = coalesce(sqlc.narg('config')::jsonb, agent_capabilities.config),
        description = coalesce(sqlc.narg('description')::text, agent_capabilities.description)
RETURNING *;

-- name: get_agent_capability :one
-- One capability of an agent.
--
-- @plan agent_capabilities_agent_id_capability_name_key, rows <= capabilities
SELECT *
FROM agent_capabilities
WHERE
    agent_id = @agent_id
    AND capability_name = @capability_name;

-- name: list_agent_capabilities :many
-- All capabilities of an agent, by name.
--
-- @plan agent_capabilities_agent_id_capability_name_key, rows <= capabilities
SELECT *
FROM agent_capabilities
WHERE agent_id = @agent_id
ORDER BY capability_name;

-- name: set_agent_capability_enabled :one
-- Switch a capability on or off; None where the agent has no such capability.
--
-- @plan agent_capabilities_agent_id_capability_name_key, rows <= capabilities
UPDATE agent_capabilities
SET enabled = @enabled
WHERE
    agent_id = @agent_id
    AND capability_name = @capability_name
RETURNING *;

-- name: delete_agent_capability :execrows
-- Delete a capability of an agent. Returns 1, or 0 where there was none.
--
-- @plan agent_capabilities_agent_id_capability_name_key, rows <= capabilities
DELETE FROM agent_capabilities
WHERE
    agent_id = @agent_id
    AND capability_name = @capability_name;
