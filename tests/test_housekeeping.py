"""Old history goes as the policies say, archived first where asked to, and never past a hold."""

import random
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from fsspec.implementations.local import LocalFileSystem

from optiinfra_db import archives, audit, connect, housekeeping
from optiinfra_db.archives import export_customer, import_archive, verify_archive
from optiinfra_db.doctor import examine
from optiinfra_db.errors import (
    ArtifactStoreError,
    HousekeepingFailed,
    InvalidValue,
    NotFound,
    PermissionDenied,
    UnderLegalHold,
    typed_errors,
)
from optiinfra_db.generated import (
    agents,
    customers,
    legal_holds,
    monitoring,
    partitions,
    receipts,
    retention_policies,
    workflow_artifacts,
    workflow_executions,
)
from optiinfra_db.generated import housekeeping as housekeeping_queries
from optiinfra_db.generated.models import WorkflowType
from optiinfra_db.housekeeping import Archiving, alone, drop_partitions, erase, maintain, prune
from optiinfra_db.seed import ATLAS, COST, INDIE, NIMBUS, seed
from optiinfra_db.workflows import record_workflow

DAY = timedelta(days=1)
OLD = datetime(2021, 3, 5, tzinfo=UTC)
COST_ANALYSIS, QUALITY_CHECK = WorkflowType.COST_ANALYSIS, WorkflowType.QUALITY_CHECK


@pytest.fixture
def conn(database_url):
    with connect(database_url, actor="alice") as conn:
        seed(conn)
        yield conn


def make_old_runs(conn, count, customer=ATLAS, workflow_type=COST_ANALYSIS, days=100):
    """Record runs that ended so many days ago, with two steps and an artifact each."""
    ended = datetime.now(UTC) - days * DAY
    made = workflow_executions.record_workflow_executions(
        conn,
        customer_id=customer,
        runs=[
            {
                "agent_id": str(COST),
                "workflow_type": workflow_type,
                "status": "completed",
                "started_at": (ended - timedelta(seconds=count - n)).isoformat(),
                "completed_at": (ended - timedelta(seconds=count - n)).isoformat(),
                "steps": [
                    {
                        "step_name": f"step {order}",
                        "step_order": order,
                        "status": "completed",
                        "started_at": (ended - timedelta(seconds=count - n)).isoformat(),
                        "completed_at": (ended - timedelta(seconds=count - n)).isoformat(),
                    }
                    for order in (1, 2)
                ],
                "artifacts": [
                    {
                        "artifact_type": "report",
                        "artifact_name": "a",
                        "artifact_path": "s3://reports/a",
                        "artifact_size_bytes": 1,
                        "content_type": "text/plain",
                        "sha256": "0" * 64,
                    }
                ],
            }
            for n in range(count)
        ],
    )
    return [run.id for run in made]


def there(conn, ids):
    rows = conn.execute("SELECT id FROM workflow_executions WHERE id = ANY(%s)", [ids])
    return {row[0] for row in rows}


def run_rows(conn, ids):
    """Return the runs as they are, with their steps and artifacts."""
    return [
        conn.execute(
            f"SELECT to_jsonb(t) FROM {table} AS t WHERE {key} = ANY(%s) ORDER BY id", [ids]
        ).fetchall()
        for table, key in (
            ("workflow_executions", "id"),
            ("workflow_steps", "workflow_execution_id"),
            ("workflow_artifacts", "workflow_execution_id"),
        )
    ]


def count(conn, table):
    return conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def policy(conn, keep_for, table_name="workflow_executions", **of):
    return retention_policies.set_retention_policy(
        conn, table_name=table_name, keep_for=keep_for, **of
    )


def noted(conn, operation):
    return [
        receipt
        for receipt in receipts.list_receipts(conn, max_rows=1000)
        if receipt.operation == operation
    ]


# --- runs


def test_runs_that_ended_long_ago_go_with_what_is_theirs_and_their_events_stay(conn):
    ids = make_old_runs(conn, 5)
    events = count(conn, "events")
    others = count(conn, "workflow_executions") - 5

    gone = prune(conn, older_than=99 * DAY, batch=2)

    assert gone == {"workflow_executions": 5, "workflow_steps": 10, "workflow_artifacts": 5}
    assert there(conn, ids) == set()
    assert count(conn, "workflow_executions") == others
    assert count(conn, "events") == events
    batches = noted(conn, "prune")
    assert [batch.row_counts["workflow_executions"] for batch in batches] == [1, 2, 2]
    assert {(batch.customer_id, batch.actor) for batch in batches} == {(ATLAS, "alice")}


def test_what_is_not_over_for_long_enough_stays(conn):
    ids = make_old_runs(conn, 3, days=10)
    before = count(conn, "workflow_executions")
    assert set(prune(conn, older_than=11 * DAY).values()) == {0}
    assert there(conn, ids) == set(ids)
    assert count(conn, "workflow_executions") == before
    assert noted(conn, "prune") == []


def test_a_run_that_is_not_over_never_goes(conn):
    open_runs = count(conn, "workflow_executions WHERE completed_at IS NULL")
    assert open_runs
    prune(conn, older_than=timedelta(0))
    assert count(conn, "workflow_executions") == open_runs


