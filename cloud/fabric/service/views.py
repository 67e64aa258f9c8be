"""Pure functions: turn rows into the messages of the operator API, and make pages."""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from cryptography import x509

from cloud.fabric import schemas
from cloud.fabric.attestation.drift import Drift
from cloud.fabric.attestation.ek_makers import UNKNOWN, maker_of
from cloud.fabric.attestation.ek_roots import TrustError, is_root, read_ca
from cloud.fabric.attestation.pcr_quotes import changed
from cloud.fabric.bodies.clones import AutomaticRepairs
from cloud.fabric.bodies.hardware import FingerprintDrift
from cloud.fabric.bodies.recovery import RecoveryCase, RecoveryPolicy
from cloud.fabric.bodies.recovery_codes import RecoveryCode, RecoveryCodeState
from cloud.fabric.bodies.restored import Hold
from cloud.fabric.errors import Invalid
from cloud.fabric.licensing import repairs as quota
from cloud.fabric.store.rows import (
    ActivationRow,
    AuditRow,
    CodeRow,
    EkAllowedRow,
    EkRootRow,
    GenerationRow,
    NodeRow,
    RecoveryCaseRow,
    RecoveryCodeRow,
    TenantRow,
    TokenRow,
)
from cloud.fabric.tuf.current_trust import RenewalOrder
from protocol.encoding import EncodingError, b64url_decode, b64url_encode
from protocol.maker_certificates import CertificateUnreadable, printable, read_certificate
from protocol.signed.lease import Entitlement, Grant, name_of

PAGE_ITEMS_DEFAULT = 50
PAGE_ITEMS_MAX = 200
CURSOR_CHARS_MAX = 128
HELD: dict[Hold, str] = {
    "conflicting": "the node has a later statement than the restored database, and gets no later dates until it is accepted",
    "unconfirmed": "the node was reconstructed, and gets no later dates until it is confirmed",
}
CLONE_SUSPECTED = "a clone of this node is suspected: see `cascade node clones`"
RESTORE_UNAPPROVED = "restored from a backup once more than allowed: approve it with `cascade node settle`"
SUPERSEDED_ASKS = "the same chip asks with a superseded generation: possibly a clone"

R = TypeVar("R")


def read_cursor(cursor: str) -> str:
    """The id inside a cursor of ours; empty for an empty cursor. Raises Invalid."""
    try:
        if len(cursor) > CURSOR_CHARS_MAX:
            raise EncodingError("too long")
        text = b64url_decode(cursor).decode("ascii")
        if not text.isprintable():
            raise EncodingError("not printable")
        return text
    except (EncodingError, UnicodeDecodeError) as error:
        raise Invalid("cursor: not a cursor of this API") from error


def read_limit(limit: int) -> int:
    """Check the number of items on a page, and return it. Raises Invalid."""
    if not 1 <= limit <= PAGE_ITEMS_MAX:
        raise Invalid(f"limit: 1 to {PAGE_ITEMS_MAX}")
    return limit


def page(items: Sequence[R], ids: Sequence[str], limit: int) -> schemas.Page[R]:
    """A page of at most `limit` items. `items` has up to `limit` + 1; an extra item means that another page follows."""
    more = len(items) > limit
    return schemas.Page(tuple(items[:limit]), b64url_encode(ids[limit - 1].encode()) if more else "")


def tenant(row: TenantRow, overlap_until: datetime | None = None) -> schemas.Tenant:
    """A tenant as operators see it."""
    return schemas.Tenant(row.id, row.name, row.tiers, row.created_at, row.clone_policy, overlap_until)


def ek_root(row: EkRootRow) -> schemas.EkRoot:
    """A trusted CA certificate, with its subject and end."""
    try:
        certificate = read_ca(row.certificate)
    except TrustError:  # stored by a release with other rules
        return _unusable_root(row)
    return schemas.EkRoot(
        row.sha256,
        certificate.subject_text,
        row.ek_type,
        certificate.ends,
        row.added_at,
        root=is_root(row.certificate),
        maker=maker_of(certificate),
    )


