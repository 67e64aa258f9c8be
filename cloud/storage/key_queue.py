"""Process state: which transactions of this process hold which keys.

Transactions queue here before they take a connection. So transactions that wait for each other's keys need no
connection, and leave the pool to the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence


class KeyQueue:
    """The keys that are held, each with the transactions that wait for it in the order of their arrival."""

    def __init__(self) -> None:
        self._held: dict[str, deque[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        return len(self._held)

    async def take(self, keys: Sequence[str]) -> None:
        """Take all keys, one after the other. Every caller passes its keys in sorted order, so no two block each other.

        After a cancellation the caller holds none of them.
        """
        taken = 0
        try:
            for key in keys:
                await self._take(key)
                taken += 1
        except BaseException:  # also for a cancellation: the keys must be passed on
            self.give(keys[:taken])
            raise

    async def _take(self, key: str) -> None:
        waiting = self._held.get(key)
        if waiting is None:
            self._held[key] = deque()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the key had been passed to us already
                self.give((key,))
            raise

    def give(self, keys: Sequence[str]) -> None:
        """Pass each key to the transaction that has waited longest, or free it."""
        for key in keys:
            waiting = self._held[key]
            while waiting:
                turn = waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
                    break
            else:
                del self._held[key]
