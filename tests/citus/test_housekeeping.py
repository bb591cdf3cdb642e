"""Housekeeping on the shards: what goes, what is kept, and what is said of it."""

import re
from datetime import timedelta

import pytest

from optiinfra_db import archives, connect, housekeeping
from optiinfra_db.errors import UnderLegalHold
from optiinfra_db.generated import customers, legal_holds, receipts

from .conftest import live_in

TABLES = ("workflow_executions", "workflow_steps", "workflow_artifacts")
COUNTS = "SELECT " + ", ".join(
    f"(SELECT count(*) FROM {table} WHERE customer_id = %(id)s)" for table in TABLES
)
ENDED = "SELECT count(*) FROM workflow_executions WHERE completed_at < now() - interval '40 days'"


@pytest.fixture
def lived_in(cluster_url):
    live_in(cluster_url, 3_000)
    with connect(cluster_url) as conn:
        yield conn


def number(conn, query):
    return conn.execute(query).fetchone()[0]


def test_old_runs_go_on_all_shards_but_those_under_a_hold(lived_in, tmp_path):
    held, *_ = customers.list_customers(lived_in, max_rows=50)
    legal_holds.place_legal_hold(lived_in, customer_id=held.id, reason="a case")
    (kept,) = lived_in.execute(f"{ENDED} AND customer_id = %s", [held.id]).fetchone()
    due = number(lived_in, ENDED) - kept
    assert kept > 0
    assert due > 500

    archiving = housekeeping.Archiving(str(tmp_path))
    gone = housekeeping.prune(lived_in, older_than=timedelta(days=40), archiving=archiving)
    assert gone["workflow_executions"] == due
    assert number(lived_in, ENDED) == kept
    written = receipts.list_receipts(lived_in, max_rows=500)
    assert sum(r.row_counts["workflow_executions"] for r in written) == due
    for url in {receipt.archive_url for receipt in written}:
        archives.verify_archive(url)


def test_a_month_goes_with_its_shards(lived_in):
    before = number(lived_in, "SELECT count(*) FROM agent_metrics")
    dropped, _ = housekeeping.drop_partitions(
        lived_in, table="agent_metrics", older_than=timedelta(days=5)
    )
    assert dropped
    left = number(lived_in, "SELECT count(*) FROM agent_metrics")
    assert left == before - sum(month.rows for month in dropped)


def test_a_customer_goes_with_all_that_is_theirs(lived_in, tmp_path):
    customer, other, *_ = customers.list_customers(lived_in, max_rows=50)
    row = lived_in.execute(COUNTS, {"id": customer.id}).fetchone()
    others = lived_in.execute(COUNTS, {"id": other.id}).fetchone()
    archive = archives.export_customer(lived_in, str(tmp_path), customer_id=customer.id)

    erased = housekeeping.erase(lived_in, customer_id=customer.id)
    for table, rows in zip(TABLES, row, strict=True):
        assert erased[table] == archive.row_counts[table] == rows > 0
    assert erased["customers"] == 1
    assert all(re.fullmatch(r"[a-z_]+(_\d{4}_\d\d)?", name) for name in erased), erased
    assert lived_in.execute(COUNTS, {"id": customer.id}).fetchone() == (0, 0, 0)
    assert lived_in.execute(COUNTS, {"id": other.id}).fetchone() == others

    legal_holds.place_legal_hold(lived_in, customer_id=other.id, reason="a case")
    with pytest.raises(UnderLegalHold):
        housekeeping.erase(lived_in, customer_id=other.id)
    assert lived_in.execute(COUNTS, {"id": other.id}).fetchone() == others


def test_maintain_does_what_can_be_done_there(lived_in):
    said = []
    done = housekeeping.maintain(lived_in, say=said.append)
    assert "Pruning runs" in said
    assert not {"Timing out runs", "Sealing events"} & set(said)
    assert (done.runs_timed_out, done.events_sealed) == (0, 0)
