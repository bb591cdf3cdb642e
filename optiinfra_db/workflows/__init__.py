"""The recorder: what an agent does, written to the history while it is done.

```python
with record_workflow(
    conn,
    customer_id=customer_id,
    agent_id=agent_id,
    workflow_type=WorkflowType.COST_ANALYSIS,
    steps=["collect_metrics", "analyze"],
) as run:
    with run.step("collect_metrics") as step:
        step.output_data = {"metrics": 1247}
```

Whatever happens in the block is recorded: a step that raises is failed, and so is the run; Ctrl-C
and SIGTERM cancel it; while it lasts, a thread says that it is alive and keeps its deadline. A
connection that is lost is opened again, and no write is done twice. `optiinfra_db.workflows.aio`
has the same names for asynchronous code.

It writes by the generated functions, which are there for whoever wants another loop.
"""

import functools
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from os import PathLike
from typing import (
    Any,
    BinaryIO,
    Generic,
    ParamSpec,
    TypeVar,
    Unpack,
    cast,
    overload,
)
from uuid import UUID

from psycopg import Connection
from uuid_utils.compat import uuid7

from optiinfra_db.connection import Session
from optiinfra_db.generated import workflow_executions
from optiinfra_db.generated.models import (
    JSON,
    ArtifactType,
    WorkflowArtifact,
    WorkflowExecution,
    WorkflowStep,
    WorkflowType,
)
from optiinfra_db.specs import StepSpec, WorkflowSpec

from ._backends import SyncBackend
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
    run_now,
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

_step: ContextVar["Step | None"] = ContextVar("optiinfra_db.step", default=None)


@contextmanager
def record_workflow(
    conn: Connection[Any],
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
) -> Iterator["Run"]:
    """Create a run, start it, and record what the block does.

    The plan is `workflow_type`, `steps` (names, or functions with @step), `input_data`, `deadline`
    (from now) and `metadata`, or a `spec` that has all of these. At the end of the block the run is
    completed, and what of the plan was not done is skipped. An exception fails it and is raised;
    Ctrl-C, SIGTERM (in the main thread, unless the process handles it) and whatever else is no
    `Exception` cancel it.

    `conn` may be in a transaction of yours: then the run is part of that, sends no heartbeats, and
    is not saved where the connection is lost.

    Raises InvalidValue and NotFound where the plan, the customer or the agent is wrong;
    WorkflowInUse where there is a run with that id; WorkflowCancelled, WorkflowTimedOut or
    WorkflowOver, at the next end of a step, where somebody else ended the run; DatabaseUnreachable
    where the connection was lost and could not be opened again.
    """
    plan = as_spec(
        spec,
        workflow_type=workflow_type,
        steps=steps,
        input_data=input_data,
        deadline=deadline,
        metadata=metadata,
    )
    recorder = Recorder(
        SyncBackend.of(conn, options.get("actor")), Options(**options), customer_id, id or uuid7()
    )
    with _recording(recorder) as run:
        run_now(recorder.create(plan, agent_id))
        with _alive(recorder, run):
            yield run


@contextmanager
def resume(
    conn: Connection[Any],
    run_id: UUID,
    *,
    customer_id: UUID | None = None,
    heartbeat_timeout: timedelta = timedelta(seconds=60),
    **options: Unpack[RecordOptions],
) -> Iterator["Run"]:
    """Go on with a run after a crash, from its first open step.

    Of a run that failed, timed out or was cancelled, the retry is made and started: `run.id` is the
    id of that, which has all that was done. A running run whose executor gave no sign of life for
    `heartbeat_timeout` is failed first, so that the executor is kept out, should it be alive after
    all. A pending run is started. What is done is not done again: functions with @step return what
    they returned; otherwise ask `run.is_done`. The customer is that of the connection unless given.

    Raises WorkflowInUse where its executor may be alive, or where it is completed, or was retried
    already; InvalidValue where there is no such run; else as `record_workflow`.
    """
    backend = SyncBackend.of(conn, options.get("actor"))
    owner = customer_id or backend.session.customer()
    recorder = Recorder(backend, Options(**options), owner, run_id)
    with _recording(recorder) as run:
        run_now(recorder.take_over(heartbeat_timeout))
        with _alive(recorder, run):
            yield run


@contextmanager
def claim_workflow(
    conn: Connection[Any], *, agent_id: UUID, **options: Unpack[RecordOptions]
) -> Iterator["Run | None"]:
    """Take the oldest run that waits for an agent; None where none does.

    Any number of workers may do so at once. Otherwise as `record_workflow`.
    """
    recorder = Recorder(
        SyncBackend.of(conn, options.get("actor")), Options(**options), NOBODY, NOBODY
    )
    with _recording(recorder) as run:
        if not run_now(recorder.claim(agent_id)):
            yield None
            return
        with _alive(recorder, run):
            yield run


