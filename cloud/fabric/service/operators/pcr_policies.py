"""Use case: operators set the policies for PCR quotes, and accept changed PCR values of a node."""

from dataclasses import dataclass

from cloud.fabric import schemas
from cloud.fabric.attestation.pcr_quotes import changed
from cloud.fabric.errors import Conflict, Invalid, NotFound
from cloud.fabric.service import views
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.input_checks import check_text
from cloud.fabric.service.operators.tenants import Tenants
from cloud.fabric.store.keys import node_key, tenant_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.tenants import TenantStore
from cloud.http.conditions import IfMatch
from cloud.http.guard import Operator
from protocol.ids import NodeId, TenantId
from protocol.limits import NAME_CHARS_MAX

POLICIES_MAX = 64
"""Most profiles of one tenant that have a policy."""


@dataclass(frozen=True, kw_only=True)
class PcrPolicies:
    """Sets policies for PCR quotes, and accepts changed values."""

    acting: Acting
    audit: AuditLog
    tenants: TenantStore
    hardware: Tenants
    nodes: NodeStore
    policies_max: int = POLICIES_MAX

    async def set_policy(
        self,
        operator: Operator,
        tenant: TenantId,
        body: schemas.SetPcrPolicy,
        if_match: IfMatch = None,
        dry_run: bool = False,
    ) -> schemas.TenantTrust:
        """Set the policy of a profile. It counts from the next activation or session on.

        Raises NotFound, Invalid, ChangedSinceRead.
        """
        profile = check_text("profile", body.profile, NAME_CHARS_MAX)
        async with self.acting.transaction(operator, tenant_key(tenant), dry_run=dry_run):
            row = await self.tenants.find(tenant)
            if row is None:
                raise NotFound("no such tenant")
            await self.hardware.check_unchanged(if_match, tenant)
            policies = {**row.pcr_policies, profile: body.policy}
            if len(policies) > self.policies_max:
                raise Invalid(
                    f"profile: a tenant has at most {self.policies_max} profiles with a policy for PCR quotes"
                )
            if policies != row.pcr_policies:
                await self.tenants.set_pcr_policies(tenant, policies)
                await self.audit.write(
                    operator_actor(operator),
                    "trust.pcr_policy_set",
                    tenant,
                    tenant,
                    profile=profile,
                    policy=body.policy,
                )
            return await self.hardware.trust(tenant)

    async def accept(self, operator: Operator, node_id: NodeId, body: schemas.AcceptPcrs) -> schemas.NodeDetail:
        """Accept the PCR values of a node's newest quote, in its current generation. A repeat changes nothing.

        Raises NotFound, Conflict.
        """
        async with self.acting.transaction(operator, node_key(node_id)):
            node = await self.nodes.find(node_id)
            if node is None:
                raise NotFound("no such node")
            generation = await self.nodes.find_generation(node_id, node.current_generation)
            if generation is None or not generation.pcr_values:
                raise Conflict("the node has sent no valid quote in its current generation")
            numbers = changed(generation.pcr_accepted, generation.pcr_values)
            if not await self.nodes.accept_pcrs(node_id, generation.number, body.values):
                raise Conflict("the node has other PCR values by now")
            if numbers:
                await self.audit.write(
                    operator_actor(operator),
                    "node.pcrs_accepted",
                    node_id,
                    node.tenant,
                    generation=generation.number,
                    changed=",".join(map(str, numbers)),
                )
            newest = tuple(views.generation(entry) for entry in await self.nodes.generations(node_id))
            return schemas.NodeDetail(views.node(node), newest)
