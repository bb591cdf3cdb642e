-- The last functions whose operators whoever calls them could choose, by search_path or temporary
-- objects, get a fixed one; and the last view reads with the rights of who reads it.
-- depends: 0012.seal-events

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

ALTER VIEW status_transitions SET (security_invoker = true);

DO $do$
BEGIN
    ALTER FUNCTION set_updated_at() SET search_path = pg_catalog, pg_temp;
    ALTER FUNCTION config_value_parses(text, config_type) SET search_path = pg_catalog, pg_temp;

    -- Also where the server was upgraded to one that has its own: the defaults keep to ours.
    IF to_regprocedure(format('%I.uuidv7()', current_schema())) IS NOT NULL THEN
        CREATE OR REPLACE FUNCTION uuidv7() RETURNS uuid
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
    END IF;
END
$do$;
