"""Pure functions: build the next statement about a node, unsigned.

`protocol.signed.statements` has the format of statements and the node's rules. Rules here:

- `seq` is max(stored, presented) + 1.
- The dates of a lease come from its terms: those of the activation code, else those of the tier.
- A stored lease is signed again once half of the time to its `refresh_after` has passed. A refresh before that time
  returns the stored lease and writes nothing.
- A lease has the version that the node reads. If a fact changes that a lease of version 2 says (the node key, an
  interval), the next refresh signs a new lease.
"""

from datetime import datetime, timedelta

import msgspec

from cloud.fabric.schemas import TERM_SECONDS_MAX, LeaseIntervals, LeaseTerms
from protocol.encoding import json_encode, sha256_hex
from protocol.fingerprint import FingerprintPolicy
from protocol.ids import NodeId, RecoveryId, TenantId
from protocol.limits import CLOCK_SKEW, DEVICE_LIFE_AFTER_TERMINATION, SEQ_JUMP_MAX, SEQ_MAX
from protocol.signed.lease import name_of
from protocol.signed.statements import (
    Entitlement,
    Final,
    Grant,
    HardwareFloor,
    Intervals,
    Lease,
    Revocation,
    RevocationReason,
    Suspension,
    Tier,
)

_HOUR = 3600
_DAY = 24 * _HOUR

TERMS: dict[Tier, LeaseTerms] = {
    "attested": LeaseTerms(_DAY, 30 * _DAY, 45 * _DAY, 60 * _DAY),
    "tpm": LeaseTerms(_DAY, 7 * _DAY, 14 * _DAY, 21 * _DAY),
    "software": LeaseTerms(6 * _HOUR, 3 * _DAY, 5 * _DAY, 7 * _DAY),
}
"""Default terms of each tier. The less a tier proves, the sooner the licence of an offline machine ends."""

DEVICE_HEADROOM = timedelta(days=275)
"""How long a node can renew its lease on one device certificate before it must renew the device certificate."""
NOTIFY_BEFORE = (timedelta(days=7), timedelta(days=1))
"""How long before `expires_at` the owner of the machine is notified."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """The generation that a statement is about, and what a lease grants to it.

    `version` is the version of the lease. The fields after it are facts that version 1 cannot say: `node_key` is the
    SHA-256 of the node key's SubjectPublicKeyInfo, `ek_name` the TPM name of the EK, both in hex, `clone_suspected` the
    time since which a clone of the node is suspected. `recovery` is the case of a grace lease, empty in every other
    lease; a grace lease ends at `grace_until`, whatever its version.
    """

    trust_domain: str
    tenant: TenantId
    node: NodeId
    generation: int
    epoch: int
    tier: Tier
    profile: str
    entitlements: tuple[Grant, ...]
    terms: LeaseTerms
    version: int = 1
    node_key: str = ""
    ek_name: str = ""
    fingerprint: FingerprintPolicy | None = None
    floor: HardwareFloor | None = None
    intervals: LeaseIntervals | None = None
    clone_suspected: datetime | None = None
    recovery: RecoveryId = RecoveryId("")
    grace_until: datetime | None = None


class TermsError(ValueError):
    """The dates of a lease are not in order, or are out of bounds."""


def check_terms(terms: LeaseTerms) -> None:
    """Check that the dates are in order and within bounds. Raises TermsError."""
    seconds = (
        terms.refresh_after_seconds,
        terms.expires_seconds,
        terms.grace_seconds,
        terms.terminate_seconds,
    )
    if list(seconds) != sorted(seconds):
        raise TermsError("the dates of a lease must be in this order: refresh after, expires, grace, terminates")
    if seconds[0] < 1 or seconds[-1] > TERM_SECONDS_MAX:
        raise TermsError(f"the dates of a lease must be between 1 and {TERM_SECONDS_MAX} seconds")


def terms_of(tier: Tier, override: LeaseTerms | None) -> LeaseTerms:
    """The terms of the code (`override`) if it has any, else the tier's."""
    return override if override is not None else TERMS[tier]


def next_seq(stored: int, presented: int) -> int:
    """The `seq` of the next statement. A presented number that is implausibly high is ignored."""
    return (presented if is_plausible(stored, presented) else stored) + 1


def is_plausible(stored: int, presented: int) -> bool:
    """Whether a presented number is higher than the stored one, by at most SEQ_JUMP_MAX."""
    return stored < presented <= min(stored + SEQ_JUMP_MAX, SEQ_MAX - 1)


def device_not_after(terms: LeaseTerms, now: datetime) -> datetime:
    """The end to request for a device certificate. It is later than the end of any lease signed before a renewal."""
    return now + timedelta(seconds=terms.terminate_seconds) + DEVICE_LIFE_AFTER_TERMINATION + DEVICE_HEADROOM


def facts(subject: Subject) -> str:
    """A hash of what a lease of version 2 says beside its dates, in hex. Empty for version 1, which is signed when due."""
    if subject.version < 2:
        return ""
    said = (
        subject.node_key,
        subject.ek_name,
        subject.fingerprint,
        subject.floor,
        subject.intervals,
        subject.clone_suspected,
    )
    parts = (said, subject.tier, subject.profile, subject.entitlements)
    # Without a case the hash is that of earlier releases, so an update signs no lease again.
    return sha256_hex(json_encode((*parts, subject.recovery) if subject.recovery else parts))


