-- name: create_agent_metric :one
-- Append one value of a metric; recorded_at is now unless given. For many, copy_agent_metrics is
-- many times faster.
-- @returns exactly one
INSERT INTO agent_metrics (agent_id, metric_name, recorded_at, metric_value, metric_type, tags)
VALUES (
    @agent_id,
    @metric_name,
    coalesce(sqlc.narg('recorded_at')::timestamptz, now()),
    @metric_value,
    coalesce(sqlc.narg('metric_type')::metric_type, 'gauge'),
    coalesce(sqlc.narg('tags')::jsonb, '{}')
)
RETURNING *;

-- name: copy_agent_metrics :copyfrom
-- Append many values at once, by binary COPY; returns how many. All or none are written.
INSERT INTO agent_metrics (
    agent_id,
    metric_name,
    recorded_at,
    metric_value,
    metric_type,
    tags
)
VALUES ($1, $2, $3, $4, $5, $6);

-- name: get_latest_agent_metric :one
-- The newest value of a metric of an agent.
SELECT *
FROM agent_metrics
WHERE
    agent_id = @agent_id
    AND metric_name = @metric_name
ORDER BY recorded_at DESC, id DESC
LIMIT 1;

-- name: list_agent_metrics :many
-- Values of a metric of an agent, recorded from since on and before until, newest first, up to
-- max_rows; the next page has recorded_at of the last one of this as until, and its id as
-- before_id.
SELECT *
FROM agent_metrics
WHERE
    agent_id = @agent_id
    AND metric_name = @metric_name
    AND recorded_at >= @since
    AND recorded_at <= @until::timestamptz
    AND (recorded_at, id) < (
        @until::timestamptz,
        coalesce(sqlc.narg('before_id')::uuid, '00000000-0000-0000-0000-000000000000')
    )
ORDER BY recorded_at DESC, id DESC
LIMIT @max_rows;
