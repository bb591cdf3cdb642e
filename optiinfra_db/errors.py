"""Every error this package raises on purpose.

Each message says what was wrong, with what value, and what to do; none ever holds a password.
`exit_code` is what the command line ends with: 1 unexpected, 2 wrong usage or configuration,
3 no server to talk to, 4 refused by the database or to protect it, 5 a migration failed; 6 is that
something was found.

What PostgreSQL refuses becomes a DatabaseError: the generated functions raise its subclasses, and
`typed_errors` makes them of what your own SQL meets. What is none of them stays psycopg's error: a
cancelled query, a lock timeout, a mistake in the SQL.
"""

# ruff: noqa: N818 -- InvalidURL says it all

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optiinfra_db.generated.constraints import Constraint
    from optiinfra_db.generated.models import WorkflowExecution


class OptiInfraError(Exception):
    """The base of all errors raised by optiinfra_db."""

    exit_code = 1


class InvalidURL(OptiInfraError):
    """The database URL is not a PostgreSQL URL, or cannot be read."""

    exit_code = 2


class InvalidPooler(OptiInfraError):
    """What is between here and PostgreSQL is not what was said of it, or does not do.

    It would let clients get the answers to each other's queries, or each other's settings.
    """

    exit_code = 2


class NoDatabaseConfigured(OptiInfraError):
    """No URL was given or set, and the embedded server is not installed."""

    exit_code = 2


class DatabaseUnreachable(OptiInfraError):
    """The server did not answer, or did not let us in."""

    exit_code = 3


class EmbeddedServerError(OptiInfraError):
    """The embedded server could not be started or stopped."""

    exit_code = 3


class MigrationError(OptiInfraError):
    """The base of what migrate, rollback and status raise."""

    exit_code = 4


class UnknownMigration(MigrationError):
    """The migration asked for does not exist."""

    exit_code = 2


class ChecksumMismatch(MigrationError):
    """A migration file was edited after it had been applied."""


class DatabaseNewerThanPackage(MigrationError):
    """The database holds migrations that this version of the package does not know."""


class UnsupportedPostgres(MigrationError):
    """The server is older than PostgreSQL 15."""


class InsufficientPrivileges(MigrationError):
    """The role may not do what the migration needs."""


class MissingRollback(MigrationError):
    """A migration to be rolled back has no rollback file."""


class MigrationFailed(MigrationError):
    """The database refused a statement of a migration, or the connection was lost."""

    exit_code = 5


class CitusMissing(MigrationError):
    """The database is to be distributed, and has no Citus, or no server to be distributed to."""


class MigrationLockTimeout(MigrationFailed):
    """A migration waited longer than its lock_timeout for a table in use."""


class InvalidCursor(OptiInfraError, ValueError):
    """What was given as a cursor of the change feed is none."""

    exit_code = 2


class InvalidSpec(OptiInfraError, ValueError):
    """A file that describes a workflow is wrong.

    Its text has a line for each problem: file, line, field, and what to do.
    """

    exit_code = 2


class UnknownReference(OptiInfraError, LookupError):
    """An id, an abbreviation of one, or a name stands for nothing that is there, or for several."""

    exit_code = 2


class CursorAhead(OptiInfraError):
    """The cursor of the change feed is from another server, or from a time that this one lost."""

    exit_code = 4


class ArtifactStoreError(OptiInfraError):
    """The content of an artifact, or an archive, could not be written to its store or read there.

    Its text names the path. No row was written or deleted.
    """


class InvalidArchive(OptiInfraError):
    """An archive is none, is incomplete, or was changed since it was written.

    Its text names the file. No row was written or deleted.
    """

    exit_code = 4


class HousekeepingFailed(OptiInfraError):
    """A part of housekeeping could not be done. Its text has a line for each.

    What it had done before is done.
    """


class WorkflowOver(OptiInfraError):
    """A run that is being recorded was ended by somebody else: stop working on it.

    `run` is the run as it ended.
    """

    def __init__(self, message: str, run: "WorkflowExecution") -> None:
        super().__init__(message)
        self.run = run


class WorkflowCancelled(WorkflowOver):
    """A run that is being recorded was cancelled."""


class WorkflowTimedOut(WorkflowOver):
    """A run that is being recorded is past its deadline, or was taken for dead."""


