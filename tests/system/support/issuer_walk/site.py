"""Site of the issuer walk: real processes of Breakwater, one of them to kill, and a client that keeps every answer.

A `Site` is one issuer: a process on SQLite or PostgreSQL, or two replicas on one PostgreSQL, each with its own folder.
A client may repeat a request at any replica. The kill interrupts the first request, and a later one has to succeed.
`Memory` has everything that the client received. `checks` compares it with records, CRLs and signatures.
"""

import asyncio
import base64
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from cloud.breakwater.bootstrap import ROOT_KEY_FILE
from cloud.breakwater.ceremony.signing import CaIdentity, make_cross, make_issuing, make_root
from cloud.breakwater.keys.file import LocalKey
from cloud.breakwater.keys.signer import issuer_of
from cloud.breakwater.pkix.csr import describe_key
from cloud.breakwater.pkix.profiles import SERIAL_BYTES, CaName, Issuer, make_serial
from cloud.clock import utc_now
from cloud.contracts.breakwater import (
    PATH_CLOSE,
    PATH_CLOSE_ONE,
    PATH_DEVICE,
    PATH_OPEN,
    PATH_SESSION,
    PATH_SUPERSEDE_KEYS,
)
from cloud.crypto.keyfile import read_key, read_passphrase
from cloud.storage import Location, PostgresLocation
from lab.cloud import Cloud
from lab.processes import Process, Start, accepts, free_ports, wait_until
from protocol.faults import Stage
from protocol.ids import make_id
from protocol.messages.est import (
    HEADER_REQUEST,
    PATH_SIMPLEENROLL,
    PATH_SIMPLEREENROLL,
    TYPE_PKCS10,
    decode_certs_only,
    encode_base64,
)
from protocol.messages.sessions import Certificate
from tests.simulators.forged_evidence import request
from tests.system.support.harness import Plan, forked
from tests.system.support.wire import Answer, Closed, Identity, Wire, new_key, service_identity

Mode = Literal["sqlite", "postgresql", "two replicas"]

TENANT = make_id("ten", 1, b"issuerwalk")
NOT_AFTER = "2034-01-01T00:00:00Z"
TRUST_DOMAIN = "cascade.internal"


class Interrupted(Exception):
    """A step failed. This is expected while a process dies, and an error afterwards."""


class Replica(Cloud):
    """One process of Breakwater, with its own folder, ports and TLS identity."""

    def __init__(self, directory: Path, installation: Cloud) -> None:
        super().__init__(directory, start=forked)
        self.copy_from(installation)
        self.port = free_ports()
        self.control = directory / "control"
        self.control.mkdir()
        self._settings = self.directory / "breakwater" / "settings.toml"
        text = self._settings.read_text()
        for offset in (1, 3, 5):
            text = text.replace(f"port = {installation.port + offset}\n", f"port = {self.port + offset}\n")
        self._written = text
        self.location: Location = self.directory / "breakwater" / "database.sqlite"
        self._settings.write_text(text)

    def use(self, location: Location, ca: str = ".") -> None:
        """Use this database, and the CA keys in the folder `ca`, from the next start."""
        self.location = location
        head, _, _ = self._written.partition("[database]")
        text = f'ca = "{ca}"\n{head}[database]\n'
        if isinstance(location, PostgresLocation):
            text += f'engine = "postgresql"\nhost = "{location.host}"\nname = "{location.name}"\npool = 4\n'
            text = f"replicas = 2\n{text}"
        else:
            text += 'path = "database.sqlite"\n'
        self._settings.write_text(text)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.running

    def up(self, start: Start | None = None, wait: bool = True) -> Process:
        """Start the process if it is not running. It may be killed during the start."""
        if self.process is None or not self.running:
            start = start or Plan(control=str(self.control))
            self.process = start(self._scratch, "cascade", "serve", "breakwater", "--dir", str(self.directory))
        if wait:
            self.wait_up()
        return self.process

    def wait_up(self) -> None:
        def up() -> bool:
            return not self.running or all(accepts(self.port + offset) for offset in (1, 3))

        wait_until("the start of the issuer", up)


