"""What triggers and functions do does not depend on the search_path of whoever sets them off."""

from datetime import datetime
from uuid import UUID

import psycopg
import pytest

SECURITY_DEFINERS = {"authenticate_api_key"}
"""Functions that run with the rights of their owner; the DDL of each says why."""

OURS = "pronamespace = current_schema()::regnamespace"


def test_every_function_has_a_fixed_search_path(conn):
    rows = conn.execute(
        "SELECT proname, proconfig FROM pg_proc "
        f"WHERE {OURS} AND prokind = 'f' AND prosqlbody IS NULL"
    ).fetchall()
    fixed = {"search_path=pg_catalog, pg_temp", "search_path=public, pg_temp"}
    assert [name for name, settings in rows if not fixed & set(settings or ())] == []
    assert len(rows) > 10


def test_functions_with_the_rights_of_their_owner_are_listed(conn):
    rows = conn.execute(f"SELECT proname FROM pg_proc WHERE {OURS} AND prosecdef")
    assert {name for (name,) in rows} == SECURITY_DEFINERS


def test_views_read_with_the_rights_of_their_reader(conn):
    rows = conn.execute(
        "SELECT relname, reloptions FROM pg_class "
        "WHERE relnamespace = current_schema()::regnamespace AND relkind = 'v'"
    ).fetchall()
    assert [name for name, options in rows if "security_invoker=true" not in (options or ())] == []
    assert rows


def test_our_own_uuidv7_is_inlined(conn):
    plan = "\n".join(line for (line,) in conn.execute("EXPLAIN (VERBOSE) SELECT uuidv7()"))
    is_built_in = conn.info.server_version >= 180000
    assert ("uuidv7()" in plan, "gen_random_uuid()" in plan) == (is_built_in, not is_built_in)


# Whoever writes may have put anything in front of what our functions mean.

_HOSTILE = """
CREATE SCHEMA hostile;
CREATE FUNCTION hostile.hijack() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN RAISE EXCEPTION 'hijacked'; END$$;

DO $do$
DECLARE
    types regtype[] := '{anyarray,anyelement,bigint,boolean,integer,interval,jsonb,name,text,'
        'timestamptz,uuid,xid8}';
    one record;
BEGIN
    FOR one IN
        SELECT
            oprname,
            oprleft::regtype AS left_type,
            oprright::regtype AS right_type,
            oprresult::regtype AS result_type,
            'operator_' || row_number() OVER () AS function
        FROM pg_operator
        WHERE
            oprnamespace = 'pg_catalog'::regnamespace
            AND oprleft = ANY (types)
            AND oprright = ANY (types)
            AND oprresult != 0
    LOOP
        EXECUTE format(
            'CREATE FUNCTION hostile.%1$I(%3$s, %4$s) RETURNS %5$s LANGUAGE plpgsql AS '
            '$$BEGIN RAISE EXCEPTION ''hijacked''; END$$; '
            'CREATE OPERATOR hostile.%2$s '
            '(LEFTARG = %3$s, RIGHTARG = %4$s, FUNCTION = hostile.%1$I)',
            one.function, one.oprname, one.left_type, one.right_type, one.result_type
        );
    END LOOP;

    FOR one IN
        SELECT
            proname,
            pg_get_function_identity_arguments(oid) AS arguments,
            pg_get_function_result(oid) AS result
        FROM pg_proc
        WHERE
            pronamespace = 'pg_catalog'::regnamespace
            AND prokind = 'f'
            AND provariadic = 0
            AND prorettype != 'internal'::regtype
            AND proname IN (
                'array_to_string', 'char_length', 'clock_timestamp', 'coalesce', 'current_setting',
                'date_trunc', 'format', 'gen_random_uuid', 'greatest', 'hashtextextended',
                'jsonb_each', 'left', 'lpad', 'make_interval', 'now', 'pg_advisory_xact_lock',
                'pg_current_xact_id', 'pg_relation_size', 'pg_trigger_depth', 'right',
                'split_part', 'starts_with', 'string_to_array', 'to_char', 'to_hex', 'to_jsonb',
                'upper', 'uuidv7'
            )
    LOOP
        EXECUTE format(
            'CREATE FUNCTION hostile.%I(%s) RETURNS %s LANGUAGE plpgsql AS '
            '$$BEGIN RAISE EXCEPTION ''hijacked''; END$$',
            one.proname, one.arguments, one.result
        );
    END LOOP;

    FOR one IN
        SELECT relname
        FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
    LOOP
        EXECUTE format('CREATE TABLE hostile.%I (LIKE public.%1$I)', one.relname);
        EXECUTE format('CREATE TEMPORARY TABLE %I (LIKE public.%1$I)', one.relname);
        EXECUTE format(
            'CREATE TRIGGER hijack BEFORE INSERT OR UPDATE ON hostile.%I '
            'FOR EACH ROW EXECUTE FUNCTION hostile.hijack(); '
            'CREATE TRIGGER hijack BEFORE INSERT OR UPDATE ON pg_temp.%1$I '
            'FOR EACH ROW EXECUTE FUNCTION hostile.hijack()',
            one.relname
        );
    END LOOP;

    FOR one IN
        SELECT typname
        FROM pg_type
        WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'
    LOOP
        EXECUTE format('CREATE TYPE hostile.%I AS ENUM (''hijacked'')', one.typname);
    END LOOP;
END
$do$;

CREATE FUNCTION public.trusting() RETURNS boolean LANGUAGE plpgsql AS
$$BEGIN RETURN 'a'::text = 'b'::text; END$$;
"""

