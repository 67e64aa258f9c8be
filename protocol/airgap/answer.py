"""Values and pure functions: the answer to a request of a node without a network.

An answer has a body, a signature and files of the published trust.

- The body is the JSON of `AnswerBody`. The answer to a refresh has it as a string. The answer to an activation or a
  recovery has it sealed to the chip (`protocol.airgap.sealing`), so that another machine learns and gets nothing.
- The signature is a JWS of the type TYP_ANSWER. Its payload, `AnswerClaims`, names the request and has the SHA-256 of
  the body before sealing. The key must be published for TYP_FRESHNESS: the answer is as good as an answer over a
  session, and every licence in it has the signature of its own key.
- `trust` has the files of the TUF repository that the node lacks, by their path below `/tuf/` of the repository: the
  roots above the node's `root_version` (for 0 from the root of the pin on), `metadata/timestamp.json`, snapshot, targets
  metadata and the three targets under the names that consistent snapshots give them. It is empty if the node has the
  current root and targets. The files are signed by the roles of TUF. A node verifies them with the same code as online.

A node verifies in this order: trust files, signature, request and dates (`match`), seal, body, device certificate,
statement and freshness. It stores nothing before all of them have verified.

Evolution: a node ignores fields that it does not know. A change that a node must not ignore is another FORMAT.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.airgap.errors import (
    AnswerExpired,
    AnswerForOther,
    AnswerOutdated,
    AnswerUnverified,
    AnswerUsed,
    NothingRequested,
    UnknownFormat,
)
from protocol.airgap.request import AwareTime, Kind, OpenedRequest, Receipt
from protocol.encoding import EncodingError, b64url_decode, json_decode, json_encode, sha256_hex
from protocol.ids import AirgapRequestId, NodeId, TenantId
from protocol.limits import ENVELOPE_BYTES_MAX
from protocol.messages.sessions import StatementAnswer
from protocol.signed import envelope
from protocol.signed.envelope import EnvelopeError, KeyRing, covers, open_envelope
from protocol.signed.freshness import TYP_FRESHNESS

TYP_ANSWER = "cascade-airgap-answer+jws"
ANSWER_DOCUMENT = "cascade-airgap-answer"
FORMAT = 1
ANSWER_LIFE = timedelta(days=14)
"""How long an answer can be imported, unless the operator sets another time."""


class Sealed(msgspec.Struct, frozen=True):
    """A body that one chip can open."""

    credential_blob: bytes
    """TPM2B_ID_OBJECT, marshalled: the secret, encrypted to the EK and bound to the name of the AK."""
    encrypted_secret: bytes
    """TPM2B_ENCRYPTED_SECRET, marshalled."""
    ek_name: bytes
    """TPM name of the EK that the secret is encrypted to."""
    iv: bytes
    """Initialisation vector of AES-GCM, 12 bytes."""
    ciphertext: bytes
    """The body, encrypted with AES-256-GCM, with the tag of 16 bytes at its end."""


class AnswerBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of an answer."""

    tenant: TenantId
    node: NodeId
    generation: int
    current: StatementAnswer
    """Current statement, and a freshness over the nonce of the request."""
    certificate_chain: tuple[bytes, ...] = ()
    """Device certificate for the key of the request, and the certificate of its CA, in DER. An answer to a refresh has
    one only if the certificate was renewed."""
    fingerprint_salt: bytes = b""
    """Key of the HMACs in the fingerprint, for an activation."""
    renewal: str = ""
    """Renewal token for the next request or session, opaque to the node. If it is empty, the node keeps the token that it
    has."""


