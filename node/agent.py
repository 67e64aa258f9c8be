"""Background tasks: the agent. It wires its parts, settles at the start, and decides when each exchange happens.

`node.exchanges` has the steps of each exchange. `node.licensing.verdict` judges the licence. The TPM holds the key.
Before READY the agent checks the TPM and asks the cloud. A revoked node does not start. After READY the agent keeps
running in every state of the licence; only the gate opens and closes. While the cloud cannot be reached, the dates of
the lease decide.
"""

import logging
import random
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Self

import trio

from node.clock import Clock, asleep_seconds, utc_now
from node.config import Config
from node.disk.boot import BootRecord
from node.disk.thread import DISK_SECONDS_MAX
from node.errors import NodeError
from node.exchanges import schedule
from node.exchanges.contact import Contact
from node.exchanges.first_answer import FirstAnswer
from node.exchanges.wake_channel import WakeChannel
from node.exits import Exit
from node.hwbind.errors import TpmError
from node.hwbind.tpm import Tpm
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence
from node.licensing.verdict import Snapshot
from node.link import api
from node.local import routes
from node.local.documents import StatusDocument, status_document
from node.local.server import Serving
from node.state import State
from node.supervision import UnexpectedErrors, run_once, supervised
from node.system import notify
from node.waits import CHECK_SECONDS, MOVE_SECONDS_MIN, Move, Waits

log = logging.getLogger("cascadia.agent")

STOP_SECONDS_MAX = 1.0
"""Bound of closing the connection at the end."""
WATCHDOG_PAUSE_SECONDS = 1.0
"""Longest pause before the watchdog's loop runs again. Limits of systemd's watchdog are some seconds or more."""
REPORT_SECONDS = 1.0
"""Longest pause between two checks of the verdict. A contact ends the pause. The passing of time alone also changes the
verdict, and no event reports a clock that somebody sets."""


class Revoked(NodeError):
    """A revoked node does not start."""

    exit = Exit.REVOKED
    code = "revoked"
    next = "Ask the operator for an activation code that readmits this node, then run `cascadia activate FILE`."


class Superseded(Revoked):
    """A later activation of the same chip has replaced this generation. The node does not start."""

    code = "superseded"


