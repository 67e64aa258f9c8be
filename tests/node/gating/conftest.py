"""Fixtures of the gate's tests: a program at the agent's socket that answers any bytes."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.gating.question import AgentSocket

Answering = Callable[..., list[bytes]]
HEAD = b"HTTP/1.1 %d \r\ncontent-type: application/json\r\nContent-Length: %d\r\nconnection: close\r\n\r\n"


def http(body: bytes, status: int = 200) -> bytes:
    """An answer of the agent."""
    return HEAD % (status, len(body)) + body


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s"))
        made.listen()
        yield made


@pytest.fixture
def agent(tmp_path: Path) -> AgentSocket:
    return AgentSocket(str(tmp_path / "s"))


@pytest.fixture
def answering(listener: socket.socket) -> Iterator[Answering]:
    """A function that has the next connections answered with some bytes each, and returns the list of their requests."""
    threads: list[threading.Thread] = []

    def answer(*answers: bytes) -> list[bytes]:
        requests: list[bytes] = []

        def serve() -> None:
            for data in answers:
                connection, _ = listener.accept()
                with connection:
                    requests.append(connection.recv(65536))
                    try:
                        connection.sendall(data)
                    except BrokenPipeError:
                        requests.append(b"gone")

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return requests

    yield answer
    for thread in threads:
        thread.join()
