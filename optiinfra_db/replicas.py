"""Pools that read from a replica where there is one, and get over the loss of a server.

Both are pools of psycopg_pool that hand out no connection whose server has gone, as far as its
socket tells: so after a fail-over only who was in the middle of something learns of it by an error.
"""

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, Connection, OperationalError
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from optiinfra_db.errors import ConnectionLost, typed_errors
from optiinfra_db.generated.aio.replication import get_replay_progress as get_replay_progress_async
from optiinfra_db.generated.replication import GetReplayProgressRow, get_replay_progress

__all__ = ["AsyncPool", "Pool"]

AVOID_SECONDS = 5
"""For how long a replica is left alone that gave no connection, or that is none any more."""

_LEAST_SECONDS = 0.1  # for a connection that is there already
_BEGIN = "BEGIN READ ONLY"

logger = logging.getLogger("optiinfra_db.replicas")


class _Reader:
    """What the two pools share: whether they read from the replica."""

    _avoid_until = 0.0

    @property
    def _is_avoided(self) -> bool:
        return time.monotonic() < self._avoid_until

    def _avoid(self, what: str, seconds: float) -> None:
        self._avoid_until = max(self._avoid_until, time.monotonic() + seconds)
        length = f"for {seconds:g} s" if seconds else "this once"
        logger.warning("reading from the primary %s: the replica %s", length, what)

    def _accepts(self, progress: GetReplayProgressRow, wait_seconds: float) -> bool:
        if not progress.is_replica:
            self._avoid("follows no primary, or not the present one", AVOID_SECONDS)
        elif not progress.has_replayed:
            self._avoid(f"was not up to date within {wait_seconds:g} s", seconds=0)
        return progress.is_replica and progress.has_replayed


class Pool(_Reader, ConnectionPool[Connection[TupleRow]]):
    """What `optiinfra_db.pool` makes: psycopg_pool's ConnectionPool, with `read_only`."""

    replica: "Pool | None" = None
    """The pool of connections to the replica, if there is one."""

    @contextmanager
    def read_only(
        self, *, after: str | None = None, wait_seconds: float = 1
    ) -> Iterator[Connection[TupleRow]]:
        """Give a connection for a block that only reads: to the replica, if the pool has one.

        The block is a read-only transaction. It sees all that was written before `after`, which is
        what `generated.replication.get_wal_position` returned after the write, on a connection to
        the primary; without it, whatever the replica has. If that gives no connection that has
        come so far within `wait_seconds`, or was promoted, the block gets one to the primary, and
        a warning is logged.

        Raises psycopg_pool.PoolTimeout where the primary gives none either, and InvalidValue for
        an `after` that is no such text. What writes in the block raises ReadOnlyTransaction.
        """
        pool, conn = self.replica, self._caught_up(after, wait_seconds)
        if pool is None or conn is None:
            pool, conn = self, self.getconn()
        try:
            with conn:  # which ends the transaction, and leaves the connection to the pool
                with typed_errors():
                    conn.execute(_BEGIN)
                yield conn
        finally:
            pool.putconn(conn)

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Open the pool; `wait` is for connections to the primary, not to the replica."""
        super().open(wait, timeout)
        if self.replica:
            try:
                self.replica.open()
            except BaseException:
                self.close()
                raise

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool, with its connections to the replica."""
        try:
            super().close(timeout)
        finally:
            if self.replica:
                self.replica.close(timeout)

    def getconn(self, timeout: float | None = None) -> Connection[TupleRow]:
        """Hand out a connection that is not known to be lost. Raises psycopg_pool.PoolTimeout."""
        give_up_at = time.monotonic() + (self.timeout if timeout is None else timeout)
        while _is_lost(conn := super().getconn(give_up_at - time.monotonic())):
            self.putconn(conn)
        return conn

    def _caught_up(self, after: str | None, wait_seconds: float) -> Connection[TupleRow] | None:
        """Return a connection to the replica that has come to `after`, if there is one in time."""
        if self.replica is None or self._is_avoided:
            return None
        give_up_at = time.monotonic() + wait_seconds
        try:
            conn = self.replica.getconn(max(wait_seconds, _LEAST_SECONDS))
        except PoolTimeout as error:
            self._avoid(f"gives no connection: {error}", AVOID_SECONDS)
            return None
        is_accepted = False
        try:
            with _WATCH.over(conn, until=give_up_at):
                progress = get_replay_progress(conn, wal_position=after)
                for pause in _pauses(give_up_at):
                    if progress.has_replayed or not progress.is_replica:
                        break
                    time.sleep(pause)
                    progress = get_replay_progress(conn, wal_position=after)
            if not progress.is_replica:
                self.replica.drain()
            is_accepted = self._accepts(progress, wait_seconds)
        except _NoAnswer:
            self._avoid(f"gave no answer within {wait_seconds:g} s", AVOID_SECONDS)
        except ConnectionLost as error:
            self._avoid(f"was lost: {error}", seconds=0)
        finally:
            if not is_accepted:
                self.replica.putconn(conn)
        return conn if is_accepted else None


