"""The state directory has no usable private key, and the certificates in it serve no other purpose than theirs.

strace records every write of a real agent while it activates, opens sessions, refreshes and renews. Then the tests
search the state directory, and all bytes that the agent ever wrote to a file system, for the private keys of its device
certificate and of each session.
"""

import base64
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import WAIT_SECONDS, ended, free_ports, wait_until
from lab.tpm import SoftTpm
from node.disk.identity import IdentityStore
from node.hwbind import keys
from node.hwbind.errors import TpmNotOurs
from node.hwbind.tpm import Tpm
from protocol.ids import EKU_DEVICE, NodeSpiffeId, parse_spiffe
from tests.simulators.forged_evidence import request
from tests.system.support.harness import new_cloud, new_machine
from tests.system.support.key_search import Search, keys_in, public_bytes
from tests.system.support.paper_node import SESSIONS, made_by_the_issuer
from tests.system.support.snapshots import files_of
from tests.system.support.wire import Closed, Identity, Wire, new_key, nodes_ca_pem, root_pem, service_identity

UNKNOWN_NODE = "node_01jd8xk3v5e2r9qz7w4m6n8p0a"
MEMORY_FILE = b"/memfd:cascadia-session"


class Written(msgspec.Struct, frozen=True):
    """Bytes that a process wrote, and the path of the file."""

    path: bytes
    data: bytes


class Watched:
    """A `cascadia` process under strace from its first instruction, with its threads and children."""

    _WRITES = "write,pwrite64,writev,pwritev,pwritev2,sendfile,copy_file_range,splice,vmsplice,io_uring_enter"
    _OPTIONS = ("-f", "--seccomp-bpf", "-qq", "-y", "-xx", "-s", "1000000", "-e", f"trace={_WRITES},mmap,memfd_create")
    """Trace all threads and children, print file names, and print every written byte."""
    _CALL = re.compile(rb"^\d+ +(\w+)\((.*)$")
    _TEXT = re.compile(rb'"((?:\\x[0-9a-f]{2})*)"')

    def __init__(self, machine: Machine, *argv: str) -> None:
        machine.directory.mkdir(exist_ok=True)
        self._trace = machine.directory / f"trace-{argv[0]}"
        strace = shutil.which("strace")
        assert strace, "strace is missing: run make setup"
        with (machine.directory / "watched.log").open("ab") as log:
            self._process = subprocess.Popen(
                [strace, *self._OPTIONS, "-o", str(self._trace), sys.executable, "-m", "node.cli.main", *argv],
                env={
                    **machine.env,
                    "PATH": "/usr/bin:/bin",
                    "HOME": str(machine.directory),
                    # Without this, most writes would be Python's bytecode files.
                    "PYTHONDONTWRITEBYTECODE": "1",
                },
                cwd=Path(__file__).parents[2],
                stdout=log,
                stderr=log,
            )

    def wait(self) -> int:
        return self._process.wait(2 * WAIT_SECONDS)

    def stop(self) -> int:
        """Send SIGTERM to the agent, and wait for strace, which ends with it. Returns the exit status."""
        self._signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Kill the agent, then strace. The agent would survive a kill of strace alone."""
        if self._process.poll() is None:
            self._signal(signal.SIGKILL)
            self._process.kill()
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), number)

    def written(self) -> Iterator[Written]:
        """Every write except to sockets and pipes. For a file mapped for writing, the bytes come from the file."""
        for line in self._trace.read_bytes().splitlines():
            call = self._CALL.match(line)
            if call is None:
                continue
            name, rest = call.groups()
            target = re.search(rb"\d+<((?:\\x[0-9a-f]{2})*|[^>]*)>", rest)
            if target is None:
                continue
            path = _unescaped(target[1])
            assert name not in (b"sendfile", b"copy_file_range", b"splice", b"vmsplice", b"io_uring_enter"), line
            if name == b"mmap":
                if b"MAP_SHARED" in rest and b"PROT_WRITE" in rest and Path(path.decode()).is_file():
                    yield Written(path, Path(path.decode()).read_bytes())
            elif path.startswith(b"/"):
                for text in self._TEXT.findall(rest):
                    yield Written(path, _unescaped(text))


def _unescaped(text: bytes) -> bytes:
    return bytes.fromhex(text.replace(b"\\x", b"").decode()) if text.startswith(b"\\x") else text


class Run(msgspec.Struct, frozen=True):
    """The results of one traced machine: state directory, writes, and certificates from Breakwater's records."""

    cloud: Cloud
    machine: Machine
    written: tuple[Written, ...]
    device: x509.Certificate
    sessions: tuple[x509.Certificate, ...]

    @property
    def wanted(self) -> list[bytes]:
        return [public_bytes(certificate.public_key()) for certificate in (self.device, *self.sessions)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, installation: Cloud, chips: tuple[SoftTpm, SoftTpm]) -> Iterator[Run]:
    directory = tmp_path_factory.mktemp("worthless")
    cloud = new_cloud(directory).copy_from(installation)
    machine = new_machine(directory, chips[0])
    with ended(cloud):
        cloud.up()
        file = cloud.code(cloud.tenant(chips[0]))
        activation = Watched(machine, "activate", str(file))
        agent: Watched | None = None
        try:
            assert activation.wait() == 0, (machine.directory / "watched.log").read_text()
            agent = Watched(machine, "run")
            wait_until("an answer of the agent", machine.answers)
            assert machine.granted()
            node = machine.ask("/v1/status")["license"]["node"]
            for _ in range(2):
                machine.run("renew")
            cloud.run("node", "suspend", node)
            machine.wait_state("suspended")
            cloud.run("node", "resume", node)
            machine.wait_state("active")
            assert agent.stop() == 0
            written = (*activation.written(), *agent.written())
        finally:
            activation.kill()
            if agent is not None:
                agent.kill()
        issued = cloud.rows("breakwater", "SELECT profile, certificate FROM certificate WHERE node = ?", node)
        certificates = {
            kind: tuple(x509.load_der_x509_certificate(der) for profile, der in issued if profile == kind)
            for kind in ("device", "session")
        }
        # One device certificate is from the activation and two are from renewals. The agent opened the sessions.
        assert len(certificates["device"]) == 3
        assert len(certificates["session"]) >= 3
        yield Run(cloud, machine, written, certificates["device"][-1], certificates["session"])


