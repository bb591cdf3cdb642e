-- name: create_api_key :one
-- Add an API key to those that a customer has, of which only the SHA-256 is given (32 bytes); it is
-- valid until expires_at, or for ever. With an id that is taken already, nothing is written and the
-- key that is there is returned.
--
-- Raises NotFound where there is no such customer, and AlreadyExists where the hash is that of
-- another key.
-- @returns exactly one
-- @row ApiKey
--
-- @plan api_keys_pkey, rows <= 0
WITH turn AS MATERIALIZED (
    -- Callers with one id take turns: ON CONFLICT looks at one of the unique indexes only.
    SELECT pg_advisory_xact_lock(hashtextextended(sqlc.narg('id')::uuid::text, 0)) AS held
)

INSERT INTO api_keys (customer_id, id, api_key_hash, expires_at)
SELECT
    @customer_id::uuid,
    coalesce(sqlc.narg('id')::uuid, uuidv7()),
    @api_key_hash::bytea,
    sqlc.narg('expires_at')::timestamptz
FROM turn
-- Of what whoever creates keys may update, and to no effect.
ON CONFLICT (customer_id, id) DO UPDATE SET expires_at = api_keys.expires_at
RETURNING
    customer_id,
    id,
    expires_at,
    revoked_at,
    last_used_at,
    created_at,
    updated_at;

-- name: rotate_api_key :one
-- Add an API key of a customer, of which only the SHA-256 is given (32 bytes), and let all its
-- other valid ones expire after the overlap (0 to a year), where they do not expire before. With an
-- id that is taken already, nothing is written and the key that is there is returned: give one, to
-- try again safely.
--
-- Raises NotFound where there is no such customer, InvalidValue for an overlap out of range, and
-- AlreadyExists where the hash is that of another key.
-- @returns exactly one
-- @notnull customer_id, id, created_at, updated_at
-- @row ApiKey
--
-- @plan api_keys_pkey, rows <= 1, buffers <= 400
SELECT
    customer_id,
    id,
    expires_at,
    revoked_at,
    last_used_at,
    created_at,
    updated_at
FROM
    rotate_api_key(
        @customer_id::uuid,
        @api_key_hash::bytea,
        @overlap::interval,
        sqlc.narg('id')::uuid
    );

-- name: revoke_api_key :one
-- Make a key invalid at once, and for good. None where there is none, or it is revoked already.
--
-- @row ApiKey
-- @plan api_keys_pkey, rows <= 1
UPDATE api_keys
SET revoked_at = now()
WHERE
    customer_id = @customer_id
    AND id = @id
    AND revoked_at IS NULL
RETURNING
    customer_id,
    id,
    expires_at,
    revoked_at,
    last_used_at,
    created_at,
    updated_at;

-- name: list_api_keys :many
-- All keys of a customer, newest first, those that are expired or revoked as well.
--
-- @row ApiKey
-- @plan api_keys_pkey, rows <= api_keys
SELECT
    customer_id,
    id,
    expires_at,
    revoked_at,
    last_used_at,
    created_at,
    updated_at
FROM api_keys
WHERE customer_id = @customer_id
ORDER BY id DESC;

-- name: authenticate_api_key :one
-- The customer whose API key has this SHA-256 (32 bytes), and what is wrong with the key: revoked,
-- expired, or None. Look at the status of the customer as well. None where nobody has such a key.
--
-- The use of a valid key is noted in last_used_at, at most once a minute; nobody waits for it.
--
-- @notnull customer_id, name, plan, status, api_key_id
-- @row AuthenticatedCustomer
-- @plan api_keys_api_key_hash_key, api_keys_pkey, customers_pkey, rows <= 1, buffers <= 400
SELECT
    customer_id,
    name,
    plan,
    status,
    api_key_id,
    problem
FROM authenticate_api_key(@api_key_hash::bytea);
