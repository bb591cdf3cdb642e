"""Lists that come page by page, as a whole."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from psycopg import Connection

T = TypeVar("T")


def newest_first(
    query: Callable[..., list[T]], conn: Connection[Any], *, max_rows: int, **given: object
) -> Iterator[T]:
    """Yield the rows of a query that is paged by before_id."""
    before_id = None
    while page := query(conn, before_id=before_id, max_rows=max_rows, **given):
        yield from page
        before_id = page[-1].id  # type: ignore[attr-defined]