def test_only_those_of_a_customer_and_of_a_type_that_are_named(conn):
    mine, of_another = make_old_runs(conn, 2), make_old_runs(conn, 2, customer=NIMBUS)
    of_another_type = make_old_runs(conn, 2, workflow_type=QUALITY_CHECK)
    prune(conn, customer_id=ATLAS, workflow_type=COST_ANALYSIS, older_than=99 * DAY)
    assert there(conn, mine + of_another + of_another_type) == set(of_another + of_another_type)


def test_without_a_policy_everything_is_kept(conn):
    ids = make_old_runs(conn, 2, days=5000)
    assert set(prune(conn).values()) == {0}
    assert there(conn, ids) == set(ids)


def test_the_policy_that_says_most_counts(conn):
    runs = {
        (customer, workflow_type, days): make_old_runs(conn, 1, customer, workflow_type, days)[0]
        for customer in (ATLAS, NIMBUS)
        for workflow_type in (COST_ANALYSIS, QUALITY_CHECK)
        for days in (5, 15, 25, 35, 45)
    }
    policy(conn, 40 * DAY)
    policy(conn, 30 * DAY, workflow_type=QUALITY_CHECK)
    policy(conn, 20 * DAY, customer_id=ATLAS)
    policy(conn, 10 * DAY, customer_id=ATLAS, workflow_type=COST_ANALYSIS)
    kept_for = {
        (ATLAS, COST_ANALYSIS): 10,
        (ATLAS, QUALITY_CHECK): 20,
        (NIMBUS, COST_ANALYSIS): 40,
        (NIMBUS, QUALITY_CHECK): 30,
    }

    prune(conn)

    kept = there(conn, list(runs.values()))
    assert kept == {
        run
        for (customer, workflow_type, days), run in runs.items()
        if days < kept_for[customer, workflow_type]
    }


def test_a_rehearsal_counts_and_deletes_nothing(conn):
    ids = make_old_runs(conn, 5)
    gone = prune(conn, older_than=99 * DAY, is_rehearsal=True, batch=2)
    assert gone["workflow_executions"] == 5
    assert there(conn, ids) == set(ids)
    assert noted(conn, "prune") == []


def test_an_unknown_customer_is_refused(conn):
    with pytest.raises(NotFound):
        prune(conn, customer_id=UUID(int=1), older_than=DAY)


def test_a_run_that_somebody_holds_locked_is_left_for_the_next_time(conn, database_url):
    ids = make_old_runs(conn, 3)
    with connect(database_url) as other, other.transaction():
        other.execute("SELECT FROM workflow_executions WHERE id = %s FOR UPDATE", [ids[1]])
        assert prune(conn, older_than=99 * DAY)["workflow_executions"] == 2
        assert there(conn, ids) == {ids[1]}
    assert prune(conn, older_than=99 * DAY)["workflow_executions"] == 1


