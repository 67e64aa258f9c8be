"""Runs work of a test outside of the thread of its event loop."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def off_loop(work: Callable[[], T]) -> T:
    """The result of `work`, done in a thread. The caller waits, also inside of an event loop.

    The TPM port refuses to run in the thread of an event loop. A test may use the TPM between two awaits.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
