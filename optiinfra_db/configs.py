"""The settings of agents as Python values: int, float, bool, str or JSON, as the type of each says.

The generated functions of `agent_configs` read and write a setting as the text that PostgreSQL
holds; these convert it.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection, Connection

from optiinfra_db.errors import InvalidValue
from optiinfra_db.generated import agent_configs
from optiinfra_db.generated.aio import agent_configs as agent_configs_async
from optiinfra_db.generated.models import JSON, AgentConfig, ConfigType

__all__ = ["get_config", "get_config_async", "parse_config", "set_config", "set_config_async"]


def get_config(
    conn: Connection[Any], *, agent_id: UUID, config_key: str, default: JSON = None
) -> JSON:
    """Return the value of a setting of an agent, or the default where it has none.

    Raises InvalidValue as `parse_config` does.
    """
    config = agent_configs.get_agent_config(conn, agent_id=agent_id, config_key=config_key)
    return default if config is None else parse_config(config)


async def get_config_async(
    conn: AsyncConnection[Any], *, agent_id: UUID, config_key: str, default: JSON = None
) -> JSON:
    """Return what `get_config` does."""
    config = await agent_configs_async.get_agent_config(
        conn, agent_id=agent_id, config_key=config_key
    )
    return default if config is None else parse_config(config)


def set_config(
    conn: Connection[Any],
    *,
    agent_id: UUID,
    config_key: str,
    value: JSON,
    config_type: ConfigType | None = None,
    description: str | None = None,
) -> AgentConfig:
    """Set a setting of an agent, and return its row; a description that is not given stays.

    Its type is that of the value: a boolean, integer, float or string, and JSON for all else. Given
    as config_type, it must fit: JSON fits every value, a float also an int.

    Raises InvalidValue, with the key in its text, where the value is not of the type, an int beyond
    64 bits, NaN or an infinity, or not JSON; and NotFound where there is no such agent.
    """
    with _refusals(config_key):
        config_type, text = _written(value, config_type)
    return agent_configs.upsert_agent_config(
        conn,
        agent_id=agent_id,
        config_key=config_key,
        config_value=text,
        config_type=config_type,
        description=description,
    )


async def set_config_async(
    conn: AsyncConnection[Any],
    *,
    agent_id: UUID,
    config_key: str,
    value: JSON,
    config_type: ConfigType | None = None,
    description: str | None = None,
) -> AgentConfig:
    """Do what `set_config` does."""
    with _refusals(config_key):
        config_type, text = _written(value, config_type)
    return await agent_configs_async.upsert_agent_config(
        conn,
        agent_id=agent_id,
        config_key=config_key,
        config_value=text,
        config_type=config_type,
        description=description,
    )


def parse_config(config: AgentConfig) -> JSON:
    """Return the value of a setting that was read by another function, such as list_agent_configs.

    Raises InvalidValue, with the key in its text, where Python cannot hold what PostgreSQL can: a
    number in JSON that is too large for a float.
    """
    with _refusals(config.config_key):
        return _READERS[config.config_type](config.config_value)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large for a float")
    return number


_READERS: dict[ConfigType, Callable[[str], JSON]] = {
    ConfigType.STRING: str,
    ConfigType.INTEGER: int,
    ConfigType.FLOAT: _finite,
    ConfigType.BOOLEAN: json.loads,
    ConfigType.JSON: lambda text: json.loads(text, parse_float=_finite),
}


def _written(value: JSON, config_type: ConfigType | None) -> tuple[ConfigType, str]:
    """Return the type of a value and its text, which is JSON but for a string."""
    own_type = _type_of(value)
    fits = {own_type, ConfigType.JSON}
    if own_type is ConfigType.INTEGER:
        fits.add(ConfigType.FLOAT)
    config_type = config_type or own_type
    if config_type not in fits:
        raise TypeError(f"{value!r} is not of the type {config_type}")
    if config_type == ConfigType.INTEGER and not -(2**63) <= value < 2**63:
        raise ValueError(f"{value} is beyond 64 bits")
    if config_type == ConfigType.FLOAT:
        float(value)  # an int may be too large
    is_text = config_type == ConfigType.STRING
    text = value if is_text else json.dumps(value, allow_nan=False, ensure_ascii=False)
    if config_type == ConfigType.JSON and json.loads(text) != value:
        raise TypeError(f"{value!r} would not be read back from JSON as it is")
    if ("\0" if is_text else "\\u0000") in text:
        raise ValueError("text cannot hold NUL")
    text.encode()  # or it cannot be sent
    return config_type, text


def _type_of(value: JSON) -> ConfigType:
    match value:
        case bool():
            return ConfigType.BOOLEAN
        case int():
            return ConfigType.INTEGER
        case float():
            return ConfigType.FLOAT
        case str():
            return ConfigType.STRING
        case _:
            return ConfigType.JSON


@contextmanager
def _refusals(config_key: str) -> Iterator[None]:
    """Name the setting in what is raised about its value."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidValue(
            f"agent_configs.config_value: the setting {config_key} cannot have this value: {error}",
            sqlstate=None,
            table="agent_configs",
            constraint=None,
            field="config_value",
        ) from error
