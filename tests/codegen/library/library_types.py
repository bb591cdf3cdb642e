"""Types of a user's, for overrides."""

import dataclasses
from typing import Self

import psycopg
import pydantic


class RefusedError(Exception):
    """An error of the database's in the user's terms."""


def translate_unless_a_query_is_wrong(error: psycopg.Error) -> RefusedError | None:
    """Translate what the server refuses."""
    return None if isinstance(error, psycopg.ProgrammingError) else RefusedError(str(error))


class Details(pydantic.BaseModel):
    """A payload."""

    pages: int = 0


@dataclasses.dataclass(frozen=True)
class Link:
    """A payload without pydantic."""

    url: str


class Year(int):
    """A year."""

    def next(self) -> Self:
        """Return the one after."""
        return type(self)(self + 1)


class Kind(str):
    """A kind."""

    __slots__ = ()
