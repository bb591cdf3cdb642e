"""How the recorder reaches the database: two connections that survive being lost."""

import asyncio
import importlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    suppress,
)
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.pq import TransactionStatus

from optiinfra_db.connection import Session, acting, acting_async
from optiinfra_db.errors import typed_errors

P = ParamSpec("P")
T = TypeVar("T")

_ADVICE = (
    "asynchronous code imports from optiinfra_db.workflows.aio, and a pool gives connections by "
    "pool.connection()"
)
_IN_TRANSACTION = (TransactionStatus.INTRANS, TransactionStatus.INERROR)


class SyncBackend:
    """A connection, or its successor."""

    def __init__(self, conn: Connection[Any] | None, session: Session, actor: str | None) -> None:
        self.session = session
        self._actor = actor
        self._is_acting = False  # in a transaction of ours
        self._conn = conn
        self._is_own = conn is None
        self.is_in_transaction = conn is not None and (
            not conn.autocommit or conn.info.transaction_status in _IN_TRANSACTION
        )
        """Whether the run is part of a transaction of the caller's."""
        self._turn = threading.RLock()

    @classmethod
    def of(cls, conn: Connection[Any], actor: str | None) -> Self:
        """Return one that goes on with a connection like this one, should it be lost."""
        if not isinstance(conn, Connection):
            raise TypeError(f"conn is a psycopg.Connection, not {conn!r}; {_ADVICE}")
        return cls(conn, Session.of(conn), actor)

    @property
    def conn(self) -> Connection[Any]:
        """The connection in use."""
        assert self._conn is not None, "it is opened by the first query"  # noqa: S101 -- what the type does not tell
        return self._conn

    @property
    def is_usable(self) -> bool:
        """Whether the connection takes statements: not in the middle of one, nor after an error."""
        unusable = (TransactionStatus.ACTIVE, TransactionStatus.INERROR)
        return self.is_in_transaction or self.conn.info.transaction_status not in unusable

    async def query(
        self,
        function: Callable[Concatenate[Connection[Any], P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        if self._conn is None:
            await self.reconnect()
        if self._actor is None or self._is_acting:
            return function(self.conn, *args, **kwargs)
        with typed_errors(), self._turn, self._transaction():
            return function(self.conn, *args, **kwargs)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        with typed_errors(), self._transaction():
            self._is_acting = True
            try:
                yield
            finally:
                self._is_acting = False

    def _transaction(self) -> AbstractContextManager[object]:
        return acting(self.conn, self._actor) if self._actor else self.conn.transaction()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        with self._turn:
            yield

    async def reconnect(self) -> None:
        with self._turn:  # several steps may have lost it
            if self._conn is None or self._conn.closed:
                self.close()
                lost, self._conn = self._conn, self.session.connect()
                self._is_own = True
                if lost is not None:
                    self._conn.row_factory = lost.row_factory
                    self._conn.cursor_factory = lost.cursor_factory

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def in_thread(self, function: Callable[[], T]) -> T:
        return function()

    def interrupt(self) -> None:
        """End what another thread waits for."""
        if self._conn is not None:
            with (
                suppress(OSError, psycopg.Error),
                socket.socket(fileno=os.dup(self._conn.fileno())) as stream,
            ):
                stream.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection if it is not the caller's."""
        if self._is_own and self._conn is not None:
            self._conn.close()


class AsyncBackend:
    """A connection, or its successor, for asynchronous code."""

    def __init__(
        self, conn: AsyncConnection[Any] | None, session: Session, actor: str | None
    ) -> None:
        self.session = session
        self._actor = actor
        self._is_acting = False  # in a transaction of ours
        self._conn = conn
        self._is_own = conn is None
        self.is_in_transaction = conn is not None and (
            not conn.autocommit or conn.info.transaction_status in _IN_TRANSACTION
        )
        """Whether the run is part of a transaction of the caller's."""
        self._turn = asyncio.Lock()
        self._acting = asyncio.Lock()  # steps that overlap share no transaction
        self._reconnecting = asyncio.Lock()

    @classmethod
    async def of(cls, conn: AsyncConnection[Any], actor: str | None) -> Self:
        """Return one that goes on with a connection like this one, should it be lost."""
        if not isinstance(conn, AsyncConnection):
            raise TypeError(f"conn is a psycopg.AsyncConnection, not {conn!r}; {_ADVICE}")
        return cls(conn, await Session.of_async(conn), actor)

    @property
    def conn(self) -> AsyncConnection[Any]:
        """The connection in use."""
        assert self._conn is not None, "it is opened by the first query"  # noqa: S101 -- what the type does not tell
        return self._conn

    @property
    def is_usable(self) -> bool:
        """Whether the connection takes statements: not in the middle of one, nor after an error."""
        unusable = (TransactionStatus.ACTIVE, TransactionStatus.INERROR)
        return self.is_in_transaction or self.conn.info.transaction_status not in unusable

    async def query(
        self,
        function: Callable[Concatenate[Connection[Any], P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        if self._conn is None:
            await self.reconnect()
        twins = importlib.import_module(function.__module__.replace("generated.", "generated.aio."))
        twin: Callable[..., Awaitable[T]] = getattr(twins, function.__name__)
        if self._actor is None or self._is_acting:
            return await twin(self.conn, *args, **kwargs)
        with typed_errors():
            async with self._acting, self._transaction():
                return await twin(self.conn, *args, **kwargs)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        with typed_errors():
            async with self._transaction():
                self._is_acting = True
                try:
                    yield
                finally:
                    self._is_acting = False

    def _transaction(self) -> AbstractAsyncContextManager[object]:
        return acting_async(self.conn, self._actor) if self._actor else self.conn.transaction()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self._turn:
            yield

    async def reconnect(self) -> None:
        async with self._reconnecting:  # several steps may have lost it
            if self._conn is None or self._conn.closed:
                await self.close()
                lost, self._conn = self._conn, await self.session.connect_async()
                self._is_own = True
                if lost is not None:
                    self._conn.row_factory = lost.row_factory
                    self._conn.cursor_factory = lost.cursor_factory

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.to_thread(function)

    async def close(self) -> None:
        """Close the connection if it is not the caller's."""
        if self._is_own and self._conn is not None:
            await self._conn.close()
