-- name: ensure_partitions :many
-- Make the missing monthly partitions of events and agent_metrics, up to so many months ahead, and
-- move rows that waited in a DEFAULT partition. Returns the names of those made; safe at any time.
--
-- @plan catalogue, buffers <= 20000
SELECT partition_name::text
FROM ensure_partitions(@months_ahead::integer) AS partition_name
ORDER BY partition_name;
