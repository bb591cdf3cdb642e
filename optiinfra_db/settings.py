"""Configuration from the environment: OPTIINFRA_DATABASE_URL and its like."""

import re
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from optiinfra_db.errors import InvalidPooler, InvalidURL

Pooler: TypeAlias = Literal["session", "transaction"]
"""What a pooler in between keeps a server connection of a client for."""


class Settings(BaseSettings):
    """What can be configured. An empty variable counts as not set."""

    model_config = SettingsConfigDict(
        env_prefix="OPTIINFRA_", env_ignore_empty=True, hide_input_in_errors=True, frozen=True
    )

    database_url: SecretStr | None = None
    """The database to use; without it, the embedded server."""

    data_dir: Path | None = None
    """Where the embedded server keeps its data; without it, a directory of the user's."""

    artifacts_url: str | None = None
    """Where the recorder stores artifacts, unless it is told: a folder or a URL of fsspec."""

    @field_validator("database_url")
    @classmethod
    def _check_url(cls, value: SecretStr | None) -> SecretStr | None:
        return value and SecretStr(checked_url(value.get_secret_value()))


class Pooling(BaseSettings):
    """What is between here and PostgreSQL. An empty variable counts as not set."""

    model_config = SettingsConfigDict(env_prefix="OPTIINFRA_", env_ignore_empty=True, frozen=True)

    pooler: Pooler | None = None
    """The pooler in between; without it, there is none."""

    @field_validator("pooler", mode="before")
    @classmethod
    def _check_pooler(cls, value: object) -> Pooler | None:
        return None if value is None else checked_pooler(value)


class Limits(BaseSettings):
    """How large JSON may be that is written. An empty variable counts as not set."""

    model_config = SettingsConfigDict(env_prefix="OPTIINFRA_", env_ignore_empty=True, frozen=True)

    max_json_bytes: int = Field(default=16 * 2**20, ge=1024, lt=2**28)
    """Bytes of JSON text that one value may take; beyond 256 MiB PostgreSQL refuses it itself."""

    max_json_depth: int = Field(default=100, ge=1, le=200)
    """How many containers may be in each other; Python's own readers refuse some hundreds."""


def checked_pooler(value: object) -> Pooler:
    """Return what was said of a pooler. Raises InvalidPooler where it is none that there is."""
    if value not in get_args(Pooler):
        raise InvalidPooler(
            f"pooler (OPTIINFRA_POOLER) is {' or '.join(get_args(Pooler))}, or not set where the "
            f"connection is to PostgreSQL itself; not {value!r}."
        )
    return cast("Pooler", value)


def checked_url(url: str) -> str:
    """Return the URL as libpq reads it.

    Raises InvalidURL if it is not a PostgreSQL URL. The message quotes nothing of the URL but a
    scheme: libpq's own messages can hold parts of a password.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        raise InvalidURL(
            "The database URL has no scheme. Give a PostgreSQL URL, "
            "such as postgresql://user:password@host:5432/dbname."
        )
    if scheme.lower() not in {"postgresql", "postgres", "postgresql+psycopg"}:
        raise InvalidURL(
            f"The database URL starts with {scheme}://, which is not PostgreSQL. "
            "Give a URL such as postgresql://user:password@host:5432/dbname."
        )
    # A password with a bare @ or / makes libpq take its remainder for the host, port or database,
    # and print it in the first error about those.
    credentials = re.match(r"[^@/]*@", rest)
    target = rest[credentials.end() if credentials else 0 :].partition("?")[0]
    normalised = f"postgresql://{rest}"
    try:
        parameters = conninfo_to_dict(normalised)
    except psycopg.Error:
        parameters = None
    if (
        "@" in target
        or parameters is None
        or not re.fullmatch(r"[0-9,]*", str(parameters.get("port") or ""))
        or not re.fullmatch(r"-?[0-9]*", str(parameters.get("connect_timeout") or ""))
    ):
        raise InvalidURL(
            "The database URL cannot be read as postgresql://user:password@host:port/dbname?... "
            "Check the port and the names after the question mark, and percent-encode special "
            "characters in user and password (@ is %40, : is %3A, / is %2F, ? is %3F, % is %25)."
        )
    return normalised
