"""What is recorded of a run: its steps, its end, whatever that was."""

# ruff: noqa: PT012, SIM117 -- the block is what is tested

import asyncio
import functools
import logging
import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from optiinfra_db import connect, connect_async, workflows
from optiinfra_db.errors import (
    InvalidValue,
    NotFound,
    WorkflowCancelled,
    WorkflowInUse,
    WorkflowOver,
    WorkflowTimedOut,
)
from optiinfra_db.generated import workflow_executions, workflow_steps
from optiinfra_db.generated.models import WorkflowStatus, WorkflowType
from optiinfra_db.workflows import StepSpec, WorkflowSpec, aio


class Trouble(Exception):  # noqa: N818
    pass


COST = WorkflowType.COST_ANALYSIS


def plan(made, *steps, **more):
    return {**made.of, "workflow_type": COST, "steps": list(steps), **more}


async def test_a_run_its_steps_and_what_came_of_them_are_recorded(rec, made):
    async with rec.record_workflow(
        **plan(made, "collect", "analyze", input_data={"period": "30d"}, metadata={"by": "cron"})
    ) as run:
        assert (run.customer_id, run.agent_id) == (made.customer_id, made.agent_id)
        assert (run.workflow_type, run.attempt) == (COST, 1)
        assert (run.input_data, run.metadata) == ({"period": "30d"}, {"by": "cron"})
        async with run.step("collect") as step:
            assert (step.name, step.retry_count, step.input_data) == ("collect", 0, {})
            step.output_data = {"metrics": 1247}
        assert run.is_done("collect")
        assert run.output_of("collect") == {"metrics": 1247}
        assert made.steps(run.id) == [("collect", "completed"), ("analyze", "running")]
        async with run.step("analyze"):
            assert not run.is_done("analyze")
        run.output_data = {"savings": 60_000}

    detail = made.detail(run.id)
    assert detail.workflow_execution.status is WorkflowStatus.COMPLETED
    assert detail.workflow_execution.output_data == {"savings": 60_000}
    assert [step.output_data for step in detail.steps] == [{"metrics": 1247}, {}]


async def test_a_boundary_between_steps_is_one_statement(rec, made):
    statements = []
    async with rec.record_workflow(**plan(made, "a", "b", "c")) as run:
        recorder = run._recorder
        query = recorder.backend.query

        def counted(function, *args, **kwargs):
            statements.append(function.__name__)
            return query(function, *args, **kwargs)

        recorder.backend.query = counted
        for name in "abc":
            async with run.step(name):
                pass

    assert statements == ["advance_workflow_step"] * 3 + ["complete_workflow_execution"]


async def test_an_exception_fails_the_step_and_the_run_and_is_raised(rec, made):
    with pytest.raises(OSError, match="no answer") as raised:
        async with rec.record_workflow(**plan(made, "a", "b", "c")) as run:
            async with run.step("a"):
                pass
            async with run.step("b"):
                raise OSError("no answer from https://user:hunter2@billing/")

    assert not hasattr(raised.value, "__notes__")
    assert made.steps() == [("a", "completed"), ("b", "failed"), ("c", "skipped")]
    detail = made.detail(made.runs()[0].id)
    for error in (detail.steps[1].error_details, detail.workflow_execution.error_details):
        assert (error["type"], error["step"]) == ("OSError", "b")
        assert error["message"] == "no answer from https://user:[redacted]@billing/"
        assert "test_recorder.py" in error["traceback"]
        assert "hunter2" not in str(error)
    assert detail.workflow_execution.status is WorkflowStatus.FAILED


async def test_an_exception_between_steps_fails_the_run(rec, made):
    with pytest.raises(ZeroDivisionError):
        async with rec.record_workflow(**plan(made, "a", "b")) as run:
            async with run.step("a"):
                pass
            _ = 1 / 0

    assert made.run().error_details["type"] == "ZeroDivisionError"
    # It was started when the first one ended, and nothing says who should have done it.
    assert made.steps() == [("a", "completed"), ("b", "failed")]


async def test_the_error_of_a_run_is_that_of_its_only_task(rec, made):
    with pytest.raises(ExceptionGroup):
        async with rec.record_workflow(**plan(made, "a")) as run:
            try:
                async with run.step("a"):
                    raise Trouble("x")
            except Trouble as error:
                raise ExceptionGroup("of a TaskGroup", [error]) from None

    assert made.run().error_details["type"] == "Trouble"


