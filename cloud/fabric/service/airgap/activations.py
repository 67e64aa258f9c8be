"""Use case: a machine without a network activates in one round. Proof, certificate and confirm follow one another.

Over a network the chip answers a challenge before it becomes a node. Here the proof comes at the end: the attestation key
certifies the node key over the digest of the request, and the answer is sealed to the endorsement key and this attestation
key. A machine with another chip cannot open the answer, so a thief of both files has no device certificate and no lease.
The seat is taken when the operator answers. It stays taken without a receipt, until an operator releases the node.

The rules of admission are those of an activation over the network: code, tier, seats, approval, readmission, limits. If a
person must approve, the same file is answered again after the approval. A crash between two steps leaves an activation
that a repeat of the file continues, or that lapses.
"""

from dataclasses import dataclass

import msgspec

from cloud.fabric.attestation.evidence import NodeKey
from cloud.fabric.entropy import Entropy
from cloud.fabric.errors import AirgapInvalid, AirgapOutdated, CodeRefused, RecoveryCodeRefused
from cloud.fabric.service.activations.starts import ActivationStarts, Claim, Right
from cloud.fabric.service.activations.with_tpm import Activations, ChipProof
from cloud.fabric.service.airgap.contacts import Contacts
from cloud.fabric.service.airgap.exchanges import Content, Exchanges, Seal
from cloud.fabric.service.airgap.requests import as_claims
from cloud.fabric.service.audit_log import operator_actor
from cloud.fabric.service.nodes.chip_challenge import CheckedChip, ChipChallenges
from cloud.fabric.service.nodes.confirm import Confirmations, Confirming
from cloud.fabric.service.nodes.known import load
from cloud.fabric.service.nodes.statement import Statements
from cloud.fabric.service.nodes.statement_stream import is_closed
from cloud.fabric.service.ports import Now
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import ActivationRow, NodeRow
from cloud.fabric.store.tenants import TenantStore
from cloud.http.guard import Operator
from protocol.airgap.code_proof import CodeProofInvalid, open_code_proof
from protocol.airgap.request import OpenedRequest
from protocol.airgap.sealing import SECRET_BYTES
from protocol.encoding import sha256_hex
from protocol.evidence import EndorsementEvidence, KeyEvidence
from protocol.messages.activation import Activated, AwaitedApproval

ENDED = frozenset({"failed", "expired", "lifted", "lapsing", "lapsed"})
"""States after which the same request starts another activation."""


