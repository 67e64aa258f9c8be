"""Real part: a NATS server on a free port of loopback, with TLS, JetStream and the accounts of an installation.

The server writes each acknowledged message to the disk (`sync_interval: always`), as in production. It ends with the
process that started it, also when that process is killed.
"""

from __future__ import annotations

import ssl
import subprocess
import sysconfig
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from cloud.events.nats import claims
from cloud.events.nats.nkeys import public_text
from cloud.events.nats.server import AccountKeys, ServerFiles, server_configuration, service_credentials
from lab.processes import accepts, free_ports, wait_until

PROGRAM = Path(sysconfig.get_path("scripts")) / "nats-server"
STORE_BYTES = 64 * 1024 * 1024


def write_certificate(directory: Path) -> tuple[Path, Path]:
    """Write a certificate of 127.0.0.1 that is its own CA, and its key. Returns both paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nats of a developer's machine")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1")), x509.DNSName("localhost")]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    paths = directory / "server.pem", directory / "server.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def options(token: str, key: Ed25519PrivateKey) -> dict[str, Any]:
    """The options of nats-py for signed claims and the key of their user."""
    return {
        "user_jwt_cb": lambda: bytearray(token.encode()),
        "signature_cb": lambda nonce: b64encode(key.sign(nonce.encode())),
    }


class NatsServer:
    """One server. Its keys, configuration and streams are in `directory`, and outlive a stop."""

    def __init__(self, directory: Path, store_bytes: int = STORE_BYTES) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_ports(1)
        self.keys = AccountKeys(Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate())
        self.ca_file, key_file = write_certificate(directory)
        self._process: subprocess.Popen[bytes] | None = None
        self.configuration = directory / "nats-server.conf"
        files = ServerFiles(str(self.ca_file), str(key_file), str(directory / "streams"))
        self.configuration.write_text(
            server_configuration(
                self.keys,
                Ed25519PrivateKey.generate(),
                files,
                f"127.0.0.1:{self.port}",
                datetime.now(UTC),
                store_bytes,
            )
        )

    @property
    def url(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    def tls(self) -> ssl.SSLContext:
        """A context for clients that trusts the server."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    def credentials(self, service: str) -> Path:
        """Write the credentials of a service. Returns the path of the file."""
        path = self.directory / f"{service}.creds"
        path.touch(mode=0o600)
        path.write_text(service_credentials(self.keys, Ed25519PrivateKey.generate(), service, datetime.now(UTC)))
        return path

    def credentials_of(self, name: str, publish: Sequence[str], subscribe: Sequence[str]) -> dict[str, Any]:
        """Make a user of the services' account. Returns the options of nats-py by which a client is this user."""
        key = Ed25519PrivateKey.generate()
        allowed = claims.service_user(public_text(key, "user"), name, datetime.now(UTC), publish, subscribe)
        return options(claims.sign(self.keys.services, "account", allowed), key)

    def consumer(self, name: str, life: timedelta = timedelta(hours=1)) -> dict[str, Any]:
        """Make the user of a tenant's consumer. Returns the options of nats-py by which a client is this user."""
        key = Ed25519PrivateKey.generate()
        return options(self.consumer_token(name, key, life), key)

    def consumer_token(self, name: str, key: Ed25519PrivateKey, life: timedelta = timedelta(hours=1)) -> str:
        """Return the signed claims of a tenant's consumer with this key."""
        now = datetime.now(UTC)
        allowed = claims.consumer_user(public_text(key, "user"), name, now, now + life)
        return claims.sign(self.keys.consumers, "account", allowed)

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", str(PROGRAM), "-c", str(self.configuration)], stdout=log, stderr=log
            )
        wait_until("the start of nats-server", self._answers)

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise AssertionError((self.directory / "log").read_text())
        return accepts(self.port)

    def stop(self) -> None:
        """End the server in order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=30)
            self._process = None

    def kill(self) -> None:
        """End the server by SIGKILL, as after a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)
            self._process = None


@contextmanager
def nats_server(directory: Path, store_bytes: int = STORE_BYTES) -> Iterator[NatsServer]:
    """A server that runs until the block ends."""
    server = NatsServer(directory, store_bytes)
    server.start()
    try:
        yield server
    finally:
        server.kill()
