"""Use case: wait until an operator has approved an activation or a recovery. The machine repeats its proof at bounded intervals.

The stored activation says that it waits, so a repeat of the command continues it, also after a restart or days later.
While the wait lasts, an unreachable cloud only prolongs the interval. The cloud ends the wait at the date it has named.
"""

import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

import msgspec
import trio

from node.disk.pending import ApprovalWait
from node.errors import NodeError
from node.exits import Exit
from node.licensing.waiting import next_step, waiting_text
from node.link import api
from protocol.limits import APPROVAL_RETRY_SECONDS_MAX, APPROVAL_RETRY_SECONDS_MIN, APPROVE_WITHIN
from protocol.messages.activation import Activated, AwaitedApproval

JITTER = 0.2
"""Each pause is up to this share longer, so that the machines of a site do not ask at the same moment."""
WAIT_MARGIN = timedelta(days=1)
"""A run waits this much longer than an operator has time. It then ends even if the cloud never answers again."""
_PATIENCE_SECONDS = (APPROVE_WITHIN + WAIT_MARGIN).total_seconds()


Ask = Callable[[], Awaitable[Activated | AwaitedApproval]]
"""Sends the proof of an activation once."""


class ApprovalPending(NodeError):
    """The activation waits for an operator, and the command does not."""

    exit = Exit.PENDING
    code = "approval_pending"

    def __init__(self, waits: ApprovalWait, pause_seconds: float) -> None:
        """`waits` is what the activation waits for. `pause_seconds` is how long to wait before it asks again."""
        super().__init__(waiting_text(waits), next_step=next_step(waits))
        self.waits = waits
        self.pause_seconds = pause_seconds
        self.ask: Ask | None = None
        """Sends the stored proof again, without the state. Set by the exchange."""


class RecoveryPending(ApprovalPending):
    """The recovery waits for an operator or a code, and the command does not."""

    code = "recovery_pending"


async def until_approved(
    send: Ask,
    store: Callable[[ApprovalWait], Awaitable[None]],
    say: Callable[[str], None],
    *,
    wait: bool,
    after: ApprovalPending | None = None,
) -> Activated:
    """Send the proof until the answer is a device certificate.

    Args:
        send: sends the stored proof once.
        store: stores that the activation waits.
        say: gets a text before each pause.
        wait: whether to wait; without it, an activation that waits raises ApprovalPending.
        after: how an earlier call ended. What it waits for is stored, and a pause comes first.

    Raises ApprovalPending; CloudUnreachable if the first request or the whole wait finds no cloud; CloudRefused,
    for example when an operator denied the activation; and the errors of `store`.
    """
    waiting: ApprovalWait | None = None
    give_up_at, pause = trio.current_time(), 0.0
    if after is not None:
        waiting, pause = after.waits, after.pause_seconds
        give_up_at += _PATIENCE_SECONDS
        await trio.sleep(pause)
    while True:
        try:
            answer = await send()
        except api.CloudUnreachable as error:
            if waiting is None or trio.current_time() >= give_up_at:
                raise
            pause = min(2 * max(pause, APPROVAL_RETRY_SECONDS_MIN), APPROVAL_RETRY_SECONDS_MAX)
            pause = max(pause, error.retry_after_seconds)
            say(f"{error.text}; asking again in {pause:.0f} s")
        else:
            if isinstance(answer, Activated):
                return answer
            found = ApprovalWait(answer.activation, answer.asked_at, answer.expires_at, answer.recovery)
            if waiting is None:
                give_up_at = trio.current_time() + _PATIENCE_SECONDS
            if found != waiting:
                waiting = found
                await store(found)
            bounded = min(answer.retry_after_seconds, APPROVAL_RETRY_SECONDS_MAX)
            pause = max(bounded, APPROVAL_RETRY_SECONDS_MIN)
            if not wait:
                kind = ApprovalPending if found.recovery is msgspec.UNSET else RecoveryPending
                raise kind(found, pause)
            say(f"{waiting_text(found)}; asking again in {pause:.0f} s")
        await trio.sleep(pause * (1 + JITTER * random.random()))  # noqa: S311  spreads load, protects nothing
