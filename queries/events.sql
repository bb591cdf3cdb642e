-- name: create_event :one
-- Append an event. actor is the connection's (setting optiinfra.actor), else the database user.
-- With an id and created_at that are taken already, nothing is written and the event that is there
-- is returned; None only where another session wrote that very event at the same moment.
WITH created AS (
    INSERT INTO events (
        customer_id,
        created_at,
        id,
        agent_id,
        event_type,
        severity,
        subject_type,
        subject_id,
        data
    )
    VALUES (
        @customer_id::uuid,
        coalesce(sqlc.narg('created_at')::timestamptz, now()),
        coalesce(sqlc.narg('id')::uuid, uuidv7()),
        sqlc.narg('agent_id')::uuid,
        @event_type::text,
        coalesce(sqlc.narg('severity')::event_severity, 'info'),
        sqlc.narg('subject_type')::text,
        sqlc.narg('subject_id')::uuid,
        coalesce(sqlc.narg('data')::jsonb, '{}')
    )
    ON CONFLICT (customer_id, created_at, id) DO NOTHING
    RETURNING *
)

SELECT * FROM created
UNION ALL
SELECT * FROM events
WHERE
    customer_id = @customer_id::uuid
    AND created_at = sqlc.narg('created_at')::timestamptz
    AND id = sqlc.narg('id')::uuid
LIMIT 1;

-- name: copy_events :copyfrom
-- Append many events at once, by binary COPY; returns how many. All or none are written.
INSERT INTO events (
    customer_id,
    created_at,
    agent_id,
    event_type,
    severity,
    subject_type,
    subject_id,
    actor,
    data
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: get_event :one
-- One event, by its whole key: created_at leads to its partition.
SELECT *
FROM events
WHERE
    customer_id = @customer_id
    AND created_at = @created_at
    AND id = @id;

-- name: list_events :many
-- Events of a customer, newest first, up to max_rows; the next page starts before created_at and
-- id of the last one of this.
SELECT *
FROM events
WHERE
    customer_id = @customer_id
    AND created_at <= coalesce(sqlc.narg('before_created_at')::timestamptz, 'infinity')
    AND (created_at, id) < (
        coalesce(sqlc.narg('before_created_at')::timestamptz, 'infinity'),
        coalesce(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    )
ORDER BY created_at DESC, id DESC
LIMIT @max_rows;

-- name: list_events_by_agent :many
-- Events of an agent, newest first, paged like list_events. For operators: it spans customers.
SELECT *
FROM events
WHERE
    agent_id = @agent_id::uuid
    AND created_at <= coalesce(sqlc.narg('before_created_at')::timestamptz, 'infinity')
    AND (created_at, id) < (
        coalesce(sqlc.narg('before_created_at')::timestamptz, 'infinity'),
        coalesce(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    )
ORDER BY created_at DESC, id DESC
LIMIT @max_rows;

-- name: list_events_by_subject :many
-- Events about one thing (a run, a recommendation, ...), newest first, paged like list_events. The
-- thing itself may be gone.
SELECT *
FROM events
WHERE
    customer_id = @customer_id
    AND subject_id = @subject_id::uuid
    AND created_at <= coalesce(sqlc.narg('before_created_at')::timestamptz, 'infinity')
    AND (created_at, id) < (
        coalesce(sqlc.narg('before_created_at')::timestamptz, 'infinity'),
        coalesce(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    )
ORDER BY created_at DESC, id DESC
LIMIT @max_rows;
