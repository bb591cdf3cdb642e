"""Behind PgBouncer in transaction mode, where two clients share one server connection.

Each query may run on a connection that another client used a moment ago, so nothing may be left on
it: no prepared statement, no setting.
"""

import os
import pwd
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from optiinfra_db import connect
from optiinfra_db.generated import customers, events, workflow_executions
from optiinfra_db.seed import ATLAS, COST_RUN, INDIE, NIMBUS, QUALITY_RUN, seed

PGBOUNCER = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
RUNS = {ATLAS: COST_RUN, INDIE: QUALITY_RUN}

pytestmark = pytest.mark.skipif(
    not Path(PGBOUNCER).exists(), reason="PgBouncer is not installed (Debian: pgbouncer)"
)


@pytest.fixture
def pooled_url(database_url, server, tmp_path):
    """Start a PgBouncer that has one server connection for everybody; return its URL."""
    with connect(database_url) as conn:
        seed(conn)
    target = conninfo_to_dict(database_url)
    config = tmp_path / "pgbouncer.ini"
    config.write_text(
        "[databases]\n"
        f"{target['dbname']} = host={target['host']} port={target['port']} user=postgres\n"
        "[pgbouncer]\n"
        "pool_mode = transaction\n"
        "default_pool_size = 1\n"
        "auth_type = any\n"
        "listen_port = 6432\n"
        f"unix_socket_dir = {tmp_path}\n"
        "ignore_startup_parameters = extra_float_digits\n"
    )
    owner = server.pgdata.stat()  # who may enter the server's socket directory
    identity = {}
    if os.geteuid() == 0:
        for path in (config, tmp_path):
            os.chown(path, owner.st_uid, owner.st_gid)
        for path in list(tmp_path.parents)[:3]:
            path.chmod(path.stat().st_mode | 0o011)
        identity = {"user": pwd.getpwuid(owner.st_uid).pw_name, "group": owner.st_gid}
    process = subprocess.Popen([PGBOUNCER, "-q", config], stderr=subprocess.PIPE, **identity)
    url = f"postgresql://postgres@/{target['dbname']}?host={quote(str(tmp_path))}&port=6432"
    try:
        for _ in range(100):
            if (tmp_path / ".s.PGSQL.6432").exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)
        process.stderr.close()


def test_clients_that_share_a_connection_get_their_own_answers(pooled_url):
    def ask(customer_id):
        with connect(pooled_url) as conn:
            conn.prepare_threshold = None
            for _ in range(200):
                customer = customers.get_customer(conn, id=customer_id)
                assert customer.id == customer_id
                run = workflow_executions.get_workflow_detail(
                    conn, customer_id=customer_id, id=RUNS[customer_id]
                )
                assert run.workflow_execution.customer_id == customer_id
                assert {step.customer_id for step in run.steps} == {customer_id}
        return True

    with ThreadPoolExecutor(4) as executor:
        assert list(executor.map(ask, [ATLAS, INDIE, ATLAS, INDIE])) == [True] * 4


def test_an_actor_set_for_a_transaction_is_gone_after_it(pooled_url):
    with ExitStack() as stack:
        alice, bob = (stack.enter_context(connect(pooled_url)) for _ in range(2))
        for conn in (alice, bob):
            conn.prepare_threshold = None

        with alice.transaction():
            alice.execute("SET LOCAL optiinfra.actor = 'alice'")
            by_alice = events.create_event(alice, customer_id=NIMBUS, event_type="x")
        by_bob = events.create_event(bob, customer_id=NIMBUS, event_type="x")

    assert (by_alice.actor, by_bob.actor) == ("alice", "postgres")


def test_prepared_statements_are_why_the_threshold_must_be_none(pooled_url):
    """With psycopg's default the answers are errors, or those to another client's query."""

    def ask(conn, customer_id):
        assert customers.get_customer(conn, id=customer_id).id == customer_id
        runs = workflow_executions.list_workflow_executions(
            conn, customer_id=customer_id, max_rows=9
        )
        assert {run.customer_id for run in runs} == {customer_id}

    def take_turns():
        with connect(pooled_url) as one, connect(pooled_url) as other:
            for _ in range(20):
                ask(one, ATLAS)
                ask(other, INDIE)

    with pytest.raises((psycopg.Error, AssertionError)):
        take_turns()
