"""Connections to one PostgreSQL server: made when needed, kept, and dropped when anything about them is in doubt.

asyncpg's own pool is not used: it asks the server to reset each connection that comes back, a round trip a statement,
to guard against what no code here does. Rule: a connection that comes back open has no transaction and no running
statement.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import asyncpg

from cloud.storage.errors import DatabaseBusy, StorageNotOpen
from cloud.storage.worker import settled

WAIT_SECONDS = 5.0
"""How long a caller waits for a connection while all are in use."""
REST_SECONDS = 5.0
"""How long a statement that was cut off may take to end before its connection is dropped."""
CLOSE_SECONDS = 5.0

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""All that asyncpg raises; a TimeoutError is an OSError."""

Slot: TypeAlias = "asyncpg.Connection | None"
"""A place in the pool: its connection, or none yet."""


class Pool:
    """At most `size` connections, the last used first."""

    def __init__(self, size: int, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._size = size
        self._connect = connect
        self._free: list[Slot] = [None] * size
        self._waiting: deque[asyncio.Future[Slot]] = deque()
        self._is_closing = False
        self._all_back = asyncio.Event()

    async def take(self) -> asyncpg.Connection:
        """An open connection, for the caller alone until it gives it back.

        Raises:
            DatabaseBusy: all are in use for too long. StorageNotOpen: the pool is closing. And what `connect` raises.
        """
        slot = self._free.pop() if self._free else await self._wait()
        if slot is not None and not slot.is_closed():
            return slot
        try:
            return await self._connect()
        except BaseException:  # a cancellation too must give the place back
            self._put(None)
            raise

    async def _wait(self) -> Slot:
        if self._is_closing:
            raise StorageNotOpen("the connections to the database are being closed")
        turn: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled():  # it was our turn already
                self._put(turn.result())
            if isinstance(error, TimeoutError):
                raise DatabaseBusy(f"all {self._size} connections to the database are in use") from error
            raise

    def give(self, connection: asyncpg.Connection) -> None:
        """Take a connection back; one in doubt is dropped."""
        if connection.is_closed():
            self._put(None)
        elif connection.is_in_transaction():
            connection.terminate()
            self._put(None)
        else:
            self._put(connection)

    def _put(self, slot: Slot) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(slot)
                return
        if slot is None:
            self._free.insert(0, None)  # below the open ones, which are used first
        else:
            self._free.append(slot)
        if len(self._free) == self._size:
            self._all_back.set()

    async def close(self) -> None:
        """Wait for the connections in use, then close all."""
        self._is_closing = True
        while len(self._free) < self._size:
            self._all_back.clear()
            await self._all_back.wait()
        free, self._free = self._free, []
        for connection in free:
            if connection is not None:
                try:
                    await connection.close(timeout=CLOSE_SECONDS)
                except DRIVER_ERRORS:
                    connection.terminate()


async def rest(connection: asyncpg.Connection) -> None:
    """Bring a connection to rest: no statement runs, no transaction is open. What cannot be brought there is dropped.

    A cancellation does not cut it short; it is raised afterwards.
    """
    if not connection.is_closed():
        await settled(asyncio.ensure_future(_roll_back(connection)))


async def _roll_back(connection: asyncpg.Connection) -> None:
    try:
        async with asyncio.timeout(REST_SECONDS):
            # asyncpg first waits until the server has ended the statement that was cut off.
            await connection.execute("ROLLBACK")
    except DRIVER_ERRORS:
        connection.terminate()
