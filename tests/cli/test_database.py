import os
import pty
import signal
import subprocess
import time

import psycopg
import pytest

from optiinfra_db import connect
from optiinfra_db.generated import agents, workflow_executions
from optiinfra_db.generated.models import AgentType
from optiinfra_db.seed import ATLAS

from .command import COMMAND, run

SECRET = "hun%25ter2"


def test_migrate_status_rollback(empty_database_url):
    url = empty_database_url
    result = run("status", url=url)
    assert result.returncode == 1
    assert "0001.core-tables" in result.stdout
    assert "pending" in result.stdout
    assert result.stderr == ""

    result = run("migrate", url=url)
    assert result.returncode == 0, result.stderr
    names = [line.split()[1] for line in result.stdout.splitlines() if "applied" in line]
    assert names[0] == "0001.core-tables"
    assert "created partition" in result.stdout
    assert "Applying 0001.core-tables" in result.stderr
    result = run("migrate", "--url", url)
    assert (result.returncode, result.stdout) == (0, "")
    assert "Nothing to do" in result.stderr

    result = run("status", "--database-url", url)
    assert result.returncode == 0
    assert "pending" not in result.stdout
    assert "\x1b" not in result.stdout
    assert result.stdout.splitlines()[1].split()[1] == "applied"
    assert "@" in result.stdout

    assert run("rollback", url=url).stdout == f"rolled back {names[-1]}\n"
    result = run("rollback", "--to", "1", url=url)
    assert result.stdout.split()[2::3] == names[-2:0:-1]
    assert run("rollback", "--all", url=url).stdout == f"rolled back {names[0]}\n"
    result = run("rollback", "--all", url=url)
    assert (result.returncode, result.stdout) == (0, "")
    assert run("status", url=url).returncode == 1


def test_a_server_without_citus_is_not_distributed(database_url):
    result = run("distribute", "--yes", url=database_url)
    assert (result.returncode, result.stdout) == (4, "")
    assert "CREATE EXTENSION citus" in result.stderr
    assert run("status", url=database_url).stdout.splitlines()[-1] == "plain: one server"


def test_status_fails_on_a_database_that_does_not_fit(empty_database_url):
    run("migrate", url=empty_database_url)
    with psycopg.connect(empty_database_url) as conn:
        conn.execute("UPDATE _yoyo_checksum SET sha256 = 'x' WHERE migration_id LIKE '0002%'")
    for command in ("status", "migrate"):
        result = run(command, url=empty_database_url)
        assert result.returncode == 4
        assert "edited after it had been applied" in result.stderr
    assert "edited" in run("status", url=empty_database_url).stdout


