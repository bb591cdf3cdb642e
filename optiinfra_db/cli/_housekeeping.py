"""The commands that keep history from growing for ever, and that move it."""

import sys
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optiinfra_db import _words
from optiinfra_db.cli._shared import (
    AsJson,
    By,
    Column,
    CustomerName,
    CustomerOption,
    Limit,
    Refused,
    Url,
    Utc,
    Yes,
    actor,
    choices,
    confirm,
    customer_id,
    duration,
    find_customer,
    find_legal_hold,
    find_retention_policy,
    find_workflow,
    group,
    print_json,
    print_table,
    progress,
    when,
)
from optiinfra_db.connection import acting, connect, connect_session
from optiinfra_db.generated.models import WorkflowType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optiinfra_db.housekeeping import Archiving, Dropped, Kept

app = typer.Typer()
partitions_app = group("partitions", "The months of events and metrics: look at them, drop.")
retention_app = group("retention", "Say how long what is over is kept.")
holds_app = group("holds", "Keep customers and runs from being deleted.")


class Format(StrEnum):
    """In what to archive."""

    NDJSON = "ndjson"
    PARQUET = "parquet"


class Table(StrEnum):
    """What is partitioned by month."""

    EVENTS = "events"
    AGENT_METRICS = "agent_metrics"


class Kind(StrEnum):
    """What a policy may be on."""

    RUNS = "runs"
    EVENTS = "events"
    METRICS = "metrics"


_TABLES = {
    Kind.RUNS: "workflow_executions",
    Kind.EVENTS: "events",
    Kind.METRICS: "agent_metrics",
}

