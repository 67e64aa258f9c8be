"""Use case: a node without a TPM renews its device certificate, after its expiry or for another key.

The key in force proves the node, over a nonce of this Fabric. The fingerprint must match the enrolled one, so a copied
state directory renews nothing on another machine. The rules are those of `renewal`: every mismatch gets the same answer
before the proof, and no generation is opened. A former key proves a machine that was put back, or a copy. Software keys
can be copied, so a rekey may have been made to shut one out: no such machine is repaired without an operator.
"""

from dataclasses import dataclass, field
from functools import partial

import msgspec
from cryptography.hazmat.primitives import serialization

from cloud.fabric import nonce
from cloud.fabric.attestation.software_evidence import requested_key
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from cloud.fabric.entropy import new_id
from cloud.fabric.errors import Conflict, HolderRefused, ProofRefused, TooManyChallenges, evidence_error
from cloud.fabric.licensing import statements
from cloud.fabric.licensing.former_keys import known
from cloud.fabric.service.audit_log import ANONYMOUS
from cloud.fabric.service.input_checks import check_fingerprint, check_nonce_form
from cloud.fabric.service.nodes.clones import fingerprint_digest
from cloud.fabric.service.nodes.device_certificate import Device
from cloud.fabric.service.nodes.fingerprints import Fingerprints
from cloud.fabric.service.nodes.known import load
from cloud.fabric.service.nodes.statement_stream import is_closed
from cloud.fabric.service.renewals.renewal import PROVED_PER_DAY_MAX, Claim, Renewals, unknown_machine
from cloud.fabric.service.renewals.returned_keys import Shown
from cloud.fabric.store.rows import GenerationRow, NodeRow, RenewalRow
from cloud.tasks.source import source_of
from protocol.encoding import sha256_hex
from protocol.ids import RenewalId
from protocol.limits import CHALLENGE_LIFE
from protocol.messages.renewal import Renewed
from protocol.messages.software import (
    PATH_SOFTWARE_RENEWALS,
    RenewSoftware,
    SoftwareProofError,
    SoftwareRenewalClaims,
    open_software_renewal,
)


