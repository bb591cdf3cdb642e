-- The state machines: what may become of a run, a step, a recommendation, an approval and an
-- optimization. PostgreSQL itself keeps to them, whoever writes: a function of ours, another
-- service, or a person in psql.
--
-- Each is declared once, beside its table, as the arguments of the trigger that enforces it:
--
--     EXECUTE FUNCTION enforce_transitions('pending -> running | cancelled', 'running -> ...')
--
-- so that what is read is what is enforced:
--
--     SELECT * FROM status_transitions;
--
-- A state without an arrow out is final: a row in it never changes again, but for a link that is
-- cleared because the run that it leads to was deleted. A row may be inserted in any state, so that
-- history can be imported, and deleted in any.
--
-- The SQLSTATEs of the refusals, which optiinfra_db.errors knows by name:
--
--     OI001  a status change without an arrow; ending a run, or adding to it, against its steps
--     OI002  a write by an executor whose attempt was superseded
--     OI003  a row that was to change its customer
--     OI004  a final row, an event, or the identity of a row that was to change
--
-- Locks are taken from the parent to the child: a run before its steps, those in step_order; a
-- recommendation before its approvals and optimizations. Who keeps to that does not deadlock.

CREATE FUNCTION enforce_transitions() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    subject text := left(TG_TABLE_NAME, -1);
    arrow text;
    targets text []; -- where the row may go from here; NULL in a final state
    hint text := 'SELECT * FROM status_transitions shows what is allowed.';
    changed text [];
    is_unlinked boolean := false;
BEGIN
    -- Creating a row again changes nothing, to the last byte, and leaves no trace. Not a WHEN clause
    -- of the triggers: PostgreSQL would parse it anew in every statement.
    IF NEW.status = OLD.status AND NEW *= OLD THEN
        RETURN NEW;
    END IF;

    FOREACH arrow IN ARRAY TG_ARGV LOOP
        IF starts_with(arrow, OLD.status || ' -> ') THEN
            targets := string_to_array(split_part(arrow, ' -> ', 2), ' | ');
        END IF;
    END LOOP;
    IF targets IS NULL THEN
        hint := CASE
            WHEN TG_TABLE_NAME IN ('workflow_executions', 'workflow_steps')
                THEN 'To have it done again, retry the run as a new one.'
            ELSE 'What is to be different needs a new row.'
        END;
    END IF;

    IF NEW.customer_id != OLD.customer_id THEN
        RAISE EXCEPTION '% % is of customer % and cannot become one of customer %',
            subject, OLD.id, OLD.customer_id, NEW.customer_id
            USING ERRCODE = 'OI003', TABLE = TG_TABLE_NAME, COLUMN = 'customer_id',
                HINT = 'Create it anew for the other customer.';
    END IF;
    IF NEW.id != OLD.id THEN
        changed := ARRAY['id'];
    ELSIF NEW.created_at != OLD.created_at THEN
        changed := ARRAY['created_at'];
    ELSIF TG_TABLE_NAME = 'workflow_steps' THEN
        IF NEW.workflow_execution_id != OLD.workflow_execution_id THEN
            changed := ARRAY['workflow_execution_id'];
        END IF;
    ELSIF TG_TABLE_NAME = 'workflow_executions' THEN
        IF NEW.attempt != OLD.attempt THEN
            changed := ARRAY['attempt'];
        END IF;
    END IF;
    IF changed IS NOT NULL THEN
        RAISE EXCEPTION '% % of customer % keeps its %', subject, OLD.id, OLD.customer_id, changed[1]
            USING ERRCODE = 'OI004', TABLE = TG_TABLE_NAME, COLUMN = changed[1],
                HINT = 'The audit log knows the row by it. Create another row instead.';
    END IF;

    IF NEW.status != OLD.status THEN
        IF NEW.status::text = ANY (targets) IS NOT true THEN
            RAISE EXCEPTION '% % of customer % is %; % -> % is not allowed',
                subject, OLD.id, OLD.customer_id, OLD.status, OLD.status, NEW.status
                USING ERRCODE = 'OI001', TABLE = TG_TABLE_NAME, COLUMN = 'status',
                    DETAIL = coalesce(
                        format('%s may become ', OLD.status) || array_to_string(targets, ' or ') || '.',
                        format('%s is final.', OLD.status)
                    ),
                    HINT = hint;
        END IF;
    ELSIF targets IS NULL THEN
        SELECT array_agg(old_row.key ORDER BY old_row.key)
        INTO changed
        FROM jsonb_each(to_jsonb(OLD)) AS old_row
        INNER JOIN jsonb_each(to_jsonb(NEW)) AS new_row ON old_row.key = new_row.key
        WHERE old_row.value::text != new_row.value::text;
        -- Deleting a run clears the links to it.
        IF
            changed IN ('{workflow_execution_id}', '{retried_from_id}')
            AND to_jsonb(NEW) -> changed[1] = 'null'
        THEN
            EXECUTE format(
                'SELECT NOT EXISTS ('
                'SELECT FROM %I.workflow_executions WHERE customer_id = $1 AND id = $2)',
                TG_TABLE_SCHEMA
            ) INTO is_unlinked USING OLD.customer_id, (to_jsonb(OLD) ->> changed[1])::uuid;
        END IF;
        IF NOT is_unlinked THEN
            RAISE EXCEPTION '% % of customer % is %, which is final: its % cannot change',
                subject, OLD.id, OLD.customer_id, OLD.status,
                coalesce(array_to_string(changed, ', '), 'content')
                USING ERRCODE = 'OI004', TABLE = TG_TABLE_NAME, COLUMN = coalesce(changed[1], ''),
                    HINT = hint;
        END IF;
        RETURN NEW;
    END IF;

    IF TG_TABLE_NAME = 'workflow_steps' THEN
        -- What late executors are told apart by.
        IF
            NEW.retry_count
            != OLD.retry_count + (NEW.status = 'retrying' AND OLD.status != 'retrying')::integer
        THEN
            RAISE EXCEPTION '% % of customer % has retry_count %, and % -> % cannot make that %',
                subject, OLD.id, OLD.customer_id, OLD.retry_count, OLD.status, NEW.status,
                NEW.retry_count
                USING ERRCODE = 'OI004', TABLE = TG_TABLE_NAME, COLUMN = 'retry_count',
                    HINT = 'It counts how often the step was put back: one more with each retrying.';
        END IF;
    END IF;

    NEW.updated_at := now();
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION enforce_transitions() IS
'Trigger: refuses a status change that its arguments ("a -> b | c") do not allow and any change '
'of a final row or of a row''s identity, and keeps updated_at. An update that changes nothing '
'passes and leaves no trace.';