class Run(BaseRun):
    """A run that is being recorded."""

    __slots__ = ()

    @property
    def conn(self) -> Connection[Any]:
        """The connection in use: the one given, or another one where that was lost."""
        return cast("SyncBackend", self._recorder.backend).conn

    @contextmanager
    def step(self, name: str, *, input_data: JSON = None) -> Iterator["Step"]:
        """Do a step: it is completed at the end of the block, or failed by what that raises.

        A step of the plan may be done out of its order, and has its input from there; one that is
        not in the plan is added to its end, with `input_data`. Raises WorkflowInUse where it is
        done already, or being done.
        """
        row = run_now(self._recorder.start(name, input_data=input_data))
        step = Step(row)
        try:
            with bound(_step, step):
                yield step
        except BaseException as error:
            run_now(self._recorder.end_step(row, error, None))
            raise
        run_now(self._recorder.end_step(row, None, step.output_data))

    def skip(self, step_name: str) -> None:
        """Skip a step of the plan that is not to be done."""
        run_now(self._recorder.skip(step_name))

    def artifact(
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
        """Write content to the store, and then its row, with its size and SHA-256.

        The content is `data`, or what is in `file`; it goes to `path` (a URL or a file), else below
        the store of the run. It belongs to the step, where given, else to the run. The same content
        at the same path again is fine.

        Raises ArtifactStoreError where it could not be written, or the path is taken by other
        content of the run: then there is no row, and what was there before stays.
        """
        return run_now(
            self._recorder.artifact(
                artifact_type,
                name,
                data=data,
                file=file,
                path=path,
                step=step.row if step else None,
                content_type=content_type,
                metadata=metadata,
            )
        )

    def check(self) -> None:
        """Raise what ended the run, if somebody ended it.

        For long steps to call in between: it asks the last heartbeat, and costs nothing.
        """
        run_now(self._recorder.check())


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
def step(function: Callable[P, T], /) -> Callable[P, T]: ...


@overload
def step(
    *,
    name: str | None = None,
    retries: int = 0,
    retry_on: type[Exception] | tuple[type[Exception], ...] = Exception,
    backoff_seconds: float = 1,
) -> Callable[[Callable[P, T]], Callable[P, T]]: ...


def step(
    function: Callable[P, T] | None = None,
    /,
    *,
    name: str | None = None,
    retries: int = 0,
    retry_on: type[Exception] | tuple[type[Exception], ...] = Exception,
    backoff_seconds: float = 1,
) -> Any:
    """Make a function a step: called while a run is recorded, it is recorded as that.

    What it returns is the output of the step: what JSON holds, or what pydantic makes JSON of by
    the type it is annotated to return. In a resumed run, a step that is done is not done again: it
    returns what it returned. Where nothing is recorded the function is just called.

    The step is named after the function unless `name` says otherwise; called again in the same run,
    it is another step, collect#2. One that raises one of
    `retry_on` is tried again, up to `retries` times, after `backoff_seconds`, doubled each time.
    """
    if function is None:
        return functools.partial(
            step, name=name, retries=retries, retry_on=retry_on, backoff_seconds=backoff_seconds
        )
    how = step_options(
        function,
        is_async=False,
        name=name,
        retries=retries,
        retry_on=retry_on,
        backoff_seconds=backoff_seconds,
    )

    @functools.wraps(function)
    def recorded(*args: P.args, **kwargs: P.kwargs) -> T:
        run = current.get()
        if run is None:
            return function(*args, **kwargs)
        if not isinstance(run, Run):
            raise TypeError(f"step {how.name} is synchronous, and its run is not: use aio.step")
        recorder = run._recorder

        async def attempt(row: WorkflowStep) -> T:
            with bound(_step, Step(row)):
                return function(*args, **kwargs)

        result: T = run_now(recorder.perform(how, attempt))
        return result

    recorded.step_options = how  # type: ignore[attr-defined]
    return recorded


class Workflow(Generic[T]):
    """A function that does a whole run. Call it to do one; its `resume` goes on with one."""

    def __init__(
        self, function: Callable[[Run], T], spec: WorkflowSpec, options: RecordOptions
    ) -> None:
        check_function(function, is_async=False)
        functools.update_wrapper(self, function)
        self.spec = spec
        self._function = function
        self._options = options

    def __call__(
        self,
        conn: Connection[Any],
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
        with record_workflow(
            conn,
            customer_id=customer_id,
            agent_id=agent_id,
            spec=spec,
            id=id,
            **merged,
        ) as run:
            return self.execute(run)

    def enqueue(
        self,
        conn: Connection[Any],
        *,
        customer_id: UUID,
        agent_id: UUID,
        input_data: JSON = None,
        id: UUID | None = None,
    ) -> WorkflowExecution:
        """Create a run for a worker to claim, and return it. With an id that is taken, that run."""
        spec = with_input(self.spec, input_data)
        return workflow_executions.create_workflow_execution(
            conn, customer_id=customer_id, agent_id=agent_id, id=id, **spec.parameters()
        )

    def resume(
        self,
        conn: Connection[Any],
        run_id: UUID,
        *,
        customer_id: UUID | None = None,
        heartbeat_timeout: timedelta = timedelta(seconds=60),
        **options: Unpack[RecordOptions],
    ) -> T:
        """Go on with a run, as `resume` does, and return what the function returned."""
        merged: RecordOptions = {**self._options, **options}
        with resume(
            conn,
            run_id,
            customer_id=customer_id,
            heartbeat_timeout=heartbeat_timeout,
            **merged,
        ) as run:
            return self.execute(run)

    def execute(self, run: Run) -> T:
        """Do a run that is open already, such as a claimed one; the caller's block ends it."""
        check_type(self.spec, run)
        result = self._function(run)
        if run.output_data is None:
            run.output_data = result
        return result


def workflow(
    workflow_type: WorkflowType,
    *,
    steps: Iterable[StepName | Callable[..., Any]] = (),
    deadline: timedelta | None = None,
    **options: Unpack[RecordOptions],
) -> Callable[[Callable[[Run], T]], Workflow[T]]:
    """Make a function that takes a `Run` a workflow. Raises InvalidValue where the plan is wrong.

    ```python
    @workflow(WorkflowType.COST_ANALYSIS, steps=[collect_metrics, analyze])
    def cost_analysis(run):
        return analyze(collect_metrics(run.input_data["period"]))


    cost_analysis(conn, customer_id=..., agent_id=..., input_data={"period": "last_30_days"})
    ```

    The other arguments are those of `record_workflow`.
    """
    spec = as_spec(
        None,
        workflow_type=workflow_type,
        steps=steps,
        input_data=None,
        deadline=deadline,
        metadata=None,
    )
    return lambda function: Workflow(function, spec, options)


@contextmanager
def _recording(recorder: Recorder) -> Iterator[Run]:
    """End the run as the block ends."""
    run = Run(recorder)
    backend = cast("SyncBackend", recorder.backend)
    with _terminated_by_sigterm():
        try:
            yield run
        except BaseException as error:
            is_done = False
            try:
                if isinstance(error, Exception) and backend.is_usable:
                    run_now(recorder.end(error))
                    is_done = True
            finally:
                if not is_done:
                    end_now(recorder, backend.session, error)
            raise
        finally:
            backend.close()


def end_now(recorder: Recorder, session: Session, error: BaseException) -> None:
    """End a run that is interrupted, over a connection of its own.

    That in use may be in the middle of a statement, or in what the caller left of a transaction.
    """
    if recorder.backend.is_in_transaction:
        run_now(recorder.end(error))
        return
    backend = SyncBackend(None, session, recorder.options.actor)
    try:
        run_now(replace(recorder, backend=backend).end(error))
    finally:
        backend.close()


@contextmanager
def _alive(recorder: Recorder, run: Run) -> Iterator[None]:
    """Say that the run is alive while the block lasts, then complete it."""
    with bound(current, run), _heartbeats(recorder):
        yield
    run_now(recorder.finish(run.output_data))


@contextmanager
def _heartbeats(recorder: Recorder) -> Iterator[None]:
    """Send heartbeats from a thread, which ends with the block."""
    if recorder.backend.is_in_transaction:  # nobody sees the run yet
        yield
        return
    backend = SyncBackend(None, recorder.backend.session, recorder.options.actor)
    stop = threading.Event()

    async def stopped(seconds: float) -> bool:
        return stop.wait(seconds)

    thread = threading.Thread(
        target=lambda: run_now(keep_alive(recorder, backend, stopped)),
        name=f"heartbeats of run {recorder.id}",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=2)
        if thread.is_alive():
            backend.interrupt()
            thread.join()
        backend.close()


@contextmanager
def _terminated_by_sigterm() -> Iterator[None]:
    """Make an exception of SIGTERM, in the main thread and unless somebody handles it."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def terminate(*_: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
