"""Readings of the fingerprint with a deadline, on a system that hangs."""

import threading

import trio

from node.hwbind.fingerprint import Components, Reasons
from node.hwbind.reading import components_in_time
from protocol.fingerprint import WEIGHTS

FOUND = Components({"mac": "b8:2a:72:00:00:01"}, Reasons())


async def test_a_system_that_hangs_delays_a_reading_by_its_deadline_only() -> None:
    release = threading.Event()

    def stuck() -> Components:
        release.wait()
        return FOUND

    try:
        with trio.fail_after(2):
            for _ in range(3):
                found = await components_in_time(stuck, 0.05)
                assert (found.values, found.unreadable) == ({}, frozenset(WEIGHTS))
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
    finally:
        release.set()


async def test_the_last_reading_is_used_while_the_system_hangs() -> None:
    release = threading.Event()

    def stuck() -> Components:
        release.wait()
        return Components({}, Reasons())

    try:
        assert await components_in_time(lambda: FOUND) is FOUND
        with trio.fail_after(2):
            assert await components_in_time(stuck, 0.05) is FOUND
    finally:
        release.set()


async def test_the_machine_itself_is_read() -> None:
    assert isinstance(await components_in_time(), Components)
