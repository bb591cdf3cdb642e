"""The state machines as the design has them, and how to tell one refusal from another."""

from contextlib import contextmanager

import psycopg
import pytest

from optiinfra_db import OptiInfraError

ARROWS = {
    "workflow_executions": {
        "pending": ("running", "cancelled", "timeout"),
        "running": ("completed", "failed", "cancelled", "timeout"),
        "completed": (),
        "failed": (),
        "cancelled": (),
        "timeout": (),
    },
    "workflow_steps": {
        "pending": ("running", "skipped"),
        "running": ("completed", "failed", "retrying", "skipped"),
        "completed": (),
        "failed": (),
        "skipped": (),
        "retrying": ("running", "failed", "skipped"),
    },
    "recommendations": {
        "pending": ("approved", "rejected"),
        "approved": ("executing", "rejected"),
        "rejected": (),
        "executing": ("completed", "failed"),
        "completed": ("rolled_back",),
        "failed": ("rolled_back",),
        "rolled_back": (),
    },
    "approvals": {"pending": ("approved", "rejected"), "approved": (), "rejected": ()},
    "optimizations": {
        "queued": ("executing", "failed"),
        "executing": ("completed", "failed"),
        "completed": ("rolled_back",),
        "failed": ("rolled_back",),
        "rolled_back": (),
    },
}
"""Written out anew, and not read from the database: each table's states, and where each leads."""

ILLEGAL_TRANSITION = "OI001"
STALE_WRITER = "OI002"
TENANT_MISMATCH = "OI003"
IMMUTABLE_HISTORY = "OI004"
NO_PRIVILEGE = "42501"
SERIALIZATION_FAILURE = "40001"
LOCK_TIMEOUT = "55P03"
UNIQUE_VIOLATION = "23505"
FOREIGN_KEY_VIOLATION = "23503"


def sqlstate_of(error):
    """Return the SQLSTATE of an error of psycopg's, or of one of ours that was made of it."""
    return getattr(error, "sqlstate", None) or getattr(error.__cause__, "sqlstate", None)


@contextmanager
def refused(conn, *sqlstates):
    """Expect the database to refuse, and leave the transaction as it was before."""
    conn.execute("SAVEPOINT refused")
    with pytest.raises((psycopg.Error, OptiInfraError)) as caught:
        yield caught
    conn.execute("ROLLBACK TO SAVEPOINT refused")
    assert sqlstate_of(caught.value) in sqlstates, caught.value
