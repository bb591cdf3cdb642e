"""A real PostgreSQL for the suites of services: `pip install 'optiinfra-db[test]'`.

A test that takes `optiinfra_db` (or `optiinfra_db_async`) works on a migrated database, in a
transaction that is rolled back. One that commits, or connects itself, takes `optiinfra_db_url`: a
database of its own. `make_customer`, `make_agent` and `make_workflow` write rows, as do their
twins, `make_customer_async` and so on.

pytest loads this module wherever the package is installed, so nothing else is imported before a
fixture is asked for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypedDict, TypeVar, Unpack

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from psycopg import AsyncConnection, Connection
    from psycopg.rows import TupleRow

    from optiinfra_db.generated.models import (
        JSON,
        Agent,
        AgentStatus,
        AgentType,
        Customer,
        CustomerPlan,
        CustomerStatus,
        StepStatus,
        WorkflowExecution,
        WorkflowStatus,
        WorkflowType,
    )

OPTION = "--optiinfra-pg"
FORGETFUL = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "min_wal_size": "32MB",
    "max_wal_size": "128MB",
}
"""Settings of a server whose data nobody wants back, and which may be in memory."""


_ROOM = 2**30


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the one option."""
    text = (
        "URL of a PostgreSQL server on which the fixtures of optiinfra_db make their databases "
        "(default: an embedded server)"
    )
    parser.getgroup("optiinfra-db").addoption(OPTION, metavar="URL", help=text)
    parser.addini("optiinfra_pg", text, default="")


# Servers and databases


@pytest.fixture(scope="session")
def _optiinfra_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Provide the URL of the server on which the session makes its databases."""
    url = request.config.getoption(OPTION) or request.config.getini("optiinfra_pg")
    with _told_in_short():
        import pytest_postgresql  # noqa: F401, PLC0415

        if url:
            yield _checked(url)
            return
        from optiinfra_db import embedded  # noqa: PLC0415

        embedded.find_bin_dir()
        with throwaway_directory() as directory:
            yield embedded.start(directory, options=FORGETFUL).url("postgres")


@pytest.fixture(scope="session")
def _optiinfra_template(_optiinfra_server: str) -> Iterator[str]:
    """Provide the URL of a migrated database to be cloned."""
    with _told_in_short():
        from optiinfra_db.migrate import migrate  # noqa: PLC0415

        with _database(_optiinfra_server) as url:
            migrate(url, say=lambda _: None)
            yield url


@pytest.fixture(scope="session")
def _optiinfra_shared_url(_optiinfra_server: str, _optiinfra_template: str) -> Iterator[str]:
    """Provide the URL of a migrated database in which nothing is ever committed."""
    with _told_in_short(), _database(_optiinfra_server, _optiinfra_template) as url:
        yield url


@pytest.fixture
def optiinfra_db_url(_optiinfra_server: str, _optiinfra_template: str) -> Iterator[str]:
    """Make a migrated, empty database of the test's own, for code that commits or connects.

    This is its URL. It is dropped after the test, even where connections were left open.
    """
    with _told_in_short(), _database(_optiinfra_server, _optiinfra_template) as url:
        yield url


@pytest.fixture
def optiinfra_db(_optiinfra_shared_url: str) -> Iterator[Connection[TupleRow]]:
    """Connect to a migrated, empty database, in a transaction that is rolled back after the test.

    Otherwise it is as `optiinfra_db.connect` opens it. A `transaction()` of the code under test is
    a savepoint in it; `commit()` and `rollback()` are refused.
    """
    from optiinfra_db import connect  # noqa: PLC0415

    with connect(_optiinfra_shared_url) as conn, conn.transaction(force_rollback=True):
        yield conn
        _refuse_commit(conn)


@pytest.fixture
def optiinfra_db_async(_optiinfra_shared_url: str) -> Iterator[AsyncConnection[TupleRow]]:
    """Do what `optiinfra_db` does, asynchronously: whichever plugin runs the test's event loop."""
    import asyncio  # noqa: PLC0415

    from psycopg import AsyncTransaction  # noqa: PLC0415
    from psycopg.pq import TransactionStatus  # noqa: PLC0415

    from optiinfra_db import connect_async  # noqa: PLC0415

    async def begin() -> AsyncConnection[TupleRow]:
        conn = await connect_async(_optiinfra_shared_url)
        await AsyncTransaction(conn).__aenter__()  # it never leaves it
        return conn

    # A connection belongs to no loop: psycopg waits in that of the call.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        conn = runner.run(begin())
    try:
        yield conn
        _refuse_commit(conn)
    finally:
        # Below psycopg, which would wait for a task that the test left behind.
        if conn.info.transaction_status in {TransactionStatus.INTRANS, TransactionStatus.INERROR}:
            conn.pgconn.exec_(b"ROLLBACK")
        conn.pgconn.finish()


