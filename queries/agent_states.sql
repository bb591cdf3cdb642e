-- name: upsert_agent_state :one
-- Note what an agent is doing. What is not given stays as it was. Its current run is set by
-- set_agent_current_workflow, its locks by acquire_agent_lock.
--
-- @returns exactly one
-- @plan agent_states_agent_id_key, rows <= 1
INSERT INTO agent_states (
    agent_id,
    current_status,
    active_workflows,
    resource_usage,
    metadata
)
VALUES (
    @agent_id,
    @current_status,
    coalesce(sqlc.narg('active_workflows')::jsonb, '[]'),
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
        resource_usage = coalesce(sqlc.narg('resource_usage')::jsonb, agent_states.resource_usage),
        metadata = coalesce(sqlc.narg('metadata')::jsonb, agent_states.metadata)
RETURNING *;

-- name: get_agent_state :one
-- What an agent is doing.
--
-- @plan agent_states_agent_id_key, rows <= states
SELECT *
FROM agent_states
WHERE agent_id = @agent_id;

-- name: list_agent_states :many
-- What all agents are doing, latest activity first: each agent with its state.
--
-- @plan agents_pkey, agent_states_agent_id_key, rows <= agents + states
SELECT
    sqlc.embed(agents),
    sqlc.embed(agent_states)
FROM agents
INNER JOIN agent_states ON agents.id = agent_states.agent_id
ORDER BY agent_states.last_activity DESC, agents.id ASC
LIMIT @max_rows;

-- name: list_agent_states_by_workflow :many
-- The states of the agents whose current run this is.
--
-- @plan agent_states_current_workflow_id_idx, rows <= states
SELECT *
FROM agent_states
WHERE
    current_workflow_customer_id = @customer_id::uuid
    AND current_workflow_id = @workflow_execution_id::uuid
ORDER BY agent_id;

-- name: set_agent_current_workflow :one
-- Note which run an agent works on; None where the agent has no state yet.
--
-- @plan agent_states_agent_id_key, rows <= states
UPDATE agent_states
SET
    current_workflow_customer_id = @customer_id::uuid,
    current_workflow_id = @workflow_execution_id::uuid,
    last_activity = now()
WHERE agent_id = @agent_id
RETURNING *;

-- name: clear_agent_current_workflow :one
-- Note that an agent works on no run; None where the agent has no state yet.
--
-- @plan agent_states_agent_id_key, rows <= states
UPDATE agent_states
SET
    current_workflow_customer_id = NULL,
    current_workflow_id = NULL,
    last_activity = now()
WHERE agent_id = @agent_id
RETURNING *;

-- name: delete_agent_state :execrows
-- Delete what is noted of an agent, its locks with it. Returns 1, or 0 where there was nothing.
--
-- @plan agent_states_agent_id_key, rows <= states
DELETE FROM agent_states
WHERE agent_id = @agent_id;

-- name: acquire_agent_lock :one
-- Lock a resource, by its name, for an agent, for as long as the lease; None where it is locked. At
-- most one of all agents has the lock of a resource. A lock is gone once its lease is over, or it
-- was released; an agent that dies keeps nobody waiting for longer than that. One without a state
-- gets one.
--
-- Who has the lock shows its token to extend and to release it. It may bring its own: acquiring
-- again with the token of a lock that the agent has returns that, as it is, so that a call may be
-- repeated after a lost connection. Without it the agent itself is refused a second time, so that
-- its workers keep each other out.
--
-- Others who want the resource wait while a transaction is open in which this was called: call it
-- outside of one. Taking over waits, too, for a transaction that has written the state of the agent
-- whose lease is over, and may raise TransactionConflict: then call again.
--
-- Raises InvalidValue where resource is not of 1 to 255 characters, or lease not more than 0 or
-- more than a year, and NotFound where there is no such agent; psycopg's InvalidTransactionState in
-- a transaction that is not READ COMMITTED, which could not see who has the lock.
--
-- @row AgentLock
-- @plan rows <= 1, buffers <= 400
SELECT
    @agent_id::uuid AS agent_id,
    @resource::text AS resource,
    (held.lock ->> 'token')::uuid AS token,
    (held.lock ->> 'acquired_at')::timestamptz AS acquired_at,
    (held.lock ->> 'expires_at')::timestamptz AS expires_at
FROM
    acquire_agent_lock(
        @agent_id::uuid, @resource::text, @lease::interval, sqlc.narg('token')::uuid
    ) AS held (lock)
WHERE held.lock IS NOT NULL;

-- name: extend_agent_lock :one
-- Let a lock last until a lease from now; None where it was lost: its lease was over, or it was
-- released. Then stop what it was held for.
--
-- Raises InvalidValue where lease is not more than 0, or more than a year.
--
-- @row AgentLock
-- @required agent_id, resource, token, lease
--
-- @plan agent_states_agent_id_key, agent_states_pkey, rows <= 2 * states
WITH held AS MATERIALIZED (
    SELECT
        id,
        agent_id,
        locks -> @resource::text AS lock,
        to_jsonb(clock_timestamp() + @lease::interval) AS expires_at
    FROM agent_states
    WHERE
        CASE
            WHEN @lease::interval > '0' AND @lease::interval <= '1 year' THEN true
            ELSE refuse_value('lease', 'a lease must be longer than 0, and a year at most')
        END
        AND agent_id = @agent_id
        AND locks -> @resource::text ->> 'token' = (@token::uuid)::text
        AND (locks -> @resource::text ->> 'expires_at')::timestamptz > clock_timestamp()
    FOR NO KEY UPDATE
),

extended AS (
    UPDATE agent_states
    SET
        locks = jsonb_set(
            agent_states.locks, ARRAY[@resource::text, 'expires_at'], held.expires_at
        )
    FROM held
    WHERE agent_states.id = held.id
)

SELECT
    agent_id,
    @resource::text AS resource,
    (lock ->> 'token')::uuid AS token,
    (lock ->> 'acquired_at')::timestamptz AS acquired_at,
    (expires_at #>> '{}')::timestamptz AS expires_at
FROM held;

-- name: release_agent_lock :one
-- Give a lock up, so that the next one may have it at once. Returns it as it was, or None where it
-- was lost before: its lease was over, or it was released.
--
-- @row AgentLock
-- @required resource, agent_id, token
-- @plan agent_states_agent_id_key, agent_states_pkey, rows <= 2 * states
WITH held AS MATERIALIZED (
    SELECT
        id,
        agent_id,
        locks -> @resource::text AS lock
    FROM agent_states
    WHERE
        agent_id = @agent_id
        AND locks -> @resource::text ->> 'token' = (@token::uuid)::text
    FOR NO KEY UPDATE
),

released AS (
    UPDATE agent_states
    SET locks = agent_states.locks - @resource::text
    FROM held
    WHERE agent_states.id = held.id
)

SELECT
    agent_id,
    @resource::text AS resource,
    (lock ->> 'token')::uuid AS token,
    (lock ->> 'acquired_at')::timestamptz AS acquired_at,
    (lock ->> 'expires_at')::timestamptz AS expires_at
FROM held
WHERE (lock ->> 'expires_at')::timestamptz > clock_timestamp();

-- name: list_agent_locks :many
-- The locks that agents have at this moment, by resource. Whoever must break one releases it, by
-- its token.
--
-- @row AgentLock
-- @plan rows <= states
SELECT
    agent_states.agent_id,
    held.resource::text AS resource,
    (held.lock ->> 'token')::uuid AS token,
    (held.lock ->> 'acquired_at')::timestamptz AS acquired_at,
    (held.lock ->> 'expires_at')::timestamptz AS expires_at
FROM agent_states
CROSS JOIN LATERAL jsonb_each(agent_states.locks) AS held (resource, lock)
WHERE (held.lock ->> 'expires_at')::timestamptz > clock_timestamp()
ORDER BY held.resource;
