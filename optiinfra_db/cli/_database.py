"""The commands on the database itself: migrate, seed, doctor, psql and the like."""

import os
import shlex
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from optiinfra_db import _words
from optiinfra_db.cli import _workflows
from optiinfra_db.cli._shared import (
    AsJson,
    Column,
    Url,
    Yes,
    announce,
    confirm,
    print_json,
    print_table,
    progress,
)
from optiinfra_db.connection import configured_url, connect, resolve_url
from optiinfra_db.errors import AlreadyExists, NotFound, OptiInfraError

app = typer.Typer()


@app.command(epilog="Example: optiinfra-db migrate")
def migrate(url: Url = None) -> None:
    """Apply the pending migrations.

    Also makes the partitions of the months to come. Run it as often as you like.
    """
    from optiinfra_db import migrate as migrations

    announce(url)
    with progress() as say:
        result = migrations.migrate(url, say=say)
    for name in result.applied:
        print(f"applied {name}")
    for name in result.partitions:
        print(f"created partition {name}")
    if not result.applied and not result.partitions:
        print("Nothing to do: the database is up to date.", file=sys.stderr)


@app.command(epilog="Example: optiinfra-db distribute --shards 64")
def distribute(
    url: Url = None,
    shards: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=64000, help="Spread the customers over so many shards."
        ),
    ] = 32,
    yes: Yes = False,
) -> None:
    """Lay the database out over the servers of a Citus cluster.

    The database must be migrated, on the coordinator. Asks first when run in a terminal: writers
    wait until it is done, and there is no way back. Running it again changes nothing.
    """
    from optiinfra_db import distribute as distribution

    announce(url)
    confirm(f"Distribute the database over {shards} shards, for good?", yes=yes)
    with progress() as say:
        layout = distribution.distribute(url, shards=shards, say=say)
    if layout is None:
        print("Nothing to do: the database is distributed already.", file=sys.stderr)
    else:
        print(layout)


@app.command(epilog="Example: optiinfra-db rollback --to 2")
def rollback(
    url: Url = None,
    to: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Undo every migration after number N."),
    ] = None,
    undo_all: Annotated[bool, typer.Option("--all", help="Undo all migrations.")] = False,
    yes: Yes = False,
) -> None:
    """Undo the last migration. The data in what it had created is lost.

    Asks first when run in a terminal. The bookkeeping (tables _yoyo_...) stays.
    """
    from optiinfra_db import migrate as migrations

    if undo_all and to is not None:
        raise typer.BadParameter("--to and --all exclude each other.")
    to = 0 if undo_all else to
    announce(url)
    which = "the last migration" if to is None else f"every migration after number {to}"
    which = "all migrations" if undo_all else which
    confirm(f"Roll back {which}, losing the data in it?", yes=yes)
    with progress() as say:
        undone = migrations.rollback(url, to=to, say=say)
    for name in undone:
        print(f"rolled back {name}")
    if not undone:
        print("Nothing to do: nothing of that is applied.", file=sys.stderr)


@app.command(epilog="Example: optiinfra-db status || optiinfra-db migrate")
def status(url: Url = None, as_json: AsJson = False) -> None:
    """List the migrations: applied or pending, when, by whom.

    The last line says how the database is laid out: plain, or distributed by Citus. The exit code
    is 1 if any is pending.
    """
    from optiinfra_db import distribute as distribution
    from optiinfra_db import migrate as migrations
    from optiinfra_db.shapes import Migration

    found = migrations.status(url)
    if as_json:
        print_json([Migration.model_validate(item) for item in found])
    else:
        print_table(
            [Column("migration"), Column("state"), Column("applied at"), Column("by", 1)],
            [
                (item.id, item.state, _words.exact(item.applied_at), item.applied_by or "")
                for item in found
            ],
            empty="There are no migrations.",
        )
        with connect(url) as conn:
            print(distribution.layout(conn) or "plain: one server")
    migrations.check(found)
    if any(item.state == "pending" for item in found):
        raise typer.Exit(1)


@app.command(epilog="Example: optiinfra-db seed")
def seed(url: Url = None) -> None:
    """Write the sample data.

    The database must be migrated. Running it again changes nothing.
    """
    from optiinfra_db import seed as seeding

    announce(url)
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
    from optiinfra_db import demo as demonstration
    from optiinfra_db import embedded
    from optiinfra_db import migrate as migrations
    from optiinfra_db import seed as seeding

    announce(url)
    store = (artifacts_dir or embedded.default_data_dir() / "artifacts").expanduser().resolve()
    with progress() as say:
        applied = migrations.migrate(url, say=say).applied
        with connect(url) as conn:
            say("Writing the sample data")
            seeded = seeding.seed(conn)
            say("Recording a cost analysis")
            try:
                made = demonstration.analyze_cost(conn, store)
            except OSError as error:
                raise OptiInfraError(
                    f"Cannot write {error.filename}: {error.strerror}. "
                    "Choose another folder with --artifacts-dir."
                ) from error
    print(f"Migrated: {len(applied) or 'no'} migrations were pending.")
    print(f"Seeded: {str(seeded).splitlines()[0].rstrip('.:')}.")
    print(f"Recorded: a cost analysis of {len(demonstration.STEPS)} steps.")
    print("\n$ optiinfra-db workflows list")
    _workflows.list_workflows(url)
    print(f"\n$ optiinfra-db workflows show {made}")
    _workflows.show_workflow(str(made), url)
    command, _ = _psql(url)
    print("\nLook at it in psql (\\dt+ lists the tables, \\q quits):")
    print(f"  {shlex.join(command)}")


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
    as_json: AsJson = False,
) -> None:
    """Check that the history is whole.

    Looks for what must never be: open steps in runs that are over, rows that differ from the audit
    log, gaps in it, times out of order, guards that are missing. Changes nothing. The exit code is
    6 if anything is found.
    """
    from optiinfra_db import distribute as distribution
    from optiinfra_db import doctor as doctoring

    since = None if days is None else datetime.now(UTC) - timedelta(days=days)
    with connect(url) as conn, progress() as say:
        layout = distribution.layout(conn)
        findings = doctoring.examine(conn, since=since, max_rows=max_rows, say=say)
    if as_json:
        from optiinfra_db.shapes import Finding

        print_json([Finding.model_validate(finding) for finding in findings])
        raise typer.Exit(6 if findings else 0)
    for finding in findings:
        of = f" of customer {finding.customer_id}" if finding.customer_id else ""
        print(_words.one_line(f"{finding.check}: {finding.subject}{of} {finding.problem}"))
    for name in dict.fromkeys(finding.check for finding in findings):
        print(f"{name}: {doctoring.CHECKS[name].advice}", file=sys.stderr)
    if findings:
        raise typer.Exit(6)
    print(f"{layout or 'plain: one server'}", file=sys.stderr)
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
    os.execve(command[0], [*command, *ctx.args], os.environ | environment)  # noqa: S606 -- psql, by its path


def _psql(url: str | None) -> tuple[list[str], dict[str, str]]:
    """Return the command that opens the database, and what it needs in the environment.

    That is the password: other users can see arguments. It is psql on PATH, or the wheel's, which
    goes with the embedded server.
    """
    from optiinfra_db import embedded

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
    from optiinfra_db import embedded

    server = embedded.find()
    was = "stopped" if server.stop() else "was not running"
    print(f"The embedded server in {server.data_dir} {was}.", file=sys.stderr)
