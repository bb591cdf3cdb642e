-- name: create_agent_metric :one
-- Append one value of a metric; recorded_at is now unless given. For many, copy_agent_metrics is
-- many times faster.
--
-- @returns exactly one
-- @plan writes
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
--
-- @plan writes
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
--
-- @plan agent_metrics_pkey, rows <= partitions
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
--
-- @plan agent_metrics_pkey, rows <= max_rows + partitions
SELECT *
FROM agent_metrics
WHERE
    agent_id = @agent_id
    AND metric_name = @metric_name
    AND recorded_at >= @since
    AND recorded_at <= @until::timestamptz
    AND (recorded_at, id) < (
        @until::timestamptz,
        greatest(sqlc.narg('before_id')::uuid, '00000000-0000-0000-0000-000000000000')
    )
ORDER BY recorded_at DESC, id DESC
LIMIT @max_rows;

-- name: list_latest_agent_metrics :many
-- The newest value of each metric of an agent, by the metric's name.
--
-- @required agent_id
-- @plan agent_metrics_pkey, rows <= partitions * (metric_names + 1)
WITH RECURSIVE latest AS (
    -- From the last name to the first, one step a name, whatever the number of values.
    (
        SELECT *
        FROM agent_metrics
        WHERE agent_id = @agent_id
        ORDER BY metric_name DESC, recorded_at DESC, id DESC
        LIMIT 1
    )
    UNION ALL
    SELECT following.*
    FROM latest
    CROSS JOIN
        LATERAL (
            SELECT agent_metrics.*
            FROM agent_metrics
            WHERE
                agent_metrics.agent_id = @agent_id
                AND agent_metrics.metric_name < latest.metric_name
            ORDER BY
                agent_metrics.metric_name DESC,
                agent_metrics.recorded_at DESC,
                agent_metrics.id DESC
            LIMIT 1
        ) AS following
)

SELECT *
FROM latest
ORDER BY metric_name;

-- name: list_agent_metric_buckets :many
-- What a metric of an agent came to in each bucket of time, oldest first: values recorded from
-- since on and before until, and, where tags is given, with at least those. Buckets count from
-- Monday, 2001-01-01 00:00 UTC: those of an hour, a day or 7 days begin on the hour, at midnight,
-- on Mondays. The first and the last have what lies in the window; those without values are left
-- out. p50 and p95 are interpolated.
--
-- Raises InvalidValue where bucket is not more than 0.
--
-- @plan agent_metrics_pkey, rows <= window_metrics
SELECT
    date_bin(@bucket::interval, recorded_at, '2001-01-01T00:00:00Z')::timestamptz AS bucket_start,
    count(*) AS value_count,
    avg(metric_value)::double precision AS average,
    min(metric_value)::double precision AS minimum,
    max(metric_value)::double precision AS maximum,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY metric_value)::double precision AS p50,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY metric_value)::double precision AS p95
FROM agent_metrics
WHERE
    CASE
        WHEN @bucket::interval > '0' AND date_trunc('month', @bucket::interval) = '0' THEN true
        ELSE refuse_value('bucket', 'a bucket must be longer than 0, and without months')
    END
    AND agent_id = @agent_id
    AND metric_name = @metric_name
    AND recorded_at >= @since
    AND recorded_at < @until
    AND tags @> coalesce(sqlc.narg('tags')::jsonb, '{}')
GROUP BY bucket_start
ORDER BY bucket_start;

-- name: list_agent_metric_rates :many
-- By how much a counter of an agent grew in each bucket of time, and how fast, per second of the
-- whole bucket, oldest first. The window, tags and buckets are those of list_agent_metric_buckets.
-- Values with the same tags are a series, and the increases of all series are added up. What came
-- between two values of a series counts in the bucket of the later one. A value below the one
-- before it tells of a restart from 0: all of it is increase. The first value of a series in the
-- window is what its growth is measured from, so let since be early by the time between two
-- values. Buckets without a later value, and values of other types than counter, are left out.
--
-- Raises InvalidValue where bucket is not more than 0.
--
-- @plan agent_metrics_pkey, rows <= window_metrics
WITH measured AS (
    SELECT
        date_bin(@bucket::interval, recorded_at, '2001-01-01T00:00:00Z') AS bucket_start,
        metric_value,
        lag(metric_value) OVER (PARTITION BY tags ORDER BY recorded_at, id) AS previous_value
    FROM agent_metrics
    WHERE
        CASE
            WHEN @bucket::interval > '0' AND date_trunc('month', @bucket::interval) = '0' THEN true
            ELSE refuse_value('bucket', 'a bucket must be longer than 0, and without months')
        END
        AND agent_id = @agent_id
        AND metric_name = @metric_name
        AND recorded_at >= @since
        AND recorded_at < @until
        AND metric_type = 'counter'
        AND tags @> coalesce(sqlc.narg('tags')::jsonb, '{}')
),

grown AS (
    SELECT
        bucket_start,
        sum(
            CASE
                WHEN metric_value >= previous_value THEN metric_value - previous_value
                ELSE greatest(metric_value, 0)
            END
        ) AS increase
    FROM measured
    WHERE previous_value IS NOT NULL
    GROUP BY bucket_start
)

SELECT
    bucket_start::timestamptz AS bucket_start,
    increase::double precision AS increase,
    (increase / extract(EPOCH FROM @bucket::interval)::double precision)::double precision
        AS increase_per_second
FROM grown
ORDER BY bucket_start;
