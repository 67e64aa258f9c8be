"""Use case: sign the next statement of a generation, and store it in the transaction of the change that causes it.

The pure functions of `cloud.fabric.licensing.statements` build the statement. The signer signs it. Rule for callers of
the `write_...` and `end_...` methods: hold a transaction in which `node` was read, pass the returned rows to the next
call, and write the node once at the end.
"""

from dataclasses import dataclass
from datetime import datetime

import msgspec

from cloud.fabric.errors import GenerationClosed
from cloud.fabric.licensing import statements
from cloud.fabric.licensing.signing import Signer
from cloud.fabric.schemas import StatementType
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import GenerationRow, NodeRow, enrolled_of
from cloud.fabric.tuf.current_trust import CurrentTrust, RenewalOrder
from protocol.encoding import sha256_hex
from protocol.fingerprint import policy_of
from protocol.messages.sessions import StatementAnswer
from protocol.signed.freshness import Freshness
from protocol.signed.statements import LEASE_VERSION, HardwareFloor, Lease, RevocationReason, Statement, Suspension


@dataclass(frozen=True, kw_only=True)
class StatementStream:
    """Signs statements, stores them with their generation, and makes the answers that carry them.

    `epoch` is the installation's epoch. A statement has at least this epoch, and at least that of the node.
    """

    trust_domain: str
    epoch: int
    signer: Signer
    current_trust: CurrentTrust
    nodes: NodeStore
    activations: ActivationStore

    def presented_seq(self, token: str, node: NodeRow, generation: GenerationRow) -> int:
        """The `seq` of the statement `token` that the node presents.

        0 if Fabric did not sign it for this node and epoch, or if it is the stored statement.
        """
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
        """Sign and store the statement for the node's standing: a suspension if it is suspended, else a lease.

        `presented` is the `seq` of the statement that the node presented, 0 for none. The statement is a decision of this
        epoch, so the node counts as presented, and no hold remains. Returns the changed rows.
        """
        node = msgspec.structs.replace(node, presented_epoch=self.epoch, hold="", hold_at=None)
        subject = self._subject(node, generation)
        seq = statements.next_seq(node.seq, presented)
        order = self.current_trust.order
        statement: Statement = (
            statements.suspension(subject, seq, now, node.standing_reason)
            if node.standing == "suspended"
            else statements.lease(subject, seq, now, order.after if order and order.starts_at <= now else msgspec.UNSET)
        )
        facts = statements.facts(subject) if isinstance(statement, Lease) else ""
        return await self._write(node, msgspec.structs.replace(generation, lease_facts=facts), statement)

    async def adopt(
        self, node: NodeRow, generation: GenerationRow, lease: Lease, token: str
    ) -> tuple[NodeRow, GenerationRow]:
        """Store a lease of ours that the node presents and that this database has lost. Returns the changed rows."""
        node = msgspec.structs.replace(node, epoch=max(node.epoch, lease.epoch), seq=max(node.seq, lease.seq))
        return await self._store(node, generation, lease, token)

    def is_outdated(self, node: NodeRow, generation: GenerationRow) -> bool:
        """Whether the stored lease says something else than a lease that is signed now, beside its dates.

        The node reads another version now, has another key, or is to have other intervals.
        """
        if generation.statement_type != "lease":
            return False
        return generation.lease_facts != statements.facts(self._subject(node, generation))

    def final_for_copy(
        self, node: NodeRow, generation: GenerationRow, now: datetime, presented: str, reason: str, former_key: str = ""
    ) -> tuple[NodeRow, str]:
        """Sign a final lease for a copy of the node that gets no further lease. It is not stored with the generation.

        It ends when the lease `presented` expires, and at once without such a lease. `former_key` is the hash of the
        copy's key, if that is a former key of the generation. Returns the changed node, and the token.
        """
        subject = self._subject(node, generation, former_key)
        seq = statements.next_seq(node.seq, self.presented_seq(presented, node, generation))
        held = self._held(presented, node, generation)
        if held is None:
            held = msgspec.structs.replace(statements.lease(subject, seq, now), refresh_after=now, expires_at=now)
        lease = statements.final_lease(subject, seq, now, held, reason)
        return msgspec.structs.replace(node, seq=seq), self.signer.statement(lease)

    def held_for_restored(
        self, node: NodeRow, generation: GenerationRow, now: datetime, presented: str, former_key: str = ""
    ) -> tuple[NodeRow, str]:
        """Sign the node's last lease again, with the same dates, for a restored machine that waits for an operator.

        A lease `presented` that terminates later counts instead: the database was restored too. Otherwise as
        `final_for_copy`. Without a lease nothing is signed, and the token is empty.
        """
        leases = [self._held(token, node, generation) for token in (generation.statement, presented)]
        held = max((each for each in leases if each is not None), key=lambda each: each.terminate_at, default=None)
        if held is None:
            return node, ""
        seq = statements.next_seq(node.seq, self.presented_seq(presented, node, generation))
        lease = statements.held_lease(self._subject(node, generation, former_key), seq, now, held)
        return msgspec.structs.replace(node, seq=seq), self.signer.statement(lease)

    def _held(self, presented: str, node: NodeRow, generation: GenerationRow) -> Lease | None:
        """The lease `presented`, if Fabric signed it for this node and generation."""
        held = self.signer.presented(presented)
        ours = isinstance(held, Lease) and (held.node, held.generation) == (node.id, generation.number)
        return held if isinstance(held, Lease) and ours else None

    def suspension_for_copy(
        self, node: NodeRow, generation: GenerationRow, now: datetime, presented: str, reason: str
    ) -> tuple[NodeRow, str]:
        """Sign a suspension for a copy of the node that an operator did not keep. Otherwise as `final_for_copy`."""
        seq = statements.next_seq(node.seq, self.presented_seq(presented, node, generation))
        token = self.signer.statement(statements.suspension(self._subject(node, generation), seq, now, reason))
        return msgspec.structs.replace(node, seq=seq), token

    async def write_end(
        self, node: NodeRow, generation: GenerationRow, now: datetime, reason: RevocationReason
    ) -> NodeRow:
        """Close a generation, and sign and store its revocation. Returns the changed node."""
        subject = self._subject(node, generation)
        statement = statements.revocation(subject, statements.next_seq(node.seq, 0), now, reason)
        if generation.confirmed_at is not None:
            # A machine that stays offline runs on with the latest lease that it may hold.
            node = msgspec.structs.replace(node, overlap_until=node.lease_until)
        node, _ = await self._write(node, msgspec.structs.replace(generation, state="closed"), statement)
        return node

    async def end_open_generations(self, node: NodeRow, up_to: int, now: datetime, reason: RevocationReason) -> NodeRow:
        """Close every open generation up to and including `up_to`, and sign and store a revocation for each.

        Unconfirmed activations of these generations end. Returns the changed node.
        """
        for generation in await self.nodes.open_generations(node.id, up_to):
            node = await self.write_end(node, generation, now, reason)
        await self.activations.supersede(node.id, up_to)
        return msgspec.structs.replace(node, closed_up_to=max(node.closed_up_to, up_to))

    def answer(self, generation: GenerationRow, nonce: str, now: datetime) -> StatementAnswer:
        """The stored statement, with a freshness signed over `nonce`. Both are empty before the first statement."""
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
        """The refusal of a closed generation, with its revocation and a freshness."""
        current = self.answer(generation, nonce, now)
        return GenerationClosed(current.statement, current.freshness)

    def _subject(self, node: NodeRow, generation: GenerationRow, former_key: str = "") -> statements.Subject:
        return statements.Subject(
            trust_domain=self.trust_domain,
            tenant=node.tenant,
            node=node.id,
            generation=generation.number,
            epoch=max(self.epoch, node.epoch),
            tier=node.tier,
            profile=node.profile,
            entitlements=node.entitlements,
            terms=statements.terms_of(node.tier, node.lease),
            version=min(generation.lease_version, LEASE_VERSION),
            node_key=former_key or sha256_hex(generation.node_public_key),
            ek_name=generation.ek_name,
            # With a TPM the chip identifies the machine; a lease without the fingerprint is smaller.
            fingerprint=policy_of(enrolled_of(node, generation)) if node.tier == "software" else None,
            intervals=node.intervals,
            floor=HardwareFloor(index=node.floor_index) if node.floor_index else None,
            clone_suspected=node.clone_at,
            recovery=generation.recovery,
            grace_until=generation.grace_until,
        )

    async def _write(
        self, node: NodeRow, generation: GenerationRow, statement: Statement
    ) -> tuple[NodeRow, GenerationRow]:
        node = msgspec.structs.replace(node, epoch=statement.epoch, seq=statement.seq)
        return await self._store(node, generation, statement, self.signer.statement(statement))

    async def _store(
        self, node: NodeRow, generation: GenerationRow, statement: Statement, token: str
    ) -> tuple[NodeRow, GenerationRow]:
        lease = statement if isinstance(statement, Lease) else None
        generation = msgspec.structs.replace(
            generation,
            statement=token,
            statement_type=type_name(statement),
            seq=statement.seq,
            issued_at=statement.issued_at,
            refresh_after=lease.refresh_after if lease else None,
            terminate_at=lease.terminate_at if lease else None,
        )
        await self.nodes.update_generation(generation, node)
        if lease and (node.lease_until is None or lease.terminate_at > node.lease_until):
            node = msgspec.structs.replace(node, lease_until=lease.terminate_at)
        return node, generation