OlderThan = Annotated[
    timedelta | None,
    typer.Option(
        "--older-than",
        parser=duration,
        metavar="TIME",
        help="Over for longer than that: 90d, 52w.",
        show_default="what the retention policies say",
    ),
]
Type = Annotated[
    WorkflowType | None,
    typer.Option(
        "--type", "-t", metavar="TYPE", help=f"Only of this type: {choices(WorkflowType)}."
    ),
]
InFormat = Annotated[
    Format, typer.Option("--format", metavar="FORMAT", help=f"In what: {choices(Format)}.")
]
ArchiveTo = Annotated[
    str | None,
    typer.Option(
        "--archive",
        metavar="URL",
        help="Archive it first: a folder, or a URL such as s3://bucket/prefix.",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")]
Target = Annotated[
    str, typer.Argument(metavar="URL", help="A folder, or a URL such as s3://bucket/prefix.")
]
MonthsAhead = Annotated[
    int,
    typer.Option("--months-ahead", metavar="N", min=0, max=120, help="For so many months to come."),
]


@app.command(epilog="Example: optiinfra-db prune --customer atlas --older-than 90d --dry-run")
def prune(
    url: Url = None,
    customer: CustomerOption = None,
    type: Type = None,
    older_than: OlderThan = None,
    dry_run: DryRun = False,
    by: By = None,
    yes: Yes = False,
) -> None:
    """Delete runs that are long over.

    With their steps and artifacts. The events about them stay, and so does what is under a legal
    hold. To interrupt it loses nothing; writers do not wait.
    """
    _prune(url, customer, type, older_than, None, dry_run=dry_run, by=by, yes=yes)


@app.command(epilog="Example: optiinfra-db archive s3://history/runs --older-than 52w")
def archive(
    to: Target,
    url: Url = None,
    format: InFormat = Format.NDJSON,
    customer: CustomerOption = None,
    type: Type = None,
    older_than: OlderThan = None,
    by: By = None,
    yes: Yes = False,
) -> None:
    """Move runs that are long over into archives.

    Each is read again and compared before its runs are deleted. import brings them back.
    """
    from optiinfra_db.housekeeping import Archiving

    archiving = Archiving(to, format.value)
    _prune(url, customer, type, older_than, archiving, dry_run=False, by=by, yes=yes)


def _prune(
    url: str | None,
    customer: str | None,
    type: WorkflowType | None,
    older_than: timedelta | None,
    archiving: "Archiving | None",
    *,
    dry_run: bool,
    by: str | None,
    yes: bool,
) -> None:
    from optiinfra_db import housekeeping
    from optiinfra_db.generated import retention_policies

    with connect_session(url, actor=actor(by)) as conn, housekeeping.alone(conn) as is_ours:
        _need(is_ours)
        given: dict[str, Any] = {
            "customer_id": customer_id(conn, customer),
            "workflow_type": type,
            "older_than": older_than,
        }
        if older_than is None and not any(
            policy.table_name == "workflow_executions"
            for policy in retention_policies.list_retention_policies(conn)
        ):
            raise Refused(
                "No policy says how long runs are kept, so all are. Give --older-than, or set one: "
                "optiinfra-db retention set runs 90d"
            )
        with progress() as say:
            say("Counting")
            due = housekeeping.prune(conn, **given, is_rehearsal=True)["workflow_executions"]
        if dry_run or not due:
            print(f"{due:,} runs would be deleted." if due else "No run is due.", file=sys.stderr)
            return
        confirm(f"Delete {due:,} runs?", yes=yes)
        with progress() as say:
            gone = housekeeping.prune(conn, **given, archiving=archiving, say=say)
    print(f"{'Archived and deleted' if archiving else 'Deleted'} {_counts(gone)}.", file=sys.stderr)


@app.command(epilog="Example: optiinfra-db erase atlas --artifacts s3://artifacts")
def erase(
    customer: CustomerName,
    url: Url = None,
    artifacts: Annotated[
        str | None,
        typer.Option(
            "--artifacts",
            metavar="URL",
            help="The store of artifacts, to delete what lies there of the customer.",
            show_default=False,
        ),
    ] = None,
    by: By = None,
    yes: Yes = False,
) -> None:
    """Delete a customer with all that is theirs.

    Events included. Proves that no table has a row of theirs left. Export them first, to be able to
    go back.
    """
    from optiinfra_db import housekeeping

    with connect_session(url, actor=actor(by)) as conn:
        found = find_customer(conn, customer)
        confirm(f"Erase {found.name!r} ({found.id}) for good?", yes=yes)
        with progress() as say:
            gone = housekeeping.erase(conn, customer_id=found.id, artifacts_url=artifacts, say=say)
    for table, count in sorted(gone.items()):
        print(f"{count:>12,} {table}")
    print(f"Erased {_words.one_line(found.name)}: no row is left.", file=sys.stderr)
    if not artifacts and gone.get("workflow_artifacts"):
        print(
            "The content of its artifacts is still in its store: --artifacts deletes that as well.",
            file=sys.stderr,
        )


@app.command(epilog="Example: optiinfra-db export atlas s3://moves/atlas")
def export(
    customer: CustomerName,
    to: Target,
    url: Url = None,
    format: InFormat = Format.NDJSON,
) -> None:
    """Write all that a customer has into an archive.

    As of one moment. Hashes of its API keys are in it: keep it as you keep backups.
    """
    from optiinfra_db import archives

    with connect(url) as conn, progress() as say:
        found = find_customer(conn, customer)
        written = archives.export_customer(
            conn, to, customer_id=found.id, format=format.value, say=say
        )
    print(f"Wrote {_words.one_line(to)}: {_counts(written.row_counts)}.", file=sys.stderr)


@app.command("import", epilog="Example: optiinfra-db import s3://moves/atlas")
def import_(
    archive: Annotated[
        str,
        typer.Argument(metavar="ARCHIVE", help="A folder or URL that archive or export has made."),
    ],
    url: Url = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only read the archive, and compare it to its manifest.")
    ] = False,
    by: By = None,
) -> None:
    """Bring back the rows of an archive.

    Under their own ids. What is there already stays as it is: an import may be run again. Needs a
    superuser, or who may set session_replication_role.
    """
    from optiinfra_db import archives

    if check:
        found = archives.verify_archive(archive)
        print(f"The archive is whole: {_counts(found.row_counts)}.", file=sys.stderr)
        return
    with connect_session(url, actor=actor(by)) as conn, progress() as say:
        written = archives.import_archive(conn, archive, say=say)
    print(f"Imported {_counts(written)}." if any(written.values()) else "All of it is there.")


@app.command(epilog="Example: optiinfra-db receipts")
def receipts(url: Url = None, limit: Limit = 50, utc: Utc = False, as_json: AsJson = False) -> None:
    """List what was pruned, dropped, erased, imported."""
    from optiinfra_db.generated import receipts as queries
    from optiinfra_db.shapes import ReceiptLine

    with connect(url) as conn:
        found = queries.list_receipts(conn, max_rows=limit)
    lines = [ReceiptLine.of(row) for row in found]
    if as_json:
        print_json(lines)
        return
    print_table(
        [
            Column("when", right=True),
            Column("what"),
            Column("rows", least=20),
            Column("customer", 2),
            Column("by", 1, least=8),
            Column("archive", 3, least=20),
        ],
        [
            (
                when(line.created_at, utc=utc),
                line.operation,
                line.partition or _counts(line.row_counts),
                str(line.customer_id or ""),
                line.actor,
                line.archive_url or "",
            )
            for line in lines
        ],
        empty="Nothing was pruned, dropped, erased or imported yet.",
    )


@app.command(epilog="Example: optiinfra-db maintain --archive s3://history")
def maintain(
    url: Url = None,
    months_ahead: MonthsAhead = 3,
    stale_after: Annotated[
        timedelta,
        typer.Option(
            parser=duration,
            metavar="TIME",
            help="Mark agents as failed that were silent for so long.",
        ),
    ] = "10m",  # type: ignore[assignment]  # it is parsed
    heartbeat_timeout: Annotated[
        timedelta | None,
        typer.Option(
            parser=duration,
            metavar="TIME",
            help="Time out runs that had no heartbeat for so long, where all send some.",
            show_default="only those past their deadline",
        ),
    ] = None,
    archive: ArchiveTo = None,
    format: InFormat = Format.NDJSON,
    by: By = None,
) -> None:
    """Do what a schedule has to do.

    Run it every few minutes, on as many hosts as you like. Makes the partitions of the months
    ahead; times out runs that are past their deadline; marks silent agents as failed; seals events;
    prunes and drops what the retention policies say. One host does it at a time: the others say so
    and leave.
    """
    from optiinfra_db import housekeeping

    with connect_session(url, actor=actor(by)) as conn, housekeeping.alone(conn) as is_ours:
        if not is_ours:
            print("Another one is at it.", file=sys.stderr)
            return
        with progress() as say:
            done = housekeeping.maintain(
                conn,
                months_ahead=months_ahead,
                stale_after=stale_after,
                heartbeat_timeout=heartbeat_timeout,
                archiving=_archiving(archive, format),
                say=say,
            )
    for what, count in (
        ("partitions made", len(done.partitions_made)),
        ("runs timed out", done.runs_timed_out),
        ("agents marked as failed", done.agents_failed),
        ("events sealed", done.events_sealed),
        ("runs pruned", done.rows_pruned.get("workflow_executions", 0)),
    ):
        print(f"{count:,} {what}")
    _tell_months(done.partitions_dropped, done.partitions_kept)


# --- months


@partitions_app.command("list", epilog="Example: optiinfra-db partitions list")
def list_partitions(url: Url = None, as_json: AsJson = False) -> None:
    """List the partitions of events and metrics, with their sizes."""
    from optiinfra_db.generated import monitoring
    from optiinfra_db.shapes import PartitionLine

    with connect(url) as conn:
        found = monitoring.list_partition_sizes(conn)
    if as_json:
        print_json([PartitionLine.model_validate(row) for row in found])
        return
    print_table(
        [
            Column("table"),
            Column("month"),
            Column("rows", 1, right=True),
            Column("size", right=True),
            Column("partition", 2),
        ],
        [
            (
                row.table_name,
                f"{row.since:%Y-%m}" if row.since else "other",
                f"~{row.live_rows:,}",
                _words.size(row.total_bytes),
                row.partition_name,
            )
            for row in found
        ],
        empty="There are no partitions. Make some: optiinfra-db migrate",
    )


@partitions_app.command("ensure", epilog="Example: optiinfra-db partitions ensure --months-ahead 6")
def ensure_partitions(url: Url = None, months_ahead: MonthsAhead = 3) -> None:
    """Make what is missing, and bring late rows there."""
    from optiinfra_db.generated import partitions

    with connect(url) as conn:
        made = partitions.ensure_partitions(conn, months_ahead=months_ahead)
    for name in made:
        print(f"made {name}")
    if not made:
        print("All of them are there.", file=sys.stderr)


@partitions_app.command("drop", epilog="Example: optiinfra-db partitions drop --older-than 104w")
def drop_partitions(
    url: Url = None,
    table: Annotated[
        Table | None,
        typer.Option("--table", metavar="TABLE", help=f"Only of this table: {choices(Table)}."),
    ] = None,
    older_than: OlderThan = None,
    archive: ArchiveTo = None,
    format: InFormat = Format.NDJSON,
    dry_run: DryRun = False,
    by: By = None,
    yes: Yes = False,
) -> None:
    """Drop months of events and metrics that are over for long.

    A month with events of a customer under a legal hold stays.
    """
    from optiinfra_db import housekeeping

    given: dict[str, Any] = {"table": table and table.value, "older_than": older_than}
    with connect_session(url, actor=actor(by)) as conn, housekeeping.alone(conn) as is_ours:
        _need(is_ours)
        with progress() as say:
            due, kept = housekeeping.drop_partitions(conn, **given, is_rehearsal=True, say=say)
        if dry_run or not due:
            for month in due:
                print(f"would drop {month.partition_name}: {month.rows:,} rows")
            _tell_months([], kept)
            if not due:
                print("No month is due.", file=sys.stderr)
            return
        confirm(f"Drop {', '.join(month.partition_name for month in due)}?", yes=yes)
        with progress() as say:
            dropped, kept = housekeeping.drop_partitions(
                conn, **given, archiving=_archiving(archive, format), say=say
            )
    _tell_months(dropped, kept)


def _tell_months(dropped: "Sequence[Dropped]", kept: "Sequence[Kept]") -> None:
    for month in dropped:
        into = f", archived in {_words.one_line(month.archive)}" if month.archive else ""
        size = _words.size(month.total_bytes)
        print(f"dropped {month.partition_name}: {month.rows:,} rows, {size}{into}")
    for other in kept:
        print(f"kept {other.partition_name}: {other.reason}", file=sys.stderr)


# --- policies


@retention_app.command("list", epilog="Example: optiinfra-db retention list")
def list_policies(url: Url = None, as_json: AsJson = False) -> None:
    """List how long what is kept; the rest is kept for ever."""
    from optiinfra_db.generated import retention_policies
    from optiinfra_db.shapes import PolicyLine

    with connect(url) as conn:
        found = retention_policies.list_retention_policies(conn)
    if as_json:
        print_json([PolicyLine.of(row) for row in found])
        return
    kinds = {table: kind for kind, table in _TABLES.items()}
    print_table(
        [
            Column("policy", 1),
            Column("of"),
            Column("customer", 2),
            Column("type", 2),
            Column("kept for", right=True),
        ],
        [
            (
                str(row.id),
                kinds[row.table_name],
                str(row.customer_id or "all"),
                row.workflow_type or "all",
                f"{row.keep_for.total_seconds() / 86400:g} days",
            )
            for row in found
        ],
        empty="Everything is kept for ever. Set a policy: optiinfra-db retention set runs 90d",
    )


@retention_app.command(
    "set", epilog="Example: optiinfra-db retention set runs 52w --customer atlas"
)
def set_policy(
    of: Annotated[Kind, typer.Argument(metavar="WHAT", help=f"Of what: {choices(Kind)}.")],
    keep_for: Annotated[
        timedelta, typer.Argument(parser=duration, metavar="TIME", help="How long: 90d, 52w.")
    ],
    url: Url = None,
    customer: CustomerOption = None,
    type: Type = None,
) -> None:
    """Keep what is over for so long, and no longer.

    Of runs, the policy of a customer and type comes before that of the customer, that of the type,
    and the general one. Nothing is deleted until prune, archive or maintain runs.
    """
    from optiinfra_db.generated import retention_policies

    if of is not Kind.RUNS and (customer or type):
        raise typer.BadParameter(
            f"{of} go by whole months, for all customers", param_hint="--customer, --type"
        )
    with connect(url) as conn:
        made = retention_policies.set_retention_policy(
            conn,
            table_name=_TABLES[of],
            customer_id=customer_id(conn, customer),
            workflow_type=type,
            keep_for=keep_for,
        )
    print(f"set {made.id}")


@retention_app.command("remove", epilog="Example: optiinfra-db retention remove 01941f29-7c00")
def remove_policy(
    policy: Annotated[
        str, typer.Argument(metavar="POLICY", help="The id of a policy, or the beginning of it.")
    ],
    url: Url = None,
    yes: Yes = False,
) -> None:
    """Remove a policy.

    What it spoke of is kept for ever, or as a more general policy says.
    """
    from optiinfra_db.generated import retention_policies

    with connect(url) as conn:
        found = find_retention_policy(conn, policy).id
        confirm(f"Remove the policy {found}?", yes=yes)
        retention_policies.delete_retention_policy(conn, id=found)
    print(f"removed {found}")


# --- legal holds


@holds_app.command("list", epilog="Example: optiinfra-db holds list")
def list_holds(
    url: Url = None, customer: CustomerOption = None, utc: Utc = False, as_json: AsJson = False
) -> None:
    """List the legal holds that stand."""
    from optiinfra_db.generated import legal_holds
    from optiinfra_db.shapes import HoldLine

    with connect(url) as conn:
        found = legal_holds.list_legal_holds(conn, customer_id=customer_id(conn, customer))
    if as_json:
        print_json([HoldLine.model_validate(row) for row in found])
        return
    print_table(
        [
            Column("hold"),
            Column("customer", 1),
            Column("run", 1),
            Column("since", 2, right=True),
            Column("reason", least=20),
        ],
        [
            (
                str(row.id),
                str(row.customer_id),
                str(row.workflow_execution_id or "all"),
                when(row.created_at, utc=utc),
                row.reason,
            )
            for row in found
        ],
        empty="Nothing is under a legal hold.",
    )


@holds_app.command("place", epilog="Example: optiinfra-db holds place atlas --reason 'case 7'")
def place_hold(
    customer: CustomerName,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why: a case number, ...")],
    url: Url = None,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Only this run: its id, or the beginning of it.", show_default=False
        ),
    ] = None,
    by: By = None,
) -> None:
    """Keep a customer, or a run, from being deleted.

    With all that is theirs, whoever asks.
    """
    from optiinfra_db.generated import legal_holds

    with connect(url) as conn:
        found = find_customer(conn, customer)
        key = find_workflow(conn, run, str(found.id)) if run is not None else None
        with acting(conn, actor(by)):
            made = legal_holds.place_legal_hold(
                conn,
                customer_id=found.id,
                workflow_execution_id=key and key["id"],
                reason=reason,
            )
    print(f"placed {made.id}")


@holds_app.command("release", epilog="Example: optiinfra-db holds release 01941f29-7c00")
def release_hold(
    hold: Annotated[
        str, typer.Argument(metavar="HOLD", help="The id of a hold, or the beginning of it.")
    ],
    url: Url = None,
    by: By = None,
    yes: Yes = False,
) -> None:
    """End a legal hold: what it kept may be deleted again."""
    from optiinfra_db.generated import legal_holds

    with connect(url) as conn:
        found = find_legal_hold(conn, hold)
        confirm(f"Release the hold {found.id} ({_words.one_line(found.reason)})?", yes=yes)
        with acting(conn, actor(by)):
            legal_holds.release_legal_hold(conn, customer_id=found.customer_id, id=found.id)
    print(f"released {found.id}")


# --- shared


def _need(is_ours: bool) -> None:
    if not is_ours:
        raise Refused("Another session is pruning, dropping or maintaining. Try again later.")


def _archiving(url: str | None, format: Format) -> "Archiving | None":
    from optiinfra_db.housekeeping import Archiving

    return Archiving(url, format.value) if url is not None else None


def _counts(counts: "Mapping[str, int]") -> str:
    return ", ".join(f"{count:,} {table}" for table, count in counts.items() if count) or "nothing"