async def test_a_failed_step_that_is_caught_does_not_fail_the_run(rec, made):
    async with rec.record_workflow(**plan(made, "a", "b")) as run:
        with pytest.raises(Trouble):
            async with run.step("a"):
                raise Trouble("x")
        async with run.step("b"):
            pass

    assert made.run().status is WorkflowStatus.COMPLETED
    assert made.steps() == [("a", "failed"), ("b", "completed")]


async def test_an_error_that_cannot_be_printed_is_recorded_all_the_same(rec, made):
    class Broken(Exception):  # noqa: N818
        def __str__(self):
            raise RuntimeError("no text")

    for error in (
        Broken(),
        ValueError("a\0b\ud800"),
        ExceptionGroup("many", [Trouble("x"), Trouble("y")]),
    ):
        with pytest.raises(type(error)):
            async with rec.record_workflow(**plan(made, "a")) as run, run.step("a"):
                raise error
        assert made.run().error_details["type"] == type(error).__name__


async def test_what_is_not_done_of_the_plan_is_skipped(rec, made):
    async with rec.record_workflow(**plan(made, "a", "b", "c", "d")) as run:
        async with run.step("a"):
            pass
        await run.skip("b")
        async with run.step("c"):
            pass

    assert [status for _, status in made.steps()] == ["completed", "skipped"] * 2
    assert made.run().status is WorkflowStatus.COMPLETED


async def test_steps_may_be_done_in_another_order_and_added(rec, made):
    async with rec.record_workflow(**plan(made, "a", "b", "c")) as run:
        async with run.step("c"):
            pass
        async with run.step("extra", input_data={"x": 1}) as step:
            assert step.input_data == {"x": 1}
        async with run.step("a"):
            pass
        async with run.step("b"):
            pass
        assert run.step_names == ["a", "b", "c", "extra"]

    assert made.steps() == [(name, "completed") for name in ("a", "b", "c", "extra")]


async def test_a_run_needs_no_plan(rec, made):
    async with rec.record_workflow(**made.of, workflow_type=COST) as run, run.step("whatever"):
        pass
    async with rec.record_workflow(**made.of, workflow_type=COST):
        pass

    assert [row.status for row in made.runs()] == [WorkflowStatus.COMPLETED] * 2
    assert made.steps(run.id) == [("whatever", "completed")]


async def test_a_step_is_not_done_twice(rec, made):
    async with rec.record_workflow(**plan(made, "a", "b")) as run:
        async with run.step("a"):
            with pytest.raises(WorkflowInUse, match="being worked on"):
                async with run.step("a"):
                    pass
        with pytest.raises(WorkflowInUse, match="is completed already"):
            async with run.step("a"):
                pass
        with pytest.raises(WorkflowInUse, match="is completed: it cannot be skipped"):
            await run.skip("a")
        with pytest.raises(WorkflowInUse, match="not in the plan"):
            await run.skip("z")
        with pytest.raises(KeyError):
            run.output_of("b")


@pytest.mark.parametrize("options", [{}, {"actor": "agent"}])
@pytest.mark.parametrize("pause", [0, 0.002])
async def test_steps_may_overlap(rec, made, pause, options):
    """However one starts while another ends, which itself may start the next."""
    names = [f"step {number}" for number in range(12)]
    async with rec.record_workflow(**plan(made, *names), **options) as run:
        if rec.is_async:

            async def work(name):
                async with run.step(name) as step:
                    await asyncio.sleep(random.uniform(0, pause))
                    step.output_data = name

            async with asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(work(name))
        else:

            def work_now(name):
                with run._run.step(name) as step:
                    time.sleep(random.uniform(0, pause))
                    step.output_data = name

            with ThreadPoolExecutor(4) as threads:
                list(threads.map(work_now, names))

    steps = made.detail(run.id).steps
    assert [(step.status, step.output_data) for step in steps] == [
        ("completed", name) for name in names
    ]


def actors(made, run_id):
    entries = workflow_executions.get_workflow_timeline(
        made.conn, customer_id=made.customer_id, id=run_id
    )
    return {entry.actor for entry in entries if entry.actor}


