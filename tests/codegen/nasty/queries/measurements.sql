-- name: copy_measurements :copyfrom
-- Append measurements, fast.
INSERT INTO measurements (sensor, taken_at, value, tags, valid, counts, mood) VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: list_measurements :many
SELECT * FROM measurements WHERE taken_at >= @since ORDER BY sensor, taken_at;

-- name: newest :one
-- @returns exactly one
-- @nullable newest
SELECT max(taken_at)::timestamptz AS newest, count(*) AS n, coalesce(sum(value), 0)::numeric AS total FROM measurements;

-- name: at_times :many
SELECT sensor FROM measurements WHERE taken_at = ANY(@times::timestamptz []) ORDER BY sensor;

-- name: put_document :one
-- @returns exactly one
INSERT INTO documents (id, body, extra, kind) VALUES (@id, @body, sqlc.narg(extra), @kind)
ON CONFLICT (id) DO UPDATE SET body = excluded.body, extra = excluded.extra
RETURNING *;

-- name: documents_with :many
SELECT * FROM documents WHERE body @> @part::jsonb ORDER BY id;

-- name: bodies :many
SELECT body FROM documents ORDER BY id;

-- name: history :one
-- All measurements of all sensors, and how many they are.
-- @returns exactly one
-- @many measured measurements
-- @many noted documents
SELECT
    count(*) AS total,
    array(
        SELECT m FROM (SELECT measurements.* FROM measurements ORDER BY sensor, taken_at) AS m
    ) AS measured,
    array(SELECT d FROM (SELECT documents.* FROM documents ORDER BY id) AS d) AS noted
FROM measurements;

-- name: list_briefly :many
-- @row MeasurementBrief
SELECT sensor, mood FROM measurements ORDER BY sensor;

-- name: list_briefly_backwards :many
-- @row MeasurementBrief
SELECT sensor, mood FROM measurements ORDER BY sensor DESC;

-- name: list_measurements_with_a_name_so_long_that_its_helper_needs_lines_of_its_own :many
SELECT sensor, mood, value FROM measurements ORDER BY sensor;
