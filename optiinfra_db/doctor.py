"""The doctor: looks for what must never be in the history, and for guards that are missing.

Nothing is changed. Each check is one query, so that it sees one moment, and writers need not stop.
What happened within the time looked at is read in full: a few seconds for a million events.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg import Connection

from optiinfra_db import distribute
from optiinfra_db.generated import doctor

BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong: with what, and how; ids are None where it is not about a row."""

    check: str
    subject: str
    problem: str
    customer_id: UUID | None = None
    id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """What is looked for, and what to do where it is not so."""

    promise: str
    advice: str
    find: Callable[[Connection[Any], datetime, int], list[Finding]]


def examine(
    conn: Connection[Any],
    *,
    since: datetime | None = None,
    max_rows: int = 20,
    say: Callable[[str], None] = lambda _: None,
) -> list[Finding]:
    """Return what is wrong, up to max_rows findings a check; nothing, in a healthy database.

    `since` leaves out rows and events that did not change after it. `say` is told what is being
    looked at.
    """
    findings = []
    for check in CHECKS.values():
        say(f"Checking that {check.promise}")
        findings += check.find(conn, since or BEGINNING, max_rows)
    return findings


def _guards(conn: Connection[Any], _: datetime, max_rows: int) -> list[Finding]:
    guards = doctor.find_missing_guards(conn)
    return [Finding("guards", f"table {g.table_name}", g.problem) for g in guards[:max_rows]]


def _layout(conn: Connection[Any], _: datetime, max_rows: int) -> list[Finding]:
    return [
        Finding("layout", f"table {name}", problem)
        for name, problem in distribute.misplaced(conn)[:max_rows]
    ]


def _feed(conn: Connection[Any], _: datetime, __: int) -> list[Finding]:
    count = doctor.count_events_from_the_future(conn)
    problem = f"has {count} events of transactions that are yet to come"
    return [Finding("feed", "table events", problem)] if count else []


def _rows(
    name: str, query: Callable[..., list[doctor.Finding]]
) -> Callable[[Connection[Any], datetime, int], list[Finding]]:
    def find(conn: Connection[Any], since: datetime, max_rows: int) -> list[Finding]:
        return [
            Finding(
                name,
                f"{row.subject_type} {row.subject_id}",
                row.problem,
                row.customer_id,
                row.subject_id,
            )
            for row in query(conn, since=since, max_rows=max_rows)
        ]

    return find


CHECKS = {
    "guards": Check(
        "triggers are enabled, row-level security holds, constraints and indexes are valid",
        "ALTER TABLE ... ENABLE TRIGGER, VALIDATE CONSTRAINT or REINDEX INDEX CONCURRENTLY mend "
        "what is there, SELECT grant_access(true) row-level security; what is missing is in "
        "schema/. Then look at what was written in between.",
        _guards,
    ),
    "layout": Check(
        "each table of a distributed database lies as access_rules says",
        "Run optiinfra-db migrate, as a superuser.",
        _layout,
    ),
    "ended runs": Check(
        "no run that is over has an open step",
        "Skip the step: UPDATE workflow_steps SET status = 'skipped', completed_at = now(), "
        "next_attempt_at = NULL WHERE id = ... (runs of before migration 0004 may have some).",
        _rows("ended runs", doctor.find_open_steps_of_ended_runs),
    ),
    "audit": Check(
        "the last event about each row says what the row says",
        "Somebody wrote while triggers were off, or wrote an event by hand: find out who, and go "
        "by what really happened.",
        _rows("audit", doctor.find_states_unlike_audit_log),
    ),
    "gaps": Check(
        "each event begins where the one before it ended, by an arrow",
        "Events are missing or were written by hand: find out how. They cannot be mended, only "
        "explained.",
        _rows("gaps", doctor.find_gaps_in_audit_log),
    ),
    "times": Check(
        "nothing ended before it started, and attempts count up",
        "Somebody set times or attempts by hand: find out who.",
        _rows("times", doctor.find_times_out_of_order),
    ),
    "feed": Check(
        "no event is of a transaction that is yet to come",
        "The database was restored from a dump: run SELECT forget_event_xact_ids(), "
        "see docs/feed.md.",
        _feed,
    ),
}
"""The checks, by name."""