# The private keys


def test_no_file_of_the_state_directory_is_a_key(run: Run) -> None:
    files = files_of(run.machine.state)
    assert {Path(name).name for name in files} >= {
        "ak.pub", "ak.priv", "node.pub", "node.priv", "device.pem", "identity.json", "current.json", "statement.json",
    }  # fmt: skip
    search = Search(run.wanted)
    assert [name for name, data in files.items() if search.finds(data)] == []
    # A key may be split over several files.
    assert not search.finds(b"".join(files.values()))


def test_session_keys_are_never_written_to_a_file_system(run: Run) -> None:
    # The trace works: it has every session key in a memory file, the way to OpenSSL.
    in_memory = {path: keys for path, keys in ((item.path, keys_in(item.data)) for item in run.written) if keys}
    assert in_memory
    assert all(path.startswith(MEMORY_FILE) for path in in_memory), in_memory
    seen = {key for item in run.written if item.path.startswith(MEMORY_FILE) for key in keys_in(item.data)}
    assert seen == set(run.wanted[1:])
    files = [item for item in run.written if not item.path.startswith(b"/memfd:")]
    assert any(b"/licence/g-" in item.path for item in files)
    search = Search(run.wanted)
    assert {item.path for item in files if search.finds(item.data)} == set()
    # A key may be written in pieces, so all writes to one file are searched together.
    sums: dict[bytes, bytes] = {}
    for item in files:
        sums[item.path] = sums.get(item.path, b"") + item.data
    assert {path for path, data in sums.items() if search.finds(data)} == set()


