import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation

from optiinfra_db.generated.models import ConfigType


@pytest.fixture
def agent(db):
    return db.make_agent()


def put(db, agent, key, value, **given):
    return db.agent_configs.upsert_agent_config(
        agent_id=agent.id, config_key=key, config_value=value, **given
    )


def test_a_setting_is_read_back_with_defaults(db, agent):
    made = put(db, agent, "bucket", "s3://a")

    assert (made.config_type, made.description) == (ConfigType.STRING, "")
    assert db.agent_configs.get_agent_config(agent_id=agent.id, config_key="bucket") == made


def test_setting_again_replaces_the_value_in_the_one_row_of_the_key(db, agent):
    first = put(db, agent, "days", "30", config_type=ConfigType.INTEGER, description="Look-back.")

    second = put(db, agent, "days", "60", config_type=ConfigType.INTEGER)

    assert (second.id, second.config_value) == (first.id, "60")
    assert second.description == "Look-back."
    assert db.agent_configs.list_agent_configs(agent_id=agent.id) == [second]


@pytest.mark.parametrize(
    ("config_type", "value"),
    [
        ("string", ""),
        ("integer", "-9223372036854775808"),
        ("float", "1e-3"),
        ("float", "-.5"),
        ("boolean", "true"),
        ("boolean", "false"),
        ("json", '{"a": [1, null]}'),
        ("json", "null"),
    ],
)
def test_a_value_that_parses_as_its_type_is_taken(db, agent, config_type, value):
    assert put(db, agent, "key", value, config_type=ConfigType(config_type)).config_value == value


@pytest.mark.parametrize(
    ("config_type", "value"),
    [
        ("integer", ""),
        ("integer", "1.5"),
        ("integer", "0x1F"),
        ("integer", "1_000"),
        ("integer", "9223372036854775808"),
        ("float", "fast"),
        ("float", "1e999"),
        ("float", "NaN"),
        ("float", "-Infinity"),
        ("float", "0x1p3"),
        ("boolean", "yes"),
        ("boolean", "TRUE"),
        ("json", "{a: 1}"),
        ("json", ""),
        ("json", '"\\u0000"'),
    ],
)
def test_a_value_that_does_not_parse_as_its_type_is_refused(db, agent, config_type, value):
    with db.refused(CheckViolation, "agent_configs_config_value_check"):
        put(db, agent, "key", value, config_type=ConfigType(config_type))
    assert db.agent_configs.list_agent_configs(agent_id=agent.id) == []


def test_a_setting_of_an_unknown_agent_or_without_a_key_is_refused(db, agent):
    with db.refused(ForeignKeyViolation, "agent_configs_agent_id_fkey"):
        put(db, db.make_customer(), "key", "value")
    with db.refused(CheckViolation, "agent_configs_config_key_check"):
        put(db, agent, "", "value")


def test_settings_are_listed_by_key_and_deleted(db, agent):
    b, a = put(db, agent, "b", "2"), put(db, agent, "a", "1")
    put(db, db.make_agent(), "c", "3")

    assert db.agent_configs.list_agent_configs(agent_id=agent.id) == [a, b]
    assert db.agent_configs.delete_agent_config(agent_id=agent.id, config_key="a") == 1
    assert db.agent_configs.delete_agent_config(agent_id=agent.id, config_key="a") == 0
    assert db.agent_configs.get_agent_config(agent_id=agent.id, config_key="a") is None
