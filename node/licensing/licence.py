"""The agent's licence in one place: stored evidence and what the cloud says, judged at every asking.

It ties the pure parts together (verify, decide, store, judge) and keeps this order: verify, then store durably,
then believe. It opens no connection and asks no TPM.
"""

from collections.abc import Callable
from datetime import datetime

import msgspec

from node.disk.identity import Identity
from node.errors import StateError, VerificationFailed
from node.hwbind.keys import WrappedKey
from node.licensing import acceptance
from node.licensing.store import LicenceStore
from node.licensing.verdict import Evidence, Hardware, Verdict, current_lease, judge
from node.trust.published import TrustSet
from protocol.messages.sessions import StatementAnswer
from protocol.signed.freshness import FreshnessError, verify_freshness
from protocol.signed.statements import EnvelopeError, Lease, StatementError, Verified, verify_statement


class StatementRejected(VerificationFailed):
    """The cloud's answer holds no statement that may be believed: it counts as no answer."""

    code = "statement_rejected"
    next = "Nothing was changed. If it stays so, tell the operator of the cloud."


class Licence:
    """The evidence for one generation of this node. One task changes it; reading the verdict is free at any time.

    `confirmed`: this generation is in force, else it waits to be.
    """

    def __init__(
        self,
        store: LicenceStore,
        identity: Identity,
        trust: TrustSet,
        clock: Callable[[], datetime],
        *,
        confirmed: bool = True,
    ) -> None:
        self._store = store
        self._clock = clock
        self._hardware: Hardware = "unchecked"
        self._proven = False
        self.identity = identity
        self.trust = trust
        self.confirmed = confirmed
        self._stored = store.load(identity.holder, trust.signing_keys)
        self._owed: acceptance.Accept | None = None

    @property
    def hardware(self) -> Hardware:
        return self._hardware

    @hardware.setter
    def hardware(self, value: Hardware) -> None:
        self._hardware = value
        self._proven = self._proven or value == "ours"

    @property
    def presented(self) -> str:
        """The token of the last statement held, for the cloud to count on from."""
        held = self._stored.tombstone or self._stored.statement
        return held.token if held is not None else ""

    @property
    def lease(self) -> Lease | None:
        return current_lease(self._evidence())

    @property
    def revoked(self) -> bool:
        """Whether this generation has ended for good, by a signed word."""
        return self.verdict().state == "revoked"

    def verdict(self) -> Verdict:
        """What holds now."""
        return judge(self._evidence())

    def _evidence(self) -> Evidence:
        return Evidence(
            holder=self.identity.holder,
            stored=self._stored,
            hardware=self._hardware,
            now=self._clock(),
            unconfirmed=not self.confirmed,
            proven=self._proven,
        )

    def apply(self, answer: StatementAnswer, nonce: str) -> bool:
        """Take an answer over our `nonce`; True when something was stored. Raises StatementRejected, StateError (disk).

        A revocation is stored as tombstone first: whatever is lost after that, it is not forgotten.
        """
        holder = self.identity.holder
        verified = self._verified(answer.statement)
        decision = acceptance.decide(self._stored, verified, holder, fresh=self._is_fresh(answer, nonce))
        match decision:
            case acceptance.Refuse(reason=reason):
                raise StatementRejected(f"cannot use the cloud's statement: {reason}")
            case acceptance.Ignore(reason="same" | "final"):
                return False
            case acceptance.Ignore():
                raise StatementRejected("cannot use the cloud's statement: it is older than the one at hand")
            case acceptance.Accept():
                self._record(decision)
        self._stored = self._store.load(holder, self.trust.signing_keys)
        return True

    def _record(self, accepted: acceptance.Accept) -> None:
        """Store, then believe; what closes the gate is believed even where the disk refuses it. Raises StateError."""
        now = self._clock()
        try:
            self._store.record(accepted, now)
        except StateError:
            self._stored = acceptance.believed(self._stored, accepted, now)
            if not isinstance(accepted.statement.statement, Lease):
                self._owed = accepted
            raise
        self._owed = None

    def store_owed(self) -> None:
        """Try again to store what is believed and the disk would not take, or a restart would forget it.

        Raises StateError.
        """
        if self._owed is not None:
            self._record(self._owed)
            self._stored = self._store.load(self.identity.holder, self.trust.signing_keys)

    def _verified(self, token: str) -> Verified:
        try:
            return verify_statement(token, self.trust.signing_keys, self.trust.bundle.trust_domain)
        except (EnvelopeError, StatementError) as error:
            raise StatementRejected(f"cannot use the cloud's statement: {error}") from error

    def _is_fresh(self, answer: StatementAnswer, nonce: str) -> bool:
        try:
            verify_freshness(
                answer.freshness,
                self.trust.signing_keys,
                trust_domain=self.trust.bundle.trust_domain,
                node=self.identity.node,
                generation=self.identity.generation,
                nonce=nonce,
                statement=answer.statement,
            )
        except (EnvelopeError, FreshnessError):
            return False
        return True

    def renewed(self, chain: tuple[bytes, ...], node_key: WrappedKey) -> None:
        """The device certificate was replaced on the disk, with its key where that has changed."""
        self.identity = msgspec.structs.replace(self.identity, chain=chain, node_key=node_key)
