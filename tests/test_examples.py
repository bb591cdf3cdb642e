"""The examples, run as programs, and what a reader copies out of them."""

import asyncio
import operator
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.types import Command, RetryPolicy, Send, interrupt
from pydantic import BaseModel, SecretStr

from examples import langgraph_agent
from examples.langgraph_agent import MAX_PAYLOAD, AsyncStepRecorder, StepRecorder, as_json
from optiinfra_db import connect, connect_async, workflows
from optiinfra_db.errors import WorkflowCancelled
from optiinfra_db.generated import workflow_artifacts, workflow_executions
from optiinfra_db.generated.models import ArtifactType, WorkflowStatus, WorkflowType
from optiinfra_db.seed import ATLAS, COST, INDIE, NIMBUS, seed
from optiinfra_db.workflows import aio

EXAMPLES = Path(__file__).parents[1] / "examples"


class Trouble(Exception):  # noqa: N818
    pass


class State(TypedDict, total=False):
    done: Annotated[list[str], operator.add]
    rounds: int
    messages: Annotated[list[Any], add_messages]


def node(name, **more):
    """Make a node that says that it was there."""

    def work(state):
        return {"done": [name], **more}

    return work


def build(*edges, **nodes):
    """Make a graph that is not compiled yet; the nodes in a row where no edges are given."""
    graph = StateGraph(State)
    for name, function in nodes.items():
        graph.add_node(name, function)
    names = [START, *nodes, END]
    for start, end in edges or pairwise(names):
        graph.add_edge(start, end)
    return graph


@pytest.fixture
def seeded(database_url):
    """Open a connection to look with, to a database with the sample data."""
    with connect(database_url) as conn:
        seed(conn)
        yield conn


def newest_run(conn, customer_id=ATLAS):
    """Return the newest run of a customer, with its steps."""
    (run,) = workflow_executions.list_workflow_executions(conn, customer_id=customer_id, max_rows=1)
    return workflow_executions.get_workflow_detail(conn, customer_id=customer_id, id=run.id)


class SyncGraphs:
    """Runs graphs by `invoke` and `stream`, each recorded as a run."""

    def __init__(self, url):
        self.url = url

    @asynccontextmanager
    async def recording(self, **more):
        with (
            connect(self.url) as conn,
            workflows.record_workflow(conn, **PLAN, **more) as run,
        ):
            yield run, {"callbacks": [StepRecorder(run)], "configurable": {"thread_id": "1"}}

    @asynccontextmanager
    async def resuming(self, run_id):
        with (
            connect(self.url) as conn,
            workflows.resume(conn, run_id, customer_id=ATLAS) as run,
        ):
            yield run, {"callbacks": [StepRecorder(run)], "configurable": {"thread_id": "1"}}

    async def invoke(self, graph, given, config):
        return graph.invoke(given, config)

    async def stream(self, graph, given, config, **how):
        return list(graph.stream(given, config, **how))


class AsyncGraphs:
    """Runs graphs by `ainvoke` and `astream`, each recorded as a run."""

    def __init__(self, url):
        self.url = url

    @asynccontextmanager
    async def recording(self, **more):
        async with (
            await connect_async(self.url) as conn,
            aio.record_workflow(conn, **PLAN, **more) as run,
        ):
            yield run, {"callbacks": [AsyncStepRecorder(run)], "configurable": {"thread_id": "1"}}

    @asynccontextmanager
    async def resuming(self, run_id):
        async with (
            await connect_async(self.url) as conn,
            aio.resume(conn, run_id, customer_id=ATLAS) as run,
        ):
            yield run, {"callbacks": [AsyncStepRecorder(run)], "configurable": {"thread_id": "1"}}

    async def invoke(self, graph, given, config):
        return await graph.ainvoke(given, config)

    async def stream(self, graph, given, config, **how):
        return [part async for part in graph.astream(given, config, **how)]


PLAN = {
    "customer_id": ATLAS,
    "agent_id": COST,
    "workflow_type": WorkflowType.COST_ANALYSIS,
}


@pytest.fixture(params=[SyncGraphs, AsyncGraphs], ids=["sync", "async"])
def graphs(request, seeded, database_url):
    return request.param(database_url)