async def test_a_run_may_have_an_actor_of_its_own(rec, made):
    async with rec.record_workflow(**plan(made, "a", "b"), actor="agent", requeue=1) as first:
        async with first.step("a"):
            pass
        await first.skip("b")
    with pytest.raises(KeyError):
        async with rec.record_workflow(**plan(made, "a"), actor="agent") as second:
            async with second.step("a"):
                raise KeyError
    with pytest.raises(KeyboardInterrupt):
        async with rec.record_workflow(**plan(made, "a"), actor="agent") as third:
            async with third.step("a"):
                raise KeyboardInterrupt
    async with rec.resume(second.id, customer_id=made.customer_id, actor="agent") as fourth:
        pass
    for run in (first, second, third, fourth):
        assert actors(made, run.id) == {"agent"}
    assert made.run(third.id).status == "cancelled"


# Retries


async def test_a_step_is_tried_again_after_a_pause(rec, made):
    tried = []

    @rec.step(retries=2, retry_on=OSError, backoff_seconds=0.05)
    async def collect(wanted):
        tried.append(rec.current_step().retry_count)
        if len(tried) < 3:
            raise OSError(f"attempt {len(tried)}")
        return {"wanted": wanted}

    async with rec.record_workflow(**plan(made, "collect", "b")) as run:
        assert await collect(5) == {"wanted": 5}

    assert tried == [0, 1, 2]
    timeline = workflow_executions.get_workflow_timeline(
        made.conn, customer_id=made.customer_id, id=run.id
    )
    assert [row.status for row in timeline].count("retrying") == 2
    assert made.steps() == [("collect", "completed"), ("b", "skipped")]
    assert made.detail(run.id).steps[0].output_data == {"wanted": 5}


async def test_a_step_without_retries_left_fails_the_run(rec, made):
    @rec.step(retries=1, backoff_seconds=0.01)
    async def collect():
        raise OSError("never")

    with pytest.raises(OSError, match="never"):
        async with rec.record_workflow(**plan(made, "collect")):
            await collect()

    (step,) = made.detail(made.runs()[0].id).steps
    assert (step.status, step.retry_count, step.error_details["retryable"]) == ("failed", 1, False)
    assert made.run().error_details["step"] == "collect"


async def test_only_what_is_named_is_tried_again(rec, made):
    tried = []

    @rec.step(retries=3, retry_on=(TimeoutError, ConnectionError), backoff_seconds=0.01)
    async def collect():
        tried.append(1)
        raise ValueError("wrong for ever")

    with pytest.raises(ValueError, match="wrong"):
        async with rec.record_workflow(**plan(made, "collect")):
            await collect()

    assert len(tried) == 1


async def test_a_run_that_fails_goes_back_to_the_queue(rec, made):
    @rec.workflow(COST, steps=["a", "b"], requeue=2)
    async def work(run):
        if not run.is_done("a"):
            async with run.step("a") as step:
                step.output_data = {"n": run.attempt}
        async with run.step("b"):
            raise Trouble("no")

    with pytest.raises(Trouble):
        await work(**made.of)
    for attempt in (2, 3):
        with pytest.raises(Trouble):
            async with rec.claim_workflow(agent_id=made.agent_id, requeue=2) as run:
                assert run.attempt == attempt
                assert run.output_of("a") == {"n": 1}
                await work.execute(run)

    assert [(row.attempt, row.status) for row in made.runs()] == [
        (3, "failed"),
        (2, "failed"),
        (1, "failed"),
    ]
    async with rec.claim_workflow(agent_id=made.agent_id) as run:
        assert run is None


# Functions


async def test_a_workflow_is_a_function_of_functions(rec, made):
    @rec.step
    async def collect(period: str) -> tuple[str, datetime]:
        return period, datetime(2026, 1, 1, tzinfo=UTC)

    @rec.step(name="analyze_costs", retries=7)
    async def analyze(collected) -> dict:
        return {"savings": 60_000, "period": collected[0]}

    @rec.workflow(COST, steps=[collect, analyze], deadline=timedelta(minutes=15))
    async def cost_analysis(run):
        assert rec.current_run().id == run.id
        return await analyze(await collect(run.input_data["period"]))

    output = await cost_analysis(**made.of, input_data={"period": "30d"})

    assert output == {"savings": 60_000, "period": "30d"}
    detail = made.detail(made.runs()[0].id)
    run = detail.workflow_execution
    assert (run.status, run.output_data) == ("completed", output)
    assert run.deadline_at - run.created_at < timedelta(minutes=15, seconds=1)
    assert [step.step_name for step in detail.steps] == ["collect", "analyze_costs"]
    assert detail.steps[0].output_data == ["30d", "2026-01-01T00:00:00Z"]
    assert [step.max_retries for step in detail.steps] == [3, 7]


