"""The wire itself, and a machine on paper: what the system tests speak to the running cloud with.

`Wire` is one TLS connection that sends exactly the bytes it is given. `PaperNode` does in Python what a machine does
with a TPM (its maker's root is one that the tenant trusts), so that each of its messages can be bent. `unchanged`
holds both databases still.
"""

import hmac
import json
import os
import secrets
import socket
import sqlite3
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from cloud.contracts.breakwater import PATH_DEVICE, PATH_OPEN, PATH_SESSION
from cloud.crypto.keyfile import read_key, read_passphrase
from lab.cloud import Cloud
from protocol.encoding import b64url_encode, json_encode, sha256_hex
from protocol.evidence import ClockInfo, EndorsementEvidence
from protocol.messages.activation import Activated, Challenge, ProveActivation, StartActivation
from protocol.messages.est import PATH_SIMPLEREENROLL, TYPE_PKCS10, encode_base64
from protocol.messages.renewal import ProveRenewal, RenewalChallenge
from protocol.messages.sessions import (
    TYP_SESSION_PROOF,
    Ask,
    Certificate,
    Nonce,
    OpenSession,
    ProofClaims,
    Session,
    StatementAnswer,
    proof_payload,
)
from protocol.problems import KINDS, ProblemDocument
from protocol.signed.envelope import key_id, seal
from tests.simulators.forged_evidence import (
    AK_ATTRIBUTES,
    Maker,
    PaperChip,
    ek_public,
    maker,
    name_of,
    p256,
    request,
    rsa2048,
    signing_public,
)

Service = Literal["fabric", "breakwater", "repository", "pki"]
PORTS: dict[Service, int] = {"fabric": 0, "breakwater": 1, "repository": 2, "pki": 3}
PLAINTEXT: tuple[Service, ...] = ("repository", "pki")
SESSIONS = "/v1/node/sessions"
T = TypeVar("T")


class Closed(Exception):
    """The other side ended the connection without an answer."""


class Answer(msgspec.Struct, frozen=True):
    """Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def into(self, kind: type[T]) -> T:
        assert self.status < 300, f"{self.status}: {self.body.decode(errors='replace')[:500]}"
        return msgspec.json.decode(self.body, type=kind)

    def refused(self, *codes: str) -> ProblemDocument:
        """The problem document, which has one of `codes`, the status of that code, and says what to do next."""
        assert self.headers.get("content-type") == "application/problem+json", (self.status, self.body[:300])
        problem = msgspec.json.decode(self.body, type=ProblemDocument)
        assert problem.code in codes, problem
        assert (self.status, problem.status) == (KINDS[problem.code].status,) * 2
        assert problem.next
        return problem


class Identity(msgspec.Struct, frozen=True):
    """A TLS client: key, and chain in DER, leaf first."""

    key: ec.EllipticCurvePrivateKey
    chain: tuple[bytes, ...]

    @property
    def pem(self) -> bytes:
        chain = "".join(ssl.DER_cert_to_PEM_cert(der) for der in self.chain)
        return chain.encode() + self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def root_pem(cloud: Cloud) -> Path:
    return cloud.directory / "breakwater" / "certs" / "root.pem"


def nodes_ca_pem(cloud: Cloud) -> Path:
    return cloud.directory / "breakwater" / "certs" / "nodes-ca.pem"


class Wire:
    """One kept-alive connection to a listener of the cloud. A context manager. `root`: believed instead of the first."""

    def __init__(
        self, cloud: Cloud, service: Service = "fabric", identity: Identity | None = None, root: Path | None = None
    ) -> None:
        plain = socket.create_connection(("127.0.0.1", cloud.port + PORTS[service]), timeout=30)
        self._host = f"127.0.0.1:{cloud.port + PORTS[service]}"
        self._socket: socket.socket = plain
        if service not in PLAINTEXT:
            try:
                self._socket = _context(root or root_pem(cloud), identity).wrap_socket(
                    plain, server_hostname="127.0.0.1"
                )
            except BaseException:
                plain.close()
                raise
        self._left = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, raw: bytes) -> None:
        self._socket.sendall(raw)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        media_type: str = "application/json",
    ) -> Answer:
        """One request: `body` is bytes as they are, or a value to encode. Raises Closed, ssl.SSLError."""
        content = b"" if body is None else body if isinstance(body, bytes) else json_encode(body)
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body is not None or method in ("POST", "PUT"):
            lines += [f"content-type: {media_type}", f"content-length: {len(content)}"]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode() + content)
        return self.answer(has_body=method != "HEAD")

    def answer(self, *, has_body: bool = True) -> Answer:
        while b"\r\n\r\n" not in self._left:
            self._left += self._receive()
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        size = int(headers["content-length"]) if has_body else 0
        while len(self._left) < size:
            self._left += self._receive()
        body, self._left = self._left[:size], self._left[size:]
        return Answer(int(first.split(" ")[1]), headers, body)

    def _receive(self) -> bytes:
        try:
            data = self._socket.recv(65536)
        except (ConnectionError, ssl.SSLEOFError) as error:
            raise Closed from error
        if not data:
            raise Closed
        return data


def _context(root: Path, identity: Identity | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(root))
    if identity is not None:
        descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "wb") as file:
            file.write(identity.pem)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    return context


def renew_device(wire: Wire, csr: bytes) -> Answer:
    """The renewal of a device certificate (EST), over a connection with a session's certificate."""
    return wire.ask("POST", PATH_SIMPLEREENROLL, encode_base64(csr), media_type=TYPE_PKCS10)