async def recorded(graphs, seeded, graph, given=None):
    """Run a graph from its start, and return what was recorded."""
    async with graphs.recording() as (_, config):
        await graphs.invoke(graph, {"done": []} if given is None else given, config)
    return newest_run(seeded)


def told(detail):
    return [(step.step_name, str(step.status)) for step in detail.steps]


# Which steps there are


async def test_each_node_is_a_step_with_its_input_and_output(graphs, seeded):
    graph = build(collect=node("collect", rounds=1), analyze=node("analyze")).compile()

    detail = await recorded(graphs, seeded, graph)

    assert detail.workflow_execution.status is WorkflowStatus.COMPLETED
    assert told(detail) == [("collect", "completed"), ("analyze", "completed")]
    collect, analyze = detail.steps
    assert collect.input_data == {"done": [], "messages": []}
    assert collect.output_data == {"done": ["collect"], "rounds": 1}
    assert analyze.input_data == {"done": ["collect"], "rounds": 1, "messages": []}
    assert collect.completed_at <= analyze.started_at


async def test_a_node_that_runs_again_is_another_step(graphs, seeded):
    graph = build((START, "collect"), collect=lambda s: {"rounds": s.get("rounds", 0) + 1})
    graph.add_conditional_edges("collect", lambda s: "collect" if s["rounds"] < 3 else END)

    detail = await recorded(graphs, seeded, graph.compile())

    assert [step.step_name for step in detail.steps] == ["collect", "collect#2", "collect#3"]
    assert [step.output_data for step in detail.steps] == [{"rounds": n} for n in (1, 2, 3)]


async def test_parallel_nodes_are_steps_that_overlap(graphs, seeded):
    barrier = threading.Barrier(4, timeout=10)

    def wait(_):
        barrier.wait()

    async def await_(_):
        await asyncio.to_thread(barrier.wait)

    names = "abcd"
    parallel = {name: RunnableLambda(wait, afunc=await_) for name in names}
    edges = [edge for name in names for edge in ((START, name), (name, "join"))]
    graph = build(*edges, **parallel, join=node("join")).compile()

    detail = await recorded(graphs, seeded, graph)

    *steps, join = detail.steps
    assert sorted(step.step_name for step in steps) == list(names)
    assert max(step.started_at for step in steps) < min(step.completed_at for step in steps)
    assert (join.step_name, str(join.status)) == ("join", "completed")


async def test_what_is_sent_to_one_node_many_times_is_as_many_steps(graphs, seeded):
    graph = build(("work", END), work=lambda n: {"done": [n]})
    graph.add_conditional_edges(
        START, lambda _: [Send("work", str(n)) for n in range(12)], ["work"]
    )

    detail = await recorded(graphs, seeded, graph.compile())

    assert {step.step_name for step in detail.steps} == {"work"} | {
        f"work#{n}" for n in range(2, 13)
    }
    assert {step.input_data for step in detail.steps} == {str(n) for n in range(12)}
    assert all(step.output_data == {"done": [step.input_data]} for step in detail.steps)


async def test_what_is_inside_of_a_node_is_no_step(graphs, seeded):
    subgraph = build(inner=node("inner"), innermost=node("innermost")).compile()
    model = GenericFakeChatModel(messages=iter(["Release 4 idle GPUs."] * 9))
    ask = RunnableLambda(lambda state: state["messages"]) | model

    def busy(state):
        subgraph.invoke(state)
        return {"messages": [ask.invoke(state)]}

    graph = build(as_node=subgraph, busy=busy)
    graph.add_conditional_edges("busy", lambda _: END)

    detail = await recorded(graphs, seeded, graph.compile(), {"messages": [("user", "What?")]})

    assert told(detail) == [("as_node", "completed"), ("busy", "completed")]
    as_node, busy_step = detail.steps
    assert as_node.output_data["done"] == ["inner", "innermost"]
    assert as_node.input_data["messages"][0]["content"] == "What?"
    (message,) = busy_step.output_data["messages"]
    assert (message["type"], message["content"]) == ("ai", "Release 4 idle GPUs.")


async def test_a_graph_within_a_chain_is_recorded(graphs, seeded):
    graph = build(collect=node("collect")).compile()

    detail = await recorded(graphs, seeded, RunnableLambda(lambda given: given) | graph)

    assert told(detail) == [("collect", "completed")]