def test_several_prune_at_once_and_each_run_goes_once(conn, database_url):
    make_old_runs(conn, 60)
    found = []

    def work():
        with connect(database_url) as own:
            found.append(prune(own, older_than=99 * DAY, batch=5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(gone["workflow_executions"] for gone in found) == 60
    assert sum(receipt.row_counts["workflow_steps"] for receipt in noted(conn, "prune")) == 120


def test_what_is_in_use_is_left_and_holds_nobody_up(conn, database_url, tmp_path):
    ids = make_old_runs(conn, 4)
    used = "UPDATE workflow_artifacts SET metadata = '{\"a\": 1}' WHERE workflow_execution_id = %s"
    for archiving in (None, Archiving(str(tmp_path))):
        with psycopg.connect(database_url) as user:
            user.execute(used, ids[:1])
            prune(conn, older_than=99 * DAY, archiving=archiving)
            assert there(conn, ids) == {ids[0]}
            user.rollback()
    assert noted(conn, "prune")[0].row_counts["workflow_executions"] in {1, 2}
    prune(conn, older_than=99 * DAY)
    assert there(conn, ids) == set()


@pytest.mark.parametrize("work", [prune, drop_partitions])
def test_an_age_below_nothing_is_refused(conn, work):
    ids = make_old_runs(conn, 1)
    with pytest.raises(InvalidValue, match="older_than"):
        work(conn, older_than=-DAY)
    assert there(conn, ids) == set(ids)


def test_a_service_may_not_prune(conn):
    make_old_runs(conn, 1)
    conn.execute("SET ROLE optiinfra_service")
    with pytest.raises(PermissionDenied):
        prune(conn, older_than=99 * DAY)


# --- archives


@pytest.mark.parametrize("format", ["ndjson", "parquet"])
def test_what_was_archived_before_it_went_comes_back_the_same(conn, tmp_path, format):
    ids = make_old_runs(conn, 5)
    before = run_rows(conn, ids)
    events = count(conn, "events")

    prune(conn, older_than=99 * DAY, batch=2, archiving=Archiving(str(tmp_path), format))

    assert there(conn, ids) == set()
    done = noted(conn, "prune")
    assert len(done) == 3
    for receipt in done:
        archive = verify_archive(receipt.archive_url)
        assert (archive.sha256, archive.row_counts) == (receipt.archive_sha256, receipt.row_counts)
        assert Path(receipt.archive_url).parent == tmp_path / str(ATLAS)
        import_archive(conn, receipt.archive_url)
    assert run_rows(conn, ids) == before
    assert count(conn, "events") == events


def test_nothing_goes_that_could_not_be_archived(conn, tmp_path):
    ids = make_old_runs(conn, 3)
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactStoreError):
        prune(conn, older_than=99 * DAY, archiving=Archiving(str(tmp_path / "file")))
    assert there(conn, ids) == set(ids)
    assert noted(conn, "prune") == []


def test_nothing_goes_whose_archive_does_not_read_back(conn, tmp_path, monkeypatch):
    ids = make_old_runs(conn, 3)

    def damaged(file, write, copy=archives.copy):
        return copy((chunk[::-1] for chunk in file), write)

    monkeypatch.setattr(archives, "copy", damaged)
    with pytest.raises(archives.InvalidArchive):
        prune(conn, older_than=99 * DAY, archiving=Archiving(str(tmp_path)))
    assert there(conn, ids) == set(ids)


def during_verification(monkeypatch, act):
    """Do something once, after an archive was written and before anything is deleted."""

    def late(*args, verify=archives.verify_archive, **given):
        act()
        monkeypatch.undo()
        return verify(*args, **given)

    monkeypatch.setattr(archives, "verify_archive", late)


def register_late(conn, run_id):
    workflow_artifacts.register_workflow_artifact(
        conn,
        customer_id=ATLAS,
        workflow_execution_id=run_id,
        artifact_type="report",
        artifact_name="late",
        artifact_path="s3://late",
        artifact_size_bytes=1,
        content_type="text/plain",
        sha256=b"\1" * 32,
    )


def describe_late(conn, run_id):
    [artifact] = workflow_artifacts.list_workflow_artifacts(
        conn, customer_id=ATLAS, workflow_execution_id=run_id
    )
    workflow_artifacts.update_workflow_artifact_metadata(
        conn,
        customer_id=ATLAS,
        workflow_execution_id=run_id,
        id=artifact.id,
        metadata={"late": True},
    )


def replace_late(conn, run_id):
    conn.execute("DELETE FROM workflow_artifacts WHERE workflow_execution_id = %s", [run_id])
    register_late(conn, run_id)


@pytest.mark.parametrize("format", ["ndjson", "parquet"])
@pytest.mark.parametrize("change", [register_late, describe_late, replace_late])
def test_what_changes_while_its_run_is_archived_is_not_lost(
    conn, tmp_path, monkeypatch, change, format
):
    ids = make_old_runs(conn, 3)
    archiving = Archiving(str(tmp_path), format)

    during_verification(monkeypatch, lambda: change(conn, ids[1]))
    assert set(prune(conn, older_than=99 * DAY, archiving=archiving).values()) == {0}
    assert there(conn, ids) == set(ids)
    assert list((tmp_path / str(ATLAS)).iterdir()) == [], "no archive of what is still there"
    changed = workflow_artifacts.list_workflow_artifacts(
        conn, customer_id=ATLAS, workflow_execution_id=ids[1]
    )

    gone = prune(conn, older_than=99 * DAY, archiving=archiving)
    assert gone["workflow_artifacts"] == 2 + len(changed)
    import_archive(conn, noted(conn, "prune")[0].archive_url)
    assert changed == workflow_artifacts.list_workflow_artifacts(
        conn, customer_id=ATLAS, workflow_execution_id=ids[1]
    )


# --- legal holds


def place(conn, run=None, customer=ATLAS):
    return legal_holds.place_legal_hold(
        conn, customer_id=customer, workflow_execution_id=run, reason="case 7"
    )


def test_what_is_under_a_hold_stays_and_goes_after_it(conn):
    ids = make_old_runs(conn, 4)
    hold = place(conn, ids[2])
    assert prune(conn, older_than=99 * DAY)["workflow_executions"] == 3
    assert there(conn, ids) == {ids[2]}

    legal_holds.release_legal_hold(conn, customer_id=ATLAS, id=hold.id)

    assert prune(conn, older_than=99 * DAY)["workflow_executions"] == 1


def test_a_hold_on_a_customer_keeps_all_of_theirs_and_of_nobody_else(conn):
    mine, others = make_old_runs(conn, 2), make_old_runs(conn, 2, customer=NIMBUS)
    place(conn)
    prune(conn, older_than=timedelta(0))
    assert there(conn, mine + others) == set(mine)


def test_a_hold_that_comes_between_listing_and_deleting_is_respected(
    conn, database_url, monkeypatch
):
    ids = make_old_runs(conn, 5)

    def lock(*args, lock=workflow_executions.lock_ended_workflow_executions, **given):
        monkeypatch.undo()
        with connect(database_url) as other:
            place(other, ids[3])
        return lock(*args, **given)

    monkeypatch.setattr(workflow_executions, "lock_ended_workflow_executions", lock)
    assert prune(conn, older_than=99 * DAY)["workflow_executions"] == 4
    assert there(conn, ids) == {ids[3]}


@pytest.mark.parametrize("on_run", [True, False])
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM customers WHERE id = %(customer)s",
        "DELETE FROM agents WHERE id = %(agent)s",
        "DELETE FROM workflow_executions WHERE id = %(run)s",
        "DELETE FROM workflow_steps WHERE workflow_execution_id = %(run)s",
        "DELETE FROM workflow_artifacts WHERE workflow_execution_id = %(run)s",
        "DELETE FROM recommendations WHERE workflow_execution_id = %(run)s",
        "DELETE FROM approvals WHERE customer_id = %(customer)s AND recommendation_id IN "
        "(SELECT id FROM recommendations WHERE workflow_execution_id = %(run)s)",
        "DELETE FROM optimizations WHERE workflow_execution_id = %(run)s",
    ],
)
def test_nobody_deletes_past_a_hold_whoever_asks(conn, statement, on_run):
    row = conn.execute(
        "SELECT r.workflow_execution_id, w.agent_id FROM recommendations AS r "
        "JOIN approvals AS a ON a.recommendation_id = r.id "
        "JOIN workflow_executions AS w ON w.id = r.workflow_execution_id "
        "WHERE r.customer_id = %s AND EXISTS (SELECT FROM optimizations AS o "
        "WHERE o.recommendation_id = r.id)",
        [ATLAS],
    ).fetchone()
    values = {"customer": ATLAS, "run": row[0], "agent": row[1]}
    conn.execute(
        "UPDATE optimizations SET workflow_execution_id = %(run)s WHERE recommendation_id IN "
        "(SELECT id FROM recommendations WHERE workflow_execution_id = %(run)s)",
        values,
    )
    with conn.transaction(force_rollback=True):
        assert conn.execute(statement, values).rowcount, "there is something to delete"
    hold = place(conn, row[0] if on_run else None)

    with pytest.raises(psycopg.Error, match="a legal hold on") as caught:
        conn.execute(statement, values)

    assert caught.value.sqlstate == "OI005"
    assert str(hold.id) in caught.value.diag.message_detail
    legal_holds.release_legal_hold(conn, customer_id=ATLAS, id=hold.id)
    assert conn.execute(statement, values).rowcount


