"""The times of the contacts: dates of the lease, moves of the clocks, renewals of the device certificate."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from node.agent import Agent
from node.config import HEARTBEAT_SECONDS_MAX, Config
from node.exchanges import schedule
from node.hwbind.tpm import Tpm
from node.state import State
from protocol.messages.est import PATH_SIMPLEREENROLL
from tests.node.shells import Refreshes, agent_config
from tests.node.test_agent import EVENTS, running, until_it_polls
from tests.simulators.fabric import DAY, Fabric, hang, refused, utc_now
from tests.waiting import stays, until


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return agent_config(tmp_path, settle_seconds=5)


@pytest.fixture
def agent(config: Config, state: State, tpm: Tpm) -> Agent:
    return Agent.load(config, state, tpm)


@pytest.fixture
def no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """No contact is due by time while the test runs."""
    monkeypatch.setattr(schedule, "next_contact_seconds", lambda **_: 3600.0)


@pytest.mark.slow
async def test_an_order_of_the_lease_renews_once(agent: Agent, fabric: Fabric, refreshes: Refreshes) -> None:
    def made_at(at: datetime) -> bytes:
        return fabric.node_chain(agent.licence.identity.node_key.public_key(), 1, not_before=at)[0]

    await agent.settle()
    chain = (made_at(utc_now() - DAY), fabric.nodes.der)
    agent.licence.replace_certificate(chain, agent.licence.identity.node_key)
    fabric.say(fabric.lease(renew_device_after=utc_now() - timedelta(seconds=10)))
    assert await agent.contact.attempt()
    await agent.heartbeat.renew_device_if_due()
    assert agent.licence.identity.chain != chain
    assert refreshes.asked == 1
    assert agent.heartbeat._wake.is_set()
    assert await agent.contact.attempt()
    agent.heartbeat._renew_from = None
    await agent.heartbeat.renew_device_if_due()
    renewals = [request for request in fabric.requests if request.path == PATH_SIMPLEREENROLL]
    assert len(renewals) == 1


class Clocks:
    """The clocks of a machine that can sleep, and whose wall clock can be set."""

    def __init__(self) -> None:
        self.slept = 0.0
        self.stepped = 0.0

    def wall(self) -> datetime:
        return utc_now() + timedelta(seconds=self.slept + self.stepped)

    def asleep(self) -> float:
        return self.slept


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    monkeypatch.setattr("node.heartbeat.CHECK_SECONDS", 0.02)
    monkeypatch.setattr(schedule, "WAKING_SECONDS_MAX", 0.1)
    return Clocks()


def short_lease(fabric: Fabric) -> str:
    at = utc_now()
    names = ("refresh_after", "expires_at", "grace_until", "terminate_at")
    dates: dict[str, object] = {name: at + timedelta(seconds=20 + number) for number, name in enumerate(names)}
    return fabric.lease(0, None, **dates)


@pytest.mark.usefixtures("no_heartbeat")
async def test_past_the_dates_of_its_lease_the_agent_asks_after_a_sleep(
    config: Config, state: State, tpm: Tpm, fabric: Fabric, clocks: Clocks
) -> None:
    fabric.say(short_lease(fabric))
    fabric.answers[EVENTS] = hang
    agent = Agent.load(config, state, tpm, clocks.wall, clocks.asleep)
    agent.contact.saver.floors.on_counter = lambda: None  # The chip is new, and a report of its counter is a contact.
    async with running(agent):
        await until_it_polls(fabric)
        asked = len(fabric.requests)
        await stays("no request", lambda: len(fabric.requests) == asked, 0.2)
        fabric.say(fabric.lease())
        clocks.slept = 200.0
        assert agent.licence.verdict().state == "terminated"
        await until("the new lease", lambda: agent.licence.verdict().state == "active", 3)


@pytest.mark.slow
@pytest.mark.usefixtures("no_heartbeat")
async def test_a_step_of_the_clock_brings_no_contact_and_ends_no_lease(
    config: Config, state: State, tpm: Tpm, fabric: Fabric, clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    """One wrong time server steps a whole fleet at once. The times of the next contacts are computed again."""
    fabric.answers[EVENTS] = hang
    agent = Agent.load(config, state, tpm, clocks.wall, clocks.asleep)
    agent.contact.saver.floors.on_counter = lambda: None  # The chip is new, and a report of its counter is a contact.
    async with running(agent):
        await until_it_polls(fabric)
        asked = len(fabric.requests)
        agent.contact.conditions.report("clock_wrong", "this machine's clock is slow")
        agent.heartbeat._renew_from = agent._waits.now() + 600
        clocks.stepped = 400 * 86_400.0
        await until("the report of the step", lambda: "the wall clock was set by 34560000 s" in caplog.text)
        await until("a renewal date by the new time", lambda: agent.heartbeat._renew_from is None)
        assert "clock_wrong" not in [each.code for each in agent.contact.conditions.current()]
        verdict = agent.licence.verdict()
        assert (verdict.state, verdict.clock_suspect) == ("active", True)
        await stays("no request", lambda: len(fabric.requests) == asked, 0.2)


async def test_a_renewal_that_fails_waits_for_the_slot(agent: Agent, fabric: Fabric, refreshes: Refreshes) -> None:
    # The slots are longer than any pause of a loaded machine.
    agent.heartbeat._configured_seconds = HEARTBEAT_SECONDS_MAX
    await agent.settle()
    old = fabric.node_chain(agent.licence.identity.node_key.public_key(), 1, life=DAY, not_before=utc_now() - 9 * DAY)
    agent.licence.replace_certificate(old, agent.licence.identity.node_key)
    fabric.answers[PATH_SIMPLEREENROLL] = refused("unavailable")
    for _ in range(3):
        await agent.heartbeat.renew_device_if_due()
    renewals = [request for request in fabric.requests if request.path == PATH_SIMPLEREENROLL]
    assert len(renewals) == 1
    assert agent.heartbeat._renew_from is not None
    assert (
        agent._waits.now() - HEARTBEAT_SECONDS_MAX
        < agent.heartbeat._renew_from
        <= agent._waits.now() + HEARTBEAT_SECONDS_MAX
    )
    # The wall clock was a year ahead and is corrected. The wait does not become a year.
    agent.heartbeat._clock = lambda: utc_now() - 365 * DAY
    assert agent.heartbeat._renew_from <= agent._waits.now() + HEARTBEAT_SECONDS_MAX
