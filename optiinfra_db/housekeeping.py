"""Housekeeping: history that grows for years, kept as long as the policies say and no longer.

`prune` deletes runs that are long over, `drop_partitions` old months of events and metrics, both
after archiving them where they are told to; `erase` deletes all that a customer has. Nothing of it
deletes what is under a legal hold. Each leaves receipts, in the transactions that delete.
`maintain` does all that a schedule has to.

What deletes needs a role that is a member of optiinfra_owner. Writers do not wait for `prune`; for
the dropping of a month, some milliseconds. What is interrupted is done up to there: run it again.
"""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, LiteralString
from uuid import UUID

import psycopg
from psycopg import Connection, sql
from psycopg.rows import scalar_row
from uuid_utils.compat import uuid7

from optiinfra_db import archives, audit
from optiinfra_db._paging import newest_first
from optiinfra_db._stores import Options, absolute, below, failures, find_store
from optiinfra_db.archives import Archive, ArchiveWriter, Format, archive_writer
from optiinfra_db.connection import Session
from optiinfra_db.errors import (
    HousekeepingFailed,
    InvalidValue,
    NotFound,
    OptiInfraError,
    TransactionConflict,
    UnderLegalHold,
    typed_errors,
)
from optiinfra_db.generated import (
    access,
    agents,
    customers,
    housekeeping,
    legal_holds,
    monitoring,
    partitions,
    receipts,
    retention_policies,
    workflow_executions,
)
from optiinfra_db.generated.models import RetentionPolicy, WorkflowType
from optiinfra_db.generated.workflow_executions import ListPrunableWorkflowExecutionsRow

__all__ = [
    "Archiving",
    "Dropped",
    "Kept",
    "Maintained",
    "alone",
    "drop_partitions",
    "erase",
    "maintain",
    "prune",
]

Say = Callable[[str], None]
PartitionedTable = Literal["events", "agent_metrics"]

BATCH = 500
"""How many runs are archived and deleted at once, by default."""
MONTHS_AHEAD = 3
STALE_AFTER = timedelta(minutes=10)
"""How long an agent may be silent before `maintain` marks it as failed."""

_LOCK_TIMEOUT = "50ms"
"""How long writers of a partitioned table may queue behind the dropping of one of its months."""
_IN_USE = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    TransactionConflict,
)
_BUSY_TIMEOUT = "1s"
"""How long to wait for who writes to what is to be pruned; those who place holds wait, too."""
_LATE_TIMEOUT = "2s"
"""How long to wait for who writes late rows into that month."""
_DROP_SECONDS = 60
"""For how long to try, in pauses that let them through."""
_SWEEP = 500


@dataclass(frozen=True, slots=True)
class Archiving:
    """Where to archive what is deleted, and how: `url` is a folder of archives."""

    url: str
    format: Format = "ndjson"
    storage_options: Options = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A month that was dropped."""

    partition_name: str
    rows: int
    total_bytes: int
    archive: str | None
    """Where it was archived."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A month that was to be dropped and was not."""

    partition_name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Maintained:
    """What `maintain` did."""

    partitions_made: list[str] = field(default_factory=list)
    runs_timed_out: int = 0
    agents_failed: int = 0
    rows_pruned: dict[str, int] = field(default_factory=dict)
    partitions_dropped: list[Dropped] = field(default_factory=list)
    partitions_kept: list[Kept] = field(default_factory=list)
    events_sealed: int = 0


def prune(
    conn: Connection[Any],
    *,
    customer_id: UUID | None = None,
    workflow_type: WorkflowType | None = None,
    older_than: timedelta | None = None,
    archiving: Archiving | None = None,
    is_rehearsal: bool = False,
    batch: int = BATCH,
    say: Say = lambda _: None,
) -> dict[str, int]:
    """Delete runs that are long over, with their steps and artifacts, and count what went.

    Of a customer or of all, of a type or of all: those that ended longer ago than `older_than`,
    or, where that is not given, than their retention policy says. The events about them stay, and
    so does what is under a legal hold. `batch` runs at a time, a transaction each, if the
    connection is in autocommit mode. With `archiving`, each batch is written into an archive of its
    own, which is read again and compared before anything is deleted; a batch in which anything
    changed meanwhile is left for the next time. A rehearsal counts the runs and deletes none.

    Raises NotFound where there is no such customer, ArtifactStoreError, PermissionDenied.
    """
    _check_age(older_than)
    counts: Counter[str] = Counter()
    for customer, keep_for, types in _due(conn, customer_id, workflow_type, older_than):
        for page in _prunable(conn, customer, keep_for, types, batch):
            if is_rehearsal:
                counts["workflow_executions"] += len(page)
                continue
            ids = [run.id for run in page]
            counts += _pruned(conn, customer, ids, archiving, "prune")
            say(f"Pruned {counts['workflow_executions']:,} runs")
    return {table: counts[table] for table in _OF_RUN}


