"""The agent: start-up settling, the loops that keep session, licence and certificate current, the local socket.

It decides nothing about the licence (`licensing.verdict` does) and holds no key (the TPM does). The rules it keeps:
before READY everything that can be known is settled; a revoked node does not come up; after READY it stays up in
every state and only the gate opens and closes; losing the cloud changes nothing but dates.
"""

import logging
import random
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime

import trio

from node.clock import utc_now
from node.config import Config
from node.errors import NodeError, StateError
from node.exchanges import schedule
from node.exchanges.contact import Contact
from node.exits import Exit
from node.hwbind import keys
from node.hwbind.errors import TpmError, TpmFailed, TpmIntegrity, TpmLockout, TpmNotOurs
from node.hwbind.tpm import Esys, Tpm
from node.licensing.licence import Licence
from node.link import api
from node.local import routes
from node.local.documents import StatusDocument, status_document
from node.local.server import listen, serve
from node.state import Clock, State
from node.system import notify
from protocol.faults import fault_point

log = logging.getLogger("cascadia.agent")

STOP_SECONDS_MAX = 1.0
"""What closing the connection may take at the end."""
POLL_PAUSE_SECONDS = 0.2
"""Between an answered poll and the next: a server that never waits must not be asked in a loop."""
SESSION_POLL_SECONDS = 0.5
"""How often the wake channel looks whether there is a session to open it with."""


class Revoked(NodeError):
    """The start of a revoked node."""

    exit = Exit.REVOKED
    code = "revoked"
    next = "Ask the operator for a code made to readmit this node, then run `cascadia activate FILE`."


