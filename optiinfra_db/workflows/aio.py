"""The recorder for asynchronous code: the same names as in `optiinfra_db.workflows`.

```python
async with record_workflow(
    conn,
    customer_id=customer_id,
    agent_id=agent_id,
    workflow_type=WorkflowType.COST_ANALYSIS,
    steps=["collect_metrics", "analyze"],
) as run:
    async with run.step("collect_metrics") as step:
        step.output_data = {"metrics": 1247}
```

What differs: a task sends the heartbeats, and cancelling the task of the block cancels the run;
SIGTERM does it by way of that.
"""

import asyncio
import functools
import signal
import threading
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import timedelta
from os import PathLike
from typing import Any, BinaryIO, Generic, ParamSpec, TypeVar, Unpack, cast, overload
from uuid import UUID
from weakref import WeakSet

from psycopg import AsyncConnection
from uuid_utils.compat import uuid7

from optiinfra_db.generated.aio import workflow_executions
from optiinfra_db.generated.models import (
    JSON,
    ArtifactType,
    WorkflowArtifact,
    WorkflowExecution,
    WorkflowStep,
    WorkflowType,
)
from optiinfra_db.specs import StepSpec, WorkflowSpec
from optiinfra_db.workflows import end_now

from ._backends import AsyncBackend
from ._heart import keep_alive
from ._recorder import (
    NOBODY,
    BaseRun,
    BaseStep,
    Options,
    Recorder,
    RecordOptions,
    StepName,
    Terminated,
    as_spec,
    bound,
    check_function,
    check_type,
    current,
    step_options,
    with_input,
)

__all__ = [
    "RecordOptions",
    "Run",
    "Step",
    "StepSpec",
    "Terminated",
    "Workflow",
    "WorkflowSpec",
    "claim_workflow",
    "current_run",
    "current_step",
    "record_workflow",
    "resume",
    "step",
    "workflow",
]

P = ParamSpec("P")
T = TypeVar("T")

_step: ContextVar["Step | None"] = ContextVar("optiinfra_db.async_step", default=None)


@asynccontextmanager
async def record_workflow(
    conn: AsyncConnection[Any],
    *,
    customer_id: UUID,
    agent_id: UUID,
    workflow_type: WorkflowType | None = None,
    steps: Iterable[StepName | Callable[..., Any]] = (),
    input_data: JSON = None,
    deadline: timedelta | None = None,
    metadata: Mapping[str, JSON] | None = None,
    spec: WorkflowSpec | None = None,
    id: UUID | None = None,
    **options: Unpack[RecordOptions],
) -> AsyncIterator["Run"]:
    """Do what `optiinfra_db.workflows.record_workflow` does."""
    plan = as_spec(
        spec,
        workflow_type=workflow_type,
        steps=steps,
        input_data=input_data,
        deadline=deadline,
        metadata=metadata,
    )
    recorder = Recorder(
        await AsyncBackend.of(conn, options.get("actor")),
        Options(**options),
        customer_id,
        id or uuid7(),
    )
    async with _recording(recorder) as run:
        await recorder.create(plan, agent_id)
        async with _alive(recorder, run):
            yield run


@asynccontextmanager
async def resume(
    conn: AsyncConnection[Any],
    run_id: UUID,
    *,
    customer_id: UUID | None = None,
    heartbeat_timeout: timedelta = timedelta(seconds=60),
    **options: Unpack[RecordOptions],
) -> AsyncIterator["Run"]:
    """Do what `optiinfra_db.workflows.resume` does."""
    backend = await AsyncBackend.of(conn, options.get("actor"))
    owner = customer_id or backend.session.customer()
    recorder = Recorder(backend, Options(**options), owner, run_id)
    async with _recording(recorder) as run:
        await recorder.take_over(heartbeat_timeout)
        async with _alive(recorder, run):
            yield run


@asynccontextmanager
async def claim_workflow(
    conn: AsyncConnection[Any], *, agent_id: UUID, **options: Unpack[RecordOptions]
) -> AsyncIterator["Run | None"]:
    """Do what `optiinfra_db.workflows.claim_workflow` does."""
    recorder = Recorder(
        await AsyncBackend.of(conn, options.get("actor")), Options(**options), NOBODY, NOBODY
    )
    async with _recording(recorder) as run:
        if not await recorder.claim(agent_id):
            yield None
            return
        async with _alive(recorder, run):
            yield run


