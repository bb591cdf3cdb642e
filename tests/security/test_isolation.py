"""What a tenant can get at by any SQL it likes, and by the generated functions: its own rows.

Each attack runs as two logins. `shared` is a member of optiinfra_tenant that says for whom it
works, as a service for many customers does; `bound` is one of a single customer, named after it,
that says it were another. Whatever becomes of an attack, the victim's rows are what they were,
nothing of them is in a result, a notice or an error, and the connection goes on.
"""

import inspect
import re
from contextlib import closing
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from optiinfra_db import audit, connect, tenant
from optiinfra_db.errors import (
    ConnectionLost,
    DatabaseError,
    InvalidValue,
    PermissionDenied,
    TenantMismatch,
    typed_errors,
)
from optiinfra_db.generated import agents, events, workflow_executions

from ..conftest import cloned_database
from ..queries.database import Database, customers_in
from ..queries.test_tenants import (
    NOUNS,
    RECOMMENDATION,
    RUN,
    arguments_for,
    make_everything,
)

SECRET = "victims-secret"
TABLES = sorted({*NOUNS, "event_seals"})
VIEWS = (
    "failed_workflows",
    "recommendation_trace",
    "running_workflows",
    "savings_by_month",
    "workflow_progress",
    "workflow_stats",
)
PROBES = {
    "is read": "SELECT t::text FROM {table} AS t",
    "is asked for": "SELECT t::text FROM {table} AS t WHERE customer_id = '{victim}'",
    "is asked for by id": "SELECT t::text FROM {table} AS t WHERE {key} = '{id}'",
    "is asked for by place": "SELECT t::text FROM {table} AS t WHERE ctid >= '(0,0)'",
    "is sampled": "SELECT t::text FROM {table} AS t TABLESAMPLE SYSTEM (100)",
    "is locked": "SELECT t::text FROM {table} AS t FOR UPDATE",
    "is gathered": "SELECT json_agg(t)::text FROM {table} AS t",
    "is guessed": (
        "SELECT CASE WHEN EXISTS (SELECT FROM {table} WHERE customer_id = '{victim}') "
        "THEN '{secret}' END"
    ),
    "is counted": (
        "SELECT CASE WHEN count(*) > 0 THEN '{secret}' END FROM {table} "
        "WHERE customer_id = '{victim}'"
    ),
    "is joined": (
        "SELECT t::text FROM agents CROSS JOIN LATERAL ("
        "SELECT * FROM {table} WHERE customer_id = '{victim}' OFFSET 0) AS t"
    ),
    "is unioned": "SELECT t::text FROM {table} AS t EXCEPT ALL SELECT 'x'",
    "is copied": "COPY {table} TO STDOUT",
    "is copied by query": "COPY (SELECT t::text FROM {table} AS t) TO STDOUT",
    "is fetched": "DECLARE c CURSOR FOR SELECT t::text FROM {table} AS t; FETCH ALL FROM c",
    "is prepared": "PREPARE p AS SELECT t::text FROM {table} AS t; EXECUTE p",
    "is told by a function": (
        "CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS "
        "$$BEGIN RAISE NOTICE '%', $1; RETURN true; END$$; "
        "SELECT count(*) FROM {table} AS t WHERE pg_temp.tell(t::text)"
    ),
    "is told by an operator": (
        "CREATE FUNCTION pg_temp.tell(text, text) RETURNS boolean LANGUAGE plpgsql "
        "COST 0.0000001 AS $$BEGIN RAISE NOTICE '%', $1; RETURN true; END$$; "
        "CREATE OPERATOR pg_temp.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.tell); "
        "SELECT count(*) FROM {table} AS t WHERE t::text OPERATOR(pg_temp.===) ''"
    ),
    "is told by a view": (
        "CREATE TEMP VIEW seen AS SELECT * FROM {table}; SELECT s::text FROM seen AS s"
    ),
    "is told by an error": "SELECT count(*) FROM {table} AS t WHERE (t::text)::integer = 1",
    "is told by a division": (
        "SELECT count(*) FROM {table} AS t "
        "WHERE CASE WHEN customer_id = '{victim}' THEN 1 / ({key} IS NULL)::integer ELSE 1 END = 1"
    ),
    "is told by statistics": (
        "SELECT most_common_vals::text || histogram_bounds::text FROM pg_stats "
        "WHERE tablename = '{table}'"
    ),
    "is told by raw statistics": "SELECT stavalues1::text FROM pg_statistic",
    "is read without its policy": "SET LOCAL row_security = off; SELECT t::text FROM {table} AS t",
    "is changed": "UPDATE {table} SET {key} = {key} WHERE customer_id = '{victim}'",
    "is taken over": "UPDATE {table} SET customer_id = '{me}' WHERE customer_id = '{victim}'",
    "is given away": "UPDATE {table} SET customer_id = '{victim}'",
    "is given away one by one": (
        "DO $$DECLARE r record; BEGIN FOR r IN SELECT {key} AS id FROM {table} LOOP "
        "UPDATE {table} SET customer_id = '{victim}' WHERE {key} = r.id; END LOOP; END$$"
    ),
    "is merged": (
        "MERGE INTO {table} AS t USING (SELECT '{victim}'::uuid AS c) AS s "
        "ON t.customer_id = s.c WHEN MATCHED THEN DELETE"
    ),
    "is deleted": "DELETE FROM {table} WHERE customer_id = '{victim}'",
    "is deleted by subquery": "DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table})",
    "is emptied": "TRUNCATE {table} CASCADE",
    "is put under another's name": (
        "INSERT INTO {table} SELECT (jsonb_populate_record(t, jsonb_build_object("
        "'customer_id', '{victim}'))).* FROM {table} AS t"
    ),
    "is overwritten": (
        "INSERT INTO {table} SELECT (jsonb_populate_record(t, jsonb_build_object("
        "'customer_id', '{victim}'))).* FROM {table} AS t ON CONFLICT DO NOTHING RETURNING *"
    ),
    "is altered": "ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
    "is unforced": "ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY",
    "is opened": "CREATE POLICY mine ON {table} USING (true)",
    "is left open": "DROP POLICY own_rows ON {table}",
    "is redefined": "ALTER POLICY own_rows ON {table} USING (true)",
    "is granted": "GRANT ALL ON {table} TO PUBLIC",
    "is left without triggers": "ALTER TABLE {table} DISABLE TRIGGER ALL",
    "is indexed": "CREATE INDEX ON {table} ((pg_notify('x', {table}::text)))",
    "is listened to": (
        "CREATE FUNCTION pg_temp.hear() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE NOTICE '%', NEW; RETURN NEW; END$$; "
        "CREATE TRIGGER hear AFTER INSERT OR UPDATE ON {table} FOR EACH ROW "
        "EXECUTE FUNCTION pg_temp.hear()"
    ),
    "has a rule": "CREATE RULE r AS ON SELECT TO {table} DO INSTEAD SELECT 1",
    "has a child": "CREATE TEMP TABLE child () INHERITS ({table})",
    "is referenced": (
        "CREATE TEMP TABLE mine (c uuid, i uuid, FOREIGN KEY (c, i) REFERENCES {table})"
    ),
}
"""What is tried on each table of customers."""

