"""TLS of the agent with real servers: which servers are accepted, and where the session key is stored."""

import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from node.link import transport
from node.link.certificates import CertificateRejected
from node.link.connect import Answer, LinkFailed, open_tcp
from node.link.http import Client
from node.link.transport import (
    ServerIdentityError,
    SessionKey,
    check_server,
    client_context,
    verification_failure,
)
from tests.simulators.fabric import CLIENT, DOMAIN, Authority, Fabric, Leaf, authority, utc_now
from tests.simulators.machine_clocks import right_window

HOUR = timedelta(hours=1)


async def post(client: Client, body: bytes) -> Answer:
    return await client.exchange(
        "POST", "/v1/node/nonces", {}, body, connect_seconds_max=5.0, seconds_max=5.0, bytes_max=1000
    )


async def ask(fabric: Fabric, url: str = "") -> Answer:
    async with Client(client_context(fabric.bundle, "fabric", right_window), url or fabric.urls.fabric) as client:
        return await post(client, b"secret of the request")


async def test_the_right_server_is_asked(fabric: Fabric) -> None:
    assert (await ask(fabric)).status == 200
    assert fabric.requests[0].generation == 0


def stranger(fabric: Fabric) -> Authority:
    """An issuing CA of services of another installation."""
    return authority("services", authority("root"))


WRONG_SERVERS: dict[str, tuple[Callable[[Fabric], Leaf], str]] = {
    "another service": (lambda f: f.service_leaf("breakwater"), "the server is not spiffe"),
    "no SPIFFE id": (lambda f: f.service_leaf("fabric", uris=()), "the server is not spiffe"),
    "two SPIFFE ids": (
        lambda f: f.service_leaf("fabric", uris=(f"spiffe://{DOMAIN}/service/fabric", f"spiffe://{DOMAIN}/service/x")),
        "the server is not spiffe",
    ),
    "another trust domain": (
        lambda f: f.service_leaf("fabric", uris=("spiffe://other/service/fabric",)),
        "the server is not spiffe",
    ),
    "the CA of nodes": (lambda f: f.service_leaf("fabric", issuer=f.nodes), "no issuing CA of services issued"),
    "the root itself": (lambda f: f.service_leaf("fabric", issuer=f.root), "no issuing CA of services issued"),
    "a new CA under the root": (
        lambda f: f.service_leaf("fabric", issuer=authority("services", f.root)),
        "no issuing CA of services issued",
    ),
    "a stranger's CA": (
        lambda f: f.service_leaf("fabric", issuer=stranger(f)),
        "unable to get|self-signed|signature failure",
    ),
    "expired": (
        lambda f: f.service_leaf("fabric", not_before=utc_now() - 2 * HOUR, not_after=utc_now() - HOUR),
        "it ended at",
    ),
    "not yet valid": (lambda f: f.service_leaf("fabric", not_before=utc_now() + HOUR), "it begins at"),
    "another host": (lambda f: f.service_leaf("fabric", ip="127.0.0.2"), "IP address mismatch"),
    "not for servers": (lambda f: f.service_leaf("fabric", usages=(CLIENT,)), "unsuitable certificate purpose"),
}


@pytest.mark.parametrize("name", WRONG_SERVERS)
async def test_a_wrong_server_gets_not_one_byte_of_a_request(fabric: Fabric, name: str) -> None:
    make, reason = WRONG_SERVERS[name]
    fabric.leaves["fabric"] = make(fabric)
    with pytest.raises(ServerIdentityError, match=reason):
        await ask(fabric)
    assert (fabric.received, fabric.requests) == (0, [])


async def test_a_server_of_an_older_tls_is_refused(nursery: trio.Nursery) -> None:
    fabric = Fabric()
    context = fabric._context(fabric.leaves["fabric"])
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    fabric._context = lambda _leaf: context  # type: ignore[method-assign, assignment]  # a simulator
    await nursery.start(fabric.serve)
    with pytest.raises(LinkFailed) as caught:
        await ask(fabric)
    assert (caught.value.code, verification_failure(caught.value)) == ("tls_failed", None)
    assert fabric.received == 0


