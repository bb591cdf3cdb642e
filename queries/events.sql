-- name: create_event :one
-- Append an event. actor is the connection's (setting optiinfra.actor), else the database user.
-- With an id and created_at that are taken already, nothing is written and the event that is there
-- is returned; None only where another session wrote that very event at the same moment.
--
-- Raises ImmutableHistory for an event about a run, a step, a recommendation, an approval or an
-- optimization whose data has a key "from": those are of the audit log.
--
-- @plan events_pkey, rows <= 1
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
--
-- Raises PermissionDenied where row-level security holds: PostgreSQL has no COPY into such tables
-- but for superusers and roles with BYPASSRLS. create_event is for all.
--
-- @plan writes
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
--
-- @plan events_pkey, rows <= 1
SELECT *
FROM events
WHERE
    customer_id = @customer_id
    AND created_at = @created_at
    AND id = @id;

-- name: list_events :many
-- Events of a customer, newest first, up to max_rows; the next page starts before created_at and
-- id of the last one of this.
--
-- @plan events_pkey, rows <= max_rows + partitions
SELECT *
FROM events
WHERE
    customer_id = @customer_id
    AND created_at <= least(sqlc.narg('before_created_at')::timestamptz, 'infinity')
    AND (created_at, id) < (
        least(sqlc.narg('before_created_at')::timestamptz, 'infinity'),
        least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    )
ORDER BY created_at DESC, id DESC
LIMIT @max_rows;

-- name: list_events_by_agent :many
-- Events of an agent, newest first, paged like list_events. Of its runs only the creation is among
-- them. For operators: it spans customers.
--
-- @plan events_agent_id_created_at_id_idx, rows <= max_rows + partitions
SELECT *
FROM events
WHERE
    agent_id = @agent_id::uuid
    AND created_at <= least(sqlc.narg('before_created_at')::timestamptz, 'infinity')
    AND (created_at, id) < (
        least(sqlc.narg('before_created_at')::timestamptz, 'infinity'),
        least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    )
ORDER BY created_at DESC, id DESC
LIMIT @max_rows;

-- name: list_events_by_subject :many
-- Events about one thing (a run, a recommendation, ...), newest first, paged like list_events. The
-- thing itself may be gone.
--
-- @plan events_customer_id_subject_id_created_at_id_idx, rows <= max_rows + partitions
SELECT *
FROM events
WHERE
    customer_id = @customer_id
    AND subject_id = @subject_id::uuid
    AND created_at <= least(sqlc.narg('before_created_at')::timestamptz, 'infinity')
    AND (created_at, id) < (
        least(sqlc.narg('before_created_at')::timestamptz, 'infinity'),
        least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    )
ORDER BY created_at DESC, id DESC
LIMIT @max_rows;

-- name: read_events :many
-- The change feed: the next events after a cursor, of one customer or, where none is given, of all.
-- The cursor is the xact_id and id of the last event that was read, and 0 and the zero UUID before
-- the first. Nothing ever appears before a cursor that was returned: an event is held back until
-- every transaction that was open when it was written is over. Up to max_rows, and those that have
-- the same xact_id and id as the last of them. optiinfra_db.feed follows it.
--
-- @plan events_xact_id_id_idx, rows <= max_rows + partitions + events_of_others
SELECT *
FROM events
WHERE
    xact_id < pg_snapshot_xmin(pg_current_snapshot())
    AND (xact_id, id) > (
        CASE  -- as xid8, -1 is the highest of all
            WHEN @after_xact_id::bigint >= 0 THEN @after_xact_id
            ELSE ('negative after_xact_id: ' || @after_xact_id)::bigint
        END::text::xid8,
        @after_id
    )
    AND (
        sqlc.narg('customer_id')::uuid IS NULL
        OR customer_id = sqlc.narg('customer_id')::uuid
    )
ORDER BY xact_id, id
FETCH FIRST (@max_rows) ROWS WITH TIES;

-- name: get_feed_end :one
-- How far the change feed goes at this moment. horizon_xact_id: the feed has all events before it,
-- for ever; last_xact_id: that of the last of these, of any customer, 0 where there is none. A
-- reader for whom read_events, called after this, had no more may go on after last_xact_id and the
-- highest UUID, and need not scan the events of others again. Not after the horizon: a server that
-- crashes may give the numbers of transactions that wrote nothing again.
-- @returns exactly one
--
-- @plan events_xact_id_id_idx, rows <= partitions
SELECT
    pg_snapshot_xmin(pg_current_snapshot()) AS horizon_xact_id,
    coalesce(
        (
            SELECT events.xact_id
            FROM events
            WHERE events.xact_id < pg_snapshot_xmin(pg_current_snapshot())
            ORDER BY events.xact_id DESC
            LIMIT 1
        ),
        '0'
    )::xid8 AS last_xact_id;

-- name: get_customer_feed_end :one
-- The transaction before which all events of a customer can be read, of the server that has them;
-- None for a customer who is unknown. Where customers are spread over servers (Citus), each of
-- these counts its transactions by itself.
--
-- @plan customers_pkey, rows <= 1 + customers
SELECT pg_snapshot_xmin(pg_current_snapshot()) AS horizon_xact_id
FROM customers
WHERE id = @customer_id;

-- name: get_feed_lag :one
-- How far the change feed is behind what is committed, and what holds it back. horizon_xact_id:
-- the feed has all events before it. waiting_events: how many are committed and held back;
-- waiting_since: since when the first of them. The rest is about the oldest open transaction, which
-- holds them back (None where there is none): its process, how long it has been open, its
-- application, user, state and last query. Age, state and query of other users' transactions are
-- for members of pg_read_all_stats. A transaction that was prepared for two-phase commit has no
-- process: holder_prepared is its name, and all else but age and user is None.
-- @returns exactly one
-- @nullable waiting_since, holder_pid, holder_age
-- @nullable holder_application, holder_user, holder_state, holder_query, holder_prepared
--
-- @plan events_xact_id_id_idx, rows <= waiting_events
WITH horizon AS MATERIALIZED (
    SELECT pg_snapshot_xmin(pg_current_snapshot()) AS xact_id
),

waiting AS (
    SELECT
        count(*) AS waiting_events,
        min(events.created_at) AS waiting_since
    FROM events
    WHERE events.xact_id >= pg_snapshot_xmin(pg_current_snapshot())
)

SELECT
    horizon.xact_id AS horizon_xact_id,
    waiting.waiting_events,
    waiting.waiting_since,
    holder.pid AS holder_pid,
    now() - coalesce(holder.xact_start, prepared.prepared) AS holder_age,
    holder.application_name AS holder_application,
    coalesce(holder.usename, prepared.owner)::text AS holder_user,
    holder.state AS holder_state,
    holder.query AS holder_query,
    prepared.gid AS holder_prepared
FROM horizon
CROSS JOIN waiting
LEFT JOIN pg_catalog.pg_stat_activity AS holder ON holder.backend_xid = horizon.xact_id::xid
LEFT JOIN pg_catalog.pg_prepared_xacts AS prepared ON prepared.transaction = horizon.xact_id::xid;

-- name: forget_event_xact_ids :one
-- To be run by the owner once after a database was dumped and restored, before anyone writes to it
-- or reads the feed: sets the xact_id of all events to 0, because those of the old cluster mean
-- nothing in the new one. Returns how many it set. Readers go on after the cursor (0, the highest
-- UUID), that is, with what is written from now on.
-- @returns exactly one
--
-- @plan whole events, rows <= 0, buffers <= 30 * events
SELECT forget_event_xact_ids()::bigint AS forgotten;
