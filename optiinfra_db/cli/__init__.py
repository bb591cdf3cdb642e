"""The command line: `optiinfra-db`.

Data goes to stdout, messages to stderr. The exit codes are in the epilog of `--help`.
"""

import io
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NoReturn

import psycopg
import typer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console
from rich.table import Table

from optiinfra_db import __version__
from optiinfra_db.connection import configured_url, connect, describe, resolve_url
from optiinfra_db.errors import AlreadyExists, NotFound, OptiInfraError, typed_errors

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="The OptiInfra database: migrate it, fill it, look at it.",
    epilog="""\b
The database is that of --database-url, else of OPTIINFRA_DATABASE_URL, else an
embedded server in OPTIINFRA_DATA_DIR or the user's data directory.

\b
Exit codes: 0 done; 1 something is pending (status), or an unexpected error;
2 wrong usage or configuration; 3 no server to talk to; 4 refused, to protect
the database; 5 a migration failed; 6 the doctor found something; 130
interrupted; 141 the reader of the output went away.
""",
)

Url = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        "--url",
        metavar="URL",
        help="postgresql://user:password@host:port/dbname, instead of OPTIINFRA_DATABASE_URL.",
        show_default=False,
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"optiinfra-db {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: optiinfra-db migrate")
def migrate(url: Url = None) -> None:
    """Apply the pending migrations.

    Also makes the partitions of the months to come. Run it as often as you like.
    """
    from optiinfra_db import migrate as migrations  # noqa: PLC0415

    _announce(url)
    with _progress() as say:
        result = migrations.migrate(url, say=say)
    for name in result.applied:
        print(f"applied {name}")
    for name in result.partitions:
        print(f"created partition {name}")
    if not result.applied and not result.partitions:
        print("Nothing to do: the database is up to date.", file=sys.stderr)