def test_the_typed_error_names_the_hold_and_what_to_do(conn):
    hold = place(conn)
    with pytest.raises(UnderLegalHold, match=f"{hold.id}: case 7.*deletes its row"):
        customers.delete_customer(conn, id=ATLAS)
    with pytest.raises(UnderLegalHold):
        agents.delete_agent(conn, id=COST)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("table", ["workflow_executions", "workflow_steps"])
def test_a_transaction_that_could_not_see_a_hold_deletes_nothing(conn, database_url, level, table):
    (run,) = make_old_runs(conn, 1)
    before = count(conn, table)
    with connect(database_url) as other:
        other.execute(f"BEGIN ISOLATION LEVEL {level}")
        other.execute("SELECT FROM customers")
        place(conn, run)
        with pytest.raises(psycopg.errors.SerializationFailure):
            other.execute(f"DELETE FROM {table} WHERE customer_id = %s", [ATLAS])
    assert count(conn, table) == before


@pytest.mark.parametrize(
    "table", ["customers", "workflow_artifacts", "approvals", "optimizations", "legal_holds"]
)
def test_nobody_truncates_past_a_hold(conn, table):
    (run,) = make_old_runs(conn, 1)
    hold = place(conn, run)
    with pytest.raises(UnderLegalHold, match=f"{hold.id}: case 7"), typed_errors():
        conn.execute(f"TRUNCATE {table} CASCADE")
    assert there(conn, [run]) == {run}
    if table not in {"customers", "legal_holds"}:
        legal_holds.release_legal_hold(conn, customer_id=ATLAS, id=hold.id)
        conn.execute(f"TRUNCATE {table}")
        assert count(conn, table) == 0


def test_who_places_a_hold_waits_for_who_deletes(conn, database_url):
    (run,) = make_old_runs(conn, 1)
    failed = []

    def place_one():
        with connect(database_url) as other:
            try:
                place(other, run)
            except NotFound as error:
                failed.append(error)

    thread = threading.Thread(target=place_one)
    with conn.transaction():
        workflow_executions.delete_workflow_execution(conn, customer_id=ATLAS, id=run)
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive()
    thread.join()
    assert len(failed) == 1, "the run was gone before there was a hold"


def test_placing_and_releasing_are_in_the_audit_log(conn):
    (run,) = make_old_runs(conn, 1)
    hold = place(conn, run)
    legal_holds.release_legal_hold(conn, customer_id=ATLAS, id=hold.id)
    rows = conn.execute(
        "SELECT event_type, actor, data ->> 'reason', subject_id FROM events "
        "WHERE event_type LIKE 'legal_hold.%' ORDER BY created_at"
    ).fetchall()
    assert rows == [
        ("legal_hold.placed", "alice", "case 7", run),
        ("legal_hold.released", "alice", "case 7", run),
    ]


# --- months


