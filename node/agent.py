"""Background tasks: the agent. It wires its parts, settles at the start, and runs its loops until a signal ends it.

`node.settling` has the work before READY. `node.heartbeat` decides when the agent contacts the cloud. `node.exchanges`
has the steps of each exchange. `node.licensing.verdict` judges the licence. The TPM holds the key. Before READY the
agent checks the TPM and asks the cloud. A revoked node does not start. After READY the agent keeps running in every
state of the licence; only the gate opens and closes. While the cloud cannot be reached, the dates of the lease decide.
"""

import logging
import random
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Self

import trio

from node.clock import Clock, Seconds, asleep_seconds, monotonic, utc_now
from node.config import Config
from node.disk.boot import BootRecord
from node.exchanges import schedule
from node.exchanges.contact import Contact
from node.exchanges.continuing import continue_recovery
from node.exchanges.wake_channel import WakeChannel
from node.heartbeat import Heartbeat
from node.hwbind.errors import TpmError
from node.hwbind.tpm import Tpm
from node.lending import Lending
from node.licensing.boot_time import machine_clocks
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence
from node.licensing.verdict import Snapshot
from node.local import routes
from node.local.changes import Changes
from node.local.documents import StatusDocument, status_document
from node.local.grants import DIRECTORY, Grants, grants_of
from node.local.place import SocketLost
from node.local.server import servings
from node.settling import Revoked, Settling, Superseded
from node.state import NotActivated, State
from node.supervision import UnexpectedErrors, supervised
from node.system import generation_id, journal, notify
from node.waits import Waits

if TYPE_CHECKING:
    from node.airgap.store import StoredRequest
    from node.disk.deactivated import Deactivated

__all__ = ["REPORT_SECONDS", "STOP_SECONDS_MAX", "WATCHDOG_PAUSE_SECONDS", "Agent", "Revoked", "Superseded"]

log = logging.getLogger("cascadia.agent")

STOP_SECONDS_MAX = 1.0
"""Bound of closing the connection at the end."""
WATCHDOG_PAUSE_SECONDS = 1.0
"""Longest pause before the watchdog's loop runs again. Limits of systemd's watchdog are some seconds or more."""
REPORT_SECONDS = 1.0
"""Longest pause between two checks of the verdict. A contact ends the pause. The passing of time alone also changes the
verdict, and no event reports a clock that somebody sets."""


