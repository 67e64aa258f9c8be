"""A request and an answer with fixed ids, dates and keys, for the tests of both sides."""

from datetime import UTC, datetime, timedelta

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.airgap import answer, request
from protocol.airgap.answer import AnswerBody, AnswerFile, Outstanding
from protocol.airgap.request import ClockEvidence, OpenedRequest, Request, RequestFile
from protocol.encoding import sha256_hex
from protocol.evidence import ClockInfo, EndorsementEvidence, KeyEvidence
from protocol.ids import AirgapRequestId, NodeId, TenantId
from protocol.messages.activation import TrustPin
from protocol.messages.sessions import StatementAnswer
from protocol.signed import envelope
from protocol.signed.envelope import KeyRing, VerificationKey
from protocol.signed.freshness import TYP_FRESHNESS

MADE = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
TRUST_DOMAIN = "cascade.example"
REQUEST_ID = AirgapRequestId("agr_01jd7xq2vafw6b8tn4rz9k3mec")
TENANT = TenantId("ten_01jd7xq2vafw6b8tn4rz9k3mec")
NODE = NodeId("node_01jd7xq2vbh5s0d2yq8wv6g7pe")
NODE_KEY = ec.derive_private_key(2001, ec.SECP256R1())
FRESHNESS_KEY = ec.derive_private_key(2002, ec.SECP256R1())
EVIDENCE = KeyEvidence(b"public", b"attestation", b"signature")


def spki(key: ec.EllipticCurvePrivateKey = NODE_KEY) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def a_request(**changes: object) -> Request:
    """A refresh, with these fields changed."""
    values: dict[str, object] = {
        "format": request.FORMAT,
        "kind": "refresh",
        "request": REQUEST_ID,
        "public_key": spki(),
        "nonce": "0123456789abcdefghij",
        "agent_version": "0.1.0",
        "made_at": MADE,
        "clock": ClockEvidence(low=MADE, high=MADE, wall=MADE, tpm=ClockInfo(1000, 1, 0, True)),
        "csr": b"csr",
        "pin": TrustPin(1, "0" * 64),
        "trust_version": 4,
        "root_version": 1,
        "tenant": TENANT,
        "node": NODE,
        "generation": 2,
        "presented": "a.b.c",
        "fingerprint": {"disk_serial": "1" * 64},
    }
    return Request(**(values | changes))  # type: ignore[arg-type]  # the values are those of the fields


def an_activation(**changes: object) -> Request:
    """A first activation."""
    first: dict[str, object] = {
        "kind": "activate",
        "tenant": TenantId(""),
        "node": NodeId(""),
        "generation": 0,
        "presented": "",
        "fingerprint": {},
        "code": "cac_1",
        "endorsement": EndorsementEvidence(b"ek", b"ak"),
    }
    return a_request(**(first | changes))


def signed_request(made: Request, key: ec.EllipticCurvePrivateKey = NODE_KEY) -> RequestFile:
    """The file of a request, signed by a key."""
    body = request.body_of(made)
    signed = request.signed_bytes(body, made.request, key.public_key())
    evidence = msgspec.UNSET if made.kind == "refresh" else EVIDENCE
    return request.assembled(body, signed, key.sign(signed, ec.ECDSA(hashes.SHA256())), evidence)


def opened(**changes: object) -> OpenedRequest:
    return request.open_request(signed_request(a_request(**changes)))


def ring(typ: str = TYP_FRESHNESS) -> KeyRing:
    key = FRESHNESS_KEY
    verification = VerificationKey(
        envelope.key_id(key.public_key()), (typ,), spki(key), MADE - timedelta(days=1), MADE + timedelta(days=60)
    )
    return KeyRing([verification])


def a_body() -> AnswerBody:
    return AnswerBody(tenant=TENANT, node=NODE, generation=2, current=StatementAnswer("a.b.c", "d.e.f"))


def an_answer(to: OpenedRequest, at: datetime = MADE) -> AnswerFile:
    """A plain answer to a request."""
    body = answer.body_of(a_body())
    claims = answer.claims_for(to, body, trust_domain=TRUST_DOMAIN, at=at)
    signature = answer.sign(claims, envelope.key_id(FRESHNESS_KEY.public_key()), FRESHNESS_KEY)
    return AnswerFile(
        "cascade-airgap-answer", signature, body.decode(), trust={"metadata/timestamp.json": '{"signed": 1}'}
    )


def outstanding(to: OpenedRequest) -> Outstanding:
    made = to.request
    return Outstanding(made.kind, made.request, to.sha256_hex, made.nonce, sha256_hex(made.public_key))