class Run(BaseRun):
    """A run that is being recorded."""

    __slots__ = ()

    @property
    def conn(self) -> AsyncConnection[Any]:
        """The connection in use: the one given, or another one where that was lost."""
        return cast("AsyncBackend", self._recorder.backend).conn

    @asynccontextmanager
    async def step(self, name: str, *, input_data: JSON = None) -> AsyncIterator["Step"]:
        """Do what `optiinfra_db.workflows.Run.step` does."""
        row = await self._recorder.start(name, input_data=input_data)
        step = Step(row)
        try:
            with bound(_step, step):
                yield step
        except BaseException as error:
            await self._recorder.end_step(row, error, None)
            raise
        await self._recorder.end_step(row, None, step.output_data)

    async def skip(self, step_name: str) -> None:
        """Skip a step of the plan that is not to be done."""
        await self._recorder.skip(step_name)

    async def artifact(
        self,
        artifact_type: ArtifactType,
        name: str,
        *,
        data: bytes | None = None,
        file: str | PathLike[str] | BinaryIO | None = None,
        path: str | None = None,
        step: "Step | None" = None,
        content_type: str | None = None,
        metadata: Mapping[str, JSON] | None = None,
    ) -> WorkflowArtifact:
        """Do what `optiinfra_db.workflows.Run.artifact` does, writing in a thread."""
        return await self._recorder.artifact(
            artifact_type,
            name,
            data=data,
            file=file,
            path=path,
            step=step.row if step else None,
            content_type=content_type,
            metadata=metadata,
        )

    async def check(self) -> None:
        """Raise what ended the run, if somebody ended it; it asks the last heartbeat."""
        await self._recorder.check()


class Step(BaseStep):
    """A step that is being worked on."""

    __slots__ = ()


def current_run() -> Run:
    """Return the run that is being recorded here. Raises LookupError where there is none."""
    run = current.get()
    if not isinstance(run, Run):
        raise LookupError("no run is being recorded here: call this inside of record_workflow")
    return run


def current_step() -> Step:
    """Return the step that is being worked on here. Raises LookupError where there is none."""
    step = _step.get()
    if step is None:
        raise LookupError("no step is being worked on here: call this inside of a step")
    return step


@overload
def step(
    function: Callable[P, Coroutine[Any, Any, T]], /
) -> Callable[P, Coroutine[Any, Any, T]]: ...


@overload
def step(
    *,
    name: str | None = None,
    retries: int = 0,
    retry_on: type[Exception] | tuple[type[Exception], ...] = Exception,
    backoff_seconds: float = 1,
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]: ...


def step(
    function: Callable[P, Coroutine[Any, Any, T]] | None = None,
    /,
    *,
    name: str | None = None,
    retries: int = 0,
    retry_on: type[Exception] | tuple[type[Exception], ...] = Exception,
    backoff_seconds: float = 1,
) -> Any:
    """Make a coroutine function a step, as `optiinfra_db.workflows.step` does a function."""
    if function is None:
        return functools.partial(
            step, name=name, retries=retries, retry_on=retry_on, backoff_seconds=backoff_seconds
        )
    how = step_options(
        function,
        is_async=True,
        name=name,
        retries=retries,
        retry_on=retry_on,
        backoff_seconds=backoff_seconds,
    )

    @functools.wraps(function)
    async def recorded(*args: P.args, **kwargs: P.kwargs) -> T:
        run = current.get()
        if run is None:
            return await function(*args, **kwargs)
        if not isinstance(run, Run):
            raise TypeError(f"step {how.name} is asynchronous, and its run is not")

        async def attempt(row: WorkflowStep) -> T:
            with bound(_step, Step(row)):
                return await function(*args, **kwargs)

        return await run._recorder.perform(how, attempt)

    recorded.step_options = how  # type: ignore[attr-defined]
    return recorded


class Workflow(Generic[T]):
    """A coroutine function that does a whole run; see `optiinfra_db.workflows.Workflow`."""

    def __init__(
        self, function: Callable[[Run], Awaitable[T]], spec: WorkflowSpec, options: RecordOptions
    ) -> None:
        check_function(function, is_async=True)
        functools.update_wrapper(self, function)
        self.spec = spec
        self._function = function
        self._options = options

    async def __call__(
        self,
        conn: AsyncConnection[Any],
        *,
        customer_id: UUID,
        agent_id: UUID,
        input_data: JSON = None,
        id: UUID | None = None,
        **options: Unpack[RecordOptions],
    ) -> T:
        """Do a run, and return what the function returned, which is the run's output."""
        spec = with_input(self.spec, input_data)
        merged: RecordOptions = {**self._options, **options}
        async with record_workflow(
            conn,
            customer_id=customer_id,
            agent_id=agent_id,
            spec=spec,
            id=id,
            **merged,
        ) as run:
            return await self.execute(run)

    async def enqueue(
        self,
        conn: AsyncConnection[Any],
        *,
        customer_id: UUID,
        agent_id: UUID,
        input_data: JSON = None,
        id: UUID | None = None,
    ) -> WorkflowExecution:
        """Create a run for a worker to claim, and return it. With an id that is taken, that run."""
        spec = with_input(self.spec, input_data)
        return await workflow_executions.create_workflow_execution(
            conn, customer_id=customer_id, agent_id=agent_id, id=id, **spec.parameters()
        )

    async def resume(
        self,
        conn: AsyncConnection[Any],
        run_id: UUID,
        *,
        customer_id: UUID | None = None,
        heartbeat_timeout: timedelta = timedelta(seconds=60),
        **options: Unpack[RecordOptions],
    ) -> T:
        """Go on with a run, as `resume` does, and return what the function returned."""
        merged: RecordOptions = {**self._options, **options}
        async with resume(
            conn,
            run_id,
            customer_id=customer_id,
            heartbeat_timeout=heartbeat_timeout,
            **merged,
        ) as run:
            return await self.execute(run)

    async def execute(self, run: Run) -> T:
        """Do a run that is open already, such as a claimed one; the caller's block ends it."""
        check_type(self.spec, run)
        result = await self._function(run)
        if run.output_data is None:
            run.output_data = result
        return result


