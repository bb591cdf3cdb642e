-- The audit log: what happened, to what, when, and by whom. Append-only: an event is never changed,
-- and goes only with its customer or with its month.
--
-- Each creation of a run, a recommendation, an approval or an optimization and each change of their
-- status and of a step's is written here by triggers of those tables, in the same transaction,
-- whoever makes it: event_type is <subject>.<status>, and data says from (null for a creation), to,
-- retry_count of a step or attempt of a run, and the error of the attempt that ended.
--
-- An event belongs to a customer and goes only with it, or by retention. What it is about is named
-- by subject_type and subject_id without a foreign key, so that the event outlives its subject.
-- Partitioned by month of created_at, so that old months are dropped and not deleted;
-- ensure_partitions() makes the months ahead, and the DEFAULT partition catches what no month
-- covers. actor is what the application set (SET LOCAL optiinfra.actor = 'alice'), else the
-- database user; of a tenant, who may not choose it, the database user comes first.
--
-- The change feed reads in the order of (xact_id, id), and only what was written by transactions
-- older than all that are still open: so nothing can appear before what was read already.

CREATE TYPE event_severity AS ENUM ('info', 'warning', 'error', 'critical');
COMMENT ON TYPE event_severity IS 'How bad an event is, least first.';

-- Each CHECK costs every transition of a run and a step 3 to 4 us, because PostgreSQL parses it
-- anew in each statement: there are as few as keep the log readable.
CREATE TABLE events (
    customer_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    id uuid NOT NULL DEFAULT uuidv7(),
    agent_id uuid,
    event_type text NOT NULL,
    severity event_severity NOT NULL DEFAULT 'info',
    subject_type text,
    subject_id uuid,
    actor text NOT NULL DEFAULT current_actor(),
    data jsonb NOT NULL DEFAULT '{}',
    xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT events_pkey PRIMARY KEY (customer_id, created_at, id),
    CONSTRAINT events_customer_id_fkey FOREIGN KEY (customer_id)
    REFERENCES customers (id) ON DELETE CASCADE,
    CONSTRAINT events_agent_id_fkey FOREIGN KEY (agent_id)
    REFERENCES agents (id) ON DELETE SET NULL,
    CONSTRAINT events_created_at_check CHECK (isfinite(created_at)),
    CONSTRAINT events_event_type_check CHECK (char_length(event_type) BETWEEN 1 AND 100),
    CONSTRAINT events_subject_id_check CHECK ((subject_type IS NULL) = (subject_id IS NULL)),
    CONSTRAINT events_data_check CHECK (jsonb_typeof(data) = 'object')
) PARTITION BY RANGE (created_at);
COMMENT ON TABLE events IS
'The audit log: what happened; append-only, partitioned by month of created_at.';
COMMENT ON COLUMN events.customer_id IS 'Tenant.';
COMMENT ON COLUMN events.created_at IS 'When it happened.';
COMMENT ON COLUMN events.id IS 'UUIDv7; the caller may supply it.';
COMMENT ON COLUMN events.agent_id IS
'The agent that it happened to or that caused it; NULL where none did, that one was deleted, or '
'the subject says so: of a run only the creation has it, of a step nothing.';
COMMENT ON COLUMN events.event_type IS
'What happened, as <subject>.<what>, 1 to 100 characters: workflow_step.retrying, ...';
COMMENT ON COLUMN events.severity IS 'How bad it is.';
COMMENT ON COLUMN events.subject_type IS
'What it is about: workflow_execution, recommendation, ...; NULL for the customer as a whole.';
COMMENT ON COLUMN events.subject_id IS
'Id of what it is about; no foreign key, as it outlives its subject.';
COMMENT ON COLUMN events.actor IS
'Who did it: the setting optiinfra.actor, else the database user; see current_actor().';
COMMENT ON COLUMN events.data IS 'Object with what else is to be known.';
COMMENT ON COLUMN events.xact_id IS
'The transaction that wrote it; gives an order of reading that skips no late commit.';

COMMENT ON INDEX events_pkey IS 'Serves get_event and list_events.';

CREATE INDEX events_agent_id_created_at_id_idx
ON events (agent_id, created_at, id)
WHERE agent_id IS NOT NULL;
COMMENT ON INDEX events_agent_id_created_at_id_idx IS
'Serves list_events_by_agent, and deleting an agent.';

CREATE INDEX events_customer_id_subject_id_created_at_id_idx
ON events (customer_id, subject_id, created_at, id)
WHERE subject_id IS NOT NULL;
COMMENT ON INDEX events_customer_id_subject_id_created_at_id_idx IS
'Serves list_events_by_subject.';

