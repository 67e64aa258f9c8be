"""Benchmarks: what activations, sessions and refreshes cost the cloud, in CPU time and on the wall.

Both services run in one process. So the cost of a session is that of Fabric and Breakwater, with the mTLS between them.
The TPM signs session proofs before the clock starts, so only the server is measured. (Their nonces live for five
minutes.) Activations run whole, one after the other; the software TPM is their limit.
"""

import ssl
import time
from collections.abc import Callable

import msgspec
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from tpm2_pytss.cryptography import tpm_ecc_private_key

from benchmarks import wire
from benchmarks.figures import Figure, progress
from benchmarks.floor import BareIssuer, per_cpu_second, requests_for_keys
from benchmarks.world import World, cpu_seconds
from node.clock import utc_now
from node.config import AGENT_VERSION
from node.disk.identity import Identity
from node.exchanges.session import Credentials, fresh_nonce, open_session
from node.hwbind import fingerprint, keys
from node.hwbind.tpm import Esys, Tpm
from node.licensing.hardware import HardwareCheck
from node.link import api, transport
from protocol.encoding import sha256_hex
from protocol.messages.sessions import TYP_SESSION_PROOF, Ask, Nonce, OpenSession, ProofClaims, proof_payload
from protocol.signed import envelope

ACTIVATIONS = 8
SESSIONS = 400
REFRESHES = 1500
HANDSHAKES = 150


class _Node:
    """The activated node. This process calls the cloud in the place of the agent."""

    def __init__(self, world: World) -> None:
        world.installed()
        self.pid = world.cloud_up()
        self.port = world.cloud.port
        self._tpm = Tpm(world.chip.tcti)
        self.licence = world.state.load_licence(HardwareCheck(self._tpm), utc_now)
        self.trust = self.licence.trust.value

    @property
    def identity(self) -> Identity:
        return self.licence.identity

    def anonymous(self) -> ssl.SSLContext:
        """A TLS client context for Fabric, without a certificate."""
        return transport.client_context(self.trust.bundle, "fabric")

    def with_session(self) -> Callable[[], ssl.SSLContext]:
        """TLS client contexts with the certificate of one new session."""

        async def work() -> Credentials:
            opened = await open_session(self.trust, self.identity, self._tpm, utc_now, self.licence.presented)
            return opened.credentials

        credentials = trio.run(work)

        def context() -> ssl.SSLContext:
            made = transport.client_context(self.trust.bundle, "fabric")
            credentials.key.use(made, credentials.chain)
            return made

        return context

    def load(self, requests: list[bytes], context: Callable[[], ssl.SSLContext]) -> wire.Load:
        return wire.run(requests, pid=self.pid, port=self.port, context=context)

    def proofs(self, nonces: list[str], csrs: list[bytes]) -> list[tuple[bytes, bytes]]:
        """For each nonce and CSR: the bytes to sign, and the TPM's signature of them."""
        components = fingerprint.fingerprint(self.identity.fingerprint_salt, fingerprint.read_components())
        kid = envelope.key_id(self.identity.node_key.public_key())
        url = self.trust.urls.fabric + api.SESSION_PATH

        def sign(esys: Esys) -> list[tuple[bytes, bytes]]:
            clock = keys.read_clock(esys)
            made = []
            with keys.loaded(esys, self.identity.node_key) as (handle,):
                key = tpm_ecc_private_key(esys, handle)
                for nonce, csr in zip(nonces, csrs, strict=True):
                    claims = ProofClaims(
                        tenant=self.identity.tenant, node=self.identity.node, generation=self.identity.generation,
                        nonce=nonce, method="POST", url=url, csr_sha256=sha256_hex(csr), answer_nonce=fresh_nonce(),
                        fingerprint=components, clock=clock, agent_version=AGENT_VERSION,
                    )  # fmt: skip
                    signed = envelope.signing_input(TYP_SESSION_PROOF, kid, proof_payload(claims))
                    made.append((signed, key.sign(signed, ec.ECDSA(hashes.SHA256()))))
            return made

        return self._tpm.call(sign)

    def close(self) -> None:
        self._tpm.close()


