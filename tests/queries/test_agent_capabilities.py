import pytest
from psycopg.errors import CheckViolation, UniqueViolation


@pytest.fixture
def agent(db):
    return db.make_agent()


def put(db, agent, name, **given):
    return db.agent_capabilities.upsert_agent_capability(
        agent_id=agent.id, capability_name=name, **given
    )


def test_a_capability_is_read_back_with_defaults(db, agent):
    made = put(db, agent, "scale")

    assert (made.capability_version, made.enabled) == ("1.0.0", True)
    assert (made.config, made.description) == ({}, "")
    get = db.agent_capabilities.get_agent_capability
    assert get(agent_id=agent.id, capability_name="scale") == made
    assert get(agent_id=agent.id, capability_name="other") is None


def test_an_agent_has_a_capability_once(db, agent):
    first = put(db, agent, "scale", config={"max": 8}, enabled=False)

    second = put(db, agent, "scale", capability_version="2.0.0")

    assert (second.id, second.capability_version) == (first.id, "2.0.0")
    assert (second.config, second.enabled) == ({"max": 8}, False)
    with db.refused(UniqueViolation, "agent_capabilities_agent_id_capability_name_key"):
        db.execute(
            "INSERT INTO agent_capabilities (agent_id, capability_name)"
            f"VALUES ('{agent.id}', 'scale')"
        )


def test_a_capability_is_switched_off_and_on(db, agent):
    put(db, agent, "scale")
    switch = db.agent_capabilities.set_agent_capability_enabled

    assert not switch(agent_id=agent.id, capability_name="scale", enabled=False).enabled
    assert switch(agent_id=agent.id, capability_name="scale", enabled=True).enabled
    assert switch(agent_id=agent.id, capability_name="other", enabled=True) is None


def test_values_out_of_range_are_refused(db, agent):
    with db.refused(CheckViolation, "agent_capabilities_capability_name_check"):
        put(db, agent, "")
    with db.refused(CheckViolation, "agent_capabilities_config_check"):
        put(db, agent, "scale", config=[])


def test_capabilities_are_listed_by_name_and_deleted(db, agent):
    b, a = put(db, agent, "b"), put(db, agent, "a")
    put(db, db.make_agent(), "c")

    assert db.agent_capabilities.list_agent_capabilities(agent_id=agent.id) == [a, b]
    delete = db.agent_capabilities.delete_agent_capability
    assert delete(agent_id=agent.id, capability_name="a") == 1
    assert delete(agent_id=agent.id, capability_name="a") == 0