STATEMENTS = {
    "becomes the owner": "SET ROLE optiinfra_owner",
    "becomes the service": "SET ROLE optiinfra_service",
    "becomes the reader": "SET ROLE optiinfra_reader",
    "becomes a superuser": "SET ROLE postgres",
    "logs in as a superuser": "SET SESSION AUTHORIZATION postgres",
    "becomes nobody": "SET ROLE NONE; SELECT t::text FROM workflow_executions AS t",
    "becomes who it was": "RESET ROLE; SELECT t::text FROM workflow_executions AS t",
    "makes itself a superuser": "ALTER ROLE CURRENT_USER SUPERUSER",
    "makes itself bypass": "ALTER ROLE CURRENT_USER BYPASSRLS",
    "makes itself a member": "GRANT optiinfra_service TO CURRENT_USER",
    "makes a role": "CREATE ROLE mine SUPERUSER",
    "turns triggers off": "SET session_replication_role = replica",
    "reads files": "SELECT pg_read_file('PG_VERSION')",
    "lists files": "SELECT pg_ls_dir('.')",
    "writes files": "COPY (SELECT 1) TO '/tmp/optiinfra-attack'",
    "loads files": "CREATE TEMP TABLE f (t text); COPY f FROM '/etc/passwd'",
    "runs programs": "COPY (SELECT 1) TO PROGRAM 'true'",
    "imports objects": "SELECT lo_import('/etc/passwd')",
    "reads its configuration": "SELECT t::text FROM pg_hba_file_rules AS t",
    "reads passwords": "SELECT rolpassword FROM pg_authid",
    "sees what others run": (
        "SELECT query FROM pg_stat_activity WHERE usename = 'postgres' AND query ~ '{secret}'"
    ),
    "ends what others run": (
        "SELECT CASE WHEN pg_terminate_backend(pid) THEN '{secret}' END "
        "FROM pg_stat_activity WHERE usename = 'postgres'"
    ),
    "makes a table": "CREATE TABLE events_of_mine (id uuid)",
    "makes a function": "CREATE FUNCTION now() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "makes a schema": "CREATE SCHEMA mine",
    "makes an extension": "CREATE EXTENSION plpgsql",
    "changes a function": "ALTER FUNCTION current_customer_id() SECURITY DEFINER",
    "replaces a function": (
        "CREATE OR REPLACE FUNCTION current_customer_id() RETURNS uuid LANGUAGE sql STABLE "
        "AS $$SELECT '{victim}'::uuid$$"
    ),
    "shadows a function": (
        "CREATE FUNCTION pg_temp.current_customer_id() RETURNS uuid LANGUAGE sql STABLE "
        "AS $$SELECT '{victim}'::uuid$$; SET LOCAL search_path = pg_temp, public; "
        "SELECT t::text FROM workflow_executions AS t"
    ),
    "shadows a setting": (
        "CREATE FUNCTION pg_temp.current_setting(text, boolean) RETURNS text LANGUAGE sql STABLE "
        "AS $$SELECT '{victim}'$$; SET LOCAL search_path = pg_temp, pg_catalog, public; "
        "SELECT t::text FROM workflow_executions AS t"
    ),
    "shadows a table of the triggers": (
        "CREATE TEMP TABLE events (LIKE public.events INCLUDING ALL); "
        "CREATE TEMP TABLE workflow_executions (LIKE public.workflow_executions); "
        "UPDATE public.workflow_executions SET status = 'cancelled', completed_at = now() "
        "WHERE id = '{run}'; SELECT CASE WHEN count(*) > 0 THEN '{secret}' END FROM pg_temp.events"
    ),
    "grants to itself": "SELECT grant_access(true)",
    "isolates anew": "SELECT isolate_customers('events', 'id')",
    "makes xact_ids forgotten": "SELECT forget_event_xact_ids()",
    "makes partitions": "SELECT ensure_partitions(120)",
    "reads a partition": "SELECT t::text FROM events_default AS t",
    "reads every partition": (
        "DO $$DECLARE r record; x text; BEGIN FOR r IN SELECT inhrelid::regclass AS p FROM "
        "pg_inherits WHERE inhparent = 'events'::regclass LOOP "
        "EXECUTE 'SELECT string_agg(t::text, '','') FROM ' || r.p || ' AS t' INTO x; "
        "RAISE NOTICE '%', x; END LOOP; END$$"
    ),
    "writes to a partition": (
        "INSERT INTO events_default (customer_id, event_type) VALUES ('{victim}', 'x')"
    ),
    "detaches a partition": "ALTER TABLE events DETACH PARTITION events_default",
    "reads the customers": "SELECT c::text FROM customers AS c",
    "reads a customer": "SELECT c::text FROM customers AS c WHERE id = '{victim}'",
    "guesses a customer": (
        "SELECT CASE WHEN count(*) > 1 THEN '{secret}' END FROM customers WHERE email LIKE '%'"
    ),
    "makes a customer": (
        "INSERT INTO customers (name, email) VALUES ('x', 'customer-1@example.com')"
    ),
    "changes its plan": "UPDATE customers SET plan = 'enterprise'",
    "changes its status": "UPDATE customers SET status = 'active'",
    "takes an address": "UPDATE customers SET email = 'customer-1@example.com'",
    "deletes a customer": "DELETE FROM customers WHERE id = '{victim}'",
    "deletes itself": "DELETE FROM customers",
    "deletes an agent": "DELETE FROM agents",
    "changes an agent": "UPDATE agents SET status = 'failed'",
    "reads states": "SELECT t::text FROM agent_states AS t",
    "reads settings": "SELECT t::text FROM agent_configs AS t",
    "reads metrics": "SELECT t::text FROM agent_metrics AS t",
    "reads workloads": "SELECT t::text FROM agent_workload AS t",
    "works for another's run": (
        "INSERT INTO workflow_executions (customer_id, agent_id, workflow_type, retried_from_id, "
        "attempt) SELECT '{me}', agent_id, 'cost_analysis', '{victims_run}', 2 "
        "FROM workflow_executions LIMIT 1"
    ),
    "adds a step to another's run": (
        "INSERT INTO workflow_steps (customer_id, workflow_execution_id, step_name, step_order) "
        "VALUES ('{victim}', '{run}', 'x', 9)"
    ),
    "adds its step to another's run": (
        "INSERT INTO workflow_steps (customer_id, workflow_execution_id, step_name, step_order) "
        "VALUES ('{me}', '{victims_run}', 'x', 9)"
    ),
    "approves for another": (
        "INSERT INTO approvals (customer_id, recommendation_id) VALUES ('{victim}', "
        "'{recommendation}')"
    ),
    "names the actor of an event": (
        "INSERT INTO events (customer_id, event_type, actor) VALUES ('{me}', 'x', 'root')"
    ),
    "dates an event back in the feed": (
        "INSERT INTO events (customer_id, event_type, xact_id) VALUES ('{me}', 'x', '0')"
    ),
    "says that a status changed": (
        "INSERT INTO events (customer_id, event_type, subject_type, subject_id, data) VALUES "
        "('{me}', 'workflow_execution.completed', 'workflow_execution', '{run}', "
        '\'{{"from": "running", "to": "completed"}}\')'
    ),
    "tells of another": ("INSERT INTO events (customer_id, event_type) VALUES ('{victim}', 'x')"),
    "locks the tables": "LOCK TABLE customers IN ACCESS EXCLUSIVE MODE",
    "changes the database": "ALTER DATABASE postgres SET optiinfra.customer_id = '{victim}'",
    "changes its login": "ALTER ROLE postgres SET optiinfra.customer_id = '{victim}'",
    "reads the time line of another": "SELECT t::text FROM status_transitions AS t, events AS e "
    "WHERE e.customer_id = '{victim}'",
}
CLAIMS = {
    "says it is another": "SET optiinfra.customer_id = '{victim}'",
    "says so for the transaction": "SET LOCAL optiinfra.customer_id = '{victim}'",
    "says so by function": "SELECT set_config('optiinfra.customer_id', '{victim}', false)",
    "says so in a subtransaction": (
        "SAVEPOINT s; SET LOCAL optiinfra.customer_id = '{victim}'; ROLLBACK TO SAVEPOINT s; "
        "SET LOCAL optiinfra.customer_id = '{victim}'; RELEASE SAVEPOINT s"
    ),
    "says so in the query": (
        "SELECT t::text FROM (SELECT set_config('optiinfra.customer_id', '{victim}', true)) AS s, "
        "LATERAL (SELECT * FROM workflow_executions) AS t"
    ),
    "says so as the group": "SET ROLE optiinfra_tenant; SET optiinfra.customer_id = '{victim}'",
    "says so in a function": (
        "CREATE FUNCTION pg_temp.f() RETURNS SETOF text LANGUAGE sql "
        "SET optiinfra.customer_id = '{victim}' AS "
        "$$SELECT t::text FROM public.workflow_executions AS t$$; SELECT pg_temp.f()"
    ),
    "says so in braces": "SET optiinfra.customer_id = '{{{victim}}}'",
    "says so in capitals": "SELECT set_config('optiinfra.customer_id', upper('{victim}'), false)",
}
NOBODY = ("", " ", "x", "'", "%", "NULL", "null", "00000000-0000-0000-0000-000000000000", "*", "{}")