def make_month(conn, table="events", at=OLD):
    """Write rows of a month long ago, which wait in DEFAULT for a partition."""
    if table == "events":
        conn.execute(
            "INSERT INTO events (customer_id, created_at, event_type) "
            "SELECT %s, %s, 'old.event' FROM generate_series(1, 7)",
            [ATLAS, at],
        )
    else:
        conn.execute(
            "INSERT INTO agent_metrics (agent_id, metric_name, recorded_at, metric_value) "
            "SELECT %s, 'old_metric', %s, n FROM generate_series(1, 7) AS n",
            [COST, at],
        )


def names(conn):
    return {row.partition_name for row in monitoring.list_partition_sizes(conn)}


@pytest.mark.parametrize("table", ["events", "agent_metrics"])
def test_a_month_that_is_long_over_goes_late_rows_included(conn, table):
    make_month(conn, table)
    partitions.ensure_partitions(conn, months_ahead=0)
    make_month(conn, table, OLD + DAY)  # into the partition that is there
    make_month(conn, table, OLD - 60 * DAY)  # waits in DEFAULT
    kept = names(conn) - {f"{table}_2021_03"}

    dropped, _ = drop_partitions(conn, table=table, older_than=365 * DAY)

    assert [(one.partition_name, one.rows) for one in dropped if one.rows] == [
        (f"{table}_2021_01", 7),
        (f"{table}_2021_03", 14),
    ]
    assert all(one.total_bytes >= 8192 for one in dropped)
    assert names(conn) <= kept
    assert conn.execute(
        f"SELECT count(*) FROM {table} WHERE {'created_at' if table == 'events' else 'recorded_at'}"
        " < '2022-01-01'"
    ).fetchone() == (0,)
    months = {receipt.data["partition"]: receipt for receipt in noted(conn, "drop_partition")}
    assert months[f"{table}_2021_03"].row_counts == {table: 14}


def test_months_go_by_their_policies_and_only_by_those(conn):
    make_month(conn, "events")
    make_month(conn, "agent_metrics")
    assert drop_partitions(conn) == ([], [])
    policy(conn, 365 * DAY, "agent_metrics")
    dropped, _ = drop_partitions(conn)
    assert "agent_metrics_2021_03" in {one.partition_name for one in dropped}
    assert "events_2021_03" in names(conn)


def test_this_month_and_those_to_come_stay_whatever_is_asked(conn):
    before = {row.partition_name: row for row in monitoring.list_partition_sizes(conn)}
    drop_partitions(conn, older_than=timedelta(0))
    gone = before.keys() - names(conn)
    assert {f"{table}_default" for table in ("events", "agent_metrics")} <= names(conn)
    assert all(before[name].over_for > timedelta(0) for name in gone)
    assert len(names(conn)) >= 10


@pytest.mark.parametrize("format", ["ndjson", "parquet"])
@pytest.mark.parametrize("table", ["events", "agent_metrics"])
def test_a_month_that_was_archived_comes_back_the_same(conn, tmp_path, table, format):
    make_month(conn, table)
    key = "created_at" if table == "events" else "recorded_at"
    query = (
        f"SELECT to_jsonb(t) - 'xact_id' FROM {table} AS t WHERE {key} < '2022-01-01' ORDER BY 1"
    )
    before = conn.execute(query).fetchall()

    (dropped,), _ = drop_partitions(
        conn, table=table, older_than=1000 * DAY, archiving=Archiving(str(tmp_path), format)
    )

    assert conn.execute(query).fetchall() == []
    assert Path(dropped.archive).parent == tmp_path / table
    assert import_archive(conn, dropped.archive) == {table: 7}
    assert conn.execute(query).fetchall() == before


def test_a_month_that_changes_while_it_is_archived_stays(conn, tmp_path, monkeypatch):
    make_month(conn, "agent_metrics")
    archiving = Archiving(str(tmp_path))

    change = "UPDATE agent_metrics SET metric_value = 8 WHERE metric_value = 7"
    during_verification(monkeypatch, lambda: conn.execute(change))
    dropped, [kept] = drop_partitions(conn, older_than=1000 * DAY, archiving=archiving)
    assert (dropped, kept.reason) == ([], "rows changed while it was archived")
    assert list((tmp_path / "agent_metrics").iterdir()) == []

    [dropped], kept = drop_partitions(conn, older_than=1000 * DAY, archiving=archiving)
    assert (dropped.rows, kept) == (7, [])


def test_a_month_that_another_session_drops_is_left_to_it(conn, tmp_path, monkeypatch):
    make_month(conn)

    during_verification(monkeypatch, lambda: conn.execute("DROP TABLE events_2021_03"))
    archiving = Archiving(str(tmp_path))
    dropped, [kept] = drop_partitions(conn, older_than=1000 * DAY, archiving=archiving)
    assert (dropped, kept.reason) == ([], "another session dropped it")


def test_values_come_back_to_the_last_digit(conn, tmp_path):
    make_month(conn, "agent_metrics")
    conn.execute("UPDATE agent_metrics SET metric_value = 0.1::float8 + 0.2 WHERE metric_value = 7")
    conn.execute("SET extra_float_digits = 0")
    [month], _ = drop_partitions(conn, older_than=1000 * DAY, archiving=Archiving(str(tmp_path)))
    import_archive(conn, month.archive)
    assert count(conn, "agent_metrics WHERE metric_value = 0.1::float8 + 0.2") == 1


