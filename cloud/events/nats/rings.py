"""Adapter: the port `Rings` over NATS core. A ring is a message with a position; no server stores it.

Of several rings that wait for the server, the latest alone is sent. Without a server, rings are dropped: readers look
at their rows every second anyway.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from cloud.events.doorbell import POSITION_MAX, Missed, Rang
from cloud.events.nats.connection import Access, Link, NatsUnavailable, connected
from cloud.events.nats.subjects import RINGS
from cloud.tasks.back_off import BackOff
from cloud.tasks.bounded_log import BoundedLog
from cloud.tasks.stopping import Stopping

log = logging.getLogger("cascade.events.rings")

BACK_OFF_SECONDS_FIRST = 0.5
BACK_OFF_SECONDS_MAX = 10.0
LOOK_SECONDS = 1.0
"""Longest time until a connection that has ended is noticed."""


class NatsRings:
    """The rings of one process over NATS."""

    def __init__(self, access: Access, now: Callable[[], datetime]) -> None:
        self._access = access
        self._said = BoundedLog(log, now)
        self._rung: dict[str, int] = {}
        self._woken = asyncio.Event()
        self._back_off = BackOff(BACK_OFF_SECONDS_FIRST, BACK_OFF_SECONDS_MAX)
        self.is_connected = False

    def ring(self, service: str, position: int) -> None:
        """Tell the other processes that the events of a service reach up to a position. Returns at once."""
        if self.is_connected:
            self._rung[service] = position
            self._woken.set()

    async def listen(self, rang: Rang, missed: Missed, stopping: Stopping) -> None:
        """Call `rang` for each ring, until the process stops. Call `missed` when rings may have been lost."""
        while not stopping.requested:
            try:
                async with connected(self._access) as link:
                    await link.hear(f"{RINGS}.*", lambda subject, content: self._took(rang, subject, content))
                    await missed()
                    self._back_off.worked()
                    self.is_connected = True
                    await self._send_rings(link, stopping)
            except NatsUnavailable as error:
                self._said.warn("unavailable", "cannot ring over NATS", error=str(error))
            finally:
                self.is_connected = False
                self._rung.clear()
            if await stopping.sleep(self._back_off.failed(asyncio.get_running_loop().time())):
                return

    async def _send_rings(self, link: Link, stopping: Stopping) -> None:
        while not await stopping.first(self._woken, LOOK_SECONDS):
            self._woken.clear()
            if link.ended.is_set():
                raise NatsUnavailable("the connection has ended")
            rung, self._rung = self._rung, {}
            for service, position in rung.items():
                await link.say(f"{RINGS}.{service}", str(position).encode())

    def _took(self, rang: Rang, subject: str, content: bytes) -> None:
        service = subject.partition(".")[2]
        if content.isdigit() and len(content) <= len(str(POSITION_MAX)):
            rang(service, int(content))
        else:
            self._said.warn("text", "ignored a doorbell that names no position", service=service[:40])
