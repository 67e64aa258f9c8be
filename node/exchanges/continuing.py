"""Background task: the agent continues a recovery that waits, until an operator or a rule has decided it.

`cascadia recover` has stored the proof. The agent sends the same bytes again, at the intervals that the cloud sets and
with growing pauses while the cloud is silent. After the approval it stores the new generation, which the next contact
confirms. No failure ends the agent, and none ends the wait: only a refusal of the cloud does.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import msgspec
import trio

from node.clock import Clock
from node.disk.pending import ApprovalWait, PendingActivation
from node.disk.thread import on_disk
from node.errors import NodeError, StateError
from node.hwbind.errors import TpmError
from node.hwbind.tpm import Tpm
from node.licensing.waiting import next_step, waiting_text
from node.link.api import CloudRefused
from node.state import State
from node.trust import published

log = logging.getLogger("cascadia.recovery")

WAITS = "recovery_pending"
"""Code of the condition that a recovery waits for a decision."""
ENDED = "recovery_ended"
"""Code of the condition that the cloud has refused the recovery that waited."""
RETRY_SECONDS_MIN = 30.0
RETRY_SECONDS_MAX = 3600.0
"""The pause after a failure, which doubles with each failure in a row."""
ENDED_NEXT = "Run `cascadia recover`: it says what the machine needs now."


def waiting_recovery(state: State) -> PendingActivation | None:
    """The stored recovery that waits; None without one, or if its generation is in force. Uses the disk."""
    with suppress(StateError):
        pending = state.identities.load_activation()
        if pending is None or pending.recovery is msgspec.UNSET or not pending.approval:
            return None
        with suppress(StateError):
            current = state.identities.current()
            if current is not None and current.node_key == pending.node_key:
                state.identities.clear_activation()
                return None
        return pending
    return None


def report_wait(state: State, waiting: ApprovalWait) -> None:
    """Report the condition that the recovery waits."""
    state.conditions.report(WAITS, waiting_text(waiting), next_step(waiting))


async def continue_recovery(state: State, tpm: Tpm, clock: Clock) -> bool:
    """Continue the stored recovery, if one waits. Returns True once a new generation is stored and can be confirmed.

    Returns False if no recovery waits, or after the cloud has refused it. The caller owns the state.
    """
    pending = await on_disk(lambda: waiting_recovery(state))
    if pending is None or not pending.approval:
        return False
    report_wait(state, pending.approval)
    log.warning("%s", waiting_text(pending.approval))
    try:
        await _until_decided(lambda: _fetch(state, tpm, clock, pending))
    except CloudRefused as refusal:
        log.error("%s", refusal.text)
        state.conditions.report(ENDED, refusal.text, ENDED_NEXT)
        return False
    finally:
        state.conditions.clear(WAITS)
    with suppress(StateError):
        await on_disk(state.identities.clear_activation)
    return True


async def _until_decided(fetch: Callable[[], Awaitable[object]]) -> None:
    """Call `fetch` until it succeeds. Raises CloudRefused."""
    pause = RETRY_SECONDS_MIN
    while True:
        try:
            await fetch()
            return
        except CloudRefused:
            raise
        except (NodeError, TpmError) as error:
            log.warning("cannot continue the recovery: %s; asking again in %.0f s", error, pause)
        await trio.sleep(pause)
        pause = min(2 * pause, RETRY_SECONDS_MAX)


async def _fetch(state: State, tpm: Tpm, clock: Clock, pending: PendingActivation) -> None:
    """Send the stored proof until it is decided, and store the new generation."""
    # Imported here, because a start of the agent without a recovery needs none of it.
    from node.exchanges.enrolment import Enrolment, Manner

    staged = await on_disk(lambda: published.stored(state.directory))
    manner = Manner(in_software=pending.node_key.in_software, wait=True)
    exchange = Enrolment(state, staged, tpm, clock, partial(log.info, "%s"), manner, first=False)
    exchange.on_wait = partial(report_wait, state)
    await exchange.fetch(pending)