async def test_a_step_outside_of_a_run_is_a_function(rec):
    @rec.step
    async def double(x):
        return 2 * x

    assert await double(4) == 8
    with pytest.raises(LookupError, match="no run is being recorded"):
        rec.current_run()
    with pytest.raises(LookupError, match="no step is being worked on"):
        rec.current_step()


async def test_a_function_called_again_is_another_step(rec, made):
    called = []

    @rec.step
    async def collect(region):
        called.append(region)
        if region == "fails once" and called.count(region) == 1:
            raise Trouble("x")
        return region

    @rec.workflow(COST)
    async def work(run):
        regions = [await collect(region) for region in ("eu", "us", "fails once", "asia")]
        async with run.step("report"):
            return regions

    with pytest.raises(Trouble):
        await work(**made.of)
    regions = await work.resume(made.runs()[0].id, customer_id=made.customer_id)

    assert regions == ["eu", "us", "fails once", "asia"]
    assert called == ["eu", "us", "fails once", "fails once", "asia"]
    assert [name for name, _ in made.steps()] == [
        "collect",
        "collect#2",
        "collect#3",
        "collect#4",
        "report",
    ]


def test_functions_that_cannot_be_steps_are_refused():
    async def asynchronous():
        pass

    def generator():
        yield 1

    def plain(run):
        pass

    for decorate, function, told in (
        (workflows.step, asynchronous, r"import from optiinfra_db\.workflows\.aio"),
        (workflows.step, generator, "is a generator function"),
        (workflows.workflow(COST), asynchronous, r"optiinfra_db\.workflows\.aio"),
        (aio.step, plain, "is not `async def`"),
        (aio.workflow(COST), plain, "is not `async def`"),
        (workflows.step, functools.partial(plain, 1), "has no name of its own"),
        (workflows.workflow, plain, "takes the type of the run"),
        (workflows.step(retry_on="OSError"), plain, "takes classes of exceptions"),
        (lambda step: workflows.workflow(COST, steps=[step]), plain, "decorate it with @step"),
    ):
        with pytest.raises(TypeError, match=told):
            decorate(function)
    for wrong in ({"retries": -1}, {"backoff_seconds": -1}):
        with pytest.raises(ValueError, match="0 or more"):
            workflows.step(**wrong)(plain)


async def test_what_is_no_json_fails_its_step_by_field(rec, made):
    @rec.step(retries=3)
    async def bad():
        return {"share": float("nan")}

    with pytest.raises(InvalidValue, match=r"output_data\.share: is nan") as raised:
        async with rec.record_workflow(**plan(made, "bad")):
            await bad()
    assert raised.value.field == "output_data.share"
    assert made.steps() == [("bad", "failed")]

    looped = {}
    looped["again"] = looped
    for output in ({"x": object()}, {"n": "a\0b"}, looped):
        with pytest.raises(InvalidValue, match=r"^output_data"):
            async with rec.record_workflow(**plan(made, "a")) as run:
                async with run.step("a") as step:
                    step.output_data = output
        assert made.steps() == [("a", "failed")]

    with pytest.raises(InvalidValue, match=r"^output_data"):
        async with rec.record_workflow(**plan(made)) as run:
            run.output_data = {"x": float("inf")}
    assert made.run().status is WorkflowStatus.FAILED


# Plans


async def test_a_plan_may_be_a_spec(rec, made):
    spec = WorkflowSpec(
        workflow_type=COST,
        steps=[StepSpec(name="a", input_data={"x": 1}, retries=0), "b"],
        input_data={"period": "30d"},
        deadline=timedelta(hours=1),
    )
    async with rec.record_workflow(**made.of, spec=spec) as run, run.step("a") as step:
        assert step.input_data == {"x": 1}

    steps = made.detail(run.id).steps
    assert [(step.step_name, step.max_retries) for step in steps] == [("a", 0), ("b", 3)]
    assert made.run().deadline_at is not None
    with pytest.raises(TypeError, match="spec, or"):
        async with rec.record_workflow(**plan(made, "a"), spec=spec):
            pass


