"""A question to a socket: what a broken, slow or foreign program there can do to the one who asks."""

import os
import socket
from pathlib import Path

import pytest

from node.gating import question
from node.gating.question import ANSWER_BYTES_MAX, AgentSocket, Unanswered, quoted
from tests.node.gating.conftest import Answering, http


def test_an_answer(agent: AgentSocket, answering: Answering) -> None:
    requests = answering(http(b'{"granted": true}\n'))
    assert agent.ask("/v1/entitlements/a%20b", 5) == (200, {"granted": True})
    assert requests == [b"GET /v1/entitlements/a%20b HTTP/1.1\r\nHost: cascadia\r\nConnection: close\r\n\r\n"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1",
        b"\x16\x03\x01",
        http(b'{"granted": true}')[:-1],
        http(b'{"granted": true}') + b"x",
        b"HTTP/1.1 200 \r\n\r\n{}",
        b"HTTP/1.0 200 \r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 OK \r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 \r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 \r\ncontent-length: +2\r\n\r\n{}",
        b"HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        http(b"[]"),
        http(b"null"),
        http(b'{"granted": tru'),
        http(b"\xff\xfe"),
        http(b"[" * 100_000),
        http(b'{"a":' * 100_000),
        b"x" * (ANSWER_BYTES_MAX + 1),
    ],
)
def test_what_is_no_answer(agent: AgentSocket, answering: Answering, data: bytes) -> None:
    answering(data)
    with pytest.raises(Unanswered):
        agent.ask("/", 5)


def test_an_endless_answer_is_left(agent: AgentSocket, answering: Answering) -> None:
    requests = answering(b"x" * 8_000_000)
    with pytest.raises(Unanswered, match="too long"):
        agent.ask("/", 5)
    assert requests


def test_a_silent_program_is_left(agent: AgentSocket, listener: socket.socket) -> None:
    with pytest.raises(Unanswered, match="in time"):
        agent.ask("/", 0.02)


def test_a_full_queue_is_waited_for(agent: AgentSocket, answering: Answering, listener: socket.socket) -> None:
    """Another user fills the queue of the socket. The question waits in the kernel, and is answered."""
    listener.listen(0)
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(agent.path)
        with pytest.raises(Unanswered, match="in time"):
            agent.ask("/", 0.02)
        first.sendall(b"x")
        answering(http(b"{}"), http(b"{}"))
        assert agent.ask("/", 5) == (200, {})


def test_a_slow_program_is_left(agent: AgentSocket, answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, but the whole does not."""
    times = iter(range(10))
    monkeypatch.setattr(question, "monotonic", lambda: float(next(times)))
    monkeypatch.setattr(question, "_READ_BYTES", 1)
    answering(http(b"{}"))
    with pytest.raises(Unanswered, match="in time"):
        agent.ask("/", 5)
    assert next(times) == 6


def test_no_program(agent: AgentSocket, tmp_path: Path) -> None:
    with pytest.raises(Unanswered, match="cannot be reached"):
        agent.ask("/", 5)
    (tmp_path / "s").touch()
    with pytest.raises(Unanswered, match="cannot be reached"):
        agent.ask("/", 5)


def test_a_program_of_another_user_is_asked_nothing(
    agent: AgentSocket, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Foreign(socket.socket):
        def getsockopt(self, *_: object) -> bytes:  # type: ignore[override]  # the one option that is read
            return question._PEERCRED.pack(1, 1000, 1000)

    monkeypatch.setattr(socket, "socket", Foreign)
    requests = answering(http(b'{"granted": true}'))
    with pytest.raises(Unanswered, match="a program of user 1000 listens"):
        agent.ask("/", 5)
    assert requests in ([], [b""], [b"", b"gone"])


@pytest.mark.parametrize("user", [0, os.geteuid()])
def test_root_and_the_agents_user_are_asked(
    agent: AgentSocket, answering: Answering, monkeypatch: pytest.MonkeyPatch, user: int
) -> None:
    class Known(socket.socket):
        def getsockopt(self, *_: object) -> bytes:  # type: ignore[override]  # as above
            return question._PEERCRED.pack(1, user, user)

    monkeypatch.setattr(socket, "socket", Known)
    answering(http(b"{}"))
    assert agent.ask("/", 5) == (200, {})


@pytest.mark.parametrize(
    ("text", "result"), [("a-b._~", "a-b._~"), ("a/b?c=d", "a%2Fb%3Fc%3Dd"), ("é\r\n", "%C3%A9%0D%0A")]
)
def test_quoted(text: str, result: str) -> None:
    assert quoted(text) == result
