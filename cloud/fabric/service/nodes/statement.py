"""Use case: a node fetches its current statement, and waits in a long poll for a change.

A fetch usually writes nothing. The answer is the stored statement, with a freshness that is signed for this answer.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from cloud.fabric.errors import Conflict, SessionOutdated
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.input_checks import check_nonce_form
from cloud.fabric.service.nodes.known import load
from cloud.fabric.service.nodes.replaced import ReplacedMachines
from cloud.fabric.service.nodes.seen import SeenSessions
from cloud.fabric.service.nodes.silence import Silences
from cloud.fabric.service.nodes.statement_stream import StatementStream, is_closed, needs_signing
from cloud.fabric.service.ports import Now, Presented, Transaction
from cloud.fabric.service.published_trust.trust_reports import TrustReports
from cloud.fabric.store.keys import node_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import GenerationRow, NodeRow, without_tpm
from cloud.fabric.tuf.current_trust import CurrentTrust
from cloud.fabric.wake import WakeRoom
from cloud.http.guard import ClosedAnswer
from cloud.mtls.peer import NodePeer
from protocol.evidence import NvCounter
from protocol.faults import fault_point
from protocol.ids import NodeId, NodeSpiffeId
from protocol.limits import CLOCK_SKEW
from protocol.messages.sessions import Ask, Events, StatementAnswer
from protocol.signed.statements import LEASE_VERSION

RESET_AUDIT_PERIOD = timedelta(hours=1)
"""Time after an audited fall of a floor counter in which another fall is neither recorded nor audited."""


@dataclass(frozen=True, kw_only=True)
class Statements:
    """Answers nodes that request their statement over a session."""

    now: Now
    transaction: Transaction
    nodes: NodeStore
    current_trust: CurrentTrust
    statement_stream: StatementStream
    trust_reports: TrustReports
    wake_room: WakeRoom
    seen: SeenSessions
    presented: Presented
    replaced: ReplacedMachines
    silences: Silences
    audit: AuditLog

    async def statement(self, peer: NodePeer, ask: Ask) -> StatementAnswer:
        """The node's current statement. A lease that is due is signed again first.

        Raises Invalid, NodeUnknown, GenerationClosed, Conflict, SessionOutdated.
        """
        check_nonce_form(ask.nonce)
        node, generation = await load(self.nodes, peer.tenant, peer.node, peer.generation)
        now = self.now()
        if is_closed(node, generation):
            self.seen.note_closed(node, generation, now)
            await self.replaced.asked(node, generation, store_seen=self.seen.store)
            raise self.statement_stream.closed(generation, ask.nonce, now)
        if generation.state == "offered":
            raise Conflict("this generation is not confirmed yet")
        if generation.sessions_from is not None and peer.not_before + CLOCK_SKEW < generation.sessions_from:
            # A suspected copy may have opened it. Each holder opens another one, and gets what is for it.
            raise SessionOutdated("this session was opened before a clone of the node was suspected, or settled")
        await self.silences.heard(node, generation)
        self.trust_reports.note(generation, ask.trust_version)
        generation = await self.refreshed(node, generation, ask.presented, now)
        return self.statement_stream.answer(generation, ask.nonce, now)

    async def note_lease_version(self, generation: GenerationRow, reads: int) -> GenerationRow:
        """Store the highest version of leases that the node reads, if it has changed. `reads` is what the node reports.

        The next statement has this version. Returns the changed row.
        """
        version = min(reads, LEASE_VERSION)
        if version == generation.lease_version:
            return generation
        with fault_point("fabric.session.lease_version"):
            async with self.transaction(node_key(generation.node)):
                await self.nodes.set_lease_version(generation.node, generation.number, version)
        return msgspec.structs.replace(generation, lease_version=version)

    async def note_floor(
        self, node: NodeRow, generation: GenerationRow, reported: NvCounter | msgspec.UnsetType
    ) -> NodeRow:
        """Store the counter that versions the node's floor record, if it has changed. Returns the changed row.

        A node that reports no counter any more keeps the stored one: the next lease still promises it, so a node does
        not shed its floor when it fills or clears the NV memory of its TPM. A machine without a TPM has none.

        A TPM's counter never falls, and its index is fixed by the node. So a lower value or another index is recorded
        and audited, at most once in RESET_AUDIT_PERIOD: the counter was replaced, the TPM was put back from a backup, or
        the index was taken.
        """
        if reported is msgspec.UNSET or without_tpm(node, generation):
            return node
        if (reported.index, reported.value) == (node.floor_index, node.floor_value):
            return node
        reset = node.floor_index != 0 and (reported.index != node.floor_index or reported.value < node.floor_value)
        # Bounds the audit entries of a node that reports any value it likes.
        quiet = node.floor_reset_at is not None and self.now() < node.floor_reset_at + RESET_AUDIT_PERIOD
        reset = reset and not quiet
        reset_at = self.now() if reset else node.floor_reset_at
        with fault_point("fabric.session.floor"):
            async with self.transaction(node_key(node.id)):
                await self.nodes.set_floor(node.id, reported.index, reported.value, reset_at)
                if reset:
                    await self._audit_reset(node, reported)
        return msgspec.structs.replace(
            node, floor_index=reported.index, floor_value=reported.value, floor_reset_at=reset_at
        )

    async def _audit_reset(self, node: NodeRow, reported: NvCounter) -> None:
        await self.audit.write(
            str(NodeSpiffeId(self.statement_stream.trust_domain, node.tenant, node.id)),
            "node.floor_reset",
            node.id,
            node.tenant,
            index=f"{reported.index:#010x}",
            value=reported.value,
            index_before=f"{node.floor_index:#010x}",
            value_before=node.floor_value,
        )

    async def refreshed(self, node: NodeRow, generation: GenerationRow, token: str, now: datetime) -> GenerationRow:
        """Return the confirmed generation with a statement that is not due. Signs and stores one only if needed.

        `token` is the statement that the node presents, empty if it has none. A node that waits after a restore of the
        cloud keeps the stored statement. A revocation that it presents closes the generation.
        """
        node, generation = await self.presented.settle(node, generation, token)
        if is_closed(node, generation) or self.presented.waits(node):
            return generation
        presented = self.statement_stream.presented_seq(token, node, generation)
        if not self._needs_signing(node, generation, presented, now):
            return generation
        with fault_point("fabric.statement.refresh"):
            async with self.transaction(node_key(node.id)):
                fresh = await self.nodes.find(node.id)
                current = await self.nodes.find_generation(node.id, generation.number)
                if fresh is None or current is None or is_closed(fresh, current):
                    return current or generation
                if self.presented.waits(fresh) or not self._needs_signing(fresh, current, presented, now):
                    return current
                signed, current = await self.statement_stream.write_current(fresh, current, now, presented)
                await self.nodes.update(signed, "changed", since=fresh)
        return current

    def _needs_signing(self, node: NodeRow, generation: GenerationRow, presented: int, now: datetime) -> bool:
        """Whether a refresh signs a new statement. `presented` is the `seq` that the node presents, 0 for none."""
        due = needs_signing(generation, presented, node.seq, now, self.current_trust.order)
        return due or self.statement_stream.is_outdated(node, generation)

    async def events(self, peer: NodePeer, known: int, seconds: float) -> Events:
        """The node's wake cursor, returned as soon as it differs from `known`, at the latest after `seconds`.

        Raises NodeUnknown, Conflict, TooOften.
        """
        node, generation = await load(self.nodes, peer.tenant, peer.node, peer.generation)
        if generation.state == "offered":
            raise Conflict("this generation is not confirmed yet")
        await self.silences.heard(node, generation)

        async def cursor() -> int:
            return await self.nodes.cursor(peer.node) or 0

        return Events(await self.wake_room.wait(NodeId(peer.node), known, seconds, cursor))

    async def closed_answer(self, peer: NodePeer) -> ClosedAnswer:
        """The signed revocation of a closed generation, for the guard.

        It has no freshness, because the request carried no nonce. A revocation is final, so it needs none.
        """
        node = await self.nodes.find(NodeId(peer.node))
        generation = await self.nodes.find_generation(peer.node, peer.generation)
        if node is None or generation is None:
            return ClosedAnswer()
        self.seen.note_closed(node, generation, self.now())
        await self.replaced.asked(node, generation, store_seen=self.seen.store)
        return ClosedAnswer(statement=generation.statement)
