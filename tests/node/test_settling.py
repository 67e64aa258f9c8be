"""The work before READY: retries while the network comes, and the bounded time of a start."""

from pathlib import Path

import pytest
import trio

from node.agent import Agent
from node.config import Config
from node.exchanges import schedule
from node.hwbind.tpm import Tpm
from node.link.api import CloudUnreachable
from node.state import State
from tests.node.shells import agent_config
from tests.simulators.fabric import DAY, Fabric, Reply, Request, problem, utc_now


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return agent_config(tmp_path, settle_seconds=5)


@pytest.fixture
def agent(config: Config, state: State, tpm: Tpm) -> Agent:
    return Agent.load(config, state, tpm)


async def test_a_network_that_comes_while_the_agent_settles_opens_the_gate(
    config: Config, state: State, tpm: Tpm, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "SETTLE_RETRY_SECONDS", 0.05)
    ahead = 61 * DAY
    later = Agent.load(config, state, tpm, lambda: utc_now() + ahead)
    tries = 0

    async def late(_: Request) -> Reply:
        nonlocal tries, ahead
        tries += 1
        if tries == 3:
            # From here on the machine's clock is right, so that the session's certificate is valid.
            ahead = 0 * DAY
            del fabric.answers["/v1/node/nonces"]
        return problem("unavailable")

    fabric.answers["/v1/node/nonces"] = late
    await later.settle()
    assert tries == 3
    assert later.licence.verdict().gate_open
    await later.contact.connection.close()


@pytest.mark.parametrize(("code", "tries"), [("unreachable", 3), ("dns_failed", 3), ("connection_refused", 1)])
async def test_with_an_open_gate_a_start_waits_some_seconds_for_the_network_only(
    agent: Agent, code: str, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "SETTLE_RETRY_SECONDS", 0.01)
    attempt, made = agent.contact.attempt, 0

    async def without_network() -> bool:
        nonlocal made
        made += 1
        if made == 3:
            return await attempt()
        agent.contact.count_silence(CloudUnreachable("cannot reach the cloud", code=code))
        return False

    monkeypatch.setattr(agent.contact, "attempt", without_network)
    await agent.settle()
    assert made == tries
    assert agent.licence.verdict().gate_open
    await agent.contact.connection.close()


async def test_without_a_network_a_start_with_an_open_gate_takes_the_bounded_time(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "SETTLE_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(schedule, "SETTLE_NETWORK_SECONDS", 0.1)

    async def never() -> bool:
        agent.contact.count_silence(CloudUnreachable("cannot reach the cloud", code="unreachable"))
        return False

    monkeypatch.setattr(agent.contact, "attempt", never)
    with trio.fail_after(3):
        await agent.settle()
    assert agent.contact.failures > 1
