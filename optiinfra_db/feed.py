"""The change feed: every event once, in an order that skips no late commit.

A `Feed` (or `AsyncFeed`) reads the events after a `Cursor`, over an autocommit connection of its
own, and connects again when that is lost. Whoever reads keeps the cursor, best in the transaction
that holds the effects of the events: then each takes effect exactly once. docs/feed.md says what is
promised, how late events come, and what to do after dump and restore.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, Connection

from optiinfra_db.connection import connect, connect_async, pauses, resolve_url
from optiinfra_db.errors import (
    CursorAhead,
    DatabaseError,
    DatabaseUnreachable,
    InvalidCursor,
    InvalidValue,
)
from optiinfra_db.generated import access, events
from optiinfra_db.generated.aio import access as access_async
from optiinfra_db.generated.aio import events as events_async
from optiinfra_db.generated.events import GetFeedEndRow
from optiinfra_db.generated.models import Event

if TYPE_CHECKING:
    from optiinfra_db.settings import Pooler

__all__ = [
    "RESTORED",
    "START",
    "AsyncFeed",
    "Cursor",
    "Feed",
    "latest",
    "latest_async",
]

T = TypeVar("T")
S = TypeVar("S", threading.Event, asyncio.Event)

_XACT_IDS = range(2**63)
_LAST_ID = UUID(int=2**128 - 1)


@dataclass(frozen=True, order=True, slots=True)
class Cursor:
    """A place in the change feed, after an event; later places are greater.

    `str` makes text of it, to be kept, and `parse` reads that. Raises InvalidCursor.
    """

    xact_id: int
    id: UUID

    def __post_init__(self) -> None:
        if self.xact_id not in _XACT_IDS:
            raise InvalidCursor(f"A cursor's xact_id is from 0 to 2^63 - 1, not {self.xact_id!r}.")

    @classmethod
    def of(cls, event: Event) -> Self:
        """Return the place after an event."""
        return cls(event.xact_id, event.id)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` wrote."""
        xact_id, _, event_id = text.partition(":")
        with suppress(ValueError):
            cursor = cls(int(xact_id), UUID(event_id))
            if str(cursor) == text:
                return cursor
        raise InvalidCursor(
            f"Not a cursor of the change feed: {text!r}. It looks like "
            "1234:01941f29-7c00-7000-8000-000000000001."
        )

    def __str__(self) -> str:
        return f"{self.xact_id}:{self.id}"


START = Cursor(0, UUID(int=0))
"""The place before all events."""

RESTORED = Cursor(0, _LAST_ID)
"""The place after all events that were restored from a dump, once forget_event_xact_ids() ran."""


def latest(conn: "Connection[Any]", *, customer_id: UUID | None = None) -> Cursor:
    """Return the place from which only what is new is read.

    It is after all events that can be read at this moment. An event that another transaction holds
    back, though it is committed, comes after it. Keep it before you read on from it. Of a
    distributed database it is that of one customer; raises InvalidValue without.
    """
    return _end(_feed_end(conn, customer_id))


async def latest_async(conn: "AsyncConnection[Any]", *, customer_id: UUID | None = None) -> Cursor:
    """Return what `latest` does."""
    return _end(await _feed_end_async(conn, customer_id))


def _end(end: GetFeedEndRow) -> Cursor:
    return Cursor(end.last_xact_id, _LAST_ID)


def _feed_end(conn: "Connection[Any]", customer_id: UUID | None) -> GetFeedEndRow:
    if not access.is_distributed(conn):
        return events.get_feed_end(conn)
    one = _one(customer_id)
    return _end_of_customer(events.get_customer_feed_end(conn, customer_id=one))


async def _feed_end_async(conn: "AsyncConnection[Any]", customer_id: UUID | None) -> GetFeedEndRow:
    if not await access_async.is_distributed(conn):
        return await events_async.get_feed_end(conn)
    one = _one(customer_id)
    return _end_of_customer(await events_async.get_customer_feed_end(conn, customer_id=one))


def _end_of_customer(horizon_xact_id: int | None) -> GetFeedEndRow:
    """Return the end of a customer's events; for one who is unknown or gone, that of none."""
    if horizon_xact_id is None:
        return GetFeedEndRow(horizon_xact_id=_XACT_IDS.stop, last_xact_id=0)
    return GetFeedEndRow(horizon_xact_id=horizon_xact_id, last_xact_id=horizon_xact_id - 1)


