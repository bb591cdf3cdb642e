"""The group roles: who may do what is what access_rules says, and how it comes about."""

import re
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest

from optiinfra_db import connect
from optiinfra_db.errors import PermissionDenied
from optiinfra_db.generated import access, customers, events
from optiinfra_db.migrate import migrate, rollback
from optiinfra_db.seed import ATLAS, seed

from ..conftest import running_server

ROLES = ("optiinfra_owner", "optiinfra_service", "optiinfra_tenant", "optiinfra_reader")
OURS = "relnamespace = current_schema()::regnamespace"


def values(conn, query, *params):
    return [value for (value,) in conn.execute(query, params).fetchall()]


def test_every_table_and_view_has_its_rule(conn):
    ruled = values(conn, "SELECT relation_name FROM access_rules")
    there = values(
        conn,
        f"SELECT relname FROM pg_class WHERE {OURS} AND relkind ~ '[rpvm]' AND NOT relispartition",
    )
    assert sorted(ruled) == sorted(there)
    places = values(conn, "SELECT place FROM access_rules")
    assert places == list(range(1, len(places) + 1))


@pytest.mark.parametrize("group", ["service", "tenant", "reader"])
def test_privileges_are_those_of_the_rules(conn, group):
    rules = conn.execute(f"SELECT relation_name, {group} FROM access_rules").fetchall()
    for relation, rule in rules:
        granted = {}
        for privilege, columns in re.findall(r"([A-Z]+)(?: \(([^)]*)\))?", rule or ""):
            granted[privilege] = columns.split(", ") if columns else None
        held = values(
            conn,
            "SELECT privilege_type FROM pg_class, aclexplode(relacl) "
            "WHERE oid = %s::regclass AND grantee = %s::regrole",
            relation,
            f"optiinfra_{group}",
        )
        assert sorted(held) == sorted(p for p, columns in granted.items() if columns is None)
        by_column = conn.execute(
            "SELECT privilege_type, array_agg(attname::text ORDER BY attnum) "
            "FROM pg_attribute, aclexplode(attacl) "
            "WHERE attrelid = %s::regclass AND grantee = %s::regrole GROUP BY privilege_type",
            [relation, f"optiinfra_{group}"],
        ).fetchall()
        expected = {p: sorted(columns) for p, columns in granted.items() if columns}
        assert {p: sorted(columns) for p, columns in by_column} == expected, relation


def test_everything_is_the_owners(conn):
    others = values(
        conn,
        f"""
        SELECT relname FROM pg_class
        WHERE {OURS} AND relkind ~ '[rpvmS]' AND relowner != 'optiinfra_owner'::regrole
        UNION ALL
        SELECT proname FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace
            AND proowner != 'optiinfra_owner'::regrole
        UNION ALL
        SELECT typname FROM pg_type
        WHERE typnamespace = current_schema()::regnamespace AND typtype = 'e'
            AND typowner != 'optiinfra_owner'::regrole
        """,
    )
    assert others == []


def test_group_roles_cannot_log_in_and_have_no_powers(conn):
    rows = conn.execute(
        "SELECT rolname FROM pg_roles WHERE rolname = ANY (%s) AND NOT (rolcanlogin OR rolsuper "
        "OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication)",
        [list(ROLES)],
    ).fetchall()
    assert sorted(rows) == sorted((role,) for role in ROLES)


def test_row_security_is_forced_on_whatever_belongs_to_a_customer(conn):
    of_customers = values(
        conn,
        f"""
        SELECT c.relname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
        WHERE {OURS} AND c.relkind ~ '[rp]' AND a.attname = 'customer_id'
        """,
    )
    forced = conn.execute(
        f"""
        SELECT c.relname, array_agg(p.polname::text ORDER BY p.polname)
        FROM pg_class AS c JOIN pg_policy AS p ON p.polrelid = c.oid
        WHERE {OURS} AND c.relrowsecurity AND c.relforcerowsecurity
        GROUP BY c.relname
        """
    ).fetchall()
    assert len([name for name in of_customers if re.match(r"events_\d", name)]) > 3
    assert sorted(forced) == sorted(
        (name, ["all_rows", "own_rows"]) for name in [*of_customers, "customers"]
    )


def test_a_table_of_a_later_migration_is_read_by_service_and_reader(database_url):
    with connect(database_url) as conn:
        conn.execute("SET ROLE optiinfra_owner; CREATE TABLE later (id uuid)")
        for role in ROLES:
            may_read = conn.execute(
                "SELECT has_table_privilege(%s, 'later', 'SELECT'), "
                "has_table_privilege(%s, 'later', 'INSERT')",
                [role, role],
            ).fetchone()
            assert may_read == (role != "optiinfra_tenant", role == "optiinfra_owner")


def test_a_new_partition_is_under_row_security_whoever_makes_it(database_url):
    with connect(database_url) as conn:
        made = values(conn, "SELECT ensure_partitions(5)")
        rows = conn.execute(
            "SELECT relname, relowner::regrole::text, relrowsecurity AND relforcerowsecurity "
            "FROM pg_class WHERE relname = ANY (%s) ORDER BY relname",
            [made],
        ).fetchall()
        assert rows == [
            (name, "optiinfra_owner", name.startswith("events")) for name in sorted(made)
        ]
        assert len(rows) == 4


