"""Messages: sessions, statements and the wake channel, and the session proof.

The proof is a JWS over a nonce of the server, signed by the node key in the TPM (section 5 of the design). Renewal is
EST (`protocol.messages.est`). The text below a field is its description in the API document.
"""

from datetime import datetime
from typing import Annotated

import msgspec

from protocol.bounds import limits
from protocol.encoding import json_decode, json_encode
from protocol.evidence import ClockInfo, NvCounter, PcrQuote
from protocol.ids import NodeId, TenantId
from protocol.limits import (
    NONCE_BYTES_MAX,
    NONCE_BYTES_MIN,
    RENEWAL_TOKEN_CHARS_MAX,
    REQUEST_BODY_BYTES_MAX,
    SEQ_MAX,
)
from protocol.signed.envelope import EnvelopeError, verify_signature

TYP_SESSION_PROOF = "cascade-session-proof+jws"


Jws = Annotated[str, limits(maxLength=REQUEST_BODY_BYTES_MAX)]
"""A signed document. The size of the body bounds it."""


class Nonce(msgspec.Struct, frozen=True):
    """Nonce for a session proof."""

    nonce: str
    """The nonce, for the claim `nonce`."""
    expires_at: datetime
    """Time until which a proof over the nonce is accepted."""


class ProofClaims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Claims of a session proof, which the node key signs."""

    tenant: TenantId
    node: NodeId
    generation: int
    nonce: str
    method: str
    """Method of the request."""
    url: str
    """Full URL of the request."""
    csr_sha256: str
    """SHA-256 of the session key's certificate request in DER, in hex."""
    answer_nonce: str
    """Nonce of the node, for the freshness in the answer."""
    fingerprint: dict[str, str]
    clock: ClockInfo | msgspec.UnsetType = msgspec.UNSET
    """Clock of the TPM. A node of the tier `software` has no TPM and leaves it out; every other node sends it."""
    agent_version: str
    trust_version: int | msgspec.UnsetType = msgspec.UNSET
    """Version of the TUF targets that the node uses. Agents that do not report it leave it out."""
    development: bool | msgspec.UnsetType = msgspec.UNSET
    """True while the agent runs in development mode. Agents in production mode leave it out, and agents that do not
    report their mode. The cloud shows the mode and refuses nothing because of it."""
    floor: NvCounter | msgspec.UnsetType = msgspec.UNSET
    """Counter in the TPM that versions the floor record of the node. Left out by a node without one."""
    pcr_quote: PcrQuote | msgspec.UnsetType = msgspec.UNSET
    """Quote of the PCRs over the nonce. Agents that make no quotes leave it out."""
    renewal: str | msgspec.UnsetType = msgspec.UNSET
    """Renewal token of the last answer that had one. A node without a token leaves it out: an older agent, a new
    generation, or a node that has lost its token."""
    lease_version: int | msgspec.UnsetType = msgspec.UNSET
    """Highest version of leases that the node reads. Agents that leave it out read version 1."""


class OpenSession(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Request of a session."""

    device_certificate: bytes
    """Device certificate in DER."""
    csr: bytes
    """Certificate request (PKCS#10) in DER for the session key."""
    proof: Jws
    """Session proof: a JWS of the type `cascade-session-proof+jws` by the node key, over a nonce of the server."""
    presented: Jws = ""
    """Last statement that the node has stored, as a JWS. Empty if it has none."""


class StatementAnswer(msgspec.Struct, frozen=True):
    """Current statement of the node, with the proof that it is current."""

    statement: str
    """Lease, suspension or revocation, as a JWS signed by Fabric. Empty before the confirm."""
    freshness: str
    """Freshness over the nonce of the node, as a JWS signed by Fabric. Empty before the confirm."""


class Session(msgspec.Struct, frozen=True):
    """Session certificate and current statement of the node."""

    certificate_chain: tuple[bytes, ...]
    """Session certificate and the certificate of its CA, in DER."""
    current: StatementAnswer
    """Current statement."""
    cursor: int = 0
    """Position of the wake channel that this answer reflects, 0 if it reflects none."""
    renewal: Annotated[str, limits(maxLength=RENEWAL_TOKEN_CHARS_MAX)] = ""
    """Renewal token for the next session proof, opaque to the node. If it is empty, the node keeps the token that it
    has. A token that is never used is no fault: the node may present its last one again."""


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Request of a statement."""

    nonce: Annotated[str, limits(minLength=NONCE_BYTES_MIN, maxLength=NONCE_BYTES_MAX)]
    """Nonce of the node, for the freshness."""
    presented: Jws = ""
    """Last statement that the node has stored, as a JWS. Empty if it has none."""
    trust_version: Annotated[int | msgspec.UnsetType, limits(minimum=0, maximum=SEQ_MAX)] = msgspec.UNSET
    """Version of the TUF targets that the node uses. So a node reports a new trust before its next session."""


class Events(msgspec.Struct, frozen=True):
    """Position of the wake channel. A change of it is a hint, not a fact."""

    cursor: int
    """The position, for the next request."""


class Certificate(msgspec.Struct, frozen=True):
    """An issued certificate."""

    certificate_chain: tuple[bytes, ...]
    """The certificate and the certificate of its CA, in DER."""


class ProofError(ValueError):
    """The session proof does not verify. The text names the failed check."""


LATER_CLAIMS = ("floor", "pcr_quote", "renewal", "lease_version")
"""Claims that clouds of earlier releases refuse. They refuse the whole proof; the agent sends it again without them."""


def without_later_claims(claims: ProofClaims) -> ProofClaims:
    """The claims that clouds of earlier releases know too."""
    return msgspec.structs.replace(claims, **dict.fromkeys(LATER_CLAIMS, msgspec.UNSET))


def proof_payload(claims: ProofClaims) -> bytes:
    """The bytes that the node key signs."""
    return json_encode(claims)


def open_proof(token: str, public_key: object) -> ProofClaims:
    """The claims of a proof, verified under the stored node key (P-256). Raises ProofError."""
    from cryptography.hazmat.primitives.asymmetric import ec

    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise ProofError("the node key is not an EC key")
    try:
        opened = verify_signature(token, TYP_SESSION_PROOF, public_key)
        return json_decode(opened.payload, ProofClaims)
    except (EnvelopeError, msgspec.MsgspecError) as error:
        raise ProofError(str(error)) from error