def once(
    cloud: Cloud, service: Service, method: str, path: str, body: object = None, identity: Identity | None = None
) -> Answer:
    """One request on a connection of its own."""
    with Wire(cloud, service, identity) as wire:
        return wire.ask(method, path, body)


def service_identity(cloud: Cloud, name: str) -> Identity:
    """The identity of one of the cloud's own services."""
    key = read_key(
        cloud.directory / name / "tls" / "key.pem", read_passphrase(cloud.directory / "secrets" / "passphrase")
    )
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    chain = x509.load_pem_x509_certificates((cloud.directory / name / "tls" / "chain.pem").read_bytes())
    return Identity(key, tuple(certificate.public_bytes(serialization.Encoding.DER) for certificate in chain))


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def request_id() -> str:
    return b64url_encode(secrets.token_bytes(18))


def made_by_the_issuer(cloud: Cloud, tenant: str, node: str, kind: Literal["device", "session"]) -> Identity:
    """A certificate of a real profile, made by the real Breakwater, for a key in software."""
    fabric = service_identity(cloud, "fabric")
    key = new_key()
    with Wire(cloud, "breakwater", fabric) as wire:
        wire.ask("POST", PATH_OPEN, {"tenant": tenant, "node": node, "generation": 1}).into(dict)
        body = {
            "request": request_id(),
            "tenant": tenant,
            "node": node,
            "generation": 1,
            "csr": request(key),
            "not_after": "2034-01-01T00:00:00Z",
        }
        path = PATH_DEVICE if kind == "device" else PATH_SESSION
        return Identity(key, wire.ask("POST", path, body).into(Certificate).certificate_chain)


class PaperNode:
    """A machine whose TPM is Python. `by` is the maker of its chip."""

    def __init__(self, cloud: Cloud, label: str, by: Maker | None = None) -> None:
        self.cloud = cloud
        self.label = label
        self.by = by or maker()
        self.node_key = new_key()
        self.activated: Activated | None = None

    @property
    def ak(self) -> ec.EllipticCurvePrivateKey:
        return p256(f"ak of {self.label}")

    @property
    def tenant(self) -> str:
        assert self.activated is not None
        return self.activated.tenant

    @property
    def node(self) -> str:
        assert self.activated is not None
        return self.activated.node

    @property
    def device(self) -> bytes:
        """The device certificate in DER."""
        assert self.activated is not None
        return self.activated.certificate_chain[0]

    def evidence(self, certified: bool = True) -> EndorsementEvidence:
        public = rsa2048(self.label).public_key()
        ak_public = signing_public(self.ak.public_key(), AK_ATTRIBUTES)
        return EndorsementEvidence(ek_public(public), ak_public, self.by.certify(public) if certified else None)

    def start(self, code: str, evidence: EndorsementEvidence | None = None) -> Answer:
        body = StartActivation(code, evidence or self.evidence(), "1.0")
        return once(self.cloud, "fabric", "POST", "/v1/activations", body)

    def secret(self, challenge: Challenge | RenewalChallenge) -> bytes:
        """`TPM2_ActivateCredential` in software (TPM 2.0 Library Part 1, 24)."""
        seed = rsa2048(self.label).decrypt(
            challenge.encrypted_secret[2:],
            padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\x00"),
        )
        name = name_of(signing_public(self.ak.public_key(), AK_ATTRIBUTES))
        key = hmac.digest(seed, b"\0\0\0\1STORAGE\0" + name + (128).to_bytes(4, "big"), "sha256")[:16]
        sealed, block, plain = challenge.credential_blob[2 + 2 + 32 :], bytes(16), b""
        for at in range(0, len(sealed), 16):  # AES-128-CFB: each block is whitened with the one before, enciphered
            pad = Cipher(algorithms.AES(key), modes.CTR(block)).encryptor().update(bytes(16))
            block = sealed[at : at + 16]
            plain += bytes(a ^ b for a, b in zip(pad, block, strict=False))
        return plain[2:]

    def proof(self, challenge: Challenge, csr: bytes | None = None, **changes: Any) -> ProveActivation:
        """For a new node key. `csr` in the place of its request; `changes` of the body's fields."""
        self.node_key = new_key()
        secret = self.secret(challenge)
        paper = PaperChip(
            ak=self.ak, node_key=self.node_key, nonce_secret=secret, nonce_activation=challenge.activation, csr=csr
        ).prove()
        body = ProveActivation(secret, paper.csr, paper.key, {"board_serial": "ab" * 32})
        return msgspec.structs.replace(body, **changes)

    def prove(self, challenge: Challenge, body: ProveActivation) -> Answer:
        return once(self.cloud, "fabric", "POST", f"/v1/activations/{challenge.activation}/proof", body)

    def activate(self, code: str) -> Activated:
        """Up to the device certificate."""
        challenge = self.start(code).into(Challenge)
        self.activated = self.prove(challenge, self.proof(challenge)).into(Activated)
        return self.activated

    def join(self, code: str) -> Self:
        """Up to the first statement."""
        self.activate(code)
        once(self.cloud, "fabric", "POST", "/v1/node/confirm", Ask("n" * 32), self.session()).into(StatementAnswer)
        return self

    def prove_renewal(self, challenge: RenewalChallenge, key: ec.EllipticCurvePrivateKey) -> ProveRenewal:
        """The proof of a renewal with fresh evidence, for this key."""
        secret = self.secret(challenge)
        paper = PaperChip(ak=self.ak, node_key=key, nonce_secret=secret, nonce_activation=challenge.renewal).prove()
        return ProveRenewal(secret, paper.csr, paper.key, "n" * 32)

    def claims(self, csr: bytes) -> ProofClaims:
        assert self.activated is not None
        nonce = once(self.cloud, "fabric", "POST", "/v1/node/nonces").into(Nonce)
        return ProofClaims(
            tenant=self.activated.tenant,
            node=self.activated.node,
            generation=self.activated.generation,
            nonce=nonce.nonce,
            method="POST",
            url=f"https://127.0.0.1:{self.cloud.port}{SESSIONS}",
            csr_sha256=sha256_hex(csr),
            answer_nonce="n" * 32,
            fingerprint={"board_serial": "ab" * 32},
            clock=ClockInfo(1, 1, 1, True),
            agent_version="1.0",
        )

    def open_session(
        self,
        csr: bytes,
        *,
        signer: ec.EllipticCurvePrivateKey | None = None,
        device: bytes | None = None,
        **changes: Any,
    ) -> OpenSession:
        """The request of a session; `changes` of the claims."""
        claims = msgspec.structs.replace(self.claims(csr), **changes)
        signer = signer or self.node_key
        proof = seal(TYP_SESSION_PROOF, key_id(signer.public_key()), proof_payload(claims), signer)
        return OpenSession(device or self.device, csr, proof)

    def session(self) -> Identity:
        key = new_key()
        body = self.open_session(request(key))
        return Identity(key, once(self.cloud, "fabric", "POST", SESSIONS, body).into(Session).certificate_chain)


