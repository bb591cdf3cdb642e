-- name: ensure_partitions :many
-- Make the missing monthly partitions of events and agent_metrics, up to so many months ahead, and
-- move rows that waited in a DEFAULT partition. Returns the names of those made; safe at any time.
--
-- @plan catalogue, buffers <= 20000
SELECT partition_name::text
FROM ensure_partitions(@months_ahead::integer) AS partition_name
ORDER BY partition_name;

-- name: list_held_customers :many
-- Customers under a legal hold, on them or on a run of theirs, that have events in a window: these
-- keep the partitions of the window from being dropped.
--
-- @plan legal_holds_pkey, legal_holds_customer_id_workflow_execution_id_idx, events_pkey,
--   rows <= 2 * holds
SELECT held.customer_id
FROM (SELECT DISTINCT customer_id FROM legal_holds) AS held
CROSS JOIN
    LATERAL (
        -- One of them will do; as a condition it would be asked about all of the window.
        SELECT events.id
        FROM events
        WHERE
            events.customer_id = held.customer_id
            AND events.created_at >= @since
            AND events.created_at < @until
        LIMIT 1
    ) AS event
ORDER BY held.customer_id;