@pytest.mark.parametrize(
    ("wrong", "error", "told"),
    [
        ({"steps": ["a", "a"]}, InvalidValue, "steps"),
        ({"steps": [""]}, InvalidValue, "steps"),
        ({"steps": "abc"}, InvalidValue, "steps"),
        ({"steps": [7]}, InvalidValue, "steps"),
        ({"workflow_type": "cooking"}, InvalidValue, "workflow_type"),
        ({"workflow_type": None}, InvalidValue, "workflow_type"),
        ({"input_data": {"x": float("nan")}}, InvalidValue, "input_data"),
        ({"metadata": {"x": "a\0"}}, InvalidValue, "metadata"),
        ({"deadline": timedelta(0)}, InvalidValue, "deadline"),
        ({"agent_id": uuid4()}, NotFound, "agents"),
        ({"customer_id": uuid4()}, NotFound, "customers"),
        ({"heartbeat_seconds": 0}, ValueError, "heartbeat_seconds"),
        ({"hartbeat_seconds": 1}, TypeError, "hartbeat_seconds"),
    ],
)
async def test_a_wrong_plan_is_refused_and_nothing_is_written(rec, made, wrong, error, told):
    with pytest.raises(error, match=told):
        async with rec.record_workflow(**plan(made, "a") | wrong):
            pytest.fail("the block was entered")

    assert made.runs() == []
    assert rec.conn.info.transaction_status.name == "IDLE"


async def test_an_id_that_is_taken_is_refused_and_the_run_stays(rec, made):
    async with rec.record_workflow(**plan(made, "a")) as run:
        with pytest.raises(WorkflowInUse, match="already, which is running"):
            async with rec.record_workflow(**plan(made, "a"), id=run.id):
                pass
        assert made.run(run.id).status is WorkflowStatus.RUNNING
    with pytest.raises(WorkflowInUse, match="already, which is completed"):
        async with rec.record_workflow(**plan(made, "a"), id=run.id):
            pass


async def test_a_worker_cannot_claim_a_run_that_is_being_recorded(rec, made):
    claimed = []
    stop = asyncio.Event()

    async def work():
        with connect(made.url) as conn:
            while not stop.is_set():
                row = workflow_executions.claim_workflow_execution(conn, agent_id=made.agent_id)
                claimed.append(row)
                await asyncio.sleep(0)

    worker = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    for _ in range(20):
        async with rec.record_workflow(**plan(made, "a")):
            await asyncio.sleep(0)
    stop.set()
    await worker

    assert len(claimed) > 20
    assert set(claimed) == {None}


# Whoever else writes


async def test_a_cancel_from_elsewhere_is_raised_at_the_end_of_the_step(rec, made):
    with pytest.raises(WorkflowCancelled, match="was cancelled: too dear") as raised:
        async with rec.record_workflow(**plan(made, "a", "b")) as run:
            async with run.step("a"):
                made.cancel(run.id)
            pytest.fail("it went on")

    assert raised.value.run.id == run.id
    assert made.run().status is WorkflowStatus.CANCELLED
    assert made.steps() == [("a", "failed"), ("b", "skipped")]


async def test_a_heartbeat_finds_that_the_run_is_over(rec, made):
    with pytest.raises(WorkflowCancelled):
        async with rec.record_workflow(**plan(made, "a", "b"), heartbeat_seconds=0.02) as run:
            async with run.step("a"):
                made.cancel(run.id)
                for _ in range(500):
                    await run.check()
                    await rec.sleep(0.01)
                pytest.fail("no heartbeat came")


async def test_an_exception_in_a_run_that_was_cancelled_stays_what_it_was(rec, made):
    with pytest.raises(OSError, match="mine"):
        async with rec.record_workflow(**plan(made, "a")) as run, run.step("a"):
            made.cancel(run.id)
            raise OSError("mine")

    assert made.run().status is WorkflowStatus.CANCELLED


async def test_a_deadline_times_the_run_out_while_a_step_runs(rec, made):
    with pytest.raises(WorkflowTimedOut, match="not over by its deadline"):
        async with (
            rec.record_workflow(**plan(made, "a", "b"), deadline=timedelta(seconds=0.1)) as run,
            run.step("a"),
        ):
            for _ in range(500):
                if made.run(run.id).status is WorkflowStatus.TIMEOUT:
                    break
                await rec.sleep(0.01)

    run = made.run()
    assert (run.status, run.error_details["type"]) == ("timeout", "DeadlineExceeded")
    assert made.steps() == [("a", "failed"), ("b", "skipped")]


async def test_a_deadline_ends_the_wait_for_a_retry(rec, made):
    @rec.step(retries=3, backoff_seconds=3600)
    async def never():
        raise Trouble("x")

    with pytest.raises(WorkflowTimedOut):
        async with rec.record_workflow(**plan(made, "never"), deadline=timedelta(seconds=0.2)):
            await never()