def paper_tenant(cloud: Cloud, directory: Path) -> str:
    """A tenant that trusts the maker of paper chips."""
    tenant = str(cloud.run("tenant", "create", "paper")["id"])
    roots = directory / "paper-roots.pem"
    roots.write_bytes(maker().root.pem + maker().intermediate.pem)
    cloud.run("tenant", "trust", tenant, "--ek-root", str(roots))
    return tenant


def secret_of(activation_file: Path) -> str:
    """The code in an activation file."""
    return str(json.loads(activation_file.read_text())["code"])


_MOVING: dict[str, frozenset[str]] = {
    # Written by the background work, whatever callers do.
    "fabric.tuf_metadata": frozenset({"*"}),
    "fabric.tuf_target": frozenset({"*"}),
    "fabric.generation": frozenset({"seen_at", "seen_fingerprint", "trust_version", "device_issuer"}),
    "breakwater.crl": frozenset({"*"}),
    "breakwater.shard": frozenset({"published_revision", "crl_number", "published_number", "next_publish_at"}),
    # A refusal may be written down; that is no change of anything.
    "fabric.audit": frozenset({"*"}),
    "breakwater.audit": frozenset({"*"}),
}


def dump(cloud: Cloud, *aside: str) -> dict[str, list[str]]:
    """Every row of both databases. `aside`: columns (service.table.column) that the caller allows to move."""
    rows: dict[str, list[str]] = {}
    for service in ("fabric", "breakwater"):
        connection = sqlite3.connect(f"file:{cloud.directory / service / 'database.sqlite'}?mode=ro", uri=True)
        try:
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                moving = _MOVING.get(f"{service}.{table}", frozenset())
                if "*" in moving:
                    continue
                cursor = connection.execute(f'SELECT * FROM "{table}"')  # noqa: S608  (a name out of the schema)
                names = [column[0] for column in cursor.description]
                rows[f"{service}.{table}"] = sorted(
                    repr([
                        (name, value)
                        for name, value in zip(names, row, strict=True)
                        if name not in moving and f"{service}.{table}.{name}" not in aside
                    ])
                    for row in cursor
                )  # fmt: skip
        finally:
            connection.close()
    return rows


@contextmanager
def unchanged(cloud: Cloud, *aside: str) -> Iterator[None]:
    """Nothing in the databases has changed at the end of the block."""
    before = dump(cloud, *aside)
    yield
    assert dump(cloud, *aside) == before


def files_of(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, but the empty lock."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "lock"
    }
