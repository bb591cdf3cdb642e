"""What an archive holds comes back the same, and what was changed in it is noticed."""

import gzip
import hashlib
import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from psycopg import sql

from optiinfra_db import archives, audit, connect
from optiinfra_db.archives import TABLES, export_customer, import_archive, verify_archive
from optiinfra_db.errors import (
    AlreadyExists,
    ArtifactStoreError,
    InvalidArchive,
    InvalidValue,
    NotFound,
    PermissionDenied,
)
from optiinfra_db.generated import (
    customers,
    events,
    legal_holds,
    receipts,
    retention_policies,
    workflow_executions,
)
from optiinfra_db.housekeeping import Archiving, erase, prune
from optiinfra_db.seed import ATLAS, COST, COST_RUN, NIMBUS, seed

from .conftest import cloned_database

FORMATS = ["ndjson", "parquet"]
IN_ANOTHER_ORDER = {
    "events": ["xact_id"],
    "event_seals": ["through_xact_id", "through_id"],
}
"""What stands for a place in a server's own order of transactions."""


@pytest.fixture
def conn(database_url):
    with connect(database_url, actor="alice") as conn:
        seed(conn)
        fill_input(conn, "'null'")  # as a step leaves it that returns None
        audit.seal(conn)
        events.create_event(conn, customer_id=ATLAS, event_type="plan.noted", data={"n": 1e300})
        legal_holds.place_legal_hold(
            conn, customer_id=ATLAS, workflow_execution_id=COST_RUN, reason="case 7"
        )
        retention_policies.set_retention_policy(
            conn, table_name="workflow_executions", customer_id=ATLAS, keep_for=timedelta(days=700)
        )
        # What JSON of other languages would spoil.
        conn.execute(
            'UPDATE customers SET metadata = \'{"n": 12345678901234567890.123456789, '
            '"t": "\\u2028 \\ud83d\\ude00"}\' WHERE id = %s',
            [ATLAS],
        )
        yield conn


@pytest.fixture
def other(migrated_template):
    """Connect to another database, which is empty."""
    with cloned_database(migrated_template) as url, connect(url, actor="bob") as conn:
        yield conn


def fill_input(conn, value):
    """Give a new run an input, by its SQL."""
    run = workflow_executions.create_workflow_execution(
        conn, customer_id=ATLAS, agent_id=COST, workflow_type="cost_analysis", step_names=[]
    )
    conn.execute(f"UPDATE workflow_executions SET input_data = {value} WHERE id = %s", [run.id])
    return run.id


def rows_of(conn, table, customer_id=ATLAS):
    column = {"customers": "id"}.get(table, "customer_id")
    without = IN_ANOTHER_ORDER.get(table, [])
    query = sql.SQL("SELECT to_jsonb(t) - %s::text[] FROM {} AS t WHERE {} = %s ORDER BY 1").format(
        sql.Identifier(table), sql.Identifier(column)
    )
    return [row[0] for row in conn.execute(query, [without, customer_id])]


def contents(conn, customer_id=ATLAS):
    tables = [table for table in TABLES if table not in {"agents", "agent_metrics"}]
    return {table: rows_of(conn, table, customer_id) for table in tables}


@pytest.mark.parametrize("format", FORMATS)
def test_a_customer_moves_to_another_database_as_a_whole(conn, other, tmp_path, format):
    url = str(tmp_path / "atlas")
    before = contents(conn)
    assert all(before.values()), "each table has rows to move"

    exported = export_customer(conn, url, customer_id=ATLAS, format=format)
    written = import_archive(other, url)

    assert contents(other) == before
    assert written == exported.row_counts
    assert {table: len(rows) for table, rows in before.items()} == {
        table: count for table, count in written.items() if table != "agents"
    }
    (receipt,) = receipts.list_receipts(other, max_rows=10)
    assert (receipt.operation, receipt.customer_id, receipt.actor) == ("import", ATLAS, "bob")
    assert (receipt.row_counts, receipt.archive_sha256) == (written, exported.sha256)


@pytest.mark.parametrize("format", FORMATS)
def test_importing_twice_or_over_what_is_there_changes_nothing(conn, other, tmp_path, format):
    url = str(tmp_path / "atlas")
    export_customer(conn, url, customer_id=ATLAS, format=format)
    import_archive(other, url)
    customers.update_customer(other, id=ATLAS, name="Renamed since")
    before = contents(other)

    assert set(import_archive(other, url).values()) == {0}

    assert contents(other) == before


