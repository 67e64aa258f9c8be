"""Fleet of simulated nodes in one process: each opens sessions, asks for its statement and renews, over real HTTPS.

The fleet uses the agent's transport and client (`node.link.api`), its update of the published trust
(`node.trust.published`), and its checks of certificates and servers (`node.link.certificates`, `node.link.transport`).
Each node is activated through the API. Two things differ from an agent. The keys are in software. The pace is higher: a
node repeats every `PAUSE_SECONDS` the work of an agent's few hours, and one task checks for new published trust for all
nodes. The fleet counts every request. It never retries. A request that is refused, gets no answer or does not verify
is a failure.
"""

import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

import trio
from cryptography import x509

from lab.cloud import Cloud
from lab.processes import wait_until
from node.clock import utc_now
from node.errors import NodeError
from node.exchanges import schedule
from node.exchanges.session import Credentials, fresh_nonce
from node.link import api
from node.link.certificates import EKU_SESSION, chain_of, check_chain
from node.link.transport import SessionKey
from node.trust import published
from node.trust.published import TrustSet
from protocol.encoding import sha256_hex
from protocol.evidence import ClockInfo
from protocol.ids import EKU_DEVICE, NodeId, NodeSpiffeId, TenantId
from protocol.messages.activation import parse_pin
from protocol.messages.sessions import TYP_SESSION_PROOF, Ask, OpenSession, ProofClaims, StatementAnswer, proof_payload
from protocol.signed.envelope import key_id, seal
from protocol.signed.statements import Lease, is_for, verify_statement
from tests.simulators.forged_evidence import request
from tests.simulators.machine_clocks import right_window
from tests.system.support.paper_node import PaperNode
from tests.system.support.wire import Wire

T = TypeVar("T")

PAUSE_SECONDS = 1.5
SESSION_EVERY, RENEWAL_EVERY = 8, 12
"""The turns between two sessions or renewals of a node. A renewal order or new trust takes effect in the next turn."""
LOOK_SECONDS = 0.2


class FleetNode:
    """A node that has a device certificate."""

    def __init__(self, paper: PaperNode, state: Path, number: int, made: Counter[str]) -> None:
        assert paper.activated is not None
        self.id = paper.node
        self.key = paper.node_key
        self.chain = paper.activated.certificate_chain
        self.generation = paper.activated.generation
        self.tenant = paper.tenant
        self.turns = 0
        self._state = state
        self._phase = number
        self._made = made
        self._csr = request(self.key)
        self._snapshot = 0
        self._trust: TrustSet | None = None
        self._opened_under: TrustSet | None = None
        self._credentials: Credentials | None = None
        self._fabric: api.Service | None = None
        self._statement = ""
        self._lease: Lease | None = None

    @property
    def issuer(self) -> str:
        """The subject of the CA that issued its device certificate."""
        return x509.load_der_x509_certificate(self.chain[0]).issuer.rfc4514_string()

    @property
    def trust(self) -> TrustSet:
        assert self._trust is not None
        return self._trust

    def _due(self, every: int) -> bool:
        return (self.turns + self._phase) % every == 0

    async def _count(self, what: str, work: Awaitable[T]) -> T:
        self._made[what] += 1
        return await work

    async def begin(self, cloud: Cloud) -> None:
        """Fetch the published trust for the first time, with the installation's pin."""
        pin = parse_pin(cloud.env["CASCADE_TRUST"])
        staged = await self._count("trust", published.stage(cloud.env["CASCADE_URL"], pin, self._state))
        await staged.keep()
        self._trust = staged.value

    @property
    def version(self) -> int:
        """The version of its current trust, or 0."""
        return 0 if self._trust is None else self._trust.version

    async def turn(self, snapshot: int) -> None:
        """The work of an agent's few hours. `snapshot` is the version of the published snapshot. Raises NodeError."""
        if snapshot != self._snapshot:
            self._snapshot = snapshot
            self._trust = await self._count("trust", published.refresh(self._state))
        same_trust = self._opened_under is not None and self._opened_under.bundle == self.trust.bundle
        if self._fabric is None or not same_trust or self._due(SESSION_EVERY):
            await self._open_session()
        assert self._fabric is not None
        nonce = fresh_nonce()
        ask = Ask(nonce=nonce, presented=self._statement, trust_version=self.trust.version)
        self._take(await self._count("statement", self._fabric.statement(ask)))
        if self._due(RENEWAL_EVERY) or schedule.device_renewal_ordered(
            self.chain[0], self._lease, utc_now(), self.id, heartbeat_seconds=0
        ):
            await self._renew()
        self.turns += 1

    async def _open_session(self) -> None:
        key, nonce_of_ours, trusted = SessionKey(), fresh_nonce(), self.trust
        service = api.connect(trusted.bundle, trusted.urls, "fabric", right_window)
        try:
            nonce = await self._count("nonce", service.nonce())
            claims = ProofClaims(
                tenant=TenantId(self.tenant),
                node=NodeId(self.id),
                generation=self.generation,
                nonce=nonce.nonce,
                method="POST",
                url=service.base_url + api.SESSION_PATH,
                csr_sha256=sha256_hex(key.csr_der),
                answer_nonce=nonce_of_ours,
                fingerprint={"board_serial": "ab" * 32},
                clock=ClockInfo(1, 1, 1, True),
                agent_version="1.0",
                trust_version=trusted.version,
            )
            proof = seal(TYP_SESSION_PROOF, key_id(self.key.public_key()), proof_payload(claims), self.key)
            body = OpenSession(self.chain[0], key.csr_der, proof, self._statement)
            session = await self._count("session", service.open_session(body))
        finally:
            await service.aclose()
        leaf = self._check(session.certificate_chain, EKU_SESSION, key)
        await self.end()
        dates = leaf.not_valid_before_utc, leaf.not_valid_after_utc
        self._credentials = Credentials(key, session.certificate_chain, *dates)
        self._opened_under = trusted
        self._fabric = self._credentials.connect(trusted, "fabric", right_window)
        self._take(session.current)

    async def _renew(self) -> None:
        """Renew over EST. The next turn opens a session with the new certificate, as an agent's next contact does."""
        assert self._credentials is not None
        service = self._credentials.connect(self.trust, "breakwater", right_window)
        try:
            leaf = await self._count("renewal", service.reenroll(self._csr, f"renew-{sha256_hex(self.chain[0])}"))
        finally:
            await service.aclose()
        chain = chain_of(leaf, self.trust.bundle)
        self._check(chain, EKU_DEVICE)
        assert chain[0] != self.chain[0]
        self.chain = chain
        self._opened_under = None

    def _check(self, chain: tuple[bytes, ...], usage: str, session: SessionKey | None = None) -> x509.Certificate:
        bundle = self.trust.bundle
        return check_chain(
            chain,
            bundle,
            spiffe=NodeSpiffeId(bundle.trust_domain, TenantId(self.tenant), NodeId(self.id)),
            generation=self.generation,
            usage=usage,
            public_key=self.key.public_key() if session is None else session.public_key,
            window=right_window(),
        )

    def _take(self, answer: StatementAnswer) -> None:
        verified = verify_statement(answer.statement, self.trust.signing_keys, self.trust.bundle.trust_domain)
        assert is_for(verified.statement, self.tenant, self.id, self.generation)
        assert isinstance(verified.statement, Lease)
        self._statement, self._lease = answer.statement, verified.statement

    async def end(self) -> None:
        """Close the connection to Fabric."""
        if self._fabric is not None:
            await self._fabric.aclose()
            self._fabric = None


