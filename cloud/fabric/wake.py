"""Waiting room of the wake channel: long polls of this process, woken when a change was committed.

It holds no facts: the cursor in the node's row is the truth, and what a poll brings is a hint. With several replicas
a change made by another one is found when the poll ends and the node asks again; nothing is lost but time.
"""

import asyncio
from collections.abc import Awaitable, Callable

from protocol.ids import NodeId

Cursor = Callable[[], Awaitable[int]]


class WakeRoom:
    """The polls that wait for a change of a node, by node."""

    def __init__(self) -> None:
        self._waiting: dict[NodeId, set[asyncio.Event]] = {}
        self._closed = False

    def wake(self, node: NodeId) -> None:
        """After the commit: let every poll of the node look at its cursor again."""
        for event in self._waiting.get(node, ()):
            event.set()

    def close(self) -> None:
        """At shutdown: every poll ends at once, and so do later ones."""
        self._closed = True
        for events in self._waiting.values():
            for event in events:
                event.set()

    async def wait(self, node: NodeId, known: int, seconds: float, cursor: Cursor) -> int:
        """The node's cursor, as soon as it differs from `known`, or after `seconds`.

        The room is entered before the cursor is read, so a change between the two wakes the poll.
        """
        event = asyncio.Event()
        waiting = self._waiting.setdefault(node, set())
        waiting.add(event)
        try:
            deadline = asyncio.get_running_loop().time() + seconds
            while True:
                event.clear()
                current = await cursor()
                left = deadline - asyncio.get_running_loop().time()
                if current != known or left <= 0 or self._closed:
                    return current
                try:
                    async with asyncio.timeout(left):
                        await event.wait()
                except TimeoutError:
                    return await cursor()
        finally:
            waiting.discard(event)
            if not waiting and self._waiting.get(node) is waiting:
                del self._waiting[node]
