"""A service's revoked certificate is refused on open connections, after restarts, and before a client sends a request.

OCSP and CRL show the revocation at once. Fabric and Breakwater run as separate processes. `Thief` listens at
Breakwater's address with a copy of its key and certificate, and records every byte that a client sends.
"""

import shutil
import socket
import ssl
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from cryptography import x509

from cloud.contracts.events import PATH_CHANGES
from lab.cloud import Cloud
from lab.processes import WAIT_SECONDS, Process, accepts, free_ports, wait_until
from lab.stranger import Stranger
from protocol.messages.sessions import Session
from tests.simulators.forged_evidence import request
from tests.system.support.harness import forked, new_cloud
from tests.system.support.paper_node import SESSIONS, PaperNode, paper_tenant, secret_of
from tests.system.support.wire import PORTS, Identity, Wire, new_key, once, renew_device, root_pem, service_identity

FEED = PATH_CHANGES


class Pair:
    """Fabric and Breakwater of one installation, each as a separate process."""

    def __init__(self, cloud: Cloud, scratch: Path) -> None:
        self.cloud = cloud
        self._scratch = scratch
        self._running: dict[str, Process] = {}

    def serve(self, *services: str) -> None:
        """Start services, and return when they accept connections."""
        self.begin(*services)
        self.wait(*services)

    def begin(self, *services: str) -> None:
        """Start services."""
        for name in services:
            self._running[name] = forked(
                self._scratch / name, "cascade", "serve", name, "--dir", str(self.cloud.directory)
            )

    def wait(self, *services: str) -> None:
        """Return when the services accept connections."""
        for name in services:
            self._wait(name)

    def _wait(self, name: str) -> None:
        process = self._running[name]
        ports = listening_ports(self.cloud, name)

        def up() -> bool:
            assert process.running, process.report()
            return all(accepts(port) for port in ports)

        wait_until(f"the start of {name}", up)

    def stop(self, name: str) -> None:
        assert self._running.pop(name).stop() == 0

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def kill(self, name: str) -> None:
        self._running.pop(name).kill()

    def end(self) -> None:
        for process in self._running.values():
            process.kill()


def settings_of(cloud: Cloud, service: str) -> Path:
    return cloud.directory / service / "settings.toml"


def listening_ports(cloud: Cloud, service: str) -> list[int]:
    return [int(each["port"]) for each in tomllib.loads(settings_of(cloud, service).read_text())["listeners"]]


def move_breakwater(cloud: Cloud, port: int, to: int) -> None:
    """Move Breakwater's listener to another port. Clients still connect to the old port."""
    settings = settings_of(cloud, "breakwater")
    text = settings.read_text()
    assert f"port = {port}\n" in text
    settings.write_text(text.replace(f"port = {port}\n", f"port = {to}\n"))


@pytest.fixture
def pair(installation: Cloud, tmp_path: Path) -> Iterator[Pair]:
    """The two services of a new copy of the installation, not started."""
    it = Pair(new_cloud(tmp_path).copy_from(installation), tmp_path)
    try:
        yield it
    finally:
        it.end()


def leaf_of(identity: Identity) -> x509.Certificate:
    return x509.load_der_x509_certificate(identity.chain[0])


def copied(cloud: Cloud, name: str, to: Path) -> Path:
    """A copy of a service's current chain. A renewal replaces the original file."""
    return Path(shutil.copy(cloud.directory / name / "tls" / "chain.pem", to))


def revoke(cloud: Cloud, chain: Path, reason: str = "keyCompromise") -> float:
    """Revoke the certificate with the command line. Returns the time after the command, as of `time.monotonic`."""
    serial = x509.load_pem_x509_certificate(chain.read_bytes()).serial_number
    place = ("--dir", str(cloud.directory), "--certificate", str(chain), "--reason", reason)
    made = cloud.run("pki", "revoke", *place)
    done = time.monotonic()
    assert [int(each, 16) for each in made["serials"]] == [serial]
    return done


def test_a_copied_client_certificate_is_refused_at_the_next_request_of_an_open_connection(
    pair: Pair, tmp_path: Path
) -> None:
    cloud = pair.cloud
    pair.serve("breakwater")
    thief, chain = service_identity(cloud, "fabric"), copied(cloud, "fabric", tmp_path / "fabric.pem")
    stranger, leaf = Stranger(cloud, tmp_path / "stranger"), leaf_of(thief)
    before = stranger.asks(leaf)
    assert (before.ocsp, before.on_crl) == ("good", False)
    with Wire(cloud, "breakwater", thief) as wire:
        assert wire.ask("GET", FEED).status == 200
        revoke(cloud, chain)
        wire.ask("GET", FEED).refused("peer_refused")
        wire.ask("GET", FEED).refused("peer_refused")
    at_once = stranger.asks(leaf)
    assert (at_once.ocsp, at_once.on_crl) == ("revoked", True)
    assert at_once.crl_number > before.crl_number

    # Both revocations last, although Breakwater is killed right after the command.
    second = copied(cloud, "breakwater", tmp_path / "breakwater.pem")
    revoke(cloud, second, "superseded")
    pair.kill("breakwater")
    pair.serve("breakwater")
    once(cloud, "breakwater", "GET", FEED, None, thief).refused("peer_refused")
    for certificate in (leaf, x509.load_pem_x509_certificate(second.read_bytes())):
        after = stranger.asks(certificate)
        assert (after.ocsp, after.on_crl) == ("revoked", True)
        assert after.crl_number >= at_once.crl_number

    # Fabric works again with a new certificate for a new key.
    cloud.run("pki", "renew", "fabric", "--dir", str(cloud.directory))
    fresh = service_identity(cloud, "fabric")
    assert fresh.key.public_key() != thief.key.public_key()
    assert once(cloud, "breakwater", "GET", FEED, None, fresh).status == 200


