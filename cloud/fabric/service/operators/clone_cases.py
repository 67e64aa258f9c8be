"""Use case: operators see suspected clones, settle them, and set what follows a suspicion.

Settling keeps one holder of the node's key. It runs on with an ordinary lease. Every other holder is shut out: Fabric
accepts no token of it, and its next session gets a signed suspension. The settling is one transaction. A wrong choice
can be corrected: the evidence stays, so another holder can be kept later.
"""

from dataclasses import dataclass
from datetime import datetime

import msgspec

from cloud.fabric import schemas
from cloud.fabric.bodies.clones import CloneCase, CloneEvidence, SetClonePolicy, SettleClone
from cloud.fabric.entropy import Entropy
from cloud.fabric.errors import Conflict, NotFound
from cloud.fabric.licensing.holders import settle
from cloud.fabric.licensing.known_holders import Holder, Holders
from cloud.fabric.licensing.renewal_tokens import CHAIN_BYTES
from cloud.fabric.service import views
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.nodes.clones import SUSPENDED_BY_POLICY, TRIES, described, read_holders, text_of
from cloud.fabric.service.nodes.statement_stream import StatementStream, is_closed
from cloud.fabric.service.operators.filters import ListFilters
from cloud.fabric.service.ports import Now
from cloud.fabric.service.unchanged import Unchanged
from cloud.fabric.store.keys import node_key, tenant_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import GenerationRow, NodeRow
from cloud.fabric.store.tenants import TenantStore
from cloud.fabric.wake import WakeRoom
from cloud.http.conditions import IfMatch
from cloud.http.guard import Operator
from protocol.ids import NodeId, TenantId


@dataclass(frozen=True, kw_only=True)
class CloneCases:
    """Lists and settles suspected clones, and sets the tenants' policies."""

    now: Now
    entropy: Entropy
    acting: Acting
    audit: AuditLog
    nodes: NodeStore
    tenants: TenantStore
    statement_stream: StatementStream
    wake_room: WakeRoom
    filters: ListFilters
    unchanged: Unchanged

    async def page(self, tenant: str, cursor: str, limit: int) -> schemas.Page[CloneCase]:
        """A page of nodes of which a clone is suspected. An empty `tenant` matches every node.

        Raises Invalid, NotFound.
        """
        await self.filters.check(tenant=tenant)
        rows = await self.nodes.suspected(tenant, views.read_cursor(cursor), views.read_limit(limit) + 1)
        cases = [_case(row, await self._generation(row)) for row in rows[:limit]]
        return views.page([*cases, *cases[:1]] if len(rows) > limit else cases, [row.id for row in rows], limit)

    async def show(self, node: NodeId) -> CloneCase:
        """The holders of a node's key, whether or not a clone is suspected. Raises NotFound."""
        row = await self._find(node)
        return _case(row, await self._generation(row))

    async def settle(self, operator: Operator, node_id: NodeId, body: SettleClone) -> CloneCase:
        """Keep one holder, and end the suspicion. A repeat changes nothing. Raises NotFound, Conflict."""
        async with self.acting.transaction(operator, node_key(node_id)):
            for _ in range(TRIES):
                node = await self._find(node_id)
                row = await self._generation(node)
                holders = read_holders(row.holders) if row is not None else None
                if row is None or holders is None or holders.find(body.keep) is None:
                    raise Conflict("the node has no such evidence; `cascade node clones NODE` shows what it has")
                if is_closed(node, row):
                    raise Conflict("the node's generation is closed")
                if not node.clone_cause and holders.current.id == body.keep:
                    return _case(node, row)
                now = self.now()
                settled = settle(holders, body.keep, self.entropy(CHAIN_BYTES).hex(), now)
                if await self.nodes.set_holders(row, text_of(settled), now.replace(microsecond=0)):
                    break
            else:
                raise Conflict("the node's sessions change its evidence too quickly")
            cause = node.clone_cause
            node = await self._signed(_cleared(node, now), row, now)
            await self.audit.write(
                operator_actor(operator),
                "node.clone_settled",
                node.id,
                node.tenant,
                cause=cause,
                generation=row.number,
                seq=node.seq,
                kept=described(settled.current),
                shut=", ".join(each.id for each in settled.all[1:]),
                standing=node.standing,
            )
        self.wake_room.wake(node.id)
        return _case(node, msgspec.structs.replace(row, holders=text_of(settled)))

    async def set_policy(
        self,
        operator: Operator,
        tenant: TenantId,
        body: SetClonePolicy,
        if_match: IfMatch = None,
        dry_run: bool = False,
    ) -> schemas.Tenant:
        """Set what follows a suspicion. Suspicions that are there stay as they are.

        Raises NotFound, ChangedSinceRead.
        """
        overlap_until = await self.tenants.overlap_until(tenant)  # of nodes, which have keys of their own
        async with self.acting.transaction(operator, tenant_key(tenant), dry_run=dry_run):
            row = await self.tenants.find(tenant)
            if row is None:
                raise NotFound("no such tenant")
            await self.unchanged.check(if_match, tenant, views.tenant(row, overlap_until))
            await self.tenants.set_clone_policy(tenant, body.policy)
            await self.audit.write(operator_actor(operator), "tenant.clone_policy", tenant, tenant, policy=body.policy)
        return views.tenant(msgspec.structs.replace(row, clone_policy=body.policy), overlap_until)

    async def _find(self, node: NodeId) -> NodeRow:
        row = await self.nodes.find(node)
        if row is None:
            raise NotFound("no such node")
        return row

    async def _generation(self, node: NodeRow) -> GenerationRow | None:
        return await self.nodes.find_generation(node.id, node.current_generation)

    async def _signed(self, node: NodeRow, row: GenerationRow, now: datetime) -> NodeRow:
        """The node with its next statement, which no longer names a suspicion."""
        if row.state == "confirmed":
            node, _ = await self.statement_stream.write_current(node, row, now)
        await self.nodes.update(node, "clone_settled", wakes=True)
        return node


def _cleared(node: NodeRow, now: datetime) -> NodeRow:
    """The node without the flag. A suspension by the policy ends. A person's suspension stays."""
    node = msgspec.structs.replace(node, clone_cause="", clone_at=None)
    if (node.standing, node.standing_reason) != ("suspended", SUSPENDED_BY_POLICY):
        return node
    return msgspec.structs.replace(node, standing="active", standing_reason="", standing_at=now)


def _case(node: NodeRow, row: GenerationRow | None) -> CloneCase:
    holders: Holders | None = read_holders(row.holders) if row is not None else None
    return CloneCase(
        node=node.id,
        tenant=node.tenant,
        cause=node.clone_cause,
        suspected_at=node.clone_at,
        standing=node.standing,
        generation=node.current_generation,
        restored=holders.restored if holders is not None else 0,
        evidence=tuple(map(_evidence, holders.all)) if holders is not None else (),
    )


def _evidence(holder: Holder) -> CloneEvidence:
    last, clock = holder.last, holder.last.clock
    return CloneEvidence(
        id=holder.id,
        state=holder.state,
        since=holder.since,
        seen_at=last.at,
        address=last.address,
        agent_version=last.agent_version,
        fingerprint_hash=last.fingerprint,
        tpm_resets=clock.reset_count if clock is not None else None,
        tpm_restarts=clock.restart_count if clock is not None else None,
        tpm_clock_ms=clock.clock if clock is not None else None,
    )
