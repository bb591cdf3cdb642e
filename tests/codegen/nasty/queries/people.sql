-- name: create_person :one
-- Hire someone.
--
-- Returns the new row. The mood is how they start; a boss has no boss.
-- @returns exactly one
INSERT INTO people (name, mood, boss_id) VALUES (@name, @mood, sqlc.narg(boss_id)) RETURNING *;

-- name: get_person :one
SELECT * FROM people WHERE id = @id;

-- name: require_person :one
-- @returns exactly one
SELECT * FROM people WHERE id = @id;

-- name: people_named :one
-- @returns exactly one
SELECT * FROM people WHERE name = @name;

-- name: list_people :many
SELECT * FROM people ORDER BY id;

-- name: list_names :many
SELECT name FROM people ORDER BY id;

-- name: list_moods :many
SELECT mood FROM people ORDER BY id;

-- name: count_people :one
-- @returns exactly one
SELECT count(*) FROM people;

-- name: oldest_mood :one
-- The mood of the first hired; NULL in an empty company.
-- @returns exactly one
-- @nullable mood
SELECT min(mood) AS mood FROM people;

-- name: moods_of_all :one
-- @returns exactly one
-- @nullable moods
SELECT array_agg(mood ORDER BY id) AS moods FROM people;

-- name: move_person :one
WITH moved AS (
    UPDATE people SET mood = @mood WHERE id = @id RETURNING *
)

SELECT * FROM moved;

-- name: list_with_boss :many
-- @nullable b
SELECT sqlc.embed(p), sqlc.embed(b), (p.name || '!')::text AS loud
FROM people AS p
LEFT JOIN people AS b ON p.boss_id = b.id
ORDER BY p.id;

-- name: list_with_address :many
-- @nullable address, note
SELECT sqlc.embed(people), sqlc.embed(addresses), nullif(people.name, 'x')::text AS note
FROM people
LEFT JOIN addresses ON people.id = addresses.person_id
ORDER BY people.id;

-- name: get_with_optional :one
-- @nullable optional
SELECT sqlc.embed(people), sqlc.embed(optional) FROM people LEFT JOIN optional ON optional.a = people.id WHERE people.id = @id;

-- name: same_names :many
SELECT a.id, b.id, a.name FROM people AS a INNER JOIN people AS b ON a.id = b.id ORDER BY a.id;

-- name: between :many
SELECT id FROM people WHERE id BETWEEN $1 AND $2 ORDER BY id;

-- name: rename_person :exec
UPDATE people SET name = coalesce(sqlc.narg(name), name) WHERE id = @id;

-- name: rename_all :execrows
UPDATE people SET name = @name;

-- name: delete_people :execresult
DELETE FROM people WHERE id = ANY(@ids::bigint []) RETURNING id;

-- name: add_status :exec
INSERT INTO other.statuses (code, color) VALUES (@code, @color);

-- name: list_statuses :many
SELECT * FROM other.statuses ORDER BY code;

-- name: hire_many :batchexec
INSERT INTO people (name, mood) VALUES (@name, @mood);

-- name: find_many :batchone
SELECT * FROM people WHERE id = @id;

-- name: names_like :batchmany
SELECT name FROM people WHERE name LIKE @pattern AND mood = @mood ORDER BY name;

-- name: hire_later :copyfrom
INSERT INTO people (name, mood, boss_id) VALUES (@name, @mood, @boss_id);

-- name: hire_named :copyfrom
INSERT INTO addresses (person_id, city, since) VALUES (@person_id, @city, @since);