class WorkflowInUse(OptiInfraError):
    """A run is being executed by somebody else, or is over: it cannot be taken."""


class AccessRefused(OptiInfraError):
    """The base of why a call with an API key is not let in."""

    exit_code = 4


class InvalidApiKey(AccessRefused):
    """An API key is malformed, unknown, expired or revoked.

    Its text is the same for all of those, for the caller; `reason` says which, for the log.
    """

    def __init__(self, reason: str) -> None:
        super().__init__("The API key is not valid. Check that it is complete, or get a new one.")
        self.reason = reason
        """malformed, unknown, expired or revoked."""


class CustomerSuspended(AccessRefused):
    """The API key is valid, and its customer is suspended."""


class CustomerChurned(AccessRefused):
    """The API key is valid, and its customer has left."""


class DatabaseError(OptiInfraError):
    """The base of what the database refuses, and of what keeps it from answering.

    Its text says what was refused, where, with what value, and what to do; `__cause__` is psycopg's
    error. The attributes are None where the database does not tell.
    """

    exit_code = 4
    advice: ClassVar[str] = ""
    """What to do, unless a trigger's hint says so."""

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str | None = None,
        table: str | None = None,
        constraint: "Constraint | str | None" = None,
        field: str | None = None,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        """PostgreSQL's code of the error; None where it came from the client's side."""
        self.table = table
        """The table; of a partitioned one, not the partition."""
        self.constraint = constraint
        """What was violated: a constant of `generated.constraints`, or a name not in there."""
        self.field = field
        """The column, or the parameter of a function in the database."""
        self.detail = detail
        """What PostgreSQL says of the row or the key."""
        self.hint = hint
        """What PostgreSQL, or a trigger, advises."""


class IllegalTransition(DatabaseError):
    """A status was to change in a way that its state machine has no arrow for.

    Also where a run was to be completed that has open steps, or a finished one to get more. The
    generated functions guard their transitions, and return None where nothing moved: this is for
    writers who do not. Read the row, and go from the status that it has.
    """

    advice = "Read the row again: from the status that it has now, this is no way."


class StaleWriter(DatabaseError):
    """An executor reported on a step or run that is at another attempt by now, which owns it.

    Nothing was written. Drop the result, and stop working on it.
    """

    advice = "Another attempt has taken over: drop this result and stop."


class PermissionDenied(DatabaseError):
    """The role of the connection may not do this.

    Nothing was written. The view access_rules says what each group role may do.
    """

    advice = (
        "SELECT * FROM access_rules shows who may: connect as a member of a group role that may, "
        "or have this role made one (GRANT optiinfra_service TO ...)."
    )


class ReadOnlyTransaction(DatabaseError):
    """Something was to be written in a read-only transaction, or on a replica.

    Nothing was written.
    """

    advice = (
        "Write on a connection to the primary: in pool.connection() and not in read_only(); where "
        "the URL names several hosts, with target_session_attrs=read-write."
    )


class TenantMismatch(DatabaseError):
    """A row was to change its customer, or it is not of the customer whom the session is for.

    Nothing was written; pass the customer whose row it is.
    """

    advice = "A row stays with its customer: pass the customer_id of that."


class ImmutableHistory(DatabaseError):
    """A final row, an event or the identity of a row was to change.

    What is final stays as it is, and rows of the audit log go only with their customer or by
    retention. Record what is new in a new row (a retry is a new run).
    """

    advice = "History stays as it is: write a new row instead."


class UnderLegalHold(DatabaseError):
    """What was to be deleted is under a legal hold, or goes with something that is.

    Nothing was deleted. `list_legal_holds` says which holds there are and why; whoever may end one
    calls `release_legal_hold`.
    """

    advice = "Nothing was deleted: have the hold released first (release_legal_hold)."


class AlreadyExists(DatabaseError):
    """A row with the same key is there: `constraint` is the key, `field` its last column.

    What creates rows under an id of the caller's returns the row that is there and does not raise
    this, so it means another row. Read that one, or choose another value.
    """

    advice = "Read the row that is there, or write another value."


class NotFound(DatabaseError):
    """What the row points at is not there, or not for this customer.

    `field` is the column that points, `constraint` its foreign key, and
    `constraint.references` the table that has no such row. Create that first, or correct the id.
    """

    advice = "Create it first, or correct the id; it may also belong to another customer."


