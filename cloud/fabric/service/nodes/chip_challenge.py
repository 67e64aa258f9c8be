"""Use case: make a challenge that only one chip can answer, and check the answer. For activation and renewal.

The caller stores the hash of the secret, and counts wrong answers, because too many end the caller's exchange.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
from cryptography import x509

from cloud.fabric.attestation.ek_roots import trusted_roots
from cloud.fabric.attestation.ek_trust import Chip, TenantTrust, identifiers_of
from cloud.fabric.attestation.evidence import SECRET_BYTES, NodeKey
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from cloud.fabric.attestation.verifier import Verifier
from cloud.fabric.entropy import Entropy
from cloud.fabric.errors import ChallengeExpired, ChallengeFailed, CsrRefused, evidence_error
from cloud.fabric.store.rows import ActivationRow, RenewalRow, TenantRow
from cloud.fabric.store.tenants import TenantStore
from protocol.encoding import sha256_hex
from protocol.endorsement import name_of
from protocol.evidence import EndorsementEvidence, KeyEvidence
from protocol.ids import TenantId
from protocol.limits import CHALLENGE_TRIES_MAX, EK_CERTIFICATE_BYTES_MAX, OTHER_ENDORSEMENTS_MAX
from protocol.maker_certificates import CertificateUnreadable, printable, read_certificate
from protocol.signed.statements import Tier

Exchange = ActivationRow | RenewalRow
ISSUER_CHARS_MAX = 200
"""Longest issuer that is stored. The caller chooses its text."""


class ChipChallenge(msgspec.Struct, frozen=True):
    """A challenge to a chip (`TPM2_MakeCredential`), with the chip's tier and the hash that identifies the chip.

    `secret_hash` is the hash of the secret that the chip must release. `ek_name` is the TPM name of the EK that the
    challenge is encrypted to. `ek_issuer` is the issuer in the certificate of this EK, as text; empty without one. Only
    for the tier `attested` has the issuer been verified.
    """

    tier: Tier
    ek_hash: str
    secret_hash: str
    credential_blob: bytes
    encrypted_secret: bytes
    ek_name: bytes
    ek_issuer: str = ""


class CheckedChip(msgspec.Struct, frozen=True):
    """A chip whose evidence was checked, with the hash that identifies the chip and the issuer that `issuer_of` reads."""

    chip: Chip
    ek_hash: str
    ek_issuer: str


@dataclass(frozen=True, kw_only=True)
class ChipChallenges:
    """Makes challenges to chips, and checks the key evidence in the answers."""

    ek_key: bytes = field(repr=False)
    entropy: Entropy
    verifier: Verifier
    tenants: TenantStore

    async def make(
        self, tenant: TenantRow, evidence: EndorsementEvidence, now: datetime, known: str = ""
    ) -> ChipChallenge:
        """Check the evidence, and make a challenge to its chip. Raises EvidenceNotAccepted, TierNotAllowed.

        `known` is the hash that identifies the chip of a node. If the evidence has an EK with this hash, only that EK
        is checked: a chip that has several EKs stays the chip of its node.
        """
        checked = await self.checked(tenant, evidence, now, known)
        secret = self.entropy(SECRET_BYTES)
        blob, encrypted = self.credential(checked.chip, evidence.ak_public, secret)
        chip = checked.chip
        return ChipChallenge(
            chip.tier, checked.ek_hash, sha256_hex(secret), blob, encrypted, chip.ek_name, checked.ek_issuer
        )

    async def checked(
        self, tenant: TenantRow, evidence: EndorsementEvidence, now: datetime, known: str = ""
    ) -> CheckedChip:
        """Check the evidence, and return its chip. `known` is as in `make`. Raises EvidenceNotAccepted, TierNotAllowed."""
        evidence = self._of_known(tenant.id, evidence, known)
        trust = await self._trust_of(tenant, evidence)
        try:
            chip = self.verifier.check_chip(evidence, trust, now)
        except EvidenceRefused as error:
            raise evidence_error(error) from error
        return CheckedChip(chip, self.ek_hash(tenant.id, chip.ek_name), issuer_of(evidence, chip.ek_public))

    def credential(self, chip: Chip, ak_public: bytes, secret: bytes) -> tuple[bytes, bytes]:
        """Encrypt a secret (SECRET_BYTES) to a checked chip and this attestation key, as `Verifier.make_challenge`.

        Raises EvidenceNotAccepted.
        """
        try:
            return self.verifier.make_challenge(chip, ak_public, secret)
        except EvidenceRefused as error:
            raise evidence_error(error) from error

    def _of_known(self, tenant: TenantId, evidence: EndorsementEvidence, known: str) -> EndorsementEvidence:
        """The evidence reduced to the EK with the hash `known`; the evidence as it is if it has no such EK."""
        for other in evidence.others[:OTHER_ENDORSEMENTS_MAX]:
            if known and hmac.compare_digest(self.ek_hash(tenant, name_of(other.ek_public)), known):
                return msgspec.structs.replace(
                    evidence, ek_public=other.ek_public, ek_certificate=other.ek_certificate, others=()
                )
        first = known and hmac.compare_digest(self.ek_hash(tenant, name_of(evidence.ek_public)), known)
        return msgspec.structs.replace(evidence, others=()) if first else evidence

    def ek_hash(self, tenant: TenantId, ek_name: bytes) -> str:
        """The hash that identifies a chip in the database. `ek_name` is the TPM name of its endorsement key.

        It is keyed and depends on the tenant. So the database holds no endorsement key, and two tenants with the same
        chip have different hashes.
        """
        return hmac.new(self.ek_key, b"cascade-ek-1\n" + tenant.encode() + b"\n" + ek_name, hashlib.sha256).hexdigest()

    def verified_key(self, row: Exchange, ak_public: bytes, secret: bytes, key: KeyEvidence, csr: bytes) -> NodeKey:
        """Check the key evidence and the CSR of an answer, and return the node key.

        `ak_public` is the stored attestation key. Raises EvidenceNotAccepted, CsrRefused.
        """
        try:
            verified = self.verifier.verify_key(key, ak_public, secret, row.id, csr)
        except EvidenceRefused as error:
            raise evidence_error(error) from error
        check_no_attributes(csr)
        return verified

    def verified_key_in_request(self, ak_public: bytes, digest: bytes, key: KeyEvidence, csr: bytes) -> NodeKey:
        """As `verified_key`, for evidence over the digest of a request. Raises EvidenceNotAccepted, CsrRefused."""
        try:
            verified = self.verifier.verify_key_in_request(key, ak_public, digest, csr)
        except EvidenceRefused as error:
            raise evidence_error(error) from error
        check_no_attributes(csr)
        return verified

    async def _trust_of(self, tenant: TenantRow, evidence: EndorsementEvidence) -> TenantTrust:
        """The hardware that the tenant trusts. Of its allow-list only the entries for this evidence are read."""
        roots = await self.tenants.roots(tenant.id)
        allowed = [
            identifier
            for identifier in identifiers_of(evidence)
            if await self.tenants.is_allowed(tenant.id, identifier)
        ]
        return TenantTrust(
            roots=trusted_roots((root.certificate, root.ek_type) for root in roots),
            allowed_ek_names=frozenset(allowed),
            tiers=frozenset(tenant.tiers),
        )


def check_no_attributes(csr: bytes) -> None:
    """Check that a CSR (DER) that can be read asks for nothing. Raises CsrRefused.

    The issuer refuses such a CSR too, but only after a seat and a generation were used up.
    """
    if list(x509.load_der_x509_csr(csr).attributes):
        raise CsrRefused("the certificate request asks for extensions or attributes. Send a request without them")


def issuer_of(evidence: EndorsementEvidence, ek_public: bytes) -> str:
    """The issuer that the certificate of this EK names, for people. Empty without a certificate that can be read."""
    offered = [(evidence.ek_public, evidence.ek_certificate)]
    offered += [(other.ek_public, other.ek_certificate) for other in evidence.others[:OTHER_ENDORSEMENTS_MAX]]
    certificate = next((each for public, each in offered if public == ek_public and each), None)
    if certificate is None or len(certificate) > EK_CERTIFICATE_BYTES_MAX:
        return ""
    try:
        return printable(read_certificate(certificate).issuer_text)[:ISSUER_CHARS_MAX]
    except CertificateUnreadable:
        return ""


def is_right_answer(row: Exchange, secret: bytes, now: datetime) -> bool:
    """Whether `secret` is the secret of the challenge, compared in constant time. Raises ChallengeExpired."""
    if now >= row.expires_at:
        raise ChallengeExpired
    return hmac.compare_digest(sha256_hex(secret), row.secret_hash)


def tries_left(tries: int) -> int:
    """How many answers a challenge still accepts after `tries` wrong ones."""
    return max(0, CHALLENGE_TRIES_MAX - tries)


def wrong_answer(tries: int) -> ChallengeFailed:
    """The refusal of a wrong answer. `tries` counts the wrong answers so far."""
    return ChallengeFailed(f"the answer is not the secret of the challenge; tries left: {tries_left(tries)}")


def is_proved_by(row: Exchange, body_sha256: str) -> bool:
    """Whether a request with this body proved the exchange. If so, a repeat gets the stored answer."""
    return hmac.compare_digest(row.proof_hash, body_sha256)
