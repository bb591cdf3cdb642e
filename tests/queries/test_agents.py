import pytest
from psycopg.errors import CheckViolation

from optiinfra_db.generated.models import AgentStatus, AgentType


def test_registered_agent_is_read_back_with_defaults(db):
    agent = db.agents.upsert_agent(type=AgentType.COST, name="cost-1", version="1.0")

    assert agent.status is AgentStatus.STARTING
    assert (agent.last_heartbeat, agent.endpoint) == (None, None)
    assert (agent.capabilities, agent.metadata) == ([], {})
    assert db.agents.get_agent(id=agent.id) == agent
    assert db.agents.get_agent_by_name(type=AgentType.COST, name="cost-1") == agent
    assert db.agents.get_agent_by_name(type=AgentType.RESOURCE, name="cost-1") is None


def test_registering_again_finds_the_same_agent_starting_anew(db):
    first = db.make_agent(name="cost-1", version="1.0")
    db.agents.record_agent_heartbeat(id=first.id, status=AgentStatus.HEALTHY)

    again = db.make_agent(name="cost-1", version="2.0", capabilities=["a"], endpoint="http://x")

    assert again.id == first.id
    assert (again.version, again.status) == ("2.0", AgentStatus.STARTING)
    assert (again.capabilities, again.endpoint) == (["a"], "http://x")


def test_type_and_name_are_unique_together(db):
    cost = db.make_agent(type=AgentType.COST, name="one")
    resource = db.make_agent(type=AgentType.RESOURCE, name="one")

    assert cost.id != resource.id
    assert db.agents.list_agents_by_type(type=AgentType.COST) == [cost]


def test_heartbeat_notes_time_and_health(db):
    agent = db.make_agent()

    beaten = db.agents.record_agent_heartbeat(id=agent.id, status=AgentStatus.DEGRADED)
    assert beaten.last_heartbeat is not None
    assert beaten.status is AgentStatus.DEGRADED

    assert db.agents.record_agent_heartbeat(id=agent.id).status is AgentStatus.DEGRADED
    assert db.agents.record_agent_heartbeat(id=db.make_customer().id) is None


def test_agents_are_listed_newest_first_page_by_page(db):
    made = [db.make_agent() for _ in range(4)]

    first = db.agents.list_agents(max_rows=3)
    rest = db.agents.list_agents(max_rows=3, before_id=first[-1].id)

    assert first + rest == made[::-1]


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", ""), ("version", ""), ("endpoint", ""), ("capabilities", {}), ("metadata", [])],
)
def test_values_out_of_range_are_refused(db, field, value):
    with db.refused(CheckViolation, f"agents_{field}_check"):
        db.make_agent(**{field: value})


def test_deleting_an_agent_deletes_its_runs_and_state_but_not_the_events(db):
    customer, agent = db.make_customer(), db.make_agent()
    run = db.make_run(customer, agent)
    db.make_recommendation(customer, agent)
    db.agent_states.upsert_agent_state(agent_id=agent.id, current_status="busy")
    db.agent_configs.upsert_agent_config(agent_id=agent.id, config_key="a", config_value="b")
    db.agent_capabilities.upsert_agent_capability(agent_id=agent.id, capability_name="a")
    db.agent_metrics.create_agent_metric(agent_id=agent.id, metric_name="a", metric_value=1)
    event = db.events.create_event(customer_id=customer.id, agent_id=agent.id, event_type="a")

    assert db.agents.delete_agent(id=agent.id) == 1

    get_run = db.workflow_executions.get_workflow_execution
    assert get_run(customer_id=customer.id, id=run.id) is None
    assert db.recommendations.list_recommendations(customer_id=customer.id, max_rows=9) == []
    assert db.agent_states.get_agent_state(agent_id=agent.id) is None
    assert db.agent_configs.list_agent_configs(agent_id=agent.id) == []
    assert db.agent_capabilities.list_agent_capabilities(agent_id=agent.id) == []
    assert db.agent_metrics.get_latest_agent_metric(agent_id=agent.id, metric_name="a") is None
    kept = db.events.list_events(customer_id=customer.id, max_rows=9)
    assert {row.event_type for row in kept} == {
        "a",
        "workflow_execution.pending",
        "recommendation.pending",
    }
    assert event.id in {row.id for row in kept}
    assert {row.agent_id for row in kept} == {None}
    assert db.agents.delete_agent(id=agent.id) == 0
