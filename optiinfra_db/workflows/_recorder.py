"""What the synchronous and the asynchronous recorder share: all that they do.

It is written once, as coroutines over a `Backend` that runs the queries. The asynchronous backend
awaits; the synchronous one never does, so that `run_now` gets through a coroutine in one go.
"""

import inspect
import logging
import signal
from asyncio import CancelledError
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from os import PathLike
from time import monotonic
from typing import (
    Any,
    BinaryIO,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypedDict,
    TypeVar,
    get_type_hints,
)
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python
from uuid_utils.compat import uuid7

from optiinfra_db import artifacts as store
from optiinfra_db.connection import Session, pauses
from optiinfra_db.errors import (
    ArtifactStoreError,
    ConnectionLost,
    DatabaseUnreachable,
    InvalidValue,
    StaleWriter,
    TransactionConflict,
    WorkflowCancelled,
    WorkflowInUse,
    WorkflowOver,
    WorkflowTimedOut,
)
from optiinfra_db.generated import workflow_artifacts, workflow_executions, workflow_steps
from optiinfra_db.generated.models import (
    JSON,
    ArtifactType,
    StepStatus,
    WorkflowArtifact,
    WorkflowExecution,
    WorkflowStatus,
    WorkflowStep,
    WorkflowType,
)
from optiinfra_db.payloads import ErrorDetails, JsonObject, Name, check_json, dump, parse, redact
from optiinfra_db.settings import Settings
from optiinfra_db.specs import StepSpec, WorkflowSpec
from optiinfra_db.telemetry import current_trace_id

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("optiinfra_db.workflows")

DEFAULT_RETRIES = 3
"""How often a step may be put back, unless its plan says otherwise: also after a crash."""

_OPEN_STEP = (StepStatus.PENDING, StepStatus.RUNNING, StepStatus.RETRYING)
_OPEN_RUN = (WorkflowStatus.PENDING, WorkflowStatus.RUNNING)


