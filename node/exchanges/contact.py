"""Use case: one contact with the cloud. A contact also confirms, renews and recovers, if one of them is necessary.

`node.heartbeat` decides when a contact happens. This module decides its steps, and which answers count. Only a verified
statement changes the state of the licence; every other outcome counts as silence. Failures of the cloud and the network
are logged and not raised.

A contact also continues earlier work: the confirmation of a newer generation, and an interrupted renewal. If this work
fails, the failure is a condition, and the contact goes on. No answer and no local fault ends the agent.

A node recovers from a long absence by itself. If a server or certificate does not verify, the node refreshes the
published trust once. If its device certificate opens no session any more, the node renews it with fresh evidence.
"""

import logging
from contextlib import suppress
from datetime import datetime
from functools import partial

import trio

from node.clock import Clock, asleep_seconds
from node.disk.identity import Identity
from node.disk.thread import DISK_SECONDS_MAX, DiskSilent, on_disk
from node.errors import NodeError, StateError
from node.exchanges import schedule, wake_channel
from node.exchanges.confirmation import confirm
from node.exchanges.connection import Connection, same_peers
from node.exchanges.failure import Failure, failure_of
from node.exchanges.renewal import DeviceRenewal
from node.exchanges.reporting import SilenceLog, errand
from node.exchanges.session import Held, SessionRefused, fresh_nonce, open_session
from node.exits import Exit
from node.hwbind.errors import TpmError
from node.hwbind.tpm import Tpm
from node.licensing.hardware import RECORD_SECONDS_MAX, HardwareCheck
from node.licensing.licence import Licence
from node.link import api
from node.link.causes import wrong_clock
from node.link.certificates import STEP_ISSUER, CertificateRejected
from node.state import State
from node.supervision import UnexpectedErrors
from node.trust import published
from protocol.faults import fault_point
from protocol.messages.sessions import Ask, StatementAnswer

log = logging.getLogger("cascadia.agent")

FAILURES_PER_SESSION = 3
"""After this many failures in a row the next contact opens another session, because the cloud may no longer accept the
present one."""

TOKEN_SECONDS_MAX = 2.0
"""How long a contact waits for the disk to read or store a renewal token. An older token will do next time."""

RENEWAL_FAILED = "device_renewal_failed"
"""Code of the condition that the last renewal of the device certificate failed."""