@pytest.mark.parametrize("mode", ["values", "updates", "messages", "debug"])
async def test_streaming_tokens_or_states_makes_no_other_steps(graphs, seeded, mode):
    model = GenericFakeChatModel(messages=iter(["Release 4 idle GPUs."]))

    def ask(state):
        return {"messages": ["".join(str(part.content) for part in model.stream("What?"))]}

    graph = build(collect=node("collect"), ask=ask).compile()

    async with graphs.recording() as (_, config):
        parts = await graphs.stream(graph, {"done": []}, config, stream_mode=mode)

    assert len(parts) > 1
    detail = newest_run(seeded)
    assert told(detail) == [("collect", "completed"), ("ask", "completed")]
    assert detail.steps[1].output_data == {"messages": ["Release 4 idle GPUs."]}


async def test_a_stream_that_nobody_reads_to_its_end_leaves_no_open_step(seeded, database_url):
    graph = build(a=node("a"), b=node("b"), c=node("c")).compile()

    async with SyncGraphs(database_url).recording() as (_, config):
        parts = graph.stream({"done": []}, config)
        next(parts)
        parts.close()
    first = newest_run(seeded)
    async with AsyncGraphs(database_url).recording() as (_, config):
        aparts = graph.astream({"done": []}, config)
        await anext(aparts)
        await aparts.aclose()
    second = newest_run(seeded)

    assert first.workflow_execution.id != second.workflow_execution.id
    for detail in (first, second):
        assert detail.workflow_execution.status is WorkflowStatus.COMPLETED
        assert told(detail)[0] == ("a", "completed")
        assert {str(step.status) for step in detail.steps} <= {"completed", "skipped"}


async def test_a_node_finds_its_run_and_step(graphs, seeded, tmp_path):
    def leave(_):
        workflows.current_run().artifact(
            ArtifactType.LOG, "a.log", data=b"x", step=workflows.current_step()
        )

    async def aleave(_):
        await aio.current_run().artifact(
            ArtifactType.LOG, "a.log", data=b"x", step=aio.current_step()
        )

    leaving = RunnableLambda(leave, afunc=aleave)
    edges = [(START, "a"), (START, "b"), ("a", "c"), ("b", "c")]
    graph = build(*edges, a=node("a"), b=leaving, c=node("c")).compile()

    async with graphs.recording(store=str(tmp_path)) as (run, config):
        await graphs.invoke(graph, {"done": []}, config)

    (artifact,) = workflow_artifacts.list_workflow_artifacts(
        seeded, customer_id=ATLAS, workflow_execution_id=run.id
    )
    (step,) = (step for step in newest_run(seeded).steps if step.step_name == "b")
    assert artifact.workflow_step_id == step.id


# What goes wrong


async def test_a_node_that_raises_fails_its_step_and_the_run(graphs, seeded):
    error = Trouble("no answer from https://user:hunter2@billing/")

    def fail(_):
        raise error

    graph = build(collect=node("collect"), analyze=fail, report=node("report")).compile()

    with pytest.raises(Trouble) as raised:
        await recorded(graphs, seeded, graph)

    assert raised.value is error
    detail = newest_run(seeded)
    assert told(detail) == [("collect", "completed"), ("analyze", "failed")]
    assert detail.workflow_execution.status is WorkflowStatus.FAILED
    for details in (detail.steps[1].error_details, detail.workflow_execution.error_details):
        assert (details["type"], details["step"]) == ("Trouble", "analyze")
        assert details["message"] == "no answer from https://user:[redacted]@billing/"


async def test_a_parallel_node_that_raises_leaves_no_open_step(graphs, seeded):
    started = threading.Event()

    def fail(_):
        started.wait(10)
        raise Trouble("x")

    def slow(_):
        started.set()
        time.sleep(0.2)

    async def afail(_):
        await asyncio.to_thread(started.wait, 10)
        raise Trouble("x")

    async def aslow(_):
        started.set()
        await asyncio.sleep(0.2)

    graph = build(
        (START, "fail"),
        (START, "slow"),
        fail=RunnableLambda(fail, afunc=afail),
        slow=RunnableLambda(slow, afunc=aslow),
    ).compile()

    with pytest.raises(Trouble):
        await recorded(graphs, seeded, graph)

    detail = newest_run(seeded)
    statuses = dict(told(detail))
    assert statuses["fail"] == "failed"
    assert statuses["slow"] in {"completed", "failed"}
    assert detail.workflow_execution.error_details["step"] == "fail"


