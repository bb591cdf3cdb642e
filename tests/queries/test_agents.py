from datetime import timedelta

import pytest
from psycopg.errors import CheckViolation

from optiinfra_db import connect
from optiinfra_db.generated import agents
from optiinfra_db.generated.models import AgentStatus, AgentStatusDetail, AgentType

from .database import key, run_attempt


def back_date(db, agent, **minutes):
    for column, number in minutes.items():
        db.execute(
            f"UPDATE agents SET {column} = now() - make_interval(mins => {number}) "
            f"WHERE id = '{agent.id}'"
        )


def cutoff(db, agent, minutes):
    """Return the time so many minutes ago, by the clock of the database."""
    return db.agents.record_agent_heartbeat(id=agent.id).last_heartbeat - timedelta(minutes=minutes)


def fail_stale(db, at, max_rows=9):
    return db.agents.fail_stale_agents(cutoff=at, max_rows=max_rows)


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


def test_an_agent_that_registers_again_is_not_stale_for_its_silence_before(db):
    agent = db.make_agent(name="cost-1")
    back_date(db, agent, created_at=60)

    again = db.make_agent(name="cost-1")

    assert again.last_heartbeat is not None
    assert fail_stale(db, cutoff(db, again, 30)) == []


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


def test_heartbeat_notes_what_an_agent_uses_in_a_state_of_its_own(db):
    agent = db.make_agent()
    get_state = db.agent_states.get_agent_state

    db.agents.record_agent_heartbeat(id=agent.id)
    assert get_state(agent_id=agent.id) is None

    beaten = db.agents.record_agent_heartbeat(
        id=agent.id, status=AgentStatus.HEALTHY, resource_usage={"cpu_percent": 71.5}
    )
    first = get_state(agent_id=agent.id)
    assert beaten == db.agents.get_agent(id=agent.id)
    assert first.resource_usage == {"cpu_percent": 71.5}
    assert first.last_activity == beaten.last_heartbeat

    db.agent_states.upsert_agent_state(agent_id=agent.id, current_status=AgentStatusDetail.BUSY)
    db.execute("UPDATE agent_states SET last_activity = '2026-01-01'")
    db.agents.record_agent_heartbeat(id=agent.id, resource_usage={"memory_mb": 512})
    second = get_state(agent_id=agent.id)
    assert (second.id, second.current_status) == (first.id, AgentStatusDetail.BUSY)
    assert second.resource_usage == {"memory_mb": 512}
    assert second.last_activity == first.last_activity

    db.agents.record_agent_heartbeat(id=agent.id)
    assert get_state(agent_id=agent.id) == second


def test_heartbeat_with_a_usage_of_the_wrong_shape_or_of_no_agent_notes_nothing(db):
    agent = db.make_agent()

    with db.refused(CheckViolation, "agent_states_resource_usage_check"):
        db.agents.record_agent_heartbeat(id=agent.id, resource_usage=[1])
    assert db.agents.get_agent(id=agent.id) == agent
    nobody = db.make_customer().id
    assert db.agents.record_agent_heartbeat(id=nobody, resource_usage={"cpu_percent": 1}) is None
    assert db.agent_states.list_agent_states(max_rows=9) == []


def test_agents_that_fell_silent_are_failed_longest_silent_first(db):
    fresh, late, later, never = (db.make_agent(name=name) for name in ("a", "b", "c", "d"))
    for agent, minutes in ((late, 40), (later, 50)):
        db.agents.record_agent_heartbeat(id=agent.id, status=AgentStatus.HEALTHY)
        back_date(db, agent, last_heartbeat=minutes)
    back_date(db, never, created_at=60)
    at = cutoff(db, fresh, 30)

    (first,) = fail_stale(db, at, max_rows=1)
    rest = fail_stale(db, at)

    assert (first.id, first.status) == (never.id, AgentStatus.FAILED)
    assert first == db.agents.get_agent(id=never.id)
    assert [agent.id for agent in rest] == [late.id, later.id]
    assert {agent.status for agent in rest} == {AgentStatus.FAILED}
    assert fail_stale(db, at) == []
    assert db.agents.get_agent(id=fresh.id).status is AgentStatus.STARTING
    returned = db.agents.record_agent_heartbeat(id=late.id, status=AgentStatus.HEALTHY)
    assert returned.status is AgentStatus.HEALTHY
    assert fail_stale(db, at) == []