def test_an_import_that_was_interrupted_goes_on_when_it_is_run_again(
    conn, other, tmp_path, monkeypatch
):
    monkeypatch.setattr(archives, "_BATCH_ROWS", 3)
    url = str(tmp_path / "atlas")
    export_customer(conn, url, customer_id=ATLAS)
    said = []

    def stop(text):
        said.append(text)
        if text.startswith("workflow_steps"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_archive(other, url, say=stop)
    assert rows_of(other, "workflow_steps")
    assert not rows_of(other, "events")
    assert said[-1].startswith("workflow_steps: 3 of ")

    import_archive(other, url)

    assert contents(other) == contents(conn)


def test_seals_hold_after_the_move_and_sealing_goes_on(conn, other, tmp_path):
    heads = audit.heads(conn)
    export_customer(conn, str(tmp_path / "atlas"), customer_id=ATLAS)
    import_archive(other, str(tmp_path / "atlas"))

    assert audit.verify(other, customer_id=ATLAS) == []
    moved = next(head for head in audit.heads(other) if head.customer_id == ATLAS)
    assert moved in heads

    assert audit.seal(other).events == 2, "what was not sealed there"
    assert audit.verify(other, customer_id=ATLAS) == []


def test_events_that_were_sealed_are_no_news_in_the_feed(conn, other, tmp_path):
    export_customer(conn, str(tmp_path / "atlas"), customer_id=ATLAS)
    import_archive(other, str(tmp_path / "atlas"))

    new = other.execute("SELECT event_type FROM events WHERE xact_id != '0' ORDER BY 1").fetchall()
    sealed = other.execute("SELECT count(*) FROM events WHERE xact_id = '0'").fetchone()
    assert [row[0] for row in new] == ["legal_hold.placed", "plan.noted"]
    assert sealed[0] == len(rows_of(conn, "event_seals")[0]["event_ids"])


@pytest.mark.parametrize("format", FORMATS)
def test_numbers_and_depths_beyond_python_come_back(conn, other, tmp_path, format):
    run_id = fill_input(
        conn,
        "jsonb_build_object('n', repeat('9', 5000)::numeric, "
        "'deep', (repeat('[', 5000) || repeat(']', 5000))::jsonb)",
    )
    export_customer(conn, str(tmp_path), customer_id=ATLAS, format=format)
    import_archive(other, str(tmp_path))
    query = "SELECT md5(input_data::text) FROM workflow_executions WHERE id = %s"
    [digest] = conn.execute(query, [run_id]).fetchone()
    assert other.execute(query, [run_id]).fetchone() == (digest,)


@pytest.mark.parametrize("format", FORMATS)
def test_what_the_session_says_changes_nothing(conn, tmp_path, format):
    usual, odd = (tmp_path / "usual", tmp_path / "odd")
    export_customer(conn, str(usual), customer_id=ATLAS, format=format)
    conn.execute("SET bytea_output = escape; SET intervalstyle = sql_standard")
    conn.execute("SET extra_float_digits = 0")
    export_customer(conn, str(odd), customer_id=ATLAS, format=format)
    assert verify_archive(str(odd)).files == verify_archive(str(usual)).files
    assert conn.execute("SHOW bytea_output").fetchone() == ("escape",)


def test_large_rows_are_imported_a_few_at_a_time(conn, other, tmp_path, monkeypatch):
    assert [len(batch) for batch in archives._batches(iter(["x"] * 2001))] == [1000, 1000, 1]
    monkeypatch.setattr(archives, "_BATCH_SIZE", 2000)
    batches = list(archives._batches(iter(["x" * 900] * 3 + ["x" * 3000, "x"])))
    assert [len(batch) for batch in batches] == [2, 1, 1, 1]
    export_customer(conn, str(tmp_path), customer_id=ATLAS)
    import_archive(other, str(tmp_path))
    assert rows_of(other, "workflow_steps") == rows_of(conn, "workflow_steps")


def test_what_imported_rows_belong_to_is_not_deleted_meanwhile(conn, database_url, tmp_path):
    conn.execute("DELETE FROM legal_holds")
    prune(conn, customer_id=ATLAS, older_than=timedelta(0), archiving=Archiving(str(tmp_path)))
    receipt = receipts.list_receipts(conn, max_rows=1)[0]
    with connect(database_url) as another, ThreadPoolExecutor() as threads:
        with conn.transaction():
            import_archive(conn, receipt.archive_url)
            erasing = threads.submit(erase, another, customer_id=ATLAS)
            time.sleep(0.5)
            assert not erasing.done()
        erasing.result()
    assert contents(conn) == {table: [] for table in contents(conn)}


def test_an_export_is_of_one_moment(conn, database_url, tmp_path):
    def write_meanwhile(text):
        if text == "Writing workflow_executions":
            with connect(database_url) as another:
                another.execute("DELETE FROM legal_holds")
                another.execute("DELETE FROM workflow_executions WHERE id = %s", [COST_RUN])

    before = contents(conn)
    url = str(tmp_path / "atlas")
    export_customer(conn, url, customer_id=ATLAS, say=write_meanwhile)

    exported = verify_archive(url).row_counts
    assert {table: exported[table] for table in before} == {
        table: len(rows) for table, rows in before.items()
    }
    assert rows_of(conn, "legal_holds") == []


def test_parquet_has_typed_columns(conn, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    export_customer(conn, str(tmp_path / "atlas"), customer_id=ATLAS, format="parquet")

    def types(table):
        schema = parquet.read_schema(tmp_path / "atlas" / f"{table}-0001.parquet")
        return {field.name: str(field.type) for field in schema}

    steps, recommendations = types("workflow_steps"), types("recommendations")
    assert steps["step_order"] == "int32"
    assert steps["started_at"] == "timestamp[us, tz=UTC]"
    assert (steps["status"], steps["input_data"], steps["id"]) == ("string",) * 3
    assert recommendations["estimated_savings"] == "decimal128(12, 2)"
    assert types("workflow_artifacts")["sha256"] == "binary"
    table = parquet.read_table(tmp_path / "atlas" / "workflow_steps-0001.parquet")
    assert table.num_rows == len(rows_of(conn, "workflow_steps"))


@pytest.mark.parametrize("format", FORMATS)
def test_an_archive_may_lie_in_any_store(conn, other, format):
    url = f"memory://archives/{uuid4()}"
    export_customer(conn, url, customer_id=ATLAS, format=format)
    assert import_archive(other, url)["customers"] == 1


def test_without_pyarrow_parquet_says_what_to_install(conn, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ArtifactStoreError, match=r"pip install 'optiinfra-db\[parquet\]'"):
        export_customer(conn, str(tmp_path / "x"), customer_id=ATLAS, format="parquet")
    assert not (tmp_path / "x" / "manifest.json").exists()


# --- what is refused


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def reordered(path):
    manifest = json.loads(path.with_name("manifest.json").read_text())
    for file in manifest["files"]:
        file["rows"] += 1
    path.with_name("manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("spoil", [flip, cut, Path.unlink, reordered])
def test_an_archive_that_was_changed_is_refused_and_nothing_is_written(
    conn, other, tmp_path, spoil, format
):
    url = tmp_path / "atlas"
    export_customer(conn, str(url), customer_id=ATLAS, format=format)
    spoil(next(url.glob("workflow_steps*")))

    with pytest.raises(InvalidArchive, match=r"(workflow_steps|customers)-0001"):
        import_archive(other, str(url))

    assert customers.get_customer(other, id=ATLAS) is None
    assert receipts.list_receipts(other, max_rows=1) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is no manifest"),
        ('{"archive": 2}', "is no manifest"),
        (
            '{"format": "ndjson", "written_by": "x", "written_at": "2026-01-01T00:00:00Z", '
            '"customer_id": null, "files": [{"name": "../../etc/passwd", "table": "events", '
            f'"rows": 1, "size": 1, "sha256": "{"0" * 64}"}}]}}',
            "etc/passwd",
        ),
    ],
)
def test_a_manifest_that_is_none_is_refused(other, tmp_path, text, told):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InvalidArchive, match=told):
        import_archive(other, str(tmp_path))


