"""In-memory state: the licence of one generation, from stored evidence and the cloud's answers.

A statement is verified once, stored durably, and then used as the verified value. This module opens no connection and
does not use the TPM.
"""

from collections.abc import Callable
from datetime import datetime

import msgspec

from node.disk.identity import Identity
from node.errors import StateError, VerificationFailed
from node.hwbind.keys import WrappedKey
from node.hwbind.presence import EndorsementRecord
from node.licensing import acceptance
from node.licensing.hardware import HardwareCheck
from node.licensing.store import LicenceStore
from node.licensing.verdict import Evidence, Snapshot, Verdict, current_lease, current_revocation, judge
from node.trust.current import CurrentTrust
from protocol.messages.sessions import StatementAnswer
from protocol.signed.freshness import FreshnessError, verify_freshness
from protocol.signed.statements import EnvelopeError, Lease, StatementError, Verified, verify_statement


class StatementRejected(VerificationFailed):
    """The cloud's answer has no acceptable statement. It counts as no answer."""

    code = "statement_rejected"
    next = "Nothing was changed. If the error stays, report it to the operator of the cloud."


class Applied(msgspec.Struct, frozen=True):
    """The result of an accepted answer.

    `stored` is true if the statement is new. `fresh` is true if a signed freshness over our nonce says that the
    statement is current.
    """

    stored: bool
    fresh: bool


class Licence:
    """The licence of one generation of this node.

    No method waits, so another task never sees a half-made change.
    """

    def __init__(
        self,
        store: LicenceStore,
        identity: Identity,
        trust: CurrentTrust,
        hardware: HardwareCheck,
        clock: Callable[[], datetime],
        *,
        confirmed: bool = True,
    ) -> None:
        """Load and verify the stored evidence, once for this start.

        `confirmed` is whether the generation is in force.
        """
        self._store = store
        self._hardware = hardware
        self._clock = clock
        self._identity = identity
        self._confirmed = confirmed
        self._trust = trust
        self._stored = store.load(identity.holder, trust.value.signing_keys)
        self._unstored: acceptance.Accept | None = None

    @property
    def identity(self) -> Identity:
        """The generation of this licence."""
        return self._identity

    @property
    def trust(self) -> CurrentTrust:
        """The trust that statements are verified under."""
        return self._trust

    @property
    def confirmed(self) -> bool:
        """Whether this generation is in force. Otherwise the cloud has not confirmed it yet."""
        return self._confirmed

    @property
    def presented(self) -> str:
        """The token of the last stored statement, or "". The node presents it, so that the cloud numbers its next ones
        after it."""
        held = self._stored.tombstone or self._stored.statement
        return held.token if held is not None else ""

    @property
    def lease(self) -> Lease | None:
        """The current statement, if it is a lease."""
        return current_lease(self._stored, self._identity.holder)

    def lease_serves(self) -> bool:
        """Whether there is a lease whose `refresh_after` has not come."""
        lease = self.lease
        return lease is not None and self._clock() < lease.refresh_after

    @property
    def revoked(self) -> bool:
        """Whether a signed revocation has ended this generation."""
        return current_revocation(self._stored, self._identity.holder) is not None

    def verdict(self) -> Verdict:
        """The verdict now."""
        return judge(self._evidence())

    def snapshot(self) -> Snapshot:
        """The licence now. The clock is read once, so that all parts agree."""
        evidence = self._evidence()
        return Snapshot(
            holder=self._identity.holder, hardware=evidence.hardware, lease=self.lease, verdict=judge(evidence)
        )

    def _evidence(self) -> Evidence:
        return Evidence(
            holder=self._identity.holder,
            stored=self._stored,
            hardware=self._hardware.status,
            now=self._clock(),
            unconfirmed=not self._confirmed,
            proven=self._hardware.proven,
        )

    def apply(self, answer: StatementAnswer, nonce: str) -> Applied:
        """Verify, store and use the statement of an answer. `nonce` is the nonce of our question.

        The tombstone of a revocation is stored first, so that a crash cannot lose the revocation.
        Raises StatementRejected; StateError if the disk refuses to store it.
        """
        verified, fresh = self._verified(answer.statement), self._is_fresh(answer, nonce)
        decision = acceptance.decide(self._stored, verified, self._identity.holder, fresh=fresh)
        match decision:
            case acceptance.Refuse(reason=reason):
                raise StatementRejected(f"cannot use the cloud's statement: {reason}")
            case acceptance.Ignore(reason="same" | "final"):
                return Applied(stored=False, fresh=fresh)
            case acceptance.Ignore():
                raise StatementRejected("cannot use the cloud's statement: it is older than the stored one")
            case acceptance.Accept():
                self._record(decision)
        return Applied(stored=True, fresh=fresh)

    def _record(self, accepted: acceptance.Accept) -> None:
        """Store a statement, then use it. Raises StateError if the disk refuses.

        A statement that closes the gate is used even if the disk refuses it.
        """
        now = self._clock()
        try:
            self._store.record(accepted, now)
        except StateError:
            self._stored = acceptance.without_storing(self._stored, accepted, now)
            if not isinstance(accepted.statement.statement, Lease):
                self._unstored = accepted
            raise
        self._stored = acceptance.after_storing(accepted, now)
        self._unstored = None

    def retry_storing(self) -> None:
        """Store the statement that the disk refused earlier and the verdict uses. Raises StateError.

        Without it a restart would lose the statement.
        """
        if self._unstored is not None:
            self._record(self._unstored)
            # The trust may have changed since the statement was verified.
            self._stored = self._store.load(self._identity.holder, self.trust.value.signing_keys)

    def _verified(self, token: str) -> Verified:
        trust = self._trust.value
        try:
            return verify_statement(token, trust.signing_keys, trust.bundle.trust_domain)
        except (EnvelopeError, StatementError) as error:
            raise StatementRejected(f"cannot use the cloud's statement: {error}") from error

    def _is_fresh(self, answer: StatementAnswer, nonce: str) -> bool:
        trust = self._trust.value
        try:
            verify_freshness(
                answer.freshness,
                trust.signing_keys,
                trust_domain=trust.bundle.trust_domain,
                node=self._identity.node,
                generation=self._identity.generation,
                nonce=nonce,
                statement=answer.statement,
            )
        except (EnvelopeError, FreshnessError):
            return False
        return True

    def replace_certificate(
        self, chain: tuple[bytes, ...], node_key: WrappedKey, endorsement: EndorsementRecord | None = None
    ) -> None:
        """Use the device certificate (DER, leaf first), node key and endorsement that were just stored.

        Without `endorsement` the earlier one stays; after a rekey it is void, because the old key signed it.
        """
        self._identity = msgspec.structs.replace(
            self._identity, chain=chain, node_key=node_key, endorsement=endorsement or self._identity.endorsement
        )

    def put_in_force(self) -> None:
        """Record that the cloud has confirmed this generation and that it is the current one on the disk."""
        self._confirmed = True
