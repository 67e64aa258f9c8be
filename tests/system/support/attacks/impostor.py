"""Real part: a TLS server on the address of a cloud's service. It answers with recorded answers of the true service."""

import base64
import json
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab.cloud import Cloud
from lab.processes import start_program
from protocol.ids import ServiceSpiffeId
from tests.system.support.harness import Recorded
from tests.system.support.wire import Identity, new_key, service_identity

_HANDSHAKE_SECONDS_MAX = 10.0
_TRUSTED_BY_THE_SYSTEM = """
import socket, ssl, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as plain:
    ssl.create_default_context().wrap_socket(plain, server_hostname="127.0.0.1").close()
"""
"""A client that trusts the CAs of the system, as most programs do."""


class PublicCa(NamedTuple):
    """A CA that the system of a machine trusts, and the identity that it has certified."""

    env: dict[str, str]
    """Environment variables that make the CA one of the system's (SSL_CERT_FILE of OpenSSL)."""
    identity: Identity


def public_ca(directory: Path, cloud: Cloud, trust_domain: str) -> PublicCa:
    """A CA of the system, with a certificate for the address and the SPIFFE id of Fabric, as a careless CA issues it."""
    root, key = new_key(), new_key()
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Public CA")])
    dates = x509.load_der_x509_certificate(service_identity(cloud, "fabric").chain[0])

    def signed(subject: x509.Name, public: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType) -> bytes:
        builder = x509.CertificateBuilder(root_name, subject, public, x509.random_serial_number())
        builder = builder.not_valid_before(dates.not_valid_before_utc).not_valid_after(dates.not_valid_after_utc)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())
        builder = builder.add_extension(identifier, critical=False)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        return builder.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    authority = signed(root_name, root.public_key(), x509.BasicConstraints(ca=True, path_length=None))
    names: list[x509.GeneralName] = [
        x509.IPAddress(ip_address("127.0.0.1")),
        x509.UniformResourceIdentifier(str(ServiceSpiffeId(trust_domain, "fabric"))),
    ]
    server = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    leaf = signed(
        server,
        key.public_key(),
        x509.BasicConstraints(ca=False, path_length=None),
        x509.SubjectAlternativeName(names),
    )
    file = directory / "system-cas.pem"
    file.write_text(ssl.DER_cert_to_PEM_cert(authority))
    return PublicCa({"SSL_CERT_FILE": str(file)}, Identity(key, (leaf, authority)))


class Impostor:
    """The server. `asked` has the method and the path of each request that it has received."""

    def __init__(self, directory: Path, cloud: Cloud, identity: Identity, recorded: list[Recorded]) -> None:
        """`recorded`: answers by path, the last one counts."""
        self.asked: list[str] = []
        self._directory, self._port = directory, cloud.port
        self._answers = {each.path: each for each in recorded}
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        file = directory / "impostor.pem"
        file.write_bytes(identity.pem)
        self._context.load_cert_chain(file)

    @contextmanager
    def serving(self) -> Iterator["Impostor"]:
        """A block in which the server listens on Fabric's port."""
        server = _Server(("127.0.0.1", self._port), self._handler(), self._context)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def assert_trusted_by_the_system(self, env: dict[str, str]) -> None:
        """Assert that a client which trusts the CAs of the system accepts the server."""
        command = [sys.executable, "-c", _TRUSTED_BY_THE_SYSTEM, str(self._port)]
        start_program(self._directory, "client-of-the-system", command, env).document()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        impostor = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Write no log."""

            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", "0")))
                path = self.path.partition("?")[0]
                found = impostor._answers.get(path)
                body = b"" if found is None else base64.b64decode(found.body)
                self.send_response(404 if found is None else found.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                impostor.asked.append(f"{self.command} {path}")

            do_GET = do_POST = _answer  # noqa: N815 (the names of the library)

        return Handler


class _Server(ThreadingHTTPServer):
    """The library's server over TLS. A handshake that fails ends its own connection only."""

    def __init__(
        self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext
    ) -> None:
        super().__init__(address, handler)
        self._context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(_HANDSHAKE_SECONDS_MAX)
        with suppress(OSError), self._context.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)


def read_recorded(file: Path) -> list[Recorded]:
    """The answers that processes with `Plan(answers=...)` have recorded so far."""
    if not file.exists():
        return []
    return [Recorded(**json.loads(line)) for line in file.read_text().splitlines()]
