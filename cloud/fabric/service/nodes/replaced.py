"""Use case: the machine that a recovery replaced asks again. A clone of the node is then suspected.

Two machines then claim to be one node: the recovered machine, and the machine of the closed generation. The flag shows
the evidence of both, once for each recovery. An operator settles it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cloud.fabric.licensing.session_evidence import SessionEvidence
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.nodes.clones import DIGEST_CHARS, Clones
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.keys import node_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.recovery_cases import RecoveryCaseStore
from cloud.fabric.store.rows import ActivationRow, GenerationRow, NodeRow, RecoveryCaseRow
from protocol.encoding import json_encode, sha256_hex
from protocol.ids import NodeId, NodeSpiffeId


@dataclass(frozen=True, kw_only=True)
class ReplacedMachines:
    """Raises the suspicion when a replaced machine returns."""

    trust_domain: str
    now: Now
    transaction: Transaction
    audit: AuditLog
    nodes: NodeStore
    cases: RecoveryCaseStore
    clones: Clones

    async def asked(
        self,
        node: NodeRow,
        generation: GenerationRow,
        evidence: SessionEvidence | None = None,
        *,
        store_seen: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """A closed generation asked. `evidence` is that of its session proof, None for a request over a session.

        `store_seen` stores the sessions that this process keeps. An old machine that is online when the new one confirms
        asks at once and never again, and the new machine's first session is not stored yet.
        """
        if generation.number >= node.current_generation:
            return
        case = await self.cases.replacing(node.id, generation.number)
        if case is None or case.returned_at is not None:
            return
        said = evidence or self._stored(generation)
        if not await self._raise(node, case, said) and store_seen is not None:
            await store_seen()
            await self._raise(node, case, said)

    async def remembered(self, node: NodeRow) -> None:
        """The machine in force opens a session. A replaced machine may have asked at another replica before.

        The other replica did not know the first session of the machine in force, if this one had not stored it yet.
        """
        if node.superseded_asked_at is None:
            return
        number = node.superseded_asked_generation
        case = await self.cases.replacing(node.id, number)
        generation = await self.nodes.find_generation(node.id, number)
        if case is not None and case.returned_at is None and generation is not None:
            await self._raise(node, case, self._stored(generation))

    async def activated(self, row: ActivationRow) -> None:
        """A machine with a replaced chip has proved an activation with a code."""
        case = await self.cases.replaced(row.ek_hash)
        node = await self.nodes.find(NodeId(case.node)) if case is not None else None
        if case is None or node is None or case.returned_at is not None:
            return
        evidence = SessionEvidence(
            at=self.now(),
            asked_at=row.created_at,
            clock=None,
            key=sha256_hex(row.csr)[:DIGEST_CHARS],
            fingerprint=_digest(row.fingerprint),
            address=row.address,
            agent_version=row.agent_version,
        )
        await self._raise(node, case, evidence)

    async def _raise(self, node: NodeRow, case: RecoveryCaseRow, evidence: SessionEvidence) -> bool:
        """Raise the flag, then store that the machine has returned. A crash in between repeats the flag.

        Returns False if no session of the new machine is stored.
        """
        if not await self.clones.suspect(node, node.current_generation, "replaced", evidence):
            return False
        async with self.transaction(node_key(node.id)):
            if await self.cases.set_returned(case.id, self.now()):
                await self.audit.write(
                    str(NodeSpiffeId(self.trust_domain, node.tenant, node.id)),
                    "recovery.old_machine_returned",
                    case.id,
                    node.tenant,
                    node=node.id,
                    old_generation=case.old_generation,
                    generation=node.current_generation,
                    overlap_until=case.overlap_until,
                    address=evidence.address,
                )
        return True

    def _stored(self, generation: GenerationRow) -> SessionEvidence:
        """The evidence of a machine that asked over a session: what its last session proof said."""
        now = self.now()
        return SessionEvidence(
            at=now,
            asked_at=now,
            clock=None,
            key=sha256_hex(generation.node_public_key)[:DIGEST_CHARS],
            fingerprint=_digest(generation.seen_fingerprint or generation.fingerprint),
            address="",
            agent_version=generation.agent_version,
        )


def _digest(fingerprint: dict[str, str]) -> str:
    return sha256_hex(json_encode(sorted(fingerprint.items())))[:DIGEST_CHARS]
