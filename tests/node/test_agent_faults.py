"""The agent goes on: each loop fails once, the disk is damaged or frozen, the cloud gives odd answers."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import trio

from node.agent import Agent
from node.config import Config
from node.disk import calls
from node.exchanges import schedule
from node.hwbind.tpm import Tpm
from node.link import api
from node.local.client import request
from node.local.server import serve
from node.state import State
from node.system import notify
from tests.node.conftest import Machine
from tests.node.shells import install
from tests.node.test_agent import SESSIONS, document, running, until_it_polls
from tests.simulators.fabric import Answer, Fabric, always, raw
from tests.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture
def agent(tmp_path: Path, fabric: Fabric, machine: Machine, tpm: Tpm) -> Agent:
    config = Config(
        state_dir=tmp_path / "state",
        socket=tmp_path / "s",
        tpm="tests",
        mode="development",
        heartbeat_seconds=2,
        settle_seconds=5,
    )
    return Agent.load(config, install(config.state_dir, fabric, machine.ak, machine.node_key), tpm)


async def status(agent: Agent) -> dict[str, Any]:
    return (await request(agent.config.socket, "GET", "/v1/status")).document


def codes(shown: dict[str, Any]) -> set[str]:
    return {condition["code"] for condition in shown["conditions"]}


class Once:
    """Raises an exception at its first call, and passes later calls on."""

    def __init__(self, later: Any) -> None:
        self.calls = 0
        self._later = later

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise ZeroDivisionError("surprise")
        return self._later(*args, **named)


LOOPS = {
    "fault_heartbeat": ("node.exchanges.schedule.next_contact_seconds", schedule.next_contact_seconds),
    "fault_wake_channel": ("node.link.api.Service.events", api.Service.events),
    "fault_report": ("node.system.notify.status", notify.status),
    "fault_watchdog": ("node.system.notify.watchdog", notify.watchdog),
    "fault_trust": ("node.exchanges.schedule.first_trust_refresh_seconds", schedule.first_trust_refresh_seconds),
    "fault_socket": ("node.local.server.serve", serve),
}


@pytest.mark.parametrize("code", LOOPS)
async def test_a_loop_that_fails_runs_again(
    agent: Agent, fabric: Fabric, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, before = LOOPS[code]
    fails = Once(before)
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    monkeypatch.setattr("node.supervision.PAUSE_SECONDS_MIN", 0.01)
    monkeypatch.setattr(target, fails)
    async with running(agent):
        await until("a second run", lambda: fails.calls >= 2)
        fabric.say(fabric.suspension())
        await until("the suspension", lambda: agent.licence.verdict().state == "suspended")
        (shown,) = codes(await status(agent))
        assert shown.replace("gates_", "") == code  # of the two servers, either one starts first


async def test_a_start_that_meets_an_unexpected_exception_goes_on(
    agent: Agent, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a proof of the TPM the gate stays closed. The next contact checks the TPM again."""
    real, broken = agent._hardware.check, True

    async def check(*args: Any) -> None:
        if broken:
            raise ZeroDivisionError("surprise")
        await real(*args)

    monkeypatch.setattr(agent._hardware, "check", check)
    async with running(agent):
        assert (await document(agent))["gate"] == "closed"
        broken = False
        agent.wake()
        await until("an open gate", lambda: agent.licence.verdict().gate_open)
        await until("the end of the condition", lambda: not agent.contact.conditions.current())


async def test_on_a_damaged_disk_it_hears_and_says_so(agent: Agent, fabric: Fabric) -> None:
    directory = agent.config.state_dir
    with agent.contact._state.owned():
        await damaged(agent, fabric, directory)
    # The generation in force was recorded again.
    assert State(directory).identities.current_generation() == 1


async def damaged(agent: Agent, fabric: Fabric, directory: Path) -> None:
    async with running(agent):
        await until_it_polls(fabric)
        (directory / "current.json").write_bytes(b"torn")
        (directory / "identity" / "g-99").mkdir(mode=0o700)
        (directory / "renewal.json").mkdir(mode=0o700)
        fabric.say(fabric.suspension())
        await until("the suspension", lambda: agent.licence.verdict().state == "suspended")
        assert {"renewal_interrupted", "stored_generation_unusable"} <= codes(await status(agent))
        fabric.say(fabric.lease())
        await until("the resumption", lambda: agent.licence.verdict().state == "active")
        fabric.revoke()
        await until("the revocation", lambda: agent.licence.revoked)
        assert (await document(agent))["gate"] == "closed"


async def test_with_a_frozen_disk_it_answers_hears_and_stops(
    agent: Agent, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("contact", "renewal"):
        monkeypatch.setattr(f"node.exchanges.{module}.DISK_SECONDS_MAX", 0.1)
    loop, thawed, on_the_loop = threading.get_ident(), threading.Event(), []
    ended = trio.Event()

    def frozen(call: str, path: str) -> None:
        if path.startswith(str(agent.config.state_dir)):
            if threading.get_ident() == loop:
                on_the_loop.append(f"{call} {path}")
            else:
                thawed.wait(30)

    async def run(ready: trio.Event) -> None:
        await agent.run(ready.set)
        ended.set()

    try:
        async with trio.open_nursery() as nursery:
            ready = trio.Event()
            nursery.start_soon(run, ready)
            with trio.fail_after(10):
                await ready.wait()
            await until_it_polls(fabric)
            with calls.hooked(frozen):
                fabric.revoke()
                await until("the revocation", lambda: agent.licence.revoked)
                with trio.fail_after(1):
                    assert (await document(agent))["gate"] == "closed"
                    assert "disk_silent" in str((await status(agent))["conditions"])
                os.kill(os.getpid(), signal.SIGTERM)
                with trio.fail_after(2):
                    await ended.wait()
    finally:
        thawed.set()
    assert on_the_loop == []


DEEP = b"[" * 100_000
ODD: dict[str, Answer] = {
    "hung up": raw(b""),
    "another protocol": raw(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n"),
    "a portal": always(200, b"<html>Sign in</html>", ("content-type", "text/html")),
    "a redirect": always(302, b"", ("location", "http://portal.example/")),
    "nothing": always(200),
    "no object": always(200, b"null"),
    "deep": always(200, b'{"x":' + DEEP),
    "no text": always(200, b'{"\xff":1}'),
    "another status": always(599, b"{}"),
    "half an answer": raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"),
    "an unknown refusal": always(403, b'{"type":"x","title":"' + b"A" * 90_000 + b'","status":403,"code":"odd"}'),
}


@pytest.mark.parametrize("path", ["/v1/node/nonces", SESSIONS, "/v1/node/statement"])
async def test_no_odd_answer_ends_it_or_changes_a_state(
    agent: Agent, fabric: Fabric, path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "next_contact_seconds", lambda **_: 3600.0)
    async with running(agent):
        for name, answer in ODD.items():
            await agent.contact.attempt(new_session=True)
            fabric.answers[path] = answer
            assert not await agent.contact.attempt(new_session=path != "/v1/node/statement"), name
            shown = await status(agent)
            assert (shown["license"]["state"], shown["license"]["gate"]) == ("active", "open"), name
            failure = shown["last_failure"]
            assert failure["code"] not in ("", "internal"), name
            assert failure["text"].startswith("cannot "), name
            assert len(failure["text"]) < 1200, name
            del fabric.answers[path]
        fabric.say(fabric.suspension())
        assert await agent.contact.attempt()
        assert agent.licence.verdict().state == "suspended"
    assert "Traceback" not in caplog.text