def drop_partitions(
    conn: Connection[Any],
    *,
    table: PartitionedTable | None = None,
    older_than: timedelta | None = None,
    archiving: Archiving | None = None,
    is_rehearsal: bool = False,
    say: Say = lambda _: None,
) -> tuple[list[Dropped], list[Kept]]:
    """Drop the months of events and agent_metrics that are over for longer than `older_than`.

    Or of one of the two tables; without `older_than`, by their retention policies. The disk space
    is given back at once. Late rows, which wait in a DEFAULT partition, are brought to their months
    first. A month of events stays where a customer under a legal hold has any in it. With
    `archiving`, a month is archived, read again and compared before it is dropped.

    A month that writers kept busy for a minute stays for the next time, with the reason. To drop
    events is noticed by `verify-audit`, unless it is told that they may be gone.
    """
    _check_age(older_than)
    limits = {
        policy.table_name: policy.keep_for
        for policy in retention_policies.list_retention_policies(conn)
    }
    partitions.ensure_partitions(conn, months_ahead=0)
    dropped, kept = [], []
    for month in monitoring.list_partition_sizes(conn):
        limit = older_than if older_than is not None else limits.get(month.table_name)
        if limit is None or table not in {None, month.table_name}:
            continue
        if month.over_for is None or month.over_for <= limit:
            continue
        say(f"Looking at {month.partition_name}")
        try:
            rows, archive = _dropped(conn, month, archiving, is_rehearsal=is_rehearsal, say=say)
        except _Busy as error:
            kept.append(Kept(month.partition_name, str(error)))
        else:
            dropped.append(Dropped(month.partition_name, rows, month.total_bytes, archive))
    return dropped, kept


def erase(
    conn: Connection[Any],
    *,
    customer_id: UUID,
    artifacts_url: str | None = None,
    storage_options: Options = None,
    batch: int = BATCH,
    say: Say = lambda _: None,
) -> dict[str, int]:
    """Delete a customer with all that is theirs, and count the rows of each table and partition.

    Finished runs go first, `batch` at a time; the rest in one transaction, which proves, before it
    commits, that no table and no partition has a row of the customer left. With `artifacts_url`,
    what lies in that store below the customer's id goes as well, before the commit.

    Raises UnderLegalHold, with nothing deleted; NotFound where there is no such customer;
    ArtifactStoreError, after which it is to be run again.
    """
    if held := legal_holds.list_legal_holds(conn, customer_id=customer_id):
        raise UnderLegalHold(
            f"Customer {customer_id} is under a legal hold ({held[0].id}: {held[0].reason}). "
            f"{UnderLegalHold.advice}",
            table="customers",
        )
    if customers.get_customer(conn, id=customer_id) is None:
        raise NotFound(f"There is no customer {customer_id}.", field="customer_id")
    counts: Counter[str] = Counter()
    for page in _prunable(conn, customer_id, timedelta(0), list(WorkflowType), batch):
        counts += _pruned(conn, customer_id, [run.id for run in page], None, "erase")
        say(f"Erased {counts['workflow_executions']:,} runs")
    with conn.transaction():
        if housekeeping.lock_customer(conn, customer_id=customer_id) is None:
            raise NotFound(f"There is no customer {customer_id} any more.", field="customer_id")
        say("Counting what is left")
        rest = _counted(conn, customer_id)
        say(f"Erasing {sum(rest.values()):,} rows")
        customers.delete_customer(conn, id=customer_id)
        if left := _counted(conn, customer_id):
            raise HousekeepingFailed(
                f"Rows of customer {customer_id} would be left, so nothing more was deleted: "
                f"{left}. A table has lost a foreign key, or a trigger keeps rows: run "
                "optiinfra-db doctor."
            )
        receipts.create_receipt(
            conn, operation="erase", customer_id=customer_id, row_counts=dict(rest)
        )
        if artifacts_url is not None:  # before the commit: if it fails, it is tried again
            directory = below(artifacts_url, customer_id)
            fs, path = find_store(directory, storage_options)
            with failures(f"{directory} could not be deleted", storage_options):
                fs.invalidate_cache()
                if fs.exists(path):
                    say(f"Deleting {directory}")
                    fs.rm(path, recursive=True)
    counts += rest
    return dict(counts)