def test_a_nodes_revocation_survives_a_kill_of_the_issuer_right_after_it(pair: Pair, tmp_path: Path) -> None:
    cloud = pair.cloud
    pair.serve("breakwater", "fabric")
    node = PaperNode(cloud, "killed after").join(secret_of(cloud.code(paper_tenant(cloud, tmp_path))))
    session, device = node.session(), x509.load_der_x509_certificate(node.device)
    cloud.run("node", "revoke", node.node)
    pair.kill("breakwater")
    pair.serve("breakwater")
    closed = "SELECT closed_up_to FROM closing WHERE node = ?"
    wait_until("the closing at Breakwater", lambda: cloud.rows("breakwater", closed, node.node) == [(1,)])
    with Wire(cloud, "breakwater", session) as wire:
        renew_device(wire, request(node.node_key)).refused("generation_closed")
    verdicts = Stranger(cloud, tmp_path / "stranger").asks(device)
    assert (verdicts.ocsp, verdicts.on_crl) == ("revoked", True)


class Thief:
    """A server at Breakwater's address with a copy of its key. It records what clients send, and passes it on.

    `heard` has the time and the bytes of everything received inside TLS. `met` has the time of each new connection.
    """

    def __init__(self, cloud: Cloud, port: int, upstream: int) -> None:
        self.heard: list[tuple[float, bytes]] = []
        self.met: list[float] = []
        self._upstream = upstream
        self._server = _context(ssl.PROTOCOL_TLS_SERVER, cloud, service_identity(cloud, "breakwater"))
        self._client = _context(ssl.PROTOCOL_TLS_CLIENT, cloud, service_identity(cloud, "fabric"))
        self._listener = socket.create_server(("127.0.0.1", port))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                self.met.append(time.monotonic())
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with suppress(OSError), ExitStack() as stack:
            stack.callback(plain.close)
            plain.settimeout(WAIT_SECONDS)
            near = stack.enter_context(self._server.wrap_socket(plain, server_side=True))
            self._open.append(near)
            far: ssl.SSLSocket | None = None
            while data := near.recv(65536):
                self.heard.append((time.monotonic(), data))
                if far is None:
                    behind = stack.enter_context(socket.create_connection(("127.0.0.1", self._upstream)))
                    far = stack.enter_context(self._client.wrap_socket(behind, server_hostname="127.0.0.1"))
                    threading.Thread(target=_pump, args=(far, near), daemon=True).start()
                far.sendall(data)

    def since(self, moment: float) -> bytes:
        return b"".join(data for when, data in self.heard if when > moment)

    def hang_up(self) -> None:
        """Close the listener and all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for near in self._open:
            with suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)


def _pump(far: ssl.SSLSocket, near: ssl.SSLSocket) -> None:
    with suppress(OSError):
        while data := far.recv(65536):
            near.sendall(data)


def _context(protocol: int, cloud: Cloud, identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.load_verify_locations(root_pem(cloud))
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.verify_mode = ssl.CERT_REQUIRED
    path = cloud.directory / "thief.pem"
    path.write_bytes(identity.pem)
    context.load_cert_chain(path)
    path.unlink()
    return context


def test_a_client_sends_no_more_bytes_to_a_server_with_a_revoked_certificate(pair: Pair, tmp_path: Path) -> None:
    cloud = pair.cloud
    address, elsewhere = cloud.port + PORTS["breakwater"], free_ports()
    move_breakwater(cloud, address, elsewhere)
    chain = copied(cloud, "breakwater", tmp_path / "breakwater.pem")
    thief = Thief(cloud, address, elsewhere)
    pair.serve("breakwater", "fabric")
    node = PaperNode(cloud, "between two").join(secret_of(cloud.code(paper_tenant(cloud, tmp_path))))
    wait_until("Fabric's poll of the feed", lambda: PATH_CHANGES.encode() in thief.since(0))
    asked = len(thief.heard)
    node.session()
    assert len(thief.heard) > asked, "the thief receives Fabric's requests"

    # Another process revokes the certificate. Fabric reads it in the feed and sends no more bytes to the thief.
    done = revoke(cloud, chain)
    session = node.open_session(request(new_key()))
    wait_until("a second after the revocation", lambda: time.monotonic() >= done + 1)
    once(cloud, "fabric", "POST", SESSIONS, session).refused("unavailable")
    wait_until("three more handshakes", lambda: len([met for met in thief.met if met > done + 1]) >= 3)
    assert thief.since(done + 1) == b""

    # Restarted while Breakwater is down, Fabric reads the revocation from its own table.
    pair.kill("breakwater")
    pair.kill("fabric")
    restarted = time.monotonic()
    pair.serve("fabric")
    session = node.open_session(request(new_key()))
    once(cloud, "fabric", "POST", SESSIONS, session).refused("unavailable")
    assert [met for met in thief.met if met > restarted]
    assert thief.since(restarted) == b""

    # With a new certificate Fabric accepts Breakwater again.
    thief.hang_up()
    move_breakwater(cloud, elsewhere, address)
    cloud.run("pki", "renew", "breakwater", "--dir", str(cloud.directory))
    pair.serve("breakwater")

    def works() -> bool:
        answer = once(cloud, "fabric", "POST", SESSIONS, node.open_session(request(new_key())))
        return answer.status < 300 and bool(answer.into(Session))

    wait_until("a session", works)
