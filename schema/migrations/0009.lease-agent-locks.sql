-- Locks of resources, leased to agents.
-- depends: 0008.create-recommendation-views

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

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

COMMENT ON COLUMN agent_states.locks IS
'Object of the resources that it has locked, by name: token, acquired_at, expires_at; written '
'by acquire_agent_lock, extend_agent_lock and release_agent_lock.';
COMMENT ON COLUMN agents.last_heartbeat IS
'When the agent last sent a heartbeat, or registered again; NULL before that.';
COMMENT ON INDEX agent_metrics_pkey IS
'Serves every query on metrics: list_agent_metrics, list_agent_metric_buckets, '
'list_latest_agent_metrics, ..., and deleting an agent.';