def maintain(
    conn: Connection[Any],
    *,
    months_ahead: int = MONTHS_AHEAD,
    stale_after: timedelta = STALE_AFTER,
    heartbeat_timeout: timedelta | None = None,
    archiving: Archiving | None = None,
    say: Say = lambda _: None,
) -> Maintained:
    """Do what a schedule has to do: every few minutes, from as many hosts as there are.

    Makes the partitions of the months ahead; times out runs that are past their deadline, and with
    `heartbeat_timeout` those that have had no heartbeat for so long, which is right where all that
    executes runs sends some; marks agents as failed that were silent for `stale_after`; seals
    events; prunes and drops what the retention policies say, archived first with `archiving`.

    Each part is tried, whatever became of those before. Raises HousekeepingFailed at the end where
    one failed, with all that failed in its text. On Citus, which cannot do that for all customers
    at once, no runs are timed out and no events sealed.
    """
    done: dict[str, Any] = {}
    problems = []

    def make_partitions() -> None:
        done["partitions_made"] = partitions.ensure_partitions(conn, months_ahead=months_ahead)

    def time_out() -> None:
        done["runs_timed_out"] = 0
        while ended := workflow_executions.time_out_workflow_executions(
            conn, heartbeat_timeout=heartbeat_timeout, max_rows=_SWEEP
        ):
            done["runs_timed_out"] += len(ended)

    def fail_agents() -> None:
        done["agents_failed"] = 0
        cutoff = datetime.now(UTC) + Session.of(conn).clock_ahead - stale_after
        while failed := agents.fail_stale_agents(conn, cutoff=cutoff, max_rows=_SWEEP):
            done["agents_failed"] += len(failed)

    def prune_runs() -> None:
        done["rows_pruned"] = prune(conn, archiving=archiving, say=say)

    def drop_months() -> None:
        done["partitions_dropped"], done["partitions_kept"] = drop_partitions(
            conn, archiving=archiving, say=say
        )

    def seal_events() -> None:
        done["events_sealed"] = audit.seal(conn, say=say).events

    tasks = {
        "Making partitions": make_partitions,
        "Timing out runs": time_out,
        "Looking for silent agents": fail_agents,
        "Sealing events": seal_events,
        "Pruning runs": prune_runs,
        "Dropping months": drop_months,
    }
    if access.is_distributed(conn):
        del tasks["Timing out runs"], tasks["Sealing events"]
    for what, task in tasks.items():
        say(what)
        try:
            with typed_errors():
                task()
        except (OptiInfraError, psycopg.Error) as error:
            if conn.broken:
                raise
            problems.append(f"{what}: {error}")
    maintained = Maintained(**done)
    if problems:
        raise HousekeepingFailed("\n".join(problems))
    return maintained


@contextmanager
def alone(conn: Connection[Any]) -> Iterator[bool]:
    """Take the turn of housekeeping for a block; False where another session has it.

    It belongs to the session: connect directly, not through a pooler of transactions.
    """
    has_begun = housekeeping.begin_housekeeping(conn)
    try:
        yield has_begun
    finally:
        if has_begun and not conn.broken:
            housekeeping.end_housekeeping(conn)


def _check_age(older_than: timedelta | None) -> None:
    if older_than is not None and older_than < timedelta(0):
        raise InvalidValue(f"older_than is no less than 0, not {older_than}", field="older_than")


# Runs

_OF_RUN = ("workflow_executions", "workflow_steps", "workflow_artifacts")
_ID = {"workflow_executions": "id"}


