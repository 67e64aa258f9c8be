"""The agent: start-up settling, the loops that keep session, licence and certificate current, the local socket.

It decides nothing about the licence (`licensing.verdict` does) and holds no key (the TPM does). The rules it keeps:
before READY everything that can be known is settled; a revoked node does not come up; after READY it stays up in
every state and only the gate opens and closes; losing the cloud changes nothing but dates.
"""

import logging
import random
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import datetime

import trio

from node import api, notify, panel, trust
from node.certificates import EKU_DEVICE, check_chain
from node.clock import utc_now
from node.config import Config
from node.errors import NodeError, StateError
from node.exits import Exit
from node.hwbind import keys
from node.hwbind.errors import TpmError, TpmFailed, TpmIntegrity, TpmLockout, TpmNotOurs
from node.hwbind.tpm import Esys, Tpm
from node.licensing import schedule
from node.licensing.keeper import Keeper
from node.local_api import listen, serve
from node.panel import StatusDocument, status_document
from node.session import Credentials, SessionRefused, fresh_nonce, open_session
from node.state import Clock, State
from protocol.encoding import sha256_hex
from protocol.faults import fault_point
from protocol.ids import NodeSpiffeId
from protocol.sessions import Ask, RenewDevice

log = logging.getLogger("cascadia.agent")

STOP_SECONDS_MAX = 1.0
"""What closing the connection may take at the end."""
FAILURES_PER_SESSION = 3
"""After so many failures in a row a session is given up for a new proof: the cloud may not take it any more."""
POLL_PAUSE_SECONDS = 0.2
"""Between an answered poll and the next: a server that never waits must not be asked in a loop."""
SESSION_POLL_SECONDS = 0.5
"""How often the wake channel looks whether there is a session to open it with."""


class Revoked(NodeError):
    """The start of a revoked node."""

    exit = Exit.REVOKED
    code = "revoked"
    next = "Ask the operator for a code made to readmit this node, then run `cascadia activate FILE`."


