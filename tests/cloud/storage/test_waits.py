"""The seconds that a request may wait for the database: shared inside a request, new outside."""

import asyncio

from cloud.storage.waits import WAIT_SECONDS, current_waits, waits_of_request


def test_outside_of_a_request_each_wait_has_all_seconds() -> None:
    current_waits().spend(3)
    assert current_waits().left == WAIT_SECONDS


async def test_the_waits_of_a_request_share_its_seconds() -> None:
    with waits_of_request(2.0) as waits:
        current_waits().spend(0.5)
        await asyncio.create_task(_spend(0.5))  # a task of the request shares them, too
        assert waits.left == current_waits().left == 1.0
        current_waits().spend(5)
        assert waits.left == 0.0
    assert current_waits().left == WAIT_SECONDS


async def _spend(seconds: float) -> None:
    current_waits().spend(seconds)
