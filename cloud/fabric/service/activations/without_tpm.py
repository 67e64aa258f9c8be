"""Use case: a machine without a TPM activates (tier `software`; `protocol.messages.software`).

The machine proves that it has its node key. Everything else is its own report, so the tier has the shortest dates, needs
the tenant's policy, and a person where the report alone says which node it is (`recognition`, `admission`).
"""

import hashlib
from dataclasses import dataclass

import msgspec

from cloud.fabric.attestation.placeholders import without_placeholders
from cloud.fabric.attestation.software_evidence import anchor_values, check_claims, read_node_key, read_proof
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from cloud.fabric.entropy import Entropy
from cloud.fabric.errors import ActivationClosed, CodeRefused, Invalid, NotFound, evidence_error
from cloud.fabric.service.activations.admission import Admissions
from cloud.fabric.service.activations.proved import Proved, Recognised
from cloud.fabric.service.activations.recognition import Recognition
from cloud.fabric.service.activations.starts import ActivationStarts, Claim
from cloud.fabric.service.input_checks import check_fingerprint, check_held_generation, check_text
from cloud.fabric.service.nodes.chip_challenge import ChipChallenges, is_proved_by
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.keys import machines_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import ActivationRow
from cloud.fabric.store.tenants import TenantStore
from protocol.encoding import b64url_encode, sha256_hex
from protocol.fingerprint import WEIGHTS
from protocol.ids import ActivationId, NodeId
from protocol.limits import CHALLENGE_TRIES_MAX
from protocol.messages.activation import Activated, AwaitedApproval
from protocol.messages.software import (
    ProveSoftwareActivation,
    SoftwareChallenge,
    SoftwareProofClaims,
    StartSoftwareActivation,
)

NONCE_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class SoftwareActivations:
    """Runs the activation exchange of machines without a TPM, up to the device certificate."""

    entropy: Entropy
    activations: ActivationStore
    nodes: NodeStore
    tenants: TenantStore
    chip_challenges: ChipChallenges
    starts: ActivationStarts
    recognition: Recognition
    admissions: Admissions

    async def start(self, body: StartSoftwareActivation, host: str = "") -> SoftwareChallenge:
        """Check the code or the claim, and the key, and make a nonce. `host` is the caller's address.

        Raises Invalid, CodeRefused, CodeExpired, CodeRevoked, RecoveryRefused, RecoveryCodeRefused, TooOften,
        EvidenceNotAccepted, TierNotAllowed, TpmRequired.
        """
        check_text("agent_version", body.agent_version)
        right = await self.starts.right(body.code, body.recovery, host, body.public_key)
        try:
            _, spki = read_node_key(body.public_key)
        except EvidenceRefused as error:
            raise evidence_error(error) from error
        nonce = b64url_encode(self.entropy(NONCE_BYTES))
        tenant = right.tenant
        claim = Claim(
            tier="software",
            ek_hash=self.chip_challenges.ek_hash(tenant.id, b"software\n" + hashlib.sha256(spki).digest()),
            ak_public=spki,
            secret_hash=sha256_hex(nonce.encode()),
        )
        row = await self.starts.begin(right, claim, body.agent_version, host)
        return SoftwareChallenge(row.id, nonce, tenant.fingerprint_salt, row.expires_at, CHALLENGE_TRIES_MAX)

    async def prove(
        self, activation: ActivationId, body: ProveSoftwareActivation, body_sha256: str
    ) -> Activated | AwaitedApproval:
        """Check the proof, and admit the machine. A person may have to approve first.

        `body_sha256` is the hash of the request's body. A repeat with the same bytes continues an unfinished
        activation, or gets the stored answer. Raises NotFound, Invalid, ChallengeExpired, ChallengeFailed,
        EvidenceNotAccepted, ActivationClosed, and as `Admissions.admit`.
        """
        row = await self.activations.find(activation)
        if row is None or row.tier != "software":
            raise NotFound("no such activation")
        continues = row.state == "approved" and is_proved_by(row, body_sha256)
        if row.state != "challenged" and not continues:
            return await self.admissions.answer(row, body_sha256)
        try:
            key, spki = read_node_key(row.ak_public)
            claims = read_proof(body.proof, key, row.id)
            if row.state == "challenged":
                _check_form(claims)
                await self.starts.check_answer(row, claims.nonce.encode())
            tenant = await self.tenants.find(row.tenant)
            if tenant is None:
                raise CodeRefused
            check_claims(claims, body.csr, spki, tenant.fingerprint_salt)
        except EvidenceRefused as error:
            raise evidence_error(error) from error
        proved = self._proved(row, body, claims, tenant.fingerprint_salt)
        return await self.admissions.admit(row, msgspec.structs.replace(proved, body_sha256=body_sha256))

    def _proved(
        self, row: ActivationRow, body: ProveSoftwareActivation, claims: SoftwareProofClaims, salt: bytes
    ) -> Proved:
        """The checked proof, with an empty hash of the body. `salt` is the tenant's fingerprint salt."""
        values = anchor_values(claims.fingerprint, salt)
        found_before: list[frozenset[NodeId]] = []

        async def recognise() -> Recognised:
            if row.claim is not None:
                known = await self.recognition.by_key(row, claims, body.held_proof)
                node = await self.admissions.rights.node_of(row)
                return await self.recognition.by_claim(row, node, claims.fingerprint, claims.unreadable, known)
            found_before[:] = [await self.recognition.found_by(row, values)]
            if row.state == "approved":  # a person has decided which node the machine is
                return Recognised(await self.nodes.find(NodeId(row.candidate)), row.matched)
            known = await self.recognition.by_key(row, claims, body.held_proof)
            return known or await self.recognition.by_fingerprint(row, claims, found_before[0])

        async def again(before: Recognised) -> Recognised | None:
            searched = row.claim is None and row.state != "approved" and before.matched not in ("key", "changed")
            if searched and await self.recognition.found_by(row, values) != found_before[0]:
                return None
            if before.node is None:
                if await self.nodes.find_by_ek(row.ek_hash) is not None:
                    raise ActivationClosed("this key is that of a node already. Start again with a new key")
                return before
            node = await self.nodes.find(before.node.id)
            return None if node is None else Recognised(node, before.matched)

        return Proved(
            spki=row.ak_public,
            csr=body.csr,
            fingerprint=without_placeholders(claims.fingerprint, salt),
            held_generation=claims.held.generation if claims.held is not None else 0,
            body_sha256="",
            key=machines_key(row.tenant),
            recognise=recognise,
            again=again,
            enrolled=values,
            unreadable=claims.unreadable,
        )


def _check_form(claims: SoftwareProofClaims) -> None:
    """Check the sizes of the claims. Raises Invalid."""
    check_fingerprint(claims.fingerprint)
    if not set(claims.unreadable) <= set(WEIGHTS):
        raise Invalid(f"unreadable: kinds of {', '.join(WEIGHTS)}")
    if claims.held is not None:
        check_held_generation(claims.held.generation)
