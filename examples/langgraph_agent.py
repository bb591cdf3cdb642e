"""A LangGraph agent whose nodes are recorded as the steps of a run.

    optiinfra-db migrate && optiinfra-db seed
    pip install langgraph
    python examples/langgraph_agent.py

Copy `StepRecorder` (for `invoke` and `stream`) or `AsyncStepRecorder` (for `ainvoke` and `astream`)
into your project, with `_Nodes` and `as_json`, and give the graph one for each run:

    with record_workflow(conn, ...) as run:
        graph.invoke(state, {"callbacks": [StepRecorder(run)]})

Each execution of a node is a step: `collect`, and `collect#2` when the graph comes there again or
retries it. The run has no plan, since only the graph knows where it goes. What happens inside of a
node (models, tools, subgraphs) is its own affair; it finds its step by `current_step()`.
"""

import json
import math
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from itertools import chain, count
from threading import Lock
from typing import Annotated, Any, TypedDict
from uuid import UUID, uuid4

from pydantic_core import to_jsonable_python

from optiinfra_db import connect
from optiinfra_db.generated import workflow_executions
from optiinfra_db.generated.models import JSON, WorkflowType
from optiinfra_db.payloads import redact
from optiinfra_db.seed import ATLAS, COST
from optiinfra_db.workflows import Run, Step, aio, record_workflow, resume

try:
    from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
    from langchain_core.language_models import BaseChatModel
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.errors import GraphBubbleUp
    from langgraph.graph import END, START, StateGraph
    from langgraph.graph.state import CompiledStateGraph
except ImportError as error:
    sys.exit(f"This example needs LangGraph ({error}): pip install langgraph")

# --- To copy: the recorder of steps

MAX_TEXT = 2_000
MAX_PAYLOAD = 50_000
"""Characters that the history keeps of a text, and of all the input or output of a node."""
MAX_DEPTH = 50


class _Nodes:
    """Tells the nodes of a graph from all else that LangChain calls a chain, and names them."""

    raise_error = True  # what ends the run stops the graph
    run_inline = True  # in the task of the node, which then has a current_step()

    def __init__(self, is_done: Callable[[str], bool]) -> None:
        self._is_done = is_done
        self._names: set[str] = set()

    def _new_step(self, tags: list[str] | None, metadata: Mapping[str, Any] | None) -> str | None:
        """Return the name of the next step of a node; None for what is no node of this graph."""
        if metadata is None or not any(tag.startswith("graph:step:") for tag in tags or ()):
            return None
        if "|" in metadata["langgraph_checkpoint_ns"]:  # in a subgraph, which is a node by itself
            return None
        node = metadata["langgraph_node"]
        if node == START:
            return None
        names = chain([node], (f"{node}#{n}" for n in count(2)))
        # In a retry, what was done before keeps its name.
        name: str = next(n for n in names if n not in self._names and not self._is_done(n))
        self._names.add(name)
        return name


