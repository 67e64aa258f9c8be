"""Values and pure functions: the request of a node without a network, from its body to the file that is carried.

A request has a body, a signature and, for a chip that is not proved yet, evidence.

- The body is the JSON of `Request`. The file has it as a string, so a program that formats the file changes no byte.
- The signature is a JWS of the type TYP_REQUEST by the node key. Its payload has the SHA-256 of the body.
- The evidence (`key`, `pcr_quote`) is outside of the body, because it is made over the body: the AK certifies the node
  key with `certified_data` as extra data (TPM2_Certify). So the AK vouches that this node key, in its TPM, made this
  request. `Request.endorsement` names the EK and the AK. The sealed answer proves the chip: only the TPM with both keys
  opens it (`protocol.airgap.sealing`).

A node has one outstanding request. It stores the request before it shows it, and shows the same bytes again until the
request is answered or has expired. The next request has the receipt of the answer that was imported before.

The first request of a machine has no fingerprint: the salt is the tenant's, and the answer brings it. The next request
has the fingerprint.

Evolution: a field is added at the end of `Request` as `X | msgspec.UnsetType = msgspec.UNSET`. A cloud refuses fields
that it does not know, and says that a newer agent made the request.
"""

from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.airgap.errors import RequestExpired, RequestInvalid, UnknownFormat
from protocol.encoding import json_decode, json_encode, sha256, sha256_hex
from protocol.evidence import ClockInfo, EndorsementEvidence, KeyEvidence, NvCounter, PcrQuote
from protocol.ids import AirgapRequestId, IdError, NodeId, TenantId, parse_id
from protocol.limits import (
    AGENT_VERSION_CHARS_MAX,
    CODE_CHARS_MAX,
    COMPONENT_CHARS_MAX,
    COMPONENTS_MAX,
    CSR_BYTES_MAX,
    ENVELOPE_BYTES_MAX,
    HELD_GENERATION_MAX,
    NONCE_BYTES_MAX,
    NONCE_BYTES_MIN,
    RENEWAL_TOKEN_CHARS_MAX,
    SEQ_MAX,
)
from protocol.messages.activation import TrustPin
from protocol.messages.recovery import RecoveryClaim
from protocol.signed import envelope
from protocol.signed.envelope import EnvelopeError, verify_signature

TYP_REQUEST = "cascade-airgap-request+jws"
REQUEST_DOCUMENT = "cascade-airgap-request"
FORMAT = 1
REQUEST_LIFE = timedelta(days=14)
"""A request is answered within this time after it was made. It covers a fortnight between two visits of a site."""
USAGE_BYTES_MAX = 16 * 1024
"""The place for usage data. It is reserved: no version fills it yet."""

AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]
Kind = Literal["activate", "refresh", "recover"]
"""`activate`: a first activation, or another one with an activation code. `refresh`: the current statement of a node.
`recover`: an activation whose right comes from a recovery case."""
_Component = Annotated[str, msgspec.Meta(max_length=COMPONENT_CHARS_MAX)]
_Jws = Annotated[str, msgspec.Meta(max_length=ENVELOPE_BYTES_MAX)]


class ClockEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The times that the machine knows. The node key signs them; no other party vouches for them."""

    low: AwareTime
    """Time that has surely passed."""
    high: AwareTime
    """Time at which the machine judges its lease."""
    wall: AwareTime
    """Wall clock."""
    suspect: bool = False
    """Whether the wall clock differs from the trusted time, for example after an empty battery."""
    tpm: ClockInfo | msgspec.UnsetType = msgspec.UNSET
    """Clock of the TPM. A machine without a TPM leaves it out."""


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The node's receipt of an answer. It rides in the next request."""

    request: AirgapRequestId
    """Id of the request that the answer is for."""
    answer_sha256: str
    """SHA-256 of the answer's signature (the JWS in `AnswerFile.signature`), in hex."""
    imported_at: AwareTime
    """Trusted time of the import."""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of a request."""

    format: int
    kind: Kind
    request: AirgapRequestId
    """Id of the request."""
    public_key: Annotated[bytes, msgspec.Meta(max_length=CSR_BYTES_MAX)]
    """Node key (P-256), SubjectPublicKeyInfo in DER. For an activation it is a new key."""
    nonce: Annotated[str, msgspec.Meta(min_length=NONCE_BYTES_MIN, max_length=NONCE_BYTES_MAX)]
    """Nonce of the node. The freshness in the answer is over it."""
    agent_version: Annotated[str, msgspec.Meta(max_length=AGENT_VERSION_CHARS_MAX)]
    made_at: AwareTime
    """Trusted time (`clock.high`) at which the request was made."""
    clock: ClockEvidence
    csr: Annotated[bytes, msgspec.Meta(max_length=CSR_BYTES_MAX)] = b""
    """Certificate request (PKCS#10) in DER by the node key, without extensions and attributes. The cloud may issue a
    device certificate for it also in the answer to a refresh."""
    pin: TrustPin | None = None
    """Pin of the trust that the node starts from."""
    trust_version: Annotated[int, msgspec.Meta(ge=0, le=SEQ_MAX)] = 0
    """Version of the TUF targets that the node has, 0 without any."""
    root_version: Annotated[int, msgspec.Meta(ge=0, le=SEQ_MAX)] = 0
    """Version of the newest TUF root that the node has, 0 without any. It then starts from the root of `pin`."""
    lease_version: int = 1
    """Highest version of leases that the node reads."""
    tenant: TenantId = TenantId("")
    node: NodeId = NodeId("")
    generation: Annotated[int, msgspec.Meta(ge=0, le=SEQ_MAX)] = 0
    """Tenant, node and generation of a refresh."""
    held_generation: Annotated[int, msgspec.Meta(ge=0, le=HELD_GENERATION_MAX)] = 0
    """Highest generation in the state directory, for an activation. The new one gets a higher number. 0 without any."""
    presented: _Jws = ""
    """Last statement that the node has stored, as a JWS."""
    device_certificate: Annotated[bytes, msgspec.Meta(max_length=CSR_BYTES_MAX)] = b""
    """Device certificate of the generation, in DER, for a refresh."""
    floor: NvCounter | None = None
    """Counter in the TPM that versions the floor record of the node."""
    fingerprint: Annotated[dict[_Component, _Component], msgspec.Meta(max_length=COMPONENTS_MAX)] = {}
    """Fingerprint of the machine, as in a session proof. Empty while the machine does not know the tenant's salt."""
    unreadable: Annotated[tuple[_Component, ...], msgspec.Meta(max_length=COMPONENTS_MAX)] = ()
    """Kinds of components that could not be read."""
    code: Annotated[str, msgspec.Meta(max_length=CODE_CHARS_MAX)] = ""
    """Proof of the activation code or of the recovery code (`protocol.airgap.code_proof`). Empty for a recovery without a
    code. Agents of an earlier release put the text of the recovery code here."""
    endorsement: EndorsementEvidence | None = None
    """The TPM, and the attestation key that certifies the node key."""
    receipt: Receipt | None = None
    """Receipt of the answer that was imported before."""
    development: bool = False
    """Whether the agent runs in development mode."""
    recovery: RecoveryClaim | None = None
    """What the machine says about the node that it was, for a recovery. `code` may then prove a recovery code."""
    renewal: Annotated[str, msgspec.Meta(max_length=RENEWAL_TOKEN_CHARS_MAX)] | msgspec.UnsetType = msgspec.UNSET
    """Renewal token of the last answer or session that had one. A node without a token leaves it out."""
    usage: Annotated[str, msgspec.Meta(max_length=USAGE_BYTES_MAX)] | msgspec.UnsetType = msgspec.UNSET
    """Reserved for usage data. This version leaves it out, and a cloud of this version ignores it."""


class RequestClaims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The payload of the signature."""

    request: AirgapRequestId
    body_sha256: str
    """SHA-256 of the body in hex."""


class RequestFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request as it is carried."""

    document: Literal["cascade-airgap-request"]
    body: str
    """JSON of `Request`."""
    signature: Annotated[str, msgspec.Meta(max_length=ENVELOPE_BYTES_MAX)]
    """JWS of the type TYP_REQUEST by the node key; the payload is `RequestClaims`."""
    key: KeyEvidence | msgspec.UnsetType = msgspec.UNSET
    """`TPM2_Certify` of the node key by the AK over `certified_data`. Left out in a refresh."""
    pcr_quote: PcrQuote | msgspec.UnsetType = msgspec.UNSET
    """Quote of the PCRs by the AK; its challenge is `certified_data`."""


class OpenedRequest(msgspec.Struct, frozen=True):
    """A request whose signature verified. `body` are the signed bytes, `sha256` their digest (32 bytes)."""

    request: Request
    file: RequestFile
    body: bytes
    sha256: bytes

    @property
    def sha256_hex(self) -> str:
        """The digest in hex, as an answer names it."""
        return self.sha256.hex()

    @property
    def certified(self) -> bytes:
        """`certified_data` of the body."""
        return certified_data(self.body)


def body_of(request: Request) -> bytes:
    """The bytes to sign and to certify: the JSON of the request."""
    return json_encode(request)


def certified_data(body: bytes) -> bytes:
    """The extra data (32 bytes) of `TPM2_Certify`, and the challenge of a PCR quote, for a request with this body."""
    return sha256(b"cascade-airgap-request-1\n" + body)


def signed_bytes(body: bytes, request: AirgapRequestId, public_key: ec.EllipticCurvePublicKey) -> bytes:
    """The signing input of a request's JWS. The node key signs its SHA-256; `assembled` makes the file of it."""
    payload = json_encode(RequestClaims(request, sha256_hex(body)))
    return envelope.signing_input(TYP_REQUEST, envelope.key_id(public_key), payload)


def assembled(
    body: bytes,
    signed: bytes,
    der_signature: bytes,
    key: KeyEvidence | msgspec.UnsetType = msgspec.UNSET,
    pcr_quote: PcrQuote | msgspec.UnsetType = msgspec.UNSET,
) -> RequestFile:
    """The file of a request. `der_signature` is the node key's ECDSA signature (DER) over `signed`."""
    return RequestFile(
        "cascade-airgap-request", body.decode(), envelope.assemble(signed, der_signature), key, pcr_quote
    )


def open_request(file: RequestFile) -> OpenedRequest:
    """Verify a request under the key that it names. The caller compares the key with the stored one.

    1. The body is a request of this format.
    2. Its node key is on P-256.
    3. That key signed the body.
    4. The parts that its kind needs are there (`_check_parts`).

    It proves that the node key made the request, and nothing about the chip. Raises RequestInvalid, UnknownFormat.
    """
    body = file.body.encode()
    try:
        request = json_decode(body, Request)
    except msgspec.MsgspecError as error:
        raise RequestInvalid(f"the request cannot be read: {_hint(error)}") from error
    if request.format != FORMAT:
        raise UnknownFormat(f"the request has the format {request.format}, and this cloud knows {FORMAT} only")
    try:
        parse_id("agr", request.request)
        claims = json_decode(
            verify_signature(file.signature, TYP_REQUEST, _p256(request.public_key)).payload, RequestClaims
        )
    except (EnvelopeError, IdError, msgspec.MsgspecError) as error:
        raise RequestInvalid(f"the request is not signed by its node key: {error}") from error
    if claims != RequestClaims(request.request, sha256_hex(body)):
        raise RequestInvalid("the signature is for another request, or the request was changed")
    _check_parts(request, file)
    return OpenedRequest(request, file, body, sha256(body))


def _check_parts(request: Request, file: RequestFile) -> None:
    """Step 4. Raises RequestInvalid."""
    if request.kind == "refresh":
        lacking = not (request.tenant and request.node and request.generation)
        reason = "it names no tenant, node and generation"
    else:
        lacking = request.endorsement is None or not request.csr or file.key is msgspec.UNSET
        reason = "it has no evidence of a TPM"
        if not lacking and request.kind == "activate":
            lacking, reason = not request.code, "it has no activation code"
        elif not lacking:
            lacking, reason = request.recovery is None, "it does not say which node it was"
    if lacking:
        raise RequestInvalid(f"the request of the kind {request.kind} is not complete: {reason}")


def check_life(request: Request, now: datetime, life: timedelta = REQUEST_LIFE) -> None:
    """Check that the request was made at most `life` before `now` (aware). Raises RequestExpired.

    A machine that says that its clock is suspect is not refused for its clock: an empty battery must not lock a site.
    Its request is bounded by the other rules: one outstanding request, one answer.
    """
    if request.clock.suspect or now - request.made_at <= life:
        return
    raise RequestExpired(
        f"the request was made at {request.made_at:%Y-%m-%d %H:%M} UTC by the clock of its machine, and a request is "
        f"answered within {life.days} days"
    )


def _p256(spki: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RequestInvalid("the node key in the request cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RequestInvalid("the node key in the request is not a P-256 key")
    return key


def _hint(error: Exception) -> str:
    """What an unreadable body means."""
    text = str(error)
    return f"{text}. A newer agent made it: update this cloud first" if "unknown field" in text else text
