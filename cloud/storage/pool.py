"""Adapter: a pool of connections to one PostgreSQL server. A connection in a doubtful state is dropped.

asyncpg's own pool is not used. It asks the server to reset each connection that is returned, which costs a round trip
for each statement. Our code needs no reset, because of this rule: an open connection that is returned has no
transaction and no running statement.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import asyncpg

from cloud.storage.errors import DatabaseBusy, StorageNotOpen
from cloud.storage.waits import WAIT_SECONDS
from cloud.storage.worker import settled

REST_SECONDS = 5.0
"""Seconds that a cancelled statement may take to end before its connection is dropped."""
CLOSE_SECONDS = 5.0
"""Seconds for the orderly end of a connection. After this time it is dropped."""

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""All exceptions of asyncpg. A TimeoutError is an OSError."""

Slot: TypeAlias = "asyncpg.Connection | None"
"""A place in the pool: its connection, or None before one is made."""


class Pool:
    """At most `size` connections. The last used one is taken first."""

    def __init__(self, size: int, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._size = size
        self._connect = connect
        self._free: list[Slot] = [None] * size
        self._waiting: deque[asyncio.Future[Slot]] = deque()
        self._is_closing = False
        self._all_back = asyncio.Event()

    async def take(self, wait_seconds: float = WAIT_SECONDS) -> asyncpg.Connection:
        """Return an open connection. The caller alone uses it until it gives it back.

        The caller waits at most `wait_seconds` while all connections are in use.

        Raises:
            DatabaseBusy: all connections are in use for too long.
            StorageNotOpen: the pool is closing.
            Exception: any exception of `connect`.
        """
        slot = self._free.pop() if self._free else await self._wait(wait_seconds)
        if slot is not None and not slot.is_closed():
            return slot
        try:
            return await self._connect()
        except BaseException:  # also for a cancellation: the place must be given back
            self._put(None)
            raise

    async def _wait(self, seconds: float) -> Slot:
        if self._is_closing:
            raise StorageNotOpen("the connections to the database are being closed")
        turn: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(seconds):
                return await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled():  # the place had been given to us already
                self._put(turn.result())
            if isinstance(error, TimeoutError):
                raise DatabaseBusy(f"all {self._size} connections to the database are in use") from error
            raise

    def give(self, connection: asyncpg.Connection) -> None:
        """Take a connection back. A connection with an open transaction is dropped."""
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
            self._free.insert(0, None)  # below the open connections, which are used first
        else:
            self._free.append(slot)
        if len(self._free) == self._size:
            self._all_back.set()

    async def close(self) -> None:
        """Wait until all connections are given back, then close them."""
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
    """Bring a connection to rest: no statement runs and no transaction is open. If that fails, drop the connection.

    A cancellation does not interrupt this. It is raised afterwards.
    """
    if not connection.is_closed():
        await settled(asyncio.ensure_future(_roll_back(connection)))


async def _roll_back(connection: asyncpg.Connection) -> None:
    try:
        async with asyncio.timeout(REST_SECONDS):
            # asyncpg first waits until the server has ended the cancelled statement.
            await connection.execute("ROLLBACK")
    except DRIVER_ERRORS:
        connection.terminate()
