"""HTTP client of the tests: one TLS connection to a listener of the cloud, which sends bytes unchanged."""

import json
import os
import secrets
import socket
import ssl
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.crypto.keyfile import read_key, read_passphrase
from lab.cloud import Cloud
from protocol.encoding import b64url_encode, json_encode
from protocol.messages.est import PATH_SIMPLEREENROLL, TYPE_PKCS10, encode_base64
from protocol.problems import KINDS, ProblemDocument
from tests.documented import check_documented

Service = Literal["fabric", "breakwater", "repository", "pki"]
PORTS: dict[Service, int] = {"fabric": 0, "breakwater": 1, "repository": 2, "pki": 3}
PLAINTEXT: tuple[Service, ...] = ("repository", "pki")
DOCUMENTS: dict[Service, str] = {
    "fabric": "fabric",
    "repository": "fabric-repository",
    "breakwater": "breakwater",
    "pki": "breakwater-public",
}
"""The name of the API document for each listener."""
T = TypeVar("T")


class Closed(Exception):
    """The other side ended the connection without an answer."""


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def into(self, kind: type[T]) -> T:
        assert self.status < 300, f"{self.status}: {self.body.decode(errors='replace')[:500]}"
        return msgspec.json.decode(self.body, type=kind)

    def refused(self, *codes: str) -> ProblemDocument:
        """The problem document without the id of its request, which is asserted to be that of the answer.

        Asserts that it has one of `codes`, the status of that code, and a next step.
        """
        assert self.headers.get("content-type") == "application/problem+json", (self.status, self.body[:300])
        problem = msgspec.json.decode(self.body, type=ProblemDocument)
        assert problem.code in codes, problem
        assert (self.status, problem.status) == (KINDS[problem.code].status,) * 2
        assert problem.next
        request_id = self.headers.get("x-request-id", "")
        assert problem.instance == (f"urn:uuid:{request_id}" if request_id else "")
        return msgspec.structs.replace(problem, instance="")


class Identity(msgspec.Struct, frozen=True):
    """The identity of a TLS client: its key, and its chain in DER, leaf first."""

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


class _Socket(ssl.SSLSocket):
    """A socket that is closed if the server has gone before the handshake. CPython's `wrap_socket` leaves it open."""

    def getpeername(self) -> Any:
        try:
            return super().getpeername()
        except OSError as error:
            self.close()
            raise ConnectionResetError("the server has gone before the handshake") from error


class Wire:
    """One persistent connection to a listener of the cloud, as a context manager.

    `root` is the file of the trusted root; without it, the installation's first root is trusted. `source` is the address
    that the client connects from.
    """

    def __init__(
        self,
        cloud: Cloud,
        service: Service = "fabric",
        identity: Identity | None = None,
        root: Path | None = None,
        source: str = "127.0.0.1",
    ) -> None:
        plain = socket.create_connection(
            ("127.0.0.1", cloud.port + PORTS[service]), timeout=30, source_address=(source, 0)
        )
        self._service = service
        self._host = f"127.0.0.1:{cloud.port + PORTS[service]}"
        self._socket: socket.socket = plain
        if service not in PLAINTEXT:
            try:
                self._socket = _context((root or root_pem(cloud)).read_text(), identity).wrap_socket(
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
        """Send one request and return its answer. The arguments are those of `begin`. Raises Closed, ssl.SSLError."""
        self.begin(method, path, body, headers, media_type)
        answer = self.answer(has_body=method != "HEAD")
        check_documented(DOCUMENTS[self._service], method, path, answer.status, answer.headers, answer.body)
        return answer

    def begin(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        media_type: str = "application/json",
    ) -> None:
        """Send one request. `body` is bytes to send unchanged, or a value to encode as JSON."""
        content = b"" if body is None else body if isinstance(body, bytes) else json_encode(body)
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body is not None or method in ("POST", "PUT"):
            lines += [f"content-type: {media_type}", f"content-length: {len(content)}"]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode() + content)

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


@lru_cache(maxsize=32)
def _context(root: str, identity: Identity | None) -> ssl.SSLContext:
    """The settings of TLS with this trusted root in PEM. A listener ends a refused connection, so tests connect often."""
    context = ssl.create_default_context(cadata=root)
    context.sslsocket_class = _Socket
    if identity is not None:
        descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "wb") as file:
            file.write(identity.pem)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    return context


def renew_device(wire: Wire, csr: bytes) -> Answer:
    """Ask for a new device certificate over EST. The connection needs a session certificate."""
    return wire.ask("POST", PATH_SIMPLEREENROLL, encode_base64(csr), media_type=TYPE_PKCS10)


def once(
    cloud: Cloud, service: Service, method: str, path: str, body: object = None, identity: Identity | None = None
) -> Answer:
    """One request on a new connection."""
    with Wire(cloud, service, identity) as wire:
        return wire.ask(method, path, body)


def service_identity(cloud: Cloud, name: str) -> Identity:
    """The current identity of one of the cloud's services."""
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
