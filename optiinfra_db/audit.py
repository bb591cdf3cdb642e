"""Seals over the audit log, and proof by them of what happened.

`seal` chains hashes of the events to those before; `verify` computes them again and names what was
changed, removed or inserted since, by whoever had the right. `export_bundle` writes the history of
a customer or a run into one file, with all that verify_bundle.py needs to prove it, without this
package or a database.

Whoever can change events can make the seals anew, too: keep the heads that `seal` returns where the
database's administrators cannot write, and give them to `verify`.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from psycopg import Connection
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from optiinfra_db import __version__
from optiinfra_db._files import whole_file
from optiinfra_db._paging import newest_first
from optiinfra_db.connection import one_moment
from optiinfra_db.errors import InvalidValue, NotFound
from optiinfra_db.generated import (
    approvals,
    customers,
    event_seals,
    optimizations,
    recommendations,
    workflow_executions,
)
from optiinfra_db.generated.event_seals import EventSealHead
from optiinfra_db.generated.models import Recommendation

__all__ = [
    "Bundle",
    "Deviation",
    "Head",
    "Sealed",
    "export_bundle",
    "heads",
    "parse_heads",
    "seal",
    "verify",
]

BATCH = 10_000
"""How many events are sealed in one transaction."""

_PAGE = 500
_SEALS = 20
"""How many seals are read at once, with what they cover."""

Say = Callable[[str], None]


class Head(BaseModel):
    """The last seal of a customer at some time: what it has sealed stands for all before it."""

    model_config = ConfigDict(frozen=True)

    customer_id: UUID
    seal_number: int
    hash: str
    """SHA-256, 64 hexadecimal digits."""

    @classmethod
    def of(cls, row: EventSealHead) -> Self:
        """Make it of a row."""
        return cls(customer_id=row.customer_id, seal_number=row.seal_number, hash=row.hash.hex())


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a sealing did."""

    events: int
    seals: int


@dataclass(frozen=True, slots=True)
class Deviation:
    """Something that is not as it was sealed."""

    customer_id: UUID
    problem: str
    seal_number: int | None = None
    event_id: UUID | None = None
    event_time: datetime | None = None

    def __str__(self) -> str:
        seal = f", seal {self.seal_number}" if self.seal_number else ""
        event = f": event {self.event_id} of {self.event_time:%Y-%m-%d %H:%M:%S %Z}"
        return f"customer {self.customer_id}{seal}: {self.problem}{event if self.event_id else ''}"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was written into a bundle."""

    events: int
    rows: int
    seals: int
    sha256: str
    """Of the file's lines, uncompressed, but for the last one, which holds it."""


def seal(conn: Connection[Any], *, max_events: int = BATCH, say: Say = lambda _: None) -> Sealed:
    """Seal the events of all customers that can be read from the feed and are not sealed yet.

    In transactions of about `max_events` each, if the connection is in autocommit mode: to
    interrupt it loses nothing. Of two at a time one does it, and the other returns. Writers do not
    wait. `say` is told of progress. Raises PermissionDenied where the role is not the owner.
    """
    events = seals = 0
    while made := event_seals.seal_events(conn, max_events=max_events):
        events += sum(row.event_count for row in made)
        seals += len(made)
        say(f"{events:,} events sealed")
    return Sealed(events, seals)


def heads(conn: Connection[Any]) -> list[Head]:
    """Return the last seal of each customer that has any, to be kept elsewhere."""
    return [Head.of(row) for row in event_seals.list_event_seal_heads(conn)]


def parse_heads(text: str) -> list[Head]:
    """Read heads from JSON, as `optiinfra-db seal --json` prints them. Raises InvalidValue."""
    try:
        return TypeAdapter(list[Head]).validate_json(text)
    except ValidationError as error:
        raise InvalidValue(
            f"heads: not what optiinfra-db seal --json prints: {error}", field="heads"
        ) from None