class World:
    """Two customers with a row of each kind under the same ids, and more of the victim's."""

    def __init__(self, url):
        self.url = url
        self.admin = connect(url)
        db = Database("", lambda function, **given: function(self.admin, **given), self._rows)
        agent = db.make_agent()
        self.agent = agent
        self.victim, self.me = (make_everything(db, agent) for _ in range(2))
        self.victims_run = db.make_run(self.victim, agent).id
        for statement in (
            "UPDATE workflow_executions SET input_data = %s",
            "UPDATE workflow_steps SET input_data = %s",
            "UPDATE workflow_artifacts SET metadata = %s",
            "UPDATE recommendations SET data = %s",
            "UPDATE optimizations SET result = %s",
        ):
            self.admin.execute(
                f"{statement} WHERE customer_id = '{self.victim.id}'", [f'{{"x": "{SECRET}"}}']
            )
        self.admin.execute(
            f"UPDATE approvals SET comment = '{SECRET}' WHERE customer_id = '{self.victim.id}'"
        )
        self.admin.execute(f"UPDATE customers SET name = '{SECRET}' WHERE id = '{self.victim.id}'")
        events.create_event(
            self.admin, customer_id=self.victim.id, event_type="x", data={"x": SECRET}
        )
        audit.seal(self.admin)
        self.admin.execute("ANALYZE")
        self.logins = {
            "shared": f"test_{uuid4().hex}",
            "bound": f"optiinfra_tenant_{self.me.id}",
        }
        for login in self.logins.values():
            self.admin.execute(
                sql.SQL("CREATE ROLE {} LOGIN IN ROLE optiinfra_tenant").format(
                    sql.Identifier(login)
                )
            )
        self.before = self.victims_rows()

    def _rows(self, query, params=None):
        cursor = self.admin.execute(query, params)
        return cursor.fetchall() if cursor.description else None

    def victims_rows(self):
        """Return all that is the victim's, and all that is nobody's."""
        owned = [
            f"SELECT '{table}', t::text FROM {table} AS t WHERE customer_id = '{self.victim.id}'"
            for table in TABLES
        ]
        rest = [f"SELECT '{table}', t::text FROM {table} AS t" for table in ("customers", "agents")]
        return sorted(self._rows(" UNION ALL ".join(owned + rest)))

    def connect(self, login):
        """Connect as a tenant: the shared one for itself, the bound one as if for the victim."""
        customer = {"shared": self.me, "bound": self.victim}[login].id
        url = self.url.replace("//postgres@", f"//{self.logins[login]}@")
        return connect(url, actor="root", customer_id=customer)

    def close(self):
        for login in self.logins.values():
            self.admin.execute(
                sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(login))
            )
        self.admin.close()


