"""What holds for every table, column, constraint and index, asked of the catalogues."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

from optiinfra_db import generated

ROOT = Path(__file__).parents[2]
TABLES = {
    "agent_capabilities",
    "agent_configs",
    "agent_metrics",
    "agent_states",
    "agents",
    "api_keys",
    "approvals",
    "customers",
    "event_seals",
    "events",
    "legal_holds",
    "optimizations",
    "receipts",
    "recommendations",
    "retention_policies",
    "workflow_artifacts",
    "workflow_executions",
    "workflow_steps",
}

# People ask for both by status, however long the history. A recommendation changes its status three
# or four times in its life, and a run enters the second with its last.
WITH_STATUS = {
    "recommendations_customer_id_status_id_idx",
    "workflow_executions_customer_id_status_id_ended_idx",
}

INDEXES = """
    SELECT t.relname, c.relname AS name, i.indkey::int[] AS columns, i.indisunique, i.indisprimary,
        pg_get_expr(i.indpred, i.indrelid) AS predicate,
        pg_get_indexdef(i.indexrelid) AS definition,
        array(
            SELECT coalesce(a.attname, pg_get_indexdef(i.indexrelid, k.place::int, true))
            FROM unnest(i.indkey::int[]) WITH ORDINALITY AS k (attnum, place)
            LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                AND k.attnum > 0
            ORDER BY k.place
        )::text[] AS names,
        obj_description(i.indexrelid, 'pg_class') AS comment
    FROM pg_index AS i
    JOIN pg_class AS c ON c.oid = i.indexrelid
    JOIN pg_class AS t ON t.oid = i.indrelid
    WHERE c.relnamespace = current_schema()::regnamespace
        AND NOT t.relispartition AND t.relname !~ 'yoyo'
    ORDER BY t.relname, c.relname
