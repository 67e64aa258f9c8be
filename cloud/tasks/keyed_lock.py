"""Locks by key: each key has one holder at a time. A key without a holder takes no memory."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class KeyedLock(Generic[K]):
    """The locks of one process, for any number of keys."""

    def __init__(self) -> None:
        self._held: dict[K, asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self._held)

    @asynccontextmanager
    async def holding(self, key: K) -> AsyncIterator[None]:
        """Hold the lock of `key`. Waits until its present holder has released it."""
        while (held := self._held.get(key)) is not None:
            await asyncio.wait([held])
        mine = self._held[key] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._held[key]
            mine.set_result(None)