class StepRecorder(_Nodes, BaseCallbackHandler):
    """Records the nodes of a graph as steps of a run: a callback of `invoke` and `stream`."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.is_done)
        self._run = run
        self._open: dict[UUID, tuple[ExitStack, Step]] = {}
        self._lock = Lock()  # parallel nodes are in threads, and the run does one thing at a time

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: object,
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **_: object,
    ) -> None:
        """Begin a step where a node begins."""
        with self._lock:
            if name := self._new_step(tags, metadata):
                block = ExitStack()
                step = block.enter_context(self._run.step(name, input_data=as_json(inputs)))
                self._open[run_id] = block, step

    def on_chain_end(self, outputs: object, *, run_id: UUID, **_: object) -> None:
        """Complete the step."""
        with self._lock:
            if run_id in self._open:
                block, step = self._open.pop(run_id)
                step.output_data = as_json(outputs)
                block.close()

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: object) -> None:
        """Fail the step, unless it only hands over to a human or to another graph."""
        if isinstance(error, GraphBubbleUp):
            self.on_chain_end({type(error).__name__: error.args}, run_id=run_id)
            return
        with self._lock:
            if run_id in self._open:
                block, _step = self._open.pop(run_id)
                block.__exit__(type(error), error, error.__traceback__)


class AsyncStepRecorder(_Nodes, AsyncCallbackHandler):
    """Records the nodes of a graph as steps of a run: a callback of `ainvoke` and `astream`."""

    def __init__(self, run: aio.Run) -> None:
        super().__init__(run.is_done)
        self._run = run
        self._open: dict[UUID, tuple[AsyncExitStack, aio.Step]] = {}

    async def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: object,
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **_: object,
    ) -> None:
        """Begin a step where a node begins."""
        if name := self._new_step(tags, metadata):
            block = AsyncExitStack()
            step = await block.enter_async_context(self._run.step(name, input_data=as_json(inputs)))
            self._open[run_id] = block, step

    async def on_chain_end(self, outputs: object, *, run_id: UUID, **_: object) -> None:
        """Complete the step."""
        if run_id in self._open:
            block, step = self._open.pop(run_id)
            step.output_data = as_json(outputs)
            await block.aclose()

    async def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: object) -> None:
        """Fail the step, unless it only hands over to a human or to another graph."""
        if isinstance(error, GraphBubbleUp):
            await self.on_chain_end({type(error).__name__: error.args}, run_id=run_id)
        elif run_id in self._open:
            block, _step = self._open.pop(run_id)
            await block.__aexit__(type(error), error, error.__traceback__)


def as_json(value: object) -> JSON:
    """Return what the history keeps of a value: messages and models as JSON, and not too much.

    What looks like a secret is left out; one that looks like any other word cannot be told apart,
    so keep secrets out of the state of the graph. Of objects that are no data, the type is kept.
    """
    try:
        plain = to_jsonable_python(
            value, bytes_mode="base64", fallback=lambda other: f"<{type(other).__name__}>"
        )
    except ValueError as error:  # it is within itself, for one
        return f"<{type(value).__name__}: {error}>"
    plain = _storable(plain)
    text = json.dumps(plain)
    if len(text) <= MAX_PAYLOAD:
        return plain
    return {"cut": f"{len(text)} characters of JSON, which begin so", "begin": text[:MAX_TEXT]}


def _storable(value: JSON, depth: int = 0) -> JSON:
    """Return JSON that PostgreSQL takes, with long texts cut."""
    if depth > MAX_DEPTH:
        return "<cut: nested too deeply>"
    if isinstance(value, dict):
        return {_storable(key): _storable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item, depth + 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        text = value.encode(errors="replace").decode().replace("\0", "?")
        kept = redact(text[: 2 * MAX_TEXT])[:MAX_TEXT]
        return kept if len(text) <= MAX_TEXT else f"{kept}... (cut: {len(text)} characters)"
    return value


# --- The agent: collect -> (gpus and storage, in parallel) -> analyze -> recommend
#                   ^                                             |
#                   +----------- while there is too little -------+


ENOUGH_DAYS = 30


class State(TypedDict, total=False):
    """What the nodes hand on."""

    days: int
    savings_usd: Annotated[dict[str, int], operator.or_]
    question: str
    advice: str


def collect(state: State) -> dict[str, Any]:
    """Read the metrics of some more days."""
    return {"days": state["days"] + 15}


def gpus(state: State) -> dict[str, Any]:
    """Find idle GPUs."""
    return {"savings_usd": {"gpus": 35_000}}


def storage(state: State) -> dict[str, Any]:
    """Find data that nobody reads."""
    return {"savings_usd": {"storage": 15_000}}


def analyze(state: State) -> dict[str, Any]:
    """Put it into words for the model."""
    savings = sum(state["savings_usd"].values())
    return {"question": f"{state['days']} days show savings of {savings} USD. What first?"}


def is_enough(state: State) -> str:
    """Choose the way on."""
    return "recommend" if state["days"] >= ENOUGH_DAYS else "collect"


def build_graph(model: BaseChatModel) -> CompiledStateGraph[State, None, State, State]:
    """Put the nodes together."""

    def recommend(state: State) -> dict[str, Any]:
        return {"advice": model.invoke(state["question"]).content}

    graph = StateGraph(State)
    for node in (collect, gpus, storage, analyze, recommend):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "collect")
    graph.add_edge("collect", "gpus")
    graph.add_edge("collect", "storage")
    graph.add_edge(["gpus", "storage"], "analyze")
    graph.add_conditional_edges("analyze", is_enough, ["collect", "recommend"])
    graph.add_edge("recommend", END)
    return graph.compile(checkpointer=InMemorySaver())  # one that lasts, in production


# --- A run, which fails, and its retry


class Answers(Iterator[str]):
    """What stands for a model says: no network, and the first time no answer."""

    is_up = False

    def __next__(self) -> str:
        if not self.is_up:
            self.is_up = True
            raise TimeoutError("the model did not answer")
        return "Release 4 idle GPUs."


def config_of(run: Run) -> RunnableConfig:
    """Tell a graph to be recorded, and under which name to keep its checkpoints."""
    return {
        "callbacks": [StepRecorder(run)],
        "configurable": {"thread_id": run.metadata["thread_id"]},  # a retry has the same metadata
    }


def main() -> None:
    """Record a run that fails at its last node, then go on from there."""
    graph = build_graph(GenericFakeChatModel(messages=Answers()))
    with connect(actor="cost-agent") as conn:

        def show(run: Run) -> None:
            detail = workflow_executions.get_workflow_detail(conn, customer_id=ATLAS, id=run.id)
            assert detail is not None
            print(f"\nAttempt {run.attempt} {detail.workflow_execution.status}, run {run.id}:")
            for step in detail.steps:
                what = step.error_details or step.output_data
                print(f"{step.step_order:3} {step.step_name:10} {step.status:10}", end="")
                print(json.dumps(what.get("message") or what)[:90])

        try:
            with record_workflow(
                conn,
                customer_id=ATLAS,
                agent_id=COST,
                workflow_type=WorkflowType.COST_ANALYSIS,
                metadata={"thread_id": str(uuid4())},
            ) as run:
                graph.invoke({"days": 0, "savings_usd": {}}, config_of(run))
        except TimeoutError:
            show(run)

        # The history carries over what was done; so does the graph, from its checkpoint, where
        # its input is None.
        with resume(conn, run.id, customer_id=ATLAS) as run:
            result = graph.invoke(None, config_of(run))
            run.output_data = {"advice": result["advice"]}
        show(run)


if __name__ == "__main__":
    main()