def type_name(statement: Statement) -> StatementType:
    """The type of a statement as rows have it."""
    if isinstance(statement, Lease):
        return "lease"
    return "suspension" if isinstance(statement, Suspension) else "revocation"


def is_closed(node: NodeRow, generation: GenerationRow) -> bool:
    """Whether the generation is closed, either alone or together with all earlier ones."""
    return generation.state == "closed" or generation.number <= node.closed_up_to


def needs_signing(
    generation: GenerationRow, presented: int, seq: int, now: datetime, order: RenewalOrder | None = None
) -> bool:
    """Whether a refresh signs a new statement.

    It does if the lease is due, if the node presents a later statement than the stored one, or if a renewal order has
    reached the node and the stored lease does not carry the order. `presented` is the presented `seq`, `seq` the
    node's stored one.
    """
    if statements.is_plausible(seq, presented):
        return True
    if generation.grace_until is not None and generation.statement_type == "lease" and now >= generation.grace_until:
        return False  # its grace lease has ended, and only a decision about the case brings another lease
    if generation.issued_at is None or generation.refresh_after is None:
        return not generation.statement
    if order is not None and generation.issued_at < order.starts_at <= now and order.reached(generation.node):
        return True
    return statements.lease_is_due(generation.issued_at, generation.refresh_after, now)