"""


@pytest.fixture
def rows(conn):
    """Run a query and return its rows as objects with a field a column."""
    from psycopg.rows import namedtuple_row

    def run(query):
        with conn.cursor(row_factory=namedtuple_row) as cursor:
            return cursor.execute(query).fetchall()

    return run


def test_there_are_18_tables_and_16_enums(rows):
    tables = rows(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition "
        "AND relnamespace = current_schema()::regnamespace AND relname !~ 'yoyo'"
    )
    assert {row.relname for row in tables} == TABLES
    enums = rows(
        "SELECT typname FROM pg_type WHERE typtype = 'e' "
        "AND typnamespace = current_schema()::regnamespace"
    )
    assert len(enums) == 16


def test_everything_is_commented(rows):
    missing = rows(
        """
        SELECT 'table ' || c.relname AS name FROM pg_class AS c
        WHERE c.relkind IN ('r', 'p', 'v') AND obj_description(c.oid, 'pg_class') IS NULL
            AND c.relnamespace = current_schema()::regnamespace AND c.relname !~ 'yoyo'
        UNION ALL
        SELECT 'column ' || c.relname || '.' || a.attname
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        WHERE c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition AND a.attnum > 0
            AND c.relnamespace = current_schema()::regnamespace AND c.relname !~ 'yoyo'
            AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL
        UNION ALL
        SELECT 'type ' || t.typname FROM pg_type AS t
        WHERE t.typtype = 'e' AND obj_description(t.oid, 'pg_type') IS NULL
            AND t.typnamespace = current_schema()::regnamespace
        UNION ALL
        SELECT 'function ' || p.proname FROM pg_proc AS p
        WHERE obj_description(p.oid, 'pg_proc') IS NULL
            AND p.pronamespace = current_schema()::regnamespace
        UNION ALL
        SELECT 'trigger ' || t.tgname FROM pg_trigger AS t
        JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE NOT t.tgisinternal AND NOT c.relispartition
            AND obj_description(t.oid, 'pg_trigger') IS NULL
        """
    )
    assert missing == []


def test_every_column_says_when_the_row_was_written_and_changed(rows):
    found = rows(
        f"""
        SELECT c.relname, array_agg(a.attname::text) AS columns,
            (SELECT count(*) FROM pg_trigger AS t
             WHERE t.tgrelid = c.oid
                AND t.tgfoid IN ('set_updated_at'::regproc, 'enforce_transitions'::regproc)
            ) AS triggers
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
        WHERE c.relname = ANY ('{{{",".join(TABLES)}}}'::text[]) AND a.attnum > 0
        GROUP BY c.oid
        """
    )
    assert len(found) == len(TABLES)
    for table in found:
        assert "created_at" in table.columns
        is_append_only = table.relname in {"events", "event_seals", "agent_metrics", "receipts"}
        assert ("updated_at" in table.columns) != is_append_only
        assert (table.triggers == 1) != is_append_only


def test_constraints_and_indexes_are_named_after_their_table(rows):
    constraints = rows(
        "SELECT c.relname, o.conname AS name, o.contype FROM pg_constraint AS o "
        "JOIN pg_class AS c ON c.oid = o.conrelid "
        "WHERE c.relnamespace = current_schema()::regnamespace "
        "AND NOT c.relispartition AND c.relname !~ 'yoyo'"
    )
    endings = {"p": "_pkey", "f": "_fkey", "u": "_key", "c": "_check", "n": "_not_null"}
    for row in constraints:
        assert row.name.startswith(f"{row.relname}_"), row.name
        assert row.name.endswith(endings[row.contype]), row.name
        assert not re.search(r"\d$", row.name), row.name
    for row in rows(INDEXES):
        assert row.name.startswith(f"{row.relname}_"), row.name
        ending = "_pkey" if row.indisprimary else "_key" if row.indisunique else "_idx"
        assert row.name.endswith(ending), row.name


def test_every_foreign_key_is_indexed(rows):
    indexes = rows(INDEXES)
    foreign_keys = rows(
        """
        SELECT c.relname, o.conname, array(
            SELECT a.attname FROM unnest(o.conkey) AS k (attnum)
            JOIN pg_attribute AS a ON a.attrelid = o.conrelid AND a.attnum = k.attnum
        )::text[] AS names
        FROM pg_constraint AS o JOIN pg_class AS c ON c.oid = o.conrelid
        WHERE o.contype = 'f' AND NOT c.relispartition
            AND c.relnamespace = current_schema()::regnamespace
        """
    )
    assert len(foreign_keys) == 25
    for key in foreign_keys:
        leading = [
            index.names[: len(key.names)]
            for index in indexes
            if index.relname == key.relname
            and (
                index.predicate is None
                # which every row that the key applies to meets
                or index.predicate in {f"({name} IS NOT NULL)" for name in key.names}
            )
        ]
        assert any(set(names) == set(key.names) for names in leading), key.conname


def test_no_index_is_redundant(rows):
    indexes = rows(INDEXES)
    for one in indexes:
        for other in indexes:
            if one is other or one.relname != other.relname or one.predicate != other.predicate:
                continue
            is_left_prefix = one.names == other.names[: len(one.names)]
            if one.indisunique:  # it keeps rows apart, whatever else is there
                is_left_prefix = is_left_prefix and one.names == other.names and other.indisunique
            assert not is_left_prefix, f"{one.name} is a left prefix of {other.name}"


def test_columns_that_live_rows_change_are_in_no_index(rows):
    busy = {
        "updated_at",
        "heartbeat_at",
        "progress",
        "last_heartbeat",
        "last_activity",
        "last_used_at",
    }
    for index in rows(INDEXES):
        assert not busy & set(index.names), index.name
        if {"status", "current_status"} & set(index.names):
            assert index.name in WITH_STATUS, (
                f"{index.name}: status stands in the predicate of a partial index only"
            )


def test_every_index_serves_queries_that_exist(rows):
    names = {
        name
        for path in (ROOT / "queries").glob("*.sql")
        for name in re.findall(r"^-- name: (\w+)", path.read_text(), re.MULTILINE)
    }
    for index in rows(INDEXES):
        if index.indisprimary and index.names == ["id"] and index.comment == "Identity of a row.":
            continue
        assert index.comment, f"{index.name} does not say what it serves"
        served = {word for word in re.findall(r"\w+_\w+", index.comment) if word in names}
        assert served, f"{index.name} serves no query that exists: {index.comment}"
        verbs = (
            r"(?:get|list|count|create|upsert|start|complete|advance|fail|decide|register|set)_\w+"
        )
        unknown = set(re.findall(rf"\b{verbs}", index.comment)) - names
        assert not unknown, f"{index.name} names queries that do not exist: {unknown}"


def test_every_tenant_table_is_keyed_by_customer_first(rows):
    indexes = {index.relname: index.names for index in rows(INDEXES) if index.indisprimary}
    tenants = rows(
        "SELECT c.relname FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid "
        "WHERE a.attname = 'customer_id' AND a.attnotnull AND c.relkind IN ('r', 'p') "
        "AND NOT c.relispartition AND c.relnamespace = current_schema()::regnamespace"
    )
    assert len(tenants) == 10
    for table in tenants:
        assert indexes[table.relname][0] == "customer_id"


def test_every_noun_has_its_queries_and_its_tests():
    for noun in TABLES:
        assert (ROOT / "queries" / f"{noun}.sql").exists()
        assert (ROOT / "tests" / "queries" / f"test_{noun}.py").exists()
        assert any(Path(path, f"{noun}.py").exists() for path in generated.__path__)


def test_only_a_parameter_written_as_narg_may_be_left_out():
    """The compiler of queries takes some of the others for nullable: they need @required."""
    for path in (ROOT / "queries").glob("*.sql"):
        module = importlib.import_module(f"optiinfra_db.generated.{path.stem}")
        for name, text in re.findall(
            r"^-- name: (\w+) (.*?)(?=^-- name:|\Z)", path.read_text(), re.M | re.S
        ):
            sql = re.sub(r"^\s*--.*$", "", text, flags=re.M)
            written = set(re.findall(r"(?:@|sqlc\.arg\(')(\w+)", sql))
            parameters = inspect.signature(getattr(module, name)).parameters.values()
            may_be_left_out = {p.name for p in parameters if p.default is not p.empty}
            assert not written & may_be_left_out, name
