"""TPM evidence on the wire (RFC 9334: the node is the attester, Fabric the verifier).

All byte fields are exactly what the TPM gave, marshalled (`TPMT_PUBLIC`, `TPMS_ATTEST`, `TPMT_SIGNATURE`, without
the TPM2B size) or, for certificates, the raw DER: names and signatures are computed over these bytes, and vendors'
certificates do not survive re-encoding.
"""

import msgspec

from protocol.encoding import sha256


class EndorsementEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The TPM that the caller claims to have, and its attestation key. It proves nothing before the challenge is solved."""

    ek_public: bytes
    """Endorsement key: TPMT_PUBLIC, marshalled."""
    ak_public: bytes
    """Attestation key: TPMT_PUBLIC, marshalled."""
    ek_certificate: bytes | None = None
    """Certificate of the endorsement key in DER. Null for a TPM whose maker stored none in it."""


class KeyEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`TPM2_Certify` of the node key by the attestation key."""

    public: bytes
    """Node key: TPMT_PUBLIC, marshalled."""
    attestation: bytes
    """TPMS_ATTEST, marshalled."""
    signature: bytes
    """Signature of the attestation key: TPMT_SIGNATURE, marshalled."""


class ClockInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`TPMS_CLOCK_INFO`: `clock` in ms, advances while powered. Evidence, not a root of trust."""

    clock: int
    reset_count: int
    restart_count: int
    safe: bool


def qualifying_data(secret: bytes, activation: str, csr_der: bytes) -> bytes:
    """`extraData` that binds certified key, challenge, activation and CSR: 32 bytes.

    SHA-256(secret || activation id || SHA-256(CSR)), section 5 of the design. The secret has a fixed 32 bytes and
    the digest 32, so the parts cannot be shifted against each other.
    """
    if len(secret) != 32:
        raise ValueError("the challenge's secret has 32 bytes")
    return sha256(secret + activation.encode() + sha256(csr_der))
