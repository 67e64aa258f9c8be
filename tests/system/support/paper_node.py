"""Simulated node ("paper node"): Python does the work of the TPM, so that a test can change each message.

The tenant of such nodes trusts the root CA of the simulated maker.
"""

import hmac
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloud.contracts.breakwater import PATH_DEVICE, PATH_OPEN, PATH_SESSION
from lab.cloud import Cloud
from protocol.airgap.request import FORMAT, ClockEvidence, Request, assembled, body_of, signed_bytes
from protocol.encoding import json_encode, sha256_hex
from protocol.evidence import ClockInfo, EndorsementEvidence
from protocol.ids import AirgapRequestId, make_id
from protocol.messages.activation import Activated, Challenge, ProveActivation, StartActivation
from protocol.messages.renewal import (
    PATH_RENEWALS,
    ProveRenewal,
    RenewalChallenge,
    Renewed,
    StartRenewal,
    path_proof,
)
from protocol.messages.sessions import (
    TYP_SESSION_PROOF,
    Ask,
    Certificate,
    Nonce,
    OpenSession,
    ProofClaims,
    Session,
    StatementAnswer,
    proof_payload,
)
from protocol.signed.envelope import key_id, seal
from tests.simulators.forged_evidence import (
    AK_ATTRIBUTES,
    Maker,
    PaperChip,
    ek_public,
    maker,
    name_of,
    p256,
    request,
    rsa2048,
    signing_public,
)
from tests.system.support.wire import Answer, Identity, Wire, new_key, once, request_id, service_identity

SESSIONS = "/v1/node/sessions"


def made_by_the_issuer(cloud: Cloud, tenant: str, node: str, kind: Literal["device", "session"]) -> Identity:
    """A certificate that Breakwater issues for a key in software, with the device or session profile."""
    fabric = service_identity(cloud, "fabric")
    key = new_key()
    with Wire(cloud, "breakwater", fabric) as wire:
        wire.ask("POST", PATH_OPEN, {"tenant": tenant, "node": node, "generation": 1}).into(dict)
        body = {
            "request": request_id(),
            "tenant": tenant,
            "node": node,
            "generation": 1,
            "csr": request(key),
            "not_after": "2034-01-01T00:00:00Z",
        }
        path = PATH_DEVICE if kind == "device" else PATH_SESSION
        return Identity(key, wire.ask("POST", path, body).into(Certificate).certificate_chain)