def _one(customer_id: UUID | None) -> UUID:
    if customer_id is None:
        raise InvalidValue(
            "customer_id: the database is distributed, and each of its servers counts its "
            "transactions by itself, so there is no order of all events. Read one customer's.",
            field="customer_id",
        )
    return customer_id


class _Closed(Exception):  # noqa: N818
    """The feed was closed while it waited for the server."""


class _Feed(Generic[S]):
    """What the synchronous and the asynchronous feed share: where it stands, and its limits."""

    _signal: type[S]

    def __init__(
        self,
        url: str | None = None,
        *,
        after: Cursor,
        customer_id: UUID | None = None,
        pooler: "Pooler | None" = None,
        poll_seconds: float | None = None,
        max_rows: int = 500,
        give_up_seconds: float = 300,
    ) -> None:
        if not isinstance(after, Cursor):
            raise InvalidCursor(f"after is a Cursor (Cursor.parse reads text), not {after!r}")
        if max_rows < 1:
            raise ValueError(f"max_rows is at least 1, not {max_rows}")
        if poll_seconds is not None and poll_seconds <= 0:
            raise ValueError(f"poll_seconds is more than 0, or None, not {poll_seconds}")
        self.cursor = after
        self._url = url
        self._customer_id = customer_id
        self._pooler: Pooler | None = pooler
        self._poll_seconds = poll_seconds
        self._max_rows = max_rows
        self._give_up_seconds = give_up_seconds
        self._was_connected = False
        self._closing: S = self._signal()

    def _readable(self, end: GetFeedEndRow) -> Cursor:
        """Return the place up to which there is something to read."""
        if self.cursor.xact_id >= end.horizon_xact_id:
            raise CursorAhead(
                f"The cursor {self.cursor} is ahead of the database, which has come to transaction "
                f"{end.horizon_xact_id}: it was restored from a dump or to an earlier time, or "
                "another server took over before it had received all. See docs/feed.md for where "
                "to go on."
            )
        return _end(end)

    def _is_lost(self, conn: "Connection[Any] | AsyncConnection[Any] | None") -> bool:
        """Say whether what failed was the connection, and not the first attempt to have one."""
        return self._was_connected if conn is None else conn.closed

    def _given_up(self, error: Exception) -> DatabaseUnreachable:
        return DatabaseUnreachable(
            f"The change feed lost its connection and gave up after {self._give_up_seconds:g} s, "
            f"at {self.cursor}: {str(error).strip()}"
        )


