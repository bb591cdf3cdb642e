"""Types of a user's, for overrides."""

import dataclasses
from typing import Self

import pydantic


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