def test_a_month_comes_back_without_those_who_were_erased(conn, tmp_path):
    make_month(conn)
    conn.execute(
        "INSERT INTO events (customer_id, created_at, event_type) VALUES (%s, %s, 'old.event')",
        [NIMBUS, OLD],
    )
    [month], _ = drop_partitions(conn, older_than=1000 * DAY, archiving=Archiving(str(tmp_path)))
    erase(conn, customer_id=ATLAS)
    said = []
    assert import_archive(conn, month.archive, say=said.append)["events"] == 1
    assert said[-1] == "7 rows of customers or agents that are gone were left out"
    assert count(conn, "events WHERE event_type = 'old.event'") == 1


def test_sealed_events_that_come_back_are_as_they_were_sealed(conn, tmp_path):
    make_month(conn)
    audit.seal(conn)
    (dropped,), _ = drop_partitions(
        conn, table="events", older_than=1000 * DAY, archiving=Archiving(str(tmp_path))
    )
    assert len(audit.verify(conn)) >= 1
    assert audit.verify(conn, kept_since=datetime(2022, 1, 1, tzinfo=UTC)) == []

    import_archive(conn, dropped.archive)

    assert audit.verify(conn) == []
    assert audit.seal(conn).events == 0


@pytest.mark.parametrize("on_run", [True, False])
def test_a_month_with_events_of_who_is_under_a_hold_stays(conn, on_run):
    make_month(conn)
    make_month(conn, at=OLD - 60 * DAY)
    (run,) = make_old_runs(conn, 1)
    place(conn, run if on_run else None)
    dropped, kept = drop_partitions(conn, table="events", older_than=1000 * DAY)
    assert dropped == []
    assert [one.partition_name for one in kept] == ["events_2021_01", "events_2021_03"]
    assert all(f"a legal hold: customer {ATLAS}" in one.reason for one in kept)

    # Of others it says nothing.
    conn.execute("DELETE FROM legal_holds")
    place(conn, customer=INDIE)
    dropped, kept = drop_partitions(conn, table="events", older_than=1000 * DAY)
    assert (len(dropped), kept) == (2, [])


def test_who_uses_a_month_for_long_keeps_it(conn, database_url, monkeypatch, tmp_path):
    monkeypatch.setattr(housekeeping, "_DROP_SECONDS", 0.2)
    make_month(conn)
    partitions.ensure_partitions(conn, months_ahead=0)
    with connect(database_url) as other, other.transaction():
        other.execute("SELECT FROM events_2021_03")
        started = time.monotonic()
        dropped, kept = drop_partitions(
            conn, table="events", older_than=1000 * DAY, archiving=Archiving(str(tmp_path))
        )
        assert time.monotonic() - started < 10
        assert list((tmp_path / "events").iterdir()) == [], "no archive of what is still there"
        assert (dropped, len(kept)) == ([], 1)
        assert "in use" in kept[0].reason
    dropped, kept = drop_partitions(conn, table="events", older_than=1000 * DAY)
    assert (len(dropped), kept) == (1, [])


def test_dropping_a_month_locks_no_table_but_its_own(conn):
    make_month(conn)
    partitions.ensure_partitions(conn, months_ahead=0)
    with conn.transaction(force_rollback=True):
        conn.execute("DROP TABLE events_2021_03")
        locked = conn.execute(
            "SELECT c.relname FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation "
            "WHERE l.pid = pg_backend_pid() AND l.mode = 'AccessExclusiveLock' "
            "AND c.relkind IN ('r', 'p') ORDER BY 1"
        ).fetchall()
    assert {row[0] for row in locked} <= {"events", "events_2021_03", "events_default"}


def test_a_rehearsal_drops_no_month(conn):
    make_month(conn)
    dropped, _ = drop_partitions(conn, table="events", older_than=1000 * DAY, is_rehearsal=True)
    assert [(one.partition_name, one.rows) for one in dropped] == [("events_2021_03", 7)]
    assert "events_2021_03" in names(conn)
    assert noted(conn, "drop_partition") == []


# --- customers


def test_a_customer_is_erased_from_every_table_and_partition(conn, tmp_path):
    make_old_runs(conn, 5)
    make_month(conn)
    audit.seal(conn)
    policy(conn, DAY, customer_id=ATLAS)
    content = tmp_path / str(ATLAS) / "run" / "report.md"
    content.parent.mkdir(parents=True)
    content.touch()
    (tmp_path / str(NIMBUS)).mkdir()
    others = {row.relation_name: row.row_count for row in rows_of(conn, NIMBUS)}
    before = {row.relation_name: row.row_count for row in rows_of(conn, ATLAS)}
    assert before.keys() >= {"customers", "events_default", "workflow_steps", "event_seals"}

    erased = erase(conn, customer_id=ATLAS, artifacts_url=str(tmp_path), batch=2)

    assert {table: count for table, count in erased.items() if table != "events_default"} == {
        table: count for table, count in before.items() if table != "events_default"
    }
    assert rows_of(conn, ATLAS) == []
    assert [path.name for path in tmp_path.iterdir()] == [str(NIMBUS)]
    assert {row.relation_name: row.row_count for row in rows_of(conn, NIMBUS)} == others
    for (name,) in conn.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relname !~ 'yoyo' "
        "AND relnamespace = current_schema()::regnamespace AND relname != 'receipts'"
    ).fetchall():
        found = conn.execute(
            f"SELECT count(*) FROM {name} AS t WHERE t::text LIKE %s", [f"%{ATLAS}%"]
        ).fetchone()
        assert found == (0,), name
    total = sum(sum(receipt.row_counts.values()) for receipt in noted(conn, "erase"))
    assert total == sum(erased.values())


