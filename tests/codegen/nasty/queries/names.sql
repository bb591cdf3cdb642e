-- Put a row of impossible names.
-- name: insert_list :one
INSERT INTO list (
    id, class, "def", conn, self, cls, uuid, datetime, models, psycopg, typing, "int", str, list, enum,
    dataclasses, params, rows, _runtime, "None", "1st", "per%cent", "with space", "camelCase", __dunder, "größe",
    a_column_name_as_long_as_postgresql_lets_a_column_name_ever_be_
) VALUES (
    @id, @class, @def, @conn, @self, @cls, @uuid, @datetime, @models, @psycopg, @typing, @int, @str, @list, @enum,
    @dataclasses, @params, @rows, @_runtime, $20, $21, $22, $23, $24, @__dunder, @größe,
    sqlc.narg(a_column_name_as_long_as_postgresql_lets_a_column_name_ever_be_)
) RETURNING *;

-- name: list :many
SELECT id, class, models, datetime, uuid, "int", list, "None" FROM list ORDER BY id;

-- name: copy_list :copyfrom
INSERT INTO list (
    id, class, "def", conn, self, cls, uuid, datetime, models, psycopg, typing, "int", str, list, enum,
    dataclasses, params, rows, _runtime, "None", "1st", "per%cent", "with space", "camelCase", __dunder, "größe",
    a_column_name_as_long_as_postgresql_lets_a_column_name_ever_be_
) VALUES (
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27
);

-- name: models :one
SELECT * FROM "model" WHERE id = $1;

-- name: import :exec
INSERT INTO "model" (id, name, "json") VALUES ($1, $2, $3);

-- name: odd_table :many
SELECT * FROM "Odd Table" ORDER BY id;

-- name: uuid :one
SELECT uuid FROM list WHERE id = $1;
