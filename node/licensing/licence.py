"""In-memory state: the licence of one generation, made of stored evidence and the cloud's answers.

It calls the pure parts (verify, decide, store, judge) in this order: verify once, store durably, then use the value
that was verified. It opens no connection and asks no TPM.
"""

from collections.abc import Callable
from datetime import datetime

import msgspec

from node.disk.identity import Identity
from node.errors import StateError, VerificationFailed
from node.hwbind.keys import WrappedKey
from node.licensing import acceptance
from node.licensing.hardware import HardwareCheck
from node.licensing.store import LicenceStore
from node.licensing.verdict import Evidence, Snapshot, Verdict, current_lease, current_revocation, judge
from node.trust.current import CurrentTrust
from protocol.messages.sessions import StatementAnswer
from protocol.signed.freshness import FreshnessError, verify_freshness
from protocol.signed.statements import EnvelopeError, Lease, StatementError, Verified, verify_statement


class StatementRejected(VerificationFailed):
    """The cloud's answer holds no statement that can be accepted: it counts as no answer."""

    code = "statement_rejected"
    next = "Nothing was changed. If it stays so, tell the operator of the cloud."


class Applied(msgspec.Struct, frozen=True):
    """An answer that was taken. `stored`: the statement is new. `fresh`: a signed freshness over our nonce says that it is current."""

    stored: bool
    fresh: bool


class Licence:
    """The licence of one generation of this node. Its changes never wait, so tasks see whole ones; reading is free at any time."""

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
        """What the disk holds is verified here, once for this start."""
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
        return self._identity

    @property
    def trust(self) -> CurrentTrust:
        """The trust that statements are verified under."""
        return self._trust

    @property
    def confirmed(self) -> bool:
        """Whether this generation is in force; else it waits for its confirmation."""
        return self._confirmed

    @property
    def presented(self) -> str:
        """The token of the last statement held, for the cloud to count on from."""
        held = self._stored.tombstone or self._stored.statement
        return held.token if held is not None else ""

    @property
    def lease(self) -> Lease | None:
        return current_lease(self._stored, self._identity.holder)

    def lease_serves(self) -> bool:
        """Whether there is a lease that needs no refresh yet."""
        lease = self.lease
        return lease is not None and self._clock() < lease.refresh_after

    @property
    def revoked(self) -> bool:
        """Whether a signed revocation has ended this generation for good."""
        return current_revocation(self._stored, self._identity.holder) is not None

    def verdict(self) -> Verdict:
        """The verdict now."""
        return judge(self._evidence())

    def snapshot(self) -> Snapshot:
        """The licence now, by one reading of the clock."""
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
        """Take an answer over our `nonce`. Raises StatementRejected, StateError (disk).

        A revocation is stored as tombstone first: whatever is lost after that, it is not forgotten.
        """
        verified, fresh = self._verified(answer.statement), self._is_fresh(answer, nonce)
        decision = acceptance.decide(self._stored, verified, self._identity.holder, fresh=fresh)
        match decision:
            case acceptance.Refuse(reason=reason):
                raise StatementRejected(f"cannot use the cloud's statement: {reason}")
            case acceptance.Ignore(reason="same" | "final"):
                return Applied(stored=False, fresh=fresh)
            case acceptance.Ignore():
                raise StatementRejected("cannot use the cloud's statement: it is older than the one at hand")
            case acceptance.Accept():
                self._record(decision)
        return Applied(stored=True, fresh=fresh)

    def _record(self, accepted: acceptance.Accept) -> None:
        """Store it, then use it. What closes the gate is used even where the disk refuses it. Raises StateError."""
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
        """Store what the disk refused and the verdict uses all the same: a restart would forget it.

        Raises StateError.
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

    def replace_certificate(self, chain: tuple[bytes, ...], node_key: WrappedKey) -> None:
        """The disk holds a new device certificate, with its key where the key has changed."""
        self._identity = msgspec.structs.replace(self._identity, chain=chain, node_key=node_key)

    def put_in_force(self) -> None:
        """The cloud has confirmed this generation, and the identity on the disk has switched to it."""
        self._confirmed = True
