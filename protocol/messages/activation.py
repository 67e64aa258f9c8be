"""Messages: the activation exchange (section 5 of the design), and the activation file.

Evolution: requests refuse unknown fields. A field is added at the end with a default. If a server
refuses the field, the agent sends the request again without it. The text below a field is its description in the API
document.
"""

from datetime import datetime
from typing import Annotated

import msgspec

from protocol.bounds import limits
from protocol.evidence import EndorsementEvidence, KeyEvidence, PcrQuote
from protocol.ids import ActivationId, NodeId, TenantId
from protocol.limits import (
    AGENT_VERSION_CHARS_MAX,
    CODE_CHARS_MAX,
    COMPONENT_CHARS_MAX,
    COMPONENTS_MAX,
    HELD_GENERATION_MAX,
)
from protocol.messages.recovery import AwaitedRecovery, RecoveryClaim

ACTIVATION_FILE_FORMAT = 1
VERSION_DIGITS_MAX = 18
"""Digits of a root's version in a pin. A longer number is no version."""


Component = Annotated[str, limits(maxLength=COMPONENT_CHARS_MAX)]
"""Name or value of a component of a fingerprint."""


class TrustPin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pin: version and SHA-256 (hex) of the TUF root that the installation starts from."""

    version: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.version}:{self.sha256}"


class PinError(ValueError):
    """The text is not a trust pin."""


def parse_pin(text: str) -> TrustPin:
    """The pin in a text of the form VERSION:SHA256HEX. Raises PinError."""
    version, _, digest = text.strip().partition(":")
    is_version = version.isascii() and version.isdecimal() and len(version) <= VERSION_DIGITS_MAX
    if not is_version or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise PinError("a trust pin reads VERSION:SHA256, as `cascade init` printed it")
    return TrustPin(version=int(version), sha256=digest)


class ActivationFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Activation file, or recovery file. Its mode is 0600 because `code` is a secret.

    `cascade code create` writes an activation file for `cascadia activate FILE`. `cascade recovery codes issue` writes a
    recovery file for `cascadia recover --file FILE`: its `code` is a recovery code, and `node` is the node that the machine
    is. An activation file has no `node`, so every agent reads it. An agent that knows no recovery refuses a recovery
    file, because it has a field too many.
    """

    format: int
    repository_url: str
    pin: TrustPin
    code: str
    created_at: datetime
    node: NodeId | msgspec.UnsetType = msgspec.UNSET


class StartActivation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start of an activation."""

    code: Annotated[str, limits(maxLength=CODE_CHARS_MAX)]
    """Text of the activation code. With `recovery`: text of a recovery code, or empty."""
    evidence: EndorsementEvidence
    """The TPM, and the attestation key that it uses."""
    agent_version: Annotated[str, limits(maxLength=AGENT_VERSION_CHARS_MAX)]
    """Version of the agent, up to 256 printable characters."""
    recovery: RecoveryClaim | msgspec.UnsetType = msgspec.UNSET
    """The machine asks for its own node back. Absent in an activation with an activation code."""


class Challenge(msgspec.Struct, frozen=True):
    """Challenge to a TPM (`TPM2_MakeCredential`). `TPM2_ActivateCredential` releases its secret."""

    activation: ActivationId
    """Id of the activation."""
    credential_blob: bytes
    """TPM2B_ID_OBJECT, marshalled."""
    encrypted_secret: bytes
    """TPM2B_ENCRYPTED_SECRET, marshalled."""
    fingerprint_salt: bytes
    """Key of the HMACs in the fingerprint. It differs by tenant."""
    expires_at: datetime
    """Time until which the answer is accepted."""
    tries_left: int
    """Number of answers that may be sent."""
    ek_name: bytes = b""
    """TPM name of the endorsement key that the challenge is encrypted to. Empty: the first one of the evidence."""


class ProveActivation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answer to the challenge of an activation."""

    secret: bytes
    """Secret that the TPM released."""
    csr: bytes
    """Certificate request (PKCS#10) in DER, signed by the node key, without extensions and attributes."""
    key: KeyEvidence
    """Evidence that the node key is in the TPM."""
    fingerprint: Annotated[dict[Component, Component], limits(maxProperties=COMPONENTS_MAX)]
    """Fingerprint of the machine: name of a component to its HMAC-SHA-256 in hex."""
    held_generation: Annotated[int | msgspec.UnsetType, limits(minimum=1, maximum=HELD_GENERATION_MAX)] = msgspec.UNSET
    """Highest generation in the machine's state directory. The new generation gets a higher number, also if this cloud
    does not know the held one: its database may come from an older backup. Absent if the directory holds none."""
    pcr_quote: PcrQuote | msgspec.UnsetType = msgspec.UNSET
    """Quote of the PCRs by the attestation key, over the extra data of `key`. Agents that make no quotes leave it out."""


class Activated(msgspec.Struct, frozen=True):
    """Identity of the node, with its device certificate."""

    tenant: TenantId
    """Tenant of the node."""
    node: NodeId
    """Id of the node."""
    generation: int
    """Generation that this activation made."""
    certificate_chain: tuple[bytes, ...]
    """Device certificate and the certificate of its CA, in DER."""
    confirm_by: datetime
    """Time until which the node must confirm the generation. Without a confirm it ends, and its seat is free again."""


class AwaitedApproval(msgspec.Struct, frozen=True):
    """Answer with the status 202 to a valid proof: an operator must approve the activation.

    The node repeats the same request after `Retry-After`. An operator can decide until `expires_at`.
    """

    activation: ActivationId
    """Id of the activation, for `cascade activation approve`."""
    asked_at: datetime
    """Time at which the proof was accepted."""
    expires_at: datetime
    """Time at which the activation ends without a decision. After an approval: time until which the node must return."""
    retry_after_seconds: int
    """Seconds after which the node asks again, as in the header `Retry-After`."""
    recovery: AwaitedRecovery | msgspec.UnsetType = msgspec.UNSET
    """The recovery case that the activation waits for. Absent in an activation with an activation code."""
