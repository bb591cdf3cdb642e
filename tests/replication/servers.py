"""Servers that follow each other, made with PostgreSQL's own programs."""

import os
import subprocess
import time
from contextlib import contextmanager, suppress
from urllib.parse import quote

import psutil

from optiinfra_db import connect, embedded
from optiinfra_db.migrate import migrate
from optiinfra_db.pytest_plugin import FORGETFUL, throwaway_directory
from optiinfra_db.seed import seed

from ..conftest import running_server

KEPT = FORGETFUL | {"synchronous_commit": "on", "full_page_writes": "on"}
"""What is acknowledged survives the processes, though not the machine."""


@contextmanager
def seeded_server(version, options=KEPT):
    """Start a server with the sample data."""
    with running_server(version, options) as server:
        server.ensure_database()
        migrate(server.url(), say=lambda _: None)
        with connect(server.url()) as conn:
            seed(conn)
        yield server


def run_as_owner(server, *command, **variables):
    """Run a program as the user who owns the server's data, in its directory."""
    owner = server.data_dir.stat()
    identity = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=server.data_dir,
        env=os.environ | {name: str(value) for name, value in variables.items()},
        capture_output=True,
        text=True,
        check=False,
        **identity,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def no_server_yet(bin_dir, owner):
    """Make a place for a server's data, of the same owner as another's."""
    with throwaway_directory() as data_dir:
        status = owner.pgdata.stat()
        os.chown(data_dir, status.st_uid, status.st_gid)
        yield embedded.find(data_dir, bin_dir=bin_dir)


@contextmanager
def replica_of(primary, options=KEPT):
    """Copy a running server with pg_basebackup, and let the copy follow it."""
    with no_server_yet(primary.bin_dir, owner=primary) as replica:
        run_as_owner(
            replica,
            primary.bin_dir / "pg_basebackup",
            *("--pgdata", replica.pgdata, "--host", primary.socket_dir, "--username=postgres"),
            *("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"),
        )
        yield start(replica, options)


def start(server, options=KEPT):
    """Start a server whose data is there."""
    return embedded.start(server.data_dir, bin_dir=server.bin_dir, options=options)


def promote(replica):
    """Make a replica a primary, and wait until it is."""
    with connect(replica.url()) as conn:
        assert conn.execute("SELECT pg_promote()").fetchone() == (True,)


def url_of(*servers, dbname=embedded.DATABASE, **parameters):
    """Return the URL that names several servers."""
    hosts = ",".join(quote(str(server.socket_dir), safe="") for server in servers)
    extra = "".join(f"&{name}={value}" for name, value in parameters.items())
    return f"postgresql://postgres@/{dbname}?host={hosts}&port=5432{extra}"


def processes_of(server):
    """Return all processes of a running server, the first before those that it started."""
    pid = int((server.pgdata / "postmaster.pid").read_text().partition("\n")[0])
    postmaster = psutil.Process(pid)
    return [postmaster, *postmaster.children(recursive=True)]


def kill(server):
    """Kill all processes of a server at once, the way that a crash of the machine would."""
    processes = processes_of(server)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    with suppress(ChildProcessError):
        os.waitpid(processes[0].pid, 0)  # it is our child, and would stay as a zombie


def eventually(condition, seconds=20):
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)
    return found