class Backend(Protocol):
    """How queries are run: synchronously or not."""

    @property
    def session(self) -> Session:
        """How to open another connection."""
        ...

    @property
    def is_in_transaction(self) -> bool:
        """Whether the run is part of a transaction of the caller's."""
        ...

    def query(
        self,
        function: Callable[Concatenate[psycopg.Connection[Any], P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Awaitable[T]:
        """Call a generated function, or its asynchronous twin."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Run what is in the block as one transaction."""
        ...

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Keep steps that overlap from starting and ending at the same moment."""
        ...

    def reconnect(self) -> Awaitable[None]:
        """Go on with a new connection, if the one in use is lost. Raises DatabaseUnreachable."""
        ...

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Wait."""
        ...

    def in_thread(self, function: Callable[[], T]) -> Awaitable[T]:
        """Call what blocks, without blocking others."""
        ...


@dataclass(frozen=True, kw_only=True)
class StepOptions(Generic[T]):
    """How a function does a step."""

    name: str
    retries: int
    retry_on: tuple[type[Exception], ...]
    backoff_seconds: float
    result: TypeAdapter[T]

    def load(self, output_data: JSON) -> T:
        """Return what the function returned when its output was recorded."""
        try:
            return self.result.validate_python(output_data)
        except ValidationError as error:
            raise InvalidValue(
                f"step {self.name}: what it returned before is not what its function is annotated "
                f"to return: {error}",
                field="output_data",
            ) from error


def step_options(
    function: Callable[..., Any],
    *,
    is_async: bool,
    name: str | None,
    retries: int,
    retry_on: type[Exception] | tuple[type[Exception], ...],
    backoff_seconds: float,
) -> StepOptions[Any]:
    """Return the options of a step, with the type that its function is annotated to return."""
    check_function(function, is_async=is_async)
    name = name or getattr(function, "__name__", None)
    if name is None:
        raise TypeError(f"@step: {function!r} has no name of its own: give one, name=...")
    if not isinstance(retries, int) or retries < 0 or backoff_seconds < 0:
        raise ValueError("@step: retries and backoff_seconds are numbers, 0 or more")
    errors = (retry_on,) if isinstance(retry_on, type) else tuple(retry_on)
    if not all(isinstance(error, type) and issubclass(error, Exception) for error in errors):
        raise TypeError(f"@step: retry_on takes classes of exceptions, not {retry_on!r}")
    try:
        returned = get_type_hints(function).get("return", Any)
    except Exception:  # a name that is only there for type checkers
        returned = Any
    return StepOptions(
        name=name,
        retries=retries,
        retry_on=errors,
        backoff_seconds=backoff_seconds,
        result=TypeAdapter(Any if returned is Any else returned),
    )


def check_function(function: Callable[..., Any], *, is_async: bool) -> None:
    """Refuse a function that the other recorder is for, or none."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{function!r} is a generator function: return a list instead")
    if inspect.iscoroutinefunction(function) and not is_async:
        raise TypeError(f"{function!r} is asynchronous: import from optiinfra_db.workflows.aio")
    if is_async and not inspect.iscoroutinefunction(function):
        raise TypeError(f"{function!r} is not `async def`: import from optiinfra_db.workflows")


def checked_json(field: str, value: object) -> JSON:
    """Return a value as what JSON holds. Raises InvalidValue, by field."""
    try:
        return check_json(to_jsonable_python(value), field=field)
    except (PydanticSerializationError, ValueError) as error:
        raise InvalidValue(f"{field}: this is no JSON: {error}", field=field) from error


@contextmanager
def bound(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Give a context variable a value for the block."""
    token = variable.set(value)
    try:
        yield
    finally:
        with suppress(ValueError):  # callbacks may end a block in another thread or task
            variable.reset(token)


current: ContextVar["BaseRun | None"] = ContextVar("optiinfra_db.run", default=None)
"""The run that is being recorded here."""


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Get through a coroutine that never waits for anything."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a synchronous recorder met something to wait for")


NOBODY = UUID(int=0)
"""The customer, and the run, of a recorder that has none yet."""


class RecordOptions(TypedDict, total=False):
    """How a run is to be recorded, beside what it is."""

    actor: str
    """Who does it, for the audit log, in place of the actor of the connection."""
    requeue: int
    """How often a run that fails is put back to the queue of its agent, as a new attempt (0)."""
    store: str | PathLike[str]
    """Where artifacts go: a folder or URL, s3://bucket/prefix (OPTIINFRA_ARTIFACTS_URL)."""
    storage_options: Mapping[str, Any]
    """Options of the file system of fsspec that the store is, such as its endpoint."""
    heartbeat_seconds: float
    """How often a run that lasts says that it is alive (15)."""
    give_up_seconds: float
    """How long to try to connect again where the connection is lost (60)."""


class Terminated(SystemExit):
    """The process was asked to end, by SIGTERM; its exit code is 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def _only(error: Exception) -> Exception:
    """Return the error that a group of one is about, as tasks raise them."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def interruption(error: BaseException) -> str:
    """Say what interrupted a run."""
    if isinstance(error, Terminated):
        return "the executor was terminated (SIGTERM)"
    if isinstance(error, KeyboardInterrupt):
        return "the executor was interrupted (Ctrl-C)"
    said = redact(": ".join([type(error).__name__, *map(str, error.args)]))
    return f"the executor was interrupted ({said})"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The same, with what holds where nothing is said."""

    actor: str | None = None
    requeue: int = 0
    store: str | PathLike[str] | None = None
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)
    heartbeat_seconds: float = 15
    give_up_seconds: float = 60

    def __post_init__(self) -> None:
        if self.heartbeat_seconds <= 0:
            raise ValueError(f"heartbeat_seconds is more than 0, not {self.heartbeat_seconds!r}")


class _Artifact(BaseModel):
    """What is said of an artifact, and must be right before anything is written."""

    artifact_type: ArtifactType
    artifact_name: Name
    content_type: Name | None
    metadata: JsonObject


@dataclass
class Recorder:
    """One run that is being recorded."""

    backend: Backend
    options: Options
    customer_id: UUID
    id: UUID
    is_ours: bool = False
    """Whether this executor is the one that may end the run."""
    is_over: bool = False
    """Whether a heartbeat found that somebody ended the run."""
    _run: WorkflowExecution | None = None
    steps: dict[UUID, WorkflowStep] = field(default_factory=dict)
    """Each as it was last seen, in the order of the plan."""
    _named: dict[str, list[UUID]] = field(default_factory=lambda: defaultdict(list))
    _ahead: set[UUID] = field(default_factory=set)
    """Steps that were started with the end of the one before, and are not being worked on yet."""
    _busy: set[UUID] = field(default_factory=set)
    _retry_at: dict[UUID, float] = field(default_factory=dict)
    _calls: Counter[str] = field(default_factory=Counter)
    """How often a function with @step was called, by its name."""
    _has_given_up: bool = False
    _is_replaced: bool = False
    """Whether a write of this executor was refused, because another one has taken over."""

    @property
    def run(self) -> WorkflowExecution:
        """The run as it was when it began."""
        assert self._run is not None, "the run has begun"  # noqa: S101 -- what the type does not tell
        return self._run

    @property
    def _key(self) -> dict[str, Any]:
        return {"customer_id": self.customer_id, "id": self.id}

    @property
    def _of_run(self) -> dict[str, Any]:
        return {"customer_id": self.customer_id, "workflow_execution_id": self.id}

    # How a run begins

    async def create(self, spec: WorkflowSpec, agent_id: UUID) -> None:
        """Create the run and start it with its first step, as a whole or not at all.

        A worker of the same agent could otherwise claim it in between.
        """
        parameters = spec.parameters()
        if trace_id := current_trace_id():
            parameters["metadata"] = {"trace_id": trace_id} | (parameters["metadata"] or {})
        attempts = 0

        async def create() -> bool:
            nonlocal attempts
            attempts += 1
            async with self.backend.transaction():
                query = self.backend.query
                self._run = await query(
                    workflow_executions.create_workflow_execution,
                    **self._key,
                    agent_id=agent_id,
                    **parameters,
                )
                if spec.steps:
                    begin = workflow_executions.begin_workflow_execution
                    is_begun = await query(begin, **self._key) is not None
                else:
                    start = workflow_executions.start_workflow_execution
                    is_begun = await query(start, **self._key) is not None
                await self._read()
                self.is_ours = is_begun  # before the end of the transaction: see _cancel
            return is_begun

        # With an answer lost on the way, the run that is running already is this one.
        if not await self._insistently(create) and attempts == 1:
            raise WorkflowInUse(
                f"There is a run {self.id} already, which is {self.run.status}. "
                "Go on with it by resume(), or give another id, or none."
            )
        self.is_ours = True  # also by an attempt whose answer was lost
        self._log(logging.INFO, "started", "run started")

    async def claim(self, agent_id: UUID) -> bool:
        """Take the oldest run that waits for the agent; return whether there was one."""
        async with self.backend.transaction():
            run = await self.backend.query(
                workflow_executions.claim_workflow_execution, agent_id=agent_id
            )
            if run is None:
                return False
            self.customer_id, self.id = run.customer_id, run.id
            await self._read()
            self.is_ours = True  # before the end of the transaction: see _cancel
        self._log(logging.INFO, "claimed", "run claimed")
        return True

    async def take_over(self, heartbeat_timeout: timedelta) -> None:
        """Go on with a run that was broken off: by its retry, which has what was done in it.

        A run whose executor is gone is ended first, which keeps that out if it is alive after all.
        """
        await self._insistently(self._read)
        run = self.run
        if run.status == WorkflowStatus.RUNNING:
            self._refuse_if_alive(heartbeat_timeout)
            lost = ErrorDetails(
                type="ExecutorLost", message="its executor is gone; the run was resumed"
            )
            await self._call(
                workflow_executions.fail_workflow_execution,
                **self._key,
                attempt=run.attempt,
                error_details=dump(lost),
            )
        if run.status != WorkflowStatus.PENDING:
            retry = await self._call(workflow_executions.retry_workflow_execution, **self._key)
            if retry is None:
                raise WorkflowInUse(f"Run {run.id} is completed: there is nothing to go on with.")
            self.id = retry.id
        await self._start()
        await self._insistently(self._read)
        self._log(logging.INFO, "resumed", "run resumed, as attempt %s", self.run.attempt)

    def _refuse_if_alive(self, heartbeat_timeout: timedelta) -> None:
        run = self.run
        seen = max(filter(None, [run.heartbeat_at, run.started_at]))
        age = datetime.now(UTC) + self.backend.session.clock_ahead - seen
        if age < heartbeat_timeout:
            raise WorkflowInUse(
                f"Run {run.id} gave a sign of life {max(age.total_seconds(), 0):.0f} s ago: its "
                f"executor may be at work. Try again once it was silent for "
                f"{heartbeat_timeout.total_seconds():.0f} s, or pass a shorter heartbeat_timeout "
                "if you know that it is gone."
            )

    async def _start(self) -> None:
        """Start the run, which is pending, unless somebody else does."""
        attempts = 0

        async def start() -> WorkflowExecution | None:
            nonlocal attempts
            attempts += 1
            start = workflow_executions.start_workflow_execution
            return await self.backend.query(start, **self._key)

        self.is_ours = True  # before it is started: see _cancel
        if await self._insistently(start) is None and attempts == 1:
            self.is_ours = False
            await self._insistently(self._read)
            raise WorkflowInUse(
                f"Run {self.id} is {self.run.status}: somebody else goes on with it, or did. "
                "To go on after that, resume this one."
            )

    async def _read(self) -> None:
        """Read the run and its steps as they are."""
        run = await self.backend.query(workflow_executions.get_workflow_execution, **self._key)
        if run is None:
            raise InvalidValue(
                f"customer {self.customer_id} has no run {self.id}: correct the id, or the "
                "customer_id.",
                table="workflow_executions",
                field="id",
            )
        self._run = run
        rows = await self.backend.query(workflow_steps.list_workflow_steps, **self._of_run)
        self.steps.clear()
        self._named.clear()
        for row in rows:
            self._note(row)
        self._ahead = {
            step.id
            for step in self.steps.values()
            if step.status == StepStatus.RUNNING and step.id not in self._busy
        }

    # Steps

    def find(self, name: str) -> WorkflowStep | None:
        """Return the step of that name: the first that is open, else the last."""
        found = [self.steps[step_id] for step_id in self._named[name]]
        is_open = (step for step in found if step.status in _OPEN_STEP)
        return next(is_open, found[-1] if found else None)

    def done(self, name: str) -> WorkflowStep | None:
        """Return the step of that name if it is done, in this run or in one that it retries."""
        step = self.find(name)
        is_carried_over = step is not None and "carried_over_from" in step.metadata
        is_done = step is not None and (step.status == StepStatus.COMPLETED or is_carried_over)
        return step if is_done else None

    async def start(
        self, name: str, *, input_data: JSON = None, retries: int | None = None
    ) -> WorkflowStep:
        """Start a step, or take the one that was started with the end of the one before."""
        await self.check()
        async with self.backend.turn():
            step = self.find(name)
            if step is None:
                if self.steps and retries is None:
                    message = "step %s is not in the plan, and was added to it"
                    self._log(logging.WARNING, "step_added", message, name)
                step = await self._add(name, input_data, retries)
            if step.status not in _OPEN_STEP or step.id in self._busy:
                state = "being worked on" if step.id in self._busy else step.status
                raise WorkflowInUse(
                    f"Step {name} of run {self.id} is {state} already. What is done is skipped by "
                    f"functions with @step; else ask run.is_done({name!r}) first."
                )
            self._busy.add(step.id)
            is_started = step.id in self._ahead
            self._ahead.discard(step.id)
        if not is_started:
            try:
                step = await self._started(step)
            except BaseException:
                self._busy.discard(step.id)
                raise
        self._note(step)
        self._log(logging.INFO, "step_started", "step %s started", name, step=step)
        return step

    async def _add(self, name: str, input_data: JSON, retries: int | None) -> WorkflowStep:
        step = await self._call(
            workflow_steps.add_workflow_step,
            **self._of_run,
            id=uuid7(),
            step_name=name,
            max_retries=retries,
            input_data=checked_json("input_data", input_data),
        )
        if step is None:
            raise await self._over()
        self._note(step)
        return step

    async def _started(self, step: WorkflowStep) -> WorkflowStep:
        """Start a step once its time has come."""
        key = {**self._of_run, "id": step.id}
        attempts = 0

        async def start() -> WorkflowStep | None:
            nonlocal attempts
            attempts += 1
            return await self.backend.query(workflow_steps.start_workflow_step, **key)

        await self._sleep_until(self._retry_at.pop(step.id, 0))
        while True:
            if started := await self._insistently(start):
                return started
            found = await self._call(workflow_steps.get_workflow_step, **key)
            if found and found.status == StepStatus.RUNNING and attempts > 1:
                return found  # by an attempt whose answer was lost
            if found is None or found.status != StepStatus.RETRYING:
                raise await self._over()
            attempts = 0
            await self._sleep_until(monotonic() + 0.1)

    async def _sleep_until(self, time: float) -> None:
        """Sleep, unless a heartbeat finds that the run is over."""
        while (left := time - monotonic()) > 0:
            await self.backend.sleep(min(left, 0.5))
            await self.check()

    async def complete(self, step: WorkflowStep, output_data: JSON) -> None:
        """Complete a step, and start the next one unless others are being worked on."""
        end: dict[str, Any] = {
            **self._of_run,
            "id": step.id,
            "retry_count": step.retry_count,
            "output_data": Jsonb(None) if output_data is None else output_data,
        }
        async with self.backend.turn():
            self._busy.discard(step.id)
            if self._busy or self._ahead:
                done = await self._call(workflow_steps.complete_workflow_step, **end)
                rows = [] if done is None else [done]
            else:
                rows = await self._call(workflow_steps.advance_workflow_step, **end)
            if not rows:
                await self._insistently(self._read)
                rows = [found for found in self.steps.values() if found.id == step.id]
                if not rows or rows[0].status != StepStatus.COMPLETED:
                    raise await self._over()
            for row in rows:
                self._note(row)
            self._ahead.update(row.id for row in rows[1:])
        self._log(logging.INFO, "step_completed", "step %s completed", step.step_name, step=rows[0])

    async def fail(
        self,
        step: WorkflowStep,
        error: BaseException,
        *,
        retryable: bool,
        backoff_seconds: float = 1,
    ) -> bool:
        """Note that a step failed; return whether it may be tried again, when that is so."""
        self._busy.discard(step.id)
        details = dump(ErrorDetails.of(error, step=step.step_name, retryable=retryable))
        key = {**self._of_run, "id": step.id}
        if self.backend.is_in_transaction:
            backoff_seconds = 0  # where the time stands still
        row = None
        with suppress(StaleWriter):  # which it is also where an answer was lost: see below
            row = await self._call(
                workflow_steps.fail_workflow_step,
                **key,
                retry_count=step.retry_count,
                retryable=retryable,
                backoff_base_seconds=backoff_seconds,
                error_details=details,
            )
        if row is None:
            row = await self._call(workflow_steps.get_workflow_step, **key)
            if row is None or row.error_details != details:
                raise await self._over()
            self._is_replaced = False
        self._note(row)
        if row.status == StepStatus.RETRYING:
            assert row.next_attempt_at is not None  # noqa: S101 -- a CHECK demands it
            pause = row.next_attempt_at - row.updated_at  # both by the clock of the database
            self._retry_at[step.id] = monotonic() + pause.total_seconds()
            message = "step %s failed, attempt %s: %s: %s"
            attempt = (row.step_name, row.retry_count, details["type"], details["message"])
            self._log(logging.WARNING, "step_retrying", message, *attempt, step=row)
            return True
        message = "step %s failed: %s: %s"
        reason = (row.step_name, details["type"], details["message"])
        self._log(logging.ERROR, "step_failed", message, *reason, step=row)
        return False

    async def perform(
        self, how: "StepOptions[T]", attempt: Callable[[WorkflowStep], Awaitable[T]]
    ) -> T:
        """Do a step by a function, as often as it may be tried; return what it returned.

        The second call of a function is another step, as it is when the run is resumed.
        """
        self._calls[how.name] += 1
        number = self._calls[how.name]
        name = how.name if number == 1 else f"{how.name}#{number}"
        if done := self.done(name):
            self._log(logging.INFO, "step_done", "step %s is done already", name, step=done)
            return how.load(done.output_data)
        while True:
            step = await self.start(name, retries=max(how.retries, DEFAULT_RETRIES))
            try:
                value = await attempt(step)
            except Exception as error:
                is_retryable = isinstance(error, how.retry_on) and step.retry_count < how.retries
                is_again = await self._failed(
                    step, error, retryable=is_retryable, backoff_seconds=how.backoff_seconds
                )
                if not is_again:
                    raise
            else:
                await self._settle(step, value)
                return value

    async def _settle(self, step: WorkflowStep, output: object) -> None:
        """Complete a step with its output, or fail it where that is no JSON."""
        try:
            checked = checked_json("output_data", output)
        except InvalidValue as refused:
            await self._failed(step, refused, retryable=False)
            raise
        await self.complete(step, checked)

    def _is_left(self, error: BaseException) -> bool:
        """Say whether the error is that somebody else has the run, or has ended it."""
        is_over = isinstance(error, WorkflowOver) and error.run.id == self.id
        return is_over or self._is_replaced

    async def _failed(
        self,
        step: WorkflowStep,
        error: BaseException,
        *,
        retryable: bool,
        backoff_seconds: float = 1,
    ) -> bool:
        """Note that a step failed, or say on its error that this could not be noted."""
        if self._is_left(error):
            self._busy.discard(step.id)
            return False
        try:
            return await self.fail(
                step, error, retryable=retryable, backoff_seconds=backoff_seconds
            )
        except Exception as second:
            error.add_note(f"That step {step.step_name} failed could not be recorded: {second}")
            return False

    async def end_step(self, step: WorkflowStep, error: BaseException | None, output: JSON) -> None:
        """End a step as its block ended."""
        if error is None:
            await self._settle(step, {} if output is None else output)
        elif isinstance(error, Exception | CancelledError):
            await self._failed(step, error, retryable=False)
        else:  # the end of the run says it
            self._busy.discard(step.id)

    async def skip(self, name: str) -> None:
        """Skip a step that is open."""
        await self.check()
        step = self.find(name)
        if step is None or step.status not in _OPEN_STEP or step.id in self._busy:
            state = "not in the plan" if step is None else step.status
            raise WorkflowInUse(f"Step {name} of run {self.id} is {state}: it cannot be skipped.")
        await self._skip(step)

    async def _skip(self, step: WorkflowStep) -> None:
        key = {**self._of_run, "id": step.id}
        row = await self._call(
            workflow_steps.skip_workflow_step, **key, retry_count=step.retry_count
        )
        row = row or await self._call(workflow_steps.get_workflow_step, **key)
        if row is None or row.status != StepStatus.SKIPPED:
            raise await self._over()
        self._ahead.discard(step.id)
        self._note(row)
        self._log(logging.INFO, "step_skipped", "step %s skipped", step.step_name, step=row)

    def _note(self, row: WorkflowStep) -> None:
        """Keep a step as it is now."""
        if row.id not in self.steps:
            self._named[row.step_name].append(row.id)
        self.steps[row.id] = row

    # Artifacts

    async def artifact(
        self,
        artifact_type: ArtifactType,
        name: str,
        *,
        data: bytes | None,
        file: str | PathLike[str] | BinaryIO | None,
        path: str | None,
        step: WorkflowStep | None,
        content_type: str | None,
        metadata: Mapping[str, JSON] | None,
    ) -> WorkflowArtifact:
        """Write content to the store, and then note it."""
        await self.check()
        described = parse(
            _Artifact,
            {
                "artifact_type": artifact_type,
                "artifact_name": name,
                "content_type": content_type,
                "metadata": checked_json("metadata", metadata or {}),
            },
        )
        taken = {}
        if path is not None:
            rows = await self._call(workflow_artifacts.list_workflow_artifacts, **self._of_run)
            taken = {row.artifact_path: row.sha256 for row in rows}
        content = await self.backend.in_thread(
            lambda: store.store_content(
                data=data,
                file=file,
                path=path,
                directory=self.options.store or Settings().artifacts_url,
                name=name,
                customer_id=self.customer_id,
                workflow_execution_id=self.id,
                content_type=content_type,
                taken=taken,
                storage_options=self.options.storage_options,
            )
        )
        row = await self._call(
            workflow_artifacts.register_workflow_artifact,
            **self._of_run,
            id=uuid7(),
            workflow_step_id=step.id if step else None,
            artifact_type=described.artifact_type,
            artifact_name=name,
            artifact_path=content.path,
            artifact_size_bytes=content.size_bytes,
            content_type=content.content_type,
            sha256=content.sha256,
            metadata=described.metadata,
        )
        if row is None:
            raise ArtifactStoreError(
                f"Other content of this run was noted at {content.path} at the same moment. "
                "Choose another path, or leave it out."
            )
        self._log(
            logging.INFO, "artifact_stored", "artifact %s stored at %s", name, row.artifact_path
        )
        return row

    # How a run ends

    async def check(self) -> None:
        """Raise what ended the run, if a heartbeat found that it is over."""
        if self.is_over:
            raise await self._over()

    async def _over(self) -> WorkflowOver:
        """Return the error that says how the run ended under the hands of its executor."""
        await self._insistently(self._read)
        run = self.run
        if run.status == WorkflowStatus.CANCELLED:
            reason = run.metadata.get("cancel_reason", "no reason given")
            return WorkflowCancelled(f"Run {run.id} was cancelled: {reason}", run)
        if run.status == WorkflowStatus.TIMEOUT:
            reason = (run.error_details or {}).get("message", "no reason given")
            return WorkflowTimedOut(f"Run {run.id} timed out: {reason}", run)
        return WorkflowOver(
            f"Run {run.id}, which is {run.status}, was written by somebody else meanwhile: this "
            "executor has to stop.",
            run,
        )

    async def finish(self, output_data: JSON) -> None:
        """Complete the run; what of its plan was not done is skipped."""
        await self.check()
        output = checked_json("output_data", output_data)
        for step in list(self.steps.values()):
            if step.status in _OPEN_STEP:
                await self._skip(step)
        row = await self._call(
            workflow_executions.complete_workflow_execution,
            **self._key,
            attempt=self.run.attempt,
            output_data=output,
        )
        if row is None:
            over = await self._over()
            if over.run.status != WorkflowStatus.COMPLETED:
                raise over
        self._log(logging.INFO, "completed", "run completed")

    async def end(self, error: BaseException) -> None:
        """End the run as its block ended: failed, or cancelled where it was interrupted."""
        if not self.is_ours:
            return
        if self._is_left(error):
            self._log(logging.WARNING, "left", "run left: %s", error)
            return
        try:
            if isinstance(error, Exception):
                details = ErrorDetails.of(_only(error), step=self._failed_step())
                if await self._fail(details) and self.options.requeue >= self.run.attempt:
                    await self._requeue()
            else:
                await self._cancel(interruption(error))
        except Exception as second:
            error.add_note(f"How run {self.id} ended could not be recorded: {second}")
            self._log(logging.ERROR, "unrecorded", "end of run not recorded: %s", second)

    async def _fail(self, details: ErrorDetails) -> bool:
        """Fail the run, and return whether that is how it ended."""
        error_details = dump(details)
        row = await self._call(
            workflow_executions.fail_workflow_execution,
            **self._key,
            attempt=self.run.attempt,
            error_details=error_details,
        )
        if row is None:
            row = await self._call(workflow_executions.get_workflow_execution, **self._key)
        if row is None or row.error_details != error_details:
            return False
        message = "run failed: %s: %s"
        self._log(logging.ERROR, "failed", message, details.type, details.message)
        return True

    async def _requeue(self) -> None:
        if retry := await self._call(workflow_executions.retry_workflow_execution, **self._key):
            message = "run put back to the queue, as run %s, attempt %s"
            self._log(logging.WARNING, "requeued", message, retry.id, retry.attempt)

    async def _cancel(self, reason: str) -> None:
        """Cancel the run, unless it was never begun.

        Who is interrupted at the end of a transaction does not know whether it took effect.
        """
        run = await self._call(workflow_executions.get_workflow_execution, **self._key)
        if run is None or run.status == WorkflowStatus.PENDING:
            return
        row = await self._call(
            workflow_executions.cancel_workflow_execution, **self._key, reason=reason
        )
        if row:
            self._log(logging.WARNING, "cancelled", "run cancelled: %s", reason)

    def _failed_step(self) -> str | None:
        failed = (step for step in self.steps.values() if step.status == StepStatus.FAILED)
        return next((step.step_name for step in failed), None)

    # The database

    async def _call(
        self,
        function: Callable[Concatenate[psycopg.Connection[Any], P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call a generated function that may be called again where its answer was lost."""
        return await self._insistently(lambda: self.backend.query(function, *args, **kwargs))

    async def _insistently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask as often, and on as many connections, as it takes.

        Not in a transaction of the caller's, of which all is undone where its connection is lost.
        """
        waits = None
        is_in_transaction = self.backend.is_in_transaction
        while True:
            try:
                if waits is not None:
                    await self.backend.reconnect()
                answer = await ask()
            except StaleWriter:
                self._is_replaced = True
                raise
            except (ConnectionLost, DatabaseUnreachable, TransactionConflict) as error:
                if is_in_transaction:
                    raise
                # Once it was given up, what is still to be written is tried once.
                patience = 0 if self._has_given_up else self.options.give_up_seconds
                waits = waits or pauses(patience)
                wait = next(waits, None)
                if wait is None:
                    self._has_given_up = True
                    raise
                reason = str(error).partition("\n")[0]
                self._log(logging.WARNING, "reconnecting", "connecting again: %s", reason)
            else:
                self._has_given_up = False
                return answer
            await self.backend.sleep(wait)

    def _log(
        self, level: int, event: str, message: str, *args: object, step: WorkflowStep | None = None
    ) -> None:
        if not logger.isEnabledFor(level):
            return
        extra: dict[str, object] = {
            "event": event,
            "customer_id": str(self.customer_id),
            "workflow_execution_id": str(self.id),
        }
        if self._run:
            extra["workflow_type"] = str(self._run.workflow_type)
        if step:
            extra |= {"workflow_step_id": str(step.id), "step_name": step.step_name}
        logger.log(level, f"{message} (run %s)", *args, self.id, extra=extra)


class BaseRun:
    """What a run shows of itself."""

    __slots__ = {
        "_recorder": "",
        "output_data": "What came of the run: set it before the block ends. None leaves it empty.",
    }

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.output_data: JSON = None

    @property
    def customer_id(self) -> UUID:
        """The customer whose run it is."""
        return self._recorder.customer_id

    @property
    def id(self) -> UUID:
        """The id of the run; of a resumed one that was over, that of its retry."""
        return self._recorder.id

    @property
    def agent_id(self) -> UUID:
        """The agent that runs it."""
        return self._recorder.run.agent_id

    @property
    def workflow_type(self) -> WorkflowType:
        """The job that it does."""
        return self._recorder.run.workflow_type

    @property
    def attempt(self) -> int:
        """1 for a first run, one more for each retry of it."""
        return self._recorder.run.attempt

    @property
    def input_data(self) -> JSON:
        """What the run was asked to do."""
        return self._recorder.run.input_data

    @property
    def metadata(self) -> JSON:
        """What was noted about it when it began: a trace id, ..."""
        return self._recorder.run.metadata

    @property
    def step_names(self) -> list[str]:
        """The plan, in its order; steps that were added come last."""
        return [step.step_name for step in self._recorder.steps.values()]

    def is_done(self, step_name: str) -> bool:
        """Whether a step is completed, in this run or in one that it retries."""
        return self._recorder.done(step_name) is not None

    def output_of(self, step_name: str) -> JSON:
        """Return what came of a step that is done. Raises KeyError where it is not."""
        step = self._recorder.done(step_name)
        if step is None:
            raise KeyError(f"step {step_name} of run {self.id} is not done")
        return step.output_data


class BaseStep:
    """What a step that is being worked on shows of itself."""

    __slots__ = {  # noqa: RUF023 -- with their docs
        "row": "The step as it was when this attempt began.",
        "output_data": "What came of the step: set it before the block ends. None leaves it empty.",
    }

    def __init__(self, row: WorkflowStep) -> None:
        self.row = row
        self.output_data: JSON = None

    @property
    def id(self) -> UUID:
        """The id of the step."""
        return self.row.id

    @property
    def name(self) -> str:
        """What it does."""
        return self.row.step_name

    @property
    def input_data(self) -> JSON:
        """What it works on."""
        return self.row.input_data

    @property
    def retry_count(self) -> int:
        """How often it was put back to be tried again."""
        return self.row.retry_count


StepName: TypeAlias = str | StepSpec
"""A step of a plan: its name, or more."""


def as_spec(
    spec: WorkflowSpec | None,
    *,
    workflow_type: WorkflowType | None,
    steps: Iterable[object],
    input_data: object,
    deadline: timedelta | None,
    metadata: Mapping[str, JSON] | None,
) -> WorkflowSpec:
    """Return the plan of a run from either of the two ways to give it."""
    if callable(workflow_type):
        raise TypeError("@workflow takes the type of the run: @workflow(WorkflowType....)")
    if not isinstance(metadata, Mapping | None):
        raise TypeError(f"metadata is an object, such as a dict, not {metadata!r}")
    given = {
        "workflow_type": workflow_type,
        "steps": steps if isinstance(steps, str) else [_step_of(step) for step in steps],
        "input_data": checked_json("input_data", input_data),
        "metadata": None if metadata is None else checked_json("metadata", dict(metadata)),
        "deadline": deadline,
    }
    given = {name: value for name, value in given.items() if value not in (None, [])}
    if spec is None:
        return parse(WorkflowSpec, {"steps": []} | given)
    if given:
        raise TypeError(f"give a spec, or {', '.join(given)}: not both")
    return spec


def _step_of(step: object) -> object:
    """Return what a step of a plan is given by: a function with @step says it itself."""
    how = getattr(step, "step_options", None)
    if not isinstance(how, StepOptions):
        if callable(step):
            raise TypeError(f"{step!r} is no step: decorate it with @step, or give its name")
        return step
    return StepSpec(name=how.name, retries=max(how.retries, DEFAULT_RETRIES))


def with_input(spec: WorkflowSpec, input_data: object) -> WorkflowSpec:
    """Return a spec with other input, unless there is none."""
    if input_data is None:
        return spec
    return spec.model_copy(update={"input_data": checked_json("input_data", input_data)})


def check_type(spec: WorkflowSpec, run: BaseRun) -> None:
    """Refuse a run that another workflow is for."""
    if run.workflow_type != spec.workflow_type:
        raise ValueError(
            f"run {run.id} is a {run.workflow_type}, and this workflow does {spec.workflow_type}"
        )