def _due(
    conn: Connection[Any],
    customer_id: UUID | None,
    workflow_type: WorkflowType | None,
    older_than: timedelta | None,
) -> Iterator[tuple[UUID, timedelta, list[WorkflowType]]]:
    """Yield whose runs of which types are kept for how long."""
    types = list(WorkflowType) if workflow_type is None else [workflow_type]
    policies = {
        (policy.customer_id, policy.workflow_type): policy
        for policy in retention_policies.list_retention_policies(conn)
        if policy.table_name == "workflow_executions"
    }
    if older_than is None and not policies:
        return
    if customer_id is None:
        everyone = [one.id for one in newest_first(customers.list_customers, conn, max_rows=1000)]
    elif customers.get_customer(conn, id=customer_id):
        everyone = [customer_id]
    else:
        raise NotFound(f"There is no customer {customer_id}.", field="customer_id")
    for customer in everyone:
        kept: dict[timedelta, list[WorkflowType]] = defaultdict(list)
        for each in types:
            keep_for = older_than if older_than is not None else _kept_for(policies, customer, each)
            if keep_for is not None:
                kept[keep_for].append(each)
        for keep_for, of_types in kept.items():
            yield customer, keep_for, of_types


def _kept_for(
    policies: Mapping[tuple[UUID | None, WorkflowType | None], RetentionPolicy],
    customer_id: UUID,
    workflow_type: WorkflowType,
) -> timedelta | None:
    for key in (
        (customer_id, workflow_type),
        (customer_id, None),
        (None, workflow_type),
        (None, None),
    ):
        if policy := policies.get(key):
            return policy.keep_for
    return None


def _prunable(
    conn: Connection[Any],
    customer_id: UUID,
    older_than: timedelta,
    types: list[WorkflowType],
    batch: int,
) -> Iterator[list[ListPrunableWorkflowExecutionsRow]]:
    after: dict[str, Any] = {}
    while page := workflow_executions.list_prunable_workflow_executions(
        conn,
        customer_id=customer_id,
        older_than=older_than,
        workflow_types=types,
        max_rows=batch,
        **after,
    ):
        yield page
        after = {"after_completed_at": page[-1].completed_at, "after_id": page[-1].id}


