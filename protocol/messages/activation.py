"""Messages of the activation exchange (section 5 of the design) and the activation file.

Evolution: requests refuse unknown fields; a field is added with a default, at the end, and sent only to a server
that announces it.
"""

from datetime import datetime

import msgspec

from protocol.evidence import EndorsementEvidence, KeyEvidence
from protocol.ids import ActivationId, NodeId, TenantId

ACTIVATION_FILE_FORMAT = 1


class TrustPin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Version and SHA-256 (hex) of the TUF root that starts all trust."""

    version: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.version}:{self.sha256}"


class PinError(ValueError):
    """The text is not a trust pin."""


def parse_pin(text: str) -> TrustPin:
    """`VERSION:SHA256HEX`. Raises PinError."""
    version, _, digest = text.strip().partition(":")
    if not version.isdecimal() or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise PinError("a trust pin reads VERSION:SHA256, as `cascade init` printed it")
    return TrustPin(version=int(version), sha256=digest)


class ActivationFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `cascade code create` writes for `cascadia activate FILE`; mode 0600, since `code` is a secret."""

    format: int
    repository_url: str
    pin: TrustPin
    code: str
    created_at: datetime


class StartActivation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/activations`"""

    code: str
    evidence: EndorsementEvidence
    agent_version: str


class Challenge(msgspec.Struct, frozen=True):
    """The answer: `TPM2_MakeCredential` to the EK (`credential_blob` TPM2B_ID_OBJECT, `encrypted_secret`
    TPM2B_ENCRYPTED_SECRET, both marshalled), and the salt for the fingerprint."""

    activation: ActivationId
    credential_blob: bytes
    encrypted_secret: bytes
    fingerprint_salt: bytes
    expires_at: datetime
    tries_left: int


class ProveActivation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/activations/{id}/proof`. `secret` is what the TPM released, `csr` is DER, `fingerprint` name -> HMAC."""

    secret: bytes
    csr: bytes
    key: KeyEvidence
    fingerprint: dict[str, str]


class Activated(msgspec.Struct, frozen=True):
    """The answer to a proof: who the node is, and its device certificate with the issuing CA's (DER, leaf first)."""

    tenant: TenantId
    node: NodeId
    generation: int
    certificate_chain: tuple[bytes, ...]
    confirm_by: datetime