def died(process: Process | None, control: Path, point: str, stage: Stage, seconds: float) -> bool:
    """Whether a process kills itself at this point and stage within `seconds`."""
    if process is None:
        return False
    with suppress(AssertionError):
        wait_until("the death", lambda: not process.running, seconds)
    if process.running or process.wait() != -signal.SIGKILL or not (control / "died").exists():
        return False
    return (control / "died").read_text() == f"{point} {stage}"


@dataclass
class Memory:
    """Everything that the client has received. `revoked` maps the serial of a revoked certificate to its name."""

    certificates: dict[str, bytes] = field(default_factory=dict)
    crls: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    revoked: dict[str, str] = field(default_factory=dict)
    closed: set[tuple[str, int]] = field(default_factory=set)

    def receive(self, name: str, der: bytes) -> bytes:
        """Store a certificate. Asserts that a repeated request got the same one."""
        assert self.certificates.setdefault(name, der) == der, f"{name} got a second certificate"
        return der

    def revoke(self, name: str) -> None:
        self.revoked[f"{x509.load_der_x509_certificate(self.certificates[name]).serial_number:040x}"] = name


class Site:
    """One issuer and its client. `a` is the process to kill, `b` the second replica or None."""

    def __init__(self, mode: Mode, directory: Path, installation: Cloud, location: Location | None) -> None:
        self.mode = mode
        self.files = directory
        self.installation = installation
        self.a = Replica(directory / "a", installation)
        self.b: Replica | None = None
        if mode == "two replicas":
            self.b = Replica(directory / "b", installation)
        self.use(location or self.a.location)
        self.commands = directory / "commands"
        self.commands.mkdir()
        self.memory = Memory()
        self.passphrase = read_passphrase(installation.directory / "secrets" / "passphrase")
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self._requests: dict[str, bytes] = {}
        self._roots = 1
        self._tags = 0
        self.command_process: Process | None = None
        self.there_before: frozenset[str] = frozenset()
        """The serials that were issued before this client."""
        self.forgotten: frozenset[str] = frozenset()
        """The bytes that were signed for a database that is lost, in hex."""

    def use(self, location: Location) -> None:
        """Make every process use this database, with the CA keys of `a`."""
        for replica in self.replicas:
            replica.use(location, str(self.a.directory / "breakwater"))

    @property
    def location(self) -> Location:
        return self.a.location

    @property
    def controls(self) -> tuple[Path, ...]:
        """The control folders of the witnesses of all processes."""
        return (self.commands, *(replica.control for replica in self.replicas))

    def tag(self) -> str:
        """A new name for a node, its keys and its requests."""
        self._tags += 1
        return f"t{self._tags:04}"

    @property
    def replicas(self) -> tuple[Replica, ...]:
        return (self.a,) if self.b is None else (self.a, self.b)

    def end(self) -> None:
        for process in (self.command_process, *(replica.process for replica in self.replicas)):
            if process is not None:
                process.kill()

    def up(self, replica: Replica) -> None:
        """Start the replica if it is not running, and wait for the background work of a start. Raises Interrupted."""
        if replica.running:
            return
        if not replica.up().running:
            raise Interrupted("the issuer did not start")
        self.warm(replica)

    def up_all(self) -> None:
        """Start all replicas at the same time, each as by `up`."""
        down = [replica for replica in self.replicas if not replica.running]
        for replica in down:
            replica.up(wait=False)
        for replica in down:
            replica.wait_up()
            if not replica.running:
                raise Interrupted("the issuer did not start")
            self.warm(replica)

    def warm(self, replica: Replica) -> None:
        """Make the replica issue its OCSP delegates, so that the next issuance is a client's."""
        for path in sorted((self.a.directory / "breakwater" / "certs").glob("*-ca.pem")):
            self.ask(replica, "POST", "/ocsp", _ocsp_about(path), "pki")

    # Keys and requests; the same name gives the same bytes

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        return self._keys.setdefault(name, new_key())

    def csr(self, name: str) -> bytes:
        return self.kept(name, request)

    def kept(self, name: str, make: Callable[[ec.EllipticCurvePrivateKey], bytes]) -> bytes:
        """The CSR of this name. The first call makes it."""
        if name not in self._requests:
            self._requests[name] = make(self.key(name))
        return self._requests[name]

    # Requests of Fabric, nodes and services

    def ask(
        self,
        at: Replica,
        method: str,
        path: str,
        body: object = None,
        service: Literal["breakwater", "pki"] = "breakwater",
        identity: Identity | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request on a new connection. Raises Interrupted without an answer, and for statuses from 500."""
        media_type = "application/ocsp-request" if service == "pki" else "application/json"
        if "/est/" in path:
            media_type = TYPE_PKCS10
        try:
            with Wire(at, service, identity) as wire:
                answer = wire.ask(method, path, body, headers, media_type)
        except (OSError, Closed) as error:
            raise Interrupted(f"{path}: {error!r}") from error
        if answer.status >= 500:
            raise Interrupted(f"{path}: {answer.status} {answer.body.decode(errors='replace')[:300]}")
        return answer

    def tell(self, at: Replica, path: str, body: object) -> Answer:
        """Send a request with Fabric's identity."""
        return self.ask(at, "POST", path, body, identity=service_identity(self.installation, "fabric"))

    def node(self, tag: str) -> dict[str, object]:
        number = int.from_bytes(tag.encode()[-5:], "big")
        return {"tenant": TENANT, "node": make_id("node", number, b"0123456789")}

    def open(self, at: Replica, tag: str, generation: int = 1) -> None:
        self.tell(at, PATH_OPEN, {**self.node(tag), "generation": generation}).into(dict)

    def order(self, tag: str, what: str, generation: int) -> dict[str, object]:
        name = f"{tag}.{what}"
        more = {"request": name, "generation": generation, "csr": self.csr(name), "not_after": NOT_AFTER}
        return {**self.node(tag), **more}

    def device(self, at: Replica, tag: str, what: str = "device", generation: int = 1) -> bytes:
        answer = self.tell(at, PATH_DEVICE, self.order(tag, what, generation)).into(Certificate)
        return self.memory.receive(f"{tag}.{what}", answer.certificate_chain[0])

    def session(self, at: Replica, tag: str) -> Identity:
        answer = self.tell(at, PATH_SESSION, self.order(tag, "session", 1)).into(Certificate)
        self.memory.receive(f"{tag}.session", answer.certificate_chain[0])
        return Identity(self.key(f"{tag}.session"), answer.certificate_chain)

    def reenroll(self, at: Replica, name: str, csr: bytes, identity: Identity) -> bytes:
        """Renew over EST with the identity of a node's session or a service. Returns the new certificate."""
        headers = {HEADER_REQUEST: name}
        answer = self.ask(at, "POST", PATH_SIMPLEREENROLL, encode_base64(csr), identity=identity, headers=headers)
        assert answer.status == 200, answer.body
        return self.memory.receive(name, decode_certs_only(answer.body)[0])

    def enroll(self, at: Replica, csr: bytes, service: str, secret: str) -> Answer:
        login = base64.b64encode(f"{service}:{secret}".encode()).decode()
        return self.ask(at, "POST", PATH_SIMPLEENROLL, encode_base64(csr), headers={"Authorization": f"Basic {login}"})

    def close(self, at: Replica, tag: str, *devices: str, one: bool = False) -> None:
        path, field_name = (PATH_CLOSE_ONE, "generation") if one else (PATH_CLOSE, "up_to")
        self.tell(at, path, {**self.node(tag), field_name: 1}).into(dict)
        for name in devices:
            self.memory.revoke(f"{tag}.{name}")
        self.memory.closed.add((str(self.node(tag)["node"]), 1))

    def supersede(self, at: Replica, tag: str, what: str, *devices: str) -> None:
        digest = describe_key(self.key(f"{tag}.{what}").public_key()).spki_sha256
        body = {**self.node(tag), "generation": 1, "spki_sha256": digest}
        self.tell(at, PATH_SUPERSEDE_KEYS, body).into(dict)
        for name in devices:
            self.memory.revoke(f"{tag}.{name}")

    # Commands of an operator on the issuer's host

    def pki(self, action: str, *argv: str) -> Any:
        """Run a `cascade pki` command. Returns its document. Raises Interrupted when it fails."""
        line = ("pki", action, "--dir", str(self.a.directory), "--json", *argv)
        self.command_process = process = Plan(control=str(self.commands))(self.commands, "cascade", *line)
        if (code := process.wait()) != 0:
            raise Interrupted(f"cascade pki {action} ended with {code}:\n{process.report()}")
        return process.out()

    def secret(self, tag: str) -> str:
        """A one-time secret for the service `ledger`. The first call for a tag makes it."""
        file = self.files / f"{tag}.secret"
        if not file.exists():
            self.pki("issue", "ledger", "--out", str(file), "--host", "127.0.0.1")
        return file.read_text().strip()

    def offline_root(self) -> tuple[Issuer, LocalKey]:
        certificate = x509.load_pem_x509_certificate(
            (self.installation.directory / "breakwater" / "certs" / "root.pem").read_bytes()
        )
        key = read_key(self.installation.directory / "offline" / ROOT_KEY_FILE, self.passphrase)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return issuer_of("root", "root-1", certificate), LocalKey(key)

    def requested(self, ca: CaName, tag: str) -> tuple[str, Path]:
        """The id and the certificate file of the next generation of an issuing CA.

        The first call for a tag makes the key with `cascade pki rotate request` and the certificate with the offline
        root.
        """
        answer, known = self.files / f"{tag}.pem", self.files / f"{tag}.authority"
        if not answer.exists():
            asked = self.files / f"{tag}.csr"
            authority = str(self.pki("rotate", "request", ca, "--out", str(asked))["authority"])
            csr = x509.load_pem_x509_csr(asked.read_bytes())
            public_key = csr.public_key()
            assert isinstance(public_key, ec.EllipticCurvePublicKey)
            root, root_key = self.offline_root()
            name = CaIdentity(TRUST_DOMAIN, ca, int(authority.rpartition("-")[2]))
            made = asyncio.run(make_issuing(name, describe_key(public_key), root, root_key, _serial(), utc_now()))
            known.write_text(authority)
            answer.write_bytes(_pem(made.certificate_der))
        return known.read_text(), answer

    def new_root(self, tag: str) -> tuple[Path, Path]:
        """The files of the next root certificate and of the first root's cross-certificate for it."""
        made, crossed = self.files / f"{tag}.root.pem", self.files / f"{tag}.cross.pem"
        if not crossed.exists():
            self._roots += 1
            root, root_key = self.offline_root()
            key = LocalKey(ec.generate_private_key(ec.SECP384R1()))
            second = asyncio.run(make_root(CaIdentity(TRUST_DOMAIN, "root", self._roots), key, _serial(), utc_now()))
            made.write_bytes(_pem(second.certificate_der))
            crossed.write_bytes(_pem(asyncio.run(make_cross(second, root, root_key, _serial(), utc_now()))))
        return made, crossed


def _serial() -> int:
    return make_serial(os.urandom(SERIAL_BYTES))


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def _ocsp_about(path: Path) -> bytes:
    """An OCSP request to this CA about an unknown certificate."""
    ca = x509.load_pem_x509_certificate(path.read_bytes())
    key = x509.SubjectKeyIdentifier.from_public_key(ca.public_key()).digest
    digest = hashes.Hash(hashes.SHA1())  # noqa: S303  OCSP clients name issuers by SHA-1
    digest.update(ca.subject.public_bytes())
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(digest.finalize(), key, 1, hashes.SHA1())  # noqa: S303
    return builder.build().public_bytes(Encoding.DER)


def copy_sqlite(pristine: Path, replica: Replica) -> None:
    """Replace the SQLite database of a replica by a copy of `pristine`."""
    folder = replica.directory / "breakwater"
    for path in folder.glob("database.sqlite*"):
        path.unlink()
    shutil.copy(pristine, folder / "database.sqlite")
