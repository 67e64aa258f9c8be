"""Use case: one contact with the cloud, with whatever must be confirmed, renewed or recovered on the way.

`node.agent` decides when; this module decides how, and what counts as an answer. Only a verified statement changes a
state; everything else is silence. What the cloud does is logged and never raised. A server or certificate that does not
verify leads to the published trust once, and a device certificate that opens no session leads to fresh evidence: a node
that slept through a rotation, or past its certificate, recovers by itself.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import trio

from node.clock import Clock
from node.errors import NodeError, StateError
from node.exchanges import schedule
from node.exchanges.confirmation import confirm
from node.exchanges.connection import Connection, same_peers
from node.exchanges.renewal import DeviceRenewal
from node.exchanges.session import SessionRefused, fresh_nonce, open_session
from node.hwbind.errors import TpmError
from node.hwbind.tpm import Tpm
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence
from node.link import api
from node.link.certificates import STEP_ISSUER, CertificateRejected
from node.state import State
from protocol.faults import fault_point
from protocol.messages.sessions import Ask

log = logging.getLogger("cascadia.agent")

FAILURES_PER_SESSION = 3
"""After so many failures in a row a session is closed for a new proof: the cloud may not accept it any more."""


@contextmanager
def faults_logged() -> Iterator[None]:
    """A NodeError or TpmError ends the block with a line in the log."""
    try:
        yield
    except (NodeError, TpmError) as error:
        log.warning("%s", error)


class Contact:
    """The agent's side of the cloud. It owns the licence in force, and counts what the cloud answered.

    `failures` counts contacts without an answer since the last one with an answer.
    """

    def __init__(self, state: State, tpm: Tpm, hardware: HardwareCheck, licence: Licence, clock: Clock) -> None:
        self._state = state
        self._tpm = tpm
        self._hardware = hardware
        self._licence = licence
        self._clock = clock
        self._trust = licence.trust
        self._renewal = DeviceRenewal(state, licence.trust, tpm, clock)
        self._recovered_at: float | None = None
        self._one_at_a_time = trio.Lock()
        self.connection = Connection()
        self.failures = 0
        self.last_contact_at: datetime | None = None

    @property
    def licence(self) -> Licence:
        """The licence in force; a contact that confirms a newer generation replaces it."""
        return self._licence

    async def attempt(self, *, new_session: bool = False) -> bool:
        """One attempt at a session and the current statement; True when the cloud answered with a signed statement.

        With `new_session` the session that is held is closed for a new proof. Never raises for what the cloud or the
        network does: that is logged and counts as silence.
        """
        async with self._one_at_a_time:
            if new_session:
                await self.connection.close()
            try:
                await self._exchange_or_recover()
            except SessionRefused as refused:
                return self._take_refusal(refused)
            except api.CloudRefused as refusal:
                return await self._learn_reason(refusal)
            except TpmError as error:
                self._hardware.report_fault(error)
                return self._count_silence(str(error))
            except NodeError as error:
                if self.failures >= FAILURES_PER_SESSION:
                    await self.connection.close()
                return self._count_silence(error.text)
            self._count_answer()
            return True

    async def renew(self, *, rekey: bool = False) -> None:
        """Everything now, at somebody's request: licence, session and, unless revoked, the device certificate.

        Raises NodeError, TpmError.
        """
        if not await self.attempt(new_session=True):
            raise api.CloudUnreachable("cannot renew: the cloud gave no usable answer; the licence is as it was")
        if not self._licence.revoked:
            await self.renew_device(rekey=rekey)

    async def renew_device(self, *, rekey: bool = False) -> None:
        """A new device certificate over the session, or with `rekey` by fresh evidence for a new key.

        The next contact opens a session by the new certificate. Raises NodeError, TpmError.
        """
        async with self._one_at_a_time:
            try:
                if rekey:
                    await self._renewal.with_evidence(self._licence, rekey=True)
                else:
                    await self._renewal.over_session(self._licence, self.connection.credentials)
            except SessionRefused as refused:
                self._take_refusal(refused)
                raise refused.refusal from refused
            self.connection.outdate()

    async def _exchange_or_recover(self) -> None:
        try:
            await self._exchange()
        except (api.ServerUnproven, CertificateRejected) as error:
            if not await self._recover_trust(error):
                raise
            await self._exchange()

    async def _exchange(self) -> None:
        """Session and statement; a device certificate that opens no session any more is renewed on the way."""
        await self._confirm_pending()
        try:
            await self._renewal.resume(self._licence)
        except (api.CloudUnreachable, CertificateRejected, StateError) as error:
            # The certificate in force may still open a session; if not, that is where it shows.
            log.warning("an interrupted renewal waits: %s", error.text)
        try:
            await self._refresh()
        except SessionRefused as refused:
            answered = bool(refused.answer.statement) or refused.refusal.code != "certificate_refused"
            if answered or not self._licence.confirmed:
                raise
            log.warning("the device certificate opens no session any more: renewing it with fresh evidence")
            await self._renewal.with_evidence(self._licence)
            await self._refresh()

    async def _recover_trust(self, error: NodeError) -> bool:
        """Refresh the trust when a server or certificate does not verify; True when other peers are trusted now.

        At once, and then not again for ten minutes and more.
        """
        if isinstance(error, CertificateRejected) and error.step != STEP_ISSUER:
            return False
        pause = schedule.trust_recovery_seconds(self._licence.identity.node)
        if self._recovered_at is not None and trio.current_time() < self._recovered_at + pause:
            return False
        log.warning("%s: looking for a newer trust", error.text)
        before = self._trust.value
        with faults_logged():
            await self._trust.refresh()
        self._recovered_at = trio.current_time()
        return not same_peers(before, self._trust.value)

    async def _confirm_pending(self) -> None:
        """Confirm a generation that was activated and not confirmed; if that fails, the one in force goes on.

        Raises as `confirm`, only when there is no generation in force to go on with.
        """
        pending = self._state.pending(self._trust.value)
        if pending is None:
            return
        try:
            licence = await confirm(self._state, pending, self._trust, self._tpm, self._hardware, self._clock)
        except (NodeError, TpmError) as error:
            if not self._licence.confirmed:
                raise
            log.warning("generation %d cannot be confirmed yet: %s", pending.generation, error)
            return
        # In this order: cancelled between the two, the agent must not go on with a generation that has ended.
        self._licence = licence
        await self.connection.close()

    async def _refresh(self) -> None:
        """The current statement: with a new session where one is due, else over the session that is held."""
        if self.connection.serves(self._trust.value, self._clock()) or not await self._open_session():
            await self._fetch_statement()

    async def _open_session(self) -> bool:
        """Open a session, and take the statement that came with it; True when it is fresh."""
        trusted, licence = self._trust.value, self._licence
        opened = await open_session(trusted, licence.identity, self._tpm, self._clock, licence.presented)
        await self.connection.replace(opened.credentials, trusted)
        # A generation that is not confirmed has no statement yet.
        if not opened.current.statement or not licence.apply(opened.current, opened.answer_nonce).fresh:
            return False
        self.connection.cursor = opened.cursor
        return True

    async def _fetch_statement(self) -> None:
        fabric = self.connection.fabric
        if fabric is None:
            raise api.CloudUnreachable("cannot ask for the statement: there is no session with the cloud")
        nonce = fresh_nonce()
        ask = Ask(nonce=nonce, presented=self._licence.presented, trust_version=self._trust.value.version)
        with fault_point("node.statement.send"):
            answer = await fabric.statement(ask)
        self._licence.apply(answer, nonce)

    async def _learn_reason(self, refusal: api.CloudRefused) -> bool:
        """The cloud refused the session: close it, and learn the reason, signed, by a new proof."""
        await self.connection.close()
        if refusal.code != "generation_closed":
            return self._count_silence(refusal.text)
        try:
            await self._open_session()
        except SessionRefused as refused:
            return self._take_refusal(refused)
        except (NodeError, TpmError) as error:
            return self._count_silence(str(error))
        return self._count_silence(refusal.text)

    def _take_refusal(self, refused: SessionRefused) -> bool:
        """A refusal counts only by the signed statement that came with it."""
        if not refused.answer.statement:
            return self._count_silence(str(refused.refusal))
        try:
            self._licence.apply(refused.answer, refused.answer_nonce)
        except NodeError as error:
            return self._count_silence(error.text)
        self._count_answer()
        return True

    def _count_answer(self) -> None:
        self.failures = 0
        self._hardware.clear_fault()
        self.last_contact_at = self._clock()

    def _count_silence(self, reason: str) -> bool:
        self.failures += 1
        log.warning("no usable answer from the cloud (%d in a row): %s", self.failures, reason)
        return False
