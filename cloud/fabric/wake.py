"""Process state: the long polls of the wake channel that wait in this process.

A use case wakes the polls of a node after it has committed a change. The cursor is stored in the node's row; a poll
only shortens the time until the node sees the change. A change that another replica commits arrives as a hint over the
database (`cloud.storage.hints`), and wakes the polls as well. If the hint is lost, a poll reads the cursor again when
its time is over, so the node learns of the change later.
"""

import asyncio
from collections.abc import Awaitable, Callable

from cloud.fabric.store.hints import nodes_of
from protocol.ids import NodeId

WAKES_AT_ONCE = 50
WAKES_PAUSE_SECONDS = 0.05
"""A thousand cursors in a second: the connection for hints was lost, so the database has much to do at that moment."""
Cursor = Callable[[], Awaitable[int]]


class WakeRoom:
    """The waiting polls of this process, by node."""

    def __init__(self) -> None:
        self._waiting: dict[NodeId, set[asyncio.Event]] = {}
        self._closed = False

    def wake(self, node: NodeId) -> None:
        """Wake every poll of the node, so that each reads the cursor again. Called after the commit."""
        for event in self._waiting.get(node, ()):
            event.set()

    def take_hint(self, hint: str) -> None:
        """Wake the polls of the nodes that a hint of another replica names."""
        for node in nodes_of(hint):
            self.wake(node)

    async def wake_all(self) -> None:
        """Wake every poll, because hints may have been lost. Each poll reads its cursor, so this takes its time."""
        for number, node in enumerate(list(self._waiting)):
            self.wake(node)
            if number % WAKES_AT_ONCE == WAKES_AT_ONCE - 1:
                await asyncio.sleep(WAKES_PAUSE_SECONDS)

    def close(self) -> None:
        """End every poll at once, and every later poll too. Called at shutdown."""
        self._closed = True
        for events in self._waiting.values():
            for event in events:
                event.set()

    async def wait(self, node: NodeId, known: int, seconds: float, cursor: Cursor) -> int:
        """Return the node's cursor as soon as it differs from `known`, at the latest after `seconds`.

        `cursor` reads the node's cursor from the database. The poll registers before the first read, so a change
        between registration and read wakes the poll.
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