async def test_a_run_says_that_it_is_alive(rec, made):
    async with rec.record_workflow(**plan(made, "a"), heartbeat_seconds=0.02) as run:
        first = made.run(run.id).heartbeat_at
        for _ in range(500):
            if made.run(run.id).heartbeat_at > first:
                break
            await rec.sleep(0.01)
        else:
            pytest.fail("no heartbeat came")


@pytest.mark.parametrize("way", ["goes on", "raises", "is interrupted", "in a group"])
async def test_an_executor_that_was_replaced_stops_and_does_no_harm(rec, made, way):
    """Whatever it does: its run is over, and its successor's is another one."""

    class Interrupted(BaseException):
        pass

    errors = {"raises": Trouble("x"), "is interrupted": Interrupted()}
    with pytest.raises((WorkflowOver, Trouble, Interrupted, ExceptionGroup)):
        async with rec.record_workflow(**plan(made, "a", "b")) as run:
            async with run.step("a"):
                pass
            with connect(made.url) as conn:
                resumed = {"customer_id": made.customer_id, "heartbeat_timeout": timedelta(0)}
                successor = workflows.resume(conn, run.id, **resumed)
                other = successor.__enter__()
                try:
                    if way in errors:
                        raise errors[way]
                    async with run.step("b"):
                        pass
                except WorkflowOver as over:
                    if way == "in a group":
                        raise ExceptionGroup("of tasks", [over]) from None
                    raise
                finally:
                    with other.step("b"):
                        pass
                    successor.__exit__(None, None, None)

    assert [(row.attempt, row.status) for row in made.runs()] == [(2, "completed"), (1, "failed")]
    assert made.run(run.id).error_details["type"] == "ExecutorLost"
    assert made.steps(other.id) == [("a", "skipped"), ("b", "completed")]


async def test_a_run_that_was_cancelled_does_not_come_back(rec, made):
    with pytest.raises(Trouble):
        async with rec.record_workflow(**plan(made, "a"), requeue=3) as run, run.step("a"):
            made.cancel(run.id)
            raise Trouble("x")
    assert [row.status for row in made.runs()] == [WorkflowStatus.CANCELLED]


async def test_the_end_of_an_inner_run_is_an_error_of_the_outer(rec, made):
    with pytest.raises(WorkflowCancelled):
        async with rec.record_workflow(**plan(made, "outer")) as outer, outer.step("outer"):
            async with rec.record_workflow(**plan(made, "inner")) as inner, inner.step("inner"):
                made.cancel(inner.id)

    assert made.run(inner.id).status is WorkflowStatus.CANCELLED
    assert made.run(outer.id).error_details["type"] == "WorkflowCancelled"


async def test_only_one_of_two_resumes_gets_the_run(rec, made):
    crashed = made.planned("a")
    workflow_executions.start_workflow_execution(
        made.conn, customer_id=made.customer_id, id=crashed.id
    )
    resumed = {"customer_id": made.customer_id, "heartbeat_timeout": timedelta(0)}

    async with rec.resume(crashed.id, **resumed) as run:
        with (
            connect(made.url) as conn,
            pytest.raises(WorkflowInUse, match="somebody else goes on with it"),
            workflows.resume(conn, crashed.id, **resumed),
        ):
            pytest.fail("both have it")
        async with run.step("a"):
            pass
    assert made.run(run.id).status is WorkflowStatus.COMPLETED


async def test_a_step_that_is_given_up_has_failed(rec, made):
    if not rec.is_async:
        pytest.skip("only a task is cancelled")
    async with rec.record_workflow(**plan(made, "slow", "b")) as run:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02), run.step("slow"):
                await asyncio.sleep(5)
        async with run.step("b"):
            pass
    assert made.steps() == [("slow", "failed"), ("b", "completed")]


async def test_a_transaction_that_the_caller_forgot_keeps_no_run_open(rec, made):
    with pytest.raises(psycopg.Error):
        async with rec.record_workflow(**plan(made, "a")) as run, run.step("a"):
            for statement in ("BEGIN", "SELECT 1/0"):
                if rec.is_async:
                    await run.conn.execute(statement)
                else:
                    run.conn.execute(statement)
    assert made.run().error_details["type"] == "DivisionByZero"


# What beginners do


async def test_a_connection_of_the_other_kind_is_refused(made):
    async with await connect_async(made.url) as conn:
        with (
            pytest.raises(TypeError, match=r"optiinfra_db\.workflows\.aio"),
            workflows.record_workflow(conn, **plan(made, "a")),
        ):
            pass
    with pytest.raises(TypeError, match=r"pool\.connection"):
        async with aio.record_workflow(made.conn, **plan(made, "a")):
            pass
    assert made.runs() == []


