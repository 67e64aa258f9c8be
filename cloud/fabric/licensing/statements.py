"""Pure: builds the next statement of a node's stream, out of node, change and time. It signs nothing.

Rules: `seq` is max(stored, presented) + 1; the dates come from the terms, the tier's unless the code brought its
own; a stored lease is signed again when it is half way to its `refresh_after`, so that a refresh usually writes
nothing. (`protocol.signed.statements` is the form, and the node's side of the rules.)
"""

from datetime import datetime, timedelta

import msgspec

from cloud.fabric.schemas import LeaseTerms
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
"""Section 4 of the design: the less is proven, the sooner the licence runs out without the cloud."""

DEVICE_HEADROOM = timedelta(days=275)
"""How long leases can be renewed on one device certificate before it must be renewed itself."""
TERM_SECONDS_MAX = 790 * _DAY
"""With headroom and tail the 1,095 days that the issuer gives a device certificate at the most: a longer lease would
outlive the identity."""
NOTIFY_BEFORE = (timedelta(days=7), timedelta(days=1))
"""When, before `expires_at`, the machine's owner is notified."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a statement is about, and what a lease of it grants."""

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
    """The dates fall, or are out of bounds."""


def check_terms(terms: LeaseTerms) -> None:
    """Raises TermsError."""
    seconds = (
        terms.refresh_after_seconds,
        terms.expires_seconds,
        terms.grace_seconds,
        terms.terminate_seconds,
    )
    if list(seconds) != sorted(seconds):
        raise TermsError("the dates of a lease must not fall: refresh after, expires, grace, terminates")
    if seconds[0] < 1 or seconds[-1] > TERM_SECONDS_MAX:
        raise TermsError(f"the dates of a lease lie between 1 and {TERM_SECONDS_MAX} seconds")


def terms_of(tier: Tier, override: LeaseTerms | None) -> LeaseTerms:
    """The code's terms, or the tier's."""
    return override if override is not None else TERMS[tier]


def next_seq(stored: int, presented: int) -> int:
    """The number of the next statement. A presented one that is too far ahead is ignored."""
    return (presented if is_plausible(stored, presented) else stored) + 1


def is_plausible(stored: int, presented: int) -> bool:
    """Whether a presented number is ahead of ours and close enough to count."""
    return stored < presented <= min(stored + SEQ_JUMP_MAX, SEQ_MAX - 1)


def device_not_after(terms: LeaseTerms, now: datetime) -> datetime:
    """The wanted end of a device certificate: identity never dies before the licence."""
    return now + timedelta(seconds=terms.terminate_seconds) + DEVICE_LIFE_AFTER_TERMINATION + DEVICE_HEADROOM


def lease(
    subject: Subject, seq: int, now: datetime, renew_device_after: datetime | msgspec.UnsetType = msgspec.UNSET
) -> Lease:
    """A lease from now on."""
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
    """Stops the workloads until a later statement."""
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
    """Ends the generation."""
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
    """Whether a stored lease is signed again at a refresh: half way to its `refresh_after`, or past it."""
    return now >= issued_at + (refresh_after - issued_at) / 2