def _refuse_commit(conn: Connection[Any] | AsyncConnection[Any]) -> None:
    """Fail a test that got out of the transaction, by an SQL statement."""
    from psycopg.pq import TransactionStatus  # noqa: PLC0415

    if conn.info.transaction_status == TransactionStatus.IDLE:
        pytest.fail(
            "The test ended the transaction that optiinfra_db would roll back: what it wrote may "
            "be there for the tests after it. Code that commits takes optiinfra_db_url.",
            pytrace=False,
        )


@contextmanager
def _database(server: str, template: str | None = None) -> Iterator[str]:
    """Make a database for one use, a clone of the template if there is one; give its URL."""
    from urllib.parse import urlsplit  # noqa: PLC0415
    from uuid import uuid4  # noqa: PLC0415

    import psycopg  # noqa: PLC0415
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415
    from pytest_postgresql.janitor import DatabaseJanitor  # noqa: PLC0415

    defaults = {"hostaddr": "", "port": 5432, "connect_timeout": 10}
    # None is left to the environment, which might lead elsewhere.
    parameters: dict[str, Any] = {**defaults, **conninfo_to_dict(server)}

    class Janitor(DatabaseJanitor):
        """Connects with all that the URL says, and at once or not at all."""

        @contextmanager
        def cursor(self, dbname: str | None = None) -> Iterator[psycopg.Cursor]:
            with psycopg.connect(**parameters, autocommit=True) as conn, conn.cursor() as cursor:
                yield cursor

        @staticmethod
        def _terminate_connection(cur: psycopg.Cursor, dbname: str) -> None:
            """Leave autovacuum alone, which makes way by itself, and is not for every role."""
            cur.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = %s AND backend_type = 'client backend'",
                [dbname],
            )

    janitor = Janitor(
        user=parameters.get("user") or "",
        host=parameters["host"],
        port=parameters["port"],
        dbname=f"optiinfra_test_{uuid4().hex}",
        template_dbname=template and urlsplit(template).path[1:],
    )
    with janitor:
        yield _with_dbname(server, janitor.dbname)


def _checked(url: str) -> str:
    """Return the URL of a server if it leaves no doubt where it is."""
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    from optiinfra_db.errors import InvalidURL  # noqa: PLC0415
    from optiinfra_db.settings import checked_url  # noqa: PLC0415

    url = checked_url(url)
    parameters = conninfo_to_dict(url)
    host = str(parameters.get("host", ""))
    if not host:
        raise InvalidURL("The URL names no host: the environment would say which.")
    leads_elsewhere = {"PGHOSTADDR", "PGSERVICE"} & os.environ.keys()
    if leads_elsewhere and not host.startswith("/"):
        raise InvalidURL(f"{leads_elsewhere.pop()} is set, which may lead elsewhere. Unset it.")
    return url if parameters.get("dbname") else _with_dbname(url, "postgres")


def _with_dbname(url: str, dbname: str) -> str:
    from urllib.parse import urlsplit  # noqa: PLC0415

    parts = urlsplit(url)
    query = "&".join(part for part in parts.query.split("&") if not part.startswith("dbname="))
    return parts._replace(path=f"/{dbname}", query=query).geturl()