def grants_of_version_1(entitlements: tuple[Grant, ...]) -> tuple[Grant, ...]:
    """The names that a lease of version 1 grants. It leaves out entitlements with a limit or dates.

    A reader of version 1 would grant them without their limit, and for ever.
    """
    limited = {grant.name for grant in entitlements if isinstance(grant, Entitlement) and _is_limited(grant)}
    return tuple(name for name in map(name_of, entitlements) if name not in limited)


def _is_limited(entitlement: Entitlement) -> bool:
    return (entitlement.limit, entitlement.not_before, entitlement.until) != (None, None, None)


def lease(
    subject: Subject, seq: int, now: datetime, renew_device_after: datetime | msgspec.UnsetType = msgspec.UNSET
) -> Lease:
    """A lease issued at `now`. `renew_device_after` orders the node to renew a device certificate made before it."""
    terms = subject.terms
    expires_at = now + timedelta(seconds=terms.expires_seconds)
    plain = Lease(
        trust_domain=subject.trust_domain,
        tenant=subject.tenant,
        node=subject.node,
        generation=subject.generation,
        epoch=subject.epoch,
        seq=seq,
        issued_at=now,
        tier=subject.tier,
        profile=subject.profile,
        entitlements=grants_of_version_1(subject.entitlements),
        not_before=now - CLOCK_SKEW,
        refresh_after=now + timedelta(seconds=terms.refresh_after_seconds),
        expires_at=expires_at,
        grace_until=now + timedelta(seconds=terms.grace_seconds),
        terminate_at=now + timedelta(seconds=terms.terminate_seconds),
        notify_at=tuple(expires_at - before for before in NOTIFY_BEFORE if expires_at - before > now),
        renew_device_after=renew_device_after,
    )
    if subject.grace_until is not None:
        plain = _ended(plain, subject.grace_until, now)
    if subject.version < 2:
        return plain
    intervals = subject.intervals
    return msgspec.structs.replace(
        plain,
        entitlements=subject.entitlements,
        node_key=subject.node_key,
        ek_name=subject.ek_name,
        fingerprint=subject.fingerprint,
        floor=subject.floor,
        intervals=Intervals(heartbeat_seconds=intervals.heartbeat_seconds, wake_seconds=intervals.wake_seconds)
        if intervals is not None
        else None,
        clone_suspected=subject.clone_suspected or msgspec.UNSET,
        recovery=subject.recovery or msgspec.UNSET,
    )


def _ended(lease: Lease, until: datetime, now: datetime) -> Lease:
    """The lease with one end for all its dates: `until`, but not later than its own end. It has no grace."""
    ends_at = max(min(until, lease.terminate_at), now)
    return msgspec.structs.replace(
        lease,
        refresh_after=min(lease.refresh_after, ends_at),
        expires_at=ends_at,
        grace_until=ends_at,
        terminate_at=ends_at,
        notify_at=tuple(date for date in (ends_at - before for before in NOTIFY_BEFORE) if now < date),
    )


def final_lease(subject: Subject, seq: int, now: datetime, held: Lease, reason: str) -> Lease:
    """The last lease of a node whose tenant may have no other. It ends when the lease that the node holds expires.

    `held` is the node's current lease; `reason` is for people, at most REASON_CHARS_MAX characters. The node was
    promised that time, so its workloads stop then and not before. Its grace is over then as well. A lease that has
    expired already ends now. The node asks for a new lease from the time of the held one on.
    """
    ends_at = max(held.expires_at, now)
    return msgspec.structs.replace(
        lease(subject, seq, now),
        refresh_after=max(min(held.refresh_after, ends_at), now),
        expires_at=ends_at,
        grace_until=ends_at,
        terminate_at=ends_at,
        notify_at=tuple(
            date for date in (now, *(ends_at - before for before in NOTIFY_BEFORE)) if now <= date < ends_at
        ),
        final=Final(reason=reason) if subject.version > 1 else None,
    )


def held_lease(subject: Subject, seq: int, now: datetime, held: Lease) -> Lease:
    """The lease `held` once more, with what is said of the node now. Its dates are the same, so it grants no more time."""
    return msgspec.structs.replace(
        lease(subject, seq, now),
        not_before=min(held.not_before, now),
        refresh_after=max(held.refresh_after, now),
        expires_at=max(held.expires_at, now),
        grace_until=max(held.grace_until, now),
        terminate_at=max(held.terminate_at, now),
        notify_at=tuple(date for date in held.notify_at if date >= now),
    )


def suspension(subject: Subject, seq: int, now: datetime, reason: str) -> Suspension:
    """A suspension: workloads stop until a later statement allows them."""
    return Suspension(
        trust_domain=subject.trust_domain,
        tenant=subject.tenant,
        node=subject.node,
        generation=subject.generation,
        epoch=subject.epoch,
        seq=seq,
        issued_at=now,
        reason=reason,
    )


def revocation(subject: Subject, seq: int, now: datetime, reason: RevocationReason) -> Revocation:
    """A revocation: ends the generation for ever."""
    return Revocation(
        trust_domain=subject.trust_domain,
        tenant=subject.tenant,
        node=subject.node,
        generation=subject.generation,
        epoch=subject.epoch,
        seq=seq,
        issued_at=now,
        reason=reason,
    )


def lease_is_due(issued_at: datetime, refresh_after: datetime, now: datetime) -> bool:
    """Whether a refresh signs a new lease: at least half of the time to `refresh_after` has passed.

    A lease that begins in the future is due as well. A clock that was ahead signed it, and no node can use it yet.
    """
    return now >= issued_at + (refresh_after - issued_at) / 2 or now < issued_at - CLOCK_SKEW
