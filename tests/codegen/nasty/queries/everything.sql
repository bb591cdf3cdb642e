-- Store one value of each type.
-- name: insert_everything :one
INSERT INTO everything (
    c_int2, c_int4, c_int8, c_float4, c_float8, c_numeric, c_bool, c_text, c_varchar, c_char,
    c_bytea, c_uuid, c_date, c_time, c_timetz, c_timestamp, c_timestamptz, c_interval, c_json, c_jsonb,
    c_inet, c_cidr, c_macaddr, c_xid8, c_oid, c_bit, c_money, c_int4range, c_int8range, c_numrange,
    c_daterange, c_tstzrange, c_datemultirange, c_int8multirange, c_mood, c_odd, c_color, c_email,
    c_positive, c_price, c_pair, c_ints, c_matrix, c_texts, c_times, c_jsonbs, c_moods, c_odds, c_positives,
    c_uuids, c_ranges, c_pairs, c_snapshots
) VALUES (
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
    $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, $38,
    $39, $40, $41, $42, $43, $44, $45, $46, $47, $48, $49, $50, $51, $52, $53
) RETURNING *;

-- name: GetEverything :one
SELECT * FROM everything WHERE id = @id;

-- name: copy_everything :copyfrom
INSERT INTO everything (
    c_int2, c_int4, c_int8, c_float4, c_float8, c_numeric, c_bool, c_text, c_varchar, c_char,
    c_bytea, c_uuid, c_date, c_time, c_timetz, c_timestamp, c_timestamptz, c_interval, c_json, c_jsonb,
    c_inet, c_cidr, c_macaddr, c_xid8, c_oid, c_bit, c_money, c_int4range, c_int8range, c_numrange,
    c_daterange, c_tstzrange, c_datemultirange, c_int8multirange, c_mood, c_odd, c_color, c_email,
    c_positive, c_price, c_pair, c_ints, c_matrix, c_texts, c_times, c_jsonbs, c_moods, c_odds, c_positives,
    c_uuids, c_ranges, c_pairs, c_snapshots
) VALUES (
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
    $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, $38,
    $39, $40, $41, $42, $43, $44, $45, $46, $47, $48, $49, $50, $51, $52, $53
);

-- name: copy_scalars :copyfrom
INSERT INTO everything (
    c_int2, c_int4, c_int8, c_float4, c_float8, c_numeric, c_bool, c_text, c_varchar, c_char,
    c_bytea, c_uuid, c_date, c_time, c_timetz, c_timestamp, c_timestamptz, c_interval, c_json, c_jsonb,
    c_oid, c_int4range, c_int8range, c_numrange, c_daterange, c_tstzrange, c_datemultirange, c_int8multirange,
    c_mood, c_email, c_positive, c_price, c_ints, c_matrix, c_texts, c_times, c_jsonbs, c_uuids, c_ranges
) VALUES (
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
    $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, $38, $39
);

-- name: copy_pairs :copyfrom
INSERT INTO everything (c_pair, c_text) VALUES ($1, $2);

-- name: list_by_mood :many
SELECT id, c_mood FROM everything WHERE c_mood = ANY(@moods::mood[]) ORDER BY id;

-- name: odd_enums :one
SELECT @one::"Odd Enum" AS one, @many::"Odd Enum"[] AS many, @colors::other.color[] AS colors;