def verify(
    conn: Connection[Any],
    *,
    customer_id: UUID | None = None,
    known_heads: Iterable[Head] = (),
    kept_since: datetime | None = None,
    say: Say = lambda _: None,
) -> list[Deviation]:
    """Compute all seals again, of a customer or of all, and return what is not as it was sealed.

    Of each seal its first deviation, in the order of the feed, and then up to 20 events that were
    inserted among what was sealed. `known_heads` have to be in the chains: without them nobody can
    tell whether the last seals were cut off, with their events, or all made anew. Events of before
    `kept_since` may be gone, by retention. Events that are not sealed yet are not looked at.
    """
    deviations = []
    kept = list(known_heads)
    looked_at = [customer_id] if customer_id else _customers(conn)
    for customer in looked_at:
        say(f"Verifying customer {customer}")
        hashes: dict[int, str] = {}
        for page in _pages(
            event_seals.verify_event_seals, _SEALS, conn, customer, kept_since=kept_since
        ):
            for row in page:
                hashes[row.seal_number] = row.hash.hex()
                if row.problem:
                    found = (row.problem, row.seal_number, row.event_id, row.event_time)
                    deviations.append(Deviation(customer, *found))
        deviations += [
            Deviation(customer, "an event was inserted", None, row.event_id, row.event_time)
            for row in event_seals.find_unsealed_events(conn, customer_id=customer, max_rows=20)
        ]
        deviations += [
            Deviation(customer, "the known head is not in the chain", head.seal_number)
            for head in kept
            if head.customer_id == customer and hashes.get(head.seal_number) != head.hash
        ]
    if customer_id is None:
        there = set(looked_at)
        deviations += [
            Deviation(head.customer_id, "the customer of a known head is gone", head.seal_number)
            for head in kept
            if head.customer_id not in there
        ]
    return deviations


def _pages(
    query: Callable[..., list[Any]],
    max_rows: int,
    conn: Connection[Any],
    customer_id: UUID,
    **given: object,
) -> Iterator[list[Any]]:
    """Yield pages of a customer's seals."""
    last = 0
    while page := query(
        conn, customer_id=customer_id, after_seal_number=last, max_rows=max_rows, **given
    ):
        yield page
        last = page[-1].seal_number


def _customers(conn: Connection[Any]) -> list[UUID]:
    return [one.id for one in newest_first(customers.list_customers, conn, max_rows=_PAGE)]


def export_bundle(
    conn: Connection[Any],
    file: Path,
    *,
    customer_id: UUID,
    workflow_execution_id: UUID | None = None,
    say: Say = lambda _: None,
) -> Bundle:
    """Write the history of a customer, or of one of its runs, into a file, with its proof.

    JSON Lines, compressed where the name ends with .gz: the events as they are hashed, the chain of
    seals, the digests in those seals that hold them, and the rows, all of one moment. The file is
    there whole or not at all. The connection must not be in a transaction. `say` is told of
    progress. Raises NotFound for an unknown customer or run.
    """
    with one_moment(conn), whole_file(file) as write, _lines(file, write) as lines:
        customer = customers.get_customer(conn, id=customer_id)
        if customer is None:
            raise NotFound(f"customers has no row for id = {customer_id}.", table="customers")
        lines.add(
            "bundle",
            format=1,
            customer_id=customer_id,
            workflow_execution_id=workflow_execution_id,
            made_at=datetime.now(UTC),
            made_by=f"optiinfra_db {__version__}",
        )
        lines.add("row", table="customers", row=customer)
        if workflow_execution_id is None:
            subjects = None
            theirs: dict[str, Any] = {"customer_id": customer_id, "max_rows": _PAGE}
            for row in newest_first(workflow_executions.list_workflow_executions, conn, **theirs):
                _add_run(conn, lines, customer_id, row.id)
                say(f"{lines.count('row'):,} rows")
            found = newest_first(recommendations.list_recommendations, conn, **theirs)
            _add_advice(conn, lines, found)
        else:
            subjects = _add_run(conn, lines, customer_id, workflow_execution_id)
            subjects += _add_advice(
                conn,
                lines,
                recommendations.list_workflow_recommendations(
                    conn, customer_id=customer_id, workflow_execution_id=workflow_execution_id
                ),
            )
        held: list[UUID] = []
        for event in _events(conn, customer_id, subjects):
            lines.add("event", text=event.canonical_text)
            if subjects is not None:
                held.append(event.id)
        say(f"{lines.count('event'):,} events")
        for page in _pages(event_seals.list_event_seals, _PAGE, conn, customer_id):
            for row in page:
                lines.add(
                    "seal",
                    seal_number=row.seal_number,
                    events_hash=row.events_hash,
                    previous_hash=row.previous_hash,
                    hash=row.hash,
                )
        for page in _pages(
            event_seals.list_event_seal_entries,
            _SEALS,
            conn,
            customer_id,
            event_ids=None if subjects is None else held,
        ):
            for row in page:
                entries = zip(row.event_ids, row.event_times, row.event_digests, strict=True)
                lines.add(
                    "entries",
                    seal_number=row.seal_number,
                    events=[
                        [str(id_), _exact(time), digest.hex()] for id_, time, digest in entries
                    ],
                )
        digest = lines.end()
    return Bundle(lines.count("event"), lines.count("row"), lines.count("seal"), digest)


