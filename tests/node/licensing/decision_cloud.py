"""Simulator: the cloud of one node. It signs, certifies and refuses as Fabric does, without a wire.

`Cloud.open_session` and its neighbours answer in the place of the exchanges of `node.exchanges`. A number says from
which request on an exchange loses its answers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Self, TypeVar, cast

from node.disk.identity import Identity
from node.disk.pending import PendingRenewal
from node.exchanges.renewal import DeviceRenewal
from node.exchanges.session import Credentials, Held, OpenedSession, SessionRefused, fresh_nonce
from node.hwbind import counter, keys
from node.hwbind.fingerprint import Components, Reasons, fingerprint
from node.hwbind.keys import WrappedKey, key_hash
from node.licensing.licence import Licence
from node.link import api
from node.link.certificates import CertificateOutOfTime, Window
from node.trust.published import TrustSet
from protocol import problems
from protocol.evidence import ClockInfo
from protocol.fingerprint import enroll
from protocol.ids import RecoveryId, RenewalId, make_id
from protocol.limits import CLOCK_SKEW
from protocol.messages.renewal import Renewed
from protocol.messages.sessions import Ask, StatementAnswer
from protocol.signed.lease import HardwareFloor
from protocol.signed.statements import Lease, Statement, verify_statement
from tests.node.shells import trust_of
from tests.simulators import fabric as simulator
from tests.simulators.fabric import DOMAIN, NODE, TENANT, Fabric
from tests.simulators.machine_clocks import DAY, START, MachineClocks
from tests.simulators.memory_chip import make_key

T = TypeVar("T")

SALT = bytes(32)
SESSION_LIFE = timedelta(hours=12)
LIFE = 3000 * DAY
"""The life of device certificates. Their dates are not in the model."""
SERIALS = Components(
    {"product_uuid": "4c4c4544-0051", "board_serial": "CNFCP009", "disk_serial": "S3Z8NB0K"}, Reasons()
)
RENEWAL = RenewalId(make_id("ren", 1, bytes(10)))
CASE = RecoveryId(make_id("rcv", 1, bytes(10)))
GRACE = 3 * DAY
"""The life of a grace lease."""


@lru_cache
def fabric_of_all() -> Fabric:
    """One cloud for all examples: its keys take longer to make than an example takes."""
    simulated, simulator.utc_now = simulator.utc_now, lambda: START
    try:
        return Fabric()
    finally:
        simulator.utc_now = simulated


@lru_cache(None)
def node_key(number: int, *, software: bool = False) -> WrappedKey:
    """A node key. The keys of all examples are the same."""
    return keys.create_software_key() if software else make_key()


@lru_cache(None)
def chain_of(public: bytes, generation: int) -> tuple[bytes, ...]:
    """The device certificate of a node key for a generation, and its issuer's."""
    key = WrappedKey(public, b"", b"").public_key()
    return fabric_of_all().node_chain(key, generation, life=LIFE, not_before=START - DAY)


@lru_cache
def trust_of_all() -> TrustSet:
    """The trust of the cloud of all examples."""
    return trust_of(fabric_of_all())


@lru_cache(None)
def statement_of(token: str) -> Statement:
    """The statement of a token of the cloud."""
    return verify_statement(token, trust_of_all().signing_keys, DOMAIN).statement


