-- The functions and the view as they were before.

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

ALTER FUNCTION set_updated_at() RESET search_path;
ALTER FUNCTION config_value_parses(text, config_type) RESET search_path;
ALTER VIEW status_transitions RESET (security_invoker);

DO $do$
BEGIN
    IF to_regprocedure(format('%I.uuidv7()', current_schema())) IS NOT NULL THEN
        CREATE OR REPLACE FUNCTION uuidv7() RETURNS uuid
        LANGUAGE sql
        VOLATILE
        PARALLEL SAFE
        AS $$
            SELECT (
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
            )::uuid
        $$;
    END IF;
END
$do$;
