import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation, UniqueViolation

from optiinfra_db.generated.models import AgentStatusDetail

from .database import key


@pytest.fixture
def agent(db):
    return db.make_agent()


def put(db, agent, status=AgentStatusDetail.IDLE, **given):
    return db.agent_states.upsert_agent_state(agent_id=agent.id, current_status=status, **given)


def test_a_state_is_read_back_with_defaults(db, agent):
    made = put(db, agent)

    assert made.current_status is AgentStatusDetail.IDLE
    assert (made.active_workflows, made.locks, made.resource_usage, made.metadata) == (
        [],
        {},
        {},
        {},
    )
    assert (made.current_workflow_customer_id, made.current_workflow_id) == (None, None)
    assert db.agent_states.get_agent_state(agent_id=agent.id) == made


def test_an_agent_has_one_state(db, agent):
    first = put(db, agent, resource_usage={"cpu_percent": 1.5}, active_workflows=["a"])

    second = put(db, agent, AgentStatusDetail.BUSY)

    assert (second.id, second.current_status) == (first.id, AgentStatusDetail.BUSY)
    assert (second.resource_usage, second.active_workflows) == ({"cpu_percent": 1.5}, ["a"])
    with db.refused(UniqueViolation, "agent_states_agent_id_key"):
        db.execute(f"INSERT INTO agent_states (agent_id) VALUES ('{agent.id}')")


def test_current_workflow_is_set_cleared_and_found(db, agent):
    run = db.make_run(agent=agent)
    set_run = {
        "agent_id": agent.id,
        "customer_id": run.customer_id,
        "workflow_execution_id": run.id,
    }
    assert db.agent_states.set_agent_current_workflow(**set_run) is None
    put(db, agent)

    state = db.agent_states.set_agent_current_workflow(**set_run)

    assert (state.current_workflow_customer_id, state.current_workflow_id) == (
        run.customer_id,
        run.id,
    )
    assert db.agent_states.list_agent_states_by_workflow(
        customer_id=run.customer_id, workflow_execution_id=run.id
    ) == [state]
    cleared = db.agent_states.clear_agent_current_workflow(agent_id=agent.id)
    assert (cleared.current_workflow_customer_id, cleared.current_workflow_id) == (None, None)


def test_current_workflow_is_cleared_when_its_run_goes(db, agent):
    run = db.make_run(agent=db.make_agent())
    put(db, agent)
    db.agent_states.set_agent_current_workflow(
        agent_id=agent.id, customer_id=run.customer_id, workflow_execution_id=run.id
    )

    db.workflow_executions.delete_workflow_execution(**key(run))

    state = db.agent_states.get_agent_state(agent_id=agent.id)
    assert (state.current_workflow_customer_id, state.current_workflow_id) == (None, None)


def test_an_unknown_run_cannot_be_the_current_one(db, agent):
    put(db, agent)
    run = db.make_run()

    with db.refused(ForeignKeyViolation, "agent_states_current_workflow_id_fkey"):
        db.agent_states.set_agent_current_workflow(
            agent_id=agent.id, customer_id=db.make_customer().id, workflow_execution_id=run.id
        )


@pytest.mark.parametrize(
    ("field", "value"),
    [("active_workflows", {}), ("resource_usage", []), ("metadata", 1)],
)
def test_values_of_the_wrong_shape_are_refused(db, agent, field, value):
    with db.refused(CheckViolation, f"agent_states_{field}_check"):
        put(db, agent, **{field: value})


def test_states_are_listed_with_their_agents_and_deleted(db, agent):
    state = put(db, agent)

    (row,) = db.agent_states.list_agent_states(max_rows=9)
    assert (row.agent, row.agent_state) == (agent, state)

    assert db.agent_states.delete_agent_state(agent_id=agent.id) == 1
    assert db.agent_states.delete_agent_state(agent_id=agent.id) == 0
    assert db.agent_states.get_agent_state(agent_id=agent.id) is None
