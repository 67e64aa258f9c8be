"""Helper: an open Fabric for tests, over a real database and with a real Breakwater in the same process.

Machines have paper chips. The test moves the clock.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.breakwater.errors import IssuerError
from cloud.breakwater.generations import Generations
from cloud.breakwater.issuance.issuing import Issuing
from cloud.breakwater.parts import Parts as BreakwaterParts
from cloud.breakwater.routes.problems import CODES as BREAKWATER_CODES
from cloud.contracts.breakwater import (
    CloseGeneration,
    CloseGenerations,
    GenerationsPage,
    IssueNodeCertificate,
    OpenGeneration,
    SupersedeKeys,
)
from cloud.events.doorbell import Doorbell
from cloud.fabric import schemas
from cloud.fabric.background import Background
from cloud.fabric.bootstrap import Plan
from cloud.fabric.errors import IssuerRefused, IssuerUnavailable
from cloud.fabric.issuer import Issuer
from cloud.fabric.licensing.signing import Signer, read_signer
from cloud.fabric.licensing.standing import Change
from cloud.fabric.parts import Parts, make_background, make_parts
from cloud.fabric.secrets import read_secrets
from cloud.fabric.service.nodes.sessions import PATH_SESSIONS
from cloud.fabric.service.operators.activations import Decision
from cloud.fabric.service.published_trust.follower import Follower
from cloud.fabric.store import Stores, stores_over
from cloud.fabric.store.rows import ActivationRow, GenerationRow, NodeRow, TokenRow
from cloud.fabric.tuf.bootstrap import read_online_signers
from cloud.fabric.tuf.current_trust import CurrentTrust
from cloud.fabric.wake import WakeRoom
from cloud.fabric.wiring.part_groups import Ports
from cloud.http.guard import Operator
from cloud.mtls.identity import make_csr
from cloud.mtls.peer import NodePeer, PeerTrust, read_peer
from cloud.storage import ServiceEngine, StorageNotOpen
from lab.postgres import copy_database, located
from protocol.codes import secret_hash
from protocol.encoding import json_encode, sha256_hex
from protocol.evidence import ClockInfo, EndorsementEvidence, NvCounter
from protocol.ids import ActivationId, NodeId, TenantId, TokenId
from protocol.limits import APPROVE_WITHIN, CONFIRM_WITHIN
from protocol.messages.activation import Activated, AwaitedApproval, Challenge, ProveActivation, StartActivation
from protocol.messages.sessions import (
    TYP_SESSION_PROOF,
    Ask,
    Certificate,
    OpenSession,
    ProofClaims,
    Session,
    StatementAnswer,
    proof_payload,
)
from protocol.signed.envelope import KeyRing, key_id, seal
from protocol.signed.freshness import verify_freshness
from protocol.signed.statements import Statement, Tier, verify_statement
from tests.cloud.breakwater.support import PASSPHRASE, START, TRUST_DOMAIN, Clock, issuer_at
from tests.cloud.fabric.published import check_published
from tests.cloud.fabric.watched import Watched
from tests.simulators.forged_evidence import AK_ATTRIBUTES, PaperChip, ek_public, maker, p256, rsa2048, signing_public
from tests.waiting import waiters

URL = "https://fabric.cascade.test:8440"
ALICE = Operator("tok_alice", "alice")
ALICES_TOKEN = TokenRow(TokenId(ALICE.id), ALICE.name, secret_hash("cot"), START, None, None)
"""The row of her token. The hash is of no token, so she calls use cases only."""
NONCE = "n" * 32
FINGERPRINT = {"board_serial": "ab" * 32}


def plan_for(directory: Path, ca: tuple[bytes, bytes, bytes]) -> Plan:
    """A plan for Fabric beside a Breakwater that `cascade init` has made."""
    return Plan(
        directory=directory / "fabric",
        offline=directory / "offline",
        trust_domain=TRUST_DOMAIN,
        fabric_url=URL,
        breakwater_url="https://breakwater.cascade.test:8441",
        root=ca[0],
        nodes_ca=ca[1],
        services_ca=ca[2],
        listen="127.0.0.1",
        port=0,
        tuf_port=0,
        passphrase=PASSPHRASE,
        passphrase_file="../passphrase",
    )


class Entropy:
    """The system's entropy. It keeps the last value of each length: a paper chip finds a challenge's secret there."""

    def __init__(self) -> None:
        self.last: dict[int, bytes] = {}

    def __call__(self, count: int) -> bytes:
        self.last[count] = os.urandom(count)
        return self.last[count]


@dataclass
class DirectIssuer:
    """The real Breakwater, called without HTTP, with a switch for outages and a log of calls."""

    issuing: Issuing
    generations: Generations
    down: bool = False
    calls: list[str] = field(default_factory=list)
    before: Callable[[str], object] = field(default=lambda name: None)
    after: Callable[[str], object] = field(default=lambda name: None)

    async def list_generations(self, cursor: str) -> GenerationsPage:
        """Not in the log of calls, because it is no command."""
        if self.down:
            raise IssuerUnavailable("the test has switched it off")
        return await self.generations.page(cursor)

    async def open_generation(self, tenant: TenantId, node: NodeId, generation: int) -> None:
        with self._call("open"):
            await self.generations.open("service/fabric", OpenGeneration(tenant, node, generation))

    async def close_generations(self, tenant: TenantId, node: NodeId, up_to: int) -> None:
        with self._call("close"):
            await self.generations.close_up_to("service/fabric", CloseGenerations(tenant, node, up_to))

    async def close_generation(self, tenant: TenantId, node: NodeId, generation: int) -> None:
        with self._call("close_one"):
            await self.generations.close_one("service/fabric", CloseGeneration(tenant, node, generation))

    async def supersede_keys(self, tenant: TenantId, node: NodeId, generation: int, spki_sha256: str) -> None:
        with self._call("supersede"):
            await self.generations.supersede_keys(
                "service/fabric", SupersedeKeys(tenant, node, generation, spki_sha256)
            )

    async def issue_device(
        self, request: str, tenant: TenantId, node: NodeId, generation: int, csr: bytes, not_after: datetime
    ) -> Certificate:
        with self._call("device"):
            body = IssueNodeCertificate(request, tenant, node, generation, csr, not_after)
            return await self.issuing.issue_device("service/fabric", body)

    async def issue_session(
        self, request: str, tenant: TenantId, node: NodeId, generation: int, csr: bytes, not_after: datetime
    ) -> Certificate:
        with self._call("session"):
            body = IssueNodeCertificate(request, tenant, node, generation, csr, not_after)
            return await self.issuing.issue_session("service/fabric", body)

    def _call(self, name: str) -> "_Mapped":
        self.before(name)
        if self.down:
            raise IssuerUnavailable("the test has switched it off")
        self.calls.append(name)
        return _Mapped(lambda: self.after(name))


class _Mapped:
    """Turns Breakwater's refusals into the errors that its routes and Fabric's client would raise."""

    def __init__(self, after: Callable[[], object]) -> None:
        self._after = after

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, IssuerError):
            raise IssuerRefused(BREAKWATER_CODES[type(error)], str(error)) from error
        if error is None:
            self._after()


def waiters_in(room: WakeRoom) -> int:
    """How many polls wait in the room for a change."""
    return sum(waiters(poll.event) for polls in room._waiting.values() for poll in polls)


def waiting_polls(world: "World") -> int:
    """How many polls of this Fabric wait for a change."""
    return waiters_in(world.parts.shared.wake_room)


def doorbell_of(world: "World") -> Doorbell:
    """The doorbell of this Fabric, as the wiring makes it."""
    doorbell = Doorbell(world.stores.engine, world.clock)
    world.parts.shared.wake_room.listen(doorbell)
    return doorbell


@dataclass
class World:
    """An open Fabric, and the parts around it."""

    parts: Parts
    outside: "Outside"
    issuer: DirectIssuer
    clock: Clock
    entropy: Entropy
    tenant: TenantId
    keys: Watched
    """Checks the keys of every transaction."""
    breakwater: BreakwaterParts
    """The parts of the Breakwater that `issuer` calls."""

    @property
    def stores(self) -> Stores:
        return self.parts.stores

    @property
    def follower(self) -> Follower:
        return self.parts.trust.follower

    @property
    def signer(self) -> Signer:
        return self.parts.shared.statement_stream.signer

    @property
    def trust(self) -> PeerTrust:
        """The current trust."""
        return self.parts.current_trust.trust

    @property
    def ring(self) -> KeyRing:
        return KeyRing(self.signer.published(START - timedelta(days=1), START + timedelta(days=3650)))

    async def code(
        self,
        *,
        seats: int = 1,
        profile: str = "standard",
        entitlements: tuple[str, ...] = ("press",),
        readmit: NodeId | None = None,
        lease: schemas.LeaseTerms | None = None,
        life: timedelta = timedelta(days=30),
        terms: tuple[schemas.EntitlementTerms, ...] = (),
        intervals: schemas.LeaseIntervals | None = None,
        approval: bool = False,
        tier_min: Tier = "software",
    ) -> schemas.CreatedCode:
        expires_at = self.clock() + life
        body = schemas.CreateCode(
            profile, expires_at, entitlements, seats, readmit, lease, terms, intervals, approval, tier_min
        )
        return await self.parts.operators.codes.create(ALICE, self.tenant, body)

    async def node(self, node: NodeId) -> NodeRow:
        row = await self.stores.nodes.find(node)
        assert row is not None
        return row

    async def generation(self, node: NodeId, number: int) -> GenerationRow:
        row = await self.stores.nodes.find_generation(node, number)
        assert row is not None
        return row

    async def activation_of(self, node: NodeId, generation: int) -> ActivationRow:
        row = await self.stores.activations.find_by_generation(node, generation)
        assert row is not None
        return row

    async def seats_taken(self, code: schemas.CreatedCode) -> int:
        row = await self.stores.codes.find(code.code.id)
        assert row is not None
        return row.seats_taken

    async def actions(self, subject: str) -> list[str]:
        return [row.action for row in reversed(await self.stores.audit.page("", subject, "", "aud_8", 200))]

    def verified(self, answer: StatementAnswer, peer: NodePeer, nonce: str = NONCE) -> Statement:
        """The statement in an answer, after every check that the protocol requires of a node."""
        verify_freshness(
            answer.freshness,
            self.ring,
            trust_domain=TRUST_DOMAIN,
            node=peer.node,
            generation=peer.generation,
            nonce=nonce,
            statement=answer.statement,
        )
        return self.statement(answer.statement)

    def peer(self, session_certificate: bytes) -> NodePeer:
        """The peer that the guard makes from a session certificate (DER)."""
        peer = read_peer(x509.load_der_x509_certificate(session_certificate), self.trust)
        assert isinstance(peer, NodePeer)
        return peer

    def statement(self, token: str) -> Statement:
        return verify_statement(token, self.ring, TRUST_DOMAIN).statement


@dataclass
class Machine:
    """A machine with a paper chip. Every activation makes a new node key in the chip."""

    world: World
    label: str = "ek"
    node_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    activated: Activated | None = None
    secret: bytes = b""
    held: str = ""
    lease_version: int | msgspec.UnsetType = msgspec.UNSET
    fingerprint: dict[str, str] = field(default_factory=lambda: dict(FINGERPRINT))
    floor: NvCounter | msgspec.UnsetType = msgspec.UNSET

    @property
    def ak(self) -> ec.EllipticCurvePrivateKey:
        return p256(f"ak of {self.label}")

    @property
    def node(self) -> NodeId:
        assert self.activated is not None
        return self.activated.node

    def evidence(self) -> EndorsementEvidence:
        public = rsa2048(self.label).public_key()
        ak_public = signing_public(self.ak.public_key(), AK_ATTRIBUTES)
        return EndorsementEvidence(ek_public(public), ak_public, maker().certify(public))

    async def start(self, code: str) -> Challenge:
        challenge = await self.world.parts.nodes.activations.start(StartActivation(code, self.evidence(), "1.0"))
        self.secret = self.world.entropy.last[32]
        return challenge

    def proof(self, challenge: Challenge) -> ProveActivation:
        self.node_key = ec.generate_private_key(ec.SECP256R1())
        chip = PaperChip(
            ak=self.ak, node_key=self.node_key, nonce_secret=self.secret, nonce_activation=challenge.activation
        )
        paper = chip.prove()
        return ProveActivation(self.secret, paper.csr, paper.key, self.fingerprint)

    async def prove(self, challenge: Challenge, body: ProveActivation) -> Activated:
        digest = sha256_hex(json_encode(body))
        answer = await self.world.parts.nodes.activations.prove(challenge.activation, body, digest)
        assert isinstance(answer, Activated)
        self.activated = answer
        return answer

    async def waits(self, challenge: Challenge, body: ProveActivation) -> AwaitedApproval:
        """Send a proof that a person must approve."""
        digest = sha256_hex(json_encode(body))
        answer = await self.world.parts.nodes.activations.prove(challenge.activation, body, digest)
        assert isinstance(answer, AwaitedApproval)
        return answer

    async def activate(self, code: str) -> Activated:
        """Activate up to the device certificate."""
        challenge = await self.start(code)
        return await self.prove(challenge, self.proof(challenge))

    async def join(self, code: str) -> Statement:
        """Activate, confirm and receive the first statement."""
        await self.activate(code)
        return await self.confirm()

    def claims(self, csr: bytes, **changes: Any) -> ProofClaims:
        assert self.activated is not None
        return msgspec.structs.replace(
            ProofClaims(
                tenant=self.activated.tenant,
                node=self.activated.node,
                generation=self.activated.generation,
                nonce=self.world.parts.nodes.sessions.make_nonce().nonce,
                method="POST",
                url=URL + PATH_SESSIONS,
                csr_sha256=sha256_hex(csr),
                answer_nonce=NONCE,
                fingerprint=self.fingerprint,
                clock=ClockInfo(1, 1, 1, True),
                agent_version="1.0",
                lease_version=self.lease_version,
                floor=self.floor,
            ),
            **changes,
        )

    def sealed(self, claims: ProofClaims, key: ec.EllipticCurvePrivateKey | None = None) -> str:
        signer = key or self.node_key
        return seal(TYP_SESSION_PROOF, key_id(signer.public_key()), proof_payload(claims), signer)

    def ask_for_session(self, key: ec.EllipticCurvePrivateKey | None = None, **changes: Any) -> OpenSession:
        assert self.activated is not None
        csr = make_csr(ec.generate_private_key(ec.SECP256R1()))
        proof = self.sealed(self.claims(csr, **changes), key)
        return OpenSession(self.activated.certificate_chain[0], csr, proof, self.held)

    async def session(self) -> Session:
        return await self.world.parts.nodes.sessions.open_session(self.ask_for_session())

    async def peer(self) -> NodePeer:
        """The peer that the guard makes from the node's session certificate."""
        return self.world.peer((await self.session()).certificate_chain[0])

    def ask(self) -> Ask:
        """A request for the statement, or to confirm."""
        return Ask(NONCE, self.held)

    async def confirm(self) -> Statement:
        peer = await self.peer()
        answer = await self.world.parts.nodes.confirmations.confirm(peer, self.ask())
        self.held = answer.statement
        return self.world.verified(answer, peer)

    async def refresh(self, peer: NodePeer) -> Statement:
        answer = await self.world.parts.nodes.statements.statement(peer, Ask(NONCE, self.held))
        self.held = answer.statement
        return self.world.verified(answer, peer)


