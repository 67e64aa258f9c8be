"""Background tasks: the agent contacts the cloud in its heartbeat slots, when a date is due, when woken, after a sleep.

`node.exchanges.contact` has the steps of a contact. This module decides when a contact happens. It also renews the
device certificate at its time.
"""

import logging
import random
from contextlib import suppress

import trio

from node.clock import Clock
from node.errors import NodeError
from node.exchanges import schedule
from node.exchanges.contact import Contact
from node.exchanges.first_answer import FirstAnswer
from node.hwbind.errors import TpmError
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence
from node.supervision import UnexpectedErrors
from node.waits import CHECK_SECONDS, MOVE_SECONDS_MIN, Move, Waits

log = logging.getLogger("cascadia.agent")


class Heartbeat:
    """The times of the contacts with the cloud.

    Args:
        contact: the contact with the cloud, and the licence in force.
        hardware: the check of the TPM.
        clock: trusted time, by which dates of leases and certificates are judged.
        waits: the boot-time clock.
        random: spreads waits over a fleet; it makes no secret.
        errors: where unexpected exceptions are reported.
        heartbeat_seconds: the agent's own length of a heartbeat slot; the lease may set another.
    """

    def __init__(
        self,
        contact: Contact,
        hardware: HardwareCheck,
        clock: Clock,
        waits: Waits,
        random: random.Random,
        errors: UnexpectedErrors,
        heartbeat_seconds: float,
    ) -> None:
        self._contact = contact
        self._hardware = hardware
        self._clock = clock
        self._random = random
        self._errors = errors
        self._configured_seconds = heartbeat_seconds
        self._waits = waits
        self._wake = trio.Event()
        self._contacted = trio.Event()
        # Set when the time of the next contact has to be computed again.
        self._rescheduled = trio.Event()
        self._first_answer: FirstAnswer | None = None
        # By the boot-time clock: a date would stay wrong after the wall clock is corrected.
        self._renew_from: float | None = None

    def wake(self) -> None:
        """Have the licence refreshed now, before its time."""
        self._wake.set()
        self._rescheduled.set()

    def report_contact(self) -> None:
        """Record that a contact has ended, by `wait_for_contact`."""
        self._contacted.set()

    async def wait_for_contact(self, seconds_max: float) -> None:
        """Wait until a contact has ended, for at most `seconds_max`."""
        with trio.move_on_after(seconds_max):
            await self._contacted.wait()
        self._contacted = trio.Event()

    @property
    def _licence(self) -> Licence:
        return self._contact.licence

    @property
    def slot_seconds(self) -> float:
        """The length of a heartbeat slot now."""
        return schedule.heartbeat_of(self._licence.lease, self._configured_seconds)

    async def keep_current(self) -> None:
        """Ask the cloud in each heartbeat slot, when lease or session is due, and when woken."""
        heartbeat = self.slot_seconds
        self._first_answer = first = FirstAnswer(self._waits.now(), heartbeat, self._random)
        if self._contact.last_contact_at is not None:
            first.answered()
        while not self._licence.revoked:
            await self._contact_due(first)
            if not self._hardware.answered:
                await self._look_for_hardware()
            # Even without the TPM: the present session can still fetch the cloud's statement.
            first.tried()
            if await self._contact.attempt():
                first.answered()
            self._contacted.set()
            self._raise_lasting_fault()
            await self.renew_device_if_due()
            # The cloud limits this node, or is busy. A change of the standing waits as well.
            await self._waits.sleep(self._contact.retry_after_seconds)
        verdict = self._licence.verdict()
        log.error("%s. The gate is closed until this machine is activated again. %s", verdict.reason, verdict.next)

    async def _contact_due(self, first: FirstAnswer) -> None:
        """Wait until the next contact is due, or until `wake`. A clock that moves has the time computed again."""
        while not self._wake.is_set():
            self._rescheduled = trio.Event()
            wait = schedule.next_contact_seconds(
                now=self._clock(),
                node=self._licence.identity.node,
                lease=self._licence.lease,
                session_until=self._contact.connection.session_until,
                failures=self._contact.failures,
                heartbeat_seconds=self.slot_seconds,
            )
            quick = first.seconds(self._waits.now()) if self._hardware.can_prove else None
            with trio.move_on_after(wait if quick is None else min(wait, quick)):
                await self._rescheduled.wait()
                continue
            break
        self._wake = trio.Event()

    async def keep_clock(self) -> None:
        """Check the clocks every second. If one moved, compute the times of the next contacts again."""
        while True:
            await trio.sleep(CHECK_SECONDS)
            move = self._waits.check()
            if move is not None:
                self._take_move(move)

    def _take_move(self, move: Move) -> None:
        """Ask the cloud soon if the machine has slept, or if the lease is past a date by the new time.

        Otherwise a step of the wall clock brings no contact, because one wrong time server steps a whole fleet.
        """
        log.warning(
            "the clocks moved: the machine slept %d s, the wall clock was set by %d s",
            round(move.slept_seconds),
            round(move.stepped_seconds),
        )
        slept, stepped = move.slept_seconds >= MOVE_SECONDS_MIN, abs(move.stepped_seconds) >= MOVE_SECONDS_MIN
        if stepped:
            # Both may have come from the clock before the step. The next contact finds what is still wrong.
            for code in ("clock_wrong", "device_renewal_failed"):
                self._contact.conditions.clear(code)
            self._renew_from = None
        if self._first_answer is not None and (slept or self._licence.verdict().state != "active"):
            self._first_answer.begin(self._waits.now())
        self._rescheduled.set()

    async def _look_for_hardware(self) -> None:
        """Check the hardware after READY. A fault does not end the agent here; `_raise_lasting_fault` does, later."""
        try:
            await self._licence.check_hardware()
        except TpmError as error:
            self._hardware.report_fault(error)
        except Exception as error:  # noqa: BLE001 (the contact that follows matters more)
            self._errors.report("hardware check", error)
        else:
            self._errors.clear("hardware check")

    def _raise_lasting_fault(self) -> None:
        """End the agent (exit 87) if a TPM that is not known fails at `refresh_after`, so that systemd restarts it.

        Without a lease (a suspended node, for example) the agent keeps running: a restart would gain nothing.
        """
        fault, lease = self._hardware.unknown_fault, self._licence.lease
        if fault is not None and lease is not None and self._clock() >= lease.refresh_after:
            raise fault

    async def renew_device_if_due(self) -> None:
        """Renew the device certificate at its time, or by the lease's renewal order.

        A failed renewal is retried in the node's heartbeat slots.
        """
        identity, now = self._licence.identity, self._clock()
        waits = self._renew_from is not None and self._waits.now() < self._renew_from
        if waits or self._contact.connection.credentials is None:
            return
        heartbeat = self.slot_seconds
        certificate = identity.chain[0]
        ordered = schedule.device_renewal_ordered(certificate, self._licence.lease, now, identity.node, heartbeat)
        if ordered:
            # The order may follow a rotation. The refreshed trust has the new issuing CA, and verifies its certificate.
            await self._contact.refresh_trust()
        elif not schedule.device_renewal_due(certificate, now, identity.node):
            return
        pause = schedule.next_slot(identity.node, now, heartbeat) - now
        self._renew_from = self._waits.now() + pause.total_seconds()
        # A failure is a condition already.
        with suppress(NodeError, TpmError):
            await self._contact.renew_device()
            self.wake()