def rows_of(conn, customer):
    return housekeeping_queries.count_customer_rows(conn, customer_id=customer)


def test_erasing_that_could_not_delete_the_artifacts_is_done_again(conn, tmp_path, monkeypatch):
    content = tmp_path / str(ATLAS) / "report.md"
    content.parent.mkdir(parents=True)
    content.touch()

    def broken(*args, **given):
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "rm", broken)
        with pytest.raises(ArtifactStoreError):
            erase(conn, customer_id=ATLAS, artifacts_url=str(tmp_path))
    assert customers.get_customer(conn, id=ATLAS)
    erase(conn, customer_id=ATLAS, artifacts_url=str(tmp_path))
    assert (rows_of(conn, ATLAS), list(tmp_path.iterdir())) == ([], [])


def test_counting_knows_every_table_of_customers(conn):
    tables = conn.execute(
        "SELECT DISTINCT c.relname FROM pg_class AS c JOIN pg_attribute AS a "
        "ON a.attrelid = c.oid WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition "
        "AND c.relnamespace = current_schema()::regnamespace AND a.attname ~ 'customer_id$'"
    ).fetchall()
    for (table,) in tables:
        assert table == "receipts" or f"FROM {table}\n" in housekeeping_queries.COUNT_CUSTOMER_ROWS


def test_who_is_under_a_hold_is_not_erased(conn):
    ids = make_old_runs(conn, 2)
    place(conn, ids[0])
    before = rows_of(conn, ATLAS)
    with pytest.raises(UnderLegalHold, match="case 7"):
        erase(conn, customer_id=ATLAS)
    assert rows_of(conn, ATLAS) == before


def test_a_hold_that_comes_in_the_middle_stops_the_erasing(conn):
    make_old_runs(conn, 4)
    with pytest.raises(UnderLegalHold):
        erase(conn, customer_id=ATLAS, batch=2, say=lambda text: place(conn))
    assert customers.get_customer(conn, id=ATLAS) is not None


def test_what_would_be_left_undoes_the_erasing(conn):
    conn.execute("ALTER TABLE approvals DROP CONSTRAINT approvals_recommendation_id_fkey")
    with pytest.raises(HousekeepingFailed, match="approvals"):
        erase(conn, customer_id=ATLAS)
    assert customers.get_customer(conn, id=ATLAS) is not None


def test_to_erase_who_is_not_there_is_refused(conn):
    with pytest.raises(NotFound):
        erase(conn, customer_id=uuid4())


# --- the scheduled entry point


def test_maintain_does_all_that_is_due(conn, tmp_path):
    ids = make_old_runs(conn, 3)
    make_month(conn)
    policy(conn, 99 * DAY)
    policy(conn, 1000 * DAY, "events")
    conn.execute("UPDATE agents SET last_heartbeat = now() - interval '1 day'")

    done = maintain(conn, months_ahead=5, archiving=Archiving(str(tmp_path)))

    assert len(done.partitions_made) >= 4
    assert (done.rows_pruned["workflow_executions"], there(conn, ids)) == (3, set())
    assert done.partitions_dropped[0].partition_name == "events_2021_03"
    assert done.events_sealed > 10
    assert done.agents_failed >= 1
    again = maintain(conn, months_ahead=5, archiving=Archiving(str(tmp_path)))
    assert (again.partitions_made, again.agents_failed, again.runs_timed_out) == ([], 0, 0)
    assert (set(again.rows_pruned.values()), again.partitions_dropped) == ({0}, [])


def test_a_silent_run_is_timed_out_only_where_heartbeats_are_expected(conn):
    conn.execute(
        "UPDATE workflow_executions SET heartbeat_at = now() - interval '1 hour', "
        "deadline_at = NULL WHERE status = 'running'"
    )
    running = count(conn, "workflow_executions WHERE status = 'running'")
    assert maintain(conn).runs_timed_out == 0
    assert count(conn, "workflow_executions WHERE status = 'running'") == running > 0
    assert maintain(conn, heartbeat_timeout=timedelta(minutes=10)).runs_timed_out == running


def test_a_part_that_fails_stops_no_other(conn, monkeypatch):
    ids = make_old_runs(conn, 3)
    policy(conn, 99 * DAY)
    conn.execute("DROP FUNCTION ensure_partitions")
    with pytest.raises(HousekeepingFailed) as caught:
        maintain(conn)
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "Making partitions",
        "Dropping months",
    ]
    assert there(conn, ids) == set()