class Agent:
    """One running agent. Made with its parts; `run` is its life."""

    def __init__(self, config: Config, state: State, tpm: Tpm, keeper: Keeper, clock: Clock = utc_now) -> None:
        self.config = config
        self.keeper = keeper
        self._state = state
        self._tpm = tpm
        self._clock = clock
        # Spreads waits over a fleet; nothing secret hangs on it.
        self._random = random.Random(secrets.randbits(64))  # noqa: S311
        self._credentials: Credentials | None = None
        self._fabric: api.Service | None = None
        self._wanted = trio.Event()
        self._turn = trio.Lock()
        # Below every cursor of the cloud: the first poll is answered at once.
        self._cursor = 0
        self._tpm_fault: TpmError | None = None
        self.failures = 0
        self.last_contact_at: datetime | None = None

    def status(self) -> StatusDocument:
        return status_document(
            self.keeper,
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
        if self.keeper.revoked or self.keeper.hardware != "ours":
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
        node_key = self.keeper.identity.node_key

        def load(esys: Esys) -> None:
            with keys.loaded(esys, node_key):
                pass

        try:
            await self._tpm.run(load)
        except TpmNotOurs as error:
            log.error("%s", error)
            self.keeper.hardware = "other"
        except (TpmFailed, TpmLockout, TpmIntegrity) as error:
            lease = self.keeper.lease
            if lease is None or self._clock() >= lease.refresh_after:
                raise
            log.error("%s; running on the lease until it needs a refresh", error)
            self.keeper.hardware = "unavailable"
        else:
            self.keeper.hardware = "ours"
            self._tpm_fault = None

    # Asking the cloud

    async def contact(self, *, anew: bool = False) -> bool:
        """One attempt at a session and the current statement; True when the cloud answered with signed words.

        With `anew` a session that is held is given up for a new proof. Never raises for what the cloud or the network
        does: that is logged and counts as silence.
        """
        async with self._turn:
            if anew:
                await self.new_session()
            try:
                await self._confirm_pending()
                await self._ensure_session()
                await self._refresh()
            except SessionRefused as refused:
                return self._told(refused)
            except api.CloudRefused as refusal:
                return await self._refused(refusal)
            except TpmError as error:
                self._lost(error)
                return self._silence(str(error))
            except NodeError as error:
                if self.failures >= FAILURES_PER_SESSION:
                    await self.new_session()
                return self._silence(error.text)
            self._answered()
            return True

    def _lost(self, error: TpmError) -> None:
        """The TPM failed while running. Another chip's key is no fault of the chip: it closes the gate."""
        if isinstance(error, TpmNotOurs):
            self.keeper.hardware = "other"
        else:
            self.keeper.hardware = "unavailable"
            self._tpm_fault = error

    async def _confirm_pending(self) -> None:
        """A generation that was activated but not confirmed comes first; without it the one in force goes on.

        Raises what `confirm` raises, only when there is no generation in force to go on with.
        """
        pending = self._state.pending(self._clock)
        if pending is None:
            return
        # Seldom needed: a start does not wait for it to load.
        from node.licensing.activation import confirm

        try:
            keeper = await confirm(self._state, self.keeper.trust, pending, self._tpm, self._clock)
        except (NodeError, TpmError) as error:
            if not self.keeper.confirmed:
                raise
            log.warning("generation %d cannot be confirmed yet: %s", pending.generation, error)
            return
        # In this order: cancelled between the two, the agent must not go on with a generation that has ended.
        self.keeper = keeper
        await self.new_session()

    async def _ensure_session(self) -> None:
        now = self._clock()
        held = self._credentials
        if held is not None and now < schedule.session_renewal_at(held.not_before, held.not_after):
            return
        opened = await open_session(
            self.keeper.trust, self.keeper.identity, self._tpm, self._clock, self.keeper.presented
        )
        await self._use(opened.credentials)
        if opened.current.statement:
            self.keeper.apply(opened.current, opened.answer_nonce)

    async def new_session(self) -> None:
        """Have the next contact prove anew."""
        # Forgotten before it is closed: closing waits, and others must not meet a closed client meanwhile.
        fabric, self._fabric, self._credentials = self._fabric, None, None
        if fabric is not None:
            await fabric.aclose()

    async def _use(self, credentials: Credentials) -> None:
        await self.new_session()
        self._credentials = credentials
        self._fabric = credentials.connect(self.keeper.trust, "fabric")

    async def _refresh(self) -> None:
        if self._fabric is None:
            raise api.CloudUnreachable("no session")
        nonce = fresh_nonce()
        with fault_point("node.statement.send"):
            answer = await self._fabric.statement(Ask(nonce=nonce, presented=self.keeper.presented))
        self.keeper.apply(answer, nonce)

    async def _refused(self, refusal: api.CloudRefused) -> bool:
        """A session that no longer counts: drop it, and hear why by a new proof."""
        await self.new_session()
        if refusal.code != "generation_closed":
            return self._silence(refusal.text)
        try:
            await self._ensure_session()
        except SessionRefused as refused:
            return self._told(refused)
        except (NodeError, TpmError) as error:
            return self._silence(str(error))
        return self._silence(refusal.text)

    def _told(self, refused: SessionRefused) -> bool:
        """A refusal counts only by the signed statement that came with it."""
        if not refused.answer.statement:
            return self._silence(str(refused.refusal))
        try:
            self.keeper.apply(refused.answer, refused.answer_nonce)
        except NodeError as error:
            return self._silence(error.text)
        self._answered()
        return True

    def _answered(self) -> None:
        self.failures = 0
        self._tpm_fault = None
        self.last_contact_at = self._clock()

    def _silence(self, reason: str) -> bool:
        self.failures += 1
        log.warning("no usable answer from the cloud (%d in a row): %s", self.failures, reason)
        return False

    async def renew_device(self) -> None:
        """A new device certificate for the same key, over the session. Raises NodeError, TpmError."""
        keeper = self.keeper
        identity = keeper.identity
        node_key = identity.node_key
        credentials = self._credentials
        if credentials is None:
            raise api.CloudUnreachable("cannot renew the device certificate: there is no session with the cloud")
        csr = await self._tpm.run(lambda esys: keys.certificate_request(esys, node_key))
        service = credentials.connect(keeper.trust, "breakwater")
        try:
            # Named for the certificate that it follows: after a lost answer the repeat gets the same successor.
            request = RenewDevice(request=f"renew-{sha256_hex(identity.chain[0])}", csr=csr)
            with fault_point("node.device.send"):
                answer = await service.renew_device(request)
        finally:
            await service.aclose()
        bundle = keeper.trust.bundle
        check_chain(
            answer.certificate_chain,
            bundle,
            spiffe=NodeSpiffeId(bundle.trust_domain, identity.tenant, identity.node),
            generation=identity.generation,
            usage=EKU_DEVICE,
            public_key=node_key.public_key(),
            now=self._clock(),
        )
        self._state.identities.replace_device_chain(identity.generation, answer.certificate_chain)
        keeper.renewed(answer.certificate_chain)

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
                    outcome = Revoked("cannot start: this node is revoked") if self.keeper.revoked else True
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
            nursery.start_soon(serve, listener, panel.handler(self))
            for loop in (self._keep_current, self._keep_awake, self._keep_told, self._keep_trust, notify.keep_watched):
                nursery.start_soon(loop)
            notify.ready(self._headline())
            ready()
            await anext(signals)
            nursery.cancel_scope.cancel()

    def _headline(self) -> str:
        verdict = self.keeper.verdict()
        return f"{verdict.state}, gate {'open' if verdict.gate_open else 'closed'}"

    def ask_soon(self) -> None:
        """Have the licence refreshed now, not at its hour."""
        self._wanted.set()

    async def _keep_current(self) -> None:
        """Refresh at the licence's hour, when woken, and in the node's slots while the cloud is silent."""
        while not self.keeper.revoked:
            wait = schedule.next_contact_seconds(
                now=self._clock(),
                node=self.keeper.identity.node,
                lease=self.keeper.lease,
                session_until=self._credentials.not_after if self._credentials else None,
                failures=self.failures,
                heartbeat_seconds=self.config.heartbeat_seconds,
            )
            with trio.move_on_after(wait):
                await self._wanted.wait()
            self._wanted = trio.Event()
            if self.keeper.hardware != "ours":
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
        lease = self.keeper.lease
        if self._tpm_fault is not None and lease is not None and self._clock() >= lease.refresh_after:
            raise self._tpm_fault

    async def _renew_device_if_due(self) -> None:
        if self._credentials is not None and schedule.device_renewal_due(self.keeper.identity.chain[0], self._clock()):
            await self._tolerant(self.renew_device)

    async def _keep_awake(self) -> None:
        """The wake channel: one long poll; what it brings is a hint, losing it is harmless."""
        losses = 0
        while not self.keeper.revoked:
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
                self.keeper.store_owed()
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
            await self._tolerant(self._refresh_trust)
            wait = schedule.trust_refresh_seconds(self._random)

    async def _refresh_trust(self) -> None:
        self.keeper.trust = await trust.refresh(self.config.state_dir)

    async def _tolerant(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (NodeError, TpmError) as error:
            log.warning("%s", error)
