"""Messages: activation and renewal of a machine without a TPM (tier `software`).

`docs/adr/0036-approval-follows-the-proof.md` has the reasons for this exchange.

The node key is a P-256 key in a file (mode 0600). No hardware vouches for the key, so the evidence is the machine's own
report. The exchange of an agent:

1. It makes a node key. It sends `StartSoftwareActivation` to PATH_SOFTWARE_ACTIVATIONS and gets a `SoftwareChallenge`.
2. It computes the fingerprint under the salt of the challenge. It makes `SoftwareProofClaims`, and the node key signs
   their JSON: `protocol.signed.envelope.seal` with TYP_SOFTWARE_PROOF.
3. If the state directory holds a generation of the tier `software`, the key of that generation signs the same JSON with
   TYP_SOFTWARE_HELD. If the fingerprint matches as well, the machine is the same node, in the same seat.
4. It stores `ProveSoftwareActivation` before it sends it to `path_software_proof`. A repeat sends the same bytes.
5. The answer is `Activated` (200), or `AwaitedApproval` (202) while a person must decide. The agent then repeats the
   same bytes. The refusals are those of an activation with a TPM.
6. It opens a session and confirms, as a machine with a TPM. The session proof has no `clock`.

Without step 3 the cloud compares the fingerprint with the enrolled fingerprints of the tenant's software nodes
(`protocol.fingerprint`). A match makes the machine eligible for that node and its seat, and then a person must approve.
The node never chooses its tier, and this exchange reaches no node that has a TPM.

A renewal is one request, `RenewSoftware` to PATH_SOFTWARE_RENEWALS. The key in force signs `SoftwareRenewalClaims` over
a nonce of `POST /v1/node/nonces`. The request may certify the same key, if the certificate is due, or a new key.

Evolution: as `protocol.messages.activation`. A field of signed claims is added at the end as
`X | msgspec.UnsetType = msgspec.UNSET`. The text below a field is its description in the API document.
"""

from datetime import datetime
from typing import Annotated, TypeVar

import msgspec

from protocol.bounds import limits
from protocol.encoding import json_decode
from protocol.ids import ActivationId, NodeId, TenantId
from protocol.limits import AGENT_VERSION_CHARS_MAX, CODE_CHARS_MAX
from protocol.messages.recovery import RecoveryClaim
from protocol.messages.sessions import Jws
from protocol.signed.envelope import EnvelopeError, verify_signature

TYP_SOFTWARE_PROOF = "cascade-software-proof+jws"
TYP_SOFTWARE_HELD = "cascade-software-held+jws"
TYP_SOFTWARE_RENEWAL = "cascade-software-renewal+jws"

PATH_SOFTWARE_ACTIVATIONS = "/v1/software-activations"
PATH_SOFTWARE_RENEWALS = "/v1/node/software-renewals"


def path_software_proof(activation: str) -> str:
    """Path for the proof of a software activation. `activation` is its id."""
    return f"{PATH_SOFTWARE_ACTIVATIONS}/{activation}/proof"


class StartSoftwareActivation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start of the activation of a machine without a TPM."""

    code: Annotated[str, limits(maxLength=CODE_CHARS_MAX)]
    """Text of the activation code. With `recovery`: text of a recovery code, or empty."""
    public_key: bytes
    """Public node key (P-256): SubjectPublicKeyInfo in DER."""
    agent_version: Annotated[str, limits(maxLength=AGENT_VERSION_CHARS_MAX)]
    """Version of the agent, up to 256 printable characters."""
    recovery: RecoveryClaim | msgspec.UnsetType = msgspec.UNSET
    """The machine asks for its own node back. Absent in an activation with an activation code."""


class SoftwareChallenge(msgspec.Struct, frozen=True):
    """Nonce that the node key must sign."""

    activation: ActivationId
    """Id of the activation."""
    nonce: str
    """Nonce, for the claim `nonce`."""
    fingerprint_salt: bytes
    """Key of the HMACs in the fingerprint. It differs by tenant."""
    expires_at: datetime
    """Time until which the proof is accepted."""
    tries_left: int
    """Number of proofs that may be sent."""


class HeldGeneration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The generation that the machine's state directory holds, by its highest number."""

    tenant: TenantId
    node: NodeId
    generation: int


