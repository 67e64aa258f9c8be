"""The agent: wiring of its parts, settling at the start, and the loops that say when each exchange happens.

`node.exchanges` says how, `node.licensing.verdict` decides about the licence, and the TPM holds the key. Before READY
everything that can be known is settled. A revoked node does not start. After READY the agent stays up in every state,
and only the gate opens and closes. Losing the cloud changes nothing but dates.
"""

import logging
import random
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime
from typing import Self

import trio

from node.clock import Clock, utc_now
from node.config import Config
from node.errors import NodeError, StateError
from node.exchanges import schedule
from node.exchanges.contact import Contact, faults_logged
from node.exits import Exit
from node.hwbind.errors import TpmError
from node.hwbind.tpm import Tpm
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence
from node.licensing.verdict import Snapshot
from node.link import api
from node.local import routes
from node.local.documents import StatusDocument, status_document
from node.local.server import listen, serve
from node.state import State
from node.system import notify
from protocol.faults import fault_point

log = logging.getLogger("cascadia.agent")

STOP_SECONDS_MAX = 1.0
"""What closing the connection may take at the end."""
POLL_PAUSE_SECONDS = 0.2
"""Between an answered poll and the next: a server that never waits must not be asked in a loop."""
REPORT_SECONDS = 1.0
"""Between two looks at the verdict. A contact ends the pause. The clock alone also changes the verdict, and no event
announces a clock that is set."""


class Revoked(NodeError):
    """The start of a revoked node."""

    exit = Exit.REVOKED
    code = "revoked"
    next = "Ask the operator for a code made to readmit this node, then run `cascadia activate FILE`."


