"""Simulated nodes: nodes with software keys and without TPMs, as many as a benchmark wants, at a running cloud.

A simulated node is a row in Fabric's database, an open generation and a device certificate at Breakwater, and a key in
this process. It opens sessions and fetches statements as any node does. Its activation is left out, because the software
TPM would take most of the time.
"""

import asyncio
import ssl
from datetime import timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks import wire
from benchmarks.floor import TRUST_DOMAIN, new_id, new_keys
from benchmarks.host import Server
from cloud.contracts.breakwater import PATH_DEVICE, PATH_OPEN, PATH_SESSION, IssueNodeCertificate, OpenGeneration
from cloud.events.outbox import Outbox
from cloud.fabric.entropy import system_entropy
from cloud.fabric.settings import FabricSettings
from cloud.fabric.store import stores_over
from cloud.fabric.store.events.first_events import DONE
from cloud.fabric.store.rows import GenerationRow, NodeRow, generation_id
from cloud.mtls.chain import chain_to_pem
from cloud.mtls.client import ServerCheck, client_context, expected_service
from cloud.mtls.identity import load_identity, make_csr
from cloud.mtls.key_pair import load_key_pair
from cloud.mtls.peer import PeerTrust
from cloud.process.settings import load_settings
from cloud.storage.database import open_database
from node.clock import utc_now
from node.config import AGENT_VERSION
from node.exchanges.session import fresh_nonce
from protocol.encoding import sha256_hex
from protocol.evidence import ClockInfo
from protocol.ids import CodeId, NodeId, ServiceName, TenantId
from protocol.messages.sessions import (
    TYP_SESSION_PROOF,
    Ask,
    Certificate,
    Nonce,
    OpenSession,
    ProofClaims,
    Session,
    proof_payload,
)
from protocol.signed import envelope

SESSION_PATH = "/v1/node/sessions"
FINGERPRINT = {"machine_id": "0" * 64, "product_uuid": "1" * 64, "mac": "2" * 64}


class Trust(msgspec.Struct, frozen=True):
    """The CAs of an installation, for TLS contexts of this process."""

    root: bytes
    peers: PeerTrust

    def context(
        self, name: ServiceName, chain_pem: bytes = b"", key: ec.EllipticCurvePrivateKey | None = None
    ) -> ssl.SSLContext:
        """A TLS client context for a service; without a key, the client is anonymous."""
        check = ServerCheck(expected_service(TRUST_DOMAIN, name), self.peers, utc_now, lambda _: False)
        return client_context(self.root, check, chain_pem, key)


def trust_of(directory: Path) -> Trust:
    """Read the CAs of an installation from its files."""
    names = ("root", "nodes-ca", "services-ca")
    loaded = {
        name: x509.load_pem_x509_certificate((directory / "fabric" / "certs" / f"{name}.pem").read_bytes())
        for name in names
    }
    root = loaded["root"].public_bytes(serialization.Encoding.PEM)
    return Trust(root, PeerTrust(TRUST_DOMAIN, (loaded["nodes-ca"],), (loaded["services-ca"],)))


class Node(msgspec.Struct, frozen=True):
    """A node whose only generation is open."""

    tenant: TenantId
    id: NodeId
    key: ec.EllipticCurvePrivateKey

    def asks(self, name: str, key: ec.EllipticCurvePrivateKey) -> IssueNodeCertificate:
        """Fabric's request to Breakwater for a certificate of this node. `name` is the id of the request."""
        end = utc_now() + timedelta(days=60)
        return IssueNodeCertificate(name, self.tenant, self.id, 1, make_csr(key), end)


class Opened(msgspec.Struct, frozen=True):
    """A session of a simulated node: its key, its chain and the answer's statement."""

    key: ec.EllipticCurvePrivateKey
    session: Session


