"""Use case: a challenge that only one chip can answer, and the checks of its answer; for activation and renewal.

The secret is kept as a hash. The caller stores the challenge and counts the wrong answers, since they end the caller's
exchange.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
from cryptography import x509

from cloud.fabric.attestation.ek_roots import trusted_roots
from cloud.fabric.attestation.ek_trust import TenantTrust
from cloud.fabric.attestation.evidence import SECRET_BYTES, NodeKey
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from cloud.fabric.attestation.verifier import Verifier
from cloud.fabric.entropy import Entropy
from cloud.fabric.errors import ChallengeExpired, ChallengeFailed, CsrRefused, evidence_error
from cloud.fabric.store.rows import ActivationRow, RenewalRow, TenantRow
from cloud.fabric.store.tenants import TenantStore
from protocol.encoding import sha256_hex
from protocol.evidence import EndorsementEvidence, KeyEvidence
from protocol.ids import TenantId
from protocol.limits import CHALLENGE_TRIES_MAX
from protocol.signed.statements import Tier

Exchange = ActivationRow | RenewalRow


class ChipChallenge(msgspec.Struct, frozen=True):
    """A challenge to a chip (`TPM2_MakeCredential`), the chip's tier and the hash by which a tenant's chip is known."""

    tier: Tier
    ek_hash: str
    secret_hash: str
    credential_blob: bytes
    encrypted_secret: bytes


@dataclass(frozen=True, kw_only=True)
class ChipChallenges:
    """Makes challenges, and checks what answers them."""

    ek_key: bytes = field(repr=False)
    entropy: Entropy
    verifier: Verifier
    tenants: TenantStore

    async def make(self, tenant: TenantRow, evidence: EndorsementEvidence, now: datetime) -> ChipChallenge:
        """A challenge to the chip that the evidence names. Raises EvidenceNotAccepted, TierNotAllowed."""
        trust = await self._trust_of(tenant)
        secret = self.entropy(SECRET_BYTES)
        try:
            chip = self.verifier.judge(evidence, trust, now)
            blob, encrypted = self.verifier.make_challenge(chip, evidence.ak_public, secret)
        except EvidenceRefused as error:
            raise evidence_error(error) from error
        return ChipChallenge(chip.tier, self.ek_hash(tenant.id, chip.ek_name), sha256_hex(secret), blob, encrypted)

    def ek_hash(self, tenant: TenantId, ek_name: bytes) -> str:
        """How a chip is looked up: tenants cannot compare theirs, and the database holds no EK."""
        return hmac.new(self.ek_key, b"cascade-ek-1\n" + tenant.encode() + b"\n" + ek_name, hashlib.sha256).hexdigest()

    def verified_key(self, row: Exchange, ak_public: bytes, secret: bytes, key: KeyEvidence, csr: bytes) -> NodeKey:
        """The node key of an answer, certified by the attestation key. Raises EvidenceNotAccepted, CsrRefused."""
        try:
            verified = self.verifier.verify_key(key, ak_public, secret, row.id, csr)
        except EvidenceRefused as error:
            raise evidence_error(error) from error
        if list(x509.load_der_x509_csr(csr).attributes):
            # The issuer refuses it too, but only after a seat and a generation were spent on it.
            raise CsrRefused("the certificate request wishes for extensions or attributes; send none")
        return verified

    async def _trust_of(self, tenant: TenantRow) -> TenantTrust:
        """The hardware that the tenant trusts."""
        roots = await self.tenants.roots(tenant.id)
        allowed = await self.tenants.allowed(tenant.id)
        return TenantTrust(
            roots=trusted_roots((root.certificate, root.ek_type) for root in roots),
            allowed_ek_names=frozenset(entry.ek_name for entry in allowed),
            tiers=frozenset(tenant.tiers),
        )


def is_right_answer(row: Exchange, secret: bytes, now: datetime) -> bool:
    """Whether this is the secret of the challenge. Raises ChallengeExpired."""
    if now >= row.expires_at:
        raise ChallengeExpired
    return hmac.compare_digest(sha256_hex(secret), row.secret_hash)


def tries_left(tries: int) -> int:
    """How many answers a challenge still takes after so many wrong ones."""
    return max(0, CHALLENGE_TRIES_MAX - tries)


def wrong_answer(tries: int) -> ChallengeFailed:
    """The refusal of a wrong answer."""
    return ChallengeFailed(f"this is not the secret of the challenge; tries left: {tries_left(tries)}")


def is_proved_by(row: Exchange, body_sha256: str) -> bool:
    """Whether this very request proved the exchange: its repeat gets the stored answer."""
    return hmac.compare_digest(row.proof_hash, body_sha256)
