"""Fabric and Breakwater in one process over real mTLS: routes, guard, wiring, driver, the way down."""

import asyncio
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx
import msgspec
import pytest
from cryptography import x509
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
from cloud.http.guard import ANONYMOUS, NODE, OPERATOR, routes_of
from cloud.mtls.chain import chain_to_pem
from cloud.mtls.client import AnswerUnusable, CloudClient, ProblemAnswer, ServerCheck, client_context, expected_service
from cloud.mtls.identity import make_csr
from cloud.process.serve import Served, Unit, running
from cloud.process.settings import load_settings
from cloud.storage import Statement
from cloud.tasks.stopping import Stopping
from protocol.encoding import sha256_hex
from protocol.evidence import ClockInfo
from protocol.messages.activation import Activated, Challenge, ProveActivation, StartActivation
from protocol.messages.renewal import PATH_RENEWALS
from protocol.messages.sessions import (
    Ask,
    Certificate,
    Events,
    Nonce,
    OpenSession,
    ProofClaims,
    Session,
    StatementAnswer,
)
from protocol.problems import ProblemDocument
from protocol.signed.envelope import KeyRing
from protocol.signed.freshness import verify_freshness
from protocol.signed.statements import Lease, Revocation, verify_statement
from protocol.signed.statements import Statement as Word
from protocol.signed.trust import SigningKeys
from tests.cloud.breakwater.support import PASSPHRASE, TRUST_DOMAIN
from tests.cloud.breakwater.support import plan_for as breakwater_plan
from tests.cloud.fabric.support import ALICE, FINGERPRINT, NONCE, Entropy, Machine, plan_for
from tests.cloud.world import connected, listening, port_of, unit_of
from tests.simulators.forged_evidence import PaperChip, maker

pytestmark = pytest.mark.slow

NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME: the certificates of `home` are of the tests' own day."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    bound = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in bound]
    for each in bound:
        each.close()
    return ports


@dataclass
class Cloud:
    """Both services at work, and clients of them."""

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
        """The signing keys as they are published."""
        query = Statement("SELECT data FROM tuf_target WHERE id LIKE '%.signing-keys.json'")
        row = await self.fabric.parts.stores.engine.fetch_one(query)
        assert row is not None
        return msgspec.json.decode(row["data"], type=SigningKeys).ring()


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    """`cascade init` and `cascade up`, so to say."""
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
    """A machine that speaks HTTP."""

    cloud: Cloud
    label: str = "ek"
    node_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    activated: Activated | None = None

    async def activate(self, code: str) -> Activated:
        anonymous = self.cloud.client()
        chip = Machine(None, self.label)  # type: ignore[arg-type]  # only its chip is used here
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
    return refused.value.problem


async def test_a_life_over_the_wire(cloud: Cloud) -> None:
    _, code = await make_code(cloud)
    ring = await cloud.ring()
    remote = Remote(cloud)
    activated = await remote.activate(code.secret)
    session, node = await remote.connect()
    assert session.current.statement == ""
    assert (await problem(node, "POST", "/v1/node/statement", Ask(NONCE))).code == "conflict"
    answer = (await node.call("POST", "/v1/node/confirm", Ask(NONCE))).into(StatementAnswer)
    assert isinstance(remote.verified(answer.statement, answer.freshness, ring), Lease)
    cursor = (await node.call("GET", "/v1/node/events?cursor=0&wait=30")).into(Events).cursor
    poll = asyncio.create_task(node.call("GET", f"/v1/node/events?cursor={cursor}&wait=30", seconds=40))
    await asyncio.sleep(0.1)
    began = asyncio.get_running_loop().time()
    operator = cloud.operator()
    path = f"/v1/nodes/{activated.node}"
    shown = (await operator.call("POST", f"{path}/revoke", schemas.ChangeStanding("stolen"))).into(schemas.Node)
    assert shown.standing == "revoked"
    await poll
    assert asyncio.get_running_loop().time() - began < 1
    refused = await problem(node, "POST", "/v1/node/statement", Ask(NONCE))
    assert refused.code == "generation_closed"
    told = verify_statement(refused.statement, ring, TRUST_DOMAIN).statement
    assert isinstance(told, Revocation)
    body, _ = await remote.ask_for_session()
    refused = await problem(cloud.client(), "POST", "/v1/node/sessions", body)
    assert remote.verified(refused.statement, refused.freshness, ring) == told
    for _ in range(100):
        shown = (await operator.call("GET", path)).into(schemas.NodeDetail).node
        if not shown.closing:
            break
        await asyncio.sleep(0.05)
    assert not shown.closing
    actions = (await operator.call("GET", f"/v1/audit?object={activated.node}")).into(schemas.Page[schemas.AuditEntry])
    assert {entry.action for entry in actions.items} == {
        "activation.proved",
        "activation.issued",
        "activation.confirmed",
        "node.revoke",
        "revocation.told",
        "generation.closed_at_issuer",
    }
    assert code.secret not in str(actions)