@pytest.mark.parametrize("spelling", [
    "pkcs8-pem", "traditional-pem", "pkcs8-der", "traditional-der", "openssh", "pkcs12", "scalar", "reversed",
    "hex", "base64", "base64url", "inside-json",
])  # fmt: skip
def test_the_search_finds_a_key_in_each_encoding(spelling: str) -> None:
    key = new_key()
    scalar = key.private_numbers().private_value.to_bytes(32, "big")
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert isinstance(load_der_private_key(der, None), ec.EllipticCurvePrivateKey)
    forms = {
        "pkcs8-pem": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "traditional-pem": key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        "pkcs8-der": der,
        "traditional-der": key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        "openssh": key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        "pkcs12": pkcs12.serialize_key_and_certificates(b"k", key, None, None, NoEncryption()),
        "scalar": b"\x01\x02\x03" + scalar + b"\xff",
        "reversed": scalar[::-1],
        "hex": scalar.hex().encode(),
        "base64": base64.encodebytes(der),
        "base64url": base64.urlsafe_b64encode(scalar).rstrip(b"="),
        "inside-json": b'{"format":1,"key":"' + base64.b64encode(der) + b'"}',
    }
    found = Search([public_bytes(key.public_key())])
    assert found.finds(forms[spelling] if spelling == "pkcs12" else b"\n" + forms[spelling] + b"\n")
    assert not Search([public_bytes(new_key().public_key())]).finds(forms[spelling])
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    assert not found.finds(encrypted)


def test_another_tpm_loads_none_of_the_blobs(run: Run, chips: tuple[SoftTpm, SoftTpm]) -> None:
    identity = IdentityStore(run.machine.state).current()
    assert identity is not None
    own, other = (Tpm(chip.tcti) for chip in chips)
    try:
        assert own.call(lambda esys: keys.sign(esys, identity.node_key, b"a message"))
        with pytest.raises(TpmNotOurs):
            other.call(lambda esys: keys.sign(esys, identity.node_key, b"a message"))
        with pytest.raises(TpmNotOurs):
            other.call(lambda esys: keys.sign(esys, identity.ak, b"a message"))
    finally:
        own.close()
        other.close()


# The certificates


def _of(run: Run) -> list[x509.Certificate]:
    return [run.device, *run.sessions]


def test_each_certificate_has_exactly_one_uri_name(run: Run) -> None:
    for certificate in _of(run):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names
        assert isinstance(uri, x509.UniformResourceIdentifier)
        spiffe = parse_spiffe(uri.value)
        assert isinstance(spiffe, NodeSpiffeId)
        assert certificate.subject.rfc4514_string() == f"2.5.4.5=1,CN={spiffe.node}"
    purposes = [list(c.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) for c in _of(run)]
    assert purposes[0] == [x509.ObjectIdentifier(EKU_DEVICE)]
    assert all(purpose == [ExtendedKeyUsageOID.CLIENT_AUTH] for purpose in purposes[1:])


def _openssl(*argv: str, text: bytes = b"") -> tuple[int, str]:
    done = subprocess.run(["openssl", *argv], input=text, capture_output=True, check=False, timeout=30)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def _verify(run: Run, certificate: x509.Certificate, directory: Path, *options: str) -> tuple[int, str]:
    leaf = directory / "leaf.pem"
    leaf.write_bytes(certificate.public_bytes(Encoding.PEM))
    trust = ["-no-CApath", "-no-CAstore", "-CAfile", str(root_pem(run.cloud))]
    return _openssl("verify", *options, *trust, "-untrusted", str(nodes_ca_pem(run.cloud)), str(leaf))