def _unusable_root(row: EkRootRow) -> schemas.EkRoot:
    """A CA certificate that an earlier release stored, and this one does not use. It can have a key of another kind."""
    try:
        certificate = read_certificate(row.certificate)
        subject, ends = certificate.subject_text, certificate.ends
    except CertificateUnreadable:
        other = x509.load_der_x509_certificate(row.certificate)
        subject, ends = printable(other.subject.rfc4514_string()), other.not_valid_after_utc
    return schemas.EkRoot(row.sha256, subject, row.ek_type, ends, row.added_at, root=False, maker=UNKNOWN)


def ek_allowed(row: EkAllowedRow) -> schemas.AllowedEk:
    return schemas.AllowedEk(row.ek_name, row.note, row.added_at)


def code(row: CodeRow, now: datetime) -> schemas.Code:
    """A code with its state at `now`: revoked, else expired, else spent (all seats taken), else open."""
    state: schemas.CodeState = "open"
    if row.revoked_at is not None:
        state = "revoked"
    elif row.expires_at <= now:
        state = "expired"
    elif row.seats_taken >= row.seats:
        state = "spent"
    return schemas.Code(
        id=row.id,
        tenant=row.tenant,
        state=state,
        profile=row.profile,
        entitlements=tuple(map(name_of, row.entitlements)),
        seats=row.seats,
        seats_taken=row.seats_taken,
        expires_at=row.expires_at,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        readmit_node=row.readmit_node,
        lease=row.lease,
        entitlement_terms=_terms(row.entitlements),
        intervals=row.intervals,
        approval=row.approval,
        tier_min=row.tier_min,
    )


def _terms(grants: tuple[Grant, ...]) -> tuple[schemas.EntitlementTerms, ...]:
    return tuple(
        schemas.EntitlementTerms(grant.name, grant.limit, grant.not_before, grant.until, grant.attributes)
        for grant in grants
        if isinstance(grant, Entitlement)
    )


def activation(row: ActivationRow) -> schemas.Activation:
    """An activation as operators see it."""
    return schemas.Activation(
        id=row.id,
        tenant=row.tenant,
        code=row.code,
        state=row.state,
        tier=row.tier,
        node=row.node or row.candidate,
        generation=row.generation,
        matched=row.matched,
        ek_name=row.ek_name,
        ek_issuer=row.ek_issuer,
        components=tuple(sorted(row.fingerprint)),
        agent_version=row.agent_version,
        address=row.address,
        created_at=row.created_at,
        asked_at=row.asked_at,
        approve_by=row.approve_by,
        decided_at=row.decided_at,
        decided_by=row.decided_by,
        reason=row.decision_reason,
        seat_reserved=row.seat_reserved,
        recovery=row.recovery,
    )


def node(row: NodeRow) -> schemas.Node:
    """A node as operators see it. `closing`: Breakwater has not closed yet all generations that Fabric has closed."""
    return schemas.Node(
        id=row.id,
        tenant=row.tenant,
        standing=row.standing,
        standing_reason=row.standing_reason,
        standing_at=row.standing_at,
        tier=row.tier,
        profile=row.profile,
        entitlements=tuple(map(name_of, row.entitlements)),
        generation=row.current_generation,
        last_generation=row.last_generation,
        closing=row.closed_up_to > row.closed_at_issuer,
        seat_held=row.seat_held,
        code=row.code,
        created_at=row.created_at,
        confirmed_at=row.confirmed_at,
        lease_until=row.lease_until,
        development=row.development,
        superseded_asked_at=row.superseded_asked_at,
        superseded_asked_generation=row.superseded_asked_generation,
        entitlement_terms=_terms(row.entitlements),
        intervals=row.intervals,
        floor_index=row.floor_index,
        floor_value=row.floor_value,
        floor_reset_at=row.floor_reset_at,
        notice=_notice(row),
        clone_cause=row.clone_cause,
        overlap_until=row.overlap_until,
        hold=row.hold,
        hold_at=row.hold_at,
        presented_epoch=row.presented_epoch,
        reconstructed_at=row.reconstructed_at,
    )