async def test_a_shutdown_ends_long_polls(cloud: Cloud) -> None:
    _, code = await make_code(cloud)
    remote = Remote(cloud)
    await remote.activate(code.secret)
    _, node = await remote.connect()
    await node.call("POST", "/v1/node/confirm", Ask(NONCE))
    cursor = (await node.call("GET", "/v1/node/events?cursor=0&wait=0")).into(Events).cursor
    poll = asyncio.create_task(node.call("GET", f"/v1/node/events?cursor={cursor}&wait=200", seconds=250))
    await asyncio.sleep(0.1)
    cloud.stopping.request()
    async with asyncio.timeout(2):
        assert (await poll).into(Events).cursor == cursor


async def test_operators(cloud: Cloud) -> None:
    tenant, code = await make_code(cloud)
    operator = cloud.operator()
    for client in (cloud.client(), cloud.client(token="cot_wrong"), cloud.client(token=code.secret)):
        assert (await problem(client, "GET", "/v1/tenants")).code == "operator_required"
    made = (await operator.call("POST", "/v1/tokens", schemas.CreateToken("ci"))).into(schemas.CreatedToken)
    other = cloud.client(token=made.secret)
    assert (await other.call("GET", f"/v1/tenants/{tenant.id}")).into(schemas.Tenant) == tenant
    revoked = (await operator.call("POST", f"/v1/tokens/{made.token.id}/revoke")).into(schemas.Token)
    assert revoked.revoked_at is not None
    assert (await problem(other, "GET", "/v1/tenants")).code == "operator_required"
    tokens = (await operator.call("GET", "/v1/tokens")).into(schemas.Page[schemas.Token])
    assert [token.name for token in tokens.items] == ["init", "ci"]
    # No token revokes itself, so a valid one is always left.
    assert (await problem(operator, "POST", f"/v1/tokens/{tokens.items[0].id}/revoke")).code == "conflict"
    for number in range(4):
        await operator.call("POST", "/v1/tenants", schemas.CreateTenant(f"tenant {number}"))
    seen, cursor = [], ""
    while True:
        page = (await operator.call("GET", f"/v1/tenants?limit=2&cursor={cursor}")).into(schemas.Page[schemas.Tenant])
        seen += [item.name for item in page.items]
        if not (cursor := page.next_cursor):
            break
    assert seen == ["Presses", "tenant 0", "tenant 1", "tenant 2", "tenant 3"]
    tiers = await operator.call("PUT", f"/v1/tenants/{tenant.id}/trust/tiers", schemas.SetTiers(("tpm", "attested")))
    assert tiers.into(schemas.TenantTrust).tiers == ("attested", "tpm")
    allowed = schemas.AllowEk("000B" + "aB" * 32, "the one in the hall")
    for _ in range(2):
        answer = await operator.call("POST", f"/v1/tenants/{tenant.id}/trust/ek-allowed", allowed)
        assert [entry.note for entry in answer.into(schemas.TenantTrust).ek_allowed] == ["the one in the hall"]
    codes = (await operator.call("GET", f"/v1/tenants/{tenant.id}/codes")).into(schemas.Page[schemas.Code])
    assert [(item.id, item.state) for item in codes.items] == [(code.code.id, "open")]
    back = (await operator.call("POST", f"/v1/codes/{code.code.id}/revoke")).into(schemas.Code)
    assert back.state == "revoked"
    assert (await operator.call("GET", "/v1/nodes")).into(schemas.Page[schemas.Node]).items == ()
    audit = (await operator.call("GET", "/v1/audit?action=code.revoked")).into(schemas.Page[schemas.AuditEntry])
    first = tokens.items[0]
    assert [(entry.actor, entry.object) for entry in audit.items] == [(f"operator:{first.id}", code.code.id)]


async def test_bad_requests(cloud: Cloud) -> None:
    tenant, _ = await make_code(cloud)
    operator = cloud.operator()
    codes = f"/v1/tenants/{tenant.id}/codes"
    tomorrow = utc_now() + timedelta(days=1)
    for path, body in (
        ("/v1/tenants", schemas.CreateTenant(" ")),
        ("/v1/tenants", schemas.CreateTenant("x" * 129)),
        ("/v1/tenants", {"name": "x", "colour": "red"}),
        ("/v1/tenants", {"name": 1}),
        (codes, schemas.CreateCode("p", utc_now() - timedelta(days=1))),
        (codes, schemas.CreateCode("p", tomorrow, ("a", "a"))),
        (codes, schemas.CreateCode("p", tomorrow, seats=0)),
        (codes, schemas.CreateCode("p", tomorrow, lease=schemas.LeaseTerms(9, 8, 7, 6))),
        (codes, schemas.CreateCode("p", tomorrow, readmit_node=tenant.id)),  # type: ignore[arg-type]
        (f"/v1/tenants/{tenant.id}/trust/ek-roots", schemas.AddEkRoots("no certificate")),
        (f"/v1/tenants/{tenant.id}/trust/ek-allowed", schemas.AllowEk("000b12")),
        ("/v1/tokens", schemas.CreateToken("old", utc_now() - timedelta(days=1))),
    ):
        assert (await problem(operator, "POST", path, body)).code == "invalid", path
    for path in ("/v1/tenants/ten_x", f"/v1/tenants/{tenant.id[:-1]}z", "/v1/nodes/node_x", f"/v1/nodes/{tenant.id}"):
        assert (await problem(operator, "GET", path)).code == "not_found"
    for path in ("/v1/tenants?cursor=!", "/v1/tenants?limit=0", "/v1/tenants?limit=x", "/v1/nodes?standing=odd"):
        assert (await problem(operator, "GET", path)).code == "invalid"
    missing = await problem(
        operator, "POST", "/v1/nodes/node_01jd8xk3v5e2r9qz7w4m6n8p0a/revoke", schemas.ChangeStanding()
    )
    assert missing.code == "not_found"
    assert (await problem(cloud.client(), "GET", "/v1/node/events")).code == "peer_required"
    unknown = StartActivation("cac_nonsense", Machine(None).evidence(), "1.0")  # type: ignore[arg-type]
    assert (await problem(cloud.client(), "POST", "/v1/activations", unknown)).code == "code_refused"


