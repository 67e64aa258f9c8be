"""Adapter and background task: hints between the processes of a service, over LISTEN and NOTIFY of PostgreSQL.

A hint says that rows have changed, so that another process reads them now and not at its next turn. It is sent after the
commit of the change. PostgreSQL lets transactions with NOTIFY commit only one after the other, so the change itself has
none. Hints have transactions without a flush to the disk, many hints in one. A hint waits while the server is away. It
is lost if the process dies right after the commit, or while a listener is not connected. Then the change is seen later,
as without hints. No decision rests on a hint.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import asyncpg

from cloud.storage.errors import StorageError
from cloud.storage.pool import DRIVER_ERRORS
from cloud.tasks.back_off import BackOff
from cloud.tasks.stopping import Stopping

log = logging.getLogger("cascade.storage")

PAUSE_SECONDS_FIRST = 0.2
PAUSE_SECONDS_MAX = 5.0
"""Pauses between two attempts to connect."""
CHECK_SECONDS = 10.0
"""Seconds between two checks of the connection. They find a server that vanished without closing it."""
ANSWER_SECONDS = 5.0
"""Seconds for the answer to a check."""

WAITING_MAX = 1000
"""Hints that wait while the server is away."""
_SEND = "SELECT pg_notify($1, hint) FROM unnest($2::text[]) AS hint"

Took: TypeAlias = Callable[[str], None]
Connected: TypeAlias = Callable[[], Awaitable[None]]
Connect: TypeAlias = Callable[[], Awaitable[asyncpg.Connection]]


def channel_of(service: str) -> str:
    """Return the name of the channel on which the processes of a service send hints to each other."""
    return f"cascade_{service}"


class Outbox:
    """The hints of this process that wait for the connection."""

    def __init__(self) -> None:
        self._texts: deque[str] = deque(maxlen=WAITING_MAX)
        self.changed = asyncio.Event()

    def add(self, text: str) -> None:
        """Have a hint sent. If too many wait, the oldest is lost."""
        self._texts.append(text)
        self.changed.set()

    @property
    def is_empty(self) -> bool:
        """Whether no hint waits."""
        return not self._texts

    async def send(self, connection: asyncpg.Connection, channel: str) -> None:
        """Send all hints that wait. After a failure they wait again, as far as there is room."""
        texts = list(self._texts)
        self._texts.clear()
        try:
            await connection.execute(_SEND, channel, texts, timeout=ANSWER_SECONDS)
        except BaseException:  # also for a cancellation: the hints must be sent later
            room = WAITING_MAX - len(self._texts)
            self._texts.extendleft(reversed(texts[-room:] if room else []))
            raise


async def listen(
    service: str, connect: Connect, outbox: Outbox, took: Took, connected: Connected, stopping: Stopping
) -> None:
    """Send the hints of the outbox, and call `took` with the text of each hint, until the process stops.

    The listener uses its own connection, and connects again with a growing pause while the server is away. It calls
    `connected` after each connection, because hints may have been lost before.
    """
    back_off = BackOff(PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX, os.urandom)
    loop = asyncio.get_running_loop()
    while not stopping.requested:
        try:
            connection = await connect()
            try:
                connection.add_termination_listener(lambda _: outbox.changed.set())
                # A hint need not survive a crash of the server, so its commit waits for no flush.
                await connection.execute("SET synchronous_commit = off")
                await connection.add_listener(channel_of(service), lambda _connection, _pid, _channel, hint: took(hint))
                await connected()
                back_off.worked()
                while not connection.is_closed() and not await stopping.first(outbox.changed, CHECK_SECONDS):
                    outbox.changed.clear()
                    await outbox.send(connection, channel_of(service))  # also without hints, to check the connection
            finally:
                connection.terminate()
        except (StorageError, *DRIVER_ERRORS) as error:
            log.warning("cannot listen for hints", extra={"service": service, "reason": str(error)})
        if not stopping.requested:
            await stopping.sleep(back_off.failed(loop.time()))