HOSTILE_PATHS = [
    "hostile, pg_catalog, public",
    "pg_temp, hostile, pg_catalog, public",
    "hostile, pg_temp, public, pg_catalog",
]

CUSTOMER, AGENT, RUN, DOOMED_RUN, STEP, RECOMMENDATION, APPROVAL, OPTIMIZATION, TOKEN, SPARE = (
    UUID(f"01941f29-7c00-7000-8000-{number:012x}") for number in range(10)
)

# Everything that has a trigger or a function of ours in it, in statements that leave no name open.
STATEMENTS = [
    "INSERT INTO public.customers (id, name, email) VALUES (%(customer)s, 'a', 'a@b.example')",
    "INSERT INTO public.api_keys (customer_id, id, api_key_hash)"
    " VALUES (%(customer)s, %(agent)s, %(hash)s)",
    "SELECT name, problem FROM public.authenticate_api_key(%(hash)s)",
    "UPDATE public.customers SET name = 'b'",
    "INSERT INTO public.agents (id, type, name, version) VALUES (%(agent)s, 'cost', 'a', '1')",
    "INSERT INTO public.agents (id, type, name, version) VALUES (%(spare)s, 'cost', 'b', '1')",
    "INSERT INTO public.agents (type, name, version) VALUES ('cost', 'of a default id', '1')",
    "UPDATE public.agents SET status = 'healthy'",
    *(
        "INSERT INTO public.agent_configs (agent_id, config_key, config_value, config_type)"
        f" VALUES (%(agent)s, '{kind}', '{value}', '{kind}')"
        for kind, value in (
            ("string", "x"),
            ("integer", "1"),
            ("float", "1.5"),
            ("boolean", "true"),
            ("json", "{}"),
        )
    ),
    "SELECT public.acquire_agent_lock(%(agent)s, 'gpu', '1 hour', %(token)s) IS NOT NULL",
    "SELECT public.acquire_agent_lock(%(spare)s, 'gpu', '1 hour', NULL) IS NULL",
    "INSERT INTO public.workflow_executions (customer_id, id, agent_id, workflow_type)"
    " VALUES (%(customer)s, %(run)s, %(agent)s, 'cost_analysis'),"
    " (%(customer)s, %(doomed)s, %(spare)s, 'cost_analysis')",
    "INSERT INTO public.workflow_steps"
    " (customer_id, workflow_execution_id, id, step_name, step_order)"
    " VALUES (%(customer)s, %(run)s, %(step)s, 'a', 1),"
    " (%(customer)s, %(doomed)s, %(token)s, 'b', 1)",
    "UPDATE public.workflow_executions SET status = 'running', started_at = pg_catalog.now()",
    "UPDATE public.workflow_steps SET status = 'running', started_at = pg_catalog.now()",
    "UPDATE public.workflow_steps SET status = 'completed',"
    " completed_at = pg_catalog.clock_timestamp() WHERE id OPERATOR(pg_catalog.=) %(step)s",
    "UPDATE public.workflow_executions SET status = 'completed',"
    " completed_at = pg_catalog.clock_timestamp() WHERE id OPERATOR(pg_catalog.=) %(run)s",
    "UPDATE public.workflow_executions SET status = 'cancelled',"
    " completed_at = pg_catalog.clock_timestamp() WHERE id OPERATOR(pg_catalog.=) %(doomed)s",
    "INSERT INTO public.recommendations (customer_id, id, agent_id, type, title)"
    " VALUES (%(customer)s, %(recommendation)s, %(agent)s, 'x', 'x')",
    "INSERT INTO public.approvals (customer_id, id, recommendation_id)"
    " VALUES (%(customer)s, %(approval)s, %(recommendation)s)",
    "UPDATE public.approvals SET status = 'approved', approved_by = 'ada',"
    " decided_at = pg_catalog.now()",
    "UPDATE public.recommendations SET status = 'approved', approved_at = pg_catalog.now()",
    "INSERT INTO public.optimizations (customer_id, id, recommendation_id, agent_id)"
    " VALUES (%(customer)s, %(optimization)s, %(recommendation)s, %(agent)s)",
    "UPDATE public.optimizations SET status = 'executing', started_at = pg_catalog.now()",
    "INSERT INTO public.events (customer_id, event_type) VALUES (%(customer)s, 'note.taken')",
    "SELECT pg_catalog.count(*) FROM public.ensure_partitions(5)",
    "DELETE FROM public.agents WHERE id OPERATOR(pg_catalog.=) %(spare)s",
    "SELECT public.forget_event_xact_ids()",
    "SELECT table_name, place, from_status, to_status FROM public.status_transitions",
]
REFUSED = [
    "UPDATE public.workflow_executions SET status = 'running'",
    "UPDATE public.workflow_steps SET metadata = '{\"a\": 1}'",
    "UPDATE public.recommendations SET status = 'completed'",
    "UPDATE public.recommendations SET customer_id = %(token)s",
    "UPDATE public.events SET severity = 'error'",
    "DELETE FROM public.events",
    "TRUNCATE public.events",
    "INSERT INTO public.events (customer_id, event_type, subject_type, data)"
    " VALUES (%(customer)s, 'x', 'approval', '{\"from\": null}')",
    "INSERT INTO public.workflow_steps (customer_id, workflow_execution_id, step_name, step_order)"
    " VALUES (%(customer)s, %(run)s, 'late', 2)",
    "INSERT INTO public.agent_configs (agent_id, config_key, config_value, config_type)"
    " VALUES (%(agent)s, 'x', 'x', 'integer')",
    "SELECT public.refuse_value('x', 'y')",
    "SELECT public.refuse_stale_write('workflow_step', %(step)s, 1, 2)",
    "SELECT public.acquire_agent_lock(%(agent)s, '', '1 hour', NULL)",
    "SELECT public.ensure_partitions(-1)",
]
VALUES = {
    "customer": CUSTOMER,
    "agent": AGENT,
    "spare": SPARE,
    "run": RUN,
    "doomed": DOOMED_RUN,
    "step": STEP,
    "recommendation": RECOMMENDATION,
    "approval": APPROVAL,
    "optimization": OPTIMIZATION,
    "token": TOKEN,
    "hash": bytes(32),
}
WRITTEN = [
    "customers",
    "agents",
    "agent_configs",
    "agent_states",
    "workflow_executions",
    "workflow_steps",
    "recommendations",
    "approvals",
    "optimizations",
    "events",
]


