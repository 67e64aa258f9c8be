"""Use case: writes the statement stream, the next signed statement of a generation, in the transaction of its cause.

It stands between the pure builder (`cloud.fabric.licensing.statements`), the signing keys and the rows. Rule: a caller
holds a transaction in which it has read `node`, threads the returned rows through, and writes the node once at the end.
"""

from dataclasses import dataclass
from datetime import datetime

import msgspec

from cloud.fabric.errors import GenerationClosed
from cloud.fabric.licensing import statements
from cloud.fabric.licensing.signing import Signer
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import GenerationRow, NodeRow
from cloud.fabric.tuf.current_trust import CurrentTrust, RenewalOrder
from protocol.encoding import sha256_hex
from protocol.messages.sessions import StatementAnswer
from protocol.signed.freshness import Freshness
from protocol.signed.statements import Lease, RevocationReason, Statement


@dataclass(frozen=True, kw_only=True)
class StatementStream:
    """Signs statements and stores them with their generation."""

    trust_domain: str
    signer: Signer
    current_trust: CurrentTrust
    nodes: NodeStore
    activations: ActivationStore

    def presented_seq(self, token: str, node: NodeRow, generation: GenerationRow) -> int:
        """The number of a statement that the node presents, if we signed it for this node; else 0."""
        if not token or token == generation.statement:
            return 0
        presented = self.signer.presented(token)
        if presented is None or (presented.tenant, presented.node, presented.epoch) != (
            node.tenant,
            node.id,
            node.epoch,
        ):
            return 0
        return presented.seq

    async def write_current(
        self, node: NodeRow, generation: GenerationRow, now: datetime, presented: int = 0
    ) -> tuple[NodeRow, GenerationRow]:
        """What the node's standing allows: a lease, or the suspension."""
        subject = self._subject(node, generation.number)
        seq = statements.next_seq(node.seq, presented)
        order = self.current_trust.order
        statement: Statement = (
            statements.suspension(subject, seq, now, node.standing_reason)
            if node.standing == "suspended"
            else statements.lease(subject, seq, now, order.after if order and order.starts_at <= now else msgspec.UNSET)
        )
        return await self._write(node, generation, statement)

    async def write_end(
        self, node: NodeRow, generation: GenerationRow, now: datetime, reason: RevocationReason
    ) -> NodeRow:
        """The revocation that ends a generation; it is closed here from now on."""
        subject = self._subject(node, generation.number)
        statement = statements.revocation(subject, statements.next_seq(node.seq, 0), now, reason)
        node, _ = await self._write(node, msgspec.structs.replace(generation, state="closed"), statement)
        return node

    async def end_open_generations(self, node: NodeRow, up_to: int, now: datetime, reason: RevocationReason) -> NodeRow:
        """Close every generation up to `up_to`, with a revocation each, and end the activations that led there."""
        for generation in await self.nodes.open_generations(node.id, up_to):
            node = await self.write_end(node, generation, now, reason)
        await self.activations.supersede(node.id, up_to)
        return msgspec.structs.replace(node, closed_up_to=max(node.closed_up_to, up_to))

    def answer(self, generation: GenerationRow, nonce: str, now: datetime) -> StatementAnswer:
        """The stored statement, with a signed freshness that it is current. Both empty before the first statement."""
        if not generation.statement:
            return StatementAnswer("", "")
        freshness = Freshness(
            trust_domain=self.trust_domain,
            node=generation.node,
            generation=generation.number,
            nonce=nonce,
            statement_sha256=sha256_hex(generation.statement.encode()),
            at=now,
        )
        return StatementAnswer(generation.statement, self.signer.freshness(freshness))

    def closed(self, generation: GenerationRow, nonce: str, now: datetime) -> GenerationClosed:
        """The refusal of a closed generation, with its revocation."""
        current = self.answer(generation, nonce, now)
        return GenerationClosed(current.statement, current.freshness)

    def _subject(self, node: NodeRow, number: int) -> statements.Subject:
        return statements.Subject(
            trust_domain=self.trust_domain,
            tenant=node.tenant,
            node=node.id,
            generation=number,
            epoch=node.epoch,
            tier=node.tier,
            profile=node.profile,
            entitlements=node.entitlements,
            terms=statements.terms_of(node.tier, node.lease),
        )

    async def _write(
        self, node: NodeRow, generation: GenerationRow, statement: Statement
    ) -> tuple[NodeRow, GenerationRow]:
        lease = statement if isinstance(statement, Lease) else None
        generation = msgspec.structs.replace(
            generation,
            statement=self.signer.statement(statement),
            statement_type=type(statement).__name__.lower(),
            seq=statement.seq,
            issued_at=statement.issued_at,
            refresh_after=lease.refresh_after if lease else None,
            terminate_at=lease.terminate_at if lease else None,
        )
        await self.nodes.update_generation(generation)
        node = msgspec.structs.replace(node, seq=statement.seq)
        if lease and (node.lease_until is None or lease.terminate_at > node.lease_until):
            node = msgspec.structs.replace(node, lease_until=lease.terminate_at)
        return node, generation


def is_closed(node: NodeRow, generation: GenerationRow) -> bool:
    """Whether the generation is closed, alone or with all before it."""
    return generation.state == "closed" or generation.number <= node.closed_up_to


def needs_signing(
    generation: GenerationRow, presented: int, seq: int, now: datetime, order: RenewalOrder | None = None
) -> bool:
    """Whether a refresh writes: the lease is due, it lacks the order to renew and the node's turn has come, or the
    node has seen a later statement than the stored one."""
    if statements.is_plausible(seq, presented):
        return True
    if generation.issued_at is None or generation.refresh_after is None:
        return not generation.statement
    if order is not None and generation.issued_at < order.starts_at <= now and order.reached(generation.node):
        return True
    return statements.lease_is_due(generation.issued_at, generation.refresh_after, now)
