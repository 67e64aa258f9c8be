"""Process state: the long polls of the wake channel that wait in this process.

A use case wakes the polls of a node after it has committed a change. The cursor is stored in the node's row; a poll
only shortens the time until the node sees the change. A change that another replica commits arrives as a hint
(`cloud.events.doorbell`), and wakes the polls as well. If the hint is lost, a poll reads the cursor again when
its time is over, so the node learns of the change later.
"""

import asyncio
from collections.abc import Awaitable, Callable

from cloud.events.doorbell import Doorbell
from cloud.fabric.errors import TooOften
from cloud.fabric.store.hints import NODES, nodes_of
from protocol.ids import NodeId

WAKES_AT_ONCE = 50
WAKES_PAUSE_SECONDS = 0.05
"""A thousand cursors in a second: the connection for hints was lost, so the database has much to do at that moment."""
POLLS_PER_NODE = 2
"""An agent has one poll. After a broken connection, its old poll may wait here until its time is over."""
REPLACED_WAIT_SECONDS = 10.0
"""`Retry-After` of a poll that a newer poll has replaced."""
Cursor = Callable[[], Awaitable[int]]


class _Poll:
    """A waiting poll. `replaced` is true when it has to end because the node has newer polls."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.replaced = False


class WakeRoom:
    """The waiting polls of this process, by node, the oldest first. A node has at most `POLLS_PER_NODE`."""

    def __init__(self) -> None:
        self._waiting: dict[NodeId, list[_Poll]] = {}
        self._closed = False

    def wake(self, node: NodeId) -> None:
        """Wake every poll of the node, so that each reads the cursor again. Called after the commit."""
        for poll in self._waiting.get(node, ()):
            poll.event.set()

    def listen(self, doorbell: Doorbell) -> None:
        """Take the hints of other replicas, and wake every poll when hints may have been lost."""
        doorbell.on_hint(NODES, self.take_hint, self.wake_all)

    def take_hint(self, text: str) -> None:
        """Wake the polls of the nodes that a hint of another replica names."""
        for node in nodes_of(text):
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
        for polls in self._waiting.values():
            for poll in polls:
                poll.event.set()

    async def wait(self, node: NodeId, known: int, seconds: float, cursor: Cursor) -> int:
        """Return the node's cursor as soon as it differs from `known`, at the latest after `seconds`.

        `cursor` reads the node's cursor from the database. The poll registers before the first read, so a change
        between registration and read wakes the poll. If the node has `POLLS_PER_NODE` polls already, the oldest ends:
        an agent that has connected again does not read it any more. The poll that ends raises TooOften.
        """
        if seconds <= 0:
            return await cursor()
        poll = _Poll()
        waiting = self._waiting.setdefault(node, [])
        if len(waiting) >= POLLS_PER_NODE:
            oldest = waiting.pop(0)
            oldest.replaced = True
            oldest.event.set()
        waiting.append(poll)
        try:
            return await self._changed(poll, known, seconds, cursor)
        finally:
            if poll in waiting:
                waiting.remove(poll)
            if not waiting and self._waiting.get(node) is waiting:
                del self._waiting[node]

    async def _changed(self, poll: _Poll, known: int, seconds: float, cursor: Cursor) -> int:
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            poll.event.clear()
            current = await cursor()
            left = deadline - asyncio.get_running_loop().time()
            if current != known or left <= 0 or self._closed:
                return current
            try:
                async with asyncio.timeout(left):
                    await poll.event.wait()
            except TimeoutError:
                return await cursor()
            if poll.replaced:
                raise TooOften("a newer poll of this node has replaced this poll", REPLACED_WAIT_SECONDS)
