"""Port, adapter and process state: doorbells, which make a process look at its rows earlier.

A doorbell carries a hint between processes, and no fact. It can be lost, late, repeated or forged, so each hint only
wakes a reader, and the reader reads the rows. There are two kinds:

- A ring names a service and a position of its events. `Rings` is the port that carries rings between processes of any
service. The hints of the database (`ServiceEngine.hint`) always carry them between the replicas of one service.
- A hint with a topic goes to the replicas of the same service, over the database. Its text is `TOPIC TEXT`, so that
several subjects share the one connection on which a process listens.

No caller can make a process work hard by ringing. A `Bell` wakes its reader at most every `WAKE_SECONDS`. After a ring
whose position does not exist, the pause grows up to `FALSE_SECONDS_MAX`. Of more than `HINTS_MAX` hints of a topic in
one second, the rest are treated as if they were lost.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

from cloud.storage import ServiceEngine
from cloud.tasks.back_off import BackOff
from cloud.tasks.bounded_log import BoundedLog
from cloud.tasks.stopping import Stopping

log = logging.getLogger("cascade.events.doorbell")

WAKE_SECONDS = 0.01
"""Shortest time between two wakes of a reader. A change after a quiet time wakes it at once."""
FALSE_SECONDS_MAX = 1.0
"""Longest time between two wakes while rings are false. Readers look at their rows as often without any ring."""
LOOKS = 2
"""Looks after which a position that was not found does not exist."""
HINTS_MAX = 500
"""Hints of a topic that are taken in one second. A change of many nodes sends hints of a hundred nodes each."""
POSITION_MAX = 2**63 - 1
POSITION = "position"
"""The topic of rings over the hints of the database."""

Took = Callable[[str], None]
Missed = Callable[[], Awaitable[None]]
Rang = Callable[[str, int], None]


class Rings(Protocol):
    """Port: carries rings between the processes of all services."""

    def ring(self, service: str, position: int) -> None:
        """Tell the other processes that the events of a service reach up to a position. Returns at once."""

    async def listen(self, rang: Rang, missed: Missed, stopping: Stopping) -> None:
        """Call `rang` for each ring, until the process stops. Call `missed` when rings may have been lost."""


def hint_text(topic: str, text: str = "") -> str:
    """Return the hint of a topic, for `ServiceEngine.hint`."""
    return f"{topic} {text}" if text else topic


class Bell:
    """Wakes one reader of one service's events. The reader calls `seen` after each look at its rows."""

    def __init__(self, service: str, wake: Callable[[], None], said: BoundedLog) -> None:
        self._service = service
        self._wake = wake
        self._said = said
        self._back_off = BackOff(WAKE_SECONDS, FALSE_SECONDS_MAX)
        self._seen = 0
        self._rung = 0
        self._looked_for = 0
        self._looks = 0
        self._ready_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def rang(self, position: int) -> None:
        """Wake the reader, at once or when the pause is over. A position that the reader has seen is ignored."""
        if self._seen < position <= POSITION_MAX:
            self._rung = max(self._rung, position)
            self.missed()

    def missed(self) -> None:
        """Wake the reader as after a ring, because one may have been lost."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._ready_at), self._fire)

    def _fire(self) -> None:
        self._timer = None
        if not self._looked_for:
            self._looked_for, self._looks = self._rung, 0
        self._rung = 0
        self._ready_at = asyncio.get_running_loop().time() + WAKE_SECONDS
        self._wake()

    def seen(self, head: int) -> None:
        """Tell how far the events reach. A ring is false if two looks after it have not found its position.

        The first look may have begun before the ring.
        """
        self._seen = head
        if not self._looked_for:
            return
        if self._looked_for <= head:
            self._looked_for = 0
            self._back_off.worked()
            return
        self._looks += 1
        if self._looks < LOOKS:
            return
        self._looked_for = 0
        self._said.warn("position", "a doorbell named a position that does not exist", service=self._service)
        now = asyncio.get_running_loop().time()
        self._ready_at = now + self._back_off.failed(now)
        if self._timer is not None:
            self.close()
            self.missed()

    def close(self) -> None:
        """Forget a wake that waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Topic:
    """What a process does with the hints of a topic."""

    def __init__(self, took: Took, missed: Missed) -> None:
        self.took = took
        self.missed = missed
        self.second = 0
        self.count = 0
        self.overflowed = False


class Doorbell:
    """The doorbells of one process of a service. `run` is its background task.

    `further` are other ways for rings, beside the hints of the database.
    """

    def __init__(self, engine: ServiceEngine, now: Callable[[], datetime], *further: Rings) -> None:
        self._engine = engine
        self._further = further
        self._said = BoundedLog(log, now)
        self._topics: dict[str, _Topic] = {}
        self._bells: dict[str, list[Bell]] = {}
        self._overflow = asyncio.Event()
        self.on_hint(POSITION, self._took_position, self._missed_rings)

    def on_hint(self, topic: str, took: Took, missed: Missed) -> None:
        """Have `took` called with the text of each hint of a topic, and `missed` when hints may have been lost."""
        self._topics[topic] = _Topic(took, missed)

    def bell(self, service: str, wake: Callable[[], None]) -> Bell:
        """Have `wake` called after rings of a service, and when rings may have been lost."""
        made = Bell(service, wake, self._said)
        self._bells.setdefault(service, []).append(made)
        return made

    def ring(self, service: str, position: int) -> None:
        """Tell the other processes that the events of a service reach up to a position. Call it after the commit."""
        self._engine.hint(hint_text(POSITION, f"{service} {position}"))
        for rings in self._further:
            rings.ring(service, position)

    def rang(self, service: str, position: int) -> None:
        """Take a ring. One of a service that this process does not read is ignored."""
        for bell in self._bells.get(service, ()):
            bell.rang(position)

    async def run(self, stopping: Stopping) -> None:
        """Background task: listen on every way until the process stops."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._engine.listen(self._took, self._missed_all, stopping))
            tasks.create_task(self._catch_up(stopping))
            for rings in self._further:
                tasks.create_task(rings.listen(self.rang, self._missed_rings, stopping))
        for bells in self._bells.values():
            for bell in bells:
                bell.close()

    def _took(self, hint: str) -> None:
        name, _, text = hint.partition(" ")
        topic = self._topics.get(name)
        if topic is None:
            self._said.warn("topic", "ignored a hint of an unknown topic", topic=name[:40])
            return
        second = int(asyncio.get_running_loop().time())
        if second != topic.second:
            topic.second, topic.count = second, 0
        topic.count += 1
        if topic.count <= HINTS_MAX:
            topic.took(text)
        else:
            topic.overflowed = True
            self._overflow.set()

    def _took_position(self, text: str) -> None:
        service, _, number = text.partition(" ")
        if number.isascii() and number.isdigit() and len(number) <= len(str(POSITION_MAX)):
            self.rang(service, int(number))
        else:
            self._said.warn("text", "ignored a doorbell that names no position", text=text[:40])

    async def _catch_up(self, stopping: Stopping) -> None:
        """Once a second, treat the hints of topics that had too many as lost."""
        while not await stopping.first(self._overflow):
            self._overflow.clear()
            if await stopping.sleep(1.0):
                return
            for name, topic in self._topics.items():
                if topic.overflowed:
                    topic.overflowed = False
                    self._said.warn(
                        f"many {name}", "too many hints in a second: looks at every row instead", topic=name
                    )
                    await topic.missed()

    async def _missed_all(self) -> None:
        for topic in self._topics.values():
            await topic.missed()

    async def _missed_rings(self) -> None:
        for bells in self._bells.values():
            for bell in bells:
                bell.missed()
