-- Helpers that the tables below rest on. Nothing here reads or writes a table, and nothing is
-- SECURITY DEFINER.
--
-- uuidv7() gives time-ordered ids: ORDER BY id is creation order, new rows land at the right edge
-- of each index, and paging by id needs no other column. PostgreSQL 18 has the function built in;
-- before that we supply our own, with the bits below the millisecond that keep the ids of one
-- session in order.

DO $do$
BEGIN
    IF to_regprocedure('pg_catalog.uuidv7()') IS NULL THEN
        -- RFC 9562: 48 bits of milliseconds, version, 12 bits of the rest of the millisecond,
        -- variant, 62 random bits. Microseconds * 512 / 125 are the first 60 bits (4096 a
        -- millisecond); the rest, variant included, is that of gen_random_uuid. One expression, so
        -- that it is inlined, and parsed once and for all, so that no search_path matters.
        CREATE FUNCTION uuidv7() RETURNS uuid
        LANGUAGE sql
        VOLATILE
        PARALLEL SAFE
        RETURN (
            overlay(
                pg_catalog.lpad(
                    pg_catalog.to_hex(
                        (extract(EPOCH FROM pg_catalog.clock_timestamp()) * 1000000)::bigint
                        * 512 / 125
                    ),
                    15,
                    '0'
                )
                PLACING '7' FROM 13 FOR 0
            )
            || pg_catalog.right(pg_catalog.gen_random_uuid()::text, 17)
        )::uuid;
        COMMENT ON FUNCTION uuidv7() IS
            'Time-ordered UUID (RFC 9562 version 7). Stands in for the built-in of PostgreSQL 18.';
    END IF;
END
$do$;

CREATE FUNCTION set_updated_at() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.updated_at := pg_catalog.now();
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION set_updated_at() IS
'Trigger: keeps updated_at. Attached WHEN (OLD.* IS DISTINCT FROM NEW.*), so that an update '
'that changes nothing (creating a row again) leaves no trace.';

-- Whose rows a session may see, where it may not see all (90_access.sql). The body is resolved when
-- it is defined, whatever the search path of who calls it, and inlined.
CREATE FUNCTION current_customer_id() RETURNS uuid
LANGUAGE sql
STABLE
PARALLEL SAFE
RETURN coalesce(
    substring(session_user FROM '^optiinfra_tenant_([-0-9a-f]{36})$'),
    nullif(current_setting('optiinfra.customer_id', true), '')
)::uuid;
COMMENT ON FUNCTION current_customer_id() IS
'The customer whom the session is for: of a login named optiinfra_tenant_<customer id> that one, '
'else the setting optiinfra.customer_id, else none.';

-- Of a tenant the login comes before what it says of itself: it can pass for nobody else.
CREATE FUNCTION current_actor() RETURNS text
LANGUAGE sql
STABLE
PARALLEL SAFE
RETURN CASE
    WHEN
        pg_has_role(to_regrole('optiinfra_tenant'), 'USAGE')
        AND pg_has_role(to_regrole('optiinfra_service'), 'USAGE') IS NOT true
        AND pg_has_role(to_regrole('optiinfra_owner'), 'USAGE') IS NOT true
        THEN concat_ws(':', session_user, nullif(current_setting('optiinfra.actor', true), ''))
    ELSE coalesce(nullif(current_setting('optiinfra.actor', true), ''), session_user)
END;
COMMENT ON FUNCTION current_actor() IS
'Who acts, for the audit log: the setting optiinfra.actor, else the database user; of a tenant '
'the database user, then a colon and the setting.';
