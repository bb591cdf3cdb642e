"""What holds when several connections do the same thing at the same time, each committing."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from hashlib import sha256
from itertools import count
from uuid import UUID, uuid4

import pytest

from optiinfra_db import connect
from optiinfra_db.errors import IllegalTransition, InvalidValue
from optiinfra_db.generated import (
    agents,
    api_keys,
    approvals,
    customers,
    recommendations,
    workflow_artifacts,
    workflow_executions,
    workflow_steps,
)
from optiinfra_db.generated.models import (
    AgentType,
    ArtifactType,
    StepStatus,
    WorkflowStatus,
    WorkflowType,
)

from .database import artifact_left, step_attempt, step_key

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


def await_lock(conn, waiting):
    """Wait until another connection waits for a lock."""
    waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
    while conn.execute(waits, [waiting.info.backend_pid]).fetchone() != (True,):
        pass


def begun(conn, owner):
    """Create a run, begin it, and return its first step."""
    run = create(conn, owner)
    return workflow_executions.begin_workflow_execution(
        conn, customer_id=run.customer_id, id=run.id
    )


def steps_of(conn, customer_id, run_id):
    return workflow_steps.list_workflow_steps(
        conn, customer_id=customer_id, workflow_execution_id=run_id
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


def test_creating_anything_with_one_id_at_once_gives_one_row(database_url, owner, together):
    """Also where another unique index sees the second caller before the primary key does."""

    def create_all(conn, number, ids):
        customer = customers.create_customer(
            conn,
            id=ids[0],
            name="Ada",
            email=f"{number}@example.com",
            api_key_hash=sha256(b"%d" % number).digest(),
        )
        agent = agents.upsert_agent(
            conn, id=ids[1], type=AgentType.COST, name=f"b{number}", version="1"
        )
        approval = approvals.create_approval(
            conn, id=ids[2], customer_id=owner["customer_id"], recommendation_id=ids[5]
        )
        artifact = workflow_artifacts.register_workflow_artifact(
            conn,
            id=ids[3],
            customer_id=owner["customer_id"],
            workflow_execution_id=ids[6],
            artifact_type=ArtifactType.LOG,
            artifact_name="Log",
            artifact_path="s3://bucket/log",
            artifact_size_bytes=0,
            content_type="text/plain",
            sha256=bytes(32),
        )
        step = workflow_steps.add_workflow_step(
            conn,
            id=ids[4],
            customer_id=owner["customer_id"],
            workflow_execution_id=ids[6],
            step_name="d",
            step_order=4,
        )
        return [row.id for row in (customer, agent, approval, artifact, step)]

    for number in range(ROUNDS):
        ids = [uuid4() for _ in range(7)]
        with connect(database_url) as conn:
            create(conn, owner, ids[6])
            recommendations.create_recommendation(conn, **owner, id=ids[5], type="x", title="x")
        assert together(create_all, number, ids) == [ids[:5]] * WRITERS
        with connect(database_url) as conn:
            assert len(api_keys.list_api_keys(conn, customer_id=ids[0])) == 1


def test_adding_or_rotating_a_key_with_one_id_at_once_gives_one_key(database_url, owner, together):
    customer = owner["customer_id"]

    def add(conn, key_id, digest, function, **more):
        key = {"customer_id": customer, "id": key_id, "api_key_hash": digest}
        return function(conn, **key, **more)

    for number in range(ROUNDS):
        create = partial(add, function=api_keys.create_api_key)
        rotate = partial(add, function=api_keys.rotate_api_key, overlap=timedelta(hours=1))
        for function in (create, rotate):
            added = together(function, uuid4(), uuid4().bytes * 2)
            assert added == [added[0]] * WRITERS
        with connect(database_url) as conn:
            keys = api_keys.list_api_keys(conn, customer_id=customer)
        assert len(keys) == 1 + 2 * (number + 1)
        assert [key.id for key in keys if key.expires_at is None] == [added[0].id]


def test_of_those_who_rotate_at_once_one_has_the_key_that_stays(database_url, owner, together):
    def rotate(conn):
        return api_keys.rotate_api_key(
            conn,
            customer_id=owner["customer_id"],
            api_key_hash=uuid4().bytes * 2,
            overlap=timedelta(0),
        )

    for _ in range(ROUNDS):
        together(rotate)
        with connect(database_url) as conn:
            keys = api_keys.list_api_keys(conn, customer_id=owner["customer_id"])
        assert len([key for key in keys if key.expires_at is None]) == 1


def test_whoever_authenticates_waits_for_nobody_to_note_it(database_url, owner):
    with connect(database_url) as one, connect(database_url) as other:
        other.execute("SET lock_timeout = '10ms'")
        with one.transaction():
            first = api_keys.authenticate_api_key(one, api_key_hash=bytes(32))
            second = api_keys.authenticate_api_key(other, api_key_hash=bytes(32))
            (unnoted,) = api_keys.list_api_keys(other, customer_id=owner["customer_id"])
        (noted,) = api_keys.list_api_keys(other, customer_id=owner["customer_id"])

    assert first == second
    assert (unnoted.last_used_at, noted.last_used_at is None) == (None, False)


def test_one_of_those_who_authenticate_at_once_notes_it(database_url, owner, together):
    with connect(database_url) as conn:
        conn.execute(
            """
            CREATE TABLE noted ();
            GRANT INSERT ON noted TO PUBLIC;
            CREATE FUNCTION count_use() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN INSERT INTO public.noted DEFAULT VALUES; RETURN NULL; END
            $$;
            CREATE TRIGGER api_keys_count_use AFTER UPDATE ON api_keys
            FOR EACH ROW WHEN (NEW.last_used_at > now() - interval '1 min')
            EXECUTE FUNCTION count_use()
            """
        )
        for number in range(1, ROUNDS + 1):
            conn.execute("UPDATE api_keys SET last_used_at = now() - interval '61 s'")
            found = together(partial(api_keys.authenticate_api_key, api_key_hash=bytes(32)))
            assert found == [found[0]] * WRITERS
            assert conn.execute("SELECT count(*) FROM noted").fetchone() == (number,)


@pytest.mark.parametrize("end", ["complete", "fail", "cancel"])
def test_a_run_that_ends_while_steps_are_added_leaves_none_open(database_url, owner, together, end):
    arguments = {
        "complete": {"attempt": 1},
        "fail": {"attempt": 1, "error_details": {"message": "x"}},
        "cancel": {"reason": "x"},
    }
    function = getattr(workflow_executions, f"{end}_workflow_execution")

    def add_or_end(conn, run_id, turns):
        if next(turns) % 2:
            key = {"customer_id": owner["customer_id"], "id": run_id}
            try:
                return function(conn, **key, **arguments[end])
            except IllegalTransition:
                assert end == "complete"
                return None
        return workflow_steps.add_workflow_step(
            conn,
            customer_id=owner["customer_id"],
            workflow_execution_id=run_id,
            step_name="late",
            step_order=1 + next(turns),
        )

    for _ in range(ROUNDS):
        with connect(database_url) as conn:
            run = workflow_executions.create_workflow_execution(
                conn, **owner, workflow_type=WorkflowType.COST_ANALYSIS, step_names=[]
            )
            workflow_executions.start_workflow_execution(
                conn, customer_id=run.customer_id, id=run.id
            )
        together(add_or_end, run.id, count())
        with connect(database_url) as conn:
            run = workflow_executions.get_workflow_execution(
                conn, customer_id=run.customer_id, id=run.id
            )
            steps = workflow_steps.list_workflow_steps(
                conn, customer_id=run.customer_id, workflow_execution_id=run.id
            )
        still_open = [step for step in steps if step.completed_at is None]
        assert (run.completed_at is None) or not still_open


def test_a_step_added_before_the_run_ends_is_seen_by_what_ends_it(database_url, owner):
    """The end waits for the step's transaction, and then looks anew."""
    with (
        connect(database_url) as adder,
        connect(database_url) as ender,
        ThreadPoolExecutor(1) as executor,
    ):
        run = workflow_executions.create_workflow_execution(
            adder, **owner, workflow_type=WorkflowType.COST_ANALYSIS, step_names=[]
        )
        key = {"customer_id": run.customer_id, "id": run.id}
        workflow_executions.start_workflow_execution(adder, **key)
        with adder.transaction():
            step = workflow_steps.add_workflow_step(
                adder,
                customer_id=run.customer_id,
                workflow_execution_id=run.id,
                step_name="late",
            )
            completing = executor.submit(
                workflow_executions.complete_workflow_execution, ender, **key, attempt=1
            )
            await_lock(adder, ender)
        with pytest.raises(IllegalTransition, match="has open steps"):
            completing.result()

        workflow_executions.cancel_workflow_execution(ender, **key, reason="x")
        (closed,) = workflow_steps.list_workflow_steps(
            ender, customer_id=run.customer_id, workflow_execution_id=run.id
        )
        assert (closed.id, closed.status) == (step.id, StepStatus.SKIPPED)


