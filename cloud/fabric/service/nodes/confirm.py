"""Use case: a node confirms its activation over its first session.

One transaction changes the state of activation and generation, sets the standing of the node, signs the first
statement of the generation, and signs a revocation for each earlier open generation.
"""

from dataclasses import dataclass
from datetime import datetime

import msgspec

from cloud.fabric.attestation.software_evidence import anchor_values
from cloud.fabric.errors import Conflict
from cloud.fabric.licensing.standing import after_confirm
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.input_checks import check_nonce_form
from cloud.fabric.service.nodes.known import load
from cloud.fabric.service.nodes.lapse import Lapses
from cloud.fabric.service.nodes.statement import Statements
from cloud.fabric.service.nodes.statement_stream import StatementStream, is_closed
from cloud.fabric.service.ports import Now, Transaction, WakeBackground
from cloud.fabric.service.rights.admitted import RECOGNISED_IN_PART, REFUSALS, Admitted, Rights
from cloud.fabric.service.rights.recovery_confirms import RecoveryConfirms
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.enrolled import EnrolledStore
from cloud.fabric.store.keys import chip_key, machines_key, node_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import ActivationRow, GenerationRow, NodeRow
from cloud.fabric.wake import WakeRoom
from cloud.mtls.peer import NodePeer
from protocol.faults import fault_point
from protocol.ids import NodeId, TenantId
from protocol.messages.sessions import Ask, StatementAnswer


class Confirming(msgspec.Struct, frozen=True, kw_only=True):
    """A confirm of a node's generation.

    `presented` is the statement that the node presents, empty for none. `actor` is the caller, for the audit.
    """

    tenant: TenantId
    node: NodeId
    generation: int
    presented: str
    actor: str