class AsyncPool(_Reader, AsyncConnectionPool[AsyncConnection[TupleRow]]):
    """What `optiinfra_db.pool_async` makes: the asynchronous twin of `Pool`."""

    replica: "AsyncPool | None" = None
    """The pool of connections to the replica, if there is one."""

    @asynccontextmanager
    async def read_only(
        self, *, after: str | None = None, wait_seconds: float = 1
    ) -> AsyncIterator[AsyncConnection[TupleRow]]:
        """Give a connection for a block that only reads, as `Pool.read_only` says."""
        pool, conn = self.replica, await self._caught_up(after, wait_seconds)
        if pool is None or conn is None:
            pool, conn = self, await self.getconn()
        try:
            async with conn:  # which ends the transaction, and leaves the connection to the pool
                with typed_errors():
                    await conn.execute(_BEGIN)
                yield conn
        finally:
            await pool.putconn(conn)

    async def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Open the pool; `wait` is for connections to the primary, not to the replica."""
        await super().open(wait, timeout)
        if self.replica:
            try:
                await self.replica.open()
            except BaseException:
                await self.close()
                raise

    async def close(self, timeout: float = 5.0) -> None:
        """Close the pool, with its connections to the replica."""
        try:
            await super().close(timeout)
        finally:
            if self.replica:
                await self.replica.close(timeout)

    async def getconn(self, timeout: float | None = None) -> AsyncConnection[TupleRow]:
        """Hand out a connection that is not known to be lost. Raises psycopg_pool.PoolTimeout."""
        give_up_at = time.monotonic() + (self.timeout if timeout is None else timeout)
        while _is_lost(conn := await super().getconn(give_up_at - time.monotonic())):
            await self.putconn(conn)
        return conn

    async def _caught_up(
        self, after: str | None, wait_seconds: float
    ) -> AsyncConnection[TupleRow] | None:
        """Return a connection to the replica that has come to `after`, if there is one in time."""
        if self.replica is None or self._is_avoided:
            return None
        give_up_at = time.monotonic() + wait_seconds
        try:
            conn = await self.replica.getconn(max(wait_seconds, _LEAST_SECONDS))
        except PoolTimeout as error:
            self._avoid(f"gives no connection: {error}", AVOID_SECONDS)
            return None
        is_accepted = False
        try:
            with _WATCH.over(conn, until=give_up_at):
                progress = await get_replay_progress_async(conn, wal_position=after)
                for pause in _pauses(give_up_at):
                    if progress.has_replayed or not progress.is_replica:
                        break
                    await asyncio.sleep(pause)
                    progress = await get_replay_progress_async(conn, wal_position=after)
            if not progress.is_replica:
                await self.replica.drain()
            is_accepted = self._accepts(progress, wait_seconds)
        except _NoAnswer:
            self._avoid(f"gave no answer within {wait_seconds:g} s", AVOID_SECONDS)
        except ConnectionLost as error:
            self._avoid(f"was lost: {error}", seconds=0)
        finally:
            if not is_accepted:
                await self.replica.putconn(conn)
        return conn if is_accepted else None


class _NoAnswer(Exception):  # noqa: N818 -- it ends here
    """The server did not answer in time."""


@dataclass(eq=False)
class _Waiting:
    """Who waits for an answer of a server."""

    conn: Connection[Any] | AsyncConnection[Any]
    until: float
    is_cut: bool = False

    def cut(self) -> None:
        """Shut the socket: who waits goes on."""
        with (
            suppress(OSError, OperationalError),
            socket.socket(fileno=os.dup(self.conn.fileno())) as there,
        ):
            self.is_cut = True
            there.shutdown(socket.SHUT_RDWR)


class _Watch:
    """Cuts the connections of those who wait too long, as for a server that is frozen.

    In one thread: one of its own for each block would cost as much as the reading.
    """

    def __init__(self) -> None:
        self._thread = threading.Thread()
        self._all: set[_Waiting] = set()
        self._has_some = threading.Condition()

    @contextmanager
    def over(self, conn: Connection[Any] | AsyncConnection[Any], until: float) -> Iterator[None]:
        """Watch over a block. Raises _NoAnswer where its connection was cut."""
        least = time.monotonic() + _LEAST_SECONDS
        waiting = _Waiting(conn, max(until, least) + _LEAST_SECONDS)
        with self._has_some:
            if not self._thread.is_alive():  # at first, and after a fork
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._all.add(waiting)
            self._has_some.notify()
        try:
            yield
        except ConnectionLost:
            if not waiting.is_cut:
                raise
        finally:
            with self._has_some:
                self._all.discard(waiting)
        if waiting.is_cut:
            raise _NoAnswer

    def _run(self) -> None:
        while True:
            with self._has_some:
                self._has_some.wait_for(lambda: self._all)
                now = time.monotonic()
                for waiting in [one for one in self._all if one.until < now]:
                    self._all.discard(waiting)
                    waiting.cut()
            time.sleep(_LEAST_SECONDS / 2)


_WATCH = _Watch()


def _is_lost(conn: Connection[TupleRow] | AsyncConnection[TupleRow]) -> bool:
    """Say whether the server has closed an idle connection, without asking it."""
    try:
        for _ in range(2):  # its last words, and the end
            conn.pgconn.consume_input()
    except OperationalError:
        conn.pgconn.finish()
        return True
    return False


def _pauses(give_up_at: float) -> Iterator[float]:
    """Yield the seconds to wait before each further look at the replica, until it is too late.

    The looks are statements of their own: one that waited there would hold a snapshot, which may
    keep the replica from replaying what it waits for.
    """
    pause = 0.001
    while (left := give_up_at - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(2 * pause, 0.05)
