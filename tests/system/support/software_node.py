"""A node without a TPM: Python makes its key and proofs, and its serial numbers are values of the test."""

from cryptography.hazmat.primitives.asymmetric import ec

from lab.cloud import Cloud
from protocol.encoding import sha256_hex
from protocol.hardware import fingerprint
from protocol.ids import ActivationId
from protocol.messages.activation import Activated
from protocol.messages.sessions import (
    TYP_SESSION_PROOF,
    Ask,
    Nonce,
    OpenSession,
    ProofClaims,
    Session,
    StatementAnswer,
)
from protocol.messages.software import (
    PATH_SOFTWARE_ACTIVATIONS,
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
from tests.cloud.fabric.software_machine import SERIALS, sealed, spki_of
from tests.simulators.forged_evidence import request
from tests.system.support.paper_node import SESSIONS
from tests.system.support.wire import Answer, Identity, new_key, once


class SoftwareNode:
    """A machine without a TPM, and its state directory in memory."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.serials = dict(SERIALS)
        self.key = new_key()
        self.salt = b""
        self.activated: Activated | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.cloud.port}"

    def ask(self, path: str, body: object = None, identity: Identity | None = None) -> Answer:
        return once(self.cloud, "fabric", "POST", path, body, identity)

    def start(self, code: str) -> tuple[ActivationId, ProveSoftwareActivation]:
        """Begin an activation, and make its proof. A held key signs the proof too."""
        held, self.key = (self.key, new_key())
        body = StartSoftwareActivation(code, spki_of(self.key), "1.0")
        challenge = self.ask(PATH_SOFTWARE_ACTIVATIONS, body).into(SoftwareChallenge)
        self.salt = challenge.fingerprint_salt
        csr = request(self.key)
        known = self.activated
        claims = SoftwareProofClaims(
            activation=challenge.activation,
            nonce=challenge.nonce,
            csr_sha256=sha256_hex(csr),
            fingerprint=fingerprint(self.salt, self.serials),
            held=HeldGeneration(known.tenant, known.node, known.generation) if known else None,
        )
        held_proof = sealed(held, TYP_SOFTWARE_HELD, claims) if known else ""
        return challenge.activation, ProveSoftwareActivation(
            csr, sealed(self.key, TYP_SOFTWARE_PROOF, claims), held_proof
        )

    def open_session(self) -> Answer:
        assert self.activated is not None
        key = new_key()
        csr = request(key)
        claims = ProofClaims(
            tenant=self.activated.tenant,
            node=self.activated.node,
            generation=self.activated.generation,
            nonce=self.ask("/v1/node/nonces").into(Nonce).nonce,
            method="POST",
            url=self.url + SESSIONS,
            csr_sha256=sha256_hex(csr),
            answer_nonce="n" * 32,
            fingerprint=fingerprint(self.salt, self.serials),
            agent_version="1.0",
        )
        self.session_key = key
        proof = sealed(self.key, TYP_SESSION_PROOF, claims)
        return self.ask(SESSIONS, OpenSession(self.activated.certificate_chain[0], csr, proof))

    def confirm(self) -> StatementAnswer:
        chain = self.open_session().into(Session).certificate_chain
        identity = Identity(self.session_key, chain)
        return self.ask("/v1/node/confirm", Ask("n" * 32), identity).into(StatementAnswer)

    def rekey(self, key: ec.EllipticCurvePrivateKey) -> RenewSoftware:
        assert self.activated is not None
        csr = request(key)
        claims = SoftwareRenewalClaims(
            tenant=self.activated.tenant,
            node=self.activated.node,
            generation=self.activated.generation,
            nonce=self.ask("/v1/node/nonces").into(Nonce).nonce,
            url=self.url + PATH_SOFTWARE_RENEWALS,
            csr_sha256=sha256_hex(csr),
            answer_nonce="n" * 32,
            fingerprint=fingerprint(self.salt, self.serials),
        )
        return RenewSoftware(self.activated.certificate_chain[0], csr, sealed(self.key, TYP_SOFTWARE_RENEWAL, claims))