def repairs(row: NodeRow, policy: RecoveryPolicy, now: datetime) -> AutomaticRepairs:
    """The automatic repairs of a node under the tenant's policy."""
    return AutomaticRepairs(
        used=quota.used(row.repairs, policy, now),
        allowed=policy.repair_quota,
        period_days=policy.period_days,
        next_at=quota.next_allowed_at(row.repairs, policy, now),
    )


def _notice(row: NodeRow) -> str:
    if row.clone_cause == "restored":
        return RESTORE_UNAPPROVED
    if row.clone_cause:
        return CLONE_SUSPECTED
    if row.hold:
        return HELD[row.hold]
    return SUPERSEDED_ASKS if row.superseded_asked_at is not None else ""


def generation(row: GenerationRow) -> schemas.Generation:
    return schemas.Generation(
        number=row.number,
        state=row.state,
        agent_version=row.agent_version,
        created_at=row.created_at,
        confirmed_at=row.confirmed_at,
        certificate_not_after=row.certificate_not_after,
        statement=row.statement_type,
        seq=row.seq,
        issued_at=row.issued_at,
        terminate_at=row.terminate_at,
        fingerprint=row.fingerprint,
        told_at=row.told_at,
        seen_at=row.seen_at,
        pcr_values=row.pcr_values,
        pcr_changed=changed(row.pcr_accepted, row.pcr_values),
        pcr_fault=row.pcr_fault,
        pcr_changed_at=row.pcr_changed_at,
        lease_version=row.lease_version,
        drift=None if row.drift is None else drift(row.drift),
    )


def drift(row: Drift) -> FingerprintDrift:
    return FingerprintDrift(
        result=row.result,
        reason=row.reason,
        changed=row.changed,
        missing=row.missing,
        changed_at=row.changed_at,
        alternated_at=row.alternated_at,
    )


def recovery_case(row: RecoveryCaseRow) -> RecoveryCase:
    """A recovery case as operators see it."""
    return RecoveryCase(
        id=row.id,
        tenant=row.tenant,
        node=row.node,
        situation=row.situation,
        state=row.state,
        needs=row.needs,
        evidence=row.evidence,
        old_generation=row.old_generation,
        generation=row.generation,
        overlap_until=row.overlap_until,
        opened_at=row.opened_at,
        decide_by=row.decide_by,
        next_allowed_at=row.next_allowed_at,
        decided_at=row.decided_at,
        decided_by=row.decided_by,
        reason=row.reason,
        code=row.code,
        grace=row.grace,
        grace_until=row.grace_until,
        silent_until=row.silent_until,
        returned_at=row.returned_at,
    )


def recovery_code(row: RecoveryCodeRow, now: datetime) -> RecoveryCode:
    """A recovery code with its state at `now`: used, else revoked, else expired, else delayed, else open."""
    state: RecoveryCodeState = "open"
    if row.used_at is not None:
        state = "used"
    elif row.revoked_at is not None:
        state = "revoked"
    elif row.expires_at <= now:
        state = "expired"
    elif row.usable_from > now:
        state = "delayed"
    return RecoveryCode(
        id=row.id,
        tenant=row.tenant,
        node=row.node,
        case=row.recovery_case,
        state=state,
        created_at=row.created_at,
        created_by=row.created_by,
        usable_from=row.usable_from,
        expires_at=row.expires_at,
        used_at=row.used_at,
        used_case=row.used_case,
        revoked_at=row.revoked_at,
    )


def token(row: TokenRow) -> schemas.Token:
    return schemas.Token(row.id, row.name, row.created_at, row.expires_at, row.revoked_at)


def renewal_order(order: RenewalOrder) -> schemas.RenewalOrder:
    return schemas.RenewalOrder(
        order.after, order.reason, order.set_at, order.spread_seconds, order.nodes, order.woken, order.done
    )


def audit(row: AuditRow) -> schemas.AuditEntry:
    return schemas.AuditEntry(
        row.id, row.at, row.actor, row.action, row.object, row.tenant, row.outcome, row.detail, row.request
    )
