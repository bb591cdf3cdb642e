"""The two recorders under one set of tests: `rec` is asynchronous in form, and either in fact."""

import functools
from contextlib import asynccontextmanager

import pytest

from optiinfra_db import connect, connect_async, workflows
from optiinfra_db.generated import agents, customers, workflow_executions
from optiinfra_db.generated.models import AgentType, WorkflowType
from optiinfra_db.workflows import aio
from optiinfra_db.workflows._recorder import run_now


class Made:
    """A customer and an agent, and a connection beside the recorder's to look with."""

    def __init__(self, conn, url):
        self.conn, self.url = conn, url
        self.customer_id = customers.create_customer(
            conn, name="Atlas", email="ops@atlas.example", api_key_hash=b"\1" * 32
        ).id
        self.agent_id = agents.upsert_agent(
            conn, type=AgentType.COST, name="cost-1", version="1"
        ).id

    @property
    def of(self):
        return {"customer_id": self.customer_id, "agent_id": self.agent_id}

    def detail(self, run_id):
        return workflow_executions.get_workflow_detail(
            self.conn, customer_id=self.customer_id, id=run_id
        )

    def run(self, run_id=None):
        """Return a run, the newest one unless its id is given."""
        if run_id is None:
            run_id = self.runs()[0].id
        return workflow_executions.get_workflow_execution(
            self.conn, customer_id=self.customer_id, id=run_id
        )

    def runs(self):
        return workflow_executions.list_workflow_executions(
            self.conn, customer_id=self.customer_id, max_rows=100
        )

    def steps(self, run_id=None):
        """Return name and status of the steps of a run."""
        steps = self.detail(run_id or self.runs()[0].id).steps
        return [(step.step_name, str(step.status)) for step in steps]

    def cancel(self, run_id=None, reason="too dear"):
        return workflow_executions.cancel_workflow_execution(
            self.conn,
            customer_id=self.customer_id,
            id=run_id or self.runs()[0].id,
            reason=reason,
        )

    def planned(self, *names, **columns):
        """Create a run that waits for a worker."""
        return workflow_executions.create_workflow_execution(
            self.conn,
            **self.of,
            workflow_type=WorkflowType.COST_ANALYSIS,
            step_names=list(names),
            **columns,
        )


@pytest.fixture
def made(database_url):
    with connect(database_url, actor="tester") as conn:
        yield Made(conn, database_url)


class SyncAsAsync:
    """The synchronous recorder, in the form of the asynchronous one."""

    is_async = False

    def __init__(self, conn):
        self.conn = conn

    def record_workflow(self, *args, **kwargs):
        return _entered(workflows.record_workflow(self.conn, *args, **kwargs))

    def resume(self, *args, **kwargs):
        return _entered(workflows.resume(self.conn, *args, **kwargs))

    def claim_workflow(self, *args, **kwargs):
        return _entered(workflows.claim_workflow(self.conn, *args, **kwargs))

    def step(self, function=None, **kwargs):
        if function is None:
            return functools.partial(self.step, **kwargs)

        @functools.wraps(function)
        def plain(*args, **more):
            return run_now(function(*args, **more))

        recorded = (
            workflows.step(plain, **kwargs) if not kwargs else workflows.step(**kwargs)(plain)
        )

        @functools.wraps(recorded)
        async def awaited(*args, **more):
            return recorded(*args, **more)

        return awaited

    def workflow(self, *args, **kwargs):
        def decorate(function):
            made = workflows.workflow(*args, **kwargs)(lambda run: run_now(function(_SyncRun(run))))
            return _SyncWorkflow(self, made)

        return decorate

    def current_run(self):
        return workflows.current_run()

    def current_step(self):
        return workflows.current_step()

    async def sleep(self, seconds):
        import time

        time.sleep(seconds)


class _SyncWorkflow:
    def __init__(self, rec, made):
        self._rec, self._made = rec, made

    async def __call__(self, **kwargs):
        return self._made(self._rec.conn, **kwargs)

    async def resume(self, *args, **kwargs):
        return self._made.resume(self._rec.conn, *args, **kwargs)

    async def enqueue(self, **kwargs):
        return self._made.enqueue(self._rec.conn, **kwargs)

    async def execute(self, run):
        return self._made.execute(run._run)


class _SyncRun:
    def __init__(self, run):
        object.__setattr__(self, "_run", run)

    def __getattr__(self, name):
        return getattr(self._run, name)

    def __setattr__(self, name, value):
        setattr(self._run, name, value)

    def step(self, *args, **kwargs):
        return _entered(self._run.step(*args, **kwargs))

    async def skip(self, name):
        self._run.skip(name)

    async def check(self):
        self._run.check()

    async def artifact(self, *args, **kwargs):
        return self._run.artifact(*args, **kwargs)


@asynccontextmanager
async def _entered(block):
    with block as entered:
        yield _SyncRun(entered) if isinstance(entered, workflows.Run) else entered


class Async:
    """The asynchronous recorder, with its connection."""

    is_async = True

    def __init__(self, conn):
        self.conn = conn

    def record_workflow(self, *args, **kwargs):
        return aio.record_workflow(self.conn, *args, **kwargs)

    def resume(self, *args, **kwargs):
        return aio.resume(self.conn, *args, **kwargs)

    def claim_workflow(self, *args, **kwargs):
        return aio.claim_workflow(self.conn, *args, **kwargs)

    def step(self, *args, **kwargs):
        return aio.step(*args, **kwargs)

    def workflow(self, *args, **kwargs):
        return lambda function: _AsyncWorkflow(self, aio.workflow(*args, **kwargs)(function))

    def current_run(self):
        return aio.current_run()

    def current_step(self):
        return aio.current_step()

    async def sleep(self, seconds):
        import asyncio

        await asyncio.sleep(seconds)


class _AsyncWorkflow:
    def __init__(self, rec, made):
        self._rec, self._made = rec, made

    async def __call__(self, **kwargs):
        return await self._made(self._rec.conn, **kwargs)

    async def resume(self, *args, **kwargs):
        return await self._made.resume(self._rec.conn, *args, **kwargs)

    async def enqueue(self, **kwargs):
        return await self._made.enqueue(self._rec.conn, **kwargs)

    async def execute(self, run):
        return await self._made.execute(run)


@asynccontextmanager
async def recorder(kind, url):
    if kind == "sync":
        with connect(url, actor="cost-agent") as conn:
            yield SyncAsAsync(conn)
    else:
        async with await connect_async(url, actor="cost-agent") as conn:
            yield Async(conn)


@pytest.fixture(params=["sync", "async"])
async def rec(request, database_url):
    async with recorder(request.param, database_url) as rec:
        yield rec