@pytest.mark.parametrize("status", [AgentStatus.STOPPED, AgentStatus.FAILED])
def test_agents_that_stopped_or_failed_are_left_as_they_are(db, status):
    agent = db.make_agent()
    db.agents.record_agent_heartbeat(id=agent.id, status=status)
    back_date(db, agent, last_heartbeat=60)
    before = db.agents.get_agent(id=agent.id)

    assert fail_stale(db, cutoff(db, db.make_agent(), 30)) == []
    assert db.agents.get_agent(id=agent.id) == before


def test_an_agent_that_reports_at_the_moment_is_left_alone_and_not_waited_for(database_url):
    with connect(database_url) as sweeper, connect(database_url) as reporter:
        agent = agents.upsert_agent(reporter, type=AgentType.COST, name="a", version="1")
        with reporter.transaction():
            agents.record_agent_heartbeat(reporter, id=agent.id)
            sweeper.execute("SET lock_timeout = '5s'")
            after_it_registered = sweeper.execute("SELECT now()").fetchone()[0]
            assert agents.fail_stale_agents(sweeper, cutoff=after_it_registered, max_rows=9) == []
        (failed,) = agents.fail_stale_agents(
            sweeper, cutoff=after_it_registered + timedelta(days=1), max_rows=9
        )
    assert failed.id == agent.id


def make_able(db, name, status=AgentStatus.HEALTHY, enabled=True, **given):
    agent = db.make_agent(name=name, **given)
    db.agent_capabilities.upsert_agent_capability(
        agent_id=agent.id, capability_name="scale", enabled=enabled
    )
    return db.agents.record_agent_heartbeat(id=agent.id, status=status)


def available(db, max_rows=9, **given):
    rows = db.agents.list_available_agents(capability_name="scale", max_rows=max_rows, **given)
    return [(row.agent.name, row.running_runs) for row in rows]


def test_available_agents_are_listed_least_loaded_first(db):
    idle, busy, lazy = (make_able(db, name) for name in ("c", "b", "a"))
    for agent, runs in ((busy, 2), (lazy, 1)):
        for _ in range(runs):
            db.start_run(db.make_run(agent=agent))
    db.make_run(agent=idle)  # pending: no load yet
    ended = db.start_run(db.make_run(agent=idle))
    db.workflow_executions.fail_workflow_execution(
        **run_attempt(ended), error_details={"message": "x"}
    )
    make_able(db, "d")

    assert available(db) == [("c", 0), ("d", 0), ("a", 1), ("b", 2)]
    assert available(db, max_rows=2) == [("c", 0), ("d", 0)]
    (row,) = db.agents.list_available_agents(capability_name="scale", max_rows=1)
    assert row.agent == db.agents.get_agent(id=idle.id)

    db.workflow_executions.cancel_workflow_execution(
        **key(db.workflow_executions.list_running_workflows(max_rows=1)[0]), reason="x"
    )
    assert sum(load for _, load in available(db)) == 2


def test_only_healthy_agents_with_the_capability_switched_on_are_available(db):
    for status in AgentStatus:
        make_able(db, status.value, status=status)
    make_able(db, "off", enabled=False)
    other = db.make_agent(name="other")
    db.agents.record_agent_heartbeat(id=other.id, status=AgentStatus.HEALTHY)
    db.agent_capabilities.upsert_agent_capability(agent_id=other.id, capability_name="report")

    assert available(db) == [("healthy", 0)]
    agent = db.agents.get_agent_by_name(type=AgentType.COST, name="healthy")
    db.agent_capabilities.set_agent_capability_enabled(
        agent_id=agent.id, capability_name="scale", enabled=False
    )
    assert available(db) == []


def test_available_agents_may_be_asked_for_by_type(db):
    make_able(db, "a")
    make_able(db, "b", type=AgentType.RESOURCE)

    assert available(db) == [("a", 0), ("b", 0)]
    assert available(db, type=AgentType.RESOURCE) == [("b", 0)]
    assert available(db, type=AgentType.APPLICATION) == []


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