@contextmanager
def throwaway_directory() -> Iterator[Path]:
    """Make a directory that is deleted, and its server stopped, however this process ends."""
    directory = Path(tempfile.mkdtemp(prefix="optiinfra-pytest-", dir=_memory()))
    directory.chmod(0o711)  # for the user who runs the server for root
    with subprocess.Popen(  # noqa: S603 -- this Python
        [sys.executable, "-P", "-c", _CLEANER, directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is not for it
    ) as cleaner:
        try:
            yield directory
        finally:
            _, reason = cleaner.communicate("\n")
    if cleaner.returncode != 0:
        pytest.fail(
            f"The server in {directory} is not stopped and deleted: {reason}", pytrace=False
        )


def _memory() -> str | None:
    """Return a file system in memory, on which a clone takes 5 ms and not 100, if there is room."""
    path = "/dev/shm"  # noqa: S108 -- a folder is made in it by mkdtemp
    if os.environ.get("TMPDIR") or not os.access(path, os.W_OK):
        return None
    return path if shutil.disk_usage(path).free > _ROOM else None


_CLEANER = """
import shutil, sys
from pathlib import Path
from optiinfra_db import embedded

sys.stdin.readline()  # a line says that the session is over; the end of the file, that it died
directory = Path(sys.argv[1])
embedded.find(directory).stop()
shutil.rmtree(directory)
"""


@contextmanager
def _told_in_short() -> Iterator[None]:
    """Tell what keeps the fixtures from working, and what to do, in place of a traceback."""
    try:
        yield
        return
    except Exception as error:
        text = _told(error)
        if text is None:
            raise
    pytest.fail(text, pytrace=False)


def _told(error: Exception) -> str | None:
    from psycopg import OperationalError  # noqa: PLC0415
    from psycopg.errors import InsufficientPrivilege  # noqa: PLC0415

    from optiinfra_db.errors import (  # noqa: PLC0415
        InvalidURL,
        NoDatabaseConfigured,
        OptiInfraError,
    )

    reason = " ".join(str(error).split())
    if isinstance(error, ImportError | NoDatabaseConfigured):
        return "The fixtures of optiinfra_db need more: pip install 'optiinfra-db[test]'"
    if isinstance(error, InsufficientPrivilege):
        return f"{OPTION}: {reason}. As a superuser of that server run ALTER ROLE ... CREATEDB."
    if isinstance(error, OperationalError) and error.sqlstate is None:
        return (
            f"{OPTION}: {reason} Start that server, or correct the URL; "
            "without it, an embedded server is used."
        )
    if isinstance(error, InvalidURL):
        return f"{OPTION}: {reason}"
    return reason if isinstance(error, OptiInfraError) else None


# Factories


class CustomerColumns(TypedDict, total=False):
    """What may be said of a customer that is made; status is active, plan free unless given."""

    id: UUID
    name: str
    email: str
    api_key_hash: bytes
    plan: CustomerPlan
    status: CustomerStatus
    metadata: JSON


class AgentColumns(TypedDict, total=False):
    """What may be said of an agent that is made; it is a cost agent, starting, unless given."""

    id: UUID
    type: AgentType
    name: str
    version: str
    status: AgentStatus
    endpoint: str
    capabilities: JSON
    metadata: JSON


class WorkflowColumns(TypedDict, total=False):
    """What may be said of a run that is made, as `record_workflow_execution` takes it."""

    id: UUID
    customer_id: UUID
    agent_id: UUID
    workflow_type: WorkflowType
    attempt: int
    retried_from_id: UUID
    started_at: datetime | None
    completed_at: datetime
    deadline_at: datetime
    input_data: JSON
    output_data: JSON
    error_details: dict[str, Any]
    metadata: JSON
    created_at: datetime
    artifacts: list[dict[str, Any]]


Conn = TypeVar("Conn")
Numbers: TypeAlias = "defaultdict[str, count[int]]"
Step: TypeAlias = "str | tuple[str, StepStatus | str] | Mapping[str, Any]"
"""A step: its name, or name and status, or an object as `record_workflow_execution` takes it."""

STEPS = ("collect", "analyze", "report")
"""The steps of a run unless others are given."""


class _Factory(Generic[Conn]):
    """What makes rows, plausible and unique: what is not given is numbered, in each test from 1."""

    def __init__(self, conn: Conn, numbers: Numbers) -> None:
        self._conn = conn
        self._numbers = numbers

    def _customer(self, columns: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return what a customer is created with, and the status to give it then, if any."""
        from secrets import token_bytes  # noqa: PLC0415

        number = next(self._numbers["customer"])
        row = {"name": f"Customer {number}", "email": f"customer-{number}@example.com", **columns}
        row.setdefault("api_key_hash", token_bytes(32))
        return row, row.pop("status", None)

    def _agent(self, columns: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return what an agent is registered with, and the status to give it then, if any."""
        from optiinfra_db.generated.models import AgentType  # noqa: PLC0415

        name = f"agent-{next(self._numbers['agent'])}"
        row = {"type": AgentType.COST, "name": name, "version": "1.0.0", **columns}
        return row, row.pop("status", None)


class MakeCustomer(_Factory["Connection[Any]"]):
    """Makes a customer, whose API key nobody knows unless `api_key_hash` is given."""

    def __call__(
        self, *, conn: Connection[Any] | None = None, **columns: Unpack[CustomerColumns]
    ) -> Customer:
        """Make one on the connection of `optiinfra_db`, or another."""
        from optiinfra_db.generated import customers  # noqa: PLC0415

        on = conn or self._conn
        row, status = self._customer(columns)
        customer = customers.create_customer(on, **row)
        if status is None:
            return customer
        return customers.update_customer(on, id=customer.id, status=status) or customer


class MakeCustomerAsync(_Factory["AsyncConnection[Any]"]):
    """The asynchronous twin of `MakeCustomer`."""

    async def __call__(
        self, *, conn: AsyncConnection[Any] | None = None, **columns: Unpack[CustomerColumns]
    ) -> Customer:
        """Make one on the connection of `optiinfra_db_async`, or another."""
        from optiinfra_db.generated.aio import customers  # noqa: PLC0415

        on = conn or self._conn
        row, status = self._customer(columns)
        customer = await customers.create_customer(on, **row)
        if status is None:
            return customer
        return await customers.update_customer(on, id=customer.id, status=status) or customer


class MakeAgent(_Factory["Connection[Any]"]):
    """Makes an agent; one with a status has had a heartbeat."""

    def __call__(
        self, *, conn: Connection[Any] | None = None, **columns: Unpack[AgentColumns]
    ) -> Agent:
        """Make one on the connection of `optiinfra_db`, or another."""
        from optiinfra_db.generated import agents  # noqa: PLC0415

        on = conn or self._conn
        row, status = self._agent(columns)
        agent = agents.upsert_agent(on, **row)
        if status is None:
            return agent
        return agents.record_agent_heartbeat(on, id=agent.id, status=status) or agent


class MakeAgentAsync(_Factory["AsyncConnection[Any]"]):
    """The asynchronous twin of `MakeAgent`."""

    async def __call__(
        self, *, conn: AsyncConnection[Any] | None = None, **columns: Unpack[AgentColumns]
    ) -> Agent:
        """Make one on the connection of `optiinfra_db_async`, or another."""
        from optiinfra_db.generated.aio import agents  # noqa: PLC0415

        on = conn or self._conn
        row, status = self._agent(columns)
        agent = await agents.upsert_agent(on, **row)
        if status is None:
            return agent
        return await agents.record_agent_heartbeat(on, id=agent.id, status=status) or agent


class MakeWorkflow(_Factory["Connection[Any]"]):
    """Makes a run with its steps, and its customer and agent where they are not given.

    The status says how far the steps got, and when: those of a completed run are completed, a
    running one is at the first, a failed one failed at the last, one that was cancelled or timed
    out did so at the first (before it, with `started_at=None`). A step may have a status of its
    own: then a run is at the first that is running or has failed, and those before it are done.
    """

    def __call__(
        self,
        *,
        conn: Connection[Any] | None = None,
        status: WorkflowStatus | str = "pending",
        steps: Sequence[Step] = STEPS,
        **columns: Unpack[WorkflowColumns],
    ) -> WorkflowExecution:
        """Make one on the connection of `optiinfra_db`, or another."""
        from optiinfra_db.generated import workflow_executions  # noqa: PLC0415

        on = conn or self._conn
        row = _run(columns, status, steps)
        if "customer_id" not in row:
            row["customer_id"] = MakeCustomer(on, self._numbers)().id
        if "agent_id" not in row:
            row["agent_id"] = MakeAgent(on, self._numbers)().id
        return workflow_executions.record_workflow_execution(on, **row)


class MakeWorkflowAsync(_Factory["AsyncConnection[Any]"]):
    """The asynchronous twin of `MakeWorkflow`."""

    async def __call__(
        self,
        *,
        conn: AsyncConnection[Any] | None = None,
        status: WorkflowStatus | str = "pending",
        steps: Sequence[Step] = STEPS,
        **columns: Unpack[WorkflowColumns],
    ) -> WorkflowExecution:
        """Make one on the connection of `optiinfra_db_async`, or another."""
        from optiinfra_db.generated.aio import workflow_executions  # noqa: PLC0415

        on = conn or self._conn
        row = _run(columns, status, steps)
        if "customer_id" not in row:
            row["customer_id"] = (await MakeCustomerAsync(on, self._numbers)()).id
        if "agent_id" not in row:
            row["agent_id"] = (await MakeAgentAsync(on, self._numbers)()).id
        return await workflow_executions.record_workflow_execution(on, **row)


def _run(columns: Mapping[str, Any], run_status: str, steps: Sequence[Step]) -> dict[str, Any]:
    """Return what to record of a run: what is given, and what its status implies."""
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415

    from optiinfra_db.generated.models import WorkflowStatus, WorkflowType  # noqa: PLC0415

    if isinstance(steps, str):
        raise TypeError(f"steps is a list of steps, not {steps!r}")
    status = WorkflowStatus(run_status)
    objects = [_as_object(step) for step in steps]
    _imply_statuses(objects, status, has_started=columns.get("started_at", True) is not None)
    worked_on = max(1, sum(step["status"] in {"completed", "failed"} for step in objects))

    # A step takes ten seconds, and all is over since a minute ago, unless the run's times say else.
    started_at, ended_at = columns.get("started_at"), columns.get("completed_at")
    duration = timedelta(seconds=10)
    if started_at and ended_at:
        duration = (ended_at - started_at) / worked_on
    elif started_at:
        ended_at = started_at + duration * worked_on
    else:
        ended_at = ended_at or datetime.now(UTC) - timedelta(minutes=1)
        started_at = ended_at - duration * worked_on

    row: dict[str, Any] = {"workflow_type": WorkflowType.COST_ANALYSIS, "artifacts": []}
    error = {"type": "StepFailed", "message": "it failed"}
    if status != "pending":
        row |= {"created_at": started_at, "started_at": started_at}
    if status not in {"pending", "running"}:
        row["completed_at"] = ended_at
    if status == "cancelled":
        row["metadata"] = {"cancel_reason": "not needed any more"}
        error = {"type": "WorkflowCancelled", "message": "not needed any more"}
    if status == "timeout":
        row["deadline_at"] = columns.get("deadline_at", ended_at)
        message = f"not over by its deadline, {row['deadline_at']}"
        error = {"type": "DeadlineExceeded", "message": message}
    if status in {"failed", "timeout"}:
        error = row["error_details"] = columns.get("error_details", error)
    row["steps"] = list(_timed(objects, started_at, duration, error))
    return {**row, **columns, "status": status}


def _as_object(step: Step) -> dict[str, Any]:
    if isinstance(step, str):
        return {"step_name": step}
    if isinstance(step, tuple):
        return {"step_name": step[0], "status": step[1]}
    return dict(step)


def _imply_statuses(steps: list[dict[str, Any]], run_status: str, *, has_started: bool) -> None:
    """Give each step that has no status the one that goes with the run's, and where that is."""
    busy = [
        n for n, step in enumerate(steps) if step.get("status") in {"running", "retrying", "failed"}
    ]
    free = [n for n, step in enumerate(steps) if "status" not in step]
    if run_status == "failed":
        free.reverse()
    if run_status == "completed":
        current = len(steps)
    elif run_status == "pending" or not has_started:
        current = -1
    else:
        current = [*busy, *free, len(steps)][0]
    is_over = run_status not in {"pending", "running"}
    for number in free:
        if number < current:
            steps[number]["status"] = "completed"
        elif number == current:
            steps[number]["status"] = "failed" if is_over else "running"
        elif is_over:
            steps[number] = {"metadata": {"closed_with_run": True}} | steps[number]
            steps[number]["status"] = "skipped"
        else:
            steps[number]["status"] = "pending"


def _timed(
    steps: list[dict[str, Any]], at: datetime, duration: timedelta, error: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Let the steps follow each other, and give them what their status demands."""
    for order, step in enumerate(steps, start=1):
        row: dict[str, Any] = {"step_order": order}
        status = step["status"]
        if status in {"running", "retrying", "completed", "failed"}:
            row["started_at"] = at
        if status in {"completed", "failed"}:
            at += duration
        if status in {"completed", "failed", "skipped"}:
            row["completed_at"] = at
        if status in {"failed", "retrying"}:
            row["error_details"] = error
        if status == "retrying":
            row |= {"retry_count": 1, "next_attempt_at": at + duration}
        row |= step
        yield {
            name: value if not hasattr(value, "isoformat") else value.isoformat()
            for name, value in row.items()
        }


@pytest.fixture
def _optiinfra_numbers() -> Numbers:
    """Provide the numbers of a test, which its factories share."""
    return defaultdict(partial(count, 1))


@pytest.fixture
def make_customer(optiinfra_db: Connection[Any], _optiinfra_numbers: Numbers) -> MakeCustomer:
    """Make a customer: `make_customer(name="Atlas", plan=CustomerPlan.STARTUP)`."""
    return MakeCustomer(optiinfra_db, _optiinfra_numbers)


@pytest.fixture
def make_agent(optiinfra_db: Connection[Any], _optiinfra_numbers: Numbers) -> MakeAgent:
    """Make an agent: `make_agent(type=AgentType.PERFORMANCE, status=AgentStatus.HEALTHY)`."""
    return MakeAgent(optiinfra_db, _optiinfra_numbers)


@pytest.fixture
def make_workflow(optiinfra_db: Connection[Any], _optiinfra_numbers: Numbers) -> MakeWorkflow:
    """Make a run: `make_workflow(status="failed", steps=["collect", "report"])`."""
    return MakeWorkflow(optiinfra_db, _optiinfra_numbers)


@pytest.fixture
def make_customer_async(
    optiinfra_db_async: AsyncConnection[Any], _optiinfra_numbers: Numbers
) -> MakeCustomerAsync:
    """Do what `make_customer` does, on the connection of `optiinfra_db_async`."""
    return MakeCustomerAsync(optiinfra_db_async, _optiinfra_numbers)


@pytest.fixture
def make_agent_async(
    optiinfra_db_async: AsyncConnection[Any], _optiinfra_numbers: Numbers
) -> MakeAgentAsync:
    """Do what `make_agent` does, on the connection of `optiinfra_db_async`."""
    return MakeAgentAsync(optiinfra_db_async, _optiinfra_numbers)


@pytest.fixture
def make_workflow_async(
    optiinfra_db_async: AsyncConnection[Any], _optiinfra_numbers: Numbers
) -> MakeWorkflowAsync:
    """Do what `make_workflow` does, on the connection of `optiinfra_db_async`."""
    return MakeWorkflowAsync(optiinfra_db_async, _optiinfra_numbers)