class InvalidValue(DatabaseError):
    """A value that its column does not take: `field` names it, where the database does.

    It may break a CHECK (`constraint`, with what must hold as its `condition`), be missing, out of
    range, too long or too large, or be no text that PostgreSQL can hold (NUL bytes). Rarely, it is
    a value of the database's that Python cannot hold: a year beyond 9999, JSON too deep for it.
    """

    advice = "Nothing was written: correct the value."


class ConnectionLost(DatabaseError):
    """The connection broke during the call, or was broken before it, or the server shut down.

    Whether the statement took effect is not known. Connect again, then read what is there; a
    function that takes an `id` can simply be called again with the same one.
    """

    exit_code = 3
    advice = (
        "Whether the statement took effect is not known. Connect again, and look; "
        "a function that takes an id may be called again with the same id."
    )


class TransactionConflict(DatabaseError):
    """Two transactions were in each other's way (deadlock, serialization), and this one gave up.

    All of the transaction is undone. Run it again from its start.
    """

    advice = "All of the transaction is undone: run it again from its start."


class NotMigrated(DatabaseError):
    """A table, column, type or function does not exist: the database is not migrated far enough."""

    advice = (
        "The database is not migrated, or not far enough (run optiinfra-db migrate), "
        "or the SQL has a typo."
    )


_BY_SQLSTATE: dict[str, type[DatabaseError]] = {
    "OI001": IllegalTransition,
    "OI002": StaleWriter,
    "OI003": TenantMismatch,
    "OI004": ImmutableHistory,
    "OI005": UnderLegalHold,
    "23502": InvalidValue,
    "23503": NotFound,
    "23505": AlreadyExists,
    "23514": InvalidValue,
    "25006": ReadOnlyTransaction,
    "25P03": ConnectionLost,  # idle in a transaction for too long
    "25P04": ConnectionLost,  # transaction_timeout
    "40001": TransactionConflict,
    "40P01": TransactionConflict,
    "42703": NotMigrated,
    "42704": NotMigrated,
    "42804": InvalidValue,  # a parameter of another type
    "42846": InvalidValue,  # ... that cannot be cast
    "42883": NotMigrated,
    "42P01": NotMigrated,
    "57P01": ConnectionLost,
    "57P02": ConnectionLost,
    "57P03": ConnectionLost,
    "57P04": ConnectionLost,  # the database was dropped
    "57P05": ConnectionLost,  # idle for too long
    # Classes of codes:
    "08": ConnectionLost,
    "22": InvalidValue,
    "54": InvalidValue,  # beyond a limit of the server: too large, too deeply nested
}
_RLS = ("ExecWithCheckOptions", "new row violates row-level security policy")
_KEY = re.compile(r"\((?P<columns>.+?)\)=\((?P<values>.*)\)", re.DOTALL)
_PARTITION = re.compile(r"(?P<table>\w+?)_(?:default|\d{4}_\d{2})(?P<rest>_\w+)?")
_COPIED = re.compile(r"^COPY .*, column (?P<column>\w+)", re.MULTILINE)
_PARAMETER = re.compile(r"\$\d+")
_HIDDEN = "api_key_hash"
"""The column whose values no error tells."""
_LONGEST = 500
"""Characters of a sentence: a value that it quotes may have millions."""
_BEYOND_PYTHON = re.compile(r"after year 10K|before year 1\b|can't parse JSON")


@contextmanager
def typed_errors() -> "Iterator[None]":
    """Raise typed errors from your own SQL, as the generated functions do.

    ```python
    with typed_errors():
        conn.execute("UPDATE approvals SET status = 'approved' WHERE ...")
    ```

    It is a plain `with` in asynchronous code as well. Around a pipeline it types the errors that
    come when the pipeline ends.
    """
    try:
        yield
    except psycopg.Error as error:
        if typed := translate(error):
            raise typed from error
        raise