class SoftwareProofClaims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Claims of the proof of an activation. The new node key signs them, and the held one if there is one."""

    activation: ActivationId
    """Id of the activation."""
    nonce: str
    """Nonce of the challenge."""
    csr_sha256: str
    """SHA-256 of the certificate request in DER, in hex."""
    fingerprint: dict[str, str]
    """Fingerprint of the machine: name of a component to its HMAC-SHA-256 in hex."""
    unreadable: tuple[str, ...] = ()
    """Kinds of components that could not be read."""
    held: HeldGeneration | None = None
    """Newest generation in the state directory. The new generation gets a higher number."""


class ProveSoftwareActivation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Proof of a software activation."""

    csr: bytes
    """Certificate request (PKCS#10) in DER, signed by the node key, without extensions and attributes."""
    proof: Jws
    """Claims, signed by the node key: a JWS of the type `cascade-software-proof+jws`."""
    held_proof: Jws = ""
    """The same claims, signed by the key of the generation in `held`: a JWS of the type `cascade-software-held+jws`.
    Empty if the state directory holds no generation of the tier `software`."""


class SoftwareRenewalClaims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Claims of a renewal. The node key in force signs them."""

    tenant: TenantId
    node: NodeId
    generation: int
    nonce: str
    """Nonce of `POST /v1/node/nonces`."""
    url: str
    """Full URL of the request."""
    csr_sha256: str
    """SHA-256 of the certificate request in DER, in hex."""
    answer_nonce: str
    """Nonce of the node. If the answer is a refusal with a statement, its freshness is over this nonce."""
    fingerprint: dict[str, str]
    """Fingerprint of the machine, under the salt of the activation."""
    unreadable: tuple[str, ...] = ()
    """Kinds of components that could not be read."""


class RenewSoftware(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Renewal of the device certificate of a node without a TPM. The answer is `Renewed`."""

    device_certificate: bytes
    """Device certificate in DER. It may have expired, because it only names the node and the generation."""
    csr: bytes
    """Certificate request (PKCS#10) in DER, signed by the same key or by a new one."""
    proof: Jws
    """Claims, signed by the key in force: a JWS of the type `cascade-software-renewal+jws`. A repeat with the same proof
    gets the stored answer."""
    presented: Jws | msgspec.UnsetType = msgspec.UNSET
    """The node's last stored statement, as in `ProveRenewal`."""


class SoftwareProofError(ValueError):
    """A proof does not verify. The text names the failed check."""


C = TypeVar("C")


def _open(token: str, typ: str, public_key: object, claims: type[C]) -> C:
    from cryptography.hazmat.primitives.asymmetric import ec

    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
        raise SoftwareProofError("the node key is not a P-256 key")
    try:
        return json_decode(verify_signature(token, typ, public_key).payload, claims)
    except (EnvelopeError, msgspec.MsgspecError) as error:
        raise SoftwareProofError(str(error)) from error


def open_software_proof(token: str, public_key: object, *, held: bool = False) -> SoftwareProofClaims:
    """The claims of a proof, verified under `public_key` (P-256). `held`: of a proof by the held key.

    Raises SoftwareProofError.
    """
    return _open(token, TYP_SOFTWARE_HELD if held else TYP_SOFTWARE_PROOF, public_key, SoftwareProofClaims)


def open_software_renewal(token: str, public_key: object) -> SoftwareRenewalClaims:
    """The claims of a renewal, verified under the key in force. Raises SoftwareProofError."""
    return _open(token, TYP_SOFTWARE_RENEWAL, public_key, SoftwareRenewalClaims)
