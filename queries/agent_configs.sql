-- name: upsert_agent_config :one
-- Set a setting of an agent. Raises InvalidValue where the value does not parse as its type: a
-- 64-bit integer, a float, true or false, JSON.
--
-- @returns exactly one
-- @plan agent_configs_agent_id_config_key_key, rows <= 1
INSERT INTO agent_configs (agent_id, config_key, config_value, config_type, description)
VALUES (
    @agent_id,
    @config_key,
    @config_value,
    coalesce(sqlc.narg('config_type')::config_type, 'string'),
    coalesce(sqlc.narg('description')::text, '')
)
ON CONFLICT (agent_id, config_key) DO UPDATE
    SET
        config_value = excluded.config_value,
        config_type = excluded.config_type,
        description = coalesce(sqlc.narg('description')::text, agent_configs.description)
RETURNING *;

-- name: get_agent_config :one
-- One setting of an agent.
--
-- @plan agent_configs_agent_id_config_key_key, rows <= configs
SELECT *
FROM agent_configs
WHERE
    agent_id = @agent_id
    AND config_key = @config_key;

-- name: list_agent_configs :many
-- All settings of an agent, by key.
--
-- @plan agent_configs_agent_id_config_key_key, rows <= configs
SELECT *
FROM agent_configs
WHERE agent_id = @agent_id
ORDER BY config_key;

-- name: delete_agent_config :execrows
-- Delete a setting of an agent. Returns 1, or 0 where there was none.
--
-- @plan agent_configs_agent_id_config_key_key, rows <= configs
DELETE FROM agent_configs
WHERE
    agent_id = @agent_id
    AND config_key = @config_key;
