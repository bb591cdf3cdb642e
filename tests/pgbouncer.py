"""PgBouncer, which hands a few server connections to many clients."""

import os
import pwd
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict

PGBOUNCER = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"

needs_pgbouncer = pytest.mark.skipif(
    not Path(PGBOUNCER).exists(), reason="PgBouncer is not installed (Debian: pgbouncer)"
)


@contextmanager
def running(database_url, pgdata, directory, settings):
    """Run one in front of a database; yield the URL through it."""
    target = conninfo_to_dict(database_url)
    settings = {
        "pool_mode": "transaction",
        "default_pool_size": 1,
        "auth_type": "any",
        "listen_port": 6432,
        "unix_socket_dir": directory,
        "ignore_startup_parameters": "extra_float_digits",
        **settings,
    }
    directory.mkdir()
    config = directory / "pgbouncer.ini"
    config.write_text(
        "[databases]\n"
        f"{target['dbname']} = host={target['host']} port={target['port']} user=postgres\n"
        "[pgbouncer]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
    )
    owner = pgdata.stat()  # who may enter the server's socket directory
    identity = {}
    if os.geteuid() == 0:
        for path in (config, directory):
            os.chown(path, owner.st_uid, owner.st_gid)
        for path in list(directory.parents)[:4]:
            path.chmod(path.stat().st_mode | 0o011)
        identity = {"user": pwd.getpwuid(owner.st_uid).pw_name, "group": owner.st_gid}
    process = subprocess.Popen([PGBOUNCER, "-q", config], stderr=subprocess.PIPE, **identity)
    try:
        for _ in range(100):
            with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(directory / ".s.PGSQL.6432"))
                break
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        yield f"postgresql://postgres@/{target['dbname']}?host={quote(str(directory))}&port=6432"
    finally:
        process.terminate()
        process.wait(10)
        process.stderr.close()
