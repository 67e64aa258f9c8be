"""Messages of sessions, refresh and the wake channel; the session proof. Renewal is EST (`protocol.messages.est`).

The proof is a JWS by the node key in the TPM over a server's nonce; see section 5 of the design.
"""

from datetime import datetime

import msgspec

from protocol.encoding import json_decode, json_encode
from protocol.evidence import ClockInfo
from protocol.ids import NodeId, TenantId
from protocol.signed.envelope import EnvelopeError, verify_signature

TYP_SESSION_PROOF = "cascade-session-proof+jws"


class Nonce(msgspec.Struct, frozen=True):
    """`POST /v1/node/nonces`"""

    nonce: str
    expires_at: datetime


class ProofClaims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the node key signs. `url` is the full URL of the request, `csr_sha256` hex over the session key's CSR.

    `trust_version` is the version of the TUF targets that the node works by; unset by an agent that does not tell.
    """

    tenant: TenantId
    node: NodeId
    generation: int
    nonce: str
    method: str
    url: str
    csr_sha256: str
    answer_nonce: str
    fingerprint: dict[str, str]
    clock: ClockInfo
    agent_version: str
    trust_version: int | msgspec.UnsetType = msgspec.UNSET


class OpenSession(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/node/sessions`: device certificate and session CSR in DER, the proof, the last statement's token."""

    device_certificate: bytes
    csr: bytes
    proof: str
    presented: str = ""


class StatementAnswer(msgspec.Struct, frozen=True):
    """The node's current statement and the word that it is current, over the asker's nonce.

    `statement` is empty only for a generation that was not confirmed yet.
    """

    statement: str
    freshness: str


class Session(msgspec.Struct, frozen=True):
    """A session certificate with its issuing CA's (DER, leaf first), and the current statement.

    `cursor` is the position of the wake channel that this answer already reflects, 0 where it reflects none.
    """

    certificate_chain: tuple[bytes, ...]
    current: StatementAnswer
    cursor: int = 0


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/node/confirm` and `POST /v1/node/statement`: the asker's nonce and its last statement's token.

    `trust_version` as in `ProofClaims`: so an agent tells of a new trust without waiting for its next session.
    """

    nonce: str
    presented: str = ""
    trust_version: int | msgspec.UnsetType = msgspec.UNSET


class Events(msgspec.Struct, frozen=True):
    """`GET /v1/node/events?cursor=&wait=`: a hint that something changed since `cursor`, never a fact."""

    cursor: int


class Certificate(msgspec.Struct, frozen=True):
    """A certificate with its issuing CA's (DER, leaf first)."""

    certificate_chain: tuple[bytes, ...]


class ProofError(ValueError):
    """The proof does not hold; the text names the check."""


def proof_payload(claims: ProofClaims) -> bytes:
    return json_encode(claims)


def open_proof(token: str, public_key: object) -> ProofClaims:
    """The claims of a proof that verifies under the stored node key (P-256). Raises ProofError."""
    from cryptography.hazmat.primitives.asymmetric import ec

    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise ProofError("the node key is not an EC key")
    try:
        opened = verify_signature(token, TYP_SESSION_PROOF, public_key)
        return json_decode(opened.payload, ProofClaims)
    except (EnvelopeError, msgspec.MsgspecError) as error:
        raise ProofError(str(error)) from error
