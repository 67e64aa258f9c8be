"""Values: how long a request may still wait for the database, over all its waits.

A request may run several transactions. Each can wait for a connection and for locks. The waits of one request together
take at most `WAIT_SECONDS`, so a caller gets its answer within a bounded time however many waits there are. The time
in which the request works, calls another service or holds a long poll does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

WAIT_SECONDS = 5.0
"""Seconds for which one request, or one transaction of a background task, waits. It is longer than the time after
which the server ends the transaction of a process that hangs."""


class Waits:
    """The seconds that are left. Every wait takes its time from them."""

    __slots__ = ("left",)

    def __init__(self, seconds: float = WAIT_SECONDS) -> None:
        self.left = seconds

    def spend(self, seconds: float) -> None:
        """Take the time of a wait that is over."""
        self.left = max(0.0, self.left - seconds)


_OF_REQUEST: ContextVar[Waits | None] = ContextVar("waits_of_request", default=None)


def current_waits() -> Waits:
    """Return the waits of the running request; new ones outside of a request."""
    return _OF_REQUEST.get() or Waits()


@contextmanager
def waits_of_request(seconds: float = WAIT_SECONDS) -> Iterator[Waits]:
    """All waits inside the block share `seconds`."""
    token = _OF_REQUEST.set(waits := Waits(seconds))
    try:
        yield waits
    finally:
        _OF_REQUEST.reset(token)