async def test_cancelled_in_the_handshake_the_connection_is_closed(nursery: trio.Nursery) -> None:
    """The server sees the end of the connection at once, not at the next garbage collection."""
    closed = trio.Event()

    async def silent(stream: trio.SocketStream) -> None:
        async with stream:
            async for _ in stream:
                pass
            closed.set()

    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    nursery.start_soon(trio.serve_listeners, silent, [listener])
    url = f"https://127.0.0.1:{listener.socket.getsockname()[1]}"
    async with Client(client_context(Fabric().bundle, "fabric", right_window), url) as client:
        with trio.move_on_after(0.2) as scope:
            await post(client, b"")
        assert scope.cancelled_caught
        with trio.fail_after(2):
            await closed.wait()


async def test_an_environment_of_other_programs_changes_nothing(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = tmp_path / "root.pem"
    other = stranger(fabric)
    root.write_text(ssl.DER_cert_to_PEM_cert(other.der))
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(root))
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await ask(fabric)).status == 200


def test_a_server_without_a_readable_certificate_is_refused() -> None:
    for der in (None, b"", b"not a certificate"):
        with pytest.raises(ServerIdentityError):
            check_server(der, "spiffe://x/service/fabric", ())


def test_a_context_without_an_expected_server_is_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslobject_class = transport._CheckedObject
    fabric = Fabric()
    server_in, server_out, client_in, client_out = (ssl.MemoryBIO() for _ in range(4))
    client = context.wrap_bio(client_in, client_out)
    server = fabric._context(fabric.leaves["fabric"]).wrap_bio(server_in, server_out, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    server_in.write(client_out.read())
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    client_in.write(server_out.read())
    with pytest.raises(ServerIdentityError, match="names no expected service"):
        client.do_handshake()


async def test_the_session_certificate_is_shown_to_the_server(fabric: Fabric) -> None:
    key = SessionKey()
    context = client_context(fabric.bundle, "fabric", right_window)
    key.use(context, fabric.node_chain(key.public_key, 7, CLIENT.dotted_string))
    async with Client(context, fabric.urls.fabric) as client:
        await post(client, b"{}")
    assert fabric.requests[0].generation == 7


def test_the_session_key_is_in_memory_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory file is the only file that Python opens meanwhile, and it is gone at the end."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    fabric = Fabric()
    opened: list[str] = []
    armed = True

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if armed and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(audit)
    before = sorted(Path("/proc/self/fd").iterdir())
    opened.clear()
    key = SessionKey()
    key.use(
        client_context(fabric.bundle, "fabric", right_window),
        fabric.node_chain(key.public_key, 1, CLIENT.dotted_string),
    )
    armed = False
    assert [name for name in opened if not name.isdecimal()] == []
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_is_not_the_certificates_is_refused() -> None:
    fabric = Fabric()
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(CertificateRejected, match="KEY_VALUES_MISMATCH"):
        SessionKey().use(
            client_context(fabric.bundle, "fabric", right_window), fabric.node_chain(other, 1, CLIENT.dotted_string)
        )


_AS_NOBODY = """
import os, sys
from node.system.hardening import no_core_dumps
from node.link.transport import SessionKey, client_context
from tests.simulators.fabric import CLIENT, Fabric
from tests.simulators.machine_clocks import right_window
fabric, key = Fabric(), SessionKey()
chain = fabric.node_chain(key.public_key, 1, CLIENT.dotted_string)
context = client_context(fabric.bundle, "fabric", right_window)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
no_core_dumps()
key.use(context, chain)
import resource
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
"""


@pytest.mark.slow
def test_the_session_key_loads_in_a_hardened_process_of_another_user() -> None:
    """With PR_SET_DUMPABLE = 0 the files of /proc/self belong to root. The memory file must still open."""
    done = subprocess.run([sys.executable, "-c", _AS_NOBODY], capture_output=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr.decode()


async def test_an_idle_connection_is_probed_by_the_kernel(fabric: Fabric) -> None:
    """An address translator that forgets the connection is noticed within 30 s, and mostly does not forget it."""
    async with await open_tcp("127.0.0.1", int(fabric.urls.fabric.rpartition(":")[2]), 5) as stream:
        used = stream.socket
        assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle = used.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        probes = (
            used.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
            used.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
        )
        assert idle + probes[0] * probes[1] <= 30
        assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


async def test_a_closed_port_is_no_failed_verification() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(LinkFailed) as caught:
        await ask(Fabric(), url)
    assert (caught.value.code, verification_failure(caught.value)) == ("connection_refused", None)