class Fleet:
    """The nodes. They work in a separate thread until the end of the context."""

    def __init__(self, cloud: Cloud, papers: Sequence[PaperNode], directory: Path) -> None:
        self.made: Counter[str] = Counter()
        self.failed: list[str] = []
        self._cloud = cloud
        self.nodes = [FleetNode(paper, directory / paper.node, i, self.made) for i, paper in enumerate(papers)]
        self._thread = threading.Thread(target=self._work, name="fleet")
        self._stopping = False
        self._snapshot = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.round()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the nodes after their current turn."""
        self._stopping = True
        self._thread.join()

    def round(self, times: int = 1) -> None:
        """Wait until every node has made `times` more turns."""
        goal = {node.id: node.turns + times for node in self.nodes}
        self.wait("a turn of every node", lambda: all(node.turns >= goal[node.id] for node in self.nodes))

    def wait(self, what: str, check: Callable[[], object]) -> None:
        """Wait until `check` is true. Raises AssertionError when a node has failed or the fleet has ended."""

        def done() -> bool:
            assert not self.failed, self.failed[:5]
            assert self._thread.is_alive(), "the fleet has ended"
            return bool(check())

        wait_until(what, done)

    @property
    def versions(self) -> set[int]:
        """The versions of the nodes' current trust."""
        return {node.version for node in self.nodes}

    @property
    def issuers(self) -> Counter[str]:
        """The number of nodes for each issuer of their device certificates."""
        return Counter(node.issuer for node in self.nodes)

    def _work(self) -> None:
        try:
            trio.run(self._run)
        except BaseException as error:  # the waiting test reports every error
            self.failed.append(f"the fleet: {error!r}")
            raise

    async def _run(self) -> None:
        self._look()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            for number, node in enumerate(self.nodes):
                nursery.start_soon(self._live, node, PAUSE_SECONDS * number / len(self.nodes))

    def _look(self) -> None:
        with Wire(self._cloud, "repository") as wire:
            timestamp = wire.ask("GET", "/tuf/metadata/timestamp.json").json()
        self._snapshot = timestamp["signed"]["meta"]["snapshot.json"]["version"]
        self.made["look"] += 1

    async def _watch(self) -> None:
        while not self._stopping:
            await trio.to_thread.run_sync(self._look)
            await trio.sleep(LOOK_SECONDS)

    async def _live(self, node: FleetNode, wait_seconds: float) -> None:
        await trio.sleep(wait_seconds)
        await self._tolerate(node, "bootstrap", lambda: node.begin(self._cloud))
        while not self._stopping:
            began = time.monotonic()
            await self._tolerate(node, "turn", lambda: node.turn(self._snapshot))
            await trio.sleep(max(PAUSE_SECONDS - (time.monotonic() - began), 0))
        await node.end()

    async def _tolerate(self, node: FleetNode, what: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except NodeError as error:
            self.failed.append(f"{node.id} {what} {node.turns}: {error!r} {error}")