@app.command(epilog="Example: optiinfra-db rollback --to 2")
def rollback(
    url: Url = None,
    to: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Undo every migration after number N."),
    ] = None,
    undo_all: Annotated[bool, typer.Option("--all", help="Undo all migrations.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Undo the last migration. The data in what it had created is lost.

    Asks first when run in a terminal. The bookkeeping (tables _yoyo_...) stays.
    """
    from optiinfra_db import migrate as migrations  # noqa: PLC0415

    if undo_all and to is not None:
        raise typer.BadParameter("--to and --all exclude each other.")
    to = 0 if undo_all else to
    _announce(url)
    if not yes and sys.stdin and sys.stdin.isatty():
        which = "the last migration" if to is None else f"every migration after number {to}"
        which = "all migrations" if undo_all else which
        typer.confirm(f"Roll back {which}, losing the data in it?", abort=True, err=True)
    with _progress() as say:
        undone = migrations.rollback(url, to=to, say=say)
    for name in undone:
        print(f"rolled back {name}")
    if not undone:
        print("Nothing to do: nothing of that is applied.", file=sys.stderr)


@app.command(epilog="Example: optiinfra-db status || optiinfra-db migrate")
def status(url: Url = None) -> None:
    """List the migrations: applied or pending, when, by whom.

    The exit code is 1 if any is pending.
    """
    from optiinfra_db import migrate as migrations  # noqa: PLC0415

    found = migrations.status(url)
    table = Table("migration", "state", "applied at (UTC)", "by", box=None, pad_edge=False)
    for item in found:
        applied_at = item.applied_at.strftime("%Y-%m-%d %H:%M:%S") if item.applied_at else ""
        table.add_row(item.id, item.state, applied_at, item.applied_by or "")
    console = Console()
    console.print(table, width=None if console.is_terminal else 200, no_wrap=True)
    migrations.check(found)
    if any(item.state == "pending" for item in found):
        raise typer.Exit(1)


@app.command(epilog="Example: optiinfra-db seed")
def seed(url: Url = None) -> None:
    """Write the sample data.

    The database must be migrated. Running it again changes nothing.
    """
    from optiinfra_db import seed as seeding  # noqa: PLC0415

    _announce(url)
    with connect(url) as conn:
        try:
            print(seeding.seed(conn))
        except (AlreadyExists, NotFound) as error:
            raise OptiInfraError(
                "Rows of others hold keys of the sample data, so nothing was written; "
                f"seed another database. {error}"
            ) from error


@app.command(epilog="Example: optiinfra-db demo")
def demo(
    url: Url = None,
    artifacts_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to put the files of the run.", show_default=False),
    ] = None,
) -> None:
    """Record a workflow and show the history.

    Migrates and seeds the database first, then does a small cost analysis through the generated
    functions. Running it again adds one run.
    """
    from optiinfra_db import demo as demonstration  # noqa: PLC0415
    from optiinfra_db import embedded  # noqa: PLC0415

    _announce(url)
    artifacts_dir = artifacts_dir or embedded.default_data_dir() / "artifacts"
    command, _ = _psql(url)
    try:
        demonstration.run(
            resolve_url(url), shlex.join(command), artifacts_dir.expanduser().resolve()
        )
    except OSError as error:
        raise OptiInfraError(
            f"Cannot write {error.filename}: {error.strerror}. "
            "Choose another folder with --artifacts-dir."
        ) from error


@app.command(epilog="Example: optiinfra-db doctor --days 7")
def doctor(
    url: Url = None,
    days: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=36500,
            help="Look only at what changed in the last N days.",
            show_default="all",
        ),
    ] = None,
    max_rows: Annotated[
        int, typer.Option(metavar="N", min=1, help="Show so many findings of a check.")
    ] = 20,
) -> None:
    """Check that the history is whole.

    Looks for what must never be: open steps in runs that are over, rows that differ from the audit
    log, gaps in it, times out of order, guards that are missing. Changes nothing. The exit code is
    6 if anything is found.
    """
    from optiinfra_db import doctor as doctoring  # noqa: PLC0415

    since = None if days is None else datetime.now(UTC) - timedelta(days=days)
    with connect(url) as conn, _progress() as say:
        findings = doctoring.examine(conn, since=since, max_rows=max_rows, say=say)
    for finding in findings:
        of = f" of customer {finding.customer_id}" if finding.customer_id else ""
        print(f"{finding.check}: {finding.subject}{of} {finding.problem}")
    for name in dict.fromkeys(finding.check for finding in findings):
        print(f"{name}: {doctoring.CHECKS[name].advice}", file=sys.stderr)
    if findings:
        raise typer.Exit(6)
    print(f"All {len(doctoring.CHECKS)} checks passed.", file=sys.stderr)


@app.command(
    epilog="Example: optiinfra-db psql -c 'SELECT * FROM customers'",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def psql(ctx: typer.Context, url: Url = None) -> None:
    """Open the database in psql.

    Further arguments are passed on to psql.
    """
    command, environment = _psql(url)
    os.execve(command[0], [*command, *ctx.args], os.environ | environment)


def _psql(url: str | None) -> tuple[list[str], dict[str, str]]:
    """Return the command that opens the database, and what it needs in the environment.

    That is the password: other users can see arguments. It is psql on PATH, or the wheel's, which
    goes with the embedded server.
    """
    from optiinfra_db import embedded  # noqa: PLC0415

    program = shutil.which("psql") if configured_url(url) else None
    program = program or str(embedded.find_bin_dir() / "psql")
    parameters = conninfo_to_dict(resolve_url(url))
    password = parameters.pop("password", None)
    command = [program, "-d", make_conninfo("", **parameters)]
    return command, {"PGPASSWORD": str(password)} if password else {}


@app.command(epilog="Example: optiinfra-db stop")
def stop() -> None:
    """Stop the embedded server.

    Open connections are ended; the data stays.
    """
    from optiinfra_db import embedded  # noqa: PLC0415

    server = embedded.find()
    was = "stopped" if server.stop() else "was not running"
    print(f"The embedded server in {server.data_dir} {was}.", file=sys.stderr)


def _announce(url: str | None) -> None:
    """Say which database is about to change; the embedded one is named when it is started."""
    if configured := configured_url(url):
        print(f"Database: {describe(configured)}", file=sys.stderr)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show what is going on, on stderr: by a spinner in a terminal, else by a line each."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    with console.status("Connecting") as spinner:
        yield spinner.update if console.is_terminal else console.print


def main() -> None:
    """Run the command line: where a command fails, one message and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where the locale has no box-drawing characters
    try:
        try:
            with typed_errors():
                app(prog_name="optiinfra-db")
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except OptiInfraError as error:
        _fail(str(error), error.exit_code)
    except psycopg.Error as error:
        _fail(str(error), 1)
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        _fail(f"{error.filename or 'output'}: {error.strerror}", 1)


def _fail(message: str, exit_code: int) -> NoReturn:
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(exit_code)