class Feed(_Feed[threading.Event]):
    """Events after a cursor, of one customer or of all, in the order of the feed.

    Iterate over it for events, or over `pages()` for lists of them. It ends once all is read that
    there was when it looked; with `poll_seconds` it then waits so long, looks again, and never
    ends, unless `close` is called, by another thread or a signal handler. `break` and Ctrl-C close
    the connection. `cursor` is the place after what was handed out, where the next iteration goes
    on; of several at the same time, all are wrong.

    It reads `max_rows` events at a time, from the database that `connect` opens by `url` and
    `pooler`. Where that cannot be reached at first, or an answer is an error, the error is raised.
    A connection that is lost later is opened again, with growing pauses; DatabaseUnreachable is
    raised when that failed for `give_up_seconds`. Raises CursorAhead.
    """

    _signal = threading.Event
    _conn: "Connection[Any] | None" = None

    def __iter__(self) -> Generator[Event, None, None]:
        with closing(self._pages()) as pages:
            for page in pages:
                for event in page:
                    self.cursor = Cursor.of(event)
                    yield event
                    if self._closing.is_set():
                        return

    def pages(self) -> Generator[list[Event], None, None]:
        """Yield the events in lists, none of them empty, of `max_rows` or little more."""
        with closing(self._pages()) as pages:
            for page in pages:
                self.cursor = Cursor.of(page[-1])
                yield page

    def close(self) -> None:
        """End the iteration, for good."""
        self._closing.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._disconnect()

    def _pages(self) -> Generator[list[Event], None, None]:
        try:
            while not self._closing.is_set():
                end = self._readable(self._ask(self._feed_end))
                while self.cursor < end and not self._closing.is_set():
                    page = self._ask(self._next_page)
                    has_all = len(page) < self._max_rows  # before `end`, and maybe more
                    if page:
                        yield page
                    if has_all:
                        self.cursor = max(self.cursor, end)
                if self._poll_seconds is None:
                    return
                self._closing.wait(self._poll_seconds)
        except _Closed:
            return
        finally:
            self._disconnect()

    def _feed_end(self, conn: "Connection[Any]") -> GetFeedEndRow:
        return _feed_end(conn, self._customer_id)

    def _next_page(self, conn: "Connection[Any]") -> list[Event]:
        return events.read_events(
            conn,
            after_xact_id=self.cursor.xact_id,
            after_id=self.cursor.id,
            customer_id=self._customer_id,
            max_rows=self._max_rows,
        )

    def _ask(self, query: "Callable[[Connection[Any]], T]") -> T:
        """Run a query, as often and on as many connections as it takes."""
        delays = None
        while True:
            try:
                return query(self._connected())
            except (DatabaseError, DatabaseUnreachable, psycopg.Error) as error:
                if not self._is_lost(self._conn):
                    raise
                self._disconnect()
                delays = delays or pauses(self._give_up_seconds)
                delay = next(delays, None)
                if delay is None:
                    raise self._given_up(error) from error
            if self._closing.wait(delay):
                raise _Closed

    def _connected(self) -> "Connection[Any]":
        if self._conn is None:
            self._url = resolve_url(self._url)  # once: to connect again starts no server
            self._conn = connect(self._url, pooler=self._pooler)
            self._was_connected = True
        return self._conn

    def _disconnect(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None


class AsyncFeed(_Feed[asyncio.Event]):
    """The asynchronous twin of `Feed`: `async with` and `async for`, otherwise the same.

    `async with` closes the connection after `break`; without it, that is left to the event loop.
    Cancelling the task that iterates leaves cleanly. `close` is for tasks of the same event loop.
    """

    _signal = asyncio.Event
    _conn: "AsyncConnection[Any] | None" = None

    async def __aiter__(self) -> AsyncGenerator[Event, None]:
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                for event in page:
                    self.cursor = Cursor.of(event)
                    yield event
                    if self._closing.is_set():
                        return

    async def pages(self) -> AsyncGenerator[list[Event], None]:
        """Yield the events in lists, none of them empty, of `max_rows` or little more."""
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                self.cursor = Cursor.of(page[-1])
                yield page

    def close(self) -> None:
        """End the iteration, for good."""
        self._closing.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await self._disconnect()

    async def _pages(self) -> AsyncGenerator[list[Event], None]:
        try:
            while not self._closing.is_set():
                end = self._readable(await self._ask(self._feed_end))
                while self.cursor < end and not self._closing.is_set():
                    page = await self._ask(self._next_page)
                    has_all = len(page) < self._max_rows  # before `end`, and maybe more
                    if page:
                        yield page
                    if has_all:
                        self.cursor = max(self.cursor, end)
                if self._poll_seconds is None:
                    return
                await self._pause(self._poll_seconds)
        except _Closed:
            return
        finally:
            await self._disconnect()

    async def _feed_end(self, conn: "AsyncConnection[Any]") -> GetFeedEndRow:
        return await _feed_end_async(conn, self._customer_id)

    async def _next_page(self, conn: "AsyncConnection[Any]") -> list[Event]:
        return await events_async.read_events(
            conn,
            after_xact_id=self.cursor.xact_id,
            after_id=self.cursor.id,
            customer_id=self._customer_id,
            max_rows=self._max_rows,
        )

    async def _ask(self, query: "Callable[[AsyncConnection[Any]], Awaitable[T]]") -> T:
        """Run a query, as often and on as many connections as it takes."""
        delays = None
        while True:
            try:
                return await query(await self._connected())
            except (DatabaseError, DatabaseUnreachable, psycopg.Error) as error:
                if not self._is_lost(self._conn):
                    raise
                await self._disconnect()
                delays = delays or pauses(self._give_up_seconds)
                delay = next(delays, None)
                if delay is None:
                    raise self._given_up(error) from error
            if await self._pause(delay):
                raise _Closed

    async def _connected(self) -> "AsyncConnection[Any]":
        if self._conn is None:
            self._url = await asyncio.to_thread(resolve_url, self._url)
            self._conn = await connect_async(self._url, pooler=self._pooler)
            self._was_connected = True
        return self._conn

    async def _disconnect(self) -> None:
        if self._conn is not None:
            await self._conn.close()
            self._conn = None

    async def _pause(self, seconds: float) -> bool:
        """Wait, unless the feed is closed; return whether it was."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        return self._closing.is_set()