class Agent(Contact):
    """One running agent. Made with its parts; `run` is its life."""

    def __init__(self, config: Config, state: State, tpm: Tpm, licence: Licence, clock: Clock = utc_now) -> None:
        super().__init__(config, state, tpm, licence, clock)
        # Spreads waits over a fleet; nothing secret hangs on it.
        self._random = random.Random(secrets.randbits(64))  # noqa: S311
        # Below every cursor of the cloud: the first poll is answered at once.
        self._cursor = 0
        self._renew_from: datetime | None = None

    def status(self) -> StatusDocument:
        return status_document(
            self.licence,
            self.config.mode,
            running=True,
            last_contact_at=self.last_contact_at,
            failures=self.failures,
        )

    # Settling

    async def settle(self) -> None:
        """Hardware, then the cloud within the deadline; what it says decides, else the stored evidence does.

        Raises TpmError as `check_hardware`.
        """
        await self.check_hardware()
        if self.licence.revoked or self.licence.hardware != "ours":
            return
        with trio.move_on_after(self.config.settle_seconds) as scope:
            await self.contact()
        if scope.cancelled_caught:
            log.warning("cloud not reached within %d s; stored evidence decides", self.config.settle_seconds)

    async def check_hardware(self) -> None:
        """Whether this TPM holds the node's key.

        Raises TpmError when the TPM cannot be used at all; one that answers with a failure is borne while the lease
        needs no refresh (design, section 6, exit 87).
        """
        node_key = self.licence.identity.node_key

        def load(esys: Esys) -> None:
            with keys.loaded(esys, node_key):
                pass

        try:
            await self._tpm.run(load)
        except TpmNotOurs as error:
            log.error("%s", error)
            self.licence.hardware = "other"
        except (TpmFailed, TpmLockout, TpmIntegrity) as error:
            lease = self.licence.lease
            if lease is None or self._clock() >= lease.refresh_after:
                raise
            log.error("%s; running on the lease until it needs a refresh", error)
            self.licence.hardware = "unavailable"
        else:
            self.licence.hardware = "ours"
            self._tpm_fault = None

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
                await self.new_session()

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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, listener, routes.handler(self))
            for loop in (self._keep_current, self._keep_awake, self._keep_told, self._keep_trust, notify.keep_watched):
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
                session_until=self._credentials.not_after if self._credentials else None,
                failures=self.failures,
                heartbeat_seconds=self.config.heartbeat_seconds,
            )
            with trio.move_on_after(wait):
                await self._wanted.wait()
            self._wanted = trio.Event()
            if self.licence.hardware != "ours":
                await self._look_for_hardware()
            # Without the TPM too: a session that is held still brings what the cloud has to say.
            await self.contact()
            self._raise_lasting_fault()
            await self._renew_device_if_due()
        log.error("this node was revoked while running: the gate is closed until it is activated again")

    async def _look_for_hardware(self) -> None:
        """`check_hardware` after READY: no fault ends the agent before `refresh_after`."""
        try:
            await self.check_hardware()
        except TpmError as error:
            self._lost(error)

    def _raise_lasting_fault(self) -> None:
        """A TPM that fails past `refresh_after` ends the agent, for its manager to start it anew (exit 87).

        Without a lease (suspended, say) nothing is at stake that a new start would bring back.
        """
        lease = self.licence.lease
        if self._tpm_fault is not None and lease is not None and self._clock() >= lease.refresh_after:
            raise self._tpm_fault

    async def _renew_device_if_due(self) -> None:
        """At its hour or by the lease's order; what fails is tried again at the node's slots."""
        identity, now = self.licence.identity, self._clock()
        if self._credentials is None or (self._renew_from is not None and now < self._renew_from):
            return
        heartbeat = self.config.heartbeat_seconds
        ordered = schedule.device_renewal_ordered(identity.chain[0], self.licence.lease, now, identity.node, heartbeat)
        if ordered:
            # The order may follow a rotation: the new certificate is by an issuer that is published by now.
            await self._tolerant(self._refresh_trust)
        elif not schedule.device_renewal_due(identity.chain[0], now, identity.node):
            return
        self._renew_from = schedule.next_slot(identity.node, now, heartbeat)
        await self._tolerant(self.renew_device)

    async def _keep_awake(self) -> None:
        """The wake channel: one long poll; what it brings is a hint, losing it is harmless."""
        losses = 0
        while not self.licence.revoked:
            fabric = self._fabric
            if fabric is None:
                await trio.sleep(SESSION_POLL_SECONDS)
                continue
            try:
                with fault_point("node.events.send"):
                    events = await fabric.events(self._cursor, schedule.event_wait_seconds(self._random))
            except api.CloudRefused:
                # The session may not count any more: the next contact learns why, signed.
                self.ask_soon()
                losses += 1
            except NodeError:
                losses += fabric is self._fabric
            else:
                losses = 0
                if events.cursor != self._cursor:
                    self._cursor = events.cursor
                    self.ask_soon()
            if losses:
                await trio.sleep(
                    schedule.WAKE_RETRY_SECONDS
                    + schedule.wake_reconnect_seconds(losses, self.config.heartbeat_seconds, self._random)
                )
            else:
                await trio.sleep(POLL_PAUSE_SECONDS)

    async def _keep_told(self) -> None:
        """Tell systemd and the log when the verdict changes, and the disk what it would not take at first."""
        before = ""
        while True:
            # That the disk is full was told when the statement came.
            with suppress(StateError):
                self.licence.store_owed()
            headline = self._headline()
            if headline != before:
                log.info("state: %s", headline)
                notify.status(headline)
                before = headline
            await trio.sleep(1)

    async def _keep_trust(self) -> None:
        """Refresh the published trust; what was verified stays until a newer one verifies.

        First soon after the start: a machine that is switched off every night must learn new keys too.
        """
        wait = schedule.first_trust_refresh_seconds(self._random)
        while True:
            await trio.sleep(wait)
            before = self.licence.trust.version
            await self._tolerant(self._refresh_trust)
            if self.licence.trust.version != before:
                # The cloud counts who has adopted it: it is told soon, over a session opened under the new trust.
                await trio.sleep(schedule.adoption_seconds(self.config.heartbeat_seconds, self._random))
                self.ask_soon()
            wait = schedule.trust_refresh_seconds(self._random)
