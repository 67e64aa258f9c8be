"""The wake channel on simulated time: over a way that cuts idle connections, in an outage, and after refusals."""

from collections.abc import Callable
from random import Random
from typing import cast

import pytest
import trio
import trio.testing

from node.conditions import Conditions
from node.exchanges.connection import Connection
from node.exchanges.wake_channel import FAILED, FRUITLESS_SECONDS_MAX, LIVES_SECONDS, WakeChannel
from node.link import api
from node.waits import Waits
from protocol.messages.sessions import Events
from protocol.problems import KINDS, document
from tests.simulators.fabric import utc_now
from tests.simulators.machine_clocks import right_window

HEARTBEAT = 600.0


class Cloud:
    """A cloud behind a device that cuts a poll after `cut_after` seconds. It notes when a poll was open."""

    def __init__(self, cut_after: float = float("inf")) -> None:
        self.cut_after = cut_after
        self.away = False
        self.refuses = False
        self.retry_after_seconds = 0.0
        self.began: list[float] = []
        self.open_seconds = 0.0
        self.cuts = 0

    async def events(self, cursor: int, wait_seconds: int) -> Events:
        self.began.append(trio.current_time())
        if self.refuses:
            raise api.CloudRefused(document(KINDS["generation_closed"]))
        if not self.away:
            await trio.sleep(min(wait_seconds, self.cut_after))
            self.open_seconds += min(wait_seconds, self.cut_after)
            if wait_seconds <= self.cut_after:
                return Events(cursor=cursor)
            self.cuts += 1
        raise api.CloudUnreachable("cannot reach the cloud", retry_after_seconds=self.retry_after_seconds)


class Woken:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


async def run(cloud: Cloud, seconds: float, seed: int, woken: Callable[[], None] = lambda: None) -> float:
    """Run the channel for some simulated seconds. Returns the time of the start."""
    connection = Connection(right_window)
    connection._fabric = cast(api.Service, cloud)
    channel = WakeChannel(connection, woken, Waits(utc_now, lambda: 0.0), HEARTBEAT, Random(seed))
    started = trio.current_time()
    with trio.move_on_after(seconds):
        await channel.keep(lambda: False)
    return started