@dataclass(frozen=True, kw_only=True)
class FileActivations:
    """Activates machines without a network."""

    now: Now
    entropy: Entropy
    activations: ActivationStore
    nodes: NodeStore
    tenants: TenantStore
    exchanges: Exchanges
    contacts: Contacts
    chip_challenges: ChipChallenges
    starts: ActivationStarts
    with_tpm: Activations
    confirmations: Confirmations
    statements: Statements

    async def content(
        self, operator: Operator, opened: OpenedRequest, trust: dict[str, str]
    ) -> Content | AwaitedApproval:
        """Activate the machine, or make it wait for an approval. Returns what the answer is made of.

        1 the code is known, or the node of a recovery is named; 2 the tenant admits the chip of the evidence; 3 the attestation key of the evidence certifies
        the node key over this request, and the CSR is by that key; 4 the node has made no later contact; 5 the
        machine is admitted as over the network (`Admissions`), with a certificate for its new generation; 6 the
        generation is confirmed. Steps 5 and 6 are repeated without an effect.
        Raises CodeRefused, CodeExpired, CodeRevoked, EvidenceNotAccepted, TierNotAllowed, CsrRefused, AirgapInvalid,
        AirgapOutdated, and as `Admissions.admit` and `Confirmations.commit`.
        """
        evidence, key = _evidence(opened)
        row = await self.activations.find_by_proof(opened.sha256_hex)
        right = await self._right(opened, evidence, row)
        chip = await self.chip_challenges.checked(right.tenant, evidence, self.now())
        csr = opened.request.csr
        node_key = self.chip_challenges.verified_key_in_request(evidence.ak_public, opened.certified, key, csr)
        if node_key.spki != opened.request.public_key:
            raise AirgapInvalid("the request is signed by another key than the certified one")
        known = await self.nodes.find_by_ek(chip.ek_hash) or right.node
        if known is not None:
            await self._check_latest(opened, known)
        if row is None or row.state in ENDED:
            row = await self._begun(opened, right, chip, evidence.ak_public)
        answer = await self._admitted(opened, row, node_key)
        if isinstance(answer, AwaitedApproval):
            return answer
        signs = await self._confirmed(operator, opened, answer)
        renewal = await self._first_contact(opened, answer)
        return Content(
            tenant=answer.tenant,
            node=answer.node,
            generation=answer.generation,
            trust=trust,
            signs=signs,
            chain=answer.certificate_chain,
            activation=row.id,
            seal=Seal(chip.chip, evidence.ak_public),
            salt=right.tenant.fingerprint_salt,
            renewal=renewal,
        )

    async def _right(self, opened: OpenedRequest, evidence: EndorsementEvidence, row: ActivationRow | None) -> Right:
        """The right of the request: that of an activation code, or of the node that a recovery names.

        `row` is the activation that this request proved before, if any. It has read the claim of a recovery, and may
        have used a recovery code. Raises CodeRefused, AirgapOutdated, and as `ActivationStarts.right`.
        """
        if row is not None and row.state == "superseded":
            raise AirgapOutdated("a later activation of this machine has taken the place of this request")
        claim = opened.request.recovery
        if opened.request.kind == "activate" or claim is None:
            return await self._code(opened)
        if row is None or row.state in ENDED:
            code, key = _recovery_code(opened)
            return await self.starts.claimed(claim, "", evidence.ek_public, code=code, proof_key=key)
        tenant = await self.tenants.find(row.tenant)
        if tenant is None:
            raise CodeRefused
        return Right(tenant=tenant, code=None, claimed=row.claim)

    async def _code(self, opened: OpenedRequest) -> Right:
        """The code that the request proves. An invalid proof and an unknown code get the same answer. Raises CodeRefused."""
        request = opened.request
        try:
            key = open_code_proof(request.code, request.request, request.public_key)
        except CodeProofInvalid as error:
            raise CodeRefused from error
        return await self.starts.proved_code(key)

    async def _check_latest(self, opened: OpenedRequest, node: NodeRow) -> None:
        """Check that the machine's node has neither made a later request nor contacted the cloud since.

        Otherwise an old file would close the generation with which the machine runs. Raises AirgapOutdated.
        """
        await self.exchanges.check_latest(opened, node.id)
        current = await self.nodes.find_generation(node.id, node.current_generation)
        if current is not None:
            self.contacts.check_contacts(opened, current)

    async def _begun(self, opened: OpenedRequest, right: Right, chip: CheckedChip, ak_public: bytes) -> ActivationRow:
        """Another activation for this request: the first answer begins it, and so does an answer after it has ended.

        Raises CodeExpired, CodeRevoked, TooOften, TierNotAllowed, TpmRequired.
        """
        self.starts.check_usable(right)
        claim = Claim(
            tier=chip.chip.tier,
            ek_hash=chip.ek_hash,
            ak_public=ak_public,
            # The secret of a challenge that is never sent: no other proof than this request can continue the activation.
            secret_hash=sha256_hex(self.entropy(SECRET_BYTES)),
            ek_name=chip.chip.ek_name.hex(),
            ek_issuer=chip.ek_issuer,
        )
        return await self.starts.begin(right, claim, opened.request.agent_version, "")

    async def _admitted(self, opened: OpenedRequest, row: ActivationRow, key: NodeKey) -> Activated | AwaitedApproval:
        """Step 5. Raises QuoteRefused, and as `Admissions.admit`."""
        admissions = self.with_tpm.admissions
        if row.state not in ("challenged", "approved"):
            return await admissions.answer(row, opened.sha256_hex)
        admitted = await admissions.rights.admitted(row)
        request = opened.request
        pcrs = self.with_tpm.pcr_quotes.of_activation(row, admitted, opened.file.pcr_quote, lambda: opened.certified)
        proof = ChipProof(
            spki=key.spki,
            csr=request.csr,
            fingerprint=request.fingerprint,
            held_generation=request.held_generation,
            request_sha256=opened.sha256_hex,
            pcrs=pcrs,
        )
        return await admissions.admit(row, self.with_tpm.proved_by_chip(row, admitted, proof))

    async def _confirmed(self, operator: Operator, opened: OpenedRequest, activated: Activated) -> bool:
        """Step 6. Returns whether the generation was confirmed before, so that its statement may be an old one.

        Raises Conflict, AirgapOutdated, and as `Confirmations.commit`.
        """
        node, generation = await load(self.nodes, activated.tenant, activated.node, activated.generation)
        if is_closed(node, generation):
            raise AirgapOutdated("the generation of this request was closed. Make another request")
        before = generation.state == "confirmed"
        if not before:
            await self.statements.note_lease_version(generation, opened.request.lease_version)
            confirming = Confirming(
                tenant=activated.tenant,
                node=activated.node,
                generation=activated.generation,
                presented=opened.request.presented,
                actor=operator_actor(operator),
            )
            await self.confirmations.commit(confirming)
        return before

    async def _first_contact(self, opened: OpenedRequest, activated: Activated) -> str:
        """Record the machine as the holder of its new key, and what it reports. Returns its first renewal token.

        Raises NodeUnknown, ProofRefused, IssuerUnavailable.
        """
        node, generation = await load(self.nodes, activated.tenant, activated.node, activated.generation)
        if generation.holders:
            return ""
        claims = msgspec.structs.replace(
            as_claims(opened), tenant=node.tenant, node=node.id, generation=generation.number
        )
        recorded = await self.contacts.record(
            opened, node, generation, self.contacts.arrival(opened, generation, claims)
        )
        await self.contacts.note(opened, node, recorded.generation)
        return self.contacts.clones.token(recorded.generation, recorded.judgement, opened.file.signature)


def _recovery_code(opened: OpenedRequest) -> tuple[str, str]:
    """The text of a recovery code, or the public key that proves one; each may be empty. Raises RecoveryCodeRefused.

    An agent of an earlier release shows the code as it is.
    """
    request = opened.request
    if "." not in request.code:
        return request.code, ""
    try:
        return "", open_code_proof(request.code, request.request, request.public_key)
    except CodeProofInvalid as error:
        raise RecoveryCodeRefused(str(error)) from error


def _evidence(opened: OpenedRequest) -> tuple[EndorsementEvidence, KeyEvidence]:
    """The evidence in an activation. Raises AirgapInvalid."""
    endorsement, key = opened.request.endorsement, opened.file.key
    if endorsement is None or isinstance(key, msgspec.UnsetType):
        raise AirgapInvalid("the request has no evidence of a TPM")
    return endorsement, key
