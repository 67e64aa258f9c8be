"""Use case: compare the reported fingerprints of nodes with those of their activations.

A machine without a TPM gets a session only if it matches. A machine with a TPM is known by its chip: a change is stored
and audited, and operators see it. A report that can change something waits in memory for the next `store`. A crash loses
reports of the last seconds; the next session reports again.
"""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from cloud.fabric.attestation.drift import DIGEST_CHARS, Machine, Observed, digest_of, observe
from cloud.fabric.attestation.placeholders import without_placeholders
from cloud.fabric.errors import FingerprintRefused
from cloud.fabric.licensing.session_evidence import SessionEvidence
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.nodes.clones import Clones
from cloud.fabric.service.ports import Transaction
from cloud.fabric.store.keys import node_key, tenant_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import GenerationRow, NodeRow, enrolled_of, without_tpm
from cloud.fabric.store.tenants import TenantStore
from protocol.encoding import sha256_hex
from protocol.fingerprint import judge, policy_of
from protocol.ids import NodeSpiffeId

KEPT_MAX = 4
"""Reports of one generation that wait. Two machines that take turns within seconds need three."""


class _Report(msgspec.Struct, frozen=True):
    node: NodeRow
    number: int
    node_public_key: bytes
    fingerprint: Mapping[str, str]
    at: datetime


class Fingerprints:
    """Judges and stores reported fingerprints."""

    def __init__(
        self,
        *,
        trust_domain: str,
        transaction: Transaction,
        audit: AuditLog,
        nodes: NodeStore,
        tenants: TenantStore,
        clones: Clones,
    ) -> None:
        self._trust_domain = trust_domain
        self._transaction = transaction
        self._audit = audit
        self._nodes = nodes
        self._tenants = tenants
        self._clones = clones
        self._kept: dict[str, list[_Report]] = {}

    def check(self, node: NodeRow, generation: GenerationRow, fingerprint: Mapping[str, str]) -> None:
        """Check that a machine without a TPM is the enrolled one. Raises FingerprintRefused.

        Kinds that the machine could not read count as missing. So hidden values get no session, and the lease's dates
        bound the time that they win.
        """
        if not without_tpm(node, generation):
            return
        judged = judge(policy_of(enrolled_of(node, generation)), fingerprint)
        if judged.result != "match":
            kinds = ", ".join(judged.of("changed") + judged.of("missing"))
            raise FingerprintRefused(f"{judged.reason}; not the same: {kinds}")

    def note(self, node: NodeRow, generation: GenerationRow, fingerprint: Mapping[str, str], at: datetime) -> None:
        """Keep a reported fingerprint for the next `store`, if it can change something."""
        kept = self._kept.get(generation.id, [])
        last = kept[-1].fingerprint if kept else None
        seen = generation.drift.seen if generation.drift is not None else ""
        if fingerprint == last or (last is None and digest_of(fingerprint) == seen):
            return
        reports = [*kept, _Report(node, generation.number, generation.node_public_key, fingerprint, at)]
        self._kept[generation.id] = reports[:1] + reports[1:][-(KEPT_MAX - 1) :]

    async def store(self) -> None:
        """Compare and store all kept reports, each in its node's transaction.

        A change gets the audit entry `node.fingerprint_changed`, at most once an hour for the same result. A machine that
        comes back in the place of another one raises the suspicion of a clone. After a crash between the two, the next
        return raises it.
        """
        for key in list(self._kept):
            reports = self._kept.pop(key)
            try:
                while reports:
                    await self._store(reports[0])
                    reports = reports[1:]
            finally:
                if reports:
                    self._kept[key] = [*reports, *self._kept.get(key, [])][:KEPT_MAX]

    async def _store(self, report: _Report) -> None:
        found = await self._compared(report)
        if found is not None and found.other is not None:
            key = sha256_hex(report.node_public_key)[:DIGEST_CHARS]
            await self._clones.suspect(report.node, report.number, "fingerprint", _evidence_of(found.other, key))

    async def _compared(self, report: _Report) -> Observed | None:
        node = report.node
        async with self._transaction(node_key(node.id), reads=(tenant_key(node.tenant),)):
            generation = await self._nodes.find_generation(node.id, report.number)
            tenant = await self._tenants.find(node.tenant)
            if generation is None or tenant is None:
                return None
            machines = await self._nodes.machines(node.id, report.number)
            enrolled = enrolled_of(node, generation)
            reported = without_placeholders(report.fingerprint, tenant.fingerprint_salt)
            observed = observe(enrolled, generation.drift, machines, reported, report.at)
            seen = msgspec.structs.replace(observed.drift, seen=digest_of(report.fingerprint))
            await self._nodes.set_drift(node.id, report.number, seen, observed.machines)
            if observed.audited:
                drift = observed.drift
                await self._audit.write(
                    str(NodeSpiffeId(self._trust_domain, node.tenant, node.id)),
                    "node.fingerprint_changed",
                    node.id,
                    node.tenant,
                    generation=report.number,
                    result=drift.result,
                    changed=",".join(drift.changed),
                    missing=",".join(drift.missing),
                )
        return observed


def _evidence_of(machine: Machine, key: str) -> SessionEvidence:
    """The evidence of a machine that another one has replaced. Its first time names it, also when it comes back again."""
    return SessionEvidence(
        at=machine.first_at,
        asked_at=machine.first_at,
        clock=None,
        key=key,
        fingerprint=digest_of(machine.fingerprint),
        address="",
        agent_version="",
    )
