"""Use case: take up what a node presents that the restored database has lost.

After a restore, each node has to present its last statement before it gets a new lease. `cloud.fabric.licensing.presented`
judges it. A node that presents none, an equal or an earlier one gets leases as usual. A later lease is stored as it is,
and the node is `conflicting`: it keeps that lease, and gets no later dates until an operator decides. A suspension or
revocation is adopted with the node's standing.

A revocation is adopted at any time, because an operator may have put a database file back without a restore.
"""

from dataclasses import dataclass
from datetime import datetime

import msgspec

from cloud.contracts.fabric_events import NodePast
from cloud.fabric.attestation.software_evidence import anchor_values
from cloud.fabric.licensing import statements
from cloud.fabric.licensing.presented import Finding, judge, waits
from cloud.fabric.licensing.signing import Signer
from cloud.fabric.schemas import LeaseIntervals, LeaseTerms
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.nodes.clones import OLDER_REASON, SHUT_REASON
from cloud.fabric.service.nodes.statement_stream import StatementStream, is_closed
from cloud.fabric.service.ports import Now, Transaction, WakeBackground
from cloud.fabric.service.rights.admitted import RECOGNISED_IN_PART
from cloud.fabric.service.rights.recovery_confirms import RecoveryConfirms
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.enrolled import EnrolledStore
from cloud.fabric.store.keys import chip_key, machines_key, node_key, tenant_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import ActivationRow, GenerationRow, NodeRow
from cloud.fabric.store.tenants import TenantStore
from protocol.faults import fault_point
from protocol.ids import NodeSpiffeId
from protocol.signed.statements import Lease, Revocation, Statement, Suspension

FOR_COPIES = frozenset({OLDER_REASON, SHUT_REASON})
"""Reasons of statements for one copy of a suspected clone."""


