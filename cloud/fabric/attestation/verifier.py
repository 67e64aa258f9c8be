"""Port for checks of TPM evidence, and its adapter to the checks of this package. Pure."""

from datetime import datetime
from typing import Protocol

from cloud.fabric.attestation import ek_trust, evidence
from cloud.fabric.attestation.ek_trust import Chip, TenantTrust
from cloud.fabric.attestation.evidence import NodeKey
from protocol.evidence import EndorsementEvidence, KeyEvidence
from protocol.ids import ActivationId, RenewalId


class Verifier(Protocol):
    """Checks TPM evidence. All raise EvidenceRefused."""

    def judge(self, evidence: EndorsementEvidence, trust: TenantTrust, now: datetime) -> Chip:
        """The chip that the evidence names, in the tier that the tenant's trust gives it."""

    def make_challenge(self, chip: Chip, ak_public: bytes, secret: bytes) -> tuple[bytes, bytes]:
        """The secret in a form that only this chip can read, and only by this attestation key."""

    def verify_key(
        self, key: KeyEvidence, ak_public: bytes, secret: bytes, exchange: ActivationId | RenewalId, csr: bytes
    ) -> NodeKey:
        """The node key, which lives in the chip and signed the CSR."""


class TpmVerifier:
    """Checks by the rules of this package."""

    def judge(self, evidence: EndorsementEvidence, trust: TenantTrust, now: datetime) -> Chip:
        return ek_trust.judge(evidence, trust, now)

    def make_challenge(self, chip: Chip, ak_public: bytes, secret: bytes) -> tuple[bytes, bytes]:
        return evidence.make_challenge(chip, ak_public, secret)

    def verify_key(
        self, key: KeyEvidence, ak_public: bytes, secret: bytes, exchange: ActivationId | RenewalId, csr: bytes
    ) -> NodeKey:
        return evidence.verify_key(key, ak_public, secret, exchange, csr)
