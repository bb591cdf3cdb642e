"""Rows go to another server by logical replication, and the platform follows, as the guide says."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from optiinfra_db import audit, connect
from optiinfra_db.feed import RESTORED, Feed, latest
from optiinfra_db.generated import events, workflow_executions, workflow_steps
from optiinfra_db.generated.models import WorkflowType
from optiinfra_db.migrate import migrate
from optiinfra_db.seed import ATLAS, COST, seed

from ..conftest import running_server
from .servers import KEPT, eventually

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "replication.md"
OLD_BIN = Path("/usr/lib/postgresql/15/bin")
PUBLISH, SUBSCRIBE, SWITCH_OVER = re.findall(
    r"^```console\n(.*?)^```", GUIDE.read_text().partition("## Moving to")[2], re.S | re.M
)
TABLES = """
    SELECT relation_name FROM access_rules JOIN pg_class ON oid = to_regclass(relation_name)
    WHERE relkind IN ('r', 'p') AND relation_name !~ '^_yoyo' ORDER BY place
"""
SETTINGS = KEPT | {"wal_level": "logical", "max_replication_slots": "16"}


class Move:
    """A move from one server to another."""

    def __init__(self, old, new):
        self.old, self.new = old, new

    def run(self, text):
        """Run a block of the guide."""
        programs = [str(Path(sys.executable).parent), str(self.new.bin_dir), os.environ["PATH"]]
        conninfo = f"host={self.old.socket_dir} port=5432 user=postgres dbname=optiinfra"
        variables = {"OLD_URL": self.old.url(), "NEW_URL": self.new.url()}
        variables |= {"OLD_CONNINFO": conninfo, "PATH": os.pathsep.join(programs)}
        if self.new.bin_dir == OLD_BIN:
            text = text.replace(" WITH (run_as_owner = true)", "")
        done = subprocess.run(
            ["bash", "-euc", text],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def contents(self, url):
        with connect(url) as conn:
            conn.execute("SET TimeZone = 'UTC'")
            tables = [name for (name,) in conn.execute(TABLES).fetchall()]
            return {
                table: sorted(text for (text,) in conn.execute(f"SELECT t::text FROM {table} AS t"))
                for table in tables
            }

    def differences(self):
        old, new = self.contents(self.old.url()), self.contents(self.new.url())
        assert old.keys() == new.keys()
        return {table for table in old if old[table] != new[table]}


@pytest.fixture(scope="module", params=["same", "15 to 18"])
def move(request, pg):
    """Publish the sample data and more from one server, and subscribe to it from another."""
    versions = (pg, pg) if request.param == "same" else ("15", "18")
    if request.param != "same" and (pg != "18" or not OLD_BIN.exists()):
        pytest.skip("is run with --pg 18 where PostgreSQL 15 is installed (Debian: postgresql-15)")
    with running_server(versions[0], SETTINGS) as old, running_server(versions[1], SETTINGS) as new:
        for server in (old, new):
            server.ensure_database()
        migrate(old.url(), say=lambda _: None)
        with connect(old.url()) as conn:
            seed(conn)
            conn.execute(
                "INSERT INTO agent_metrics (agent_id, metric_name, recorded_at, metric_value) "
                "VALUES (%s, 'old', '2025-01-15', 1)",
                [COST],
            )
            conn.execute("SELECT ensure_partitions(0)")  # a month that the other does not have
            audit.seal(conn)
            conn.execute(
                "INSERT INTO legal_holds (customer_id, reason) VALUES (%s, 'case 7')", [ATLAS]
            )
            conn.execute(
                "INSERT INTO retention_policies (table_name, keep_for) VALUES ('events', '1 year')"
            )
            conn.execute("INSERT INTO receipts (operation, row_counts) VALUES ('prune', '{}')")
        move = Move(old, new)
        move.run(PUBLISH)
        move.run(SUBSCRIBE)
        yield move


def test_what_there_was_is_copied(move):
    eventually(lambda: not move.differences())
    empty = {table for table, rows in move.contents(move.new.url()).items() if not rows}
    assert empty == set(), "the fixture `move` has to write a row there"
    with connect(move.old.url()) as conn:
        sequences = "SELECT count(*) FROM pg_sequences WHERE schemaname = current_schema()"
        assert conn.execute(sequences).fetchone() == (0,)


def test_each_table_replicates_updates_deletes_and_inserts(move):
    original = move.contents(move.old.url())
    with connect(move.old.url()) as conn:
        # Past the triggers, which would refuse it.
        conn.execute("SET session_replication_role = replica")
        for table in original:
            conn.execute(f"CREATE TEMP TABLE original_{table} AS SELECT * FROM {table}")
            conn.execute(f"UPDATE {table} SET {change_of(conn, table)}")
            conn.execute(
                f"DELETE FROM {table} WHERE (tableoid, ctid) IN "
                f"(SELECT tableoid, ctid FROM {table} LIMIT 1)"
            )
        changed = move.contents(move.old.url())
        eventually(lambda: move.contents(move.new.url()) == changed)
        for table, rows in original.items():
            assert len(changed[table]) == len(rows) - 1
            assert not set(changed[table]) & set(rows)
            conn.execute(f"DELETE FROM {table}")
            conn.execute(f"INSERT INTO {table} SELECT * FROM original_{table}")
    eventually(lambda: move.contents(move.new.url()) == original)


def change_of(conn, table):
    """Return what to set in a table, outside of its key and that every CHECK takes."""
    columns = conn.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %(table)s::regclass AND attnum > 0 "
        "AND attnum != ALL (SELECT unnest(indkey) FROM pg_index "
        "WHERE indrelid = %(table)s::regclass AND indisprimary)",
        {"table": table},
    )
    names = {name for (name,) in columns}
    return "created_at = '2024-02-03'" if "created_at" in names else "data = '{\"changed\": true}'"


def test_a_subscription_of_the_owner_of_the_tables_is_refused(move):
    """Row-level security is for the owner, too, and PostgreSQL does not replicate under it."""
    if move.new.bin_dir == OLD_BIN:
        pytest.skip("PostgreSQL 15 always replicates as the owner of the subscription")
    with connect(move.new.url()) as conn, connect(move.old.url()) as old:
        conn.execute("ALTER SUBSCRIPTION optiinfra SET (run_as_owner = false)")
        try:
            events.create_event(old, customer_id=ATLAS, event_type="x")
            eventually(lambda: "with row-level security enabled" in move.new.log.read_text())
        finally:
            conn.execute("ALTER SUBSCRIPTION optiinfra SET (run_as_owner = true)")
    eventually(lambda: not move.differences())


def test_the_platform_moves_over_with_its_feed_its_seals_and_its_open_runs(move):
    is_over, written, read = threading.Event(), [], []

    def write():
        with connect(move.old.url()) as conn:
            while not is_over.is_set():
                written.append(events.create_event(conn, customer_id=ATLAS, event_type="x").id)

    with connect(move.old.url()) as conn:
        start = latest(conn)
        run = workflow_executions.create_workflow_execution(
            conn,
            customer_id=ATLAS,
            agent_id=COST,
            workflow_type=WorkflowType.HEALTH_CHECK,
            step_names=["a"],
        )
        workflow_executions.begin_workflow_execution(conn, customer_id=ATLAS, id=run.id)
        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(1)
        is_over.set()
        writer.join()
        stopped_at = time.monotonic()
        read = [event.id for event in Feed(move.old.url(), after=start)]
        assert set(written) <= set(read)
    move.run(SWITCH_OVER)
    seconds = time.monotonic() - stopped_at
    print(f"{len(written)} written meanwhile, moved over in {seconds:.1f} s")

    old, new = move.contents(move.old.url()), move.contents(move.new.url())
    for table in old.keys() - {"events", "event_seals"}:
        assert new[table] == old[table], table
    with connect(move.old.url()) as conn, connect(move.new.url()) as new_conn:
        query = "SELECT id, created_at, event_type, actor, data FROM events ORDER BY id"
        assert new_conn.execute(query).fetchall() == conn.execute(query).fetchall()

    with connect(move.new.url()) as conn:
        assert list(Feed(move.new.url(), after=RESTORED)) == []
        assert audit.verify(conn) == []
        [step] = workflow_steps.list_workflow_steps(
            conn, customer_id=ATLAS, workflow_execution_id=run.id
        )
        assert workflow_executions.finish_workflow_execution(
            conn, customer_id=ATLAS, id=run.id, workflow_step_id=step.id, retry_count=0
        )
        found = [event.event_type for event in Feed(move.new.url(), after=RESTORED)]
        assert found == ["workflow_step.completed", "workflow_execution.completed"]
        assert audit.seal(conn) == audit.Sealed(2, 1)
        assert audit.verify(conn) == []
