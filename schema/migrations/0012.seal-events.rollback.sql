-- The seals are lost:
-- squawk-ignore-file ban-drop-table, ban-drop-function

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

CREATE OR REPLACE FUNCTION forget_event_xact_ids() RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    forgotten bigint;
BEGIN
    ALTER TABLE events DISABLE TRIGGER events_refuse_change;
    UPDATE events SET xact_id = '0' WHERE xact_id != '0';
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    ALTER TABLE events ENABLE TRIGGER events_refuse_change;
    RETURN forgotten;
END
$$;
DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION forget_event_xact_ids() SET search_path = %I, pg_temp', current_schema()
    );
END
$do$;
DROP TABLE event_seals;
DROP FUNCTION refuse_seal_change();
DROP FUNCTION hash_seal(uuid, integer, bytea, bytea);
DROP FUNCTION hash_events(uuid[], timestamptz[], bytea[]);
DROP FUNCTION canonical_event(events);