class AnswerClaims(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of the signature."""

    format: int = FORMAT
    kind: Kind
    trust_domain: str
    request: AirgapRequestId
    """Id of the request."""
    request_sha256: str
    """SHA-256 of the request's body in hex."""
    node_key_sha256: str
    """SHA-256 of the node key of the request (SubjectPublicKeyInfo in DER) in hex."""
    nonce: str
    """Nonce of the request."""
    answered_at: AwareTime
    valid_until: AwareTime
    """Time until which the node imports the answer."""
    body_sha256: str
    """SHA-256 of the body in hex, before it is sealed."""


class AnswerFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer as it is carried. It has either `body` or `sealed`."""

    document: Literal["cascade-airgap-answer"]
    signature: Annotated[str, msgspec.Meta(max_length=ENVELOPE_BYTES_MAX)]
    """JWS of the type TYP_ANSWER; the payload is `AnswerClaims`."""
    body: str = ""
    """JSON of `AnswerBody`."""
    sealed: Sealed | None = None
    """The body, sealed to the chip of the request."""
    trust: dict[str, str] = {}
    """Files of the TUF repository by their path, such as `metadata/2.root.json`."""


class Outstanding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node knows of its outstanding request, to match an answer with it."""

    kind: Kind
    request: AirgapRequestId
    request_sha256: str
    nonce: str
    node_key_sha256: str


def claims_for(
    opened: OpenedRequest, body: bytes, *, trust_domain: str, at: datetime, life: timedelta = ANSWER_LIFE
) -> AnswerClaims:
    """The claims of an answer with this body (not sealed yet) to an opened request, made at `at` (aware)."""
    request = opened.request
    return AnswerClaims(
        kind=request.kind,
        trust_domain=trust_domain,
        request=request.request,
        request_sha256=opened.sha256_hex,
        node_key_sha256=sha256_hex(request.public_key),
        nonce=request.nonce,
        answered_at=at,
        valid_until=at + life,
        body_sha256=sha256_hex(body),
    )


def body_of(body: AnswerBody) -> bytes:
    """The bytes of a body, to seal or to carry as `body`."""
    return json_encode(body)


def sign(claims: AnswerClaims, kid: str, private_key: ec.EllipticCurvePrivateKey) -> str:
    """The signature of an answer, by a key that is published for TYP_FRESHNESS."""
    return envelope.seal(TYP_ANSWER, kid, json_encode(claims), private_key)


def open_claims(file: AnswerFile, ring: KeyRing, trust_domain: str) -> AnswerClaims:
    """Verify the signature of an answer with the published keys.

    1. A published key that may sign freshness signed the claims.
    2. The key is valid for the date of the answer.
    3. The claims are of this format and of this installation.

    Raises AnswerUnverified, UnknownFormat.
    """
    try:
        opened, key = open_envelope(file.signature, TYP_ANSWER, ring, TYP_FRESHNESS)
        claims = json_decode(opened.payload, AnswerClaims)
    except (EnvelopeError, msgspec.MsgspecError) as error:
        raise AnswerUnverified(f"the answer does not verify: {error}") from error
    if not covers(key, claims.answered_at):
        raise AnswerUnverified("the answer does not verify: its signing key is not valid for its date")
    if claims.format != FORMAT:
        raise UnknownFormat(f"the answer has the format {claims.format}, and this agent knows {FORMAT} only")
    if claims.trust_domain != trust_domain:
        raise AnswerUnverified("the answer is from another installation")
    return claims


def peek_claims(file: AnswerFile) -> AnswerClaims | None:
    """The unverified claims of an answer; None if they cannot be read. Use them only to name a refusal."""
    try:
        return json_decode(b64url_decode(file.signature.split(".")[1]), AnswerClaims)
    except (IndexError, EncodingError, msgspec.MsgspecError):
        return None


def match(
    claims: AnswerClaims,
    outstanding: Outstanding | None,
    receipt: Receipt | None,
    former: Collection[str],
    node_key_sha256: str,
    low: datetime,
) -> None:
    """Check that verified claims answer the outstanding request.

    Args:
        claims: the claims.
        outstanding: the outstanding request; None without one.
        receipt: the receipt of the last import; None without one.
        former: ids of earlier requests of this machine.
        node_key_sha256: SHA-256 of the node key in force, in hex; empty without one.
        low: time that has surely passed, aware.

    1. The answer is not that of the last import.
    2. It names the outstanding request, its digest, kind, key and nonce.
    3. It has not expired at `low`.

    Raises AnswerUsed, AnswerOutdated, AnswerForOther, NothingRequested, AnswerExpired.
    """
    if outstanding is None or claims.request != outstanding.request:
        if receipt is not None and claims.request == receipt.request:
            raise AnswerUsed(f"the answer was imported before, at {receipt.imported_at:%Y-%m-%d %H:%M} UTC")
        if claims.request in former or (node_key_sha256 and claims.node_key_sha256 == node_key_sha256):
            raise AnswerOutdated(f"the answer is for the earlier request {claims.request} of this machine")
        if outstanding is None and not (former or receipt):
            raise NothingRequested("this machine has made no request")
        raise AnswerForOther(f"the answer is for {claims.request}, which is no request of this machine")
    if (claims.kind, claims.request_sha256, claims.nonce, claims.node_key_sha256) != (
        outstanding.kind,
        outstanding.request_sha256,
        outstanding.nonce,
        outstanding.node_key_sha256,
    ):
        raise AnswerForOther("the answer names this machine's request, and is for a request with another content")
    if claims.valid_until <= low:
        raise AnswerExpired(
            f"the answer could be imported until {claims.valid_until:%Y-%m-%d %H:%M} UTC, and that time has passed"
        )


def open_body(claims: AnswerClaims, body: bytes) -> AnswerBody:
    """The body of an answer with verified claims. `body` are the bytes, unsealed. Raises AnswerUnverified."""
    if sha256_hex(body) != claims.body_sha256:
        raise AnswerUnverified("the answer was changed: its content is not that of its signature")
    try:
        return json_decode(body, AnswerBody)
    except msgspec.MsgspecError as error:
        raise AnswerUnverified(f"the content of the answer cannot be read: {error}") from error


def receipt_of(file: AnswerFile, claims: AnswerClaims, at: datetime) -> Receipt:
    """The receipt of an imported answer. `at` is trusted time, aware."""
    return Receipt(claims.request, sha256_hex(file.signature.encode()), at)
