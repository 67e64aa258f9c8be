"""In-memory state: the licence of one generation, from stored evidence and the cloud's answers.

A verified statement counts at once, in memory. `node.licensing.saving` then stores it, so no disk delays or prevents a
verdict. This module opens no connection and reads the disk at its start only. It leaves the use of the TPM to
`node.licensing.hardware`.
"""

from datetime import datetime

import msgspec

from node.disk.identity import Identity
from node.errors import VerificationFailed
from node.hwbind.keys import WrappedKey, key_hashes
from node.hwbind.presence import EndorsementRecord
from node.hwbind.succession import Succession
from node.licensing import acceptance, floors
from node.licensing.binding import bound_holder
from node.licensing.floor_memory import label_of
from node.licensing.floors import NO_FLOOR, FloorView
from node.licensing.hardware import HardwareCheck
from node.licensing.notices import notice_of
from node.licensing.saving import Saver
from node.licensing.trusted_time import TrustedTime, least_high_of
from node.licensing.verdict import Evidence, Snapshot, Verdict, current_lease, current_revocation, judge
from node.trust.current import CurrentTrust
from node.trust.published import TrustSet
from protocol.messages.sessions import StatementAnswer
from protocol.signed.freshness import Freshness, FreshnessError, verify_freshness
from protocol.signed.statements import (
    EnvelopeError,
    Lease,
    Revocation,
    Statement,
    StatementError,
    Verified,
    verify_statement,
)


class StatementRejected(VerificationFailed):
    """The cloud's answer has no acceptable statement. It counts as no answer."""

    code = "statement_rejected"
    next = "Nothing was changed. If the error stays, report it to the operator of the cloud."


class Applied(msgspec.Struct, frozen=True):
    """The result of an accepted answer.

    `new` is true if the statement is used from now on, and is to be stored. `fresh` is true if a signed freshness over
    our nonce says that the statement is current.
    """

    new: bool
    fresh: bool