@dataclass(frozen=True, kw_only=True)
class Confirmations:
    """Makes the generation of an activation the node's current one."""

    now: Now
    transaction: Transaction
    audit: AuditLog
    activations: ActivationStore
    rights: Rights
    lapses: Lapses
    recovery_confirms: RecoveryConfirms
    nodes: NodeStore
    enrolled: EnrolledStore
    statements: Statements
    statement_stream: StatementStream
    wake_room: WakeRoom
    wake_background: WakeBackground

    async def confirm(self, peer: NodePeer, ask: Ask) -> StatementAnswer:
        """Make the caller's generation the current one, and return its statement. Idempotent.

        Raises Invalid, NodeUnknown, GenerationClosed, Conflict, CodeRefused, CodeExpired, CodeRevoked, RecoveryRefused,
        TierNotAllowed.
        """
        check_nonce_form(ask.nonce)
        _, generation = await load(self.nodes, peer.tenant, peer.node, peer.generation)
        if generation.state == "offered":
            confirming = Confirming(
                tenant=peer.tenant,
                node=peer.node,
                generation=peer.generation,
                presented=ask.presented,
                actor=str(peer.spiffe),
            )
            generation = await self.commit(confirming)
        if generation.state == "offered":
            raise Conflict("the activation of this generation has ended")
        return await self.statements.statement(peer, ask)

    async def commit(self, confirming: Confirming) -> GenerationRow:
        """Make the generation the node's current one. Returns its row: of a closed generation, without a change.

        Raises NodeUnknown, Conflict, CodeRefused, CodeExpired, CodeRevoked, RecoveryRefused,
        TierNotAllowed.
        """
        activation = await self.activations.find_by_generation(confirming.node, confirming.generation)
        if activation is None:
            raise _ended()
        try:
            generation = await self._committed(confirming, activation)
        except REFUSALS:
            # The machine cannot confirm any more. The lapse frees its seat now, not after the time for the confirm.
            await self.lapses.begin(activation)
            raise
        self.wake_room.wake(confirming.node)
        self.wake_background()
        return generation

    async def _committed(self, confirming: Confirming, activation: ActivationRow) -> GenerationRow:
        """The transaction of the confirm. Code and tenant are checked in it: they may have changed since the proof."""
        reads = await self.rights.reads(activation)
        enrols = activation.matched in RECOGNISED_IN_PART
        machines = (machines_key(activation.tenant), chip_key(activation.ek_hash)) if enrols else ()
        before = await self.nodes.find(confirming.node) if activation.claim is not None else None
        if before is not None:  # from the confirm on, the chip of the machine before is that of a replaced machine
            machines = tuple(dict.fromkeys((*machines, chip_key(before.ek_hash))))
        with fault_point("fabric.confirm.commit"):
            async with self.transaction(node_key(confirming.node), *machines, reads=reads):
                node, generation = await load(self.nodes, confirming.tenant, confirming.node, confirming.generation)
                now = self.now()
                if is_closed(node, generation) or generation.state == "confirmed":
                    return generation
                if not (node.seat_held and await self.activations.set_confirmed(activation.id)):
                    raise _ended()
                admitted = await self.rights.admitted(activation)
                presented = self.statement_stream.presented_seq(confirming.presented, node, generation)
                node = await self.statement_stream.end_open_generations(node, generation.number - 1, now, "superseded")
                if enrols and activation.tier != "software":
                    await self._require_free_chip(node, activation)
                if activation.claim is not None:
                    policy = admitted.tenant.recovery
                    generation = await self.recovery_confirms.at_confirm(
                        activation, node, generation, policy, confirming.actor
                    )
                await self.recovery_confirms.end_overtaken(activation, node)
                node = _taken_over(node, activation, admitted, generation, now)
                generation = msgspec.structs.replace(generation, state="confirmed", confirmed_at=now)
                node, generation = await self.statement_stream.write_current(node, generation, now, presented)
                await self.nodes.update(node, "confirmed" if activation.claim is None else "rehomed", wakes=True)
                if enrols:
                    values = anchor_values(node.enrolled, admitted.tenant.fingerprint_salt)
                    await self.enrolled.replace(node.tenant, node.id, values if node.tier == "software" else ())
                await self.audit.write(
                    confirming.actor,
                    "activation.confirmed",
                    node.id,
                    node.tenant,
                    activation=activation.id,
                    code=activation.code,
                    recovery=activation.recovery,
                    generation=generation.number,
                    standing=node.standing,
                    seq=node.seq,
                )
        return generation

    async def _require_free_chip(self, node: NodeRow, activation: ActivationRow) -> None:
        """Check that the chip which a software node has gained is no other node's. Raises Conflict."""
        other = await self.nodes.find_by_ek(activation.ek_hash)
        if other is not None and other.id != node.id:
            raise Conflict(f"the TPM of this machine is that of the node {other.id} meanwhile")


def _ended() -> Conflict:
    return Conflict("the activation of this generation has ended, or was not confirmed in time")


def _taken_over(
    node: NodeRow, activation: ActivationRow, admitted: Admitted, generation: GenerationRow, now: datetime
) -> NodeRow:
    """The node after the confirm: tier from the activation, licence from its right. A suspended node stays suspended.

    If a person has approved that a machine is this node, its present fingerprint is the enrolled one; a grace lease does
    not enrol it. A machine with a TPM is known by its chip from now on.
    """
    enrols = activation.matched in RECOGNISED_IN_PART and not generation.recovery
    standing = after_confirm(node.standing)
    changed = standing != node.standing
    return msgspec.structs.replace(
        node,
        standing=standing,
        standing_reason="" if changed else node.standing_reason,
        standing_at=now if changed else node.standing_at,
        current_generation=generation.number,
        tier=activation.tier,
        ek_hash=node.ek_hash if activation.tier == "software" else activation.ek_hash,
        profile=admitted.profile,
        entitlements=admitted.entitlements,
        lease=admitted.terms(activation.tier),
        intervals=admitted.intervals,
        confirmed_at=now,
        enrolled=generation.fingerprint if enrols else node.enrolled,
    )