class Agent:
    """One agent. `run` runs it from its start to its end."""

    def __init__(
        self,
        config: Config,
        contact: Contact,
        hardware: HardwareCheck,
        clock: Clock,
        asleep: Callable[[], float] = asleep_seconds,
    ) -> None:
        self.config = config
        self.contact = contact
        self._hardware = hardware
        self._clock = clock
        self._trust = contact.licence.trust
        self._errors = UnexpectedErrors(contact.conditions)
        self._saver = contact.saver
        self._wake = trio.Event()
        self._contacted = trio.Event()
        # Spreads waits over a fleet; it makes no secret.
        self._random = random.Random(secrets.randbits(64))  # noqa: S311 (see above)
        self._waits = Waits(clock, asleep)
        self._channel = WakeChannel(
            contact.connection,
            self.wake,
            self._waits,
            config.heartbeat_seconds,
            self._random,
            contact.conditions,
            lambda: self.licence.presented,
        )
        # Set when the time of the next contact has to be computed again.
        self._rescheduled = trio.Event()
        self._first_answer: FirstAnswer | None = None
        # By the boot-time clock: a date would stay wrong after the wall clock is corrected.
        self._renew_from: float | None = None

    @classmethod
    def load(
        cls,
        config: Config,
        state: State,
        tpm: Tpm,
        clock: Clock = utc_now,
        asleep: Callable[[], float] = asleep_seconds,
    ) -> Self:
        """Make the agent of a state directory and its TPM. Raises NotActivated, StateError, TrustError."""
        hardware = HardwareCheck(tpm, BootRecord(config.socket.parent), state.conditions)
        licence = state.load_licence(hardware, clock)
        return cls(config, Contact(state, tpm, hardware, licence, clock), hardware, clock, asleep)

    @property
    def licence(self) -> Licence:
        """The licence in force."""
        return self.contact.licence

    # Questions of local programs

    def snapshot(self) -> Snapshot:
        """The licence now."""
        return self.licence.snapshot()

    def status(self) -> StatusDocument:
        """The document of `cascadia status`."""
        return status_document(
            self.snapshot(),
            self.config.mode,
            running=True,
            last_contact_at=self.contact.last_contact_at,
            failures=self.contact.failures,
            conditions=self.contact.conditions.current(),
            last_failure=self.contact.last_failure,
        )

    async def renew(self, *, rekey: bool) -> None:
        """Refresh the licence and the session, and renew the device certificate, now. Raises NodeError, TpmError."""
        try:
            await self.contact.renew(rekey=rekey)
        finally:
            self._contacted.set()
        if not self.licence.revoked:
            self.wake()

    def wake(self) -> None:
        """Have the licence refreshed now, before its time."""
        self._wake.set()
        self._rescheduled.set()

    # Settling

    async def settle(self) -> None:
        """Check the hardware, then ask the cloud, for at most `settle_seconds`.

        If the cloud answers in time, its answer decides; otherwise the stored evidence decides. While the stored
        evidence keeps the gate closed, the contact is retried until the time is over. With an open gate it is retried
        for some seconds, if the machine has no network yet.
        After an unexpected exception of the check the gate stays closed until the TPM has passed a later check.
        Raises TpmError as `HardwareCheck.check`.
        """
        try:
            await self._check_hardware()
        except (NodeError, TpmError):
            raise
        except Exception as error:  # noqa: BLE001 (the agent goes on)
            self._errors.report("hardware check", error)
        if self.licence.revoked or self._hardware.status != "ours":
            return
        # Time services often set the clock while a machine starts. The first comparison is with the time here.
        self._waits.check()
        with trio.move_on_after(self.config.settle_seconds) as scope:
            network_by = self._waits.now() + schedule.SETTLE_NETWORK_SECONDS
            while not await self.contact.attempt() and self._settling_helps(network_by):
                pause = schedule.settle_retry_seconds(self._random)
                await self._waits.sleep(max(pause, self.contact.retry_after_seconds))
        if scope.cancelled_caught and self.contact.failures == 0:
            cut = f"cannot reach the cloud: it did not answer within {self.config.settle_seconds:g} s of the start"
            self.contact.count_silence(api.CloudUnreachable(cut, code="timed_out"))
        if scope.cancelled_caught:
            log.warning("the settling time is over; the stored evidence decides")

    def _settling_helps(self, network_by: float) -> bool:
        """Whether to retry before READY: the gate is closed, or the network may come until `network_by`.

        A TPM that fails is not asked again and again.
        """
        if self._hardware.status != "ours":
            return False
        failure = self.contact.last_failure
        no_network = failure is not None and failure.code in api.NO_NETWORK
        return not self.licence.verdict().gate_open or (no_network and self._waits.now() < network_by)

    async def _check_hardware(self) -> None:
        """Check the TPM. Raises as `HardwareCheck.check`."""
        await self._hardware.check(self.licence.identity.node_key, self.licence.identity.endorsement)

    # Loops

    async def run(self, ready: Callable[[], None] = lambda: None, *, announced: bool = False) -> None:
        """Settle, then serve until SIGTERM or SIGINT. A signal also ends the settling.

        `ready` is called once the agent serves. Before READY it raises Revoked or TpmError. After READY it raises an
        ExceptionGroup with the TpmError if the TPM still fails when the lease is due for refresh. With `announced`
        READY was reported before, so a revoked node serves with a closed gate.
        """
        try:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                if await self._settled(signals, announced=announced):
                    await self._serve(signals, ready)
            notify.stopping()
        finally:
            await self._finish()

    async def _finish(self) -> None:
        """Store what waits and close the connection, within a bound. A failure is logged."""
        try:
            await self._saver.finish()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_SECONDS_MAX):
                await self.contact.connection.close()
        except Exception as error:  # noqa: BLE001 (the exit code is that of the run)
            self._errors.report("stopping", error)

    async def _settled(self, signals: AsyncIterator[int], *, announced: bool) -> bool:
        """Settle. Returns False if a signal came first.

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
        """Have the revocation stored before the process ends, also by a slow disk. The next start may be offline."""
        with trio.move_on_after(DISK_SECONDS_MAX):
            await self._saver.flush()

    def _refusal_to_start(self) -> Revoked | None:
        """The error of a start whose generation is revoked or superseded; otherwise None."""
        if not self.licence.revoked:
            return None
        verdict = self.licence.verdict()
        if verdict.superseded:
            return Superseded(f"cannot start: {verdict.reason}", next_step=verdict.next)
        return Revoked("cannot start: this node is revoked")

    async def _serve(self, signals: AsyncIterator[int], ready: Callable[[], None]) -> None:
        # A socket that cannot be made at the start ends the agent (SocketUnusable).
        socket = Serving(self.config.socket, routes.handler(self), self.contact.conditions)
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "socket": socket.run,
            "clock": self._keep_clock,
            "wake channel": partial(self._channel.keep, lambda: self.licence.revoked),
            "report": self._keep_reported,
            "trust": self._keep_trust,
            "storing": self._saver.run,
        }
        async with trio.open_nursery() as nursery:
            # Its TpmError ends the agent on purpose.
            nursery.start_soon(partial(supervised, ends=(TpmError,)), "heartbeat", self._keep_current, self._errors)
            for where, loop in loops.items():
                nursery.start_soon(supervised, where, loop, self._errors)
            # Systemd waits for the sign of life, so the pause is short.
            watched = partial(supervised, pause_seconds_max=WATCHDOG_PAUSE_SECONDS)
            nursery.start_soon(watched, "watchdog", notify.keep_watched, self._errors)
            notify.ready(self._headline())
            ready()
            await anext(signals)
            nursery.cancel_scope.cancel()

    def _headline(self) -> str:
        verdict = self.licence.verdict()
        return f"{verdict.state}, gate {'open' if verdict.gate_open else 'closed'}"

    async def _keep_current(self) -> None:
        """Ask the cloud in each heartbeat slot, when lease or session is due, and when woken."""
        heartbeat = self.config.heartbeat_seconds
        self._first_answer = first = FirstAnswer(self._waits.now(), heartbeat, self._random)
        if self.contact.last_contact_at is not None:
            first.answered()
        while not self.licence.revoked:
            await self._contact_due(first)
            if self._hardware.status != "ours":
                await self._look_for_hardware()
            # Even without the TPM: the present session can still fetch the cloud's statement.
            first.tried()
            if await self.contact.attempt():
                first.answered()
            self._contacted.set()
            self._raise_lasting_fault()
            await self._renew_device_if_due()
            # The cloud limits this node, or is busy. A change of the standing waits as well.
            await self._waits.sleep(self.contact.retry_after_seconds)
        verdict = self.licence.verdict()
        log.error("%s. The gate is closed until this machine is activated again. %s", verdict.reason, verdict.next)

    async def _contact_due(self, first: FirstAnswer) -> None:
        """Wait until the next contact is due, or until `wake`. A clock that moves has the time computed again."""
        while not self._wake.is_set():
            self._rescheduled = trio.Event()
            wait = schedule.next_contact_seconds(
                now=self._clock(),
                node=self.licence.identity.node,
                lease=self.licence.lease,
                session_until=self.contact.connection.session_until,
                failures=self.contact.failures,
                heartbeat_seconds=self.config.heartbeat_seconds,
            )
            quick = first.seconds(self._waits.now()) if self._hardware.status == "ours" else None
            with trio.move_on_after(wait if quick is None else min(wait, quick)):
                await self._rescheduled.wait()
                continue
            break
        self._wake = trio.Event()

    async def _keep_clock(self) -> None:
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
                self.contact.conditions.clear(code)
            self._renew_from = None
        if self._first_answer is not None and (slept or self.licence.verdict().state != "active"):
            self._first_answer.begin(self._waits.now())
        self._rescheduled.set()

    async def _look_for_hardware(self) -> None:
        """Check the hardware after READY. A fault does not end the agent here; `_raise_lasting_fault` does, later."""
        try:
            await self._check_hardware()
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
        fault, lease = self._hardware.unknown_fault, self.licence.lease
        if fault is not None and lease is not None and self._clock() >= lease.refresh_after:
            raise fault

    async def _renew_device_if_due(self) -> None:
        """Renew the device certificate at its time, or by the lease's renewal order.

        A failed renewal is retried in the node's heartbeat slots.
        """
        identity, now = self.licence.identity, self._clock()
        waits = self._renew_from is not None and self._waits.now() < self._renew_from
        if waits or self.contact.connection.credentials is None:
            return
        heartbeat = self.config.heartbeat_seconds
        certificate = identity.chain[0]
        ordered = schedule.device_renewal_ordered(certificate, self.licence.lease, now, identity.node, heartbeat)
        if ordered:
            # The order may follow a rotation. The refreshed trust has the new issuing CA, and verifies its certificate.
            await self.contact.refresh_trust()
        elif not schedule.device_renewal_due(certificate, now, identity.node):
            return
        pause = schedule.next_slot(identity.node, now, heartbeat) - now
        self._renew_from = self._waits.now() + pause.total_seconds()
        # A failure is a condition already.
        with suppress(NodeError, TpmError):
            await self.contact.renew_device()
            self.wake()

    async def _keep_reported(self) -> None:
        """Report a changed verdict to systemd and the log."""
        before = ""
        while True:
            headline = self._headline()
            if headline != before:
                log.info("state: %s", headline)
                notify.status(headline)
                before = headline
            with trio.move_on_after(REPORT_SECONDS):
                await self._contacted.wait()
            self._contacted = trio.Event()

    async def _keep_trust(self) -> None:
        """Refresh the published trust about once a day. The verified trust stays until a newer one verifies.

        The first refresh is within an hour of the start, so that a machine that is switched off every night gets new
        keys too.
        """
        wait = schedule.first_trust_refresh_seconds(self._random)
        while True:
            await self._waits.sleep(wait)
            before = self._trust.value.version
            await self.contact.refresh_trust()
            if self._trust.value.version != before:
                # The cloud counts the nodes that use the new trust, so report it in a contact soon.
                await self._waits.sleep(schedule.adoption_seconds(self.config.heartbeat_seconds, self._random))
                self.wake()
            wait = schedule.trust_refresh_seconds(self._random)