def _pruned(
    conn: Connection[Any],
    customer_id: UUID,
    ids: list[UUID],
    archiving: Archiving | None,
    operation: str,
) -> Counter[str]:
    """Archive and delete a batch of runs; what changes meanwhile is left for the next time."""
    archive = url = writer = None
    if archiving is not None:
        url = below(archiving.url, customer_id, f"runs-{uuid7()}")
        archive, writer = _archived(conn, url, archiving, customer_id, ids)
    try:
        with conn.transaction():
            # A step or an artifact may be locked though its run is not.
            conn.execute(f"SET LOCAL lock_timeout = '{_BUSY_TIMEOUT}'")
            locked = workflow_executions.lock_ended_workflow_executions(
                conn, customer_id=customer_id, ids=ids
            )
            if writer is not None and not (len(locked) == len(ids) and writer.lock_unchanged(conn)):
                raise _Busy
            gone = workflow_executions.delete_ended_workflow_executions(
                conn, customer_id=customer_id, ids=locked
            )
            counts = {table: getattr(gone, table) for table in _OF_RUN}
            if locked:
                receipts.create_receipt(
                    conn,
                    operation=operation,
                    customer_id=customer_id,
                    row_counts=counts,
                    archive_url=url,
                    archive_sha256=archive.sha256 if archive else None,
                )
    except (_Busy, UnderLegalHold, *_IN_USE) as error:
        if url is not None and archiving is not None:
            _forget(url, archiving)
        if isinstance(error, _Busy) or len(ids) == 1:
            return Counter()
        # One of them is in use, or came under a hold since they were listed: the others go.
        halves = ids[: len(ids) // 2], ids[len(ids) // 2 :]
        return sum(
            (_pruned(conn, customer_id, half, archiving, operation) for half in halves),
            Counter(),
        )
    return Counter(counts)


def _archived(
    conn: Connection[Any], url: str, archiving: Archiving, customer_id: UUID, ids: list[UUID]
) -> tuple[Archive, ArchiveWriter]:
    values = {"customer_id": customer_id, "ids": ids}
    with archive_writer(url, archiving.format, customer_id, archiving.storage_options) as writer:
        for table in _OF_RUN:
            where = sql.SQL("customer_id = %(customer_id)s AND {} = ANY(%(ids)s)").format(
                sql.Identifier(_ID.get(table, "workflow_execution_id"))
            )
            writer.add(conn, table, table, where, values, is_compared=True)
    return archives.verify_archive(url, storage_options=archiving.storage_options), writer


def _forget(url: str, archiving: Archiving) -> None:
    """Delete an archive of what was not deleted."""
    fs, path = find_store(url, archiving.storage_options)
    with failures(f"{url} could not be deleted", archiving.storage_options):
        fs.rm(path, recursive=True)


class _Busy(Exception):  # noqa: N818 -- it is no error
    """Somebody else is at it: it is left for the next time."""


# Months


def _dropped(
    conn: Connection[Any],
    month: monitoring.ListPartitionSizesRow,
    archiving: Archiving | None,
    *,
    is_rehearsal: bool,
    say: Say,
) -> tuple[int, str | None]:
    """Drop a month; return its number of rows, and where they were archived."""
    _refuse_held(conn, month)
    if is_rehearsal:
        return _row_count(conn, month), None
    archive = url = before = None
    if archiving is not None:
        before = _fingerprint(conn, month)
        url = below(archiving.url, month.table_name, f"{month.partition_name}-{uuid7()}")
        with archive_writer(url, archiving.format, None, archiving.storage_options) as writer:
            say(f"Archiving {month.partition_name}")
            writer.add(conn, month.table_name, month.partition_name, sql.SQL("true"), {})
        archive = archives.verify_archive(url, storage_options=archiving.storage_options)
    say(f"Dropping {month.partition_name}")
    try:
        rows = _drop(conn, month, archive, url, before)
    except _Busy:
        if url is not None and archiving is not None:
            _forget(url, archiving)
        raise
    return rows, url and absolute(url)


def _drop(
    conn: Connection[Any],
    month: monitoring.ListPartitionSizesRow,
    archive: Archive | None,
    url: str | None,
    before: int | None,
) -> int:
    """Drop a month as soon as nobody uses it, and return its number of rows."""
    name = sql.Identifier(month.partition_name)
    over = time.monotonic() + _DROP_SECONDS
    while True:
        try:
            with conn.transaction():
                # Late rows wait from here on; nobody else does, until all is known.
                conn.execute(f"SET LOCAL lock_timeout = '{_LATE_TIMEOUT}'")
                conn.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(name))
                rows = _row_count(conn, month)
                if before is not None and _fingerprint(conn, month) != before:
                    raise _Busy("rows changed while it was archived")
                # Who places a hold waits from here on.
                housekeeping.await_legal_holds(conn)
                _refuse_held(conn, month)
                receipts.create_receipt(
                    conn,
                    operation="drop_partition",
                    row_counts={month.table_name: rows},
                    archive_url=url,
                    archive_sha256=archive.sha256 if archive else None,
                    data={"partition": month.partition_name},
                )
                conn.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
                conn.execute(sql.SQL("DROP TABLE {}").format(name))
                return rows
        except psycopg.errors.UndefinedTable:
            raise _Busy("another session dropped it") from None
        except _IN_USE:
            if time.monotonic() > over:
                raise _Busy(f"it was in use for {_DROP_SECONDS} s; try again later") from None
            time.sleep(0.2)


def _refuse_held(conn: Connection[Any], month: monitoring.ListPartitionSizesRow) -> None:
    if month.table_name != "events" or month.since is None or month.until is None:
        return
    held = partitions.list_held_customers(conn, since=month.since, until=month.until)
    if held:
        raise _Busy(f"a legal hold: customer {held[0]} has events in it")


def _row_count(conn: Connection[Any], month: monitoring.ListPartitionSizesRow) -> int:
    return _aggregate(conn, month, "count(*)")


def _fingerprint(conn: Connection[Any], month: monitoring.ListPartitionSizesRow) -> int:
    """Return a number that is another one once a row was added, changed or deleted."""
    return _aggregate(conn, month, "sum(hash_record_extended(source, 0)::numeric)")


def _aggregate(
    conn: Connection[Any], month: monitoring.ListPartitionSizesRow, aggregate: LiteralString
) -> int:
    query = sql.SQL("SELECT {} FROM {} AS source").format(
        sql.SQL(aggregate), sql.Identifier(month.partition_name)
    )
    with conn.cursor(row_factory=scalar_row) as cursor:
        return int(cursor.execute(query).fetchone() or 0)


# Customers


def _counted(conn: Connection[Any], customer_id: UUID) -> Counter[str]:
    counts = {
        row.relation_name: row.row_count
        for row in housekeeping.count_customer_rows(conn, customer_id=customer_id)
    }
    if access.is_distributed(conn):  # the names are of shards, which end with their numbers
        counts = {re.sub(r"_\d+$", "", name): number for name, number in counts.items()}
    return Counter(counts)
