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


CHECKS = {
    "guards": "triggers are enabled, constraints validated, indexes valid",
    "ended runs": "no run that is over has an open step",
    "audit": "the last event about each row says what the row says",
    "gaps": "each event begins where the one before it ended, by an arrow",
    "times": "nothing ended before it started, and attempts count up",
    "feed": "no event is of a transaction that is yet to come",
}
"""What is looked for, by name."""

_OF_ROWS: dict[str, Callable[..., list[doctor.Finding]]] = {
    "ended runs": doctor.find_open_steps_of_ended_runs,
    "audit": doctor.find_states_unlike_audit_log,
    "gaps": doctor.find_gaps_in_audit_log,
    "times": doctor.find_times_out_of_order,
}


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
    for check, question in CHECKS.items():
        say(f"Checking that {question}")
        if check == "guards":
            findings += [
                Finding(check, f"table {guard.table_name}", guard.problem)
                for guard in doctor.find_missing_guards(conn)
            ]
        elif check == "feed":
            if count := doctor.count_events_from_the_future(conn):
                findings.append(
                    Finding(
                        check,
                        "table events",
                        f"{count} events are of transactions of another cluster: after dump and "
                        "restore, run SELECT forget_event_xact_ids()",
                    )
                )
        else:
            rows = _OF_ROWS[check](conn, since=since or BEGINNING, max_rows=max_rows)
            findings += [
                Finding(
                    check,
                    f"{row.subject_type} {row.subject_id}",
                    row.problem,
                    row.customer_id,
                    row.subject_id,
                )
                for row in rows
            ]
    return findings