@pytest.mark.parametrize(
    "move", ["start_workflow_execution", "begin_workflow_execution", "fail_workflow_execution"]
)
def test_of_racing_transitions_of_a_run_one_wins(database_url, owner, together, move):
    arguments = {"attempt": 1, "error_details": {"message": "x"}} if "fail" in move else {}
    function = getattr(workflow_executions, move)
    for _ in range(ROUNDS):
        with connect(database_url) as conn:
            key = {"customer_id": owner["customer_id"], "id": create(conn, owner).id}
            if arguments:
                workflow_executions.start_workflow_execution(conn, **key)

        results = together(lambda conn, key=key: function(conn, **key, **arguments))

        assert len([result for result in results if result is not None]) == 1


def test_a_run_begins_with_the_step_that_is_left_when_its_first_is_skipped_meanwhile(
    database_url, owner
):
    with (
        connect(database_url) as skipper,
        connect(database_url) as beginner,
        ThreadPoolExecutor(1) as executor,
    ):
        for skipped, left in ((1, 2), (3, None)):
            run = create(skipper, owner)
            key = {"customer_id": run.customer_id, "id": run.id}
            plan = steps_of(skipper, *key.values())
            with skipper.transaction():
                for step in plan[:skipped]:
                    workflow_steps.skip_workflow_step(skipper, **step_attempt(step))
                beginning = executor.submit(
                    workflow_executions.begin_workflow_execution, beginner, **key
                )
                await_lock(skipper, beginner)

            step = beginning.result()
            assert (step and step.step_order) == left
            # A run that nobody was told to have begun did not begin.
            run = workflow_executions.get_workflow_execution(skipper, **key)
            assert run.status is (WorkflowStatus.RUNNING if left else WorkflowStatus.PENDING)