@pytest.mark.parametrize(("seed", "cut_after"), list(enumerate([10.0, 30.0, 60.0, 100.0, float("inf")])))
async def test_the_channel_is_open_most_of_the_time(
    cut_after: float, seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    cloud = Cloud(cut_after)
    await run(cloud, 7200, seed)
    assert cloud.open_seconds > 0.9 * 7200
    assert cloud.cuts <= 12
    pauses = [later - sooner for sooner, later in zip(cloud.began, cloud.began[1:], strict=False)]
    assert max(pauses) < 31 + 250


@pytest.mark.parametrize("seed", range(2))
async def test_an_outage_brings_one_quick_attempt_and_then_wide_waits(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    """A million nodes lose the cloud together. After the first attempt they spread over heartbeats."""
    cloud = Cloud(cut_after=20.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, cloud, 4 * 3600, seed)
        await trio.sleep(10)
        cloud.away = True
    cut, *attempts = cloud.began
    assert attempts[0] - cut <= 20 + 31
    assert len([at for at in attempts if at < cut + 3600]) <= 12
    assert len(attempts) < 30


async def test_the_channel_waits_as_long_as_the_cloud_asks(autojump_clock: trio.testing.MockClock) -> None:
    cloud = Cloud()
    cloud.away, cloud.retry_after_seconds = True, 600.0
    await run(cloud, 7200, 1)
    pauses = [later - sooner for sooner, later in zip(cloud.began, cloud.began[1:], strict=False)]
    assert pauses
    assert min(pauses) >= 600


async def test_a_refusal_has_a_contact_made(autojump_clock: trio.testing.MockClock) -> None:
    cloud, woken = Cloud(), Woken()
    cloud.refuses = True
    await run(cloud, 3600, 1, woken)
    assert woken.times == len(cloud.began)
    assert 2 <= woken.times < 20


async def test_a_session_that_was_replaced_is_no_loss(autojump_clock: trio.testing.MockClock) -> None:
    connection, cloud = Connection(right_window), Cloud(cut_after=10.0)

    class Replaced(Cloud):
        async def events(self, cursor: int, wait_seconds: int) -> Events:
            connection._fabric = cast(api.Service, cloud)
            return await super().events(cursor, wait_seconds)

    connection._fabric = cast(api.Service, Replaced(cut_after=1.0))
    channel = WakeChannel(connection, lambda: None, Waits(utc_now, lambda: 0.0), HEARTBEAT, Random(1))
    with trio.move_on_after(5):
        await channel.keep(lambda: False)
    assert cloud.began


async def test_it_ends_with_the_node(autojump_clock: trio.testing.MockClock) -> None:
    connection, cloud = Connection(right_window), Cloud()
    connection._fabric = cast(api.Service, cloud)
    channel = WakeChannel(connection, lambda: None, Waits(utc_now, lambda: 0.0), HEARTBEAT, Random(1))
    with trio.fail_after(1):
        await channel.keep(lambda: True)
    assert cloud.began == []


@pytest.mark.parametrize("refuses", [True, False])
async def test_a_channel_that_fails_is_a_condition_until_it_answers(
    refuses: bool, autojump_clock: trio.testing.MockClock
) -> None:
    conditions = Conditions(utc_now)
    connection, cloud = Connection(right_window), Cloud()
    cloud.refuses, cloud.away = refuses, not refuses
    connection._fabric = cast(api.Service, cloud)
    waits = Waits(utc_now, lambda: 0.0)
    channel = WakeChannel(connection, lambda: None, waits, HEARTBEAT, Random(1), conditions)
    with trio.move_on_after(60):
        await channel.keep(lambda: False)
    (condition,) = conditions.current()
    assert condition.code == "wake_channel_failed"
    assert "with the heartbeat only" in condition.text
    cloud.refuses = cloud.away = False
    with trio.move_on_after(3 * HEARTBEAT):
        await channel.keep(lambda: False)
    assert conditions.current() == ()


async def test_a_channel_without_a_session_is_no_condition(autojump_clock: trio.testing.MockClock) -> None:
    """The session was closed, and the next poll is due. The last failure of the contact then shows the cause."""
    conditions = Conditions(utc_now)
    connection, cloud = Connection(right_window), Cloud()
    cloud.away = True
    connection._fabric = cast(api.Service, cloud)
    channel = WakeChannel(connection, lambda: None, Waits(utc_now, lambda: 0.0), HEARTBEAT, Random(1), conditions)
    with trio.move_on_after(60):
        await channel.keep(lambda: False)
    assert [condition.code for condition in conditions.current()] == ["wake_channel_failed"]
    connection._fabric = None
    with trio.move_on_after(3 * HEARTBEAT):
        await channel.keep(lambda: False)
    assert conditions.current() == ()


async def test_a_cut_poll_is_no_condition(autojump_clock: trio.testing.MockClock) -> None:
    """A middlebox cuts idle connections. The next poll is shorter."""
    conditions = Conditions(utc_now)
    connection = Connection(right_window)
    connection._fabric = cast(api.Service, Cloud(cut_after=60.0))
    waits = Waits(utc_now, lambda: 0.0)
    channel = WakeChannel(connection, lambda: None, waits, HEARTBEAT, Random(1), conditions)
    with trio.move_on_after(3600):
        await channel.keep(lambda: False)
    assert conditions.current() == ()


async def test_a_cursor_that_changes_at_every_poll_causes_few_contacts(autojump_clock: trio.testing.MockClock) -> None:
    connection, woken = Connection(right_window), Woken()

    class Restless(Cloud):
        async def events(self, cursor: int, wait_seconds: int) -> Events:
            self.began.append(trio.current_time())
            return Events(cursor=cursor + 1)

    cloud = Restless()
    connection._fabric = cast(api.Service, cloud)
    statements: list[str] = ["first"]
    channel = WakeChannel(
        connection, woken, Waits(utc_now, lambda: 0.0), HEARTBEAT, Random(1), presented=lambda: statements[-1]
    )
    with trio.move_on_after(HEARTBEAT):
        await channel.keep(lambda: False)
    assert woken.times < 10 + HEARTBEAT / FRUITLESS_SECONDS_MAX
    # A hint that brings a new statement makes the next poll quick again.
    statements.append("second")
    with trio.move_on_after(FRUITLESS_SECONDS_MAX + 1):
        await channel.keep(lambda: False)
    spacings = [later - sooner for sooner, later in zip(cloud.began[-8:], cloud.began[-7:], strict=False)]
    assert min(spacings) < 1


async def test_the_condition_ends_while_the_next_poll_waits(autojump_clock: trio.testing.MockClock) -> None:
    conditions = Conditions(utc_now)
    conditions.report(FAILED, "an earlier poll failed", "Wait.")
    connection, cloud = Connection(right_window), Cloud()
    connection._fabric = cast(api.Service, cloud)
    channel = WakeChannel(connection, lambda: None, Waits(utc_now, lambda: 0.0), HEARTBEAT, Random(1), conditions)
    with trio.move_on_after(LIVES_SECONDS + 1):
        await channel.keep(lambda: False)
    assert len(cloud.began) == 1, "the first poll still waits"
    assert conditions.current() == ()