def _exact(time: datetime) -> str:
    """Return a time as seals have it: in UTC, with microseconds."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


class _Lines:
    """Writes the lines of a bundle, and counts and hashes them."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._sha256 = hashlib.sha256()
        self._counts: dict[str, int] = {}

    def count(self, kind: str) -> int:
        return self._counts.get(kind, 0)

    def add(self, kind: str, **values: object) -> None:
        line = json.dumps(
            to_jsonable_python({"kind": kind} | values, bytes_mode="hex"), ensure_ascii=False
        )
        data = line.encode() + b"\n"
        self._sha256.update(data)
        self._write(data)
        self._counts[kind] = self.count(kind) + 1

    def end(self) -> str:
        digest = self._sha256.hexdigest()
        self.add("end", lines=sum(self._counts.values()), sha256=digest)
        return digest


@contextmanager
def _lines(file: Path, write: Callable[[bytes], object]) -> Iterator[_Lines]:
    if file.suffix != ".gz":
        yield _Lines(write)
        return
    buffer = BytesIO()

    def flush() -> None:
        write(buffer.getvalue())
        buffer.seek(0)
        buffer.truncate()

    with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", mtime=0) as packed:

        def pack(data: bytes) -> None:
            packed.write(data)
            if buffer.tell() > 2**20:
                flush()

        yield _Lines(pack)
    flush()


def _add_run(conn: Connection[Any], lines: _Lines, customer_id: UUID, run_id: UUID) -> list[UUID]:
    """Add a run with its steps and artifacts; return what events are about."""
    detail = workflow_executions.get_workflow_detail(conn, customer_id=customer_id, id=run_id)
    if detail is None:
        raise NotFound(
            f"workflow_executions has no row for id = {run_id} of customer {customer_id}.",
            table="workflow_executions",
        )
    lines.add("row", table="workflow_executions", row=detail.workflow_execution)
    for step in detail.steps:
        lines.add("row", table="workflow_steps", row=step)
    for artifact in detail.artifacts:
        lines.add("row", table="workflow_artifacts", row=artifact)
    return [run_id, *(step.id for step in detail.steps)]


def _add_advice(
    conn: Connection[Any], lines: _Lines, found: Iterable[Recommendation]
) -> list[UUID]:
    """Add recommendations with their approvals and optimizations; return what events are about."""
    subjects: list[UUID] = []
    for recommendation in found:
        key = {
            "customer_id": recommendation.customer_id,
            "recommendation_id": recommendation.id,
        }
        rows: Mapping[str, list[Any]] = {
            "recommendations": [recommendation],
            "approvals": approvals.list_recommendation_approvals(conn, **key),
            "optimizations": optimizations.list_recommendation_optimizations(conn, **key),
        }
        for table, of_table in rows.items():
            for row in of_table:
                lines.add("row", table=table, row=row)
                subjects.append(row.id)
    return subjects


def _events(conn: Connection[Any], customer_id: UUID, subjects: list[UUID] | None) -> Iterator[Any]:
    if subjects is not None:
        yield from event_seals.list_canonical_events_by_subject(
            conn, customer_id=customer_id, subject_ids=subjects
        )
        return
    time, last = None, None
    while page := event_seals.list_canonical_events(
        conn, customer_id=customer_id, after_created_at=time, after_id=last, max_rows=_PAGE
    ):
        yield from page
        time, last = page[-1].created_at, page[-1].id
