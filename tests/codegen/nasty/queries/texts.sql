-- Texts that a program could trip over: '%', "quotes", """three""", C:\new and a trailing backslash \
-- name: nasty_text :one
-- Second paragraph's first line, after the name.
SELECT '100%' AS percent, 'back\slash \n' AS backslash, '"""' AS triple, 'ü€😀' AS uni, '%s %(x)s $1'::text AS holders, E'tab\t' AS tabbed, 'it''s {x}' AS brace;

-- name: echo :one
-- @returns exactly one
SELECT @value::text AS value;

-- name: echo_raw :one
-- Line one ends with a quote "quoted"
SELECT @value::text || '\' || '"""' AS value;

-- name: no_parameters :many
/* A block comment, % and \ in it. */
SELECT id FROM people ORDER BY id;
