"""The HTTP client: the connection of the first request, the bound of an answer, and when the client is imported."""

import subprocess
import sys

import pytest
import trio

from node.link import http
from node.link.connect import Answer, AnswerTooLong, NoAnswer, Opened, open_tcp
from node.link.transport import client_context
from tests.simulators.fabric import Fabric, always, raw
from tests.simulators.machine_clocks import right_window

NONCES = "/v1/node/nonces"


async def ask(fabric: Fabric, bytes_max: int = 1000) -> bytes:
    port = int(fabric.urls.fabric.rpartition(":")[2])
    opened = Opened(await open_tcp("127.0.0.1", port, 5))
    async with http.Client(client_context(fabric.bundle, "fabric", right_window), fabric.urls.fabric, opened) as client:
        bounds = {"connect_seconds_max": 5.0, "seconds_max": 5.0}
        answer = await client.exchange("POST", NONCES, {"x": "y"}, b"{}", **bounds, bytes_max=bytes_max)
        assert opened.take() is None
        return answer.body


async def test_the_first_request_uses_the_open_connection(fabric: Fabric) -> None:
    assert b"nonce" in await ask(fabric)
    assert fabric.handshakes == ["done"]


async def test_an_answer_has_a_bound(fabric: Fabric) -> None:
    fabric.answers[NONCES] = always(200, b"x" * 100)
    assert await ask(fabric, 100) == b"x" * 100
    with pytest.raises(AnswerTooLong):
        await ask(fabric, 99)


async def test_bytes_that_are_no_http_are_no_answer(fabric: Fabric) -> None:
    fabric.answers[NONCES] = raw(b"SSH-2.0\r\n")
    with pytest.raises(NoAnswer):
        await ask(fabric)


async def test_a_silent_server_is_a_timeout(fabric: Fabric) -> None:
    fabric.answers[NONCES] = always(200, b"{}")
    async with http.Client(client_context(fabric.bundle, "fabric", right_window), fabric.urls.fabric) as client:
        with pytest.raises(TimeoutError):
            await client.exchange("POST", NONCES, {}, b"{}", connect_seconds_max=5.0, seconds_max=0.0, bytes_max=9)


SENT = {
    "POST": ("http://cloud.example:8443/base/", "host: cloud.example:8443", b"{}", "content-length: 2"),
    "PUT": ("http://[fe80::1%25eth0]", "host: [fe80::1]", None, "content-length: 0"),
    "GET": ("http://[::1]:8443", "host: [::1]:8443", None, ""),
}


@pytest.mark.parametrize("method", SENT)
async def test_what_is_sent_names_the_server_and_the_length(nursery: trio.Nursery, method: str) -> None:
    url, host, body, length = SENT[method]
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    opened = Opened(await open_tcp("127.0.0.1", listener.socket.getsockname()[1], 5))
    head = b""

    async def serve() -> None:
        nonlocal head
        async with listener, await listener.accept() as server:
            while not head.endswith(b"\r\n\r\n" + (body or b"")):
                head += await server.receive_some()
            await server.send_all(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nSet-Cookie: c=d\r\nContent-Length: 0\r\n\r\n")

    nursery.start_soon(serve)
    async with http.Client(client_context(Fabric().bundle, "fabric", right_window), url, opened) as client:
        bounds = {"connect_seconds_max": 5.0, "seconds_max": 5.0}
        answer = await client.exchange(method, "/x?y=z", {"a": "b"}, body, **bounds, bytes_max=9)
    assert answer == Answer(302, {"location": "/x", "set-cookie": "c=d", "content-length": "0"}, b"")
    line, *headers = head.decode().partition("\r\n\r\n")[0].split("\r\n")
    assert line == f"{method} {'/base' if method == 'POST' else ''}/x?y=z HTTP/1.1"
    assert sorted(headers) == sorted(each for each in (host, "accept-encoding: identity", "a: b", length) if each)


_START = """
import sys
import node.cli.main, node.startup
assert not {"argparse", "httpx", "httpcore", "tuf", "pyudev", "email.policy"} & set(sys.modules)
"""


def test_a_start_without_a_cloud_imports_no_http_client() -> None:
    done = subprocess.run([sys.executable, "-c", _START], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