@pytest.fixture(scope="module")
def world(migrated_template):
    with cloned_database(migrated_template) as url, closing(World(url)) as world:
        yield world


@pytest.fixture(params=["shared", "bound"])
def attacker(request, world):
    with world.connect(request.param) as conn:
        yield conn


def attempt(conn, statements):
    """Run statements in a transaction that is undone; return all that they tell, and the error."""
    told = []
    conn.add_notice_handler(
        notice := lambda diag: told.append(f"{diag.message_primary} {diag.message_detail}")
    )
    error = None
    try:
        with typed_errors(), conn.transaction(force_rollback=True), conn.cursor() as cursor:
            if re.match(r"COPY .* TO STDOUT", statements):
                with cursor.copy(statements) as copy:
                    told += [bytes(data).decode() for data in copy]
            else:
                cursor.execute(statements)
                told += [str(rows.fetchall()) for rows in cursor.results() if rows.description]
    except (DatabaseError, psycopg.Error) as caught:
        error = caught
        cause = caught if isinstance(caught, psycopg.Error) else caught.__cause__
        diag = cause.diag
        told += [str(caught), str(diag.message_detail), str(diag.message_hint), str(diag.context)]
    finally:
        conn.remove_notice_handler(notice)
    return "\n".join(told), error


def assert_harmless(world, conn, statements):
    told, error = attempt(conn, statements)
    without_statement = told.replace(f'"{SECRET}"', "") if error else told
    assert SECRET not in without_statement, told
    assert not isinstance(error, ConnectionLost), told
    assert world.victims_rows() == world.before
    assert conn.execute("SELECT 1").fetchone() == (1,)
    return told, error


