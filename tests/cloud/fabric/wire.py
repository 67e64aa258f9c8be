"""Helper: Fabric and Breakwater in one process with real mutual TLS, and a machine that calls them over HTTP."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.breakwater.app import breakwater_unit
from cloud.breakwater.bootstrap import initialise as initialise_breakwater
from cloud.clock import utc_now
from cloud.crypto.keyfile import write_secret
from cloud.fabric import schemas
from cloud.fabric.app import Fabric, opened
from cloud.fabric.bootstrap import AlreadyInitialised, Initialised, initialise
from cloud.fabric.settings import FabricSettings
from cloud.mtls.chain import chain_to_pem
from cloud.mtls.client import CloudClient, ProblemAnswer, ServerCheck, client_context, expected_service
from cloud.mtls.identity import make_csr
from cloud.process.serve import Served, Unit, running
from cloud.process.settings import load_settings
from cloud.storage import Statement
from cloud.tasks.stopping import Stopping
from protocol.encoding import sha256_hex
from protocol.evidence import ClockInfo
from protocol.messages.activation import Activated, Challenge, ProveActivation, StartActivation
from protocol.messages.sessions import (
    Certificate,
    Nonce,
    OpenSession,
    ProofClaims,
    Session,
)
from protocol.problems import ProblemDocument
from protocol.signed.envelope import KeyRing
from protocol.signed.freshness import verify_freshness
from protocol.signed.statements import Statement as Word
from protocol.signed.statements import verify_statement
from protocol.signed.trust import SigningKeys
from tests.cloud.breakwater.support import PASSPHRASE, TRUST_DOMAIN
from tests.cloud.breakwater.support import plan_for as breakwater_plan
from tests.cloud.fabric.support import FINGERPRINT, NONCE, Entropy, Machine, plan_for
from tests.documented import check_problem
from tests.simulators.forged_evidence import PaperChip, maker


def free_ports(count: int) -> list[int]:
    """Free ports of 127.0.0.1."""
    bound = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in bound]
    for each in bound:
        each.close()
    return ports


@dataclass
class Cloud:
    """Both services listening, and clients of them."""

    directory: Path
    made: Initialised
    ports: list[int]
    fabric: Fabric = field(init=False)
    stopping: Stopping = field(default_factory=Stopping)
    entropy: Entropy = field(default_factory=Entropy)
    clients: list[CloudClient] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.ports[0]}"

    @property
    def repository_url(self) -> str:
        return f"http://127.0.0.1:{self.ports[2]}"

    def client(
        self, *, token: str = "", chain: bytes = b"", key: ec.EllipticCurvePrivateKey | None = None
    ) -> CloudClient:
        trust = self.fabric.parts.current_trust.trust
        check = ServerCheck(expected_service(TRUST_DOMAIN, "fabric"), trust, utc_now, lambda serial: False)
        root = (self.directory / "fabric" / "certs" / "root.pem").read_bytes()
        made = CloudClient(self.url, client_context(root, check, chain, key), token=token)
        self.clients.append(made)
        return made

    def operator(self) -> CloudClient:
        return self.client(token=self.made.token)

    async def ring(self) -> KeyRing:
        """The published signing keys."""
        query = Statement("SELECT data FROM tuf_target WHERE id LIKE '%.signing-keys.json'")
        row = await self.fabric.parts.stores.engine.fetch_one(query)
        assert row is not None
        return msgspec.json.decode(row["data"], type=SigningKeys).ring()


@asynccontextmanager
async def cloud_at(tmp_path: Path) -> AsyncIterator[Cloud]:
    """Make and open both services, as `cascade init` and `cascade up` do."""
    write_secret(tmp_path / "passphrase", PASSPHRASE)
    ports = free_ports(3)
    ca = await initialise_breakwater(breakwater_plan(tmp_path, ports[1]), utc_now)
    plan = msgspec.structs.replace(
        plan_for(tmp_path, (ca.root, ca.nodes_ca, ca.services_ca)),
        fabric_url=f"https://127.0.0.1:{ports[0]}",
        breakwater_url=f"https://127.0.0.1:{ports[1]}",
        port=ports[0],
        tuf_port=ports[2],
    )
    made = await initialise(plan, utc_now)
    with pytest.raises(AlreadyInitialised):
        await initialise(plan, utc_now)
    it = Cloud(tmp_path, made, ports)
    settings = load_settings(tmp_path / "fabric" / "settings.toml", FabricSettings)

    @asynccontextmanager
    async def fabric() -> AsyncIterator[Served]:
        async with opened(settings, entropy=it.entropy) as it.fabric:
            yield it.fabric.served

    issuer = breakwater_unit(tmp_path / "breakwater" / "settings.toml")
    async with running(issuer) as issuing, running(Unit(name="fabric", open=fabric)) as serving:
        listeners = [
            asyncio.create_task(server.serve_until(it.stopping)) for server in (*issuing.servers, *serving.servers)
        ]
        background = [asyncio.ensure_future(task(it.stopping)) for task in serving.tasks]
        try:
            yield it
        finally:
            for client in it.clients:
                await client.aclose()
            it.stopping.request()
            async with asyncio.timeout(5):
                await asyncio.gather(*listeners, *background)


@dataclass
class Remote:
    """A machine that calls Fabric over HTTP."""

    cloud: Cloud
    label: str = "ek"
    node_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    activated: Activated | None = None

    async def activate(self, code: str) -> Activated:
        anonymous = self.cloud.client()
        chip = Machine(None, self.label)  # type: ignore[arg-type]  # only the chip of the machine is used here
        answer = await anonymous.call("POST", "/v1/activations", StartActivation(code, chip.evidence(), "1.0"))
        assert answer.status == 201
        challenge = answer.into(Challenge)
        secret = self.cloud.entropy.last[32]
        paper = PaperChip(
            ak=chip.ak, node_key=self.node_key, nonce_secret=secret, nonce_activation=challenge.activation
        ).prove()
        body = ProveActivation(secret, paper.csr, paper.key, FINGERPRINT)
        path = f"/v1/activations/{challenge.activation}/proof"
        first = (await anonymous.call("POST", path, body)).into(Activated)
        assert (await anonymous.call("POST", path, body)).into(Activated) == first
        self.activated = first
        return first

    async def ask_for_session(self) -> tuple[OpenSession, ec.EllipticCurvePrivateKey]:
        assert self.activated is not None
        anonymous = self.cloud.client()
        nonce = (await anonymous.call("POST", "/v1/node/nonces")).into(Nonce)
        key = ec.generate_private_key(ec.SECP256R1())
        csr = make_csr(key)
        claims = ProofClaims(
            tenant=self.activated.tenant,
            node=self.activated.node,
            generation=self.activated.generation,
            nonce=nonce.nonce,
            method="POST",
            url=self.cloud.url + "/v1/node/sessions",
            csr_sha256=sha256_hex(csr),
            answer_nonce=NONCE,
            fingerprint=FINGERPRINT,
            clock=ClockInfo(1, 1, 1, True),
            agent_version="1.0",
        )
        sealed = Machine(None, self.label, self.node_key).sealed(claims)  # type: ignore[arg-type]
        return OpenSession(self.activated.certificate_chain[0], csr, sealed), key

    async def connect(self) -> tuple[Session, CloudClient]:
        body, key = await self.ask_for_session()
        session = (await self.cloud.client().call("POST", "/v1/node/sessions", body)).into(Session)
        return session, self.cloud.client(chain=chain_to_pem(Certificate(session.certificate_chain)), key=key)

    def verified(self, statement: str, freshness: str, ring: KeyRing) -> Word:
        assert self.activated is not None
        number = self.activated.generation
        verify_freshness(
            freshness,
            ring,
            trust_domain=TRUST_DOMAIN,
            node=self.activated.node,
            generation=number,
            nonce=NONCE,
            statement=statement,
        )
        return verify_statement(statement, ring, TRUST_DOMAIN).statement


async def make_code(cloud: Cloud, seats: int = 1) -> tuple[schemas.Tenant, schemas.CreatedCode]:
    operator = cloud.operator()
    tenant = (await operator.call("POST", "/v1/tenants", schemas.CreateTenant("Presses"))).into(schemas.Tenant)
    pem = b"".join(c.certificate.public_bytes(Encoding.PEM) for c in (maker().root, maker().intermediate)).decode()
    trust = f"/v1/tenants/{tenant.id}/trust"
    added = (await operator.call("POST", f"{trust}/ek-roots", schemas.AddEkRoots(pem))).into(schemas.TenantTrust)
    assert len(added.ek_roots) == 2
    body = schemas.CreateCode("standard", utc_now() + timedelta(days=1), ("press",), seats)
    answer = await operator.call("POST", f"/v1/tenants/{tenant.id}/codes", body)
    return tenant, answer.into(schemas.CreatedCode)


async def problem(client: CloudClient, method: str, path: str, body: object = None) -> ProblemDocument:
    with pytest.raises(ProblemAnswer) as refused:
        (await client.call(method, path, body)).into(schemas.Health)
    check_problem("fabric", method, path, refused.value.problem)
    return refused.value.problem
