"""Pure functions: build the next statement about a node, unsigned.

`protocol.signed.statements` has the format of statements and the node's rules. Rules here:

- `seq` is max(stored, presented) + 1.
- The dates of a lease come from its terms: those of the activation code, else those of the tier.
- A stored lease is signed again once half of the time to its `refresh_after` has passed. A refresh before that time
  returns the stored lease and writes nothing.
"""

from datetime import datetime, timedelta

import msgspec

from cloud.fabric.schemas import TERM_SECONDS_MAX, LeaseTerms
from protocol.ids import NodeId, TenantId
from protocol.limits import CLOCK_SKEW, DEVICE_LIFE_AFTER_TERMINATION, SEQ_JUMP_MAX, SEQ_MAX
from protocol.signed.statements import Lease, Revocation, RevocationReason, Suspension, Tier

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
    """The generation that a statement is about, and what a lease grants to it."""

    trust_domain: str
    tenant: TenantId
    node: NodeId
    generation: int
    epoch: int
    tier: Tier
    profile: str
    entitlements: tuple[str, ...]
    terms: LeaseTerms


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


def lease(
    subject: Subject, seq: int, now: datetime, renew_device_after: datetime | msgspec.UnsetType = msgspec.UNSET
) -> Lease:
    """A lease issued at `now`. `renew_device_after` orders the node to renew a device certificate made before it."""
    terms = subject.terms
    expires_at = now + timedelta(seconds=terms.expires_seconds)
    return Lease(
        trust_domain=subject.trust_domain,
        tenant=subject.tenant,
        node=subject.node,
        generation=subject.generation,
        epoch=subject.epoch,
        seq=seq,
        issued_at=now,
        tier=subject.tier,
        profile=subject.profile,
        entitlements=subject.entitlements,
        not_before=now - CLOCK_SKEW,
        refresh_after=now + timedelta(seconds=terms.refresh_after_seconds),
        expires_at=expires_at,
        grace_until=now + timedelta(seconds=terms.grace_seconds),
        terminate_at=now + timedelta(seconds=terms.terminate_seconds),
        notify_at=tuple(expires_at - before for before in NOTIFY_BEFORE if expires_at - before > now),
        renew_device_after=renew_device_after,
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
