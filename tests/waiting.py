"""Waits of tests: for a condition, with a deadline. `tests/test_source.py` lists the few places that may sleep.

For a test without an event loop `lab.processes.wait_until` is the wait for a condition.
"""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

import anyio

POLL_SECONDS = 0.01
"""The pause between two checks of a condition that has no event."""


async def until(what: str, check: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Return the first true value of `check`, a function or a coroutine function. Works on asyncio and on trio.

    Raises AssertionError with `what` when there is no true value within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = check()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds:g} s")
        await anyio.sleep(POLL_SECONDS)


async def stays(what: str, check: Callable[[], object], seconds: float) -> None:
    """Check for `seconds` that a condition holds, for example that no event happens. Works on asyncio and on trio.

    Raises AssertionError with `what` when the condition does not hold.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert check(), f"no longer: {what}"
        await anyio.sleep(POLL_SECONDS)


def stays_true(what: str, check: Callable[[], object], seconds: float) -> None:
    """`stays` for a test without an event loop."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert check(), f"no longer: {what}"
        time.sleep(POLL_SECONDS)


def waiters(event: asyncio.Event) -> int:
    """The number of tasks that wait for an event. A test can wait until a poll waits before it sets the event."""
    return len(event._waiters)
