"""After an activation: whether systemd starts the agent, and what a person reads who waits for it."""

from pathlib import Path
from typing import Any

import pytest
import trio

from node.cli import starting
from node.cli.starting import AGENT_SECONDS_MAX, BOOTED, LOOK_FOR_IT, UNIT, UNIT_DIRECTORIES, starts_by_itself
from node.config import Config
from node.local.client import AgentAbsent, AgentUnusable, Reply
from tests.node.cli.test_recover import LICENSE


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The file system of a machine that systemd runs, with the units of the package."""
    (tmp_path / BOOTED).mkdir(parents=True)
    (tmp_path / UNIT_DIRECTORIES[1]).mkdir(parents=True)
    (tmp_path / UNIT_DIRECTORIES[1] / UNIT).touch()
    return tmp_path


def test_the_units_of_the_package_start_the_agent_of_the_default_settings(machine: Path, tmp_path: Path) -> None:
    assert starts_by_itself(Config(), machine)
    assert starts_by_itself(Config(heartbeat_seconds=60), machine)
    assert not starts_by_itself(Config(state_dir=tmp_path), machine)
    assert not starts_by_itself(Config(socket=tmp_path / "s"), machine)


def test_without_systemd_or_without_the_units_no_agent_is_waited_for(machine: Path) -> None:
    (machine / UNIT_DIRECTORIES[1] / UNIT).unlink()
    assert not starts_by_itself(Config(), machine)
    (machine / UNIT_DIRECTORIES[0]).mkdir(parents=True)
    (machine / UNIT_DIRECTORIES[0] / UNIT).touch()
    assert starts_by_itself(Config(), machine)
    (machine / BOOTED).rmdir()
    assert not starts_by_itself(Config(), machine)


class Agent:
    """The socket: its answers one after the other, the last one for ever."""

    def __init__(self, *answers: Reply | Exception) -> None:
        self.answers = list(answers)

    async def request(self, _socket: Path, method: str, path: str, seconds_max: float) -> Reply:
        assert (method, path) == ("GET", "/v1/status")
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def status(generation: int, state: str = "active", gate: str = "open") -> Reply:
    licence: dict[str, Any] = LICENSE | {"generation": generation, "state": state, "gate": gate}
    return Reply(
        200,
        {
            "format": 1, "version": "0", "mode": "production", "license": licence, "hardware": "ours",
            "agent_running": True, "last_contact_at": None, "failures": 0, "offline_bound_at": None, "limits": "",
            "conditions": [],
        },
    )  # fmt: skip


async def waited(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(starting, "request", agent.request)
    await starting.wait_for_agent(Config(), 2, told.append)
    return told


async def test_an_agent_that_starts_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    old = status(1, "revoked", "closed")
    agent = Agent(AgentAbsent("x"), old, AgentUnusable("x"), Reply(503, {"title": "busy", "status": 503}), status(2))
    assert await waited(agent, monkeypatch) == [
        "waiting for the agent to start ...",
        "the agent runs: active, gate open",
    ]


@pytest.mark.parametrize("answer", [AgentAbsent("x"), status(1)])
async def test_an_agent_that_does_not_come_fails_nothing(
    answer: Reply | Exception, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    began = trio.current_time()
    assert (await waited(Agent(answer), monkeypatch))[-1] == LOOK_FOR_IT
    assert trio.current_time() - began == AGENT_SECONDS_MAX


def test_a_program_that_reads_the_output_gets_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    starting.to_person(as_json=False)("a step")
    starting.to_person(as_json=True)("a step")
    assert capsys.readouterr() == ("", "  a step\n")