CREATE VIEW status_transitions
WITH (security_invoker = true) AS
SELECT
    pg_class.relname::text AS table_name,
    row_number() OVER (PARTITION BY pg_class.relname ORDER BY arrows.place, target.place)::integer
        AS place,
    split_part(arrows.arrow, ' -> ', 1) AS from_status,
    target.status AS to_status
FROM pg_catalog.pg_trigger
INNER JOIN pg_catalog.pg_class ON pg_trigger.tgrelid = pg_class.oid
CROSS JOIN
    LATERAL string_to_table(encode(pg_trigger.tgargs, 'escape'), '\000')
    WITH ORDINALITY AS arrows (arrow, place)
CROSS JOIN
    LATERAL string_to_table(split_part(arrows.arrow, ' -> ', 2), ' | ')
    WITH ORDINALITY AS target (status, place)
WHERE
    pg_trigger.tgfoid = 'enforce_transitions()'::regprocedure
    AND arrows.arrow != ''
ORDER BY pg_class.relname, arrows.place, target.place;
COMMENT ON VIEW status_transitions IS
'The state machines, an arrow a row, as the triggers enforce them; what has no arrow out is '
'final.';
COMMENT ON COLUMN status_transitions.table_name IS 'The table whose rows move so.';
COMMENT ON COLUMN status_transitions.place IS 'Place of the arrow in its declaration, from 1.';
COMMENT ON COLUMN status_transitions.from_status IS 'The state that is left.';
COMMENT ON COLUMN status_transitions.to_status IS 'The state that is entered.';

CREATE FUNCTION refuse_stale_write(
    subject text, id uuid, seen integer, actual integer
) RETURNS boolean
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '% % is at % % by now, and not at % as the writer saw it', subject, id,
        CASE subject WHEN 'workflow_step' THEN 'retry_count' ELSE 'attempt' END, actual, seen
        USING ERRCODE = 'OI002', TABLE = subject || 's',
            HINT = 'Another attempt took over: drop the work, or read the row anew.';
END
$$;
COMMENT ON FUNCTION refuse_stale_write(text, uuid, integer, integer) IS
'Raises the error for an executor that writes about an attempt which was superseded. Stands in '
'the WHERE clause of what executors write.';

CREATE FUNCTION refuse_value(field text, problem text) RETURNS boolean
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '%', problem
        USING ERRCODE = 'invalid_parameter_value', COLUMN = field;
END
$$;
COMMENT ON FUNCTION refuse_value(text, text) IS
'Raises the error for an argument of a query that makes no sense. Stands in its WHERE clause.';