def test_granting_again_locks_nothing_and_mends_what_is_missing(database_url):
    with connect(database_url) as conn, connect(database_url) as reader:
        with reader.transaction():
            reader.execute("SELECT FROM customers")
            assert access.grant_access(conn) == []
        conn.execute("DROP POLICY all_rows ON events; REVOKE ALL ON events FROM optiinfra_service")
        conn.execute("SELECT grant_access(anew => true)")
        assert values(conn, "SELECT has_table_privilege('optiinfra_service', 'events', 'SELECT')")
        assert (
            len(values(conn, "SELECT polname FROM pg_policy WHERE polrelid = 'events'::regclass"))
            == 2
        )


def test_the_reader_reads_all_customers_but_no_secrets(database_url):
    with connect(database_url) as conn:
        seed(conn)
        conn.execute("SET ROLE optiinfra_reader")
        assert len(customers.list_customers(conn, max_rows=9)) == 3
        for secret in ("api_key_hash FROM api_keys", "config_value FROM agent_configs"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(f"SELECT {secret}")
        with pytest.raises(PermissionDenied, match="access_rules"):
            events.create_event(conn, customer_id=ATLAS, event_type="x")


@pytest.fixture(scope="module")
def bare_server(request):
    """Start a server of which nobody has made the group roles."""
    with running_server(str(request.config.getoption("--pg"))) as server:
        yield server


@contextmanager
def login(server, attributes=""):
    """Make a database of a login that is no superuser; take both away, and the group roles."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN {attributes}")
        admin.execute(f"CREATE DATABASE {name} OWNER {name}")
        try:
            yield server.url(name).replace("//postgres@", f"//{name}@"), admin
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            for role in (*ROLES, name):
                admin.execute(f"DROP ROLE IF EXISTS {role}")


def test_a_login_that_may_make_roles_makes_them(bare_server):
    with login(bare_server, "CREATEROLE") as (url, _):
        result = migrate(url)
        assert result.for_administrator == []
        assert migrate(url).applied == []
        with connect(url) as conn:
            test_everything_is_the_owners(conn)
            seed(conn)
            assert len(customers.list_customers(conn, max_rows=9)) == 3
            assert values(conn, "SELECT count(*) FROM events WHERE actor = current_user") > [0]
            conn.execute("SET ROLE optiinfra_tenant")
            assert customers.list_customers(conn, max_rows=9) == []
        rollback(url, to=0)
        assert migrate(url).applied == result.applied


def test_a_login_that_may_not_says_what_an_administrator_has_to_run(bare_server):
    with login(bare_server) as (url, admin):
        said = []
        result = migrate(url, say=said.append)
        assert [s for s in result.for_administrator if s.startswith("CREATE ROLE")] == [
            f"CREATE ROLE {role} NOLOGIN" for role in ROLES
        ]
        assert ";\n".join(result.for_administrator) + ";" in said[-1]
        with connect(url) as conn:
            seed(conn)
            events.create_event(conn, customer_id=ATLAS, event_type="x")
            assert len(customers.list_customers(conn, max_rows=9)) == 3
            assert values(conn, "SELECT relforcerowsecurity FROM pg_class WHERE relname = 'events'")

        again = migrate(url, say=said.append)
        assert again.applied == []
        assert again.for_administrator == result.for_administrator

        for statement in result.for_administrator:
            with psycopg.connect(admin.info.dsn, dbname=re.search(r"/(test_\w+)", url)[1]) as conn:
                conn.execute(statement)
        assert migrate(url, say=said.append).for_administrator == []
        with connect(url) as conn:
            test_everything_is_the_owners(conn)
            test_privileges_are_those_of_the_rules(conn, "tenant")
            assert len(customers.list_customers(conn, max_rows=9)) == 3


def test_migrate_names_logins_that_see_nothing(database_url):
    name = f"test_{uuid4().hex}"
    said = []
    with connect(database_url) as conn:
        conn.execute(f"CREATE ROLE {name} LOGIN; GRANT SELECT ON workflow_executions TO {name}")
        try:
            assert name in access.list_roles_without_group(conn)
            migrate(database_url, say=said.append)
            assert f"see the rows of no customer: {name}." in said[-1]
            conn.execute(f"GRANT optiinfra_reader TO {name}")
            assert name not in access.list_roles_without_group(conn)
        finally:
            conn.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_rolling_back_leaves_no_privileges_and_the_tables_to_who_migrates(database_url):
    rollback(database_url, to=13)
    with connect(database_url) as conn:
        assert values(conn, f"SELECT relname FROM pg_class WHERE {OURS} AND relrowsecurity") == []
        owned = f"SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE {OURS}"
        assert values(conn, owned) == ["postgres"]
        assert (
            values(
                conn, f"SELECT relname FROM pg_class WHERE {OURS} AND relacl::text ~ 'optiinfra'"
            )
            == []
        )
        assert values(conn, "SELECT count(*) FROM pg_default_acl") == [0]
    migrate(database_url)
