"""Simulator of the operators' side of an exchange without a network: answers requests from the simulated Fabric.

It verifies a request as far as `protocol.airgap` does. It uses the real publisher for the files of the trust, and none of
the cloud's code for answers.
"""

import secrets
from datetime import datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tpm2_pytss.types import TPM2B_NAME, TPM2B_PUBLIC, TPMT_PUBLIC
from tpm2_pytss.utils import make_credential

from cloud.fabric.tuf.targets import build_targets
from protocol.airgap import answer, sealing
from protocol.airgap.answer import ANSWER_LIFE, AnswerBody, AnswerClaims, AnswerFile, Sealed
from protocol.airgap.forms import read_request, to_file
from protocol.airgap.request import OpenedRequest, open_request
from protocol.encoding import sha256
from protocol.endorsement import name_of
from protocol.messages.sessions import StatementAnswer
from protocol.signed.envelope import key_id
from tests.simulators.fabric import DOMAIN, NODE, TENANT, Fabric, utc_now
from tests.simulators.repository import Repository

SALT = bytes(range(32))


class Answerer:
    """Answers requests. `repository` has the trust of the simulated Fabric. `received` are the opened requests."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.repository = Repository(self.targets(), utc_now())
        self.received: list[OpenedRequest] = []
        self.claims: dict[str, object] = {}
        """Claims of every later answer, in the place of the usual ones."""
        self.carries_trust = True
        self.renews = False
        """Whether the answer to a refresh has a new device certificate."""

    def targets(self) -> dict[str, bytes]:
        """The three targets of the simulated Fabric."""
        fabric = self.fabric
        return build_targets(
            keys=fabric.verification_keys(),
            trust_domain=DOMAIN,
            roots=fabric.bundle.roots,
            node_issuers=fabric.bundle.node_issuers,
            service_issuers=fabric.bundle.service_issuers,
            fabric_url=fabric.urls.fabric,
            breakwater_url=fabric.urls.breakwater,
            repository_url="",
        )

    def trust(self, above: int = 0) -> dict[str, str]:
        """The files of the repository with the roots above a version."""
        store = self.repository.store
        files = {"metadata/timestamp.json": store.newest("timestamp").data}
        for role in ("snapshot", "targets"):
            newest = store.newest(role)
            files[f"metadata/{newest.version}.{role}.json"] = newest.data
        for (role, version), file in store.files.items():
            if role == "root" and version > above:
                files[f"metadata/{version}.root.json"] = file.data
        for (name, digest), content in store.contents.items():
            files[f"targets/{digest}.{name}"] = content
        return {path: data.decode() for path, data in files.items()}

    def answer(self, data: bytes, at: datetime | None = None, life: timedelta = ANSWER_LIFE) -> bytes:
        """The answer to a request, as a file."""
        opened = open_request(read_request(data))
        self.received.append(opened)
        return to_file(self.answered(opened, at or utc_now(), life))

    def answered(self, opened: OpenedRequest, at: datetime, life: timedelta = ANSWER_LIFE) -> AnswerFile:
        request, fabric = opened.request, self.fabric
        chain: tuple[bytes, ...] = ()
        if request.kind != "refresh":
            fabric.last_generation = max(fabric.last_generation, request.held_generation) + 1
            fabric.confirmed = fabric.last_generation
            fabric.say(fabric.lease())
        if request.kind != "refresh" or self.renews:
            key = x509.load_der_x509_csr(request.csr).public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            chain = fabric.node_chain(key, fabric.confirmed)
        fresh = fabric.freshness(request.nonce, fabric.statement, fabric.confirmed)
        content = answer.body_of(
            AnswerBody(
                tenant=TENANT,
                node=NODE,
                generation=fabric.confirmed,
                current=StatementAnswer(fabric.statement, fresh),
                certificate_chain=chain,
                fingerprint_salt=SALT if request.kind != "refresh" else b"",
            )
        )
        claims = answer.claims_for(opened, content, trust_domain=DOMAIN, at=at, life=life)
        claims = msgspec.structs.replace(claims, **self.claims)
        trust = self.trust(request.root_version) if self.carries_trust else {}
        file = AnswerFile("cascade-airgap-answer", self.sign(claims), trust=trust)
        if request.endorsement is None:
            return msgspec.structs.replace(file, body=content.decode())
        return msgspec.structs.replace(file, sealed=sealed(opened, content))

    def sign(self, claims: AnswerClaims) -> str:
        key = self.fabric.keys["freshness"]
        return answer.sign(claims, key_id(key.public_key()), key)


def sealed(opened: OpenedRequest, content: bytes, ek_public: bytes = b"") -> Sealed:
    """The content, sealed to the chip of the request, or to another EK."""
    evidence = opened.request.endorsement
    assert evidence is not None
    secret, iv = secrets.token_bytes(sealing.SECRET_BYTES), secrets.token_bytes(sealing.IV_BYTES)
    ek = ek_public or evidence.ek_public
    public = TPM2B_PUBLIC(publicArea=TPMT_PUBLIC.unmarshal(ek)[0])
    blob, encrypted = make_credential(public, secret, TPM2B_NAME(name=b"\x00\x0b" + sha256(evidence.ak_public)))
    ciphertext = sealing.seal_body(content, secret, opened.sha256, iv)
    return Sealed(bytes(blob.marshal()), bytes(encrypted.marshal()), name_of(ek), iv, ciphertext)
