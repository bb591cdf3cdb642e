-- name: upsert_agent_state :one
-- Note what an agent is doing. What is not given stays as it was. Its current run is set by
-- set_agent_current_workflow.
-- @returns exactly one
INSERT INTO agent_states (
    agent_id,
    current_status,
    active_workflows,
    locks,
    resource_usage,
    metadata
)
VALUES (
    @agent_id,
    @current_status,
    coalesce(sqlc.narg('active_workflows')::jsonb, '[]'),
    coalesce(sqlc.narg('locks')::jsonb, '{}'),
    coalesce(sqlc.narg('resource_usage')::jsonb, '{}'),
    coalesce(sqlc.narg('metadata')::jsonb, '{}')
)
ON CONFLICT (agent_id) DO UPDATE
    SET
        current_status = excluded.current_status,
        last_activity = excluded.last_activity,
        active_workflows = coalesce(
            sqlc.narg('active_workflows')::jsonb, agent_states.active_workflows
        ),
        locks = coalesce(sqlc.narg('locks')::jsonb, agent_states.locks),
        resource_usage = coalesce(sqlc.narg('resource_usage')::jsonb, agent_states.resource_usage),
        metadata = coalesce(sqlc.narg('metadata')::jsonb, agent_states.metadata)
RETURNING *;

-- name: get_agent_state :one
-- What an agent is doing.
SELECT *
FROM agent_states
WHERE agent_id = @agent_id;

-- name: list_agent_states :many
-- What all agents are doing, latest activity first: each agent with its state.
SELECT
    sqlc.embed(agents),
    sqlc.embed(agent_states)
FROM agents
INNER JOIN agent_states ON agents.id = agent_states.agent_id
ORDER BY agent_states.last_activity DESC, agents.id ASC
LIMIT @max_rows;

-- name: list_agent_states_by_workflow :many
-- The states of the agents whose current run this is.
SELECT *
FROM agent_states
WHERE
    current_workflow_customer_id = @customer_id::uuid
    AND current_workflow_id = @workflow_execution_id::uuid
ORDER BY agent_id;

-- name: set_agent_current_workflow :one
-- Note which run an agent works on; None where the agent has no state yet.
UPDATE agent_states
SET
    current_workflow_customer_id = @customer_id::uuid,
    current_workflow_id = @workflow_execution_id::uuid,
    last_activity = now()
WHERE agent_id = @agent_id
RETURNING *;

-- name: clear_agent_current_workflow :one
-- Note that an agent works on no run; None where the agent has no state yet.
UPDATE agent_states
SET
    current_workflow_customer_id = NULL,
    current_workflow_id = NULL,
    last_activity = now()
WHERE agent_id = @agent_id
RETURNING *;

-- name: delete_agent_state :execrows
-- Delete what is noted of an agent. Returns 1, or 0 where there was nothing.
DELETE FROM agent_states
WHERE agent_id = @agent_id;