def test_what_is_no_archive_is_refused(other, tmp_path):
    with pytest.raises(InvalidArchive, match=r"no archive at .*Correct the address"):
        import_archive(other, str(tmp_path))


def test_an_archive_is_not_overwritten(conn, tmp_path):
    url = str(tmp_path / "atlas")
    export_customer(conn, url, customer_id=ATLAS)
    before = (tmp_path / "atlas" / "manifest.json").read_bytes()
    with pytest.raises(InvalidArchive, match="holds an archive already"):
        export_customer(conn, url, customer_id=NIMBUS)
    assert (tmp_path / "atlas" / "manifest.json").read_bytes() == before


def test_an_unknown_customer_is_refused_and_leaves_no_archive(conn, tmp_path):
    with pytest.raises(NotFound):
        export_customer(conn, str(tmp_path / "x"), customer_id=UUID(int=1))
    with pytest.raises(InvalidArchive):
        verify_archive(str(tmp_path / "x"))


def test_an_email_that_is_taken_there_is_refused(conn, other, tmp_path):
    email = customers.get_customer(conn, id=ATLAS).email
    customers.create_customer(other, name="Other", email=email, api_key_hash=b"\2" * 32)
    export_customer(conn, str(tmp_path / "atlas"), customer_id=ATLAS)
    with pytest.raises(AlreadyExists, match="email"):
        import_archive(other, str(tmp_path / "atlas"))
    assert customers.get_customer(other, id=ATLAS) is None


