"""Use case: store the values that sessions reported, and the asks of superseded generations, up to a hundred in one transaction.

A crash loses values of the last seconds. The next session of the node reports them again.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

import msgspec

from cloud.fabric.attestation.pcr_quotes import PcrReport, changed
from cloud.fabric.licensing.known_holders import SessionJudgement
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.nodes.clones import ORDINARY, Clones, Kept, Presented, text_of
from cloud.fabric.service.nodes.revocation_delivery import RevocationDelivery, is_superseded
from cloud.fabric.service.ports import Transaction
from cloud.fabric.store.keys import REPORTS, REPORTS_PATIENCE_SECONDS, REPORTS_ROWS_MAX, node_key, parts_of
from cloud.fabric.store.nodes import NodeStore, Seen
from cloud.fabric.store.rows import GenerationRow, NodeRow
from protocol.faults import fault_point
from protocol.ids import NodeId, NodeSpiffeId, TenantId

V = TypeVar("V")


class _ModeReport(msgspec.Struct, frozen=True):
    """The mode that a node's session reported, and the generation whose session it was."""

    tenant: TenantId
    generation: int
    development: bool


class _Ask(msgspec.Struct, frozen=True):
    """The last ask of a superseded generation, with the rows as they were then."""

    node: NodeRow
    generation: GenerationRow
    at: datetime


class _Pcrs(msgspec.Struct, frozen=True):
    """The result of a PCR quote, with the rows as they were then."""

    node: NodeRow
    generation: GenerationRow
    report: PcrReport
    at: datetime


class _Session(msgspec.Struct, frozen=True):
    """The values of the last session of a generation, and the session to judge again if the holders have changed."""

    seen: Seen
    presented: Presented


