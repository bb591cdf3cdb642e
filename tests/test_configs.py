from decimal import Decimal
from enum import StrEnum
from uuid import uuid4

import pytest

from optiinfra_db.configs import (
    get_config,
    get_config_async,
    parse_config,
    set_config,
    set_config_async,
)
from optiinfra_db.errors import InvalidValue, NotFound
from optiinfra_db.generated import agent_configs, agents
from optiinfra_db.generated.aio import agents as agents_async
from optiinfra_db.generated.models import AgentType, ConfigType

ROUND_TRIPS = [
    ("s3://reports", ConfigType.STRING),
    ("", ConfigType.STRING),
    ("true", ConfigType.STRING),
    (0, ConfigType.INTEGER),
    (2**63 - 1, ConfigType.INTEGER),
    (-(2**63), ConfigType.INTEGER),
    (0.1, ConfigType.FLOAT),
    (2.0, ConfigType.FLOAT),
    (-1e-300, ConfigType.FLOAT),
    (1.7976931348623157e308, ConfigType.FLOAT),
    (True, ConfigType.BOOLEAN),
    (False, ConfigType.BOOLEAN),
    (None, ConfigType.JSON),
    (["aws", "gcp"], ConfigType.JSON),
    ({"gpu": {"max": 2**70, "spot": None, "name": "Ä\U0001f600"}}, ConfigType.JSON),
]


@pytest.fixture
def setting(conn):
    agent = agents.upsert_agent(conn, type=AgentType.COST, name="cost", version="1")
    return {"agent_id": agent.id, "config_key": "limits"}


@pytest.mark.parametrize(("value", "config_type"), ROUND_TRIPS)
def test_a_value_is_read_back_as_what_it_was_set_to(conn, setting, value, config_type):
    config = set_config(conn, **setting, value=value)

    assert config.config_type is config_type
    for read in (get_config(conn, **setting), parse_config(config)):
        assert (read, type(read)) == (value, type(value))


async def test_the_asynchronous_twins_do_the_same(aconn):
    agent = await agents_async.upsert_agent(aconn, type=AgentType.COST, name="cost", version="1")
    setting = {"agent_id": agent.id, "config_key": "limits"}

    assert await get_config_async(aconn, **setting) is None
    assert await get_config_async(aconn, **setting, default=3) == 3
    for value, config_type in ROUND_TRIPS:
        config = await set_config_async(aconn, **setting, value=value, description="Limits.")
        assert (config.config_type, config.description) == (config_type, "Limits.")
        assert await get_config_async(aconn, **setting, default=3) == value
    with pytest.raises(InvalidValue, match="the setting limits") as caught:
        await set_config_async(aconn, **setting, value="x", config_type=ConfigType.FLOAT)
    assert caught.value.field == "config_value"


def test_a_setting_that_is_not_there_has_the_default_and_a_null_is_one(conn, setting):
    assert get_config(conn, **setting) is None
    assert get_config(conn, **setting, default=[]) == []

    set_config(conn, **setting, value=None)
    assert get_config(conn, **setting, default=[]) is None


def test_setting_again_takes_the_type_of_the_new_value_and_keeps_the_description(conn, setting):
    set_config(conn, **setting, value=1, description="How many.")

    config = set_config(conn, **setting, value="many")

    assert (config.config_type, config.description) == (ConfigType.STRING, "How many.")
    assert get_config(conn, **setting) == "many"


@pytest.mark.parametrize(
    ("value", "config_type", "read"),
    [
        (1, ConfigType.FLOAT, 1.0),
        (1, ConfigType.JSON, 1),
        ("1", ConfigType.JSON, "1"),
        (1.5, ConfigType.JSON, 1.5),
        (True, ConfigType.JSON, True),
        (2**70, ConfigType.JSON, 2**70),
        (5, "integer", 5),
    ],
)
def test_a_value_may_be_set_as_another_type_that_it_fits(conn, setting, value, config_type, read):
    config = set_config(conn, **setting, value=value, config_type=config_type)

    assert config.config_type == config_type
    found = get_config(conn, **setting)
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize(
    ("value", "config_type"),
    [
        ("1", ConfigType.INTEGER),
        (1.0, ConfigType.INTEGER),
        (True, ConfigType.INTEGER),
        (None, ConfigType.INTEGER),
        (2**63, None),
        (-(2**63) - 1, None),
        pytest.param(10**5000, None, id="5000 digits"),
        (True, ConfigType.FLOAT),
        ("1.5", ConfigType.FLOAT),
        (float("nan"), None),
        (float("-inf"), None),
        (10**400, ConfigType.FLOAT),
        (1, ConfigType.BOOLEAN),
        ("true", ConfigType.BOOLEAN),
        (1, ConfigType.STRING),
        (b"bytes", ConfigType.STRING),
        ("nul \0", None),
        ("surrogate \ud800", None),
        (["nul \0"], None),
        ([float("inf")], None),
        ({1: "one"}, None),
        (("a", "b"), None),
        (Decimal("1.5"), None),
        (object(), None),
    ],
)
def test_a_value_that_is_not_of_its_type_is_refused_by_name(conn, setting, value, config_type):
    with pytest.raises(InvalidValue, match="the setting limits") as caught, conn.transaction():
        set_config(conn, **setting, value=value, config_type=config_type)

    assert (caught.value.table, caught.value.field) == ("agent_configs", "config_value")
    assert get_config(conn, **setting) is None


def test_json_that_is_too_deep_or_holds_itself_is_refused_by_name(conn, setting):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    loop = []
    loop.append(loop)

    for value in (deep, loop):
        with pytest.raises(InvalidValue, match="the setting limits"):
            set_config(conn, **setting, value=value)


def test_a_setting_of_no_agent_or_without_a_key_is_refused_as_such(conn, setting):
    with pytest.raises(NotFound) as of_nobody, conn.transaction():
        set_config(conn, agent_id=uuid4(), config_key="limits", value=1)
    assert of_nobody.value.field == "agent_id"
    with pytest.raises(InvalidValue) as without_key, conn.transaction():
        set_config(conn, agent_id=setting["agent_id"], config_key="", value=1)
    assert without_key.value.field == "config_key"


def test_a_member_of_an_enum_is_set_as_its_value(conn, setting):
    class Region(StrEnum):
        EAST = "us-east-1"

    set_config(conn, **setting, value=Region.EAST)

    assert get_config(conn, **setting) == "us-east-1"


@pytest.mark.parametrize(
    ("config_type", "text", "value"),
    [
        (ConfigType.INTEGER, "+007", 7),
        (ConfigType.FLOAT, "-.5", -0.5),
        (ConfigType.FLOAT, "5.", 5.0),
        (ConfigType.FLOAT, "1", 1.0),
        (ConfigType.BOOLEAN, "true", True),
        (ConfigType.JSON, ' {"a": [1, null]} ', {"a": [1, None]}),
    ],
)
def test_what_was_typed_in_psql_is_read_as_its_type_says(conn, setting, config_type, text, value):
    agent_configs.upsert_agent_config(conn, **setting, config_value=text, config_type=config_type)

    read = get_config(conn, **setting)
    assert (read, type(read)) == (value, type(value))


def test_a_number_that_python_cannot_hold_is_refused_by_name(conn, setting):
    agent_configs.upsert_agent_config(
        conn, **setting, config_value='{"max": 1e400}', config_type=ConfigType.JSON
    )

    with pytest.raises(InvalidValue, match=r"the setting limits .* too large") as caught:
        get_config(conn, **setting)
    assert caught.value.field == "config_value"