def filled(world, statement, **more):
    return statement.format(
        victim=world.victim.id,
        me=world.me.id,
        victims_run=world.victims_run,
        run=RUN,
        recommendation=RECOMMENDATION,
        secret=SECRET,
        **more,
    )


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("probe", PROBES)
def test_a_table_of_another(world, attacker, table, probe):
    key = {"key": "id", "id": NOUNS[table]} if table in NOUNS else {"key": "hash", "id": "\\x00"}
    statement = filled(world, PROBES[probe], table=table, **key)
    told, error = assert_harmless(world, attacker, statement)
    if table == "api_keys":  # not for tenants, not even their own
        assert isinstance(error, DatabaseError | psycopg.Error) or "statistics" in probe
    elif probe == "is asked for by id" and table not in NOUNS:  # there is no such seal
        assert told == "[]"
    elif probe.startswith(
        ("is read", "is asked for by", "is sampled", "is gathered", "is fetched")
    ):
        assert str(world.me.id) in told or "row-level security" in told
    elif probe == "is told by a division":
        assert error is None, "it was asked about the victim's rows"


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_on_another(world, attacker, view):
    assert_harmless(world, attacker, f"SELECT v::text FROM {view} AS v")
    assert_harmless(world, attacker, f"COPY (TABLE {view}) TO STDOUT")
    told, _ = assert_harmless(
        world,
        attacker,
        "CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS "
        "$$BEGIN RAISE NOTICE '%', $1; RETURN true; END$$; "
        f"SELECT count(*) FROM {view} AS v WHERE pg_temp.tell(v::text)",
    )
    assert str(world.victim.id) not in told


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_tenant_that(world, attacker, statement):
    told, error = assert_harmless(world, attacker, filled(world, STATEMENTS[statement]))
    reads = statement.startswith(("becomes nobody", "becomes who", "shadows", "reads the", "sees"))
    reads |= statement in {"reads a customer", "guesses a customer", "isolates anew"}
    assert error is not None or reads, told


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_bound_login_that(world, claim):
    with world.connect("bound") as conn:
        conn.execute("BEGIN")
        conn.execute("SAVEPOINT claim")
        try:
            cursor = conn.execute(filled(world, CLAIMS[claim]))
            told = [str(rows.fetchall()) for rows in cursor.results() if rows.description]
        except psycopg.errors.InsufficientPrivilege as error:  # from PostgreSQL 16, in a function
            told = [str(error)]
            conn.execute("ROLLBACK TO SAVEPOINT claim")
        for table in {*TABLES, "customers"} - {"api_keys"}:
            told += [str(conn.execute(f"SELECT t::text FROM {table} AS t").fetchall())]
        assert SECRET not in "".join(told)
        assert conn.execute("SELECT current_customer_id()").fetchone() == (world.me.id,)