class Agent:
    """One running agent. Made with its parts; `run` is its life."""

    def __init__(self, config: Config, contact: Contact, hardware: HardwareCheck, clock: Clock) -> None:
        self.config = config
        self.contact = contact
        self._hardware = hardware
        self._clock = clock
        self._trust = contact.licence.trust
        self._wake = trio.Event()
        self._contacted = trio.Event()
        # Spreads waits over a fleet; nothing secret hangs on it.
        self._random = random.Random(secrets.randbits(64))  # noqa: S311
        self._renew_from: datetime | None = None

    @classmethod
    def load(cls, config: Config, state: State, tpm: Tpm, clock: Clock = utc_now) -> Self:
        """The agent over a state directory and its TPM. Raises NotActivated, StateError, TrustError."""
        hardware = HardwareCheck(tpm)
        licence = state.load_licence(hardware, clock)
        return cls(config, Contact(state, tpm, hardware, licence, clock), hardware, clock)

    @property
    def licence(self) -> Licence:
        """The licence in force."""
        return self.contact.licence

    # What local programs ask

    def snapshot(self) -> Snapshot:
        return self.licence.snapshot()

    def status(self) -> StatusDocument:
        return status_document(
            self.snapshot(),
            self.config.mode,
            running=True,
            last_contact_at=self.contact.last_contact_at,
            failures=self.contact.failures,
        )

    async def renew(self, *, rekey: bool) -> None:
        """Refresh licence, session and device certificate now. Raises NodeError, TpmError."""
        try:
            await self.contact.renew(rekey=rekey)
        finally:
            self._contacted.set()
        if not self.licence.revoked:
            self.wake()

    def wake(self) -> None:
        """Have the licence refreshed now, not at its hour."""
        self._wake.set()

    # Settling

    async def settle(self) -> None:
        """Hardware, then the cloud within the deadline; its answer decides, else the stored evidence does.

        Raises TpmError as `HardwareCheck.check`.
        """
        await self._check_hardware()
        if self.licence.revoked or self._hardware.status != "ours":
            return
        with trio.move_on_after(self.config.settle_seconds) as scope:
            await self.contact.attempt()
        if scope.cancelled_caught:
            log.warning("cloud not reached within %d s; stored evidence decides", self.config.settle_seconds)

    async def _check_hardware(self) -> None:
        await self._hardware.check(self.licence.identity.node_key, self.licence.lease_serves)

    # Loops

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """From settling to a signal, which counts from the beginning.

        Raises Revoked and TpmError before READY; after it a group with the TpmError that outlasted the lease's refresh.
        """
        try:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                if await self._settled(signals):
                    await self._serve(signals, ready)
            notify.stopping()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_SECONDS_MAX):
                await self.contact.connection.close()

    async def _settled(self, signals: AsyncIterator[int]) -> bool:
        """Settle; False when a signal came first. Raises Revoked, TpmError, by themselves and not in a group."""
        outcome: NodeError | TpmError | bool = False
        async with trio.open_nursery() as nursery:

            async def settle() -> None:
                nonlocal outcome
                try:
                    await self.settle()
                    outcome = Revoked("cannot start: this node is revoked") if self.licence.revoked else True
                except (NodeError, TpmError) as error:
                    outcome = error
                nursery.cancel_scope.cancel()

            nursery.start_soon(settle)
            await anext(signals)
            nursery.cancel_scope.cancel()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _serve(self, signals: AsyncIterator[int], ready: Callable[[], None]) -> None:
        listener = listen(self.config.socket)
        loops = (self._keep_current, self._keep_wake_channel, self._keep_reported, self._keep_trust)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, listener, routes.handler(self))
            for loop in (*loops, notify.keep_watched):
                nursery.start_soon(loop)
            notify.ready(self._headline())
            ready()
            await anext(signals)
            nursery.cancel_scope.cancel()

    def _headline(self) -> str:
        verdict = self.licence.verdict()
        return f"{verdict.state}, gate {'open' if verdict.gate_open else 'closed'}"

    async def _keep_current(self) -> None:
        """Refresh at the licence's hour, when woken, and in the node's slots while the cloud is silent."""
        while not self.licence.revoked:
            wait = schedule.next_contact_seconds(
                now=self._clock(),
                node=self.licence.identity.node,
                lease=self.licence.lease,
                session_until=self.contact.connection.session_until,
                failures=self.contact.failures,
                heartbeat_seconds=self.config.heartbeat_seconds,
            )
            with trio.move_on_after(wait):
                await self._wake.wait()
            self._wake = trio.Event()
            if self._hardware.status != "ours":
                await self._look_for_hardware()
            # Without the TPM too: a session that is held still brings the cloud's statement.
            await self.contact.attempt()
            self._contacted.set()
            self._raise_lasting_fault()
            await self._renew_device_if_due()
        log.error("this node was revoked while running: the gate is closed until it is activated again")

    async def _look_for_hardware(self) -> None:
        """The hardware check after READY: no fault ends the agent before `refresh_after`."""
        try:
            await self._check_hardware()
        except TpmError as error:
            self._hardware.report_fault(error)

    def _raise_lasting_fault(self) -> None:
        """A TPM that fails past `refresh_after` ends the agent, for its manager to restart it (exit 87).

        Without a lease (suspended, say) nothing is at stake that a restart would bring back.
        """
        fault, lease = self._hardware.fault, self.licence.lease
        if fault is not None and lease is not None and self._clock() >= lease.refresh_after:
            raise fault

    async def _renew_device_if_due(self) -> None:
        """At its hour or by the lease's order. A renewal that fails is tried again at the node's slots."""
        identity, now = self.licence.identity, self._clock()
        if self.contact.connection.credentials is None or (self._renew_from is not None and now < self._renew_from):
            return
        heartbeat = self.config.heartbeat_seconds
        certificate = identity.chain[0]
        ordered = schedule.device_renewal_ordered(certificate, self.licence.lease, now, identity.node, heartbeat)
        if ordered:
            # The order may follow a rotation: the new certificate is by an issuer that is published by now.
            with faults_logged():
                await self._trust.refresh()
        elif not schedule.device_renewal_due(certificate, now, identity.node):
            return
        self._renew_from = schedule.next_slot(identity.node, now, heartbeat)
        with faults_logged():
            await self.contact.renew_device()
            self.wake()

    async def _keep_wake_channel(self) -> None:
        """One long poll at a time. An answer is a hint to ask for the statement; losing the channel is harmless."""
        losses = 0
        connection = self.contact.connection
        while True:
            fabric = await connection.wait_open()
            if self.licence.revoked:
                return
            try:
                with fault_point("node.events.send"):
                    events = await fabric.events(connection.cursor, schedule.event_wait_seconds(self._random))
            except api.CloudRefused:
                # The session may not count any more: the next contact learns why, signed.
                self.wake()
                losses += 1
            except NodeError:
                losses += fabric is connection.fabric
            else:
                losses = 0
                if events.cursor != connection.cursor:
                    connection.cursor = events.cursor
                    self.wake()
            if losses:
                await trio.sleep(
                    schedule.WAKE_RETRY_SECONDS
                    + schedule.wake_reconnect_seconds(losses, self.config.heartbeat_seconds, self._random)
                )
            else:
                await trio.sleep(POLL_PAUSE_SECONDS)

    async def _keep_reported(self) -> None:
        """Report a changed verdict to systemd and the log, and store what the disk refused at first."""
        before = ""
        while True:
            # That the disk is full was logged when the statement came.
            with suppress(StateError):
                self.licence.retry_storing()
            headline = self._headline()
            if headline != before:
                log.info("state: %s", headline)
                notify.status(headline)
                before = headline
            with trio.move_on_after(REPORT_SECONDS):
                await self._contacted.wait()
            self._contacted = trio.Event()

    async def _keep_trust(self) -> None:
        """Refresh the published trust; what has verified stays until something newer verifies.

        First soon after the start: a machine that is switched off every night must learn new keys too.
        """
        wait = schedule.first_trust_refresh_seconds(self._random)
        while True:
            await trio.sleep(wait)
            before = self._trust.value.version
            with faults_logged():
                await self._trust.refresh()
            if self._trust.value.version != before:
                # The cloud counts the nodes that work by it: a contact soon, over a session under the new trust.
                await trio.sleep(schedule.adoption_seconds(self.config.heartbeat_seconds, self._random))
                self.wake()
            wait = schedule.trust_refresh_seconds(self._random)
