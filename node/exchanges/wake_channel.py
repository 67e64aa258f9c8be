"""Background task: the wake channel. It keeps one long poll open over the session.

An answer is a hint to fetch the statement. A lost channel only delays changes, because every contact fetches the
statement. A poll that lived and was cut is no sign of a dead cloud: the channel is opened again soon, and the next poll
is shorter.
"""

from collections.abc import Callable
from random import Random

import trio

from node.conditions import Conditions
from node.errors import NodeError
from node.exchanges import schedule
from node.exchanges.connection import Connection
from node.exchanges.poll_length import PollLength
from node.link import api
from node.link.connect import CONNECT_SECONDS_MAX
from node.waits import Waits
from protocol.faults import fault_point
from protocol.messages.sessions import Events
from protocol.signed.statements import Lease

FAILED = "wake_channel_failed"
"""Code of the condition."""
POLL_PAUSE_SECONDS = 0.2
"""Pause between an answered long poll and the next."""
FRUITLESS_SECONDS_MAX = 30.0
"""Longest spacing of two polls. The spacing doubles with each early answer that brings no new statement. It bounds the
polls and the contacts that a server causes which answers at once or changes the cursor at every poll."""
LIVES_SECONDS = CONNECT_SECONDS_MAX + 2.0
"""A poll that still waits after this time has reached the cloud: a connection that cannot be made has failed by then."""
WHOLE_SHARE = 0.9
"""A poll that lasted this share of its length counts as whole. The cloud's clock may run a little faster."""


class WakeChannel:
    """The wake channel of one agent.

    Args:
        connection: the session with the cloud, and the position of the channel.
        wake: has a contact made now.
        waits: the boot-time clock.
        heartbeat_seconds: length of a heartbeat slot.
        random: source of the jitter.
        conditions: gets the condition `wake_channel_failed` while the channel fails. It ends with the next answered
            poll, when a poll has waited for some seconds, or when the next poll is due and there is no session.
        presented: returns the current statement. A hint that brought another one was useful.
        lease: returns the lease, whose intervals count before `heartbeat_seconds`.
    """

    def __init__(
        self,
        connection: Connection,
        wake: Callable[[], None],
        waits: Waits,
        heartbeat_seconds: float,
        random: Random,
        conditions: Conditions | None = None,
        presented: Callable[[], str] = lambda: "",
        lease: Callable[[], Lease | None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._wake = wake
        self._waits = waits
        self._heartbeat_seconds = heartbeat_seconds
        self._random = random
        self._conditions = conditions
        self._presented = presented
        self._lease = lease
        self._seen = presented()
        self._fruitless = 0
        self._spacing_seconds = 0.0
        self._length = PollLength(random)
        self._losses = 0
        self._lived_seconds = 0.0
        self._retry_after_seconds = 0.0

    async def keep(self, ended: Callable[[], bool]) -> None:
        """Keep a long poll open until `ended` returns True. It can be called again after an unexpected exception."""
        while True:
            if self._connection.fabric is None:
                # Without a session no poll can be made. The status then shows why the last contact failed.
                self._report(None)
            fabric = await self._connection.wait_open()
            if ended():
                return
            await self._poll(fabric)
            if self._losses:
                heartbeat = schedule.heartbeat_of(self._lease(), self._heartbeat_seconds)
                wait = schedule.wake_reconnect_seconds(self._losses, heartbeat, self._random, self._lived_seconds)
                await self._waits.sleep(max(schedule.WAKE_RETRY_SECONDS + wait, self._retry_after_seconds))
            else:
                await self._waits.sleep(max(POLL_PAUSE_SECONDS, self._spacing_seconds - self._lived_seconds))

    async def _poll(self, fabric: api.Service) -> None:
        """Make one poll, learn from its life, and count a loss."""
        connection = self._connection
        asked, began = self._length.next_seconds(schedule.longest_poll_of(self._lease())), trio.current_time()
        try:
            with fault_point("node.events.send"):
                events = await self._answer(fabric, asked)
        except api.CloudRefused as refusal:
            # The cloud may no longer accept the session. The next contact gets the signed reason.
            self._wake()
            self._losses += 1
            self._report(refusal)
        except NodeError as error:
            # A poll that ended because its session was replaced is no loss.
            if fabric is connection.fabric:
                self._retry_after_seconds = (
                    error.retry_after_seconds if isinstance(error, api.CloudUnreachable) else 0.0
                )
                self._lived_seconds = min(trio.current_time() - began, asked)
                was_cut = self._length.cut(self._lived_seconds)
                self._losses = 1 if was_cut else self._losses + 1
                if not was_cut:
                    self._report(error)
        else:
            self._losses = 0
            self._report(None)
            self._lived_seconds = trio.current_time() - began
            whole = self._lived_seconds >= asked * WHOLE_SHARE
            self._space(whole=whole)
            if events.cursor != connection.cursor:
                connection.cursor = events.cursor
                self._wake()
            elif whole:
                self._length.whole()

    async def _answer(self, fabric: api.Service, asked: int) -> Events:
        """The answer of one poll. Ends the condition of an earlier failure once the poll has waited for some seconds."""
        outcome: Events | NodeError
        async with trio.open_nursery() as nursery:

            async def lives() -> None:
                await trio.sleep(LIVES_SECONDS)
                self._report(None)

            nursery.start_soon(lives)
            try:
                outcome = await fabric.events(self._connection.cursor, asked)
            except NodeError as error:  # raised below: the nursery would wrap it in a group
                outcome = error
            nursery.cancel_scope.cancel()
        if isinstance(outcome, NodeError):
            raise outcome
        return outcome

    def _space(self, *, whole: bool) -> None:
        """Set the spacing of polls. It grows with each early answer, unless the answer before brought a new statement."""
        statement = self._presented()
        if whole or statement != self._seen or self._lived_seconds >= FRUITLESS_SECONDS_MAX:
            self._fruitless = 0
        else:
            self._fruitless += 1
        self._seen = statement
        self._spacing_seconds = min(POLL_PAUSE_SECONDS * 2.0 ** min(self._fruitless, 16), FRUITLESS_SECONDS_MAX)

    def _report(self, error: NodeError | None) -> None:
        if self._conditions is None:
            return
        if error is None:
            self._conditions.clear(FAILED)
        else:
            text = (
                "changes of the licence arrive with the heartbeat only, because the last long poll failed: "
                f"{error.text} [{error.code}]"
            )
            self._conditions.report(FAILED, text, error.next)
