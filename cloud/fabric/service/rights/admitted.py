"""Use case: check that the right of an activation still admits the machine. Called in the transaction that commits.

An activation takes several requests. Between them an operator may revoke the code or the node, the code may expire, or
the tenant may stop to admit a tier. Each step that commits asks again, with the keys that `reads` names.

There are two rights. An activation code gives its own terms. A recovery gives the machine the terms of its node, and a
recovery case (`cloud.fabric.service.recovery`) decides whether and how it goes on.
"""

from dataclasses import dataclass
from datetime import datetime

import msgspec

from cloud.fabric.attestation import tiers
from cloud.fabric.attestation.pcr_quotes import pcr_policy
from cloud.fabric.errors import CodeExpired, CodeRefused, CodeRevoked, RecoveryRefused, TierNotAllowed, TpmRequired
from cloud.fabric.schemas import LeaseIntervals, LeaseTerms, Matched
from cloud.fabric.service.ports import Now
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.keys import code_key, tenant_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.recovery_cases import RecoveryCaseStore
from cloud.fabric.store.rows import ActivationRow, CodeRow, NodeRow, TenantRow
from cloud.fabric.store.tenants import TenantStore
from protocol.ids import NodeId
from protocol.signed.statements import Grant, Tier

REFUSALS = (CodeExpired, CodeRefused, CodeRevoked, RecoveryRefused, TierNotAllowed, TpmRequired)
"""The errors of `Rights.admitted`. After one of them the activation cannot succeed any more."""

RECOGNISED_IN_PART: tuple[Matched, ...] = ("fingerprint", "changed", "replaced", "claim")
"""A machine shows less than chip, or key and fingerprint. A person or a recovery code decides, and the new fingerprint is
enrolled."""


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """The terms that an activation gives to its node, and the tenant.

    `code` is the activation code; None in a recovery, whose node keeps its own terms. `lease` replaces the tenant's
    dates. `tier_min` is the least admitted tier. With `approval` a person approves the activation.
    """

    tenant: TenantRow
    code: CodeRow | None
    profile: str
    entitlements: tuple[Grant, ...]
    lease: LeaseTerms | None
    intervals: LeaseIntervals | None
    tier_min: Tier
    approval: bool

    def needs_approval(self, tier: Tier) -> bool:
        """Whether a person must approve an activation of this tier."""
        return tiers.needs_approval(tier, self.tenant.approval_tiers, code_wants=self.approval)

    def terms(self, tier: Tier) -> LeaseTerms | None:
        """The dates of leases that the right sets, else the tenant for this tier; None for the default dates."""
        return tiers.own_terms(tier, self.lease, self.tenant.lease_terms)


def by_code(code: CodeRow, tenant: TenantRow) -> Admitted:
    """The terms of an activation code."""
    return Admitted(
        tenant=tenant,
        code=code,
        profile=code.profile,
        entitlements=code.entitlements,
        lease=code.lease,
        intervals=code.intervals,
        tier_min=code.tier_min,
        approval=code.approval,
    )


def by_node(node: NodeRow, tier: Tier, code: CodeRow | None, tenant: TenantRow) -> Admitted:
    """The terms of a node that recovers with a machine of this tier. `code` is the code that gave the node its seat.

    The case decides about the approval. The dates stay the node's, unless the tier changes.
    """
    return Admitted(
        tenant=tenant,
        code=None,
        profile=node.profile,
        entitlements=node.entitlements,
        lease=node.lease if tier == node.tier else (code.lease if code is not None else None),
        intervals=node.intervals,
        tier_min=code.tier_min if code is not None else "software",
        approval=False,
    )


@dataclass(frozen=True, kw_only=True)
class Rights:
    """Checks activation codes, the nodes of recoveries, and tenants."""

    now: Now
    codes: CodeStore
    nodes: NodeStore
    cases: RecoveryCaseStore
    tenants: TenantStore

    def check_usable(self, code: CodeRow) -> None:
        """Raises CodeRevoked, CodeExpired."""
        if code.revoked_at is not None:
            raise CodeRevoked
        if code.expires_at <= self.now():
            raise CodeExpired

    async def reads(self, row: ActivationRow) -> tuple[str, ...]:
        """The keys that cover the rows which `admitted` reads, beside that of the node."""
        code = row.code
        if row.claim is not None:
            node = await self.node_of(row)
            code = node.code if node is not None else code
        return (code_key(code), tenant_key(row.tenant)) if code else (tenant_key(row.tenant),)

    async def admitted(self, row: ActivationRow) -> Admitted:
        """The terms of an activation, if its right is in force and admits the activation's tier.

        Raises CodeRefused, CodeRevoked, CodeExpired, RecoveryRefused, TierNotAllowed, TpmRequired.
        """
        tenant = await self.tenants.find(row.tenant)
        if tenant is None:
            raise CodeRefused
        admitted = await (self._of_code(row, tenant) if row.claim is None else self._of_node(row, tenant))
        self.check_tier(row.tier, admitted)
        return admitted

    def check_tier(self, tier: Tier, admitted: Admitted) -> None:
        """Check that right and tenant admit a tier. Raises TierNotAllowed.

        Raises TpmRequired for a machine without a TPM whose profile requires a PCR quote: it would get no session.
        """
        try:
            tiers.check_tier(tier, admitted.tenant.tiers, admitted.tier_min)
        except tiers.TierRefused as error:
            raise TierNotAllowed(str(error)) from error
        if tier == "software" and pcr_policy(admitted.tenant.pcr_policies, admitted.profile) == "require":
            # A caller that only names a node in a recovery learns nothing of that node, so also not its profile.
            profile = f"the profile {admitted.profile}" if admitted.code is not None else "the profile of the node"
            raise TpmRequired(f"the tenant requires PCR quotes for {profile}")

    async def node_of(self, row: ActivationRow) -> NodeRow | None:
        """The node that a recovery is for: that of its generation, of its claim, or of the proved chip."""
        named = row.node or row.candidate or (row.claim.node if row.claim is not None else "")
        node = await (self.nodes.find(NodeId(named)) if named else self.nodes.find_by_ek(row.ek_hash))
        return node if node is not None and node.tenant == row.tenant else None

    async def terms_of_node(self, node: NodeRow, tier: Tier, tenant: TenantRow) -> Admitted:
        """The terms of a node that recovers with a machine of this tier."""
        return by_node(node, tier, await self.codes.find(node.code) if node.code else None, tenant)

    async def _of_code(self, row: ActivationRow, tenant: TenantRow) -> Admitted:
        code = await self.codes.find(row.code)
        if code is None:
            raise CodeRefused
        self.check_usable(code)
        return by_code(code, tenant)

    async def _of_node(self, row: ActivationRow, tenant: TenantRow) -> Admitted:
        node = await self.node_of(row)
        if node is None:
            raise RecoveryRefused("no node of this tenant is named, and this machine's TPM is that of no node")
        if node.standing in ("revoked", "released"):
            raise RecoveryRefused(f"the node is {node.standing}; it needs an activation code")
        if row.recovery:
            case = await self.cases.find(row.recovery)
            if case is None or case.state in ("refused", "lapsed"):
                raise case_ended(case.reason if case is not None else "", case.next_allowed_at if case else None)
        return await self.terms_of_node(node, row.tier, tenant)


def case_ended(reason: str, allowed_at: datetime | None) -> RecoveryRefused:
    """The refusal of a machine whose case was refused or has lapsed."""
    return RecoveryRefused(f"the recovery case has ended{f': {reason}' if reason else ''}", allowed_at)
