"""Simulator of a TUF repository: the real publisher, a real HTTP server on loopback, and chosen wrong answers."""

from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloud.fabric.tuf.repository import (
    Latest,
    MetadataFile,
    OnlineSigners,
    Publication,
    RoleName,
    create,
    pin_of,
    refresh_online,
    replace_targets,
    signer_of,
)
from cloud.fabric.tuf.serving import file_for
from cloud.fabric.tuf.targets import build_targets
from protocol.messages.activation import TrustPin
from protocol.signed.envelope import VerificationKey, key_id

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
Answer = bytes | Callable[[BaseHTTPRequestHandler], None]


class MemoryStore:
    """The rows of a repository, in memory."""

    def __init__(self) -> None:
        self.files: dict[tuple[RoleName, int], MetadataFile] = {}
        self.contents: dict[tuple[str, str], bytes] = {}

    async def metadata(self, role: RoleName, version: int) -> bytes | None:
        file = self.files.get((role, version))
        return file.data if file else None

    async def latest(self, role: RoleName) -> MetadataFile | None:
        return self.newest(role) if any(name == role for name, _ in self.files) else None

    async def target(self, name: str, sha256: str) -> bytes | None:
        return self.contents.get((name, sha256))

    async def publish(self, publication: Publication) -> None:
        self.add(publication)

    def add(self, publication: Publication) -> None:
        self.files |= {(file.role, file.version): file for file in publication.metadata}
        self.contents |= {(target.name, target.sha256): target.data for target in publication.targets}

    def newest(self, role: RoleName) -> MetadataFile:
        return max((file for (name, _), file in self.files.items() if name == role), key=lambda file: file.version)


def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def certificate(name: str) -> bytes:
    """A certificate in DER, for code that checks only that it is a certificate."""
    key = p256()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, START, START + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def verification_key(key: ec.EllipticCurvePrivateKey, *typs: str) -> VerificationKey:
    return VerificationKey(
        kid=key_id(key.public_key()),
        typs=typs,
        public_key_der=key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        not_before=START,
        not_after=START + timedelta(days=365),
    )


def content(*keys: VerificationKey, port: int = 8440, repository_url: str = "") -> dict[str, bytes]:
    """The three targets."""
    return build_targets(
        keys=keys or (verification_key(p256(), "lease"),),
        trust_domain="cascade.internal",
        roots=[certificate("root")],
        node_issuers=[certificate("nodes")],
        service_issuers=[certificate("services")],
        fabric_url=f"https://127.0.0.1:{port}",
        breakwater_url=f"https://127.0.0.1:{port + 1}",
        repository_url=repository_url,
    )


class Repository:
    """Publisher and server. `answers` maps a path to the answer that replaces the file."""

    def __init__(
        self,
        first: dict[str, bytes] | None = None,
        now: datetime = START,
        keys: tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePrivateKey] | None = None,
    ) -> None:
        self.root, self.targets = map(signer_of, keys or (p256(), p256()))
        self.online = OnlineSigners(snapshot=signer_of(p256()), timestamp=signer_of(p256()))
        self.store = MemoryStore()
        self.store.add(create(now, self.root, self.targets, self.online, first or content()))
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.url = ""

    @property
    def pin(self) -> TrustPin:
        return pin_of(self.store.files["root", 1])

    @property
    def latest(self) -> Latest:
        newest = self.store.newest
        return Latest(targets=newest("targets"), snapshot=newest("snapshot"), timestamp=newest("timestamp"))

    def replace(self, targets: dict[str, bytes], now: datetime = START) -> None:
        self.store.add(replace_targets(now, self.latest, self.targets, self.online, targets))

    def refresh(self, now: datetime) -> None:
        publication = refresh_online(self.latest, now, self.online)
        if publication:
            self.store.add(publication)

    def target_path(self, name: str) -> str:
        """The path of a target's newest content, which is the last one stored."""
        return [f"/tuf/targets/{sha256}.{stored}" for stored, sha256 in self.store.contents if stored == name][-1]

    def file(self, path: str) -> bytes | None:
        """The content at a path."""
        return at_once(file_for(path, self.store))

    @contextmanager
    def served(self) -> Iterator["Repository"]:
        repository = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                repository.requests.append(self.path)
                answer = repository.answers.get(self.path)
                if callable(answer):
                    self.close_connection = True
                    try:
                        answer(self)
                    except OSError:
                        return
                else:
                    reply(self, answer or repository.file(self.path))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.block_on_close = False
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def at_once(work: Coroutine[None, None, bytes | None]) -> bytes | None:
    """The result of a coroutine that never suspends, such as those of `MemoryStore`. It needs no event loop."""
    try:
        work.send(None)
    except StopIteration as result:
        data: bytes | None = result.value
        return data
    raise RuntimeError("a coroutine of the memory store suspended")


def reply(handler: BaseHTTPRequestHandler, body: bytes | None, status: int = 200) -> None:
    handler.send_response(status if body is not None else 404)
    handler.send_header("content-length", str(len(body or b"")))
    handler.end_headers()
    handler.wfile.write(body or b"")


def redirect_to(path: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("location", path)
        handler.send_header("content-length", "0")
        handler.end_headers()

    return answer


def status(code: int) -> Answer:
    return lambda handler: reply(handler, b"no", code)


def pieces(source: Callable[[], Iterable[bytes]]) -> Answer:
    """Raw bytes, one write for each piece, until the client closes the connection."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        for piece in source():
            handler.wfile.write(piece)
            handler.wfile.flush()

    return answer