async def test_the_repository_is_read_only_and_plain(cloud: Cloud) -> None:
    async with httpx.AsyncClient(base_url=cloud.repository_url, trust_env=False) as http:
        root = await http.get("/tuf/metadata/1.root.json")
        assert (root.status_code, sha256_hex(root.content)) == (200, cloud.made.pin.sha256)
        assert (await http.get("/tuf/metadata/timestamp.json")).headers["cache-control"] == "no-cache"
        for path in ("/tuf/metadata/2.root.json", "/tuf/metadata/x", "/tuf/targets/x", "/v1/tenants", "/"):
            assert (await http.get(path)).status_code == 404
        assert (await http.post("/tuf/metadata/1.root.json")).status_code == 405
        assert (await http.get("/healthz")).json() == {"status": "ok"}


async def test_health(cloud: Cloud) -> None:
    for path in ("/healthz", "/readyz"):
        assert (await cloud.client().call("GET", path)).into(schemas.Health).status == "ok"
    with pytest.raises(AnswerUnusable):
        (await cloud.client().call("GET", "/healthz")).into(Challenge)


async def test_every_route_says_whom_it_admits(cloud: Cloud) -> None:
    routes = list(routes_of(cloud.fabric.api))
    for route in routes:
        wanted = (OPERATOR,)
        if (
            route.path in ("/healthz", "/readyz", "/metrics", "/v1/node/nonces", "/v1/node/sessions")
            or "activations" in route.path
            or route.path.startswith(PATH_RENEWALS)
        ):
            wanted = (ANONYMOUS,)
        elif route.path.startswith("/v1/node/"):
            wanted = (NODE,)
        assert route.peers == wanted, route.path
    assert len(routes) == 37
    assert {route.peers for route in routes_of(cloud.fabric.repository)} == {(ANONYMOUS,)}


async def test_two_fabrics_listen_in_one_process_each_with_its_own_database(home: Path, tmp_path: Path) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(str(home / "fabric" / "certs" / "root.pem"))
    client.verify_flags |= NO_CHECK_TIME
    async with AsyncExitStack() as stack:
        clients, tokens = [], []
        for name in ("one", "other"):
            shutil.copytree(home, tmp_path / name)
            settings = load_settings(tmp_path / name / "fabric" / "settings.toml", FabricSettings)
            fabric = await stack.enter_async_context(opened(settings))
            servers = await stack.enter_async_context(listening(unit_of(*fabric.served.listeners)))
            clients.append(await stack.enter_async_context(connected(port_of(servers[0]), client)))
            made = await fabric.parts.operators.tokens.create(ALICE, schemas.CreateToken(name))
            await fabric.parts.operators.tenants.create(ALICE, schemas.CreateTenant(f"of {name}"))
            tokens.append({"authorization": f"Bearer {made.secret}"})
        asked = [each.ask("/v1/tenants", headers=token) for each, token in zip(clients, tokens, strict=True)]
        for answer, name in zip(await asyncio.gather(*asked), ("one", "other"), strict=True):
            page = msgspec.json.decode(answer.body, type=schemas.Page[schemas.Tenant])
            assert [tenant.name for tenant in page.items] == [f"of {name}"]
        for each, token in zip(clients, reversed(tokens), strict=True):
            assert (await each.ask("/v1/tenants", headers=token)).problem.code == "operator_required"


async def test_init_leaves_no_key_readable(cloud: Cloud) -> None:
    for path in cloud.directory.rglob("*"):
        if path.is_file() and path.name != "passphrase":
            assert path.stat().st_mode & 0o077 == 0, path
            content = path.read_bytes()
            assert cloud.made.token.encode() not in content
            assert b"BEGIN PRIVATE KEY" not in content
    certificate = x509.load_pem_x509_certificate((cloud.directory / "fabric" / "certs" / "nodes-ca.pem").read_bytes())
    assert certificate.subject