class Agent:
    """One agent. `run` runs it from its start to its end."""

    def __init__(
        self,
        config: Config,
        state: State,
        tpm: Tpm,
        contact: Contact,
        hardware: HardwareCheck,
        clock: Clock,
        asleep: Seconds = asleep_seconds,
    ) -> None:
        self.config = config
        self.contact = contact
        self._state = state
        self._tpm = tpm
        self._hardware = hardware
        self._clock = clock
        self._trust = contact.licence.trust
        self._errors = errors = UnexpectedErrors(contact.conditions)
        self._lending = Lending(config.state_dir, lambda: None)
        self._is_finished = False
        self._saver = contact.saver
        self._saver.floors.on_counter = self._prove_again
        # Spreads waits over a fleet; it makes no secret.
        self._random = random.Random(secrets.randbits(64))  # noqa: S311 (see above)
        self.changes = Changes(secrets.token_hex(8))
        self._grants = Grants(config.socket.parent / DIRECTORY, contact.conditions)
        self._waits = waits = Waits(clock, asleep)
        self._ended = trio.Event()
        self._settling = Settling(contact, hardware, waits, self._random, errors, config.settle_seconds)
        self.heartbeat = Heartbeat(
            contact, hardware, contact.licence.time.high, waits, self._random, errors, config.heartbeat_seconds
        )
        self._channel = WakeChannel(
            contact.connection,
            self.wake,
            waits,
            config.heartbeat_seconds,
            self._random,
            contact.conditions,
            lambda: self.licence.presented,
            lambda: self.licence.lease,
        )

    @classmethod
    def load(
        cls,
        config: Config,
        state: State,
        tpm: Tpm,
        clock: Clock = utc_now,
        asleep: Seconds = asleep_seconds,
        awake: Seconds = monotonic,
    ) -> Self:
        """Make the agent of a state directory and its TPM. Raises NotActivated, StateError, TrustError.

        `clock` is the wall clock. `asleep` and `awake` are the seconds since the boot that the machine slept and ran.
        """
        state.floors.tpm = tpm
        hardware = HardwareCheck(tpm, BootRecord(config.socket.parent), state.conditions)
        licence = state.load_licence(hardware, machine_clocks(clock, asleep, awake))
        return cls(config, state, tpm, Contact(state, tpm, hardware, licence, clock), hardware, clock, asleep)

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
        self._lending.check()
        try:
            await self.contact.renew(rekey=rekey)
        finally:
            self.heartbeat.report_contact()
        if not self.licence.revoked:
            self.wake()

    async def make_request(self, *, new: bool) -> "StoredRequest":
        """The outstanding request for an answer without a network, or a new one. Raises as `refresh_request`."""
        from node.airgap.requests import refresh_request  # most agents have a network

        self._lending.check()
        async with self.contact.exclusive:
            development = self.config.mode == "development"
            return await refresh_request(self._state, self.licence, self._tpm, new=new, development=development)

    async def import_answer(self, data: bytes) -> None:
        """Import the answer to the outstanding request. The verdict changes at once. Raises as `Imports.into`."""
        from node.airgap.answers import Imports

        self._lending.check()
        try:
            async with self.contact.exclusive:
                await Imports(self._state, self._tpm, self._hardware).into(self.licence, data)
        finally:
            self.heartbeat.report_contact()

    async def deactivate(self, *, forget: bool) -> "Deactivated":
        """Hand the seat back, and store that this machine is deactivated. Raises as `deactivation.begin`."""
        from node.exchanges import deactivation  # few machines are ever deactivated

        self._lending.check()
        try:
            return await deactivation.begin(self.contact, self._hardware, self._clock(), forget=forget)
        finally:
            self.heartbeat.report_contact()

    def end_deactivated(self) -> None:
        """End this agent. The caller of `deactivate` has its answer, and removes the state."""
        self._ended.set()

    async def lend(self) -> None:
        """Lend the state to a command of root. Raises StateLent, StateError, DiskSilent.

        The agent forgets what the disk has refused when it reads the state again, so such a revocation is not lent.
        """
        self._lending.check()
        unstored = await self._saver.flush()
        if unstored is not None:
            raise unstored
        await self._lending.lend()

    def wake(self) -> None:
        """Have the licence refreshed now, before its time."""
        self.heartbeat.wake()

    async def settle(self) -> None:
        """Check the hardware, then ask the cloud. Raises as `Settling.settle`."""
        await self._settling.settle()

    # Loops

    async def run(
        self,
        ready: Callable[[], None] = lambda: None,
        *,
        announced: bool = False,
        passed: Sequence[int] = (),
        lending: Lending | None = None,
    ) -> None:
        """Settle, then serve until SIGTERM or SIGINT. A signal also ends the settling.

        `ready` is called once the agent serves. `passed` are the descriptors that systemd has passed. It also returns
        after a command has borrowed the state with `lending`. Before READY it raises Revoked or TpmError. After READY it
        raises an ExceptionGroup: with the TpmError if the TPM still fails when the lease is due for refresh, or with
        SocketLost. With
        `announced` READY was reported before, so a revoked node serves with a closed gate. Raises NotActivated after
        `deactivate`.
        """
        self._lending = lending or self._lending
        try:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                if await self._settling.settled(signals, self._keep_watched, announced=announced):
                    await self._serve(signals, ready, passed)
            if not self._lending.has_returned:
                notify.stopping()
        except Revoked:
            await self._grants.write({})
            raise
        finally:
            await self._finish()

    async def _finish(self) -> None:
        """Store what waits and close the connection, once, within a bound. A failure is logged."""
        if self._is_finished:
            return
        self._is_finished = True
        try:
            await self._saver.finish()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_SECONDS_MAX):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._saver.floors.finish)
                    nursery.start_soon(self.contact.connection.close)
        except Exception as error:  # noqa: BLE001 (the exit code is that of the run)
            self._errors.report("stopping", error)

    async def _serve(self, signals: AsyncIterator[int], ready: Callable[[], None], passed: Sequence[int]) -> None:
        """Serve until a signal comes, or until the state was lent and is back."""
        # A socket that cannot be made at the start ends the agent (SocketUnusable).
        sockets = servings(self.config.socket, routes.handler(self), self.contact.conditions, passed)
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            **sockets,
            "report": self._keep_reported,
            "grants": partial(self._grants.keep, self.snapshot, self.changes),
        }
        self.changes.observe(self.snapshot())
        await self._grants.write(grants_of(self.snapshot()))

        async def work(nursery: trio.Nursery) -> None:
            await self._work(ready)
            await self._finish()
            await self._lending.hand_out(self.contact.conditions)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for where, loop in loops.items():
                # A lost socket ends the agent on purpose.
                nursery.start_soon(partial(supervised, ends=(SocketLost,)), where, loop, self._errors)
            nursery.start_soon(self._keep_watched)
            nursery.start_soon(work, nursery)
            nursery.start_soon(self._until_deactivated, nursery.cancel_scope)
            await anext(signals)
            nursery.cancel_scope.cancel()
        if self._ended.is_set():
            raise NotActivated("cannot go on: this machine was deactivated")

    async def _work(self, ready: Callable[[], None]) -> None:
        """Run the loops that use the state, the TPM and the cloud, until a command asks for the state."""
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "clock": self.heartbeat.keep_clock,
            "wake channel": partial(self._channel.keep, lambda: self.licence.revoked),
            "trust": self._keep_trust,
            "storing": self._saver.run,
            "generation id": partial(generation_id.keep_informed, self._prove_again),
            "floors": self._saver.floors.run,
            "recovery": self._continue_recovery,
        }
        async with trio.open_nursery() as nursery:
            # Its TpmError ends the agent on purpose.
            nursery.start_soon(
                partial(supervised, ends=(TpmError,)), "heartbeat", self.heartbeat.keep_current, self._errors
            )
            for where, loop in loops.items():
                nursery.start_soon(supervised, where, loop, self._errors)
            notify.ready(self._headline())
            ready()
            await self._lending.asked()
            nursery.cancel_scope.cancel()

    async def _until_deactivated(self, scope: trio.CancelScope) -> None:
        await self._ended.wait()
        scope.cancel()

    async def _keep_watched(self) -> None:
        """Report to the watchdog of systemd while the thread of the TPM answers."""
        keep = partial(notify.keep_watched, self._tpm.answers)
        # Systemd waits for the sign of life, so the pause is short.
        await supervised("watchdog", keep, self._errors, pause_seconds_max=WATCHDOG_PAUSE_SECONDS)

    async def _continue_recovery(self) -> None:
        """Continue a recovery that waits, and have the heartbeat confirm its new generation."""
        if await continue_recovery(self.contact.state, self._tpm, self._clock):
            self.wake()

    def _prove_again(self) -> None:
        """Open another session soon. It shows the cloud a copied virtual machine, or a floor counter that is new."""
        self.contact.connection.outdate()
        self.wake()

    def _headline(self) -> str:
        verdict = self.licence.verdict()
        return f"{verdict.state}, gate {'open' if verdict.gate_open else 'closed'}"

    async def _keep_reported(self) -> None:
        """Report a changed verdict to systemd, the log and the long polls, and each notice to the log once."""
        before, notice = "", None
        while True:
            headline = self._headline()
            if headline != before:
                verdict = self.licence.verdict()
                fields = {
                    "MESSAGE_ID": journal.STATE_CHANGED,
                    "CASCADIA_STATE": verdict.state,
                    "CASCADIA_GATE": "open" if verdict.gate_open else "closed",
                }
                log.info("state: %s", headline, extra={journal.FIELDS: fields})
                notify.status(headline)
                before = headline
            snapshot = self.snapshot()
            self.changes.observe(snapshot)
            present = snapshot.notice
            if present is not None and present != notice:
                log.warning("notice: %s", present.text)
                notice = present
            await self.heartbeat.wait_for_contact(REPORT_SECONDS)

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
                await self._waits.sleep(schedule.adoption_seconds(self.heartbeat.slot_seconds, self._random))
                self.wake()
            wait = schedule.trust_refresh_seconds(self._random)