class Cloud:
    """The cloud of one node. Its answers may not arrive.

    Attributes:
        signed: every statement that it has signed.
        certified: generation -> the public part of the node key that it has certified last.
        away_from: the number of the first request whose answer is lost in this exchange, and after which none arrives;
            -1 loses all requests, None none.
        freshened: how many times of now it has signed.
    """

    def __init__(self, machine: MachineClocks, *, software: bool) -> None:
        self.fabric = fabric_of_all()
        self.fabric.epoch, self.fabric.seq = 1, 0
        self.fabric.confirmed = self.fabric.last_generation = 0
        self.fabric.closed, self.fabric.statement = {}, ""
        self.signed: list[str] = []
        self.certified: dict[int, bytes] = {}
        self.away_from: int | None = None
        self.freshened = 0
        self.promises = False
        self._machine = machine
        self._software = software
        self._requests = 0
        self._made = 0
        self._renewals: dict[bytes, Renewed] = {}

    # Signing

    def say(self, token: str) -> None:
        """Make a new statement the current one."""
        self.signed.append(token)
        self.fabric.statement = token

    def lease(self, **changes: Any) -> str:
        """A new lease of the confirmed generation. It names the counter of the floor once `promises` is set."""
        of_tier: dict[str, Any] = {"floor": HardwareFloor(index=counter.places(f"{DOMAIN}/{NODE}")[0])}
        if self._software:
            of_tier = {"tier": "software", "fingerprint": enroll(fingerprint(SALT, SERIALS))}
        public = WrappedKey(self.certified[self.fabric.confirmed], b"", b"").public_key()
        promised = self.promises or self._software
        return self.fabric.lease(node_key=key_hash(public), **(of_tier if promised else {}), **changes)

    def grace_lease(self) -> str:
        """A grace lease of a recovery, for the key and with the terms of an ordinary lease."""
        ends = self._machine.true + GRACE
        return self.lease(recovery=CASE, expires_at=ends, grace_until=ends, terminate_at=ends)

    def present(self) -> str:
        """The current statement. A lease for a key that is not certified any more is signed again, as Fabric does."""
        current = self.current
        if isinstance(current, Lease):
            key = WrappedKey(self.certified[self.fabric.confirmed], b"", b"")
            if current.node_key != key_hash(key.public_key()):
                self.say(self.lease())
        return self.fabric.statement

    def revoke(self) -> None:
        """Revoke the node, with all of its generations."""
        for generation in range(1, self.fabric.last_generation + 1):
            if generation not in self.fabric.closed:
                self.close(generation, "revoked")
        self.fabric.statement = self.fabric.closed[self.fabric.confirmed]

    def close(self, generation: int, reason: str) -> None:
        """Close a generation by a revocation."""
        self.fabric.closed[generation] = token = self.fabric.revocation(generation, reason)
        self.signed.append(token)

    def freshness(self, nonce: str, token: str, generation: int) -> str:
        """A time of now, for a statement."""
        self.freshened += 1
        return self.fabric.freshness(nonce, token, generation)

    @property
    def current(self) -> Statement:
        """The current statement."""
        return statement_of(self.fabric.statement)

    # Exchanges

    @contextmanager
    def reached(self, away_from: int | None) -> Iterator[None]:
        """In the block, the answers from this number on are lost."""
        self.away_from, self._requests = away_from, 0
        try:
            yield
        finally:
            self.away_from = None

    def ask(self, answer: Callable[[], T]) -> T:
        """Answer a request, or lose the request or its answer."""
        number, self._requests = self._requests, self._requests + 1
        lost = api.CloudUnreachable("cannot reach the cloud: the network is away", code="unreachable")
        if self.away_from is not None and number > self.away_from:
            raise lost
        try:
            return answer()
        finally:
            if number == self.away_from:
                raise lost

    def begin(self) -> Identity:
        """Certify a new key of the machine for its next generation."""

        def certify() -> Identity:
            self.fabric.last_generation += 1
            return self.identity(self.fabric.last_generation, self.another_key())

        return self.ask(certify)

    def another_key(self) -> WrappedKey:
        """A key that the machine has not had yet."""
        self._made += 1
        return node_key(self._made, software=self._software)

    def identity(self, generation: int, key: WrappedKey) -> Identity:
        """The identity of a generation that is certified now."""
        self.certified[generation] = key.public
        return Identity(
            trust_domain=DOMAIN,
            tenant=TENANT,
            node=NODE,
            generation=generation,
            activated_at=START,
            confirm_by=START + DAY,
            fingerprint_salt=SALT,
            ak=keys.NO_KEY if self._software else node_key(0),
            node_key=key,
            chain=chain_of(key.public, generation),
        )

    def check_open(self, generation: int, nonce: str) -> None:
        """Refuse a closed generation, with its revocation. Raises CloudRefused."""
        if (token := self.fabric.closed.get(generation)) is not None:
            raise refusal("generation_closed", token, self.freshness(nonce, token, generation) if nonce else "")

    async def open_session(
        self,
        trust: object,
        identity: Identity,
        tpm: Any,
        window: Callable[[], Window],
        presented: str,
        hear: Callable[[StatementAnswer, str], None] = lambda _statement, _nonce: None,
        observe: Callable[[ClockInfo], None] = lambda _clock: None,
        *,
        held: Held | None = None,
    ) -> OpenedSession:
        """In the place of `node.exchanges.session.open_session`."""
        del trust, presented, held
        nonce, generation = fresh_nonce(), identity.generation
        if not identity.node_key.in_software:
            observe(await tpm.run(lambda chip: chip.clock()))

        def answer() -> StatementAnswer:
            self.check_open(generation, nonce)
            if identity.node_key.public != self.certified[generation]:
                raise refusal("certificate_refused")
            if generation != self.fabric.confirmed:
                return StatementAnswer("", "")
            token = self.present()
            return StatementAnswer(token, self.freshness(nonce, token, generation))

        try:
            answered = self.ask(answer)
        except api.CloudRefused as refused:
            raise SessionRefused(refused, nonce) from refused
        begins, ends = self._machine.true - CLOCK_SKEW, self._machine.true + SESSION_LIFE
        times = window()
        if ends <= times.low or (times.high is not None and begins - CLOCK_SKEW > times.high):
            hear(answered, nonce)
            raise CertificateOutOfTime(7, "it is outside of its dates")
        credentials = cast(Credentials, _Session(self, generation, begins, ends))
        return OpenedSession(credentials, answered, nonce, 1, "")

    def renew(self, proof: bytes, public: bytes, generation: int, nonce: str) -> Renewed:
        """Certify a key with fresh evidence. A repeat gets the same answer."""
        self.check_open(generation, nonce)
        if proof not in self._renewals:
            self.certified[generation] = public
            self._renewals[proof] = Renewed(chain_of(public, generation))
        return self._renewals[proof]

    async def make_proof(self, _renewal: DeviceRenewal, licence: Licence, *, rekey: bool) -> PendingRenewal:
        """In the place of a renewal's exchange before its proof is stored."""
        identity = licence.identity
        key = self.another_key() if rekey else identity.node_key
        nonce = fresh_nonce()
        self.ask(lambda: None)
        proof = b"\0".join((nonce.encode(), b"%d" % identity.generation, key.public))
        return PendingRenewal(
            generation=identity.generation, renewal=RENEWAL, node_key=key, proof=proof, answer_nonce=nonce
        )


