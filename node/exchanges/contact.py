"""Use case: one contact with the cloud. A contact also confirms, renews and recovers, if one of them is necessary.

`node.agent` decides when a contact happens. This module decides its steps, and which answers count. Only a verified
statement changes the state of the licence; every other outcome counts as silence. Failures of the cloud and the network
are logged and not raised.

A node recovers from a long absence by itself. If a server or certificate does not verify, the node refreshes the
published trust once. If its device certificate opens no session any more, the node renews it with fresh evidence.
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
"""After this many failures in a row the session is closed, because the cloud may no longer accept it. The next contact
makes a new proof."""


@contextmanager
def faults_logged() -> Iterator[None]:
    """Log a NodeError or TpmError of the block instead of raising it."""
    try:
        yield
    except (NodeError, TpmError) as error:
        log.warning("%s", error)


class Contact:
    """The agent's contacts with the cloud. It owns the licence in force and the session.

    `failures` is the number of contacts without an answer since the last contact with an answer. `last_contact_at` is
    the time of the last answer, by the wall clock.
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
        self.conditions = state.conditions
        self.failures = 0
        self.last_contact_at: datetime | None = None

    @property
    def licence(self) -> Licence:
        """The licence in force. A contact that confirms a newer generation replaces it."""
        return self._licence

    async def attempt(self, *, new_session: bool = False) -> bool:
        """Make one contact. Returns True if the cloud answered with a signed statement.

        With `new_session` the present session is closed first, so that the contact makes a new proof. Failures of the
        cloud, the network and the TPM are logged, and counted in `failures`.
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
        """Refresh the licence and the session and, unless the node is revoked, renew the device certificate now.

        Raises NodeError, TpmError.
        """
        if not await self.attempt(new_session=True):
            raise api.CloudUnreachable("cannot renew: the cloud gave no usable answer. The licence is unchanged")
        if not self._licence.revoked:
            await self.renew_device(rekey=rekey)

    async def renew_device(self, *, rekey: bool = False) -> None:
        """Get a new device certificate: over the session, or with `rekey` for a new key, by fresh evidence.

        The next contact opens a session with the new certificate. Raises NodeError, TpmError.
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
        """Get a session and the current statement. Renew a device certificate that opens no session any more."""
        await self._confirm_pending()
        try:
            await self._renewal.resume(self._licence)
        except (api.CloudUnreachable, CertificateRejected, StateError) as error:
            # The present certificate may still open a session. If it does not, the next step fails.
            log.warning("cannot finish an interrupted renewal yet: %s", error.text)
        try:
            await self._refresh()
        except SessionRefused as refused:
            answered = bool(refused.answer.statement) or refused.refusal.code != "certificate_refused"
            if answered or not self._licence.confirmed:
                raise
            log.warning("the device certificate opens no session any more; renewing it with fresh evidence")
            await self._renewal.with_evidence(self._licence)
            await self._refresh()

    async def _recover_trust(self, error: NodeError) -> bool:
        """Refresh the trust after a failed verification. Returns True if the trusted servers or issuers changed.

        The first refresh happens at once, later ones not sooner than `schedule.trust_recovery_seconds` apart.
        """
        if isinstance(error, CertificateRejected) and error.step != STEP_ISSUER:
            return False
        pause = schedule.trust_recovery_seconds(self._licence.identity.node)
        if self._recovered_at is not None and trio.current_time() < self._recovered_at + pause:
            return False
        log.warning("%s; looking for a newer published trust", error.text)
        before = self._trust.value
        with faults_logged():
            await self._trust.refresh()
        self._recovered_at = trio.current_time()
        return not same_peers(before, self._trust.value)

    async def _confirm_pending(self) -> None:
        """Confirm a generation that was activated and not confirmed yet. If that fails, keep the generation in force.

        Raises as `confirm`, and only if no generation is in force.
        """
        pending = self._state.pending(self._trust.value)
        if pending is None:
            return
        try:
            licence = await confirm(self._state, pending, self._trust, self._tpm, self._hardware, self._clock)
        except (NodeError, TpmError) as error:
            if not self._licence.confirmed:
                raise
            log.warning("cannot confirm generation %d yet: %s", pending.generation, error)
            return
        # In this order: if it is cancelled between the two, the agent must not continue with the closed generation.
        self._licence = licence
        await self.connection.close()

    async def _refresh(self) -> None:
        """Get the current statement: with a new session if one is due, otherwise over the present session."""
        if self.connection.serves(self._trust.value, self._clock()) or not await self._open_session():
            await self._fetch_statement()

    async def _open_session(self) -> bool:
        """Open a session, and apply the statement in its answer. Returns True if the statement is fresh."""
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
        """Close the session that the cloud refused, and ask for the signed reason with a new proof."""
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
        """Apply the signed statement of a refusal. A refusal without one counts as silence."""
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
