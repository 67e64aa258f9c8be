"""The HTTP client: the connection of the first request, the bound of an answer, and when the client is imported."""

import subprocess
import sys

import pytest

from node.link import http
from node.link.connect import AnswerTooLong, NoAnswer, Opened, open_tcp
from node.link.transport import client_context
from tests.simulators.fabric import Fabric, always, raw
from tests.simulators.machine_clocks import right_window

NONCES = "/v1/node/nonces"


async def ask(fabric: Fabric, bytes_max: int = 1000) -> bytes:
    port = int(fabric.urls.fabric.rpartition(":")[2])
    opened = Opened(await open_tcp("127.0.0.1", port, 5))
    async with http.http_client(
        client_context(fabric.bundle, "fabric", right_window), fabric.urls.fabric, opened
    ) as client:
        bounds = {"connect_seconds_max": 5.0, "seconds_max": 5.0}
        answer = await http.exchange(client, "POST", NONCES, {"x": "y"}, b"{}", **bounds, bytes_max=bytes_max)
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


_START = """
import sys
import node.cli.main, node.startup
assert not {"httpx", "httpcore", "tuf", "pyudev", "email.policy"} & set(sys.modules)
"""


def test_a_start_without_a_cloud_imports_no_http_client() -> None:
    done = subprocess.run([sys.executable, "-c", _START], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