def test_a_time_that_parquet_does_not_know_stops_no_other_part(conn, tmp_path):
    ids = make_old_runs(conn, 1)
    make_month(conn)
    policy(conn, 99 * DAY)
    policy(conn, 1000 * DAY, "events")
    conn.execute("SET session_replication_role = replica")  # what is over does not change
    conn.execute("UPDATE workflow_executions SET deadline_at = 'infinity' WHERE id = %s", ids)
    conn.execute("RESET session_replication_role")
    with pytest.raises(HousekeepingFailed, match=r"Pruning runs: deadline_at: .*infinity.*ndjson"):
        maintain(conn, archiving=Archiving(str(tmp_path), "parquet"))
    assert "events_2021_03" not in names(conn)


def test_several_maintain_at_once(conn, database_url):
    make_old_runs(conn, 30)
    policy(conn, 99 * DAY)
    done, failed = [], []

    def work():
        with connect(database_url) as own:
            try:
                done.append(maintain(own))
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sum(one.rows_pruned["workflow_executions"] for one in done) == 30


def test_one_at_a_time_has_the_turn(conn, database_url):
    with alone(conn) as first, connect(database_url) as other, alone(other) as second:
        assert (first, second) == (True, False)
    with connect(database_url) as other, alone(other) as third:
        assert third is True


# --- killed at any moment, and done again

ARCHIVE = """
prune(conn, older_than=timedelta(days=99), archiving=Archiving(sys.argv[2]), batch=10)
drop_partitions(conn, older_than=timedelta(days=999), archiving=Archiving(sys.argv[2]))
"""
ERASE = "erase(conn, customer_id=UUID(sys.argv[2]), batch=10)"
IMPORT = "import_archive(conn, sys.argv[2])"


def kill_and_repeat(url, work, argument, kills):
    """Do some work in a process that is killed now and then; what is done again at last is done."""
    script = f"""
import sys
from datetime import timedelta
from uuid import UUID
from optiinfra_db import connect
from optiinfra_db.archives import import_archive
from optiinfra_db.housekeeping import Archiving, drop_partitions, erase, prune
with connect(sys.argv[1]) as conn:
    print("began", flush=True)
{textwrap.indent(work, "    ")}
"""
    command = [sys.executable, "-c", script, url, str(argument)]
    for number in range(kills):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            with suppress(subprocess.TimeoutExpired):
                process.wait(random.uniform(0, 0.05 * (number + 1)))
            process.kill()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "NotFound" in done.stderr, done.stderr


@contextmanager
def writers(url):
    """Record runs meanwhile; yield the list to which their ids go."""
    is_over, recorded = threading.Event(), []
    some = {"customer_id": ATLAS, "agent_id": COST, "workflow_type": WorkflowType.HEALTH_CHECK}

    def write():
        with connect(url) as own:
            while not is_over.is_set():
                with record_workflow(own, **some, steps=["look"]) as run, run.step("look"):
                    pass
                recorded.append(run.id)

    with ThreadPoolExecutor(2) as threads:
        writing = [threads.submit(write) for _ in range(2)]
        try:
            yield recorded
        finally:
            is_over.set()
        for each in writing:
            each.result()


def test_archiving_that_is_killed_loses_nothing(conn, database_url, tmp_path, is_soak):
    ids = make_old_runs(conn, 5000 if is_soak else 200)
    for table in ("events", "agent_metrics"):
        make_month(conn, table)
    before = run_rows(conn, ids)
    with writers(database_url) as recorded:
        kill_and_repeat(database_url, ARCHIVE, tmp_path, kills=100 if is_soak else 5)
    assert there(conn, ids) == set()
    assert there(conn, recorded) == set(recorded) != set()

    done = [*noted(conn, "prune"), *noted(conn, "drop_partition")]
    total = sum((Counter(receipt.row_counts) for receipt in done), Counter())
    assert total["workflow_executions"] == len(ids), "each went once"
    assert (total["events"], total["agent_metrics"]) == (7, 7)
    for receipt in done:
        assert verify_archive(receipt.archive_url).sha256 == receipt.archive_sha256
        import_archive(conn, receipt.archive_url)
    assert run_rows(conn, ids) == before
    assert count(conn, "events WHERE event_type = 'old.event'") == 7
    assert examine(conn) == []


def test_a_customer_whose_moving_is_killed_is_moved(conn, database_url, tmp_path, is_soak):
    ids = make_old_runs(conn, 5000 if is_soak else 500, customer=INDIE)
    everything = rows_of(conn, INDIE)
    before = run_rows(conn, ids)
    kills = 40 if is_soak else 4
    export_customer(conn, str(tmp_path), customer_id=INDIE)
    kill_and_repeat(database_url, ERASE, INDIE, kills)
    assert rows_of(conn, INDIE) == []
    conn.execute("SELECT ensure_partitions(0)")
    kill_and_repeat(database_url, IMPORT, tmp_path, kills)
    assert rows_of(conn, INDIE) == everything
    assert run_rows(conn, ids) == before
