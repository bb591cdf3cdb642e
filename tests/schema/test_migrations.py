"""schema/ and the migrations build the same database, and the migrations go up, down, up."""

from hashlib import sha256
from pathlib import Path

from optiinfra_db import connect
from optiinfra_db.migrate import migrate, rollback, status
from optiinfra_db.seed import seed

from .catalogue import catalogue

ROOT = Path(__file__).parents[2]


def load_schema(conn):
    for path in sorted((ROOT / "schema").glob("*.sql")):
        conn.execute(path.read_bytes())


def test_schema_and_migrations_build_the_same_database(empty_database_url, database_url):
    with connect(empty_database_url) as loaded, connect(database_url) as migrated:
        load_schema(loaded)
        loaded.execute("SET ROLE optiinfra_owner")  # as migrate does
        rows = loaded.execute("SELECT ensure_partitions(3)").fetchall()
        assert len(rows) == 8

        expected, found = catalogue(loaded), catalogue(migrated)
    for kind in expected:
        assert found[kind] == expected[kind], kind
    assert len(expected["columns"]) > 150


def test_migrations_go_up_down_to_nothing_and_up_again(empty_database_url):
    with connect(empty_database_url) as conn:
        conn.prepare_threshold = None  # the types of the results come and go
        migrate(empty_database_url)
        whole = catalogue(conn)
        count = len(status(empty_database_url))
        at_each = []
        for remaining in range(count - 1, -1, -1):
            assert len(rollback(empty_database_url)) == 1
            at_each.append(catalogue(conn))
            states = [item.state for item in status(empty_database_url)]
            assert states == ["applied"] * remaining + ["pending"] * (count - remaining)
        nothing = at_each[-1]
        assert not any(rows for kind, rows in nothing.items() if not kind.startswith("rules"))

        migrate(empty_database_url)
        assert catalogue(conn) == whole
        seed(conn)
        for number in range(count - 1, -1, -1):
            rollback(empty_database_url, to=number)
            migrate(empty_database_url)
            assert catalogue(conn) == whole
            seed(conn)
        assert rollback(empty_database_url, to=0) == [
            item.id for item in reversed(status(empty_database_url))
        ]
        assert catalogue(conn) == nothing


def test_api_keys_move_out_of_customers_and_the_newest_valid_one_comes_back(empty_database_url):
    migrate(empty_database_url)
    rollback(empty_database_url, to=10)
    with connect(empty_database_url) as conn:
        conn.prepare_threshold = None  # the types of the results come and go
        conn.execute(
            "INSERT INTO customers (name, email, api_key_hash) "
            "SELECT n, n || '@x.org', sha256(n::bytea) "
            "FROM unnest('{one,rotated,expired,revoked,without}'::text[]) AS n"
        )
        before = conn.execute("SELECT name, api_key_hash FROM customers").fetchall()

        migrate(empty_database_url)
        keys = conn.execute(
            "SELECT name, api_key_hash, expires_at, revoked_at, last_used_at "
            "FROM api_keys INNER JOIN customers ON customer_id = customers.id"
        ).fetchall()
        assert sorted(keys) == sorted((*row, None, None, None) for row in before)
        for statement in (
            "UPDATE api_keys SET expires_at = now() FROM customers AS c "
            "WHERE customer_id = c.id AND c.name = 'expired'",
            "DELETE FROM api_keys USING customers AS c "
            "WHERE customer_id = c.id AND c.name = 'without'",
            "INSERT INTO api_keys (customer_id, api_key_hash) "
            "SELECT id, sha256('new') FROM customers WHERE name = 'rotated'",
            "INSERT INTO api_keys (customer_id, api_key_hash, revoked_at) "
            "SELECT id, sha256('bad'), now() FROM customers WHERE name = 'revoked'",
        ):
            conn.execute(statement)

        rollback(empty_database_url, to=10)
        after = dict(conn.execute("SELECT name, api_key_hash FROM customers").fetchall())
        known = {name: sha256(name.encode()).digest() for name in ("one", "revoked", "new")}
        assert after["one"] == known["one"]
        assert after["revoked"] == known["revoked"]
        assert after["rotated"] == known["new"]
        lost = {after["expired"], after["without"]}
        assert len(lost) == 2
        assert not lost & {digest for _, digest in before}


def test_the_package_installs_into_the_first_schema_of_the_search_path(empty_database_url):
    with connect(empty_database_url) as conn:
        conn.execute('CREATE SCHEMA "odd ""name"')
        conn.execute(f'ALTER DATABASE {conn.info.dbname} SET search_path = "odd ""name", public')
    migrate(empty_database_url)

    with connect(empty_database_url) as conn:
        assert conn.execute("SELECT current_schema()").fetchone() == ('odd "name',)
        rows = conn.execute(
            "SELECT DISTINCT schemaname FROM pg_tables WHERE schemaname !~ '^pg_|^information'"
        )
        assert rows.fetchall() == [('odd "name',)]
        rollback(empty_database_url, to=0)
        functions = conn.execute(
            "SELECT count(*) FROM pg_proc WHERE pronamespace = to_regnamespace(%s)",
            ['"odd ""name"'],
        )
        assert functions.fetchone() == (0,)


def test_every_migration_has_its_time_outs_and_a_rollback():
    files = sorted((ROOT / "schema" / "migrations").glob("*.sql"))
    ups = [path for path in files if not path.name.endswith(".rollback.sql")]

    assert [path.name[:4] for path in ups] == [f"{n:04}" for n in range(1, len(ups) + 1)]
    assert len(files) == 2 * len(ups)
    for path in files:
        text = path.read_text()
        scope = "" if text.startswith("-- transactional: false\n") else "LOCAL "
        assert f"\nSET {scope}lock_timeout = " in text, path.name
        assert f"\nSET {scope}statement_timeout = " in text, path.name