class PaperNode:
    """A node whose TPM is simulated. `by` is the maker of its chip."""

    def __init__(self, cloud: Cloud, label: str, by: Maker | None = None) -> None:
        self.cloud = cloud
        self.label = label
        self.by = by or maker()
        self.node_key = new_key()
        self.activated: Activated | None = None

    @property
    def ak(self) -> ec.EllipticCurvePrivateKey:
        return p256(f"ak of {self.label}")

    @property
    def tenant(self) -> str:
        assert self.activated is not None
        return self.activated.tenant

    @property
    def node(self) -> str:
        assert self.activated is not None
        return self.activated.node

    @property
    def device(self) -> bytes:
        """The device certificate in DER."""
        assert self.activated is not None
        return self.activated.certificate_chain[0]

    def evidence(self, certified: bool = True) -> EndorsementEvidence:
        public = rsa2048(self.label).public_key()
        ak_public = signing_public(self.ak.public_key(), AK_ATTRIBUTES)
        return EndorsementEvidence(ek_public(public), ak_public, self.by.certify(public) if certified else None)

    def start(self, code: str, evidence: EndorsementEvidence | None = None) -> Answer:
        body = StartActivation(code, evidence or self.evidence(), "1.0")
        return once(self.cloud, "fabric", "POST", "/v1/activations", body)

    def secret(self, challenge: Challenge | RenewalChallenge) -> bytes:
        """`TPM2_ActivateCredential` in software (TPM 2.0 Library Part 1, 24)."""
        seed = rsa2048(self.label).decrypt(
            challenge.encrypted_secret[2:],
            padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\x00"),
        )
        name = name_of(signing_public(self.ak.public_key(), AK_ATTRIBUTES))
        key = hmac.digest(seed, b"\0\0\0\1STORAGE\0" + name + (128).to_bytes(4, "big"), "sha256")[:16]
        sealed, block, plain = challenge.credential_blob[2 + 2 + 32 :], bytes(16), b""
        for at in range(0, len(sealed), 16):  # AES-128-CFB: each block is XORed with the encrypted previous block
            pad = Cipher(algorithms.AES(key), modes.CTR(block)).encryptor().update(bytes(16))
            block = sealed[at : at + 16]
            plain += bytes(a ^ b for a, b in zip(pad, block, strict=False))
        return plain[2:]

    def proof(self, challenge: Challenge, csr: bytes | None = None, **changes: Any) -> ProveActivation:
        """The proof of an activation for a new node key. `csr` replaces the key's CSR, `changes` replaces fields."""
        self.node_key = new_key()
        secret = self.secret(challenge)
        paper = PaperChip(
            ak=self.ak, node_key=self.node_key, nonce_secret=secret, nonce_activation=challenge.activation, csr=csr
        ).prove()
        body = ProveActivation(secret, paper.csr, paper.key, {"board_serial": "ab" * 32})
        return msgspec.structs.replace(body, **changes)

    def prove(self, challenge: Challenge, body: ProveActivation) -> Answer:
        return once(self.cloud, "fabric", "POST", f"/v1/activations/{challenge.activation}/proof", body)

    def activate(self, code: str) -> Activated:
        """Activate up to the device certificate, without the confirmation."""
        challenge = self.start(code).into(Challenge)
        self.activated = self.prove(challenge, self.proof(challenge)).into(Activated)
        return self.activated

    def join(self, code: str) -> Self:
        """Activate and confirm. Fabric returns the first statement."""
        self.activate(code)
        once(self.cloud, "fabric", "POST", "/v1/node/confirm", Ask("n" * 32), self.session()).into(StatementAnswer)
        return self

    def prove_renewal(self, challenge: RenewalChallenge, key: ec.EllipticCurvePrivateKey) -> ProveRenewal:
        """The proof of a renewal, with fresh evidence for `key`."""
        secret = self.secret(challenge)
        paper = PaperChip(ak=self.ak, node_key=key, nonce_secret=secret, nonce_activation=challenge.renewal).prove()
        return ProveRenewal(secret, paper.csr, paper.key, "n" * 32)

    def rekey(self) -> None:
        """Change the node key by a renewal with fresh evidence."""
        assert self.activated is not None
        start = StartRenewal(self.device, self.evidence(), "1.0")
        challenge = once(self.cloud, "fabric", "POST", PATH_RENEWALS, start).into(RenewalChallenge)
        key = new_key()
        proof = self.prove_renewal(challenge, key)
        renewed = once(self.cloud, "fabric", "POST", path_proof(challenge.renewal), proof).into(Renewed)
        self.node_key = key
        self.activated = msgspec.structs.replace(self.activated, certificate_chain=renewed.certificate_chain)

    def claims(self, csr: bytes) -> ProofClaims:
        assert self.activated is not None
        nonce = once(self.cloud, "fabric", "POST", "/v1/node/nonces").into(Nonce)
        return ProofClaims(
            tenant=self.activated.tenant,
            node=self.activated.node,
            generation=self.activated.generation,
            nonce=nonce.nonce,
            method="POST",
            url=f"https://127.0.0.1:{self.cloud.port}{SESSIONS}",
            csr_sha256=sha256_hex(csr),
            answer_nonce="n" * 32,
            fingerprint={"board_serial": "ab" * 32},
            clock=ClockInfo(1, 1, 1, True),
            agent_version="1.0",
        )

    def open_session(
        self,
        csr: bytes,
        *,
        signer: ec.EllipticCurvePrivateKey | None = None,
        device: bytes | None = None,
        **changes: Any,
    ) -> OpenSession:
        """The request for a session. `signer` and `device` replace the node's own, `changes` replaces claims."""
        claims = msgspec.structs.replace(self.claims(csr), **changes)
        signer = signer or self.node_key
        proof = seal(TYP_SESSION_PROOF, key_id(signer.public_key()), proof_payload(claims), signer)
        return OpenSession(device or self.device, csr, proof)

    def carried(self) -> str:
        """A request in a file, as JSON."""
        assert self.activated is not None
        now = datetime.now(UTC)
        public = self.node_key.public_key()
        made = Request(
            format=FORMAT,
            kind="refresh",
            request=AirgapRequestId(make_id("agr", int(now.timestamp() * 1000), os.urandom(10))),
            public_key=public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            nonce="n" * 32,
            agent_version="1.0",
            made_at=now,
            clock=ClockEvidence(low=now, high=now, wall=now, tpm=ClockInfo(1, 1, 1, True)),
            tenant=self.activated.tenant,
            node=self.activated.node,
            generation=self.activated.generation,
            fingerprint={"board_serial": "ab" * 32},
        )
        body = body_of(made)
        signed = signed_bytes(body, made.request, public)
        file = assembled(body, signed, self.node_key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return json_encode(file).decode()

    def session(self) -> Identity:
        key = new_key()
        body = self.open_session(request(key))
        return Identity(key, once(self.cloud, "fabric", "POST", SESSIONS, body).into(Session).certificate_chain)


def paper_tenant(cloud: Cloud, directory: Path) -> str:
    """Make a tenant that trusts the maker of simulated chips. Returns its id."""
    tenant = str(cloud.run("tenant", "create", "paper")["id"])
    roots = directory / "paper-roots.pem"
    roots.write_bytes(maker().root.pem + maker().intermediate.pem)
    cloud.run("hardware", "add-root", tenant, str(roots))
    return tenant


def secret_of(activation_file: Path) -> str:
    """The code in an activation file."""
    return str(json.loads(activation_file.read_text())["code"])
