-- name: get_wal_position :one
-- Where the write-ahead log of the server stands, as text for `read_only(after=...)`: all that was
-- acknowledged before lies before it. On a replica, how far that has come. Which timeline that
-- follows it tells members of pg_read_all_stats at once, others after its next restart point.
--
-- @returns exactly one
--
-- @plan catalogue, buffers <= 100
SELECT
    -- With the timeline, as after a fail-over places are of different logs.
    CASE
        WHEN pg_is_in_recovery()
            THEN format(
                '%s:%s',
                greatest(
                    (SELECT timeline_id FROM pg_control_checkpoint()),
                    (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                    (SELECT received_tli FROM pg_stat_wal_receiver)
                ),
                pg_last_wal_replay_lsn()
            )
        ELSE format(
            '%s:%s',
            ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer,
            pg_current_wal_insert_lsn()
        )
    END::text AS wal_position;

-- name: get_replay_progress :one
-- Whether the server can be read from in place of its primary: is_replica is that it follows one,
-- on the timeline of wal_position or a later one as far as can be seen (get_wal_position says), and
-- has_replayed that it has come up to there. Without wal_position, it only has to follow one.
--
-- Raises InvalidValue for a text that get_wal_position does not return.
-- @returns exactly one
--
-- @plan catalogue, buffers <= 100
WITH wanted AS MATERIALIZED (
    SELECT
        split_part(sqlc.narg('wal_position')::text, ':', 1)::integer AS timeline,
        split_part(sqlc.narg('wal_position')::text, ':', 2)::pg_lsn AS lsn
)

SELECT
    (
        pg_is_in_recovery()
        AND coalesce(
            greatest(
                (SELECT timeline_id FROM pg_control_checkpoint()),
                (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                (SELECT received_tli FROM pg_stat_wal_receiver)
            ) >= wanted.timeline,
            true
        )
    )::boolean AS is_replica,
    -- The place may be behind the header of a page that has no record yet: 24 bytes. The record of
    -- a commit has more.
    coalesce(
        wanted.lsn - pg_last_wal_replay_lsn() <= 24, wanted.lsn IS NULL
    )::boolean AS has_replayed
FROM wanted;
