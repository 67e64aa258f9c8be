"""Adapter and background task: hints between the processes of a service, over LISTEN and NOTIFY of PostgreSQL.

A hint says that rows have changed, so that another process reads them now and not at its next turn. The sender adds it
to the transaction of the change, so it arrives after the commit and never without one. A hint can be lost while the
listener is not connected. Then the change is seen later, as without hints. No decision rests on a hint.
"""

from __future__ import annotations

import asyncio
import logging
import os
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

Took: TypeAlias = Callable[[str], None]
Connected: TypeAlias = Callable[[], Awaitable[None]]
Connect: TypeAlias = Callable[[], Awaitable[asyncpg.Connection]]


def channel_of(service: str) -> str:
    """Return the name of the channel on which the processes of a service send hints to each other."""
    return f"cascade_{service}"


async def listen(service: str, connect: Connect, took: Took, connected: Connected, stopping: Stopping) -> None:
    """Call `took` with the text of each hint until the process stops.

    The listener has a connection for itself, and connects again with a growing pause while the server is away. It calls
    `connected` after each connection, because hints may have been lost before.
    """
    back_off = BackOff(PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX, os.urandom)
    loop = asyncio.get_running_loop()
    while not stopping.requested:
        try:
            connection = await connect()
            try:
                ended = asyncio.Event()
                connection.add_termination_listener(lambda _, ended=ended: ended.set())
                await connection.add_listener(channel_of(service), lambda _connection, _pid, _channel, hint: took(hint))
                await connected()
                back_off.worked()
                while not await stopping.first(ended, CHECK_SECONDS) and not ended.is_set():
                    await connection.execute("SELECT 1", timeout=ANSWER_SECONDS)
            finally:
                connection.terminate()
        except (StorageError, *DRIVER_ERRORS) as error:
            log.warning("cannot listen for hints", extra={"service": service, "reason": str(error)})
        if not stopping.requested:
            await stopping.sleep(back_off.failed(loop.time()))
