-- name: create_customer :one
-- Create a customer with its first API key, of which only the SHA-256 is given (32 bytes). With an
-- id that is taken already, nothing is written, no key either, and the customer that is there is
-- returned, so that a caller may safely try again.
--
-- Raises AlreadyExists where the email (ignoring case) or the key's hash belongs to another one.
-- @returns exactly one
--
-- @plan customers_pkey, rows <= 0
WITH turn AS MATERIALIZED (
    -- Callers with one id take turns: ON CONFLICT looks at one of the unique indexes only.
    SELECT pg_advisory_xact_lock(hashtextextended(sqlc.narg('id')::uuid::text, 0)) AS held
),

created AS (
    INSERT INTO customers (id, name, email, plan, metadata)
    SELECT
        coalesce(sqlc.narg('id')::uuid, uuidv7()),
        @name::text,
        @email::text,
        coalesce(sqlc.narg('plan')::customer_plan, 'free'),
        coalesce(sqlc.narg('metadata')::jsonb, '{}')
    FROM turn
    ON CONFLICT (id) DO UPDATE SET id = excluded.id
    RETURNING customers.*, (xmax = 0) AS is_new
),

first_key AS (
    INSERT INTO api_keys (customer_id, api_key_hash)
    SELECT
        id,
        @api_key_hash::bytea
    FROM created
    WHERE is_new
)

SELECT
    id,
    name,
    email,
    plan,
    status,
    metadata,
    created_at,
    updated_at
FROM created;

-- name: get_customer :one
-- The customer of this id.
--
-- @plan customers_pkey, rows <= customers
SELECT *
FROM customers
WHERE id = @id;

-- name: get_customer_by_email :one
-- The customer of this email address, ignoring case.
--
-- @plan customers_email_key, rows <= customers
SELECT *
FROM customers
WHERE lower(email) = lower(@email::text);

-- name: list_customers :many
-- Customers, newest first, up to max_rows; the next page starts before the last id of this one.
--
-- @plan customers_pkey, rows <= customers
SELECT *
FROM customers
WHERE id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: update_customer :one
-- Change what is given and leave the rest as it is.
--
-- @plan customers_pkey, rows <= customers
UPDATE customers
SET
    name = coalesce(sqlc.narg('name'), name),
    email = coalesce(sqlc.narg('email'), email),
    plan = coalesce(sqlc.narg('plan'), plan),
    status = coalesce(sqlc.narg('status'), status),
    metadata = coalesce(sqlc.narg('metadata'), metadata)
WHERE id = @id
RETURNING *;

-- name: delete_customer :execrows
-- Delete a customer with everything that is theirs, events included. Returns 1, or 0 where there
-- was none.
--
-- @plan customers_pkey, rows <= customers
DELETE FROM customers
WHERE id = @id;
