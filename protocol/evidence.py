"""Values: TPM evidence as it is sent (RFC 9334: the node is the attester, Fabric is the verifier).

A byte field holds the marshalled structure exactly as the TPM returned it (`TPMT_PUBLIC`, `TPMS_ATTEST`,
`TPMT_SIGNATURE`, without the TPM2B size), or the raw DER of a certificate. Names and signatures are computed over these
bytes. Some manufacturers' certificates change when they are encoded again.
"""

from typing import Annotated

import msgspec

from protocol.bounds import limits
from protocol.encoding import sha256
from protocol.limits import EK_CHAIN_CERTIFICATES_MAX, OTHER_ENDORSEMENTS_MAX, PCR_FAULT_CHARS_MAX

PCRS_QUOTED = 8
"""PCRs 0 to 7 are quoted: firmware, its settings, boot loader and Secure Boot (TCG PC Client Platform Firmware Profile,
3.3.4). PCRs from 8 on change with each update of the operating system."""
PCR_SELECTION = bytes.fromhex("00000001000b03ff0000")
"""`TPML_PCR_SELECTION` of the PCRs 0 to 7 in the SHA-256 bank (TPM 2.0 Library Part 2, 10.9.7)."""


class OtherEndorsement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another endorsement key of the same TPM, with its certificate."""

    ek_public: bytes
    """Endorsement key: TPMT_PUBLIC, marshalled."""
    ek_certificate: bytes
    """Certificate of the endorsement key in DER."""


class EndorsementEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The TPM that the caller claims, and its attestation key. It proves nothing before the answer to the challenge."""

    ek_public: bytes
    """Endorsement key: TPMT_PUBLIC, marshalled."""
    ak_public: bytes
    """Attestation key: TPMT_PUBLIC, marshalled."""
    ek_certificate: bytes | None = None
    """Certificate of the endorsement key in DER. Null for a TPM whose maker stored none in it."""
    others: Annotated[tuple[OtherEndorsement, ...], limits(maxItems=OTHER_ENDORSEMENTS_MAX)] = ()
    """Other endorsement keys of the TPM that have a certificate. The server chooses the key that the tenant trusts."""
    intermediates: Annotated[tuple[bytes, ...], limits(maxItems=EK_CHAIN_CERTIFICATES_MAX)] = ()
    """CA certificates in DER that the TPM stores beside its endorsement certificates. They are not trusted by
    themselves; they may be between an endorsement certificate and a root that the tenant trusts."""


class KeyEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`TPM2_Certify` of the node key by the attestation key."""

    public: bytes
    """Node key: TPMT_PUBLIC, marshalled."""
    attestation: bytes
    """TPMS_ATTEST, marshalled."""
    signature: bytes
    """Signature of the attestation key: TPMT_SIGNATURE, marshalled."""


class PcrQuote(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`TPM2_Quote` of the PCRs 0 to 7 in the SHA-256 bank by the attestation key, or the reason why there is none."""

    attestation: bytes = b""
    """TPMS_ATTEST, marshalled. Its extra data is the hash of `protocol.evidence.quoted_data`."""
    signature: bytes = b""
    """Signature of the attestation key: TPMT_SIGNATURE, marshalled."""
    values: Annotated[tuple[bytes, ...], limits(maxItems=PCRS_QUOTED)] = ()
    """Values of the PCRs 0 to 7, of 32 bytes each. The attestation has a hash over them."""
    fault: Annotated[str, limits(maxLength=PCR_FAULT_CHARS_MAX)] = ""
    """Reason why the TPM made no quote. The other fields are empty then."""


class ClockInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`TPMS_CLOCK_INFO`. `clock` is in ms and advances while the TPM is powered. It is evidence, no trusted time."""

    clock: int
    reset_count: int
    restart_count: int
    safe: bool


class NvCounter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A counter in the NV memory of the TPM: the index, its name, and its value. A TPM's counter never falls."""

    index: int
    """Handle of the NV index."""
    name: str
    """Name of the NV index in hex: algorithm and digest of its public area (TPM 2.0 Library Part 1, 16)."""
    value: int


def qualifying_data(secret: bytes, activation: str, csr_der: bytes) -> bytes:
    """The `extraData` (32 bytes) that binds the certified key to the challenge, the exchange and the CSR.

    It is SHA-256(secret || exchange id || SHA-256(CSR)). `activation` is the id of the activation or renewal. Secret
    and digest have 32 bytes each, so the boundaries of the parts are unambiguous. Raises ValueError for a secret of
    another length.
    """
    if len(secret) != 32:
        raise ValueError("the challenge's secret has 32 bytes")
    return sha256(secret + activation.encode() + sha256(csr_der))


def quoted_data(challenge: bytes) -> bytes:
    """The `extraData` (32 bytes) of a PCR quote for this challenge of the server.

    The challenge of an activation is the `qualifying_data` of its proof. The challenge of a session is its nonce.
    """
    return sha256(b"cascade-pcr-quote-1\n" + challenge)


def pcr_digest(values: tuple[bytes, ...]) -> bytes:
    """The digest in a quote of these PCR values (TPM 2.0 Library Part 3, 18.4)."""
    return sha256(b"".join(values))
