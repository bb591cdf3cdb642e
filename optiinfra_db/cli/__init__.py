"""The command line: `optiinfra-db`.

Data goes to stdout, messages to stderr. The exit codes are in the epilog of `--help`.
"""

import io
import os
import signal
import sys
from typing import Annotated, Any, NoReturn

import psycopg
import typer
from typer.core import TyperGroup

from optiinfra_db import __version__, _words
from optiinfra_db.cli import (
    _agents,
    _artifacts,
    _audit,
    _customers,
    _database,
    _feed,
    _housekeeping,
    _metrics,
    _recommendations,
    _report,
    _savings,
    _workflows,
)
from optiinfra_db.errors import OptiInfraError, typed_errors


class _Commands(TyperGroup):
    """Ends with 141, and not with 1 as typer does, where the reader of the output went away."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 -- of click, which is inside of typer
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _forget_output()
            raise typer.Exit(_READER_LEFT) from None


_READER_LEFT = 128 + signal.SIGPIPE


def _forget_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="The OptiInfra database: migrate it, fill it, look at it, act on it.",
    epilog="""\b
The database is that of --database-url, else of OPTIINFRA_DATABASE_URL, else an
embedded server in OPTIINFRA_DATA_DIR or the user's data directory.

\b
Exit codes: 0 done; 1 something is pending (status), or an unexpected error;
2 wrong usage, configuration, id or name; 3 no server to talk to; 4 refused, by
the database or to protect it; 5 a migration failed; 6 something was found
(doctor, verify-audit, agents stale, artifacts verify, artifacts orphans);
130 interrupted; 141 the reader of the output went away.
""",
)
app.registered_commands += _database.app.registered_commands
for part in (_workflows, _agents, _recommendations, _artifacts, _metrics, _customers):
    app.add_typer(part.app)
for groups in (
    _housekeeping.partitions_app,
    _housekeeping.retention_app,
    _housekeeping.holds_app,
):
    app.add_typer(groups)
for part in (_savings, _report, _feed, _audit, _housekeeping):
    app.registered_commands += part.app.registered_commands


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
        _forget_output()
        sys.exit(_READER_LEFT)
    except OSError as error:
        _fail(f"{error.filename or 'output'}: {error.strerror}", 1)


def _fail(message: str, exit_code: int) -> NoReturn:
    print(f"Error: {_words.lines(message)}", file=sys.stderr)
    sys.exit(exit_code)
