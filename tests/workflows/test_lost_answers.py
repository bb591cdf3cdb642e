"""Each answer of the database gets lost once, when its statement has taken effect."""

from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest

from optiinfra_db import connect, connect_async
from optiinfra_db.errors import ConnectionLost
from optiinfra_db.generated import workflow_executions
from optiinfra_db.generated.models import ArtifactType, WorkflowStatus, WorkflowType
from optiinfra_db.workflows import _backends


@pytest.fixture
def losing(monkeypatch):
    """Lose the connection after the statement of that number; return how many there were."""
    state = {"count": 0, "lose": 0}

    def after(backend):
        state["count"] += 1
        if state["count"] == state["lose"]:
            raise ConnectionLost("the answer got lost")

    for backend in (_backends.SyncBackend, _backends.AsyncBackend):

        async def query(self, function, *args, _ask=backend.query, **kwargs):
            answer = await _ask(self, function, *args, **kwargs)
            try:
                after(self)
            except ConnectionLost:
                closing = self.conn.close()
                if closing is not None:
                    await closing
                raise
            return answer

        monkeypatch.setattr(backend, "query", query)

    def lose(number):
        state.update(count=0, lose=number)
        return state

    return lose


@pytest.fixture
async def stack():
    async with AsyncExitStack() as stack:
        yield stack


async def work(rec, run, tmp_path):
    """Do a run in all ways that there are; what was done of it already is left out."""
    called = []

    @rec.step(retries=2, backoff_seconds=0)
    async def flaky():
        called.append(1)
        if len(called) == 1:
            raise OSError("x")
        return {"n": 7}

    assert await flaky() == {"n": 7}
    if not run.is_done("plain"):
        async with run.step("plain") as step:
            await run.artifact(ArtifactType.LOG, "a", data=b"1", step=step)
    await run.skip("left out")
    async with run.step("added"):
        pass
    run.output_data = {"done": True}


@pytest.mark.parametrize("way", ["record", "resume pending", "resume running", "resume failed"])
async def test_a_lost_answer_changes_nothing(  # noqa: PLR0917
    rec, made, losing, stack, tmp_path, way
):
    plan = {
        **made.of,
        "workflow_type": WorkflowType.COST_ANALYSIS,
        "steps": ["flaky", "plain", "left out"],
    }
    options = {"store": tmp_path, "give_up_seconds": 5}
    number, whole = 0, None
    while True:
        original = rec.conn
        key = {"customer_id": made.customer_id}
        if way != "record":
            begun = made.planned(*plan["steps"])
            key["id"] = begun.id
            if way != "resume pending":
                workflow_executions.begin_workflow_execution(made.conn, **key)
            if way == "resume failed":
                workflow_executions.fail_workflow_execution(
                    made.conn, **key, attempt=1, error_details={"message": "x"}
                )
        state = losing(number)
        if way == "record":
            block = rec.record_workflow(**plan, **options)
        else:
            block = rec.resume(
                begun.id,
                customer_id=made.customer_id,
                heartbeat_timeout=timedelta(0),
                **options,
            )
        async with block as run:
            await work(rec, run, tmp_path)
        statements = state["count"]

        detail = made.detail(run.id)
        assert detail.workflow_execution.status is WorkflowStatus.COMPLETED
        found = [(step.step_name, step.status, step.retry_count) for step in detail.steps]
        assert len(detail.artifacts) == 1
        assert len(made.runs()) == (1 if way in ("record", "resume pending") else 2)
        whole = whole or found
        assert found == whole, f"answer {number} of {statements}"
        for row in made.runs():
            workflow_executions.delete_workflow_execution(
                made.conn, customer_id=made.customer_id, id=row.id
            )
        if original.closed:
            rec.conn = await stack.enter_async_context(connected(rec, made))
        number += 1
        if number > statements:
            return


@asynccontextmanager
async def connected(rec, made):
    """Open another connection for the recorder."""
    if rec.is_async:
        async with await connect_async(made.url) as conn:
            yield conn
    else:
        with connect(made.url) as conn:
            yield conn


async def test_a_lost_claim_is_told_and_its_run_is_not_lost(rec, made, losing):
    made.planned("a")
    losing(1)
    with pytest.raises(ConnectionLost):
        async with rec.claim_workflow(agent_id=made.agent_id):
            pytest.fail("it has a run")
    assert made.run().status is WorkflowStatus.PENDING
