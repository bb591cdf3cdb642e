-- Seals over the audit log: proof, against whoever has every right on the database, that the events
-- of a customer are those that were sealed. Triggers keep events from being changed, but an owner
-- can disable them; what was sealed before then tells.
--
-- A seal covers the events of one customer between two places in the order of the change feed. It
-- has the SHA-256 of each, over its canonical form, and a hash over all of that and over the hash
-- of the seal before: so the last hash of a customer, its head, stands for everything before it.
-- Who keeps heads elsewhere notices even a chain that was made anew as a whole.
--
-- Written by seal_events, for all customers at once; a row a customer and sealing, with 64 bytes an
-- event. It takes no lock that writers wait for.

CREATE TABLE event_seals (
    customer_id uuid NOT NULL,
    seal_number integer NOT NULL,
    through_xact_id xid8 NOT NULL,
    through_id uuid NOT NULL,
    event_ids uuid[] NOT NULL,
    event_times timestamptz[] NOT NULL,
    event_digests bytea[] NOT NULL,
    events_hash bytea NOT NULL,
    previous_hash bytea NOT NULL,
    hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT event_seals_pkey PRIMARY KEY (customer_id, seal_number),
    CONSTRAINT event_seals_customer_id_fkey FOREIGN KEY (customer_id)
    REFERENCES customers (id) ON DELETE CASCADE,
    CONSTRAINT event_seals_seal_number_check CHECK (seal_number >= 1),
    CONSTRAINT event_seals_event_ids_check CHECK (
        cardinality(event_ids) >= 1
        AND cardinality(event_ids) = cardinality(event_times)
        AND cardinality(event_ids) = cardinality(event_digests)
    ),
    CONSTRAINT event_seals_hash_check CHECK (
        octet_length(events_hash) = 32
        AND octet_length(previous_hash) = 32
        AND octet_length(hash) = 32
    )
);
COMMENT ON TABLE event_seals IS
'Hashes over the events of customers, each chained to the one before; append-only.';
COMMENT ON COLUMN event_seals.customer_id IS 'Tenant.';
COMMENT ON COLUMN event_seals.seal_number IS 'Place in the chain of the customer: 1, 2, 3, ...';
COMMENT ON COLUMN event_seals.through_xact_id IS
'Up to which place in the order of the feed events are sealed: its xact_id; 0 after a restore.';
COMMENT ON COLUMN event_seals.through_id IS 'The id of that place.';
COMMENT ON COLUMN event_seals.event_ids IS 'The events that it covers, in the order of the feed.';
COMMENT ON COLUMN event_seals.event_times IS 'created_at of each.';
COMMENT ON COLUMN event_seals.event_digests IS 'SHA-256 of canonical_event() of each.';
COMMENT ON COLUMN event_seals.events_hash IS 'hash_events() of the three.';
COMMENT ON COLUMN event_seals.previous_hash IS
'hash of the seal before; 32 zero bytes in the first of a customer.';
COMMENT ON COLUMN event_seals.hash IS 'hash_seal() of this one.';
COMMENT ON COLUMN event_seals.created_at IS 'When the row was written.';

COMMENT ON INDEX event_seals_pkey IS
'Serves seal_events, list_event_seals, list_event_seal_heads, verify_event_seals, '
'find_unsealed_events, and deleting a customer.';

-- Bodies that are resolved when they are defined, whatever the search path of who calls them. The
-- formats are part of what is sealed: they never change.

-- Not the agent, which is cleared when that is deleted, nor xact_id, which a restore forgets.
CREATE FUNCTION canonical_event(event events) RETURNS text
LANGUAGE sql
STABLE
PARALLEL SAFE
RETURN jsonb_build_object(
    'customer_id', (event).customer_id,
    'created_at',
    to_char((event).created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'id', (event).id,
    'event_type', (event).event_type,
    'severity', (event).severity::text,
    'subject_type', (event).subject_type,
    'subject_id', (event).subject_id,
    'actor', (event).actor,
    'data', (event).data
)::text;
COMMENT ON FUNCTION canonical_event(events) IS
'The text of an event that is hashed, in UTF-8: JSON with its keys in a fixed order, times in UTC '
'with microseconds.';

CREATE FUNCTION hash_events(ids uuid[], times timestamptz[], digests bytea[]) RETURNS bytea
LANGUAGE sql
STABLE
PARALLEL SAFE
RETURN (
    SELECT
        sha256(
            convert_to(
                string_agg(
                    format(
                        E'%s %s %s\n',
                        entry.id,
                        to_char(entry.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                        encode(entry.digest, 'hex')
                    ),
                    '' ORDER BY entry.place
                ),
                'UTF8'
            )
        )
    FROM unnest(ids, times, digests) WITH ORDINALITY AS entry (id, at, digest, place)
);
COMMENT ON FUNCTION hash_events(uuid[], timestamptz[], bytea[]) IS
'SHA-256 of a line an event: its id, its created_at and its digest in hex.';

CREATE FUNCTION hash_seal(
    customer_id uuid,
    seal_number integer,
    events_hash bytea,
    previous_hash bytea
) RETURNS bytea
LANGUAGE sql
STABLE
PARALLEL SAFE
RETURN sha256(
    convert_to(
        format(
            E'optiinfra seal 1\ncustomer %s\nnumber %s\nevents %s\nprevious %s\n',
            customer_id,
            seal_number,
            encode(events_hash, 'hex'),
            encode(previous_hash, 'hex')
        ),
        'UTF8'
    )
);
COMMENT ON FUNCTION hash_seal(uuid, integer, bytea, bytea) IS
'SHA-256 of five lines that say what the seal says, the hash of the one before included.';

CREATE FUNCTION refuse_seal_change() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF
        TG_OP = 'DELETE'
        AND pg_trigger_depth() > 1
        AND NOT EXISTS (SELECT FROM customers WHERE id = OLD.customer_id)
    THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION '% of event_seals is refused: seals are append-only', TG_OP
        USING ERRCODE = 'OI004', TABLE = TG_TABLE_NAME,
            HINT = 'Seals go with their customer.';
END
$$;
COMMENT ON FUNCTION refuse_seal_change() IS
'Trigger: refuses to change, delete or truncate seals, unless their customer is deleted.';

CREATE TRIGGER event_seals_refuse_change
BEFORE UPDATE OR DELETE ON event_seals
FOR EACH ROW
EXECUTE FUNCTION refuse_seal_change();
COMMENT ON TRIGGER event_seals_refuse_change ON event_seals IS 'Append-only.';

CREATE TRIGGER event_seals_refuse_truncate
BEFORE TRUNCATE ON event_seals
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_seal_change();
COMMENT ON TRIGGER event_seals_refuse_truncate ON event_seals IS 'Append-only.';

DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION refuse_seal_change() SET search_path = %I, pg_temp', current_schema()
    );
END
$do$;