@dataclass(frozen=True, kw_only=True)
class PresentedStatements:
    """Takes up the statements that nodes present. `epoch` is the installation's epoch."""

    epoch: int
    trust_domain: str
    now: Now
    transaction: Transaction
    audit: AuditLog
    nodes: NodeStore
    activations: ActivationStore
    codes: CodeStore
    tenants: TenantStore
    enrolled: EnrolledStore
    recovery_confirms: RecoveryConfirms
    signer: Signer
    statement_stream: StatementStream
    wake_background: WakeBackground

    def waits(self, node: NodeRow) -> bool:
        """Whether the node gets no new lease for now."""
        return waits(node.presented_epoch, self.epoch, node.hold)

    async def settle(self, node: NodeRow, generation: GenerationRow, token: str) -> tuple[NodeRow, GenerationRow]:
        """Take up the statement `token` of a generation; empty if the node has none. Returns the present rows.

        The caller has checked that the node presents it. A repeat changes nothing. A generation that the backup has
        as offered was confirmed after the backup, if the node presents a lease of it.
        """
        if not self._concerns(node, generation, token):
            return node, generation
        presented = self.signer.presented(token) if token != generation.statement else None
        if not self._changes(node, generation, presented, token):
            return node, generation
        keys = await self._keys(node, generation)
        with fault_point("fabric.presented.settle"):
            async with self.transaction(*keys, reads=(tenant_key(node.tenant),)):
                fresh = await self.nodes.find(node.id)
                current = await self.nodes.find_generation(node.id, generation.number)
                if fresh is None or current is None or is_closed(fresh, current):
                    return fresh or node, current or generation
                if not self._changes(fresh, current, presented, token):
                    return fresh, current
                finding, before = self._judge(fresh, current, presented, token), fresh
                fresh, current = await self._applied(fresh, current, finding, presented, token)
                await self.nodes.update(fresh, _past(finding, presented), wakes=finding == "revoked", since=before)
                await self._audit(fresh, current, finding, presented)
        if finding == "revoked":
            self.wake_background()
        return fresh, current

    async def _keys(self, node: NodeRow, generation: GenerationRow) -> tuple[str, ...]:
        """The keys of the transaction. A confirm changes the chip of the node and its enrolled fingerprint as well."""
        activation = None
        if generation.state == "offered":
            activation = await self.activations.find_by_generation(node.id, generation.number)
        if activation is None:
            return (node_key(node.id),)
        chips = dict.fromkeys((node.ek_hash, activation.ek_hash))
        return node_key(node.id), machines_key(node.tenant), *map(chip_key, chips)

    def _concerns(self, node: NodeRow, generation: GenerationRow, token: str) -> bool:
        """Whether the token can change anything. Almost every request ends here, without a signature to verify."""
        if is_closed(node, generation):
            return False
        if generation.state == "offered":
            return token != "" and self.waits(node)
        return self.waits(node) or token not in ("", generation.statement)

    def _judge(self, node: NodeRow, row: GenerationRow, presented: Statement | None, token: str) -> Finding:
        if not token or token == row.statement:
            return "known"
        return judge(
            self.signer.presented(row.statement),
            presented,
            tenant=node.tenant,
            node=node.id,
            generation=row.number,
            for_copies=FOR_COPIES,
        )

    def _changes(self, node: NodeRow, row: GenerationRow, presented: Statement | None, token: str) -> bool:
        """Whether the statement changes a row."""
        finding = self._judge(node, row, presented, token)
        if finding in ("known", "unproven"):
            return finding == "known" and node.presented_epoch < self.epoch and row.state == "confirmed"
        if row.state == "offered":
            return finding in ("ahead", "revoked")
        return finding == "revoked" or self.waits(node)

    async def _applied(
        self, node: NodeRow, row: GenerationRow, finding: Finding, presented: Statement | None, token: str
    ) -> tuple[NodeRow, GenerationRow]:
        """The rows after a finding, in the caller's transaction. The caller writes the node."""
        now = self.now()
        if isinstance(presented, Revocation) and finding == "revoked":
            return await self._revoked(node, row, presented, now)
        node = msgspec.structs.replace(node, presented_epoch=self.epoch)
        if isinstance(presented, Suspension) and finding == "suspended" and row.state == "confirmed":
            node = msgspec.structs.replace(
                node,
                standing="suspended",
                standing_reason=presented.reason,
                standing_at=presented.issued_at,
                epoch=max(node.epoch, presented.epoch),
                seq=max(node.seq, presented.seq),
            )
            return await self.statement_stream.write_current(node, row, now)
        if isinstance(presented, Lease) and finding == "ahead":
            if row.state == "offered":
                node, row = await self._confirmed(node, row, presented, now)
            hold = node.hold or "conflicting"
            node = msgspec.structs.replace(node, hold=hold, hold_at=node.hold_at or now)
            return await self.statement_stream.adopt(node, row, presented, token)
        return node, row

    async def _confirmed(
        self, node: NodeRow, row: GenerationRow, lease: Lease, now: datetime
    ) -> tuple[NodeRow, GenerationRow]:
        """The rows of an activation whose confirm the database has lost. The lease shows it."""
        activation = await self.activations.find_by_generation(node.id, row.number)
        node = await self.statement_stream.end_open_generations(node, row.number - 1, now, "superseded")
        if activation is not None:
            await self.activations.set_confirmed(activation.id)
            actor = str(NodeSpiffeId(self.trust_domain, node.tenant, node.id))
            if activation.claim is not None:
                row = await self.recovery_confirms.taken_up(activation, node, row, lease, actor)
            await self.recovery_confirms.end_overtaken(activation, node)
            node = await self._identified(node, row, activation)
        node = msgspec.structs.replace(with_terms(node, lease), current_generation=row.number, confirmed_at=now)
        return node, msgspec.structs.replace(row, state="confirmed", confirmed_at=now)

    async def _identified(self, node: NodeRow, row: GenerationRow, activation: ActivationRow) -> NodeRow:
        """The node with the chip and the enrolled fingerprint of the machine that has confirmed.

        The node keeps its chip if another node has that of the machine meanwhile.
        """
        if activation.tier != "software":
            other = await self.nodes.find_by_ek(activation.ek_hash)
            if other is None or other.id == node.id:
                node = msgspec.structs.replace(node, ek_hash=activation.ek_hash)
        if activation.matched in RECOGNISED_IN_PART:
            if not row.recovery:
                node = msgspec.structs.replace(node, enrolled=row.fingerprint)
            tenant = await self.tenants.find(node.tenant)
            if tenant is not None:
                by_parts = activation.tier == "software"
                values = anchor_values(node.enrolled, tenant.fingerprint_salt) if by_parts else ()
                await self.enrolled.replace(node.tenant, node.id, values)
        return node

    async def _revoked(
        self, node: NodeRow, row: GenerationRow, presented: Revocation, now: datetime
    ) -> tuple[NodeRow, GenerationRow]:
        """The rows after a revocation. With the reason `superseded` a later generation exists, which is not closed."""
        if presented.reason == "superseded":
            later = max(node.last_generation, row.number + 1)
            node = msgspec.structs.replace(node, last_generation=later)
            node = await self.statement_stream.end_open_generations(node, row.number, now, "superseded")
        else:
            node = msgspec.structs.replace(
                node,
                standing=presented.reason,
                standing_reason="",
                standing_at=presented.issued_at,
                hold="",
                hold_at=None,
            )
            node = await self.statement_stream.end_open_generations(node, node.last_generation, now, presented.reason)
            if presented.reason == "released" and node.seat_held:
                await self.codes.free_seat(node.code)
                node = msgspec.structs.replace(node, seat_held=False)
        return node, await self.nodes.find_generation(node.id, row.number) or row

    async def _audit(self, node: NodeRow, row: GenerationRow, finding: Finding, presented: Statement | None) -> None:
        """Add the entry of a finding. Nodes that present what is known are too many to be audited one by one."""
        if finding == "known":
            return
        await self.audit.write(
            str(NodeSpiffeId(self.trust_domain, node.tenant, node.id)),
            "node.conflicting" if finding == "ahead" else f"node.{finding}_adopted",
            node.id,
            node.tenant,
            generation=row.number,
            standing=node.standing,
            epoch=presented.epoch if presented else "",
            seq=presented.seq if presented else "",
        )


def _past(finding: Finding, presented: Statement | None) -> NodePast:
    """What a finding is called in events."""
    if isinstance(presented, Revocation) and finding == "revoked":
        return "changed" if presented.reason == "superseded" else presented.reason
    if finding == "suspended":
        return "suspended"
    return "held" if finding == "ahead" else "changed"


def with_terms(node: NodeRow, lease: Lease) -> NodeRow:
    """The node with what its lease says. The dates of a final lease, or of a recovery, are no terms."""
    node = msgspec.structs.replace(
        node, tier=lease.tier, profile=lease.profile, entitlements=lease.entitlements, standing="active"
    )
    if lease.intervals is not None:
        intervals = LeaseIntervals(lease.intervals.heartbeat_seconds, lease.intervals.wake_seconds)
        node = msgspec.structs.replace(node, intervals=intervals)
    if lease.expires_at == lease.terminate_at:
        return node
    dates = lease.refresh_after, lease.expires_at, lease.grace_until, lease.terminate_at
    terms = LeaseTerms(*(round((date - lease.issued_at).total_seconds()) for date in dates))
    return msgspec.structs.replace(node, lease=None if terms == statements.TERMS[lease.tier] else terms)
