"""The lock of the state directory for a command: free, held by an agent that lends it, or held by another process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.cli import borrowing
from node.cli.borrowing import owned
from node.config import Config
from node.disk.lock import StateLock
from node.errors import StateBusy
from node.local.client import AgentAbsent, AgentRefused, AgentUnusable, Reply
from node.state import State

PROBLEM = {"type": "about:blank", "title": "no", "status": 503}


class Socket:
    """A socket whose agent answers `reply` after `first`; an error is raised instead."""

    def __init__(self, reply: Reply | Exception, first: Callable[[], None] = lambda: None) -> None:
        self.reply, self.first = reply, first
        self.asked: list[str] = []

    async def __call__(self, _socket: Path, method: str, path: str, seconds_max: float) -> Reply:
        self.asked.append(f"{method} {path}")
        self.first()
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def licence() -> dict[str, Any]:
    return {
        "format": 1, "state": "revoked", "gate": "closed", "new_work": False, "reason": "r", "next": "",
        "valid_until": "2026-11-30T12:00:00Z", "exit_code": 81, "flags": [], "tenant": "t", "node": "n", "generation": 1,
        "lease": None, "notice": "",
    }  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(state_dir=tmp_path / "state", socket=tmp_path / "s")


async def test_a_free_state_is_taken_without_asking(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question would start an agent whose socket systemd holds."""
    socket = Socket(AgentAbsent("x"))
    monkeypatch.setattr(borrowing, "request", socket)
    async with owned(config, State(config.state_dir)):
        with pytest.raises(StateBusy):
            StateLock(config.state_dir).acquire()
    assert socket.asked == []
    with StateLock(config.state_dir):
        pass


async def test_the_lock_is_taken_once_the_agent_has_lent_the_state(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = StateLock(config.state_dir)
    agent.acquire()
    monkeypatch.setattr(borrowing, "request", Socket(Reply(200, licence()), agent.release))
    async with owned(config, State(config.state_dir)):
        with pytest.raises(StateBusy):
            agent.acquire()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (AgentAbsent("x"), StateBusy),
        (AgentUnusable("x"), StateBusy),
        (Reply(404, PROBLEM | {"code": "not_found"}), StateBusy),
        (Reply(503, PROBLEM | {"code": "state_lent"}), AgentRefused),
        (Reply(403, PROBLEM | {"code": "permission_denied"}), AgentRefused),
    ],
)
async def test_a_state_that_is_not_lent_is_busy(
    config: Config, monkeypatch: pytest.MonkeyPatch, reply: Reply | Exception, error: type[Exception]
) -> None:
    monkeypatch.setattr(borrowing, "FREE_SECONDS_MAX", 0.0)
    monkeypatch.setattr(borrowing, "request", Socket(reply))
    with StateLock(config.state_dir), pytest.raises(error):
        async with owned(config, State(config.state_dir)):
            raise AssertionError("not reached")


@pytest.mark.parametrize("reply", [AgentAbsent("x"), AgentUnusable("x"), Reply(503, PROBLEM | {"code": "state_lent"})])
async def test_an_agent_that_takes_its_state_back_is_asked_again(
    config: Config, monkeypatch: pytest.MonkeyPatch, autojump_clock: object, reply: Reply | Exception
) -> None:
    agent = StateLock(config.state_dir)
    agent.acquire()
    socket = Socket(reply)

    def back_after_three() -> None:
        if len(socket.asked) == 3:
            socket.reply = Reply(200, licence())
            agent.release()

    socket.first = back_after_three
    monkeypatch.setattr(borrowing, "request", socket)
    async with owned(config, State(config.state_dir)):
        with pytest.raises(StateBusy):
            agent.acquire()
    assert len(socket.asked) == 3


async def test_a_lock_that_does_not_get_free_is_busy(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(borrowing, "FREE_SECONDS_MAX", 0.0)
    monkeypatch.setattr(borrowing, "request", Socket(Reply(200, licence())))
    with StateLock(config.state_dir), pytest.raises(StateBusy):
        async with owned(config, State(config.state_dir)):
            raise AssertionError("not reached")
