"""Fixtures of the operators' commands: a server that answers without a network, and a trust repository over HTTP."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from cloud.cli.connection import Server
from protocol.messages.activation import TrustPin
from tests.simulators.repository import Repository


class Calls:
    """Records the requests of commands and answers them, by method and path without the query."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str, Any]] = []
        self.answers: dict[tuple[str, str], list[object]] = {}

    def answer(self, method: str, path: str, *answers: object) -> None:
        """Set the answers to a call. They are used in order; the last one is repeated."""
        self.answers[method, path] = list(answers)

    def __call__(self, method: str, path: str, kind: Any, body: Any = None) -> Any:
        self.made.append((method, path, body))
        answers = self.answers[method, path.partition("?")[0]]
        return msgspec.convert(answers.pop(0) if len(answers) > 1 else answers[0], kind, from_attributes=True)

    def put(self, path: str, kind: Any, body: Any, *, read: str) -> Any:
        """Answer a change. The path that it reads first must be the object's or above it."""
        assert path.startswith(read)
        return self("PUT", path, kind, body)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    found = Calls()
    monkeypatch.setattr(Server, "call", lambda _, *call: found(*call))
    monkeypatch.setattr(Server, "put", found.put)
    monkeypatch.setenv("CASCADE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("CASCADE_TRUST", str(TrustPin(1, "ab" * 32)))
    monkeypatch.setenv("CASCADE_TOKEN_FILE", "/nonexistent")
    return found


@pytest.fixture
def repository() -> Iterator[Repository]:
    """A repository of published trust, over HTTP."""
    with Repository().served() as served:
        yield served
