"""In-memory state: the position of the changes of the licence, and the long polls of local programs that wait for one.

A change is a hint. A program asks for the position, then for the licence or an entitlement, and then waits for the next
position: so it misses no change. A position of another run of the agent is unknown, so its poll ends at once.
"""

from collections import Counter

import msgspec
import trio

from node.licensing.entitlements import granted_names
from node.licensing.verdict import Snapshot
from node.local.documents import LicenseDocument, license_document

WAIT_SECONDS_MAX = 60
"""Longest long poll. An answer of the socket is valid for 60 seconds at most, so a program asks again by then."""
WAITS_PER_USER_MAX = 24
"""Long polls of one user. A user alone can hold half of the 64 places of the socket; eight of them are left for its
other requests."""


class _Facts(msgspec.Struct, frozen=True):
    licence: LicenseDocument
    granted: frozenset[str]


class Changes:
    """The changes since the agent started. `run` is a text that no other run of the agent has."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._count = 0
        self._facts: _Facts | None = None
        self._moved = trio.Event()
        self._waiting: Counter[int] = Counter()

    @property
    def cursor(self) -> str:
        """The present position."""
        return f"{self._run}-{self._count}"

    def observe(self, snapshot: Snapshot) -> None:
        """Move the position if a program would now get another answer. Only the end of its validity may differ."""
        document = license_document(snapshot)
        lasting = msgspec.structs.replace(document, valid_until=snapshot.verdict.valid_until.min)
        facts = _Facts(lasting, granted_names(snapshot))
        if facts != self._facts:
            self._facts = facts
            self._count += 1
            self._moved.set()
            self._moved = trio.Event()

    async def moved(self, cursor: str, seconds: float) -> bool:
        """Wait until the position is another one than `cursor`, for at most `seconds`. Returns whether it is."""
        if cursor == self.cursor:
            with trio.move_on_after(seconds):
                await self._moved.wait()
        return cursor != self.cursor

    async def poll(self, cursor: str, seconds: float, user: int) -> bool | None:
        """As `moved`, for a program of `user`. None if this user has too many long polls."""
        if self._waiting[user] >= WAITS_PER_USER_MAX:
            return None
        self._waiting[user] += 1
        try:
            return await self.moved(cursor, seconds)
        finally:
            self._waiting[user] -= 1
            if not self._waiting[user]:
                del self._waiting[user]