def rewritten(url, table, change):
    """Change the rows of an archive, as one who knows how: with its digests."""
    path = url / f"{table}-0001.ndjson.gz"
    rows = [change(json.loads(line)) for line in gzip.decompress(path.read_bytes()).splitlines()]
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    manifest = json.loads((url / "manifest.json").read_text())
    for file in manifest["files"]:
        if file["table"] == table:
            content = path.read_bytes()
            file |= {"size": len(content)}
            file["sha256"] = hashlib.sha256(content).hexdigest()
    (url / "manifest.json").write_text(json.dumps(manifest))


def test_foreign_keys_and_checks_hold_though_triggers_do_not_fire(conn, other, tmp_path):
    url = tmp_path / "atlas"
    export_customer(conn, str(url), customer_id=ATLAS)
    wrong = tmp_path / "wrong"
    shutil.copytree(url, wrong)
    rewritten(wrong, "workflow_steps", lambda row: row | {"step_order": 0})
    with pytest.raises(InvalidValue, match="step_order"):
        import_archive(other, str(wrong))
    assert rows_of(other, "workflow_steps") == []

    missing = str(UUID(int=7))
    for table, column in (
        ("workflow_executions", "agent_id"),
        ("workflow_steps", "workflow_execution_id"),
        ("approvals", "recommendation_id"),
        ("workflow_executions", "customer_id"),
    ):
        copy = tmp_path / f"{table}-{column}"
        shutil.copytree(url, copy)
        rewritten(copy, table, lambda row, column=column: row | {column: missing})
        with pytest.raises(NotFound, match=f"{table}.{column}.*{missing}"):
            import_archive(other, str(copy))


def test_an_archive_of_a_newer_schema_is_refused(conn, other, tmp_path):
    url = tmp_path / "atlas"
    export_customer(conn, str(url), customer_id=ATLAS)
    rewritten(url, "customers", lambda row: row | {"shoe_size": 44})
    with pytest.raises(InvalidArchive, match=r"customers\.shoe_size.*Migrate"):
        import_archive(other, str(url))


def test_an_archive_from_before_a_column_takes_its_default(conn, other, tmp_path):
    url = tmp_path / "atlas"
    export_customer(conn, str(url), customer_id=ATLAS)
    rewritten(url, "customers", lambda row: {k: v for k, v in row.items() if k != "metadata"})
    import_archive(other, str(url))
    assert customers.get_customer(other, id=ATLAS).metadata == {}


def test_who_may_not_silence_triggers_is_told_what_to_grant(conn, database_url, tmp_path):
    url = str(tmp_path / "atlas")
    export_customer(conn, url, customer_id=ATLAS)
    role = sql.Identifier(f"importer_{uuid4().hex}")
    conn.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE optiinfra_owner").format(role))
    try:
        with connect(database_url) as importer:
            importer.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(role))
            with pytest.raises(PermissionDenied, match="GRANT SET ON PARAMETER"):
                import_archive(importer, url)
            conn.execute(
                sql.SQL("GRANT SET ON PARAMETER session_replication_role TO {}").format(role)
            )
            assert set(import_archive(importer, url).values()) == {0}
    finally:
        conn.execute(
            sql.SQL("REVOKE ALL ON PARAMETER session_replication_role FROM {0}; DROP ROLE {0}")
            .format(role)
            .as_string(conn)
        )


def test_links_to_what_is_gone_are_cleared(conn, other, tmp_path):
    url = tmp_path / "atlas"
    first, again = (
        workflow_executions.create_workflow_execution(
            conn, customer_id=ATLAS, agent_id=COST, workflow_type="cost_analysis", step_names=[]
        ).id
        for _ in range(2)
    )
    conn.execute(
        "UPDATE workflow_executions SET retried_from_id = %s WHERE id = %s", [first, again]
    )
    export_customer(conn, str(url), customer_id=ATLAS)
    missing = str(UUID(int=7))
    rewritten(url, "recommendations", lambda row: row | {"workflow_execution_id": missing})
    rewritten(url, "events", lambda row: row | {"agent_id": missing})
    rewritten(
        url,
        "workflow_executions",
        lambda row: row | ({"retried_from_id": missing} if row["retried_from_id"] else {}),
    )

    import_archive(other, str(url))

    for table, column in (
        ("recommendations", "workflow_execution_id"),
        ("events", "agent_id"),
        ("workflow_executions", "retried_from_id"),
    ):
        assert {row[column] for row in rows_of(other, table)} == {None}