def test_openssl_verifies_both_chains(run: Run, tmp_path: Path) -> None:
    for certificate in _of(run):
        assert _verify(run, certificate, tmp_path, "-x509_strict", "-purpose", "any")[0] == 0
    code, said = _verify(run, run.sessions[0], tmp_path, "-x509_strict", "-purpose", "sslclient")
    assert code == 0, said
    for purpose in ("sslclient", "sslserver"):
        code, said = _verify(run, run.device, tmp_path, "-purpose", purpose)
        assert code != 0
        assert "unsuitable certificate purpose" in said or "unsupported certificate purpose" in said, said


class Files(msgspec.Struct, frozen=True):
    """A TLS identity as options for openssl."""

    options: tuple[str, ...]

    @classmethod
    def of(cls, identity: Identity, directory: Path, name: str) -> "Files":
        leaf, issuers, key = (directory / f"{name}-{part}.pem" for part in ("leaf", "issuers", "key"))
        for path, ders in ((leaf, identity.chain[:1]), (issuers, identity.chain[1:])):
            path.write_bytes(b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders))
        key.write_bytes(identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return cls(("-cert", str(leaf), "-key", str(key), "-cert_chain", str(issuers)))


ASK = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def _s_client(run: Run, port: int, files: Files) -> str:
    trust = ["-CAfile", str(root_pem(run.cloud)), "-verify_return_error"]
    options = ["-connect", f"127.0.0.1:{port}", "-tls1_3", "-ign_eof", *trust]
    return _openssl("s_client", *options, *files.options, text=ASK)[1]


@pytest.mark.parametrize("service", ["fabric", "breakwater"])
def test_a_device_certificate_is_refused_as_a_tls_client(run: Run, tmp_path: Path, service: str) -> None:
    """The node's key works only in its TPM, so Breakwater issues a device certificate for a key in software."""
    tenant = run.cloud.rows("fabric", "SELECT id FROM tenant")[0][0]
    device, session = (made_by_the_issuer(run.cloud, tenant, UNKNOWN_NODE, kind) for kind in ("device", "session"))
    port = run.cloud.port + (service == "breakwater")
    assert "HTTP/1.1 200" in _s_client(run, port, Files.of(session, tmp_path, "session"))
    said = _s_client(run, port, Files.of(device, tmp_path, "device"))
    assert "HTTP/1.1" not in said
    assert "Verify return code: 0 (ok)" in said, said  # the client accepts the server, so the refusal is the server's
    with pytest.raises((Closed, OSError)), Wire(run.cloud, "fabric", device) as wire:
        wire.ask("GET", "/healthz")


def test_openssl_as_the_server_refuses_a_device_certificate(run: Run, tmp_path: Path) -> None:
    tenant = run.cloud.rows("fabric", "SELECT id FROM tenant")[0][0]
    server = Files.of(service_identity(run.cloud, "fabric"), tmp_path, "server")
    port = free_ports(1)
    trust = ["-CAfile", str(root_pem(run.cloud)), "-Verify", "3", "-verify_return_error"]
    with subprocess.Popen(
        ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_3", "-www", *trust, *server.options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            session = Files.of(made_by_the_issuer(run.cloud, tenant, UNKNOWN_NODE, "session"), tmp_path, "session")
            wait_until("openssl's server", lambda: "HTTP/1.0 200" in _s_client(run, port, session))
            device = Files.of(made_by_the_issuer(run.cloud, tenant, UNKNOWN_NODE, "device"), tmp_path, "device")
            said = _s_client(run, port, device)
            assert "HTTP/1.0" not in said
            assert "alert" in said, said
        finally:
            process.terminate()


def test_a_device_certificate_without_a_proof_opens_no_session(run: Run) -> None:
    """Without a proof by the TPM, a copied device certificate opens no session."""
    key = new_key()
    body = {"device_certificate": run.device.public_bytes(Encoding.DER), "csr": request(key), "proof": "e30.e30.e30"}
    with Wire(run.cloud) as wire:
        wire.ask("POST", SESSIONS, msgspec.json.encode(body)).refused("proof_refused")
