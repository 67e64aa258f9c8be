"""Helper: a machine without a TPM, for tests. Its serial numbers are values of the test."""

from dataclasses import dataclass, field

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.mtls.identity import make_csr
from cloud.mtls.peer import NodePeer, read_peer
from protocol.encoding import json_encode, sha256_hex
from protocol.hardware import fingerprint
from protocol.ids import NodeId
from protocol.messages.activation import Activated, AwaitedApproval
from protocol.messages.renewal import Renewed
from protocol.messages.sessions import (
    TYP_SESSION_PROOF,
    Ask,
    OpenSession,
    ProofClaims,
    Session,
    proof_payload,
)
from protocol.messages.software import (
    PATH_SOFTWARE_RENEWALS,
    TYP_SOFTWARE_HELD,
    TYP_SOFTWARE_PROOF,
    TYP_SOFTWARE_RENEWAL,
    HeldGeneration,
    ProveSoftwareActivation,
    RenewSoftware,
    SoftwareChallenge,
    SoftwareProofClaims,
    SoftwareRenewalClaims,
    StartSoftwareActivation,
)
from protocol.signed.envelope import key_id, seal
from protocol.signed.statements import Statement
from tests.cloud.fabric.support import NONCE, URL, World

SERIALS = {
    "product_uuid": "4c4c4544-0042-3510-8054-b4c04f4e5231",
    "board_serial": "7QX1F53.CNWS2003AB00D7",
    "chassis_serial": "7QX1F53",
    "disk_serial": "S4EWNX0R712345",
    "disk_wwn": "0x5002538e40a1b2c3",
    "mac": "a4:bb:6d:01:02:03",
}


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def spki_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def sealed(key: ec.EllipticCurvePrivateKey, typ: str, claims: msgspec.Struct) -> str:
    return seal(typ, key_id(key.public_key()), json_encode(claims), key)


@dataclass
class SoftwareMachine:
    """A machine without a TPM. `held` is what its state directory holds: the key and the ids of its newest generation."""

    world: World
    serials: dict[str, str] = field(default_factory=lambda: dict(SERIALS))
    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    held: tuple[ec.EllipticCurvePrivateKey, HeldGeneration] | None = None
    activated: Activated | None = None
    salt: bytes = b""
    chain: tuple[bytes, ...] = ()
    statement: str = ""

    @property
    def node(self) -> NodeId:
        assert self.activated is not None
        return self.activated.node

    def fingerprint(self) -> dict[str, str]:
        return fingerprint(self.salt, self.serials)

    async def start(self, code: str) -> SoftwareChallenge:
        """Make a new key and start."""
        self.key = new_key()
        body = StartSoftwareActivation(code, spki_of(self.key), "1.0")
        challenge = await self.world.parts.nodes.software_activations.start(body, "192.0.2.9")
        self.salt = challenge.fingerprint_salt
        return challenge

    def proof(self, challenge: SoftwareChallenge, **changes: object) -> ProveSoftwareActivation:
        """The proof; `changes` replaces claims after the held key and before the signatures."""
        csr = make_csr(self.key)
        claims = SoftwareProofClaims(
            activation=challenge.activation,
            nonce=challenge.nonce,
            csr_sha256=sha256_hex(csr),
            fingerprint=self.fingerprint(),
            held=self.held[1] if self.held else None,
        )
        claims = msgspec.structs.replace(claims, **changes)
        held = sealed(self.held[0], TYP_SOFTWARE_HELD, claims) if self.held else ""
        return ProveSoftwareActivation(csr, sealed(self.key, TYP_SOFTWARE_PROOF, claims), held)

    async def send(self, challenge: SoftwareChallenge, body: ProveSoftwareActivation) -> Activated | AwaitedApproval:
        digest = sha256_hex(json_encode(body))
        answer = await self.world.parts.nodes.software_activations.prove(challenge.activation, body, digest)
        if isinstance(answer, Activated):
            self.activated, self.chain = answer, answer.certificate_chain
            self.held = (self.key, HeldGeneration(answer.tenant, answer.node, answer.generation))
        return answer

    async def waits(self, code: str) -> tuple[SoftwareChallenge, ProveSoftwareActivation]:
        """Start, and prove an activation that a person must approve."""
        challenge = await self.start(code)
        body = self.proof(challenge)
        assert isinstance(await self.send(challenge, body), AwaitedApproval)
        return challenge, body

    async def activate(self, code: str) -> Activated:
        challenge = await self.start(code)
        answer = await self.send(challenge, self.proof(challenge))
        assert isinstance(answer, Activated)
        return answer

    async def join(self, code: str) -> Statement:
        """Activate, confirm and receive the first statement."""
        await self.activate(code)
        return await self.confirm()

    def session_request(self, **changes: object) -> OpenSession:
        assert self.activated is not None
        csr = make_csr(new_key())
        claims = ProofClaims(
            tenant=self.activated.tenant,
            node=self.activated.node,
            generation=self.activated.generation,
            nonce=self.world.parts.nodes.sessions.make_nonce().nonce,
            method="POST",
            url=f"{URL}/v1/node/sessions",
            csr_sha256=sha256_hex(csr),
            answer_nonce=NONCE,
            fingerprint=self.fingerprint(),
            agent_version="1.0",
            lease_version=2,
        )
        claims = msgspec.structs.replace(claims, **changes)
        proof = seal(TYP_SESSION_PROOF, key_id(self.key.public_key()), proof_payload(claims), self.key)
        return OpenSession(self.chain[0], csr, proof, self.statement)

    async def session(self, **changes: object) -> Session:
        return await self.world.parts.nodes.sessions.open_session(self.session_request(**changes))

    async def peer(self) -> NodePeer:
        chain = (await self.session()).certificate_chain
        peer = read_peer(x509.load_der_x509_certificate(chain[0]), self.world.trust)
        assert isinstance(peer, NodePeer)
        return peer

    async def confirm(self) -> Statement:
        peer = await self.peer()
        answer = await self.world.parts.nodes.confirmations.confirm(peer, Ask(NONCE))
        self.statement = answer.statement
        return self.world.verified(answer, peer)

    def renewal(self, key: ec.EllipticCurvePrivateKey, **changes: object) -> RenewSoftware:
        """The request of a renewal for `key`; the key in force signs."""
        assert self.activated is not None
        csr = make_csr(key)
        claims = SoftwareRenewalClaims(
            tenant=self.activated.tenant,
            node=self.activated.node,
            generation=self.activated.generation,
            nonce=self.world.parts.nodes.sessions.make_nonce().nonce,
            url=URL + PATH_SOFTWARE_RENEWALS,
            csr_sha256=sha256_hex(csr),
            answer_nonce=NONCE,
            fingerprint=self.fingerprint(),
        )
        claims = msgspec.structs.replace(claims, **changes)
        return RenewSoftware(self.chain[0], csr, sealed(self.key, TYP_SOFTWARE_RENEWAL, claims))

    async def renew(self, body: RenewSoftware) -> Renewed:
        return await self.world.parts.nodes.software_renewals.renew(body)