async def test_a_misspelt_attribute_is_refused(rec, made):
    async with rec.record_workflow(**plan(made, "a")) as run, run.step("a") as step:
        for block in (getattr(run, "_run", run), step):
            with pytest.raises(AttributeError):
                block.output = 1


async def test_a_step_that_is_not_in_the_plan_is_said_to_be_added(rec, made, caplog):
    async with rec.record_workflow(**plan(made, "collect")) as run, run.step("colect"):
        pass
    assert "step colect is not in the plan" in caplog.text


async def test_a_workflow_refuses_a_run_of_another_type(rec, made):
    @rec.workflow(WorkflowType.HEALTH_CHECK)
    async def check(run):
        pytest.fail("it was called")

    with pytest.raises(ValueError, match="is a cost_analysis, and this workflow does health_check"):
        async with rec.record_workflow(**plan(made)) as run:
            await check.execute(run)


async def test_what_does_not_fit_the_annotation_any_more_is_told_with_its_step(rec, made):
    @rec.step
    async def count() -> int:
        return "many"

    @rec.workflow(COST)
    async def work(run):
        await count()
        raise Trouble("x")

    with pytest.raises(Trouble):
        await work(**made.of)
    with pytest.raises(InvalidValue, match="step count: what it returned before"):
        await work.resume(made.runs()[0].id, customer_id=made.customer_id)


# Claim and resume


async def test_a_workflow_is_put_into_the_queue(rec, made):
    @rec.step
    async def double(n: int) -> int:
        return 2 * n

    @rec.workflow(COST, steps=[double], deadline=timedelta(hours=1))
    async def work(run):
        return await double(run.input_data["n"])

    run = await work.enqueue(**made.of, input_data={"n": 4})
    assert (await work.enqueue(**made.of, id=run.id)).id == run.id
    assert (run.status, run.input_data, len(made.runs())) == ("pending", {"n": 4}, 1)

    async with rec.claim_workflow(agent_id=made.agent_id) as claimed:
        assert await work.execute(claimed) == 8
    assert made.run(run.id).output_data == 8


async def test_a_worker_claims_the_oldest_run(rec, made):
    first, second = made.planned("a", "b", input_data={"n": 1}), made.planned("a")

    async with rec.claim_workflow(agent_id=made.agent_id) as run:
        assert (run.id, run.customer_id, run.input_data) == (first.id, made.customer_id, {"n": 1})
        for name in run.step_names:
            async with run.step(name):
                pass
    with pytest.raises(Trouble):
        async with rec.claim_workflow(agent_id=made.agent_id) as run:
            raise Trouble("x")

    assert made.run(first.id).status is WorkflowStatus.COMPLETED
    assert made.run(second.id).status is WorkflowStatus.FAILED
    async with rec.claim_workflow(agent_id=made.agent_id) as run:
        assert run is None


async def test_a_crashed_run_goes_on_from_its_first_open_step(rec, made):
    done = []

    @rec.step
    async def collect() -> list[int]:
        done.append("collect")
        return [1, 2]

    @rec.step
    async def analyze(values):
        done.append("analyze")
        return sum(values)

    @rec.workflow(COST, steps=[collect, analyze, "report"])
    async def work(run):
        total = await analyze(await collect())
        async with run.step("report"):
            return total

    crashed = made.planned("collect", "analyze", "report")
    key = {"customer_id": made.customer_id, "id": crashed.id}
    first = workflow_executions.begin_workflow_execution(made.conn, **key)
    workflow_steps.advance_workflow_step(
        made.conn,
        customer_id=made.customer_id,
        workflow_execution_id=crashed.id,
        id=first.id,
        retry_count=0,
        output_data=[1, 2],
    )

    with pytest.raises(WorkflowInUse, match="sign of life"):
        await work.resume(crashed.id, customer_id=made.customer_id)
    resumed = {"customer_id": made.customer_id, "heartbeat_timeout": timedelta(0)}
    assert await work.resume(crashed.id, **resumed) == 3

    assert done == ["analyze"]
    detail = made.detail(crashed.id)
    assert detail.workflow_execution.error_details["type"] == "ExecutorLost"
    assert [step.status for step in detail.steps] == ["completed", "failed", "skipped"]
    again = made.runs()[0]
    assert (again.attempt, again.retried_from_id) == (2, crashed.id)
    assert [status for _, status in made.steps(again.id)] == ["skipped", "completed", "completed"]
    assert made.run(again.id).output_data == 3
    crashed = again
    with pytest.raises(WorkflowInUse, match="completed: there is nothing to go on with"):
        await work.resume(crashed.id, **resumed)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_what_ended_badly_is_resumed_as_its_retry(rec, made, end):
    with pytest.raises(Trouble):
        async with rec.record_workflow(**plan(made, "a", "b")) as run:
            async with run.step("a") as step:
                step.output_data = 7
            async with run.step("b"):
                if end == "cancelled":
                    made.cancel(run.id)
                raise Trouble("x")

    async with rec.resume(run.id, customer_id=made.customer_id) as again:
        assert (again.attempt, again.output_of("a")) == (2, 7)
        assert again.id != run.id
        async with again.step("b"):
            pass

    assert made.run(again.id).status is WorkflowStatus.COMPLETED
    assert made.run(again.id).retried_from_id == run.id
    with pytest.raises(WorkflowInUse, match="is completed: somebody else"):
        async with rec.resume(run.id, customer_id=made.customer_id):
            pass


