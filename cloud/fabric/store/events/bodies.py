"""Pure functions: turn rows into the bodies of Fabric's events, which services and tenants read."""

from cloud.contracts.fabric_events import (
    CodeV1,
    GrantedEntitlement,
    LeaseDates,
    NodeV1,
    RecoveryRules,
    StatementV1,
    TenantV1,
)
from cloud.fabric.store.rows import CodeRow, GenerationRow, NodeRow, TenantRow
from protocol.signed.lease import Entitlement, Grant


def tenant_body(row: TenantRow) -> TenantV1:
    """The public state of a tenant."""
    return TenantV1(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        tiers=row.tiers,
        approval_tiers=row.approval_tiers,
        lease_terms={
            tier: LeaseDates(
                refresh_after_seconds=terms.refresh_after_seconds,
                expires_seconds=terms.expires_seconds,
                grace_seconds=terms.grace_seconds,
                terminate_seconds=terms.terminate_seconds,
            )
            for tier, terms in row.lease_terms.items()
        },
        pcr_policies=dict(row.pcr_policies),
        clone_policy=row.clone_policy,
        recovery=RecoveryRules(
            grace_quota=row.recovery.grace_quota,
            period_days=row.recovery.period_days,
            grace_hours=row.recovery.grace_hours,
            silence_minutes=row.recovery.silence_minutes,
            repair_quota=row.recovery.repair_quota,
            code_delay_hours=row.recovery.code_delay_hours,
            case_days=row.recovery.case_days,
        ),
    )


def node_body(row: NodeRow) -> NodeV1:
    """The public state of a node. The node itself gets the reason of a suspension only, and so does everybody else."""
    return NodeV1(
        id=row.id,
        tenant=row.tenant,
        created_at=row.created_at,
        standing=row.standing,
        standing_reason=row.standing_reason if row.standing == "suspended" else "",
        standing_at=row.standing_at,
        tier=row.tier,
        profile=row.profile,
        entitlements=tuple(map(_granted, row.entitlements)),
        generation=row.current_generation,
        last_generation=row.last_generation,
        closed_up_to=row.closed_up_to,
        confirmed_at=row.confirmed_at,
        code=row.code or None,
        seat_held=row.seat_held,
        development=row.development,
        clone_cause=row.clone_cause,
        clone_at=row.clone_at,
        hold=row.hold,
        hold_at=row.hold_at,
        overlap_until=row.overlap_until,
        reconstructed_at=row.reconstructed_at,
    )


def code_body(row: CodeRow) -> CodeV1:
    """The public state of an activation code."""
    return CodeV1(
        id=row.id,
        tenant=row.tenant,
        created_at=row.created_at,
        expires_at=row.expires_at,
        expired=row.expired,
        revoked_at=row.revoked_at,
        seats=row.seats,
        seats_taken=row.seats_taken,
        profile=row.profile,
        entitlements=tuple(map(_granted, row.entitlements)),
        readmit_node=row.readmit_node,
        approval=row.approval,
        tier_min=row.tier_min,
    )


def statement_body(row: GenerationRow, node: NodeRow) -> StatementV1 | None:
    """The public facts of a generation's statement. None before the first one."""
    if not row.statement_type or row.issued_at is None:
        return None
    return StatementV1(
        node=row.node,
        generation=row.number,
        tenant=node.tenant,
        type=row.statement_type,
        seq=row.seq,
        issued_at=row.issued_at,
        refresh_after=row.refresh_after,
        terminate_at=row.terminate_at,
    )


def _granted(grant: Grant) -> GrantedEntitlement:
    if not isinstance(grant, Entitlement):
        return GrantedEntitlement(name=grant)
    return GrantedEntitlement(
        name=grant.name,
        limit=grant.limit,
        not_before=grant.not_before,
        until=grant.until,
        attributes=grant.attributes,
    )