def test_a_run_is_finished_or_cancelled_and_never_both(database_url, owner, together):
    def finish_or_cancel(conn, step, turns):
        key = {"customer_id": step.customer_id, "id": step.workflow_execution_id}
        if next(turns) % 2:
            return workflow_executions.cancel_workflow_execution(conn, **key, reason="x")
        return workflow_executions.finish_workflow_execution(
            conn,
            **key,
            workflow_step_id=step.id,
            retry_count=step.retry_count,
            output_data={"savings": 1},
            step_output_data={"pages": 1},
            artifacts=[artifact_left()],
        )

    for _ in range(ROUNDS):
        with connect(database_url) as conn:
            step = begun(conn, owner)
            for other in steps_of(conn, step.customer_id, step.workflow_execution_id)[1:]:
                workflow_steps.skip_workflow_step(conn, **step_attempt(other))

        results = together(finish_or_cancel, step, count())

        (run,) = [result for result in results if result is not None]
        with connect(database_url) as conn:
            detail = workflow_executions.get_workflow_detail(
                conn, customer_id=run.customer_id, id=run.id
            )
        assert detail.workflow_execution == run
        step, *_ = detail.steps
        left = [artifact.artifact_path for artifact in detail.artifacts]
        if run.status is WorkflowStatus.COMPLETED:
            assert (step.status, step.output_data) == (StepStatus.COMPLETED, {"pages": 1})
            assert left == [artifact_left()["artifact_path"]]
        else:
            assert run.status is WorkflowStatus.CANCELLED
            assert (step.status, step.output_data, left) == (StepStatus.FAILED, {}, [])


@pytest.mark.parametrize("is_same", [True, False])
def test_a_step_that_leaves_what_is_being_registered_waits_and_then_looks(
    database_url, owner, is_same
):
    with (
        connect(database_url) as registrar,
        connect(database_url) as advancer,
        ThreadPoolExecutor(1) as executor,
    ):
        step = begun(registrar, owner)
        of_run = {
            "customer_id": step.customer_id,
            "workflow_execution_id": step.workflow_execution_id,
        }
        with registrar.transaction():
            there = workflow_artifacts.register_workflow_artifact(
                registrar,
                **of_run,
                artifact_type=ArtifactType.LOG,
                artifact_name="Log",
                artifact_path="s3://bucket/log",
                artifact_size_bytes=0,
                content_type="text/plain",
                sha256=bytes(32),
            )
            advancing = executor.submit(
                workflow_steps.advance_workflow_step,
                advancer,
                **step_attempt(step),
                artifacts=[
                    artifact_left(
                        artifact_path="s3://bucket/log", sha256=("00" if is_same else "11") * 32
                    )
                ],
            )
            await_lock(registrar, advancer)

        if is_same:
            assert len(advancing.result()) == 2
        else:
            with pytest.raises(InvalidValue, match="s3://bucket/log"):
                advancing.result()
            assert workflow_steps.get_workflow_step(registrar, **step_key(step)) == step
        assert workflow_artifacts.list_workflow_artifacts(registrar, **of_run) == [there]


def test_importers_of_the_same_runs_at_once_write_each_once(database_url, owner, together):
    """In whatever order each of them lists the runs."""

    def record(conn, runs, turns):
        listed = runs[::-1] if next(turns) % 2 else runs
        return workflow_executions.record_workflow_executions(
            conn, customer_id=owner["customer_id"], runs=listed
        )

    for _ in range(ROUNDS):
        runs = [
            {
                "id": str(uuid4()),
                "agent_id": str(owner["agent_id"]),
                "workflow_type": "cost_analysis",
                "status": "pending",
                "steps": [{"step_name": "a", "step_order": 1, "status": "pending"}],
                "artifacts": [artifact_left(step_order=1)],
            }
            for _ in range(20)
        ]

        made = [row for rows in together(record, runs, count()) for row in rows]

        ids = {UUID(run["id"]) for run in runs}
        assert len(made) == WRITERS * len(runs)
        assert sorted(row.id for row in made if row.is_new) == sorted(ids)
        with connect(database_url) as conn:
            for run_id in ids:
                detail = workflow_executions.get_workflow_detail(
                    conn, customer_id=owner["customer_id"], id=run_id
                )
                assert (len(detail.steps), len(detail.artifacts)) == (1, 1)


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

            step_key = run_key | {"id": first.id, "retry_count": 0}

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
