"""Locks by key: one holder a key at a time, any number of keys, and nothing kept of a key that nobody holds."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class KeyedLock(Generic[K]):
    """The locks of one process."""

    def __init__(self) -> None:
        self._held: dict[K, asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self._held)

    @asynccontextmanager
    async def holding(self, key: K) -> AsyncIterator[None]:
        """Hold the lock of `key`, once whoever holds it now has let it go."""
        while (held := self._held.get(key)) is not None:
            await asyncio.wait([held])
        mine = self._held[key] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._held[key]
            mine.set_result(None)