def workflow(
    workflow_type: WorkflowType,
    *,
    steps: Iterable[StepName | Callable[..., Any]] = (),
    deadline: timedelta | None = None,
    **options: Unpack[RecordOptions],
) -> Callable[[Callable[[Run], Awaitable[T]]], Workflow[T]]:
    """Make a coroutine function that takes a `Run` a workflow, as `workflows.workflow` does."""
    spec = as_spec(
        None,
        workflow_type=workflow_type,
        steps=steps,
        input_data=None,
        deadline=deadline,
        metadata=None,
    )
    return lambda function: Workflow(function, spec, options)


@asynccontextmanager
async def _recording(recorder: Recorder) -> AsyncIterator[Run]:
    """End the run as the block ends."""
    backend = cast("AsyncBackend", recorder.backend)
    with _cancelled_by_sigterm() as is_terminated:
        try:
            yield Run(recorder)
        except BaseException as error:
            is_done = False
            try:
                if isinstance(error, Exception) and backend.is_usable:
                    await recorder.end(error)
                    is_done = True
            finally:
                if not is_done:
                    await _end_in_thread(recorder, Terminated() if is_terminated() else error)
            raise
        finally:
            await backend.close()


async def _end_in_thread(recorder: Recorder, error: BaseException) -> None:
    """End a run that is interrupted, so that being interrupted again does not keep it from that.

    The end of an event loop cancels what is being cancelled once more, and waits for threads.
    """
    if recorder.backend.is_in_transaction:
        await recorder.end(error)
        return
    loop = asyncio.get_running_loop()
    end = functools.partial(end_now, recorder, recorder.backend.session, error)
    await asyncio.shield(loop.run_in_executor(None, end))


@asynccontextmanager
async def _alive(recorder: Recorder, run: Run) -> AsyncIterator[None]:
    """Say that the run is alive while the block lasts, then complete it."""
    with bound(current, run):
        async with _heartbeats(recorder):
            yield
    await recorder.finish(run.output_data)


@asynccontextmanager
async def _heartbeats(recorder: Recorder) -> AsyncIterator[None]:
    """Send heartbeats from a task, which ends with the block."""
    if recorder.backend.is_in_transaction:  # nobody sees the run yet
        yield
        return
    backend = AsyncBackend(None, recorder.backend.session, recorder.options.actor)

    async def stopped(seconds: float) -> bool:
        await asyncio.sleep(seconds)
        return False

    task = asyncio.create_task(
        keep_alive(recorder, backend, stopped), name=f"heartbeats of run {recorder.id}"
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await backend.close()


_watched: set["asyncio.Task[Any]"] = set()
_terminated: set["asyncio.Task[Any]"] = set()
_loops: "WeakSet[asyncio.AbstractEventLoop]" = WeakSet()
"""Those that cancel the watched tasks on SIGTERM."""


@contextmanager
def _cancelled_by_sigterm() -> Iterator[Callable[[], bool]]:
    """Cancel the task on SIGTERM, in the main thread and unless somebody handles it.

    The last of the tasks that are cancelled exits, when it has recorded its end.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 -- a coroutine runs in one
    loop = asyncio.get_running_loop()
    is_main = threading.current_thread() is threading.main_thread()
    is_handled = loop not in _loops and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    if task in _watched or not is_main or is_handled:
        yield lambda: task in _terminated
        return
    if loop not in _loops:
        # It stays there for the loop: a signal that is on its way when it is removed gets lost.
        loop.add_signal_handler(signal.SIGTERM, _terminate, loop)
        _loops.add(loop)
    _watched.add(task)
    try:
        yield lambda: task in _terminated
    finally:
        _watched.discard(task)
        is_terminated = task in _terminated
        if is_terminated and not _watched:
            _terminated.clear()
            task.add_done_callback(_retrieve)
            raise Terminated


def _terminate(loop: asyncio.AbstractEventLoop) -> None:
    _terminated.update(_watched)
    for task in _watched:
        task.cancel()
    if not _watched:  # as if there was no handler
        loop.remove_signal_handler(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)


def _retrieve(task: "asyncio.Task[Any]") -> None:
    """Take the exception of a task, so that its exit is not said to be an error as well."""
    if not task.cancelled():
        task.exception()
