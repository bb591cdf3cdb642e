"""What holds when several connections do the same thing at the same time, each committing."""

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from optiinfra_db import connect
from optiinfra_db.generated import (
    agents,
    customers,
    workflow_artifacts,
    workflow_executions,
    workflow_steps,
)
from optiinfra_db.generated.models import AgentType, ArtifactType, StepStatus, WorkflowType

WRITERS = 6
ROUNDS = 20


@pytest.fixture
def owner(database_url):
    """Return what a run needs: its customer's and its agent's id."""
    with connect(database_url) as conn:
        customer = customers.create_customer(
            conn, name="Ada", email="ada@example.com", api_key_hash=bytes(32)
        )
        agent = agents.upsert_agent(conn, type=AgentType.COST, name="cost", version="1")
    return {"customer_id": customer.id, "agent_id": agent.id}


@pytest.fixture
def together(database_url):
    """Run a function on several connections at once, started together; return the results."""
    connections = [connect(database_url) for _ in range(WRITERS)]

    def run(function, *args):
        barrier = threading.Barrier(WRITERS)

        def start(conn):
            barrier.wait()
            return function(conn, *args)

        with ThreadPoolExecutor(WRITERS) as executor:
            return list(executor.map(start, connections))

    yield run
    for connection in connections:
        connection.close()


def create(conn, owner, run_id=None):
    return workflow_executions.create_workflow_execution(
        conn,
        **owner,
        id=run_id,
        workflow_type=WorkflowType.COST_ANALYSIS,
        step_names=["a", "b", "c"],
    )


def test_creating_with_one_id_at_once_gives_one_run_with_its_steps_once(
    database_url, owner, together
):
    for _ in range(ROUNDS):
        made = together(create, owner, run_id := uuid4())

        assert made == [made[0]] * WRITERS
        with connect(database_url) as conn:
            steps = workflow_steps.list_workflow_steps(
                conn, customer_id=owner["customer_id"], workflow_execution_id=run_id
            )
        assert [step.step_order for step in steps] == [1, 2, 3]


def test_registering_an_agent_or_an_artifact_at_once_gives_one_row(database_url, owner, together):
    with connect(database_url) as conn:
        run = create(conn, owner)

    def register(conn, number):
        agent = agents.upsert_agent(conn, type=AgentType.COST, name=f"a{number}", version="1")
        artifact = workflow_artifacts.register_workflow_artifact(
            conn,
            customer_id=run.customer_id,
            workflow_execution_id=run.id,
            artifact_type=ArtifactType.LOG,
            artifact_name="Log",
            artifact_path=f"s3://bucket/{number}",
            artifact_size_bytes=0,
            content_type="text/plain",
            sha256=bytes(32),
        )
        return agent.id, artifact.id

    for number in range(ROUNDS):
        assert len(set(together(register, number))) == 1


@pytest.mark.parametrize("move", ["start_workflow_execution", "fail_workflow_execution"])
def test_of_racing_transitions_of_a_run_one_wins(database_url, owner, together, move):
    arguments = {"error_details": {"message": "x"}} if move.startswith("fail") else {}
    function = getattr(workflow_executions, move)
    for _ in range(ROUNDS):
        with connect(database_url) as conn:
            key = {"customer_id": owner["customer_id"], "id": create(conn, owner).id}
            if arguments:
                workflow_executions.start_workflow_execution(conn, **key)

        results = together(lambda conn, key=key: function(conn, **key, **arguments))

        assert len([result for result in results if result is not None]) == 1


def test_of_racing_advances_of_a_step_one_wins_and_one_step_runs(database_url, owner, together):
    for _ in range(ROUNDS):
        with connect(database_url) as conn:
            run = create(conn, owner)
            run_key = {"customer_id": run.customer_id, "workflow_execution_id": run.id}
            workflow_executions.start_workflow_execution(
                conn, customer_id=run.customer_id, id=run.id
            )
            first, *_ = workflow_steps.list_workflow_steps(conn, **run_key)
            workflow_steps.start_workflow_step(conn, **run_key, id=first.id)

            step_key = run_key | {"id": first.id}

            results = together(
                lambda conn, key=step_key: workflow_steps.advance_workflow_step(conn, **key)
            )

            assert sorted(map(len, results)) == [0] * (WRITERS - 1) + [2]
            statuses = [step.status for step in workflow_steps.list_workflow_steps(conn, **run_key)]
        assert statuses == [StepStatus.COMPLETED, StepStatus.RUNNING, StepStatus.PENDING]


def test_paging_has_no_gaps_or_repeats_while_rows_are_added(database_url, owner):
    with connect(database_url) as conn, connect(database_url) as writer:
        before = [create(conn, owner).id for _ in range(60)]
        stop = threading.Event()

        def write():
            while not stop.is_set():
                create(writer, owner)

        adding = threading.Thread(target=write)
        adding.start()
        try:
            listed, before_id = [], None
            while page := workflow_executions.list_workflow_executions(
                conn, customer_id=owner["customer_id"], before_id=before_id, max_rows=7
            ):
                listed += [row.id for row in page]
                before_id = page[-1].id
        finally:
            stop.set()
            adding.join()

    assert len(listed) == len(set(listed))
    assert [run_id for run_id in listed if run_id in set(before)] == before[::-1]
