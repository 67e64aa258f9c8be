"""Port: checks of TPM evidence. With the adapter that calls the checks of this package; it does no I/O."""

from datetime import datetime
from typing import Protocol

from cloud.fabric.attestation import ek_trust, evidence
from cloud.fabric.attestation.ek_trust import Chip, TenantTrust
from cloud.fabric.attestation.evidence import NodeKey
from protocol.evidence import EndorsementEvidence, KeyEvidence
from protocol.ids import ActivationId, RenewalId


class Verifier(Protocol):
    """Checks TPM evidence. Every method raises EvidenceRefused."""

    def check_chip(self, evidence: EndorsementEvidence, trust: TenantTrust, now: datetime) -> Chip:
        """Check the evidence, and return its chip with the tier that the tenant's trust gives it."""

    def make_challenge(self, chip: Chip, ak_public: bytes, secret: bytes) -> tuple[bytes, bytes]:
        """Encrypt the secret to this chip and attestation key. Returns credential blob and encrypted seed."""

    def verify_key(
        self, key: KeyEvidence, ak_public: bytes, secret: bytes, exchange: ActivationId | RenewalId, csr: bytes
    ) -> NodeKey:
        """Check that the node key is in the chip and signed the CSR (DER), and return it."""

    def verify_key_in_request(self, key: KeyEvidence, ak_public: bytes, digest: bytes, csr: bytes) -> NodeKey:
        """As `verify_key`, for evidence over the digest of a request in place of a challenge."""


class TpmVerifier:
    """Adapter: the checks of `ek_trust` and `evidence`."""

    def check_chip(self, evidence: EndorsementEvidence, trust: TenantTrust, now: datetime) -> Chip:
        return ek_trust.check_chip(evidence, trust, now)

    def make_challenge(self, chip: Chip, ak_public: bytes, secret: bytes) -> tuple[bytes, bytes]:
        return evidence.make_challenge(chip, ak_public, secret)

    def verify_key(
        self, key: KeyEvidence, ak_public: bytes, secret: bytes, exchange: ActivationId | RenewalId, csr: bytes
    ) -> NodeKey:
        return evidence.verify_key(key, ak_public, secret, exchange, csr)

    def verify_key_in_request(self, key: KeyEvidence, ak_public: bytes, digest: bytes, csr: bytes) -> NodeKey:
        return evidence.verify_key_in_request(key, ak_public, digest, csr)