async def test_a_pending_run_can_be_resumed(rec, made):
    planned = made.planned("a")
    async with rec.resume(planned.id, customer_id=made.customer_id) as run, run.step("a"):
        pass
    assert made.run(planned.id).status is WorkflowStatus.COMPLETED


async def test_a_run_is_resumed_for_the_customer_of_the_connection(rec, made):
    planned = made.planned("a")
    with pytest.raises(InvalidValue, match="whose run is it"):
        async with rec.resume(planned.id):
            pass
    setting = f"SET optiinfra.customer_id = '{made.customer_id}'"
    await rec.conn.execute(setting) if rec.is_async else rec.conn.execute(setting)
    async with rec.resume(planned.id):
        pass
    assert made.run(planned.id).status is WorkflowStatus.COMPLETED


async def test_a_run_that_is_not_there_cannot_be_resumed(rec, made):
    other = made.planned("a")
    for run_id, customer_id in ((uuid4(), made.customer_id), (other.id, uuid4())):
        with pytest.raises(InvalidValue, match="has no run"):
            async with rec.resume(run_id, customer_id=customer_id):
                pass
    assert made.run(other.id).status is WorkflowStatus.PENDING


# In a transaction of the caller's


async def test_a_run_may_be_part_of_a_transaction(rec, made):
    if rec.is_async:
        await rec.conn.set_autocommit(False)
    else:
        rec.conn.autocommit = False
    async with rec.record_workflow(**plan(made, "a"), heartbeat_seconds=0.001) as run:
        async with run.step("a"):
            await rec.sleep(0.05)
        assert made.runs() == []
    if rec.is_async:
        await rec.conn.rollback()
    else:
        rec.conn.rollback()
    assert made.runs() == []


async def test_in_a_transaction_where_time_stands_still_retries_do_not_wait(rec, made):
    called = []

    @rec.step(retries=2, backoff_seconds=3600)
    async def collect():
        called.append(1)
        if len(called) < 3:
            raise Trouble("x")

    if rec.is_async:
        await rec.conn.set_autocommit(False)
    else:
        rec.conn.autocommit = False
    async with rec.record_workflow(**plan(made, "collect")):
        await collect()
    assert len(called) == 3


# Logging and telemetry


async def test_what_happens_is_logged_with_its_ids(rec, made, caplog):
    caplog.set_level(logging.INFO, "optiinfra_db.workflows")
    with pytest.raises(Trouble):
        async with rec.record_workflow(**plan(made, "a")) as run, run.step("a"):
            raise Trouble("password=hunter2")

    records = [record for record in caplog.records if record.name == "optiinfra_db.workflows"]
    assert [record.event for record in records] == [
        "started",
        "step_started",
        "step_failed",
        "failed",
    ]
    assert {record.workflow_execution_id for record in records} == {str(run.id)}
    assert {record.customer_id for record in records} == {str(made.customer_id)}
    assert records[1].step_name == "a"
    assert "hunter2" not in caplog.text
    assert str(run.id) in caplog.text


async def test_the_trace_is_in_the_metadata_of_the_run(rec, made):
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("agent")
    with tracer.start_as_current_span("work") as span:
        async with rec.record_workflow(**plan(made, metadata={"by": "cron"})) as run:
            pass

    assert run.metadata == {"by": "cron", "trace_id": f"{span.get_span_context().trace_id:032x}"}