class Contact:
    """The agent's contacts with the cloud. It owns the licence in force and the session.

    `failures` is the number of contacts without an answer since the last contact with an answer. `last_contact_at` is
    the time of the last answer, by the wall clock. `last_failure` is the last contact without an answer, also after a
    later contact with one.
    """

    def __init__(self, state: State, tpm: Tpm, hardware: HardwareCheck, licence: Licence, clock: Clock) -> None:
        self._state = state
        self._tpm = tpm
        self._hardware = hardware
        self._licence = licence
        self._clock = clock
        self._trust = licence.trust
        self._renewal = DeviceRenewal(state, licence.trust, tpm)
        self._recovered_at: float | None = None
        self._one_at_a_time = trio.Lock()
        self.connection = Connection(state.time.window)
        self.conditions = state.conditions
        self._errors = UnexpectedErrors(state.conditions)
        self._silence = SilenceLog()
        self.saver = state.saver
        self.failures = 0
        self.last_contact_at: datetime | None = None
        self.last_failure: Failure | None = None
        self.retry_after_seconds = 0.0
        """Seconds for which the cloud asked to wait in the last contact, 0 if it did not."""

    @property
    def state(self) -> State:
        """The state directory."""
        return self._state

    @property
    def tpm(self) -> Tpm:
        """The TPM."""
        return self._tpm

    @property
    def licence(self) -> Licence:
        """The licence in force. A contact that confirms a newer generation replaces it."""
        return self._licence

    @property
    def exclusive(self) -> trio.Lock:
        """Held during a contact. Other work that replaces the licence or its trust holds it too."""
        return self._one_at_a_time

    async def attempt(self, *, new_session: bool = False) -> bool:
        """Make one contact. Returns True if the cloud answered with a signed statement.

        With `new_session` the contact makes a new proof. The present session is used if the TPM cannot make one. Every
        failure is logged, counted in `failures` and kept in `last_failure`. Nothing is raised.
        """
        async with self._one_at_a_time:
            try:
                answered = await self._attempt(new_session)
                await self._keep_time()
                if self._hardware.unjudged:
                    await self._licence.check_hardware()
            except Exception as error:  # noqa: BLE001 (no answer and no fault of this machine ends the agent)
                self._errors.report("contact", error)
                self._outdate_after_failures()
                return self._count_silence(error)
            self._errors.clear("contact")
            return answered

    async def _attempt(self, new_session: bool) -> bool:
        self.retry_after_seconds = 0.0
        if new_session:
            self.connection.outdate()
        try:
            await self._exchange_or_recover()
        except SessionRefused as refused:
            return self._take_refusal(refused)
        except api.CloudRefused as refusal:
            return await self._learn_reason(refusal)
        except TpmError as error:
            self._hardware.report_fault(error)
            return self._count_silence(error)
        except NodeError as error:
            self.retry_after_seconds = error.retry_after_seconds if isinstance(error, api.CloudUnreachable) else 0.0
            if not self.retry_after_seconds:
                # A cloud that limits this node accepts its session. Another session would only use up the limit.
                self._outdate_after_failures()
            return self._count_silence(error)
        self._count_answer()
        return True

    async def renew(self, *, rekey: bool = False) -> None:
        """Refresh the licence and the session and, unless the node is revoked, renew the device certificate now.

        If the cloud answers with a signed statement instead of a session, nothing is renewed, and the statement says why.
        Raises NodeError with the cause if the cloud gave no signed statement; NodeError, TpmError of the renewal.
        """
        if not await self.attempt(new_session=True) and self.last_failure is not None:
            raise self.last_failure.error()
        answered_without_session = self.connection.credentials is None and not rekey
        if not self._licence.revoked and not answered_without_session:
            await self.renew_device(rekey=rekey)

    async def renew_device(self, *, rekey: bool = False) -> None:
        """Get a new device certificate: over the session, or with `rekey` for a new key, by fresh evidence.

        The next contact opens a session with the new certificate. A failure is also reported as the condition
        RENEWAL_FAILED, until the certificate is renewed in any way. Raises NodeError, TpmError.
        """
        async with self._one_at_a_time:
            try:
                with errand(self.conditions, RENEWAL_FAILED, raises=True):
                    if rekey:
                        await self._renewal.with_evidence(self._licence, rekey=True)
                    else:
                        await self._renewal.over_session(self._licence, self.connection.credentials)
            except SessionRefused as refused:
                self._take_refusal(refused)
                await self._keep_time()
                raise refused.refusal from refused
            self.connection.outdate()

    async def refresh_trust(self) -> None:
        """Refresh the published trust. A failure becomes the condition `trust_refresh_failed`."""
        with errand(self.conditions, "trust_refresh_failed"):
            await self._trust.refresh()
            self.conditions.clear(published.TrustNotStored.code)

    async def _exchange_or_recover(self) -> None:
        try:
            await self._exchange()
        except (api.ServerUnproven, CertificateRejected) as error:
            if not await self._recover_trust(error):
                raise
            await self._exchange()

    async def _exchange(self) -> None:
        """Get a session and the current statement. Renew a device certificate that opens no session any more."""
        await self._run_errands()
        try:
            await self._refresh()
        except SessionRefused as refused:
            answered = bool(refused.answer.statement) or refused.refusal.code != "certificate_refused"
            if answered or not self._licence.confirmed:
                raise
            log.warning("the device certificate opens no session any more; renewing it with fresh evidence")
            try:
                await self._renewal.with_evidence(self._licence)
                self.conditions.clear(RENEWAL_FAILED)
            except api.CloudRefused as again:
                # The first refusal names the cause. The refusal of a renewal does not say which part it refuses.
                log.warning("cannot renew the device certificate: %s", again.text)
                raise refused from again
            await self._refresh()

    async def _run_errands(self) -> None:
        """Continue what an interruption left behind. It comes first: the cloud may have closed the present generation.

        Without a generation in force it raises as `confirm`. A SessionRefused with a signed statement is raised, because
        the statement is the answer of the contact. Every other failure becomes a condition.
        """
        if self._licence.confirmed:
            with errand(self.conditions, "confirmation_failed"):
                await self._confirm_newer()
        elif not self._licence.revoked:
            await self._put_in_force(await self._confirm(self._licence.identity))
        refused: SessionRefused | None = None
        with errand(self.conditions, "renewal_interrupted"):
            # The present certificate may still open a session. If it does not, the next step fails.
            try:
                if await self._resume_renewal():
                    self.conditions.clear(RENEWAL_FAILED)
            except SessionRefused as caught:
                refused = caught
        if refused is not None:
            raise refused

    async def _resume_renewal(self) -> bool:
        """Resume a renewal, if need be under a newer published trust. Returns and raises as `DeviceRenewal.resume`."""
        try:
            return await self._renewal.resume(self._licence)
        except CertificateRejected as error:
            if not await self._recover_trust(error):
                raise
            return await self._renewal.resume(self._licence)

    async def _recover_trust(self, error: NodeError) -> bool:
        """Refresh the trust after a failed verification. Returns True if the trusted servers or issuers changed.

        The first refresh happens at once, later ones not sooner than `schedule.trust_recovery_seconds` apart.
        """
        if isinstance(error, api.ClockWrong) or (isinstance(error, CertificateRejected) and error.step != STEP_ISSUER):
            return False
        pause = schedule.trust_recovery_seconds(self._licence.identity.node)
        now = trio.current_time() + asleep_seconds()
        if self._recovered_at is not None and now < self._recovered_at + pause:
            return False
        log.warning("%s; looking for a newer published trust", error.text)
        before = self._trust.value
        # Set first: the pause counts also if this contact is cancelled.
        self._recovered_at = now
        await self.refresh_trust()
        return not same_peers(before, self._trust.value)

    async def _confirm_newer(self) -> None:
        """Confirm a generation that was activated and not confirmed yet, and use it from then on.

        A generation that the disk has as the current one is used without a confirmation: a confirmation that was cut
        off while the disk was slow leaves it behind. Raises as `confirm`; StateError, DiskSilent.
        """
        found = await on_disk(self._newer, seconds_max=DISK_SECONDS_MAX)
        if found is not None:
            await self._put_in_force(await self._confirm(found) if isinstance(found, Identity) else found)

    async def _confirm(self, identity: Identity) -> Licence:
        return await confirm(
            self._state,
            identity,
            self._trust,
            self._tpm,
            self._hardware,
            disk_seconds_max=DISK_SECONDS_MAX,
        )

    async def _put_in_force(self, licence: Licence) -> None:
        # In this order: if it is cancelled between the two, the agent must not continue with the closed generation.
        self._licence = licence
        self.conditions.clear(RENEWAL_FAILED)  # The new generation has a new certificate.
        await self.connection.close()

    def _newer(self) -> Licence | Identity | None:
        """A generation on the disk above the one in use: its licence if it is the current one, or else its identity."""
        in_use = self._licence.identity.generation
        # `pending` reports a `current.json` that cannot be read, and writes it again.
        with suppress(StateError):
            current = self._state.identities.current_generation()
            if current is not None and current > in_use:
                identity = self._state.identities.load(current)
                return self._state.licence_of(identity, self._trust, self._hardware, confirmed=True)
        return self._state.pending(self._trust.value, in_use)

    async def _refresh(self) -> None:
        """Get the current statement: with a new session if one is due, otherwise over the present session.

        If the TPM cannot prove a new session, the present session still brings the statement.
        """
        if self.connection.serves(self._trust.value, self._state.time.high()):
            await self._fetch_statement()
            return
        try:
            fresh = await self._open_session()
        except TpmError as error:
            if self.connection.fabric is None:
                raise
            log.warning("%s; asking over the present session", error)
            self._hardware.report_fault(error)
            fresh = False
        if not fresh:
            await self._fetch_statement()

    async def _open_session(self) -> bool:
        """Open a session, and apply the statement in its answer. Returns True if the statement is fresh."""
        trusted, licence = self._trust.value, self._licence
        opened = await open_session(
            trusted,
            licence.identity,
            self._tpm,
            self._state.time.window,
            licence.presented,
            self._hear,
            self._hardware.observe,
            held=Held(self.saver.floors.counter, await self._renewal_token(licence.identity.generation)),
        )
        try:
            await self.connection.replace(opened.credentials, trusted)
        except CertificateRejected:
            self._hear(opened.current, opened.answer_nonce)
            raise
        await self._store_renewal_token(licence.identity.generation, opened.renewal)
        # A generation that is not confirmed has no statement yet.
        if not opened.current.statement or not licence.apply(opened.current, opened.answer_nonce).fresh:
            return False
        self.connection.cursor = opened.cursor
        return True

    async def _renewal_token(self, generation: int) -> str:
        """The renewal token to present, or "". Without an answer of the disk the cloud judges the node without one."""
        read = partial(self._state.renewal_tokens.token, generation)
        with suppress(DiskSilent):
            return await on_disk(read, seconds_max=TOKEN_SECONDS_MAX)
        return ""

    async def _store_renewal_token(self, generation: int, token: str) -> None:
        """Use the token of an answer from now on, and store it. A failure is a condition: no disk stops a contact."""
        store = partial(self._state.renewal_tokens.store, generation, token)
        with suppress(NodeError), errand(self.conditions, "renewal_token_not_stored", raises=True):
            await on_disk(store, seconds_max=TOKEN_SECONDS_MAX)

    def _hear(self, answer: StatementAnswer, nonce: str) -> None:
        """Apply the statement of an answer whose session certificate cannot be used. The contact fails in any case.

        The certificate of a session lives for hours, so a clock that is wrong by a day rejects every one of them. The
        node must still receive its suspension or its new lease.
        """
        if answer.statement:
            with suppress(NodeError):
                self._licence.apply(answer, nonce)

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
        """Close the session that the cloud refused, and learn the signed reason: from the refusal, or by a new proof.

        A revocation is final and needs no freshness. So a revocation in the refusal counts, also without a proof.
        """
        await self.connection.close()
        if refusal.code not in ("generation_closed", "session_outdated"):
            return self._count_silence(refusal)
        with suppress(NodeError):
            self._licence.apply(StatementAnswer(refusal.problem.statement, refusal.problem.freshness), "")
        if self._licence.revoked:
            self._count_answer()
            return True
        try:
            if await self._open_session() and refusal.code == "session_outdated":
                self._count_answer()
                return True
        except SessionRefused as refused:
            return self._take_refusal(refused)
        except (NodeError, TpmError) as error:
            return self._count_silence(error)
        return self._count_silence(refusal)

    def _take_refusal(self, refused: SessionRefused) -> bool:
        """Apply the signed statement of a refusal. A refusal without one counts as silence."""
        if not refused.answer.statement:
            return self._count_silence(refused.refusal)
        try:
            self._licence.apply(refused.answer, refused.answer_nonce)
        except NodeError as error:
            return self._count_silence(error)
        self._count_answer()
        return True

    def count_silence(self, error: Exception) -> None:
        """Count a contact that was cut off as a failure with this cause."""
        self._count_silence(error)

    def _count_answer(self) -> None:
        self.failures = 0
        self._hardware.clear_fault()
        self.last_contact_at = self._clock()
        self._compare_clocks()

    def _compare_clocks(self) -> None:
        """Report a wall clock that differs from the signed time by more than the clock skew. The verdict stays."""
        if not self._state.time.confirmed:
            return
        judged = self._state.time.judged()
        if judged.suspect:
            text = f"By the cloud's time, {wrong_clock(judged.wall - judged.high)}"
            self.conditions.report("clock_wrong", text, Exit.CLOCK.next)
        else:
            self.conditions.clear("clock_wrong")

    async def _keep_time(self) -> None:
        """Have the records of the time keep up. Without an answer of their disk the contact goes on."""
        with suppress(DiskSilent):
            await on_disk(self._state.save_time, seconds_max=RECORD_SECONDS_MAX)

    def _outdate_after_failures(self) -> None:
        if self.failures >= FAILURES_PER_SESSION:
            self.connection.outdate()

    def _count_silence(self, error: Exception) -> bool:
        self.failures += 1
        self.last_failure = failure_of(error, self._clock())
        # The contact was later than the last poll, and its cause is the present one.
        self.conditions.clear(wake_channel.FAILED)
        self._silence.report(self.failures, self.last_failure, trio.current_time() + asleep_seconds())
        return False