CREATE INDEX events_xact_id_id_idx ON events (xact_id, id);
COMMENT ON INDEX events_xact_id_id_idx IS 'Serves read_events and get_feed_lag.';

CREATE FUNCTION refuse_event_change() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF
            pg_trigger_depth() > 1
            AND NOT EXISTS (SELECT FROM customers WHERE id = OLD.customer_id)
        THEN
            RETURN OLD;
        END IF;
    ELSIF TG_OP = 'UPDATE' THEN
        -- Deleting an agent clears the links to it.
        IF
            pg_trigger_depth() > 1
            AND NEW.agent_id IS NULL
            AND OLD.agent_id IS NOT NULL
            AND NOT EXISTS (SELECT FROM agents WHERE id = OLD.agent_id)
        THEN
            NEW.agent_id := OLD.agent_id;
            IF NEW *= OLD THEN
                NEW.agent_id := NULL;
                RETURN NEW;
            END IF;
        END IF;
    END IF;
    RAISE EXCEPTION '% of % is refused: the audit log is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'OI004', TABLE = TG_TABLE_NAME,
            HINT = 'Events go with their customer, or with the partition of their month.';
END
$$;
COMMENT ON FUNCTION refuse_event_change() IS
'Trigger: refuses to change, delete or truncate events, unless their customer or agent is deleted.';

-- What triggers do not write comes from applications: they have no part in the log of status
-- changes, nor in the order of the feed.
CREATE FUNCTION check_event() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF
        NEW.data ? 'from'
        AND NEW.subject_type IN (
            'workflow_execution', 'workflow_step', 'recommendation', 'approval', 'optimization'
        )
    THEN
        RAISE EXCEPTION 'an event about a change of a % (its data has "from") is written by '
            'the change itself', NEW.subject_type
            USING ERRCODE = 'OI004', TABLE = TG_TABLE_NAME, COLUMN = 'data',
                HINT = 'Change the row; or leave "from" out, for an event of another kind.';
    END IF;
    NEW.xact_id := pg_current_xact_id();
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION check_event() IS
'Trigger: refuses events by hand that say that a status changed, and keeps xact_id.';

CREATE TRIGGER events_check
BEFORE INSERT ON events
FOR EACH ROW WHEN (pg_trigger_depth() = 0)
EXECUTE FUNCTION check_event();
COMMENT ON TRIGGER events_check ON events IS 'Keeps the log of status changes to the triggers.';

CREATE TRIGGER events_refuse_change
BEFORE UPDATE OR DELETE ON events
FOR EACH ROW
EXECUTE FUNCTION refuse_event_change();
COMMENT ON TRIGGER events_refuse_change ON events IS 'Append-only.';

CREATE TRIGGER events_refuse_truncate
BEFORE TRUNCATE ON events
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_event_change();
COMMENT ON TRIGGER events_refuse_truncate ON events IS 'Append-only.';

CREATE TABLE events_default PARTITION OF events DEFAULT;
COMMENT ON TABLE events_default IS
'Events of months that have no partition; ensure_partitions() moves them to theirs.';

-- The trigger on TRUNCATE is a partition's own: it does not come from the partitioned table.
CREATE TRIGGER events_refuse_truncate
BEFORE TRUNCATE ON events_default
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_event_change();
COMMENT ON TRIGGER events_refuse_truncate ON events_default IS 'Append-only.';

-- Transaction ids begin anew in another cluster, so after dump and restore those in events would
-- stand in the future, and the feed would wait for them.
CREATE FUNCTION forget_event_xact_ids() RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    forgotten bigint;
BEGIN
    ALTER TABLE events DISABLE TRIGGER events_refuse_change;
    UPDATE events SET xact_id = '0' WHERE xact_id != '0';
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    ALTER TABLE events ENABLE TRIGGER events_refuse_change;
    -- What is written from now on lies after what was sealed.
    ALTER TABLE event_seals DISABLE TRIGGER event_seals_refuse_change;
    UPDATE event_seals
    SET through_xact_id = '0', through_id = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
    WHERE through_xact_id != '0';
    ALTER TABLE event_seals ENABLE TRIGGER event_seals_refuse_change;
    RETURN forgotten;
END
$$;
COMMENT ON FUNCTION forget_event_xact_ids() IS
'To be run by the owner after dump and restore, before anyone writes or reads the feed: sets the '
'xact_id of all events to 0, which is before every transaction; returns how many it set.';

DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION refuse_event_change() SET search_path = %I, pg_temp', current_schema()
    );
    EXECUTE format(
        'ALTER FUNCTION forget_event_xact_ids() SET search_path = %I, pg_temp', current_schema()
    );
END
$do$;