async def test_each_attempt_of_a_node_with_a_retry_policy_is_a_step(graphs, seeded):
    tried = []

    def flaky(_):
        tried.append(1)
        if len(tried) < 3:
            raise Trouble(f"attempt {len(tried)}")

    graph = build((START, "x"), x=node("x"), done=node("done"))
    graph.add_node(
        "flaky",
        flaky,
        retry_policy=RetryPolicy(initial_interval=0.01, jitter=False, retry_on=Trouble),
    )
    graph.add_edge("x", "flaky")
    graph.add_edge("flaky", "done")

    detail = await recorded(graphs, seeded, graph.compile())

    assert told(detail) == [
        ("x", "completed"),
        ("flaky", "failed"),
        ("flaky#2", "failed"),
        ("flaky#3", "completed"),
        ("done", "completed"),
    ]
    assert detail.workflow_execution.status is WorkflowStatus.COMPLETED


async def test_a_run_that_is_cancelled_from_elsewhere_stops_the_graph(graphs, seeded):
    was_there = []

    def cancel(_):
        run_id = newest_run(seeded).workflow_execution.id
        workflow_executions.cancel_workflow_execution(
            seeded, customer_id=ATLAS, id=run_id, reason="too dear"
        )

    graph = build(
        collect=node("collect"), cancel=cancel, report=lambda _: was_there.append(1)
    ).compile()

    with pytest.raises(WorkflowCancelled, match="too dear"):
        await recorded(graphs, seeded, graph)

    assert not was_there
    detail = newest_run(seeded)
    assert detail.workflow_execution.status is WorkflowStatus.CANCELLED
    assert [name for name, _ in told(detail)] == ["collect", "cancel"]


