"""Simulator: the routes of Fabric for machines without a TPM, beside a simulated Fabric.

It checks the proofs as the protocol describes them, and signs leases of the tier `software` with the fingerprint that
the machine has sent.
"""

import secrets
from datetime import timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.encoding import json_decode, json_encode, sha256_hex
from protocol.fingerprint import enroll
from protocol.ids import ActivationId, make_id
from protocol.messages.activation import Activated
from protocol.messages.recovery import RecoveryClaim
from protocol.messages.renewal import Renewed
from protocol.messages.software import (
    PATH_SOFTWARE_ACTIVATIONS,
    PATH_SOFTWARE_RENEWALS,
    ProveSoftwareActivation,
    RenewSoftware,
    SoftwareChallenge,
    SoftwareProofClaims,
    SoftwareRenewalClaims,
    StartSoftwareActivation,
    open_software_proof,
    open_software_renewal,
    path_software_proof,
)
from tests.simulators.fabric import DAY, NODE, TENANT, Fabric, Reply, Request, _csr_key, _ok, problem, utc_now

SALT = b"s" * 32


class SoftwareCloud:
    """Adds the routes to `fabric`. `proofs` and `renewals` have the verified claims; `held` the proofs of held keys.

    `claims` has the code and the claim of each start of a recovery.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.proofs: list[SoftwareProofClaims] = []
        self.held: list[str] = []
        self.claims: list[tuple[str, RecoveryClaim]] = []
        self.renewals: list[SoftwareRenewalClaims] = []
        self._answers: dict[bytes, bytes] = {}
        fabric.answers[PATH_SOFTWARE_ACTIVATIONS] = self._start
        fabric.answers[PATH_SOFTWARE_RENEWALS] = self._renew

    async def _start(self, request: Request) -> Reply:
        asked = json_decode(request.body, StartSoftwareActivation)
        if asked.recovery is not msgspec.UNSET:
            self.claims.append((asked.code, asked.recovery))
        activation, nonce = ActivationId(make_id("act", 1, secrets.token_bytes(10))), secrets.token_urlsafe(24)

        async def prove(proof: Request) -> Reply:
            return self._prove(proof, asked.public_key, activation, nonce)

        self.fabric.answers[path_software_proof(activation)] = prove
        return _ok(SoftwareChallenge(activation, nonce, SALT, utc_now() + timedelta(minutes=10), 3), 201)

    def _prove(self, request: Request, public_key: bytes, activation: str, nonce: str) -> Reply:
        if request.body not in self._answers:
            body = json_decode(request.body, ProveSoftwareActivation)
            key = _csr_key(body.csr)
            claims = open_software_proof(body.proof, key)
            if (claims.activation, claims.nonce, claims.csr_sha256) != (activation, nonce, sha256_hex(body.csr)):
                return problem("proof_refused")
            if spki(key) != public_key:
                return problem("proof_refused")
            self.proofs.append(claims)
            self.held.append(body.held_proof)
            self.fabric.lease_fields = {
                "tier": "software",
                "node_key": sha256_hex(public_key),
                "fingerprint": enroll(claims.fingerprint),
            }
            generation = max(self.fabric.last_generation, claims.held.generation if claims.held else 0) + 1
            self.fabric.last_generation = generation
            chain = self.fabric.node_chain(key, generation)
            self._answers[request.body] = json_encode(Activated(TENANT, NODE, generation, chain, utc_now() + DAY))
        return Reply(200, self._answers[request.body])

    async def _renew(self, request: Request) -> Reply:
        body = json_decode(request.body, RenewSoftware)
        device = x509.load_der_x509_certificate(body.device_certificate)
        claims = open_software_renewal(body.proof, device.public_key())
        if (claims.url, claims.csr_sha256) != (self.fabric.urls.fabric + request.path, sha256_hex(body.csr)):
            return problem("proof_refused")
        if claims.generation in self.fabric.closed:
            closed = self.fabric.closed[claims.generation]
            fresh = self.fabric.freshness(claims.answer_nonce, closed, claims.generation)
            return problem("generation_closed", closed, fresh)
        if request.body not in self._answers:
            self.renewals.append(claims)
            chain = self.fabric.node_chain(_csr_key(body.csr), claims.generation)
            self._answers[request.body] = json_encode(Renewed(chain))
            self.fabric.taken = {chain[0]}
        return Reply(200, self._answers[request.body])


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """The SubjectPublicKeyInfo of a key in DER."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