def translate(error: psycopg.Error) -> DatabaseError | None:
    """Return the typed error for one of psycopg's, to be raised from it; None if there is none."""
    diag = error.diag
    known = _known(diag.constraint_name)
    cls = _class(error, known)
    if cls is None:
        return None
    table, field = diag.table_name and _own_name(diag.table_name), diag.column_name
    if known is not None:
        table, field = known.table, known.field
    elif field is None and (copied := _COPIED.search(diag.context or "")):
        field = copied["column"]
    elif error.sqlstate == "2201W":  # what is wrong with a LIMIT
        field = "max_rows"
    constraint = known or diag.constraint_name
    place = ".".join(name for name in (table, field) if name)
    what, detail = _told(cls, error, known)
    is_advised = diag.message_hint and (error.sqlstate or "").startswith("OI")
    advice = None if is_advised else cls.advice
    if error.sqlstate is None and _BEYOND_PYTHON.search(str(error)):
        advice = "The database holds a value that Python cannot hold: correct it there."
    sentences = [f"{place}: {what}" if place else what, detail, diag.message_hint, advice]
    return cls(
        " ".join(f"{_shortened(text).removesuffix('.')}." for text in sentences if text),
        sqlstate=error.sqlstate,
        table=table,
        constraint=constraint,
        field=field,
        detail=None if field == _HIDDEN else diag.message_detail,
        hint=diag.message_hint,
    )


def _class(error: psycopg.Error, known: "Constraint | None") -> type[DatabaseError] | None:
    diag, sqlstate = error.diag, error.sqlstate
    if sqlstate is None:
        # Those of psycopg itself; subclasses of OperationalError tell of other things, such as a
        # pool that has no connection to give.
        if type(error) is psycopg.OperationalError:
            return ConnectionLost
        return InvalidValue if isinstance(error, psycopg.DataError) else None
    # Also COPY into a table under row-level security.
    if sqlstate == "42501" or (sqlstate == "0A000" and diag.source_function == "DoCopy"):
        source, message = _RLS
        is_rls = diag.source_function == source or message in (diag.message_primary or "")
        return TenantMismatch if is_rls else PermissionDenied
    # No operator for what came, and NaN where an integer is due: of the value, whatever its code.
    if diag.source_function == "op_error" or diag.source_file == "numeric.c":
        return InvalidValue
    if sqlstate == "23503" and known is not None:
        # Violated from its other side, where a key that rows point at was to change (no foreign key
        # refuses a DELETE), the detail names that table's columns, in whatever language it is.
        key = _KEY.search(diag.message_detail or "")
        if key and key["columns"] != ", ".join(known.columns):
            return ImmutableHistory
    return _BY_SQLSTATE.get(sqlstate) or _BY_SQLSTATE.get(sqlstate[:2])


def _told(
    cls: type[DatabaseError], error: psycopg.Error, known: "Constraint | None"
) -> tuple[str, str | None]:
    """Say what was refused and with what value; the detail is the rest of it."""
    diag = error.diag
    name, detail = known or diag.constraint_name, diag.message_detail
    key = _KEY.search(detail or "")
    if key and cls is AlreadyExists:
        what = f"{key['columns']} = {key['values']}"
        if key["columns"] == _HIDDEN:
            what = f"this {_HIDDEN}"
        return f"a row with {what} is there already ({name})", None
    if key and cls is NotFound:
        target = getattr(known, "references", "the table that it references")
        return f"{target} has no row for {key['columns']} = {key['values']} ({name})", None
    if condition := getattr(known, "condition", None):
        return f"the value is refused by {name}, which demands {condition}", None
    if error.sqlstate == "23502":
        return "a value is required, and there was none (NULL)", None
    message = " ".join((diag.message_primary or str(error)).split())
    parameter = _PARAMETER.search(diag.context or "")
    return message + (f" (parameter {parameter[0]} of the query)" if parameter else ""), detail


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _known(name: str | None) -> "Constraint | None":
    """Return the constant for a constraint; that of the table for a partition's index."""
    if name is None:
        return None
    constraints = _constraints()
    return constraints.get(name) or constraints.get(_own_name(name))


def _own_name(name: str) -> str:
    """Take the partition out of the name of a partition, or of something on one."""
    partition = _PARTITION.fullmatch(name)
    if partition and any(partition["table"] == known.table for known in _constraints().values()):
        return partition["table"] + (partition["rest"] or "")
    return name


def _constraints() -> "dict[str, Constraint]":
    """Import the constants: it takes some milliseconds, and only an error needs them."""
    from optiinfra_db.generated.constraints import CONSTRAINTS  # noqa: PLC0415

    return CONSTRAINTS