def activations(world: World) -> list[Figure]:
    """Measure whole activations of one machine with the same file, one after the other."""
    installed = world.installed()
    pid = world.cloud_up()
    progress(f"activations: {ACTIVATIONS} in sequence, with a software TPM")
    cpu, began = cpu_seconds(pid), time.perf_counter()
    for _ in range(ACTIVATIONS):
        world.activate(installed.file)
    wall, spent = time.perf_counter() - began, cpu_seconds(pid) - cpu
    note = "trust fetched, TPM challenged, certificates issued, confirmed; one at a time: the software TPM is the limit"
    return [
        Figure(name="activations on the wall", value=ACTIVATIONS / wall, unit="/s", note=note),
        Figure(name="activations per core", value=ACTIVATIONS / spent, unit="/s", note=_cost(spent / ACTIVATIONS)),
    ]


def sessions(world: World) -> list[Figure]:
    """Measure sessions for prepared proofs. The floor is the same cryptography in a bare loop."""
    node = _Node(world)
    count = SESSIONS + wire.WARM_UP
    progress(f"sessions: {count} nonces, {count} proofs by the TPM, then {SESSIONS} sessions, and the bare loop")
    csrs = requests_for_keys(count)
    try:
        nonces = node.load([wire.post("/v1/node/nonces", {}) for _ in range(count + wire.WARM_UP)], node.anonymous)
        answers = [msgspec.json.decode(answer, type=Nonce).nonce for answer in nonces.answers[:count]]
        proofs = node.proofs(answers, csrs)
    finally:
        node.close()
    device, presented = node.identity.chain[0], node.licence.presented
    requests = [
        wire.post(api.SESSION_PATH, OpenSession(device, csr, envelope.assemble(*proof), presented))
        for csr, proof in zip(csrs, proofs, strict=True)
    ]
    load = node.load(requests, node.anonymous)
    issuer = BareIssuer(world.cloud.directory)
    ca = x509.load_der_x509_certificate(node.trust.bundle.node_issuers[0])
    signed, signature = proofs[0]

    def bare(csr: bytes) -> None:
        certificate = x509.load_der_x509_certificate(device)
        certificate.verify_directly_issued_by(ca)
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TypeError("the node key is an EC key")
        key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
        issuer.issue(csr)

    floor = per_cpu_second(bare, csrs[:200])
    name = "chain verified, proof verified, request checked, certificate built and signed, in a bare loop on one core"
    return [
        Figure(
            name="sessions per core", value=load.per_server_second, unit="/s", floor=floor, floor_name=name,
            note=f"{_cost(load.server_ms / 1000)}, the nonce's {nonces.server_ms:.2f} ms not counted",
        ),
        Figure(name="sessions on the wall", value=load.per_second, unit="/s", floor=floor),
    ]  # fmt: skip


def refreshes(world: World) -> list[Figure]:
    """Measure refreshes over a session's mTLS. The floor is the cheapest request over the same connections."""
    node = _Node(world)
    progress(f"refreshes: {REFRESHES}, as many GET /healthz, and {HANDSHAKES} new connections")
    try:
        context = node.with_session()
    finally:
        node.close()
    count = REFRESHES + wire.WARM_UP
    asks = [wire.post("/v1/node/statement", Ask(fresh_nonce(), node.licence.presented)) for _ in range(count)]
    health = node.load([wire.get("/healthz")] * count, context)
    load = node.load(asks, context)
    new = wire.handshakes(
        HANDSHAKES, pid=node.pid, port=node.port, context=node.anonymous, request=wire.get("/healthz")
    )
    floor_name = "GET /healthz over the same connections"
    return [
        Figure(
            name="refreshes per core", value=load.per_server_second, unit="/s", floor=health.per_server_second,
            floor_name=floor_name, note=_cost(load.server_ms / 1000),
        ),
        Figure(name="refreshes on the wall", value=load.per_second, unit="/s", floor=health.per_second, floor_name=floor_name),
        Figure(
            name="connection with a TLS handshake", value=new.server_ms, unit="ms", floor=health.server_ms,
            floor_name="GET /healthz on a kept-alive one; the server's CPU time of both",
        ),
    ]  # fmt: skip


def _cost(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms of the server's CPU time each"
