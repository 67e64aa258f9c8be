"""Helper: a machine without a network, with a paper chip. An operator answers its requests, and it checks the answers."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.fabric.bodies.airgap import AirgapAnswer, AirgapExchange, AnswerAirgapRequest
from protocol.airgap import request as requests
from protocol.airgap.answer import AnswerBody, AnswerFile, Outstanding, match, open_body, open_claims, receipt_of
from protocol.airgap.code_proof import prove_code
from protocol.airgap.forms import read_answer
from protocol.airgap.request import ClockEvidence, Receipt, Request, RequestFile
from protocol.airgap.sealing import SECRET_BYTES, open_sealed
from protocol.encoding import json_decode, json_encode, sha256_hex
from protocol.evidence import ClockInfo
from protocol.ids import AirgapRequestId, make_id
from protocol.messages.activation import Activated
from protocol.signed.freshness import verify_freshness
from protocol.signed.statements import Statement
from tests.cloud.breakwater.support import TRUST_DOMAIN
from tests.cloud.fabric.support import ALICE, Machine, World
from tests.simulators.forged_evidence import PaperChip, request


@dataclass
class Site:
    """A machine at a site without a network. `ticks` is the clock of its TPM in ms."""

    machine: Machine
    ticks: int = 1000
    made: int = 0
    receipt: Receipt | None = None
    trust_version: int = 0
    root_version: int = 0
    outstanding: Outstanding | None = None
    former: list[str] = field(default_factory=list)
    salt: bytes = b""
    token: str | msgspec.UnsetType = msgspec.UNSET
    """The renewal token."""
    files: dict[str, str] = field(default_factory=dict)
    """The files of the published trust in the last answer."""

    @property
    def world(self) -> World:
        return self.machine.world

    def clock(self, **changes: Any) -> ClockEvidence:
        at = self.world.clock()
        return msgspec.structs.replace(
            ClockEvidence(low=at, high=at, wall=at, tpm=ClockInfo(self.ticks, 1, 0, True)), **changes
        )

    def request(self, kind: str = "refresh", **changes: Any) -> Request:
        """The next request. Each one has another id and a later clock of the TPM."""
        self.made += 1
        self.ticks += 60_000
        machine = self.machine
        if kind != "refresh" and "public_key" not in changes:
            machine.node_key = ec.generate_private_key(ec.SECP256R1())
        identity = AirgapRequestId(make_id("agr", self.made, machine.label.encode().ljust(10, b"-")[:10]))
        if changes.get("code") and not changes.pop("shown", False):
            changes["code"] = prove_code(changes["code"], identity, spki(machine.node_key))
        values: dict[str, Any] = {
            "format": requests.FORMAT,
            "kind": kind,
            "request": identity,
            "public_key": spki(machine.node_key),
            "nonce": f"nonce of the request {self.made:03}",
            "agent_version": "1.0",
            "made_at": self.world.clock(),
            "clock": self.clock(),
            "csr": request(machine.node_key),
            "trust_version": self.trust_version,
            "root_version": self.root_version,
            "lease_version": 2,
            "receipt": self.receipt,
            "renewal": self.token,
            "presented": machine.held,
            "fingerprint": machine.fingerprint if self.salt else {},
        }
        if kind == "refresh":
            activated = machine.activated
            assert activated is not None
            values |= {"tenant": activated.tenant, "node": activated.node, "generation": activated.generation}
            values["device_certificate"] = activated.certificate_chain[0]
        else:
            values["endorsement"] = machine.evidence()
        return Request(**(values | changes))

    def file(self, made: Request, **changes: Any) -> RequestFile:
        """The signed file of a request, which becomes the outstanding one. `changes` replaces parts of the file."""
        body, key = requests.body_of(made), self.machine.node_key
        signed = requests.signed_bytes(body, made.request, key.public_key())
        evidence: Any = msgspec.UNSET
        if made.kind != "refresh":
            chip = PaperChip(ak=self.machine.ak, node_key=key, extra_data=requests.certified_data(body))
            evidence = chip.prove().key
        file = requests.assembled(body, signed, key.sign(signed, ec.ECDSA(hashes.SHA256())), evidence)
        if self.outstanding is not None:
            self.former.append(self.outstanding.request)
        self.outstanding = Outstanding(
            made.kind, made.request, sha256_hex(body), made.nonce, sha256_hex(made.public_key)
        )
        return msgspec.structs.replace(file, **changes)

    def text(self, kind: str = "refresh", **changes: Any) -> str:
        """The next request as a file in JSON."""
        return json_encode(self.file(self.request(kind, **changes))).decode()

    async def send(self, text: str, **changes: Any) -> AirgapAnswer:
        """Have an operator answer a request."""
        body = AnswerAirgapRequest(text, **changes)
        return await self.world.parts.airgap.airgap_answers.answer(ALICE, body)

    async def answered(self, text: str) -> AnswerFile:
        """The answer file. It fails if an operator must approve first."""
        answer = await self.send(text)
        assert answer.activation is None
        return read_answer(answer.answer.encode())

    def take(self, file: AnswerFile) -> Statement:
        """Import an answer as a node does, and return its statement. Raises AirgapError."""
        claims = open_claims(file, self.world.ring, TRUST_DOMAIN)
        outstanding = self.outstanding
        match(claims, outstanding, self.receipt, self.former, "", self.world.clock())
        assert outstanding is not None
        digest = bytes.fromhex(outstanding.request_sha256)
        if file.sealed is not None:
            secret = self.world.entropy.last[SECRET_BYTES]
            body = open_sealed(file.sealed.ciphertext, secret, digest, file.sealed.iv)
        else:
            body = file.body.encode()
        opened = open_body(claims, body)
        statement = self._statement(opened, outstanding.nonce)
        self._store(opened, outstanding)
        self.receipt = receipt_of(file, claims, self.world.clock())
        self.files, self.outstanding = file.trust, None
        return statement

    def read(self, file: AnswerFile) -> Statement:
        """The statement in the answer to a refresh. It is not imported."""
        return self.world.statement(json_decode(file.body.encode(), AnswerBody).current.statement)

    def _statement(self, opened: AnswerBody, nonce: str) -> Statement:
        """The statement, after the checks of a node."""
        verify_freshness(
            opened.current.freshness,
            self.world.ring,
            trust_domain=TRUST_DOMAIN,
            node=opened.node,
            generation=opened.generation,
            nonce=nonce,
            statement=opened.current.statement,
        )
        return self.world.statement(opened.current.statement)

    def _store(self, opened: AnswerBody, outstanding: Outstanding) -> None:
        machine = self.machine
        if outstanding.kind != "refresh":
            self.salt = opened.fingerprint_salt
            machine.activated = Activated(
                opened.tenant, opened.node, opened.generation, opened.certificate_chain, self.world.clock()
            )
        elif opened.certificate_chain and machine.activated is not None:
            machine.activated = msgspec.structs.replace(machine.activated, certificate_chain=opened.certificate_chain)
        machine.held = opened.current.statement
        self.token = opened.renewal or self.token

    async def activate(self, code: str) -> Statement:
        """Activate in one round, and import the answer."""
        return self.take(await self.answered(self.text("activate", code=code)))

    async def refresh(self, **changes: Any) -> Statement:
        """Fetch the current statement, and import the answer."""
        return self.take(await self.answered(self.text(**changes)))

    async def exchanges(self, state: str = "") -> list[AirgapExchange]:
        """The exchanges of this node."""
        activated = self.machine.activated
        node = activated.node if activated is not None else ""
        return list((await self.world.parts.airgap.airgap_answers.page("", node, state, "", 50)).items)


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key (SubjectPublicKeyInfo, DER)."""
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def a_site(world: World, label: str = "ek") -> Site:
    """A machine that has made no request yet."""
    return Site(Machine(world, label))
