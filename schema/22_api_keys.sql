-- An API key lets the programs of a customer call the platform. The key itself is never stored,
-- only its SHA-256, in a column that nobody needs to read: the one look-up by it is
-- authenticate_api_key().
--
-- A customer has its first key from the beginning. To rotate it is to add a new one and to let the
-- others expire, after an overlap in which both are good. A key that is expired or revoked never
-- becomes valid again; its row stays and tells until when it was used, and goes with the customer.
--
-- Written by whatever manages keys, and by each authentication, at most once a minute a key. A few
-- rows a customer.

CREATE TABLE api_keys (
    customer_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT uuidv7(),
    api_key_hash bytea NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT api_keys_pkey PRIMARY KEY (customer_id, id),
    CONSTRAINT api_keys_api_key_hash_key UNIQUE (api_key_hash),
    CONSTRAINT api_keys_customer_id_fkey FOREIGN KEY (customer_id)
    REFERENCES customers (id) ON DELETE CASCADE,
    CONSTRAINT api_keys_api_key_hash_check CHECK (octet_length(api_key_hash) = 32),
    CONSTRAINT api_keys_expires_at_check CHECK (isfinite(expires_at)),
    CONSTRAINT api_keys_revoked_at_check CHECK (isfinite(revoked_at)),
    CONSTRAINT api_keys_last_used_at_check CHECK (isfinite(last_used_at))
);
COMMENT ON TABLE api_keys IS 'Keys with which customers call the platform, as their SHA-256.';
COMMENT ON COLUMN api_keys.customer_id IS 'Tenant.';
COMMENT ON COLUMN api_keys.id IS
'UUIDv7; the caller may supply it, to create safely twice. It is no secret.';
COMMENT ON COLUMN api_keys.api_key_hash IS
'SHA-256 of the API key, 32 bytes; unique over all customers. No query returns it.';
COMMENT ON COLUMN api_keys.expires_at IS 'From when it is no longer valid; NULL for never.';
COMMENT ON COLUMN api_keys.revoked_at IS 'When it was revoked; NULL where it was not.';
COMMENT ON COLUMN api_keys.last_used_at IS
'When it was last used while valid, to the minute; NULL for never.';
COMMENT ON COLUMN api_keys.created_at IS 'When the row was written.';
COMMENT ON COLUMN api_keys.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX api_keys_pkey IS
'Serves create_api_key, rotate_api_key, revoke_api_key, list_api_keys, and deleting a customer.';
COMMENT ON INDEX api_keys_api_key_hash_key IS
'One customer a key. Serves authenticate_api_key.';

CREATE TRIGGER api_keys_set_updated_at
BEFORE UPDATE ON api_keys
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER api_keys_set_updated_at ON api_keys IS 'Keeps updated_at.';

-- A function, as one statement alone has one view of the table, from before it waits: of two who
-- rotate at once the second sees the key of the first, and lets that expire, too.
CREATE FUNCTION rotate_api_key(owner_id uuid, new_hash bytea, overlap interval, new_id uuid)
RETURNS TABLE (
    customer_id uuid,
    id uuid,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    created_at timestamptz,
    updated_at timestamptz
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    key_id uuid := coalesce(new_id, uuidv7());
    latest timestamptz;
BEGIN
    IF (overlap BETWEEN '0' AND '1 year') IS NOT true THEN
        RAISE EXCEPTION 'an overlap must be from 0 to a year'
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'overlap';
    END IF;

    PERFORM pg_advisory_xact_lock(hashtextextended('optiinfra_db.api_keys.' || owner_id, 0));
    INSERT INTO api_keys (customer_id, id, api_key_hash)
    VALUES (owner_id, key_id, new_hash)
    ON CONFLICT (customer_id, id) DO NOTHING;
    IF FOUND THEN
        latest := clock_timestamp() + overlap;
        UPDATE api_keys
        SET expires_at = latest
        WHERE
            customer_id = owner_id
            AND id != key_id
            AND revoked_at IS NULL
            AND (expires_at <= latest) IS NOT true;
    END IF;

    RETURN QUERY
    SELECT
        customer_id,
        id,
        expires_at,
        revoked_at,
        last_used_at,
        created_at,
        updated_at
    FROM api_keys
    WHERE
        customer_id = owner_id
        AND id = key_id;
END
$$;
COMMENT ON FUNCTION rotate_api_key(uuid, bytea, interval, uuid) IS
'Adds an API key of a customer, and lets its other valid ones expire after the overlap at the '
'latest; returns the new row without its hash, or the one that has this id already.';

-- SECURITY DEFINER, so that this look-up is all that a service can do with the hashes: it needs no
-- right to read them, and finds the customer of a key before it knows the tenant.
--
-- Callers at the same moment do not wait for each other to note the use: one does, the others skip
-- it.
CREATE FUNCTION authenticate_api_key(presented_hash bytea)
RETURNS TABLE (
    customer_id uuid,
    name text,
    plan customer_plan,
    status customer_status,
    api_key_id uuid,
    problem text
)
LANGUAGE sql
SECURITY DEFINER
AS $$
    WITH found AS MATERIALIZED (
        SELECT
            api_keys.customer_id,
            customers.name,
            customers.plan,
            customers.status,
            api_keys.id AS api_key_id,
            api_keys.last_used_at,
            CASE
                WHEN api_keys.revoked_at IS NOT NULL THEN 'revoked'
                WHEN api_keys.expires_at <= clock_timestamp() THEN 'expired'
            END AS problem
        FROM api_keys
        INNER JOIN customers ON api_keys.customer_id = customers.id
        WHERE api_keys.api_key_hash = presented_hash
    ),

    unnoted AS MATERIALIZED (
        SELECT
            api_keys.customer_id,
            api_keys.id
        FROM found
        INNER JOIN api_keys
            ON
                found.customer_id = api_keys.customer_id
                AND found.api_key_id = api_keys.id
        WHERE
            found.problem IS NULL
            AND (found.last_used_at > clock_timestamp() - interval '1 minute') IS NOT true
            -- Again, as it is once the row is locked.
            AND (api_keys.last_used_at > clock_timestamp() - interval '1 minute') IS NOT true
        FOR NO KEY UPDATE SKIP LOCKED
    ),

    noted AS (
        UPDATE api_keys
        SET last_used_at = clock_timestamp()
        FROM unnoted
        WHERE
            api_keys.customer_id = unnoted.customer_id
            AND api_keys.id = unnoted.id
    )

    SELECT
        found.customer_id,
        found.name,
        found.plan,
        found.status,
        found.api_key_id,
        found.problem
    FROM found
$$;
REVOKE EXECUTE ON FUNCTION authenticate_api_key(bytea) FROM PUBLIC;
COMMENT ON FUNCTION authenticate_api_key(bytea) IS
'The customer whose API key has this SHA-256, and what is wrong with the key (revoked, expired; '
'NULL for nothing); notes the use of a valid one, at most once a minute.';

-- Whoever calls them, and whatever lies before it on the search path or among temporary tables.
DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION rotate_api_key(uuid, bytea, interval, uuid) SET search_path = %I, pg_temp',
        current_schema()
    );
    EXECUTE format(
        'ALTER FUNCTION authenticate_api_key(bytea) SET search_path = %I, pg_temp', current_schema()
    );
END
$do$;