def outcome(conn, path):
    """Run the statements under a search_path; return what each did, and what was there then."""
    told = []
    with conn.transaction(force_rollback=True):
        conn.execute(f"SET LOCAL search_path = {path}")
        for statement in [*STATEMENTS, *REFUSED]:
            try:
                with conn.transaction():
                    cursor = conn.execute(statement, VALUES)
                    told.append(cursor.fetchall() if cursor.description else cursor.rowcount)
            except psycopg.Error as error:
                told.append((error.sqlstate, error.diag.message_primary))
        conn.execute("SET LOCAL search_path = public")
        for table in WRITTEN:
            rows = conn.execute(f"SELECT * FROM public.{table}").fetchall()
            told.append(sorted(repr([part for part in row if is_fixed(part)]) for row in rows))
    return told


def is_fixed(value):
    """Whether it does not depend on when the row was written."""
    is_given = isinstance(value, UUID) and value in VALUES.values()
    is_lock = isinstance(value, dict) and "gpu" in value
    return is_given or (not isinstance(value, datetime | UUID | int) and not is_lock)


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_hostile_names_change_nothing_that_triggers_and_functions_do(conn, path):
    usual = outcome(conn, "public")
    is_refused = [isinstance(each, tuple) for each in usual]
    assert not any(is_refused[: len(STATEMENTS)])
    assert all(is_refused[len(STATEMENTS) : -len(WRITTEN)])

    conn.execute(_HOSTILE)
    conn.execute(f"SET LOCAL search_path = {path}")
    with pytest.raises(psycopg.errors.RaiseException, match="hijacked"), conn.transaction():
        conn.execute("SELECT public.trusting()")
    assert outcome(conn, path) == usual