class _Session:
    """Credentials of a session, and the client that uses them."""

    def __init__(self, cloud: Cloud, generation: int, not_before: datetime, not_after: datetime) -> None:
        self.not_before, self.not_after = not_before, not_after
        self._cloud = cloud
        self._generation = generation

    def connect(self, *_: object) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def aclose(self) -> None:
        return

    async def statement(self, asked: Ask) -> StatementAnswer:
        return self._cloud.ask(lambda: self._answer(asked.nonce))

    async def confirm(self, asked: Ask) -> StatementAnswer:
        cloud, fabric = self._cloud, self._cloud.fabric

        def answer() -> StatementAnswer:
            cloud.check_open(self._generation, "")
            if self._generation != fabric.confirmed:
                for lower in range(1, self._generation):
                    if lower not in fabric.closed:
                        cloud.close(lower, "superseded")
                fabric.confirmed = self._generation
                cloud.say(cloud.lease())
            return self._answer(asked.nonce)

        return cloud.ask(answer)

    def _answer(self, nonce: str) -> StatementAnswer:
        self._cloud.check_open(self._generation, "")
        token = self._cloud.present()
        return StatementAnswer(token, self._cloud.freshness(nonce, token, self._generation))


class Proofs:
    """The client of a renewal."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def prove_renewal(self, _renewal: str, proof: bytes) -> Renewed:
        return await self.renew_software(proof)

    async def renew_software(self, proof: bytes) -> Renewed:
        nonce, generation, public = proof.split(b"\0", 2)
        return self._cloud.ask(lambda: self._cloud.renew(proof, public, int(generation), nonce.decode()))


def refusal(code: str, statement: str = "", freshness: str = "") -> api.CloudRefused:
    """A refusal of the cloud."""
    return api.CloudRefused(problems.document(problems.KINDS[code], statement=statement, freshness=freshness))
