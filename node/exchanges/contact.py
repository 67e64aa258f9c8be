"""Asking the cloud: one attempt at a session, the current statement, and what has to be renewed or recovered for it.

The agent's loops (`node.agent`) say when; here stands how, and what counts as an answer. The rules it keeps: only a
verified statement changes a state, all else is silence; what the cloud does is logged and never raised; a server or
certificate that is not believed leads to the published trust once, and a device certificate that opens no session to
fresh evidence, so that a node that slept through a rotation or past its certificate comes back by itself.
"""

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

import trio

from node.config import Config
from node.errors import NodeError, StateError
from node.exchanges import renewal, schedule
from node.exchanges.session import Credentials, SessionRefused, fresh_nonce, open_session
from node.hwbind.errors import TpmError, TpmNotOurs
from node.hwbind.tpm import Tpm
from node.licensing.licence import Licence
from node.link import api
from node.link.certificates import STEP_ISSUER, CertificateRejected
from node.state import Clock, State
from node.trust import published
from node.trust.published import TrustSet
from protocol.faults import fault_point
from protocol.messages.sessions import Ask

log = logging.getLogger("cascadia.agent")

FAILURES_PER_SESSION = 3
"""After so many failures in a row a session is given up for a new proof: the cloud may not take it any more."""


class Contact:
    """The agent's side of the cloud: what it holds of it, and the one exchange that renews all of it."""

    def __init__(self, config: Config, state: State, tpm: Tpm, licence: Licence, clock: Clock) -> None:
        self.config = config
        self.licence = licence
        self._state = state
        self._tpm = tpm
        self._clock = clock
        self._credentials: Credentials | None = None
        # The trust that the session stands on; None: the next contact opens another.
        self._opened_under: TrustSet | None = None
        self._fabric: api.Service | None = None
        self._recovered_at: float | None = None
        self._wanted = trio.Event()
        self._turn = trio.Lock()
        self._trusting = trio.Lock()
        self._tpm_fault: TpmError | None = None
        self.failures = 0
        self.last_contact_at: datetime | None = None

    def ask_soon(self) -> None:
        """Have the licence refreshed now, not at its hour."""
        self._wanted.set()

    async def contact(self, *, anew: bool = False) -> bool:
        """One attempt at a session and the current statement; True when the cloud answered with signed words.

        With `anew` a session that is held is given up for a new proof. Never raises for what the cloud or the network
        does: that is logged and counts as silence.
        """
        async with self._turn:
            if anew:
                await self.new_session()
            try:
                await self._exchange_or_recover()
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

    async def _exchange_or_recover(self) -> None:
        try:
            await self._exchange()
        except (api.ServerUnproven, CertificateRejected) as error:
            if not await self._recover_trust(error):
                raise
            await self._exchange()

    async def _exchange(self) -> None:
        """Session and statement; a device certificate that the cloud takes no more is renewed on the way."""
        await self._confirm_pending()
        try:
            await renewal.resume(self._state, self.licence, self._clock)
        except (api.CloudUnreachable, CertificateRejected, StateError) as error:
            # What is in force may still open a session; if not, that is where this is told.
            log.warning("a renewal that was cut off waits: %s", error.text)
        try:
            await self._ensure_session()
        except SessionRefused as refused:
            told = bool(refused.answer.statement) or refused.refusal.code != "certificate_refused"
            if told or not self.licence.confirmed:
                raise
            log.warning("the device certificate opens no session any more: renewing it with fresh evidence")
            await renewal.with_evidence(self._state, self.licence, self._tpm, self._clock)
            await self._ensure_session()
        await self._refresh()

    async def _recover_trust(self, error: NodeError) -> bool:
        """Whether another trust was published meanwhile; asked when what came is not believed under the one at hand.

        A node that slept through a rotation recovers by this. At once, and then not again for ten minutes and more.
        """
        if isinstance(error, CertificateRejected) and error.step != STEP_ISSUER:
            return False
        pause = schedule.trust_recovery_seconds(self.licence.identity.node)
        if self._recovered_at is not None and trio.current_time() < self._recovered_at + pause:
            return False
        log.warning("%s: looking for a newer trust", error.text)
        before = self.licence.trust
        await self._tolerant(self._refresh_trust)
        self._recovered_at = trio.current_time()
        return not _same_peers(before, self.licence.trust)

    def _lost(self, error: TpmError) -> None:
        """The TPM failed while running. Another chip's key is no fault of the chip: it closes the gate."""
        if isinstance(error, TpmNotOurs):
            self.licence.hardware = "other"
        else:
            self.licence.hardware = "unavailable"
            self._tpm_fault = error

    async def _confirm_pending(self) -> None:
        """A generation that was activated but not confirmed comes first; without it the one in force goes on.

        Raises what `confirm` raises, only when there is no generation in force to go on with.
        """
        pending = self._state.pending(self._clock)
        if pending is None:
            return
        # Seldom needed: a start does not wait for it to load.
        from node.exchanges.activation import confirm

        try:
            licence = await confirm(self._state, self.licence.trust, pending, self._tpm, self._clock)
        except (NodeError, TpmError) as error:
            if not self.licence.confirmed:
                raise
            log.warning("generation %d cannot be confirmed yet: %s", pending.generation, error)
            return
        # In this order: cancelled between the two, the agent must not go on with a generation that has ended.
        self.licence = licence
        await self.new_session()

    async def _ensure_session(self) -> None:
        now = self._clock()
        held = self._credentials
        current = self._opened_under is not None and _same_peers(self._opened_under, self.licence.trust)
        if held is not None and current and now < schedule.session_renewal_at(held.not_before, held.not_after):
            return
        opened = await open_session(
            self.licence.trust, self.licence.identity, self._tpm, self._clock, self.licence.presented
        )
        await self._use(opened.credentials)
        if opened.current.statement:
            self.licence.apply(opened.current, opened.answer_nonce)

    async def new_session(self) -> None:
        """Have the next contact prove anew."""
        # Forgotten before it is closed: closing waits, and others must not meet a closed client meanwhile.
        fabric, self._fabric, self._credentials = self._fabric, None, None
        if fabric is not None:
            await fabric.aclose()

    async def _use(self, credentials: Credentials) -> None:
        await self.new_session()
        self._credentials = credentials
        self._opened_under = self.licence.trust
        self._fabric = credentials.connect(self.licence.trust, "fabric")

    async def _refresh(self) -> None:
        if self._fabric is None:
            raise api.CloudUnreachable("no session")
        nonce = fresh_nonce()
        with fault_point("node.statement.send"):
            ask = Ask(nonce=nonce, presented=self.licence.presented, trust_version=self.licence.trust.version)
            answer = await self._fabric.statement(ask)
        self.licence.apply(answer, nonce)

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
            self.licence.apply(refused.answer, refused.answer_nonce)
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

    async def renew_device(self, *, rekey: bool = False) -> None:
        """A new device certificate over the session, or with `rekey` by fresh evidence for a new key.

        The next contact opens a session by the new certificate. Raises NodeError, TpmError.
        """
        async with self._turn:
            state, licence = self._state, self.licence
            try:
                if rekey:
                    await renewal.with_evidence(state, licence, self._tpm, self._clock, rekey=True)
                else:
                    await renewal.over_session(state, licence, self._credentials, self._tpm, self._clock)
            except SessionRefused as refused:
                self._told(refused)
                raise refused.refusal from refused
            self._opened_under = None
        self.ask_soon()

    async def _refresh_trust(self) -> None:
        # One at a time: of two, the one that was asked for first could be published last, and be the older.
        async with self._trusting:
            self.licence.trust = await published.refresh(self.config.state_dir)

    async def _tolerant(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (NodeError, TpmError) as error:
            log.warning("%s", error)


def _same_peers(one: TrustSet, other: TrustSet) -> bool:
    """Whether both believe the same servers and issuers."""
    return (one.bundle, one.urls) == (other.bundle, other.urls)
