"""Background task: the agent settles. It checks the TPM and asks the cloud, before it reports READY.

If the cloud answers in time, its answer decides. Otherwise the stored evidence decides. A revoked or superseded node
does not start.
"""

import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from node.disk.thread import DISK_SECONDS_MAX
from node.errors import NodeError
from node.exchanges import schedule
from node.exchanges.contact import Contact
from node.exits import Exit
from node.hwbind.errors import TpmError
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence
from node.licensing.raising import TPM_SECONDS_MAX
from node.link import api
from node.supervision import UnexpectedErrors, run_once
from node.waits import Waits

log = logging.getLogger("cascadia.agent")


class Revoked(NodeError):
    """A revoked node does not start."""

    exit = Exit.REVOKED
    code = "revoked"
    next = "Ask the operator for an activation code that readmits this node, then run `cascadia activate FILE`."


class Superseded(Revoked):
    """A later activation of the same chip has replaced this generation. The node does not start."""

    code = "superseded"


class Settling:
    """The work of one start before READY.

    Args:
        contact: the contact with the cloud, and the licence in force.
        hardware: the check of the TPM.
        waits: the boot-time clock.
        random: spreads the retries.
        errors: where unexpected exceptions are reported.
        settle_seconds: how long the agent waits for the cloud.
    """

    def __init__(
        self,
        contact: Contact,
        hardware: HardwareCheck,
        waits: Waits,
        random: random.Random,
        errors: UnexpectedErrors,
        settle_seconds: float,
    ) -> None:
        self._contact = contact
        self._hardware = hardware
        self._waits = waits
        self._random = random
        self._errors = errors
        self._settle_seconds = settle_seconds

    @property
    def _licence(self) -> Licence:
        return self._contact.licence

    async def settle(self) -> None:
        """Check the hardware, then ask the cloud, for at most `settle_seconds`.

        If the cloud answers in time, its answer decides; otherwise the stored evidence decides. While the stored
        evidence keeps the gate closed, the contact is retried until the time is over. With an open gate it is retried
        for some seconds, if the machine has no network yet.
        After an unexpected exception of the check the gate stays closed until the TPM has passed a later check.
        Raises TpmError as `HardwareCheck.check`.
        """
        try:
            await self._licence.check_hardware()
        except (NodeError, TpmError):
            raise
        except Exception as error:  # noqa: BLE001 (the agent goes on)
            self._errors.report("hardware check", error)
        if self._licence.revoked or not self._hardware.can_prove:
            return
        # Time services often set the clock while a machine starts. The first comparison is with the time here.
        self._waits.check()
        with trio.move_on_after(self._settle_seconds) as scope:
            network_by = self._waits.now() + schedule.SETTLE_NETWORK_SECONDS
            while not await self._contact.attempt() and self._settling_helps(network_by):
                pause = schedule.settle_retry_seconds(self._random)
                await self._waits.sleep(max(pause, self._contact.retry_after_seconds))
        if scope.cancelled_caught and self._contact.failures == 0:
            cut = f"cannot reach the cloud: it did not answer within {self._settle_seconds:g} s of the start"
            self._contact.count_silence(api.CloudUnreachable(cut, code="timed_out"))
        if scope.cancelled_caught:
            log.warning("the settling time is over; the stored evidence decides")

    def _settling_helps(self, network_by: float) -> bool:
        """Whether to retry before READY: the gate is closed, or the network may come until `network_by`.

        A TPM that fails is not asked again and again.
        """
        if not self._hardware.can_prove:
            return False
        failure = self._contact.last_failure
        no_network = failure is not None and failure.code in api.NO_NETWORK
        return not self._licence.verdict().gate_open or (no_network and self._waits.now() < network_by)

    async def settled(
        self, signals: AsyncIterator[int], beside: Callable[[], Awaitable[None]], *, announced: bool
    ) -> bool:
        """Settle, and run `beside` meanwhile. Returns False if a signal came first.

        Unless `announced`, raises Revoked, TpmError; not in an ExceptionGroup.
        """
        outcome: NodeError | TpmError | bool = False
        async with trio.open_nursery() as nursery:

            async def settle() -> None:
                nonlocal outcome
                error = await run_once("settling", self.settle, self._errors)
                if isinstance(error, NodeError | TpmError):
                    outcome = error
                else:
                    if error is not None:
                        # The stored evidence decides, and the agent goes on.
                        self._errors.report("settling", error)
                    outcome = self._refusal_to_start() or True
                    if isinstance(outcome, Revoked) and not announced:
                        await run_once("storing", self._store_revocation, self._errors)
                nursery.cancel_scope.cancel()

            nursery.start_soon(settle)
            # READY may have been reported before.
            nursery.start_soon(beside)
            await anext(signals)
            nursery.cancel_scope.cancel()
        if not isinstance(outcome, Exception):
            return outcome
        if not announced:
            raise outcome
        if isinstance(outcome, TpmError):
            self._hardware.report_fault(outcome)
        return True

    async def _store_revocation(self) -> None:
        """Have the revocation and its floor stored before the process ends. The next start may be offline."""
        with trio.move_on_after(DISK_SECONDS_MAX):
            await self._contact.saver.flush()
        with trio.move_on_after(TPM_SECONDS_MAX):
            await self._contact.saver.floors.finish()

    def _refusal_to_start(self) -> Revoked | None:
        """The error of a start whose generation is revoked or superseded; otherwise None."""
        if not self._licence.revoked:
            return None
        verdict = self._licence.verdict()
        if verdict.superseded:
            return Superseded(f"cannot start: {verdict.reason}", next_step=verdict.next)
        return Revoked("cannot start: this node is revoked")