class Licence:
    """The licence of one generation of this node.

    No method but `check_hardware` waits, so another task never sees a half-made change.
    """

    def __init__(
        self,
        saver: Saver,
        identity: Identity,
        trust: CurrentTrust,
        hardware: HardwareCheck,
        time: TrustedTime,
        *,
        confirmed: bool = True,
    ) -> None:
        """Load and verify the stored evidence, once for this start.

        `time` judges the lease, and takes the signed times of statements and answers. `confirmed` is whether the
        generation is in force.
        """
        self._saver = saver
        self._hardware = hardware
        self.time = time
        self._identity = identity
        self._confirmed = confirmed
        self._trust = trust
        self._holder = bound_holder(identity)
        holder, ring = self._holder, trust.value.signing_keys
        later = saver.store.load_later(holder, ring)
        self._floors = saver.floors
        self._fresh = False
        self._stored = self._with_floors(msgspec.structs.replace(saver.store.load(holder, ring), later=later))
        if confirmed:
            self._take_over_floors()
            self._expect_counter()
        others = saver.store.generations() - {identity.generation}
        self._others_until = saver.store.leases_until(holder, ring, others)
        self._leases_until = saver.store.leases_until(holder, ring, [identity.generation])
        record_time = self._floors.time_floor
        for held in (self._stored.tombstone, self._stored.statement, later):
            if held is not None:
                # The record has the signed time at which it came. A statement of a wrong clock must not go beyond it.
                latest = held.statement.issued_at if record_time is None else least_high_of(record_time)
                time.passed(min(held.statement.issued_at, latest))
        self._used = False
        """Whether a statement of this run has replaced the loaded evidence."""

    def _with_floors(self, stored: acceptance.StoredEvidence) -> acceptance.StoredEvidence:
        """The stored evidence with the revocations of the floor record, which outlive every file of a statement."""
        holder, trust = self._holder, self._trust.value
        for token in self._floors.revocations(trust.signing_keys):
            try:
                verified = verify_statement(token, trust.signing_keys, trust.bundle.trust_domain)
            except (EnvelopeError, StatementError):
                continue
            if holder.holds(verified.statement):
                if stored.tombstone is None:
                    stored = msgspec.structs.replace(stored, tombstone=verified, partial=True)
            elif stored.later is None and _ends_generation(verified.statement, holder.generation):
                stored = msgspec.structs.replace(stored, later=verified)
        return stored

    def _take_over_floors(self) -> None:
        """Raise the floor for this generation from now on. It is in force."""
        self._floors.use(self._identity)
        if self._stored.statement is not None and not self._saver.waits(self._identity.generation):
            self._floors.note(self._stored.statement)
        if self._fresh:
            self._floors.confirm_fresh(self._stored.statement)

    def _expect_counter(self) -> None:
        """Have the checks of the TPM read this node's counter. Until it is in force, they read that of another node."""
        promised = self.lease.floor if self.lease is not None else None
        if not self._identity.node_key.in_software:
            place = self._floors.place or (promised.index if promised else None)
            self._hardware.expect_counter(label_of(self._holder), place)

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
        """The token of the current statement, or "". The node presents it, so that the cloud numbers its next
        statements after it."""
        held = self._stored.tombstone or self._stored.statement
        return held.token if held is not None else ""

    @property
    def lease(self) -> Lease | None:
        """The current statement, if it is a lease."""
        return current_lease(self._stored, self._holder)

    @property
    def statement(self) -> Verified | None:
        """The current statement, or None."""
        return self._stored.statement

    @property
    def later(self) -> Verified | None:
        """The statement of the node's higher, confirmed generation, which voids this one; None if there is none."""
        return self._stored.later

    @property
    def revocation(self) -> Revocation | None:
        """The signed revocation that has ended this generation, or None."""
        return current_revocation(self._stored, self._holder)

    @property
    def revoked(self) -> bool:
        """Whether a signed revocation has ended this generation."""
        return self.revocation is not None

    async def check_hardware(self) -> None:
        """Check that this is the machine of the generation: by its TPM, or without one by its fingerprint.

        Raises as `HardwareCheck.check`.
        """
        identity = self._identity
        if identity.node_key.in_software:
            await self._hardware.check_fingerprint(identity.fingerprint_salt, self.lease)
        else:
            await self._hardware.check(identity.node_key, identity.endorsement)

    def verdict(self) -> Verdict:
        """The verdict now."""
        return judge(self._evidence())

    def snapshot(self) -> Snapshot:
        """The licence now. The clock is read once, so that all parts agree."""
        evidence, lease = self._evidence(), self.lease
        return Snapshot(
            holder=self._holder,
            hardware=evidence.hardware,
            lease=lease,
            verdict=judge(evidence),
            offline_bound=self._offline_bound(),
            floor=NO_FLOOR if self._identity.node_key.in_software else self._floors.status(),
            fingerprint=self._hardware.judgement,
            in_software=evidence.in_software,
            time=evidence.time,
            notice=None if lease is None else notice_of(lease, max(evidence.time.high, lease.issued_at)),
        )

    def _offline_bound(self) -> datetime | None:
        """The largest `terminate_at` of the leases in memory and on the disk, of every generation.

        A new statement replaces the leases of this generation, and of those that it voids, once it is stored. Until
        then the disk may still have them.
        """
        statement, lease = self._stored.statement, self.lease
        if self._used and not self._saver.waits(self._identity.generation):
            self._leases_until = lease.terminate_at if lease else None
            if statement is not None and acceptance.voids_lower_generations(statement.statement):
                self._others_until = None
        ends = (self._others_until, self._leases_until, lease.terminate_at if lease else None)
        return max((end for end in ends if end is not None), default=None)

    def _view(self) -> FloorView:
        lease = self.lease
        return self._floors.view(
            self._holder,
            self._trust.value.signing_keys,
            self._hardware.counter,
            promised=lease is not None and lease.floor is not None,
        )

    def _evidence(self) -> Evidence:
        return Evidence(
            floors=self._view(),
            holder=self._holder,
            stored=self._stored,
            hardware=self._hardware.status,
            time=self.time.judged(),
            unconfirmed=not self._confirmed,
            proven=self._hardware.proven,
            in_software=self._identity.node_key.in_software,
        )

    def check(self, answer: StatementAnswer, nonce: str, trust: TrustSet) -> Freshness:
        """Check that `apply` would use the answer under `trust`, and that it is fresh. Changes nothing.

        Returns the freshness. Raises StatementRejected.
        """
        verified, freshness = self._verified(answer.statement, trust), self._freshness(answer, nonce, trust)
        if freshness is None:
            raise StatementRejected("cannot use the cloud's statement: no freshness over our nonce belongs to it")
        match self._decide(verified, fresh=True):
            case acceptance.Refuse(reason=reason):
                raise StatementRejected(f"cannot use the cloud's statement: {reason}")
            case acceptance.Ignore(reason="stale"):
                raise StatementRejected("cannot use the cloud's statement: it is older than the stored one")
            case _:
                return freshness

    def apply(self, answer: StatementAnswer, nonce: str, latest: datetime | None = None) -> Applied:
        """Verify and use the statement of an answer, and have it stored. `nonce` is the nonce of our question.

        `latest` is the latest time that it can be now, for an answer that was carried to this machine. The statement
        counts when this method returns. `Saver` stores it afterwards. Raises StatementRejected.
        """
        trust = self._trust.value
        verified, freshness = self._verified(answer.statement, trust), self._freshness(answer, nonce, trust)
        passed = verified.statement.issued_at
        if freshness is not None and nonce:
            if latest is None:
                self.time.verified(freshness.at)
            else:
                self.time.delivered(freshness.at, latest)
            # A part of the cloud whose clock was ahead may have signed the statement.
            passed = min(passed, freshness.at)
        self.time.passed(passed)
        fresh = freshness is not None
        decision = self._decide(verified, fresh=fresh)
        match decision:
            case acceptance.Refuse(reason=reason):
                raise StatementRejected(f"cannot use the cloud's statement: {reason}")
            case acceptance.Ignore(reason="same" | "final"):
                self._confirm_fresh(fresh=fresh)
                return Applied(new=False, fresh=fresh)
            case acceptance.Ignore():
                raise StatementRejected("cannot use the cloud's statement: it is older than the stored one")
            case acceptance.Accept():
                self._use(decision)
                self._confirm_fresh(fresh=fresh)
        return Applied(new=True, fresh=fresh)

    def _decide(self, verified: Verified, *, fresh: bool) -> acceptance.Decision:
        view = self._view()
        stored = msgspec.structs.replace(self._stored, floor=view.floor, unproven=view.judged.state == "stale")
        return acceptance.decide(stored, verified, self._holder, fresh=fresh)

    def _confirm_fresh(self, *, fresh: bool) -> None:
        """After a fresh answer the floor record may be written again, if this generation is not revoked."""
        self._fresh = fresh and not self.revoked
        if self._fresh and self._confirmed:
            self._floors.confirm_fresh(self._stored.statement)

    def _use(self, accepted: acceptance.Accept) -> None:
        bound, now = self._offline_bound(), self.time.judged().wall
        self._stored = acceptance.after_accepting(self._stored, accepted, now)
        self._leases_until, self._used = bound, True
        self._saver.put(accepted, now)
        if self._confirmed and floors.is_urgent(accepted.statement.statement):
            self._floors.note(accepted.statement)

    def _verified(self, token: str, trust: TrustSet) -> Verified:
        try:
            return verify_statement(token, trust.signing_keys, trust.bundle.trust_domain)
        except (EnvelopeError, StatementError) as error:
            raise StatementRejected(f"cannot use the cloud's statement: {error}") from error

    def _freshness(self, answer: StatementAnswer, nonce: str, trust: TrustSet) -> Freshness | None:
        """The verified freshness of the answer; None if it is missing or not over our nonce."""
        try:
            return verify_freshness(
                answer.freshness,
                trust.signing_keys,
                trust_domain=trust.bundle.trust_domain,
                node=self._identity.node,
                generation=self._identity.generation,
                nonce=nonce,
                statement=answer.statement,
            )
        except (EnvelopeError, FreshnessError):
            return None

    def replace_certificate(
        self,
        chain: tuple[bytes, ...],
        node_key: WrappedKey,
        endorsement: EndorsementRecord | None = None,
        succession: Succession | None = None,
    ) -> None:
        """Use another device certificate (DER, leaf first), its node key and endorsement from now on.

        Without `endorsement` the earlier one stays; after a rekey it is void, because the old key signed it. The present
        lease may name an earlier node key until the cloud has signed another. `succession` is that of a rekey.
        """
        earlier = self._holder.node_keys
        before = self._identity
        same = node_key == before.node_key
        self._identity = msgspec.structs.replace(
            before,
            chain=chain,
            node_key=node_key,
            endorsement=endorsement or before.endorsement,
            other_keys=before.other_keys if same else (*key_hashes(before.node_key), *before.other_keys),
            succession=before.succession if same else succession,
        )
        self._holder = bound_holder(self._identity)
        self._accept_keys(earlier)
        if self._confirmed:
            self._floors.use(self._identity)

    def expect_key(self, node_key: WrappedKey) -> None:
        """Accept a lease for a node key that the cloud may have certified already, although its answer is to come."""
        self._accept_keys(key_hashes(node_key))

    def _accept_keys(self, keys: tuple[str, ...]) -> None:
        together = tuple(dict.fromkeys((*self._holder.node_keys, *keys)))
        self._holder = msgspec.structs.replace(self._holder, node_keys=together)

    def put_in_force(self) -> None:
        """Record that the cloud has confirmed this generation and that it is the current one on the disk."""
        self._confirmed = True
        self._take_over_floors()
        self._expect_counter()


def _ends_generation(statement: Statement, generation: int) -> bool:
    """Whether the statement is of a higher generation and voids this one."""
    return statement.generation > generation and acceptance.voids_lower_generations(statement)