def test_seed_says_the_second_time_that_nothing_changed(empty_database_url):
    result = run("seed", url=empty_database_url)
    assert result.returncode == 4
    assert "run optiinfra-db migrate" in result.stderr
    run("migrate", url=empty_database_url)
    first, second = (run("seed", url=empty_database_url) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert first.stdout
    assert first.stdout != second.stdout


@pytest.mark.parametrize("command", ["migrate", "status", "psql"])
@pytest.mark.parametrize(
    ("url", "exit_code", "says"),
    [
        (f"mysql://u:{SECRET}@h/d", 2, "not PostgreSQL"),
        (f"postgresql://u:{SECRET}@a@h/d", 2, "percent-encode"),
        (f"postgresql://u:{SECRET}@127.0.0.1:1/d", 3, "127.0.0.1"),
    ],
)
def test_a_failure_is_one_message_and_an_exit_code(command, url, exit_code, says):
    result = run(command, url=url)
    assert says in result.stderr
    if command != "psql" or exit_code != 3:  # where it is psql that cannot connect
        assert result.returncode == exit_code
    assert "Traceback" not in result.stderr
    for secret in (SECRET, "hun%ter2"):
        assert secret not in result.stderr + result.stdout


def test_wrong_usage_is_exit_code_2(empty_database_url):
    for args in (["nonsense"], ["rollback", "--to", "x"], ["rollback", "--to", "1", "--all"]):
        assert run(*args, url=empty_database_url).returncode == 2
    result = run("rollback", "--to", "99", url=empty_database_url)
    assert result.returncode == 2
    assert "no migration number 99" in result.stderr


def test_psql_opens_the_database_and_passes_arguments_on(empty_database_url):
    result = run("psql", "-X", "-At", "-c", "SELECT current_database()", url=empty_database_url)
    assert result.stdout.strip() in empty_database_url, result.stderr
    failing = run("psql", "-c", "SELECT 1/0", url=empty_database_url)
    assert failing.returncode == 1


def test_psql_is_given_the_password_but_not_as_an_argument(tmp_path, monkeypatch):
    fake = tmp_path / "psql"
    fake.write_text('#!/bin/sh\necho "$@"; echo "password $PGPASSWORD"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    result = run("psql", "-c", "x", url=f"postgresql://u:{SECRET}@h:1,i:2/d?sslmode=require")
    arguments, password = result.stdout.splitlines()
    assert password == "password hun%ter2"
    assert "hun%ter2" not in arguments
    for part in ("user=u", "host=h,i", "port=1,2", "dbname=d", "sslmode=require", "-c x"):
        assert part in arguments


def test_the_embedded_server_is_used_said_so_and_stopped(tmp_path):
    tmp_path.chmod(0o755)
    data_dir = tmp_path / "data"
    try:
        result = run("migrate", data_dir=data_dir)
        assert result.returncode == 0, result.stderr
        assert "Initialising embedded PostgreSQL 18" in result.stderr
        assert f"using the embedded server in {data_dir}" in result.stderr
        result = run("psql", "-Atc", "SELECT count(*) FROM customers", data_dir=data_dir)
        assert result.stdout == "0\n"
        assert run("status", data_dir=data_dir).returncode == 0
    finally:
        stopped = run("stop", data_dir=data_dir)
    assert (stopped.returncode, stopped.stdout) == (0, "")
    assert "stopped" in stopped.stderr
    assert "was not running" in run("stop", data_dir=data_dir).stderr


def test_ctrl_c_ends_with_130_and_no_traceback(empty_database_url):
    with psycopg.connect(empty_database_url) as conn:
        conn.execute("SELECT pg_advisory_lock(%s)", [0x6F707469_696E6672])
        process = subprocess.Popen(
            [COMMAND, "migrate", "--url", empty_database_url], stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Database: host ")
        line = process.stderr.readline()
        assert "Waiting for another migrate to finish: process" in line
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_closed_and_full_outputs_are_no_tracebacks(empty_database_url):
    shell = f"{COMMAND} migrate --url '{empty_database_url}'"
    options = {"shell": True, "capture_output": True, "text": True}
    closed = subprocess.run(f"{shell} <&- >&-", check=False, **options)
    assert (closed.returncode, "Traceback" in closed.stderr) == (0, False)
    full = subprocess.run(
        f"{COMMAND} status --url '{empty_database_url}' > /dev/full", check=False, **options
    )
    assert full.returncode == 1
    assert full.stderr == "Error: output: No space left on device\n"


def test_output_in_a_poor_encoding_is_no_traceback(database_url, tmp_path):
    result = run(
        "demo", "--artifacts-dir", tmp_path, url=database_url, env={"PYTHONIOENCODING": "ascii"}
    )
    assert result.returncode == 0
    assert "cost_analysis" in result.stdout


def test_a_folder_that_cannot_be_written_stops_the_demo_before_its_run(database_url, tmp_path):
    file = tmp_path / "file"
    file.touch()
    result = run("demo", "--artifacts-dir", file / "artifacts", url=database_url)
    assert result.returncode == 1
    assert "Choose another folder with --artifacts-dir" in result.stderr
    with connect(database_url) as conn:
        runs = workflow_executions.list_workflow_executions(conn, customer_id=ATLAS, max_rows=9)
    assert len(runs) == 1


def test_seeding_among_the_rows_of_others_says_why_it_cannot(database_url):
    with connect(database_url) as conn:
        agents.upsert_agent(conn, type=AgentType.COST, name="cost-1", version="9")
    result = run("seed", url=database_url)
    assert result.returncode == 1
    assert "Rows of others hold keys of the sample data, so nothing was written" in result.stderr


def test_a_reader_that_stops_reading_is_no_error(empty_database_url):
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = subprocess.Popen(
        [COMMAND, "status", "--url", empty_database_url], stdout=write_end, stderr=subprocess.PIPE
    )
    os.close(write_end)
    _, err = process.communicate(timeout=10)
    assert err == b""


@pytest.mark.parametrize(("answer", "is_undone"), [("n", False), ("y", True)])
def test_rollback_asks_in_a_terminal(empty_database_url, answer, is_undone):
    run("migrate", url=empty_database_url)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "rollback", "--all", "--url", empty_database_url],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.write(ours, f"{answer}\n".encode())
    out, err = process.communicate(timeout=20)
    os.close(ours)
    os.close(theirs)
    assert err.startswith("Database: host ")
    assert "Roll back all migrations, losing the data in it?" in err
    assert ("rolled back" in out) == is_undone
    assert (process.returncode == 0) == is_undone
    assert run("status", url=empty_database_url).returncode == int(is_undone)


def test_doctor_passes_or_says_what_is_wrong_and_what_to_do(empty_database_url):
    url = empty_database_url
    result = run("doctor", url=url)
    assert result.returncode == 4
    assert "optiinfra-db migrate" in result.stderr
    run("migrate", url=url)
    run("seed", url=url)
    result = run("doctor", "--days", "1", url=url)
    assert (result.returncode, result.stdout) == (0, "")
    assert "All 7 checks passed." in result.stderr

    with psycopg.connect(url) as conn:
        conn.execute("ALTER TABLE approvals DISABLE TRIGGER approvals_record_event")
    result = run("doctor", url=url)
    assert result.returncode == 6
    assert result.stdout == ("guards: table approvals trigger approvals_record_event is disabled\n")
    assert "guards: ALTER TABLE ... ENABLE TRIGGER" in result.stderr
    for days in ("-1", "1000000", "inf"):
        assert run("doctor", "--days", days, url=url).returncode == 2