@dataclass
class Outside:
    """Ports that a test may replace while Fabric is open."""

    issuer: Issuer
    certificates: dict[str, x509.Certificate] = field(default_factory=dict)

    def ports(self, home: Path, clock: Clock, entropy: Entropy) -> Ports:
        keys = home / "fabric" / "keys"
        return Ports(
            trust_domain=TRUST_DOMAIN,
            public_url=URL,
            confirm_within=CONFIRM_WITHIN,
            approve_within=APPROVE_WITHIN,
            now=clock,
            entropy=entropy,
            signer=read_signer(keys, PASSPHRASE, TRUST_DOMAIN),
            online=read_online_signers(keys, PASSPHRASE),
            issuer=cast(Issuer, _IssuerOf(self)),
            current_trust=CurrentTrust(TRUST_DOMAIN),
            service_certificates=lambda: self.certificates,
            trust_changed=unheard,
        )


class _IssuerOf:
    """Passes each call to the issuer that `outside` holds at that moment."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def __getattr__(self, name: str) -> Any:
        return getattr(self._outside.issuer, name)


@asynccontextmanager
async def world_at(home: Path, databases: Path, clock: Clock, *, first: bool = True) -> AsyncIterator[World]:
    """Open a Fabric and a Breakwater over the databases in `databases`. `first`: make the first tenant."""
    engine, entropy = ServiceEngine("fabric"), Entropy()
    async with issuer_at(home, located(databases, "breakwater"), clock) as breakwater:
        engine.configure(located(databases, "fabric"))
        await engine.open()
        keys = Watched(engine)
        try:
            stores, issuer = stores_over(engine), DirectIssuer(breakwater.issuing, breakwater.generations)
            outside = Outside(issuer)
            secrets = await read_secrets(stores.installation, entropy)
            parts = make_parts(stores, outside.ports(home, clock, entropy), secrets)
            await parts.trust.follower.update()
            tenant = await _tenant(parts) if first else (await parts.stores.tenants.page("", 1))[0].id
            yield World(parts, outside, issuer, clock, entropy, tenant, keys, breakwater.parts)
            with suppress(StorageNotOpen):  # the test has closed the database
                await check_published(engine)
        finally:
            await engine.close()


def copied(home: Path, folder: Path, engine: str = "sqlite") -> Path:
    """Copies of both databases in their state after `cascade init`, in a folder. `located` finds them."""
    for service in ("fabric", "breakwater"):
        copy_database(engine, service, home / service / "database.sqlite", folder)
    return folder


async def unheard() -> None:
    """Does nothing: a test has no TLS contexts to replace."""


async def _tenant(parts: Parts) -> TenantId:
    tenants = parts.operators.tenants
    made = await tenants.create(ALICE, schemas.CreateTenant("Presses Ltd"))
    pem = b"".join(c.certificate.public_bytes(Encoding.PEM) for c in (maker().root, maker().intermediate))
    await tenants.add_ek_roots(ALICE, made.id, schemas.AddEkRoots(pem.decode()))
    return made.id


async def change(world: World, machine: Machine, what: Change, reason: str = "") -> schemas.Node:
    """Change the machine's standing as an operator."""
    return await world.parts.operators.standings.change(ALICE, machine.node, what, reason)


def background(world: World) -> Background:
    """New background work, in its state after a restart."""
    parts = world.parts
    return make_background(world.entropy, parts.shared, parts.nodes, parts.trust, parts.airgap, parts.restored)


async def run_once(world: World, made: Background | None = None) -> None:
    """Run one pass of the background work."""
    await (made or background(world)).run_once(asyncio.get_running_loop().time())


async def decide(world: World, activation: ActivationId, decision: Decision, reason: str = "") -> schemas.Activation:
    """Decide about a waiting activation as an operator."""
    return await world.parts.operators.activation_decisions.decide(ALICE, activation, decision, reason)