async def test_a_task_that_is_cancelled_cancels_the_run(seeded, database_url):
    is_there = asyncio.Event()

    async def wait(_):
        is_there.set()
        await asyncio.sleep(60)

    graph = build(collect=node("collect"), wait=wait).compile()
    task = asyncio.create_task(recorded(AsyncGraphs(database_url), seeded, graph))
    await asyncio.wait_for(is_there.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    detail = newest_run(seeded)
    assert detail.workflow_execution.status is WorkflowStatus.CANCELLED
    assert told(detail)[0] == ("collect", "completed")
    assert str(detail.steps[1].status) in {"failed", "skipped"}


async def test_a_failed_graph_goes_on_from_its_checkpoint_in_the_retry(graphs, seeded):
    tried = []

    def flaky(_):
        tried.append(1)
        if len(tried) == 1:
            raise Trouble("x")
        return {"done": ["flaky"]}

    graph = build(collect=node("collect"), flaky=flaky, report=node("report"))
    graph = graph.compile(checkpointer=InMemorySaver())
    with pytest.raises(Trouble):
        async with graphs.recording() as (run, config):
            await graphs.invoke(graph, {"done": []}, config)

    async with graphs.resuming(run.id) as (retry, config):
        result = await graphs.invoke(graph, None, config)

    assert result["done"] == ["collect", "flaky", "report"]
    detail = newest_run(seeded)
    assert detail.workflow_execution.id == retry.id != run.id
    assert told(detail) == [
        ("collect", "skipped"),
        ("flaky", "completed"),
        ("report", "completed"),
    ]
    assert detail.steps[0].output_data == {"done": ["collect"]}


async def test_a_parallel_node_that_was_done_is_not_done_again_in_the_retry(graphs, seeded):
    done, tried = threading.Event(), []

    def flaky(_):
        tried.append(1)
        if len(tried) == 1:
            done.wait(10)
            time.sleep(0.1)  # until the other one is noted by the graph
            raise Trouble("x")

    async def aflaky(state):
        return await asyncio.to_thread(flaky, state)

    def good(_):
        done.set()
        return {"done": ["good"]}

    edges = [(START, "flaky"), (START, "good"), ("flaky", "join"), ("good", "join")]
    flaky_node = RunnableLambda(flaky, afunc=aflaky)
    graph = build(*edges, flaky=flaky_node, good=good, join=node("join"))
    graph = graph.compile(checkpointer=InMemorySaver())
    with pytest.raises(Trouble):
        async with graphs.recording() as (run, config):
            await graphs.invoke(graph, {"done": []}, config)

    async with graphs.resuming(run.id) as (_, config):
        result = await graphs.invoke(graph, None, config)

    assert result["done"] == ["good", "join"]
    statuses = dict(told(newest_run(seeded)))
    assert statuses == {"flaky": "completed", "good": "skipped", "join": "completed"}


async def test_a_node_that_asks_a_human_is_done_with_the_question(graphs, seeded):
    graph = build(ask=lambda _: {"done": [interrupt("May I?")]}, act=node("act"))
    graph = graph.compile(checkpointer=InMemorySaver())

    async with graphs.recording() as (_, config):
        await graphs.invoke(graph, {"done": []}, config)
        first = newest_run(seeded)
        await graphs.invoke(graph, Command(resume="yes"), config)

    assert told(first) == [("ask", "completed")]
    assert first.steps[0].output_data["GraphInterrupt"][0][0]["value"] == "May I?"
    detail = newest_run(seeded)
    assert told(detail) == [(name, "completed") for name in ("ask", "ask#2", "act")]
    assert detail.steps[1].output_data == {"done": ["yes"]}


# Payloads


async def test_a_large_message_is_cut(graphs, seeded):
    graph = build(ask=node("ask", messages=[AIMessage("x" * 1_000_000)])).compile()

    detail = await recorded(
        graphs, seeded, graph, {"messages": [HumanMessage("y" * 10_000) for _ in range(100)]}
    )

    (step,) = detail.steps
    (message,) = step.output_data["messages"]
    assert message["content"] == "x" * 2000 + "... (cut: 1000000 characters)"
    assert len(str(step.input_data)) < MAX_PAYLOAD
    assert "characters of JSON" in step.input_data["cut"]


def test_what_a_node_returns_becomes_json_that_postgresql_takes(conn):
    class Client:
        def __repr__(self):
            return "Client(password='hunter2')"

    class Model(BaseModel):
        key: SecretStr
        url: str

    within_itself = []
    within_itself.append(within_itself)
    deep = []
    for _ in range(200):
        deep = [deep]
    values = {
        "text": "a\0b\ud800c",
        "number": float("nan"),
        1: b"\xff",
        "set": {1},
        "client": Client(),
        "model": Model(key=SecretStr("hunter2"), url="https://user:hunter2@billing/"),
        "secret": "Authorization: Bearer hunter2hunter2",
        "deep": deep,
    }

    found = as_json(values)

    assert as_json(within_itself).startswith("<list: Circular reference")
    assert found["text"] == "a?b?c"
    assert (found["number"], found["set"], found["client"]) == ("nan", [1], "<Client>")
    assert "hunter2" not in str(found)
    run = workflow_executions.create_workflow_execution(
        conn,
        customer_id=seeded_customer(conn),
        agent_id=COST,
        workflow_type=WorkflowType.COST_ANALYSIS,
        step_names=["a"],
        input_data=found,
    )
    assert run.input_data == found


def seeded_customer(conn):
    seed(conn)
    return ATLAS


# The programs


def start(name, url, tmp_path, *arguments):
    return subprocess.Popen(
        [sys.executable, EXAMPLES / name, *arguments],
        env=os.environ | {"OPTIINFRA_DATABASE_URL": url, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(process):
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    return output


def test_the_readme_shows_how_to_record_a_graph(seeded):
    readme = (EXAMPLES / "README.md").read_text()
    (snippet,) = re.findall(r"^```python\n(.*?)^```", readme, re.S | re.M)
    graph = build(a=node("a"), b=node("b")).compile()
    names = vars(langgraph_agent) | {"conn": seeded, "graph": graph, "state": {"done": []}}
    exec(compile(snippet, "README.md", "exec"), names)

    assert [step.step_name for step in newest_run(seeded).steps] == ["a", "b"]


def test_the_langgraph_agent_shows_a_run_that_fails_and_its_retry(seeded, database_url, tmp_path):
    output = output_of(start("langgraph_agent.py", database_url, tmp_path))

    assert "Attempt 1 failed" in output
    assert "Attempt 2 completed" in output
    detail = newest_run(seeded)
    names = [name for name, _ in told(detail)]
    assert sorted(names[1:3]) == ["gpus", "storage"]
    assert names[3:5] == ["analyze", "collect#2"]
    assert [status for _, status in told(detail)] == ["skipped"] * 8 + ["completed"]
    assert detail.workflow_execution.output_data == {"advice": "Release 4 idle GPUs."}


def test_the_langgraph_agent_says_what_to_install(tmp_path):
    program = EXAMPLES / "langgraph_agent.py"
    code = f"import sys, runpy; sys.modules['langgraph'] = None; runpy.run_path({str(program)!r})"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert result.returncode == 1
    assert result.stderr.endswith("pip install langgraph\n")
    assert "Traceback" not in result.stderr


def test_the_asyncio_agent_works_off_the_queue_and_ends(seeded, database_url, tmp_path):
    output = output_of(start("asyncio_agent.py", database_url, tmp_path))

    assert output.count(": completed {") == 3
    assert output.count("collect_usage completed, 1 retry") == 3
    for customer_id in (INDIE, NIMBUS, ATLAS):
        detail = newest_run(seeded, customer_id)
        _, gpus, storage, _ = detail.steps
        assert {step.status for step in detail.steps} == {"completed"}
        assert max(gpus.started_at, storage.started_at) < min(
            gpus.completed_at, storage.completed_at
        )
        (artifact,) = detail.artifacts
        assert Path(artifact.artifact_path).read_bytes().startswith(b"# Savings")


def slow_run(conn):
    """Put a run into the queue that takes a minute; return its id."""
    return workflow_executions.create_workflow_execution(
        conn,
        **PLAN,
        step_names=["collect_usage", "analyze_gpus", "analyze_storage", "write_report"],
        input_data={"period": "last_30_days", "seconds": 60},
    ).id


def status_of(conn, run_id):
    run = workflow_executions.get_workflow_execution(conn, customer_id=ATLAS, id=run_id)
    return str(run.status), run.metadata


def wait_until(is_so):
    until = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_asyncio_agent_stops_cleanly(seeded, database_url, tmp_path, sent, code):
    runs = [slow_run(seeded) for _ in range(2)]
    process = start("asyncio_agent.py", database_url, tmp_path, "--forever", "--workers", "3")

    def is_at_work():
        # The third worker does what main() put into the queue, one after the other.
        rest = [newest_run(seeded, customer_id) for customer_id in (INDIE, NIMBUS, ATLAS)]
        return all(
            detail.workflow_execution.status is WorkflowStatus.COMPLETED for detail in rest
        ) and all(status_of(seeded, run_id)[0] == "running" for run_id in runs)

    wait_until(is_at_work)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=30)

    assert process.returncode == code
    assert "Traceback" not in errors
    for run_id in runs:
        status, metadata = status_of(seeded, run_id)
        assert status == "cancelled"
        assert metadata["cancel_reason"].startswith("the executor was interrupted")
    open_runs = workflow_executions.list_running_workflows(seeded, max_rows=10)
    assert not {COST} & {run.agent_id for run in open_runs}


def test_the_asyncio_agent_that_stays_takes_new_runs_and_survives_one_that_fails(
    seeded, database_url, tmp_path
):
    process = start("asyncio_agent.py", database_url, tmp_path, "--forever", "--workers", "1")
    try:
        wait_until(lambda: newest_run(seeded, ATLAS).workflow_execution.status == "completed")
        bad = workflow_executions.create_workflow_execution(
            seeded,
            **PLAN | {"workflow_type": WorkflowType.HEALTH_CHECK},
            step_names=["a"],
        )
        good = workflow_executions.create_workflow_execution(
            seeded,
            **PLAN,
            step_names=["collect_usage", "analyze_gpus", "analyze_storage", "write_report"],
            input_data={"period": "last_30_days", "seconds": 0},
        )
        wait_until(lambda: status_of(seeded, good.id)[0] == "completed")
        wait_until(
            lambda: newest_run(seeded, ATLAS).workflow_execution.status == "failed"  # its retry
        )
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)

    assert process.returncode == 143
    assert "LookupError: this agent does not know how to do health_check" in errors
    assert status_of(seeded, bad.id)[0] == "failed"