@pytest.mark.parametrize("setting", NOBODY)
def test_who_says_for_nobody_sees_nothing(world, setting):
    with world.connect("shared") as conn:
        conn.execute("SELECT set_config('optiinfra.customer_id', %s, false)", [setting])
        for table in (*TABLES, "customers"):
            told, error = assert_harmless(world, conn, f"SELECT t::text FROM {table} AS t")
            assert told == "[]" or isinstance(error, InvalidValue | PermissionDenied)
            told, error = assert_harmless(world, conn, f"UPDATE {table} SET created_at = now()")
            assert isinstance(error, InvalidValue | PermissionDenied) or not told
    with world.connect("shared") as conn:
        conn.execute("RESET optiinfra.customer_id")
        conn.execute("SELECT set_config('optiinfra.customer_id', '', false)")
        assert (
            workflow_executions.list_workflow_executions(conn, customer_id=world.me.id, max_rows=9)
            == []
        )


def test_a_member_of_no_group_sees_nothing_whatever_it_was_granted(world):
    role = f"test_{uuid4().hex}"
    with world.admin.transaction(force_rollback=True):
        world.admin.execute(f"CREATE ROLE {role}")
        world.admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        world.admin.execute(f"SET LOCAL ROLE {role}")
        partitions = world.admin.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass"
        ).fetchall()
        assert len(partitions) > 2
        for table in (*TABLES, "customers", *(name for (name,) in partitions)):
            assert world.admin.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_generated_functions_show_and_change_nothing_of_another(world):
    called = 0
    with world.connect("shared") as conn:
        db = Database("", lambda function, **given: function(conn, **given), conn.execute)
        for noun in NOUNS:
            for name, call in vars(getattr(db, noun)).items():
                function = db.functions[noun, name]
                if "customer_id" not in inspect.signature(function).parameters:
                    continue
                if name == "record_workflow_execution":  # needs a whole run
                    continue
                given = arguments_for(noun, function, world.victim, world.agent)
                with conn.transaction(force_rollback=True):
                    try:
                        result = call(**given)
                    except (PermissionDenied, TenantMismatch) as error:
                        result = str(error)
                assert SECRET not in repr(result), name
                assert world.victim.id not in customers_in(result), name
                assert world.victims_rows() == world.before, name
                called += 1
    assert called > 60


