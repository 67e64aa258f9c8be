"""Use case: recognise a machine as a known node of its tenant by key and fingerprint. A chip is recognised by its EK.

The key in force recognises the node, if the enrolled fingerprint is there as well. If only one of the two is there, the
machine is eligible for the node, and `admission` demands a person. Only nodes of the tier `software` and of the same
tenant are found, so a report reaches no node with a TPM.

A machine that gains a TPM is recognised by a code that an operator made for its node, if the enrolled fingerprint is
there as well. From the confirm on, the chip identifies the node.

In a recovery the claim names the node, and here is judged what else ties the machine to the node.
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization

from cloud.fabric.attestation.software_evidence import check_held
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from cloud.fabric.errors import EvidenceNotAccepted, RecoveryRefused, evidence_error
from cloud.fabric.service.activations.proved import Recognised
from cloud.fabric.store.enrolled import NODES_MAX, EnrolledStore
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.recovery_cases import RecoveryCaseStore
from cloud.fabric.store.rows import ActivationRow, CodeRow, NodeRow, enrolled_of
from protocol.fingerprint import judge, policy_of
from protocol.ids import NodeId
from protocol.messages.software import SoftwareProofClaims


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """Recognises machines without a TPM, and those that have gained one."""

    nodes: NodeStore
    enrolled: EnrolledStore
    cases: RecoveryCaseStore

    async def by_key(self, row: ActivationRow, claims: SoftwareProofClaims, held_proof: str) -> Recognised | None:
        """The node whose key in force signed the claims; None without such a node. `changed`: another fingerprint.

        A superseded key recognises no node, because it may be on a copied disk. Raises EvidenceNotAccepted if the
        signature is not of the key that the claims name, or if too little of the fingerprint could be read.
        """
        held = claims.held
        if held is None or not held_proof:
            return None
        node = await self.nodes.find(held.node)
        generation = await self.nodes.find_generation(held.node, held.generation)
        if node is None or generation is None or not _is_ours(node, row) or held.generation < node.current_generation:
            return None
        try:
            check_held(held_proof, serialization.load_der_public_key(generation.node_public_key), claims)
        except EvidenceRefused as error:
            raise evidence_error(error) from error
        judged = judge(policy_of(node.enrolled or generation.fingerprint), claims.fingerprint, claims.unreadable)
        if judged.result == "inconclusive":
            raise EvidenceNotAccepted(f"too little of the fingerprint could be read: {judged.reason}. Try again")
        return Recognised(node, "key" if judged.result == "match" else "changed")

    async def found_by(self, row: ActivationRow, values: tuple[str, ...]) -> frozenset[NodeId]:
        """The nodes of the activation's tenant that have enrolled one of the values of disks and boards.

        A value of NODES_MAX nodes identifies no machine and finds none.
        """
        found: set[NodeId] = set()
        for value in values:
            nodes = await self.enrolled.nodes_with(row.tenant, value)
            found.update(nodes if len(nodes) < NODES_MAX else ())
        return frozenset(found)

    async def by_fingerprint(
        self, row: ActivationRow, claims: SoftwareProofClaims, candidates: frozenset[NodeId]
    ) -> Recognised:
        """The candidate of which most of the enrolled fingerprint is there, and enough; the oldest one of several."""
        matches: list[tuple[int, NodeId, NodeRow]] = []
        for candidate in sorted(candidates):
            node = await self.nodes.find(candidate)
            if node is not None and _is_ours(node, row):
                judged = judge(policy_of(node.enrolled), claims.fingerprint, claims.unreadable)
                if judged.result == "match":
                    matches.append((-judged.matched_weight, node.id, node))
        best = min(matches, default=None, key=lambda each: each[:2])
        return Recognised(best[2], "fingerprint") if best is not None else Recognised(None, "")

    async def by_chip(self, row: ActivationRow, code: CodeRow | None, fingerprint: dict[str, str]) -> Recognised:
        """The node of a machine with a TPM: that of its chip; else as `by_code`.

        The chip of a machine that a recovery replaced is known too. It may be a stranger's by now, so a person decides.
        """
        node = await self.nodes.find_by_ek(row.ek_hash)
        if node is not None and node.tier != "software":
            return Recognised(node, "chip")
        case = await self.cases.replaced(row.ek_hash)
        replaced = await self.nodes.find(case.node) if case is not None else None
        if replaced is not None and replaced.tenant == row.tenant:
            return Recognised(replaced, "replaced")
        if node is not None:
            return Recognised(node, "chip")
        return await self.by_code(row, code, fingerprint) if code is not None else Recognised(None, "")

    async def by_claim(
        self,
        row: ActivationRow,
        node: NodeRow | None,
        fingerprint: dict[str, str],
        unreadable: tuple[str, ...] = (),
        by_key: Recognised | None = None,
    ) -> Recognised:
        """By what a machine that asks for `node` in a recovery is recognised.

        `by_key` is the result of `by_key` for a machine without a TPM. Raises RecoveryRefused if the machine's TPM is that
        of another node.
        """
        if node is None:
            return Recognised(None, "")
        if by_key is not None and by_key.node is not None and by_key.node.id == node.id:
            return by_key
        if row.tier != "software":
            owner = await self.nodes.find_by_ek(row.ek_hash)
            if owner is not None and owner.id != node.id:
                raise RecoveryRefused(f"the TPM of this machine is that of the node {owner.id}")
            if owner is not None and node.tier != "software":
                return Recognised(node, "chip")
            case = await self.cases.replaced(row.ek_hash)
            if case is not None and case.node == node.id:
                return Recognised(node, "replaced")
        generation = await self.nodes.find_generation(node.id, node.current_generation)
        enrolled = enrolled_of(node, generation) if generation is not None else node.enrolled
        matches = judge(policy_of(enrolled), fingerprint, unreadable).result == "match"
        return Recognised(node, "fingerprint" if matches else "claim")

    async def by_code(self, row: ActivationRow, code: CodeRow, fingerprint: dict[str, str]) -> Recognised:
        """The software node that the code was made for, if `fingerprint` matches the enrolled one; else no node."""
        node = await self.nodes.find(code.readmit_node) if code.readmit_node is not None else None
        if node is None or not _is_ours(node, row) or judge(policy_of(node.enrolled), fingerprint).result != "match":
            return Recognised(None, "")
        return Recognised(node, "fingerprint")


def _is_ours(node: NodeRow, row: ActivationRow) -> bool:
    return node.tenant == row.tenant and node.tier == "software"