class SeenSessions:
    """The values that the last session of each generation reported, until they are stored."""

    def __init__(
        self,
        *,
        trust_domain: str,
        transaction: Transaction,
        audit: AuditLog,
        nodes: NodeStore,
        delivery: RevocationDelivery,
        clones: Clones,
    ) -> None:
        self._trust_domain = trust_domain
        self._transaction = transaction
        self._audit = audit
        self._nodes = nodes
        self._delivery = delivery
        self._clones = clones
        self._seen: dict[str, _Session] = {}
        self._overtaken: list[Presented] = []
        self._modes: dict[str, _ModeReport] = {}
        self._asks: dict[str, _Ask] = {}
        self._pcrs: dict[str, _Pcrs] = {}

    def __len__(self) -> int:
        """The number of generations whose session is not stored yet."""
        return len(self._seen)

    def note(self, presented: Presented, seen: Seen, judgement: SessionJudgement, kept: Kept | None) -> None:
        """Keep the values of a session for the next `store`.

        `kept` are the holders that the judgement began with, if they were not those of the row.
        """
        row = presented.generation
        if judgement.outcome in ORDINARY and judgement.outcome != "late":
            version = kept.version if kept is not None else row.holders_version
            seen = msgspec.structs.replace(seen, holders=text_of(judgement.holders), holders_version=version)
        elif kept is not None:
            seen = msgspec.structs.replace(seen, holders=kept.holders, holders_version=kept.version)
        self._seen[row.id] = _Session(seen, presented)

    def kept(self, generation: str) -> Kept | None:
        """The holders after the last session of a generation, if they are not stored yet."""
        session = self._seen.get(generation)
        if session is None or not session.seen.holders:
            return None
        return Kept(session.seen.holders, session.seen.holders_version)

    def take_holders(self, generation: str) -> Kept | None:
        """As `kept`; the caller stores these holders, so the next `store` does not."""
        kept = self.kept(generation)
        if kept is not None:
            session = self._seen[generation]
            seen = msgspec.structs.replace(session.seen, holders="", holders_version=0)
            self._seen[generation] = msgspec.structs.replace(session, seen=seen)
        return kept

    def note_mode(self, node: NodeRow, generation: int, *, development: bool) -> None:
        """Keep the mode that a session of the node reported, if it can differ from the stored mode.

        `node` is the row as the session read it. A report that waits to be stored may be newer than the row.
        """
        if node.id in self._modes or development != node.development:
            self._modes[node.id] = _ModeReport(node.tenant, generation, development)

    def note_pcrs(self, node: NodeRow, generation: GenerationRow, report: PcrReport, at: datetime) -> None:
        """Keep the result of a PCR quote, if it can differ from the stored result. The values of a fault stay."""
        same = report.fault == generation.pcr_fault and report.values in ((), generation.pcr_values)
        if not same or generation.id in self._pcrs:
            self._pcrs[generation.id] = _Pcrs(node, generation, report, at)

    def note_closed(self, node: NodeRow, generation: GenerationRow, at: datetime) -> None:
        """Keep that a closed generation asked, if a later generation superseded it. The last ask counts."""
        if is_superseded(node, generation):
            self._asks[generation.id] = _Ask(node, generation, at)

    async def record_closed(self, node: NodeRow, generation: GenerationRow, at: datetime) -> None:
        """Record that a closed generation asked and gets its revocation. The first time is stored at once."""
        if generation.told_at is not None:
            self.note_closed(node, generation, at)
            return
        with fault_point("fabric.revocation.tell"):
            async with self._transaction(node_key(node.id)):
                await self._delivery.write(node, generation, at)

    async def store(self) -> None:
        """Store all kept values.

        A node whose mode changed gets the audit entry `node.mode_changed`. A node whose PCR values changed, or whose
        quote failed in another way, gets `node.pcrs_changed`.
        """
        await self._store_all(self._seen, self._store_seen)
        await self._store_all(self._modes, self._store_mode)
        await self._store_all(self._pcrs, self._store_pcrs)
        await self._store_all(self._asks, self._store_ask)
        while self._overtaken:
            # The session was answered already. What it shows about the holders still counts.
            presented = self._overtaken.pop(0)
            try:
                await self._clones.record(presented)
            except BaseException:
                self._overtaken.append(presented)  # the next pass judges it again, after the others
                raise

    async def _store_all(self, kept: dict[str, V], store: Callable[[str, V], Awaitable[None]]) -> None:
        """Store kept values of one kind, and forget each that is stored and that no later one has replaced."""
        for part in parts_of(kept, REPORTS_ROWS_MAX):
            with fault_point("fabric.session.seen"):
                async with self._transaction(REPORTS, patience=REPORTS_PATIENCE_SECONDS):
                    for key, value in part.items():
                        await store(key, value)
            for key, value in part.items():
                if kept.get(key) is value:
                    del kept[key]

    async def _store_seen(self, key: str, session: _Session) -> None:
        if not await self._nodes.set_seen(key, session.seen):
            await self._nodes.set_seen(key, msgspec.structs.replace(session.seen, holders=""))
            self._overtaken.append(session.presented)

    async def _store_ask(self, _generation: str, ask: _Ask) -> None:
        await self._delivery.write(ask.node, ask.generation, ask.at)

    async def _store_mode(self, key: str, report: _ModeReport) -> None:
        node = NodeId(key)
        if await self._nodes.set_development(node, report.development):
            await self._audit.write(
                str(NodeSpiffeId(self._trust_domain, report.tenant, node)),
                "node.mode_changed",
                node,
                report.tenant,
                generation=report.generation,
                mode="development" if report.development else "production",
            )

    async def _store_pcrs(self, key: str, kept: _Pcrs) -> None:
        node, values = kept.node, kept.report.values or kept.generation.pcr_values
        if not await self._nodes.set_pcrs(key, values, kept.report.fault, kept.at):
            return
        numbers = changed(kept.generation.pcr_accepted, values)
        await self._audit.write(
            str(NodeSpiffeId(self._trust_domain, node.tenant, node.id)),
            "node.pcrs_changed",
            node.id,
            node.tenant,
            generation=kept.generation.number,
            changed=",".join(map(str, numbers)),
            fault=kept.report.fault,
        )