def test_what_spans_customers_spans_the_tenants_own_only(world):
    called = 0
    with world.connect("shared") as conn:
        db = Database("", lambda function, **given: function(conn, **given), conn.execute)
        for noun in (*NOUNS, "customers", "monitoring", "doctor"):
            for name in vars(getattr(db, noun)):
                function = db.functions[noun, name]
                parameters = inspect.signature(function).parameters
                if name.startswith("copy_"):
                    continue
                optional = parameters.get("customer_id")
                if optional is not None and optional.default is not None:
                    continue
                try:
                    given = arguments_for(
                        noun if noun in NOUNS else "events", function, world.me, world.agent
                    )
                except KeyError:
                    continue
                given.pop("customer_id", None)
                with conn.transaction(force_rollback=True):
                    try:
                        result = getattr(getattr(db, noun), name)(**given)
                    except DatabaseError as error:
                        result = str(error)
                assert SECRET not in repr(result), name
                assert str(world.victim.id) not in repr(result), name
                assert world.victims_rows() == world.before, name
                called += 1
    assert called > 20


@pytest.mark.parametrize("login", ["shared", "bound"])
def test_the_actor_of_a_tenant_cannot_be_forged(world, login):
    with world.connect(login) as conn, conn.transaction(force_rollback=True):
        conn.execute("SELECT set_config('optiinfra.customer_id', %s, true)", [str(world.me.id)])
        assert conn.execute("SHOW optiinfra.actor").fetchone() == ("root",)
        event = events.create_event(conn, customer_id=world.me.id, event_type="x")
        workflow_executions.cancel_workflow_execution(
            conn, customer_id=world.me.id, id=RUN, reason="x", actor="postgres"
        )
        actors = {
            row.actor
            for row in events.list_events(conn, customer_id=world.me.id, max_rows=99)
            if row.created_at >= event.created_at
        }
    name = world.logins[login]
    assert event.actor == f"{name}:root"
    assert actors == {f"{name}:root", f"{name}:postgres"}


def test_in_a_block_the_login_of_the_service_is_the_actor(world):
    with connect(world.url, actor="cost-agent") as conn:
        with tenant(conn, world.me.id):
            within = events.create_event(conn, customer_id=world.me.id, event_type="x")
        after = events.create_event(conn, customer_id=world.me.id, event_type="x")
    assert (within.actor, after.actor) == ("postgres:cost-agent", "cost-agent")


def test_agents_of_the_platform_are_known_to_tenants(attacker, world):
    assert agents.get_agent(attacker, id=world.agent.id) == world.agent