class Fleet:
    """Simulated nodes of a running cloud. Making them takes about 10 ms each."""

    def __init__(self, server: Server, size: int) -> None:
        self._server = server
        self.trust = trust_of(server.directory)
        settings = load_settings(server.directory / "fabric" / "settings.toml", FabricSettings)
        self._location = settings.database_location()
        self._url = settings.public_url.rstrip("/") + SESSION_PATH
        tenant = TenantId(new_id("ten"))
        self.nodes = [Node(tenant, NodeId(new_id("node")), key) for key in new_keys(size)]
        self.devices = self._issue_devices()
        asyncio.run(self._insert())

    def load(
        self, requests: list[bytes], connections: int = wire.CONNECTIONS, warm_up: int = wire.WARM_UP
    ) -> wire.Load:
        """Send requests to Fabric over anonymous connections."""
        server = self._server
        return wire.run(
            requests, pid=server.pid, port=server.port, context=lambda: self.trust.context("fabric"),
            connections=connections, warm_up=warm_up, behind=server.database_seconds,
        )  # fmt: skip

    def _as_fabric(self) -> ssl.SSLContext:
        """A TLS client context for Breakwater with Fabric's certificate."""
        directory = self._server.directory
        identity = load_identity(directory / "fabric" / "tls", directory / "secrets" / "passphrase")
        return self.trust.context("breakwater", identity.chain_pem, identity.key)

    def issuances(self, count: int) -> wire.Load:
        """Request session certificates from Breakwater as Fabric does, for the nodes in turns, each for a new key."""
        server, size = self._server, len(self.nodes)
        keys = new_keys(count + wire.WARM_UP)
        asks = [
            wire.post(PATH_SESSION, self.nodes[number % size].asks(f"issuance-{size}-{number}", key))
            for number, key in enumerate(keys)
        ]
        return wire.run(
            asks, pid=server.pid, port=server.port + 1, context=self._as_fabric, behind=server.database_seconds
        )

    def _issue_devices(self) -> list[bytes]:
        """Open the generations at Breakwater and get the device certificates (DER), with Fabric's certificate."""
        server = self._server
        fabric = self._as_fabric()
        answers = []
        opens = [wire.post(PATH_OPEN, OpenGeneration(node.tenant, node.id, 1)) for node in self.nodes]
        asks = [wire.post(PATH_DEVICE, node.asks(f"device-{node.id}", node.key)) for node in self.nodes]
        for requests in (opens, asks):
            lane = [wire.Lane(fabric, list(reversed(requests)))]
            none = [wire.Lane(fabric, [])]
            answers = list(wire.run_lanes(lane, none, pid=server.pid, port=server.port + 1).answers)
        return [msgspec.json.decode(answer, type=Certificate).certificate_chain[0] for answer in answers]

    async def _insert(self) -> None:
        """Insert the nodes and their generations into Fabric's database."""
        async with open_database("fabric", self._location) as engine:
            outbox = Outbox(engine, "fabric", utc_now, entropy=system_entropy)
            stores = stores_over(engine, outbox)
            for start in range(0, len(self.nodes), 100):
                async with stores.transaction():
                    for node in self.nodes[start : start + 100]:
                        await stores.nodes.insert(_node_row(node), "activated")
                        await stores.nodes.insert_generation(_generation_row(node))
            await stores.first_events.set_place(DONE)  # the walk would disturb what is measured

    def nonces(self, count: int) -> tuple[list[str], wire.Load]:
        """Fetch nonces for session proofs."""
        load = self.load([wire.post("/v1/node/nonces", {}) for _ in range(count)], warm_up=0)
        return [msgspec.json.decode(answer, type=Nonce).nonce for answer in load.answers], load

    def proof(self, number: int, nonce: str, csr: bytes) -> bytes:
        """The request for a session of the node with this number, ready to send."""
        node = self.nodes[number]
        claims = ProofClaims(
            tenant=node.tenant, node=node.id, generation=1, nonce=nonce, method="POST", url=self._url,
            csr_sha256=sha256_hex(csr), answer_nonce=fresh_nonce(), fingerprint=FINGERPRINT,
            clock=ClockInfo(clock=1, reset_count=1, restart_count=1, safe=True), agent_version=AGENT_VERSION,
        )  # fmt: skip
        signed = envelope.signing_input(
            TYP_SESSION_PROOF, envelope.key_id(node.key.public_key()), proof_payload(claims)
        )
        signature = node.key.sign(signed, ec.ECDSA(hashes.SHA256()))
        return wire.post(SESSION_PATH, OpenSession(self.devices[number], csr, envelope.assemble(signed, signature)))

    def session_requests(self, count: int) -> tuple[list[bytes], list[ec.EllipticCurvePrivateKey]]:
        """`count` requests for sessions, of the nodes in turns, each for a new key; and the keys."""
        nonces, _ = self.nonces(count)
        keys = new_keys(count)
        csrs = [make_csr(key) for key in keys]
        size = len(self.nodes)
        return [self.proof(number % size, nonces[number], csrs[number]) for number in range(count)], keys

    def open_sessions(self) -> list[Opened]:
        """Open one session of each node. From then on every node has a stored lease."""
        requests, keys = self.session_requests(len(self.nodes))
        server = self._server
        context = self.trust.context("fabric")
        lane, none = [wire.Lane(context, list(reversed(requests)))], [wire.Lane(context, [])]
        answers = wire.run_lanes(lane, none, pid=server.pid, port=server.port).answers
        return [
            Opened(key, msgspec.json.decode(answer, type=Session)) for key, answer in zip(keys, answers, strict=True)
        ]

    def lanes(self, sessions: list[Opened], request: list[bytes] | None, each: int) -> list[wire.Lane]:
        """A connection for each session, with `each` requests: those given, or refreshes."""
        made = []
        for opened in sessions:
            asks = [wire.post("/v1/node/statement", Ask(fresh_nonce(), opened.session.current.statement))]
            made.append(wire.Lane(self.session_context(opened), (request or asks) * each))
        return made

    @staticmethod
    def bare_context(opened: Opened | None = None) -> ssl.SSLContext:
        """A TLS client context that checks no server, with the certificate of a session or without a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if opened is not None:
            pem = chain_to_pem(Certificate(opened.session.certificate_chain))
            load_key_pair(context, pem, opened.key)
        return context

    def session_context(self, opened: Opened) -> ssl.SSLContext:
        """A TLS client context for Fabric with the certificate of a session."""
        pem = chain_to_pem(Certificate(opened.session.certificate_chain))
        return self.trust.context("fabric", pem, opened.key)


def _node_row(node: Node) -> NodeRow:
    now = utc_now()
    return NodeRow(
        id=node.id, tenant=node.tenant, ek_hash=sha256_hex(node.id.encode()), standing="active", standing_reason="",
        standing_at=now, current_generation=1, last_generation=1, closed_up_to=0, closed_at_issuer=0, closing=False,
        epoch=1, seq=0, code=CodeId("code_benchmark"), seat_held=True, tier="tpm", profile="",
        entitlements=("vision",), lease=None, lease_until=None, wake_cursor=0, created_at=now, confirmed_at=now,
    )  # fmt: skip


def _generation_row(node: Node) -> GenerationRow:
    now = utc_now()
    spki = node.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return GenerationRow(
        id=generation_id(node.id, 1), node=node.id, number=1, state="confirmed", node_public_key=spki, ak_public=b"",
        fingerprint=FINGERPRINT, agent_version=AGENT_VERSION, created_at=now, confirmed_at=now,
        certificate_not_after=now + timedelta(days=60), statement="", statement_type="", seq=0, issued_at=None,
        refresh_after=None, terminate_at=None, told_at=None,
    )  # fmt: skip