@dataclass(frozen=True, kw_only=True)
class SoftwareRenewals:
    """Renews device certificates of nodes without a TPM. `public_url` is the URL of this Fabric."""

    public_url: str
    nonce_key: bytes = field(repr=False)
    renewals: Renewals
    fingerprints: Fingerprints

    async def renew(self, body: RenewSoftware, host: str = "") -> Renewed:
        """Check the proof and issue the certificate. A repeat with the same proof gets the stored answer.

        1 the certificate can be read and names a confirmed generation of a software node; 2 the limits of
        `RenewalStarts` are not reached; 3 the key in force signed the proof, or the former key in the certificate; 4 the proof names this node, URL and
        request, and a nonce that this Fabric made a short time ago; 5 the fingerprint matches; 6 the request has a
        proof of possession; 7 the certificate is due, or the key is another one; 8 the generation is open, and the
        limit for a day is not reached. Raises CertificateRefused, TooOften, ProofRefused, Invalid, FingerprintRefused,
        CsrRefused, Conflict, GenerationClosed, TooManyChallenges, HolderRefused, ActivationClosed, IssuerUnavailable.
        """
        renewals = self.renewals
        now = renewals.now()
        claim = renewals.claim(body.device_certificate, now)
        spiffe = claim.device.spiffe
        renewals.starts.count(spiffe.tenant, spiffe.node, source_of(host), now, proven=claim.proven)
        node, generation = await self._known(claim.device)
        proof_hash = sha256_hex(body.proof.encode())
        # The proof of a stored renewal was checked. After a rekey the key that signed it is no longer in force.
        row = await renewals.renewals.find_proved(node.id, proof_hash)
        if row is None:
            claims = self._checked(body, claim.device, generation)
            self.fingerprints.check(node, generation, claims.fingerprint)
            try:
                spki = requested_key(body.csr)
            except EvidenceRefused as error:
                raise evidence_error(error) from error
            if spki == generation.node_public_key and not claim.due:
                raise Conflict("the device certificate is not due. Renew it over a session")
            shown = Shown(
                key=sha256_hex(spki),
                presented=body.presented or "",
                answer_nonce=claims.answer_nonce,
                address=source_of(host),
                fingerprint=fingerprint_digest(claims.fingerprint),
                by_chip=False,
            )
            reserve = partial(self._reserve, claim, body, spki, proof_hash, shown)
            row = await renewals.store_proof(node.id, node.tenant, reserve)
            answer_nonce = claims.answer_nonce
        else:
            answer_nonce = ""
        return await renewals.answer(row, answer_nonce)

    async def _known(self, device: Device) -> tuple[NodeRow, GenerationRow]:
        """Step 1. Every mismatch gets the same answer. Raises CertificateRefused."""
        spiffe, nodes = device.spiffe, self.renewals.nodes
        node, generation = await load(nodes, spiffe.tenant, spiffe.node, device.generation, unknown_machine)
        if node.tier != "software" or generation.confirmed_at is None:
            raise unknown_machine()
        return node, generation

    def _checked(self, body: RenewSoftware, device: Device, generation: GenerationRow) -> SoftwareRenewalClaims:
        """Steps 3 and 4. Raises CertificateRefused, ProofRefused, Invalid."""
        held = known(generation.former_keys, generation.node_public_key, device.spki)
        key = device.spki if held else generation.node_public_key
        try:
            claims = open_software_renewal(body.proof, serialization.load_der_public_key(key))
        except SoftwareProofError as error:
            raise unknown_machine() from error
        named = (claims.tenant, claims.node, claims.generation)
        if named != (device.spiffe.tenant, device.spiffe.node, device.generation):
            raise ProofRefused("the proof is for another node or generation")
        if claims.url != self.public_url + PATH_SOFTWARE_RENEWALS:
            raise ProofRefused("the proof is for another request")
        if claims.csr_sha256 != sha256_hex(body.csr):
            raise ProofRefused("the proof is for another certificate request")
        try:
            nonce.check_nonce(self.nonce_key, claims.nonce, self.renewals.now())
        except nonce.NonceError as error:
            raise ProofRefused(str(error)) from error
        check_nonce_form(claims.answer_nonce)
        check_fingerprint(claims.fingerprint)
        return claims

    async def _reserve(
        self, claim: Claim, body: RenewSoftware, spki: bytes, proof_hash: str, shown: Shown
    ) -> RenewalRow | HolderRefused:
        """Store the proof, unless another request has stored the same one. Called in the transaction.

        Returns the row, or the refusal of a copy.
        """
        device = claim.device
        renewals, now = self.renewals, self.renewals.now()
        stored = await renewals.renewals.find_proved(device.spiffe.node, proof_hash)
        if stored is not None:
            return stored
        node, generation = await self._known(device)
        if is_closed(node, generation):
            raise renewals.statement_stream.closed(generation, shown.answer_nonce, now)
        row = RenewalRow(
            id=RenewalId(new_id("ren", now, renewals.entropy)),
            node=node.id,
            tenant=node.tenant,
            generation=generation.number,
            state="proved",
            tries=0,
            secret_hash="",
            expired=claim.due,
            created_at=now,
            expires_at=now + CHALLENGE_LIFE,
            proof_hash=proof_hash,
            csr=body.csr,
            node_public_key=spki,
            not_after=statements.device_not_after(statements.terms_of(node.tier, node.lease), now),
            certificate_chain=(),
            held_key=known(generation.former_keys, generation.node_public_key, device.spki),
        )
        refused, returned = await renewals.returns.judge(node, generation, row, shown)
        if refused is not None:
            return refused
        if not returned and await renewals.proved_today(node.id, now) >= PROVED_PER_DAY_MAX:
            raise TooManyChallenges("this machine has used up its renewals of the last 24 hours")
        row = msgspec.structs.replace(row, returned=returned)
        await renewals.renewals.insert(row)
        await renewals.audit.write(
            ANONYMOUS,
            "renewal.proved",
            node.id,
            node.tenant,
            renewal=row.id,
            generation=row.generation,
            key="same" if spki == generation.node_public_key else "changed",
        )
        return row
