-- name: ensure_partitions :many
-- Make the missing monthly partitions of events and agent_metrics, up to so many months ahead, and
-- move rows that waited in a DEFAULT partition. Returns the names of those made; safe at any time.
--
-- @plan catalogue, buffers <= 20000
SELECT partition_name::text
FROM ensure_partitions(@months_ahead::integer) AS partition_name
ORDER BY partition_name;

-- name: list_partitions :many
-- The partitions of events and agent_metrics, oldest first, the DEFAULT one last: the time that
-- each covers and how long that is over (less than 0 for months to come), which are NULL of
-- DEFAULT; about how many rows it has (NULL where it was never analysed), and its bytes, indexes
-- included.
-- @nullable since, until, over_for, about_rows
--
-- @plan catalogue, buffers <= 20000
SELECT
    found.table_name::text AS table_name,
    found.partition_name::text AS partition_name,
    found.since::timestamptz AS since,
    (found.since + interval '1 month')::timestamptz AS until,
    (now() - (found.since + interval '1 month'))::interval AS over_for,
    CASE WHEN found.reltuples >= 0 THEN found.reltuples END::bigint AS about_rows,
    pg_total_relation_size(found.oid)::bigint AS total_bytes
FROM (
    SELECT
        parent.relname AS table_name,
        part.relname AS partition_name,
        CASE
            WHEN part.relname ~ '_[0-9]{4}_[0-9]{2}$'
                THEN
                    make_date(
                        substring(part.relname FROM '_([0-9]{4})_[0-9]{2}$')::integer,
                        right(part.relname, 2)::integer,
                        1
                    )::timestamp AT TIME ZONE 'UTC'
        END AS since,
        part.reltuples,
        part.oid
    FROM pg_catalog.pg_inherits
    INNER JOIN pg_catalog.pg_class AS parent ON pg_inherits.inhparent = parent.oid
    INNER JOIN pg_catalog.pg_class AS part ON pg_inherits.inhrelid = part.oid
    WHERE parent.oid IN ('events'::regclass, 'agent_metrics'::regclass)
) AS found
ORDER BY found.table_name, found.since NULLS LAST;

-- name: list_held_customers :many
-- Customers under a legal hold, on them or on a run of theirs, that have events in a window: these
-- keep the partitions of the window from being dropped.
--
-- @plan legal_holds_pkey, legal_holds_customer_id_workflow_execution_id_idx, events_pkey,
--   rows <= 2 * holds
SELECT held.customer_id
FROM (SELECT DISTINCT customer_id FROM legal_holds) AS held
WHERE
    EXISTS (
        SELECT
        FROM events
        WHERE
            events.customer_id = held.customer_id
            AND events.created_at >= @since
            AND events.created_at < @until
    )
ORDER BY held.customer_id;
