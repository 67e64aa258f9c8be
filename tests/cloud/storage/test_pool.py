"""The pool, over simulated connections: callers that get one, callers that wait, and connections that are dropped.

tests/cloud/storage/test_postgres.py tests the pool with a real server.
"""

import asyncio

import pytest

from cloud.storage.errors import DatabaseBusy, StorageNotOpen
from cloud.storage.pool import Pool


class Connection:
    """The methods of asyncpg's connection that the pool calls."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = False
        self.in_transaction = False

    def is_closed(self) -> bool:
        return self.closed

    def is_in_transaction(self) -> bool:
        return self.in_transaction

    def terminate(self) -> None:
        self.closed = True

    async def close(self, timeout: float) -> None:
        del timeout
        self.closed = True


class Server:
    """Makes connections, numbered from 1."""

    def __init__(self) -> None:
        self.made = 0
        self.error: Exception | None = None

    async def connect(self) -> Connection:
        if self.error is not None:
            raise self.error
        self.made += 1
        return Connection(self.made)


@pytest.fixture
def server() -> Server:
    return Server()


async def test_a_connection_is_made_when_needed_and_the_last_used_comes_first(server: Server) -> None:
    pool = Pool(3, server.connect)
    first, second = await pool.take(), await pool.take()
    pool.give(first)
    pool.give(second)
    assert await pool.take() is second
    assert server.made == 2


async def test_who_waits_gets_the_next_one_in_turn(server: Server) -> None:
    pool = Pool(1, server.connect)
    connection = await pool.take()
    waiting = [asyncio.create_task(pool.take()) for _ in range(2)]
    await asyncio.sleep(0)
    pool.give(connection)
    assert await waiting[0] is connection
    assert not waiting[1].done()
    pool.give(connection)
    assert await waiting[1] is connection


async def test_a_wait_is_bounded(server: Server) -> None:
    pool = Pool(1, server.connect)
    connection = await pool.take()
    with pytest.raises(DatabaseBusy, match="all 1 connections"):
        await pool.take(0.01)
    pool.give(connection)
    assert await pool.take() is connection, "who gave up took no place with it"


async def test_a_waiter_that_is_cancelled_in_its_turn_passes_it_on(server: Server) -> None:
    pool = Pool(1, server.connect)
    connection = await pool.take()
    first, second = (asyncio.create_task(pool.take()) for _ in range(2))
    await asyncio.sleep(0)
    pool.give(connection)
    first.cancel()
    assert await second is connection
    assert first.cancelled()


@pytest.mark.parametrize("doubt", ["closed", "in_transaction"])
async def test_one_in_doubt_is_dropped_and_its_place_stays(doubt: str, server: Server) -> None:
    pool = Pool(1, server.connect)
    connection = await pool.take()
    setattr(connection, doubt, True)
    pool.give(connection)
    assert connection.closed
    assert (await pool.take()).number == 2


async def test_a_server_that_refuses_costs_no_place(server: Server) -> None:
    pool = Pool(1, server.connect)
    server.error = OSError("refused")
    with pytest.raises(OSError, match="refused"):
        await pool.take()
    server.error = None
    assert (await pool.take()).number == 1


async def test_closing_waits_for_those_in_use_and_refuses_who_comes_then(server: Server) -> None:
    pool = Pool(2, server.connect)
    first, second = await pool.take(), await pool.take()
    pool.give(first)
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)
    assert not closing.done()
    pool.give(second)
    await closing
    assert first.closed
    assert second.closed
    with pytest.raises(StorageNotOpen):
        await pool.take()
