"""Process state: the connections of a process, over all its listeners, and the rule for a process that is full.

The number of connections stays below the process's limit of file descriptors, because databases, files and calls to
other services need descriptors too. One address may hold as many connections as places are free. Above this share, a
new connection of the address closes the connection of the same address that has waited longest for its client. When no
place is free, the address with the most connections gives up one, among the addresses that have one without a client
certificate. So strangers with many addresses close no connection of a node. A connection whose request is being worked
on is never closed. Connections with a client certificate are closed after those without. The log names the limit at
most once in `LOG_SECONDS`.
"""

import logging
import resource
import time
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger("cascade.listener")

RESERVE = 256
"""File descriptors that connections leave free. A process with two services and a PostgreSQL uses about 100."""
CONNECTIONS_MAX = 50_000
"""Connections of a process. At 64 KiB each they have 3 GiB."""
LOG_SECONDS = 60.0


class Held(Protocol):
    """Port: a connection that holds a place."""

    address: str
    certified: bool

    def evict(self) -> None:
        """Close the connection at once."""


def connections_max() -> int:
    """Return the connections that this process can hold. First raises the soft limit of descriptors to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + RESERVE
    top = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < top:
        resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
        soft = top
    limit = wanted if soft == resource.RLIM_INFINITY else min(soft, wanted)
    return limit - min(RESERVE, limit // 2)


class Places:
    """The connections of one process."""

    def __init__(self, limit: int, now: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._now = now
        self._count = 0
        self._held: dict[str, int] = {}
        self._waiting: dict[str, tuple[dict[Held, None], dict[Held, None]]] = {}
        """For each address the connections that wait for their client, longest first: without and with certificate."""
        self._exposed: dict[str, None] = {}
        """Addresses of which a connection without certificate waits."""
        self._said = float("-inf")
        self._closed = self._refused = 0

    @property
    def count(self) -> int:
        """Connections that hold a place."""
        return self._count

    def admit(self, address: str) -> bool:
        """Return True if a new connection of the address may be opened. Another one may be closed for it."""
        free = self._limit - self._count
        held = self._held.get(address, 0)
        if held < free:
            return True
        if held == 0:
            address = self._most()
        admitted = self._evict(address)
        self._say(admitted)
        return admitted and free > 0

    def shed(self) -> None:
        """Close one connection, because the process has no descriptor left."""
        self._say(self._evict(self._most()))

    def _most(self) -> str:
        """Return the address with the most connections, among those that have a stranger's; otherwise among all."""
        return max(self._exposed or self._held, key=self._held.__getitem__, default="")

    def _evict(self, address: str) -> bool:
        for waiting in self._waiting.get(address, ()):
            if waiting:
                victim = next(iter(waiting))
                self.works(victim)  # It is closed later, and must not be chosen again.
                victim.evict()
                return True
        return False

    def _say(self, closed: bool) -> None:
        self._closed += closed
        self._refused += not closed
        now = self._now()
        if now - self._said >= LOG_SECONDS:
            log.warning(
                "too many connections: closed those that waited longest, or refused new ones",
                extra={"held": self._count, "limit": self._limit, "closed": self._closed, "refused": self._refused},
            )
            self._said = now
            self._closed = self._refused = 0

    def take(self, connection: Held) -> None:
        """Give the connection a place. It waits for its client."""
        self._count += 1
        self._held[connection.address] = self._held.get(connection.address, 0) + 1
        self.waits(connection)

    def waits(self, connection: Held) -> None:
        """The connection waits for its client from now on: for a request, for more of it, or for its reading."""
        pools = self._waiting.get(connection.address)
        if pools is None:
            pools = self._waiting[connection.address] = ({}, {})
        pools[connection.certified][connection] = None
        if not connection.certified:
            self._exposed[connection.address] = None

    def works(self, connection: Held) -> None:
        """The request of the connection is being worked on from now on."""
        pools = self._waiting[connection.address]
        for pool in pools:
            pool.pop(connection, None)
        if not pools[False]:
            self._exposed.pop(connection.address, None)

    def release(self, connection: Held) -> None:
        """The connection is closed, and its request has ended."""
        self.works(connection)
        self._count -= 1
        self._held[connection.address] -= 1
        if self._held[connection.address] == 0:
            del self._held[connection.address], self._waiting[connection.address]
