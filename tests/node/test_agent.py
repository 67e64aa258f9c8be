"""The complete agent on a software TPM, with a cloud that answers, that misbehaves, or that is absent."""

import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
import trio

from node.agent import Agent, Revoked, Superseded
from node.config import Config
from node.disk import deactivated
from node.exchanges import schedule
from node.exchanges.wake_channel import POLL_PAUSE_SECONDS
from node.exits import Exit
from node.hwbind import keys
from node.hwbind.errors import TpmAbsent, TpmError, TpmFailed, TpmPermission
from node.hwbind.keys import key_hash
from node.hwbind.tpm import Tpm
from node.licensing import saving
from node.licensing.verdict import Snapshot
from node.local.client import request
from node.state import NotActivated, State
from node.trust.published import TrustSet
from tests.node.conftest import Machine
from tests.node.shells import VERSION, Refreshes, agent_config, apply, identity, load_licence
from tests.off_loop import off_loop
from tests.shared_chips import shared_chip
from tests.simulators.fabric import DAY, Fabric, Reply, Request, always, hang, refused, utc_now
from tests.waiting import stays, until

pytestmark = pytest.mark.slow

SESSIONS = "/v1/node/sessions"
EVENTS = "/v1/node/events"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return agent_config(tmp_path, settle_seconds=5)


@pytest.fixture
def agent(config: Config, state: State, tpm: Tpm) -> Agent:
    return Agent.load(config, state, tpm)


@asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[None]:
    """Run the agent, from READY until a signal ends it."""
    ready = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent.run, ready.set)
        with trio.fail_after(10):
            await ready.wait()
        yield
        os.kill(os.getpid(), signal.SIGTERM)


async def until_it_polls(fabric: Fabric) -> None:
    await until("the wake channel", lambda: any(request.path == EVENTS for request in fabric.requests))


async def document(agent: Agent) -> dict[str, object]:
    return (await request(agent.config.socket, "GET", "/v1/license")).document


async def test_a_start_settles_before_it_is_ready(agent: Agent, fabric: Fabric) -> None:
    async with running(agent):
        assert agent.contact.last_contact_at is not None
        answer = await document(agent)
        assert (answer["state"], answer["gate"], agent._hardware.status) == ("active", "open", "ours")
    paths = [request.path for request in fabric.requests]
    assert paths[:2] == ["/v1/node/nonces", SESSIONS]
    assert agent.contact.connection.fabric is None


@pytest.fixture
def no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """No contact is due by time while the test runs, nor to report the floor counter of the new chip."""
    monkeypatch.setattr(schedule, "next_contact_seconds", lambda **_: 3600.0)
    monkeypatch.setattr(Agent, "_prove_again", lambda _: None)


@pytest.mark.usefixtures("no_heartbeat")
async def test_a_start_asks_for_the_statement_once(agent: Agent, fabric: Fabric) -> None:
    """The session brings the statement, and the wake channel continues from the cursor in the session's answer."""
    async with running(agent):
        await until_it_polls(fabric)
        asked = len(fabric.requests)
        await stays("no further request", lambda: len(fabric.requests) == asked, 0.3)
        paths = [request.path for request in fabric.requests]
    assert paths == ["/v1/node/nonces", SESSIONS, EVENTS]


async def test_a_floor_counter_that_is_new_is_reported_at_once(agent: Agent, fabric: Fabric) -> None:
    """This machine was activated without a counter. Only a lease that names the counter ends the bound of the first."""
    async with running(agent):
        await until("the counter in a session", lambda: fabric.proofs[-1].floor is not msgspec.UNSET)
    assert fabric.proofs[0].floor is msgspec.UNSET
    assert len(fabric.proofs) == 2


async def test_a_change_between_session_and_wake_channel_is_noticed(agent: Agent, fabric: Fabric) -> None:
    async def changed(asked: Request) -> Reply:
        answer = fabric._open_session(asked)
        fabric.say(fabric.lease(entitlements=("new",)))
        return answer

    fabric.answers[SESSIONS] = changed
    async with running(agent):
        await until("the new statement", lambda: agent.licence.presented == fabric.statement)


def grants(config: Config) -> set[str]:
    return {path.name for path in (config.socket.parent / "granted").iterdir()}


async def test_grants_follow_the_licence_and_outlive_the_agent(agent: Agent, fabric: Fabric, config: Config) -> None:
    async with running(agent):
        assert grants(config) == {".licence", "render"}
        cursor = (await request(config.socket, "GET", "/v1/changes")).document["cursor"]
        await until_it_polls(fabric)
        fabric.say(fabric.lease(entitlements=("new",)))
        answer = await request(config.socket, "GET", f"/v1/changes?cursor={cursor}&wait=10")
        assert answer.document["changed"] is True
        await until("the grant of the new lease", lambda: grants(config) == {".licence", "new"})
    assert grants(config) == {".licence", "new"}


async def test_a_revocation_ends_the_grants(
    agent: Agent, fabric: Fabric, config: Config, state: State, tpm: Tpm
) -> None:
    async with running(agent):
        await until_it_polls(fabric)
        fabric.revoke()
        await until("the end of the grants", lambda: not grants(config))
    (config.socket.parent / "granted" / "render").touch()
    with pytest.raises(Revoked):
        await Agent.load(config, state, tpm).run()
    assert not grants(config)


async def test_revoked_while_running_it_stays_up_with_the_gate_closed(agent: Agent, fabric: Fabric) -> None:
    async with running(agent):
        await until_it_polls(fabric)
        fabric.revoke()
        await until("the revocation", lambda: agent.licence.revoked)
        assert ((await document(agent))["state"], (await document(agent))["gate"]) == ("revoked", "closed")
        assert (await request(agent.config.socket, "GET", "/v1/entitlements/render")).status == 403
        asked = len(fabric.requests)
        await stays("no request", lambda: len(fabric.requests) == asked, 0.3)


async def test_revoked_it_does_not_start_again_with_or_without_the_cloud(
    agent: Agent, fabric: Fabric, config: Config, state: State, tpm: Tpm
) -> None:
    fabric.revoke()
    with pytest.raises(Revoked) as caught:
        await agent.run()
    assert caught.value.exit is Exit.REVOKED
    asked = len(fabric.requests)
    with pytest.raises(Revoked):
        await Agent.load(config, state, tpm).run()
    assert len(fabric.requests) == asked
    assert not config.socket.exists()


async def test_a_slow_disk_has_the_revocation_before_a_refused_start_ends(
    agent: Agent, fabric: Fabric, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "FINISH_SECONDS_MAX", 0.0)
    fabric.revoke()
    with pytest.raises(Revoked):
        await agent.run()
    assert load_licence(State(config.state_dir)).revoked


async def test_superseded_it_says_how_to_come_back(agent: Agent, fabric: Fabric) -> None:
    fabric.revoke("superseded")
    with pytest.raises(Superseded, match="activated again elsewhere") as caught:
        await agent.run()
    assert (caught.value.exit, caught.value.code) == (Exit.REVOKED, "superseded")
    assert "any open activation code" in caught.value.next


async def test_a_suspended_node_resumes(agent: Agent, fabric: Fabric) -> None:
    async with running(agent):
        await until_it_polls(fabric)
        fabric.say(fabric.suspension())
        await until("the suspension", lambda: agent.licence.verdict().state == "suspended")
        assert (await document(agent))["gate"] == "closed"
        fabric.say(fabric.lease())
        await until("the resumption", lambda: agent.licence.verdict().state == "active")
        assert (await document(agent))["gate"] == "open"


async def test_without_the_cloud_it_starts_on_its_lease(agent: Agent, fabric: Fabric) -> None:
    fabric.answers["/v1/node/nonces"] = always(503)
    async with running(agent):
        assert (await document(agent))["gate"] == "open"
        assert (agent.contact.failures, agent.contact.last_contact_at) == (1, None)


async def test_a_cloud_that_hangs_holds_a_start_up_for_the_settling_time_only(
    config: Config, state: State, tpm: Tpm, fabric: Fabric
) -> None:
    fabric.answers[SESSIONS] = hang
    agent = Agent.load(msgspec.structs.replace(config, settle_seconds=1), state, tpm)
    started = trio.current_time()
    await agent.settle()
    assert trio.current_time() - started > 0.9
    assert agent.contact.last_failure is not None
    assert agent.contact.last_failure.code == "timed_out"
    assert agent.licence.verdict().gate_open
    del fabric.answers[SESSIONS]
    assert await agent.contact.attempt()
    await agent.contact.connection.close()


class FailingTpm(Tpm):
    """A TPM that works until a test gives it a fault."""

    fault: Exception | None = None

    def call(self, work):  # type: ignore[no-untyped-def]  # the generic type of `Tpm.call` says nothing here
        if self.fault is not None:
            raise self.fault
        return super().call(work)


@pytest.fixture
async def failing(machine: Machine) -> AsyncIterator[FailingTpm]:
    port = FailingTpm(machine.chip.tcti)
    yield port
    await port.aclose()


async def test_a_tpm_lost_while_running_is_tolerated_until_the_lease_is_due(
    config: Config, state: State, failing: FailingTpm, fabric: Fabric
) -> None:
    agent = Agent.load(config, state, failing)
    async with running(agent):
        await until_it_polls(fabric)
        failing.fault = TpmAbsent("unplugged")
        reply = await request(config.socket, "POST", "/v1/renew")
        assert reply.status == 503
        assert agent._hardware.status == "unavailable"
        assert (await document(agent))["gate"] == "open"
        failing.fault = None
        agent.wake()
        await until("its TPM", lambda: agent._hardware.status == "ours" and agent.contact.failures == 0)


async def test_a_tpm_lost_past_the_refresh_keeps_the_lease_of_a_known_chip(
    config: Config, state: State, failing: FailingTpm, fabric: Fabric
) -> None:
    due = fabric.lease(issued_at=utc_now() - DAY, refresh_after=utc_now())
    fabric.say(due)
    apply(load_licence(state), fabric, due)
    agent = Agent.load(config, state, failing)
    async with running(agent):
        failing.fault = TpmAbsent("unplugged")
        await agent.contact.connection.close()
        agent.wake()
        await until("the fault", lambda: agent._hardware.fault is failing.fault)
        answer = await document(agent)
        assert (answer["state"], answer["gate"], answer["exit_code"]) == ("refresh-due", "open", 87)
        codes = {condition.code for condition in state.conditions.current()}
        assert codes - {"floor_not_raised"} == {"tpm-absent"}, "the floor of this boot may wait for the TPM"


async def test_without_a_tpm_a_revocation_still_comes_over_the_session(
    config: Config, state: State, failing: FailingTpm, fabric: Fabric
) -> None:
    agent = Agent.load(config, state, failing)
    async with running(agent):
        await until_it_polls(fabric)
        failing.fault = TpmFailed("0x101")
        agent._hardware.report_fault(TpmFailed("0x101"))
        fabric.say(fabric.suspension())
        await until("the suspension", lambda: agent.licence.verdict().state == "suspended")


@pytest.mark.parametrize("fault", [TpmFailed("0x101"), TpmAbsent("no device"), TpmPermission("/dev/tpmrm0")])
async def test_a_start_on_a_bad_tpm(config: Config, state: State, failing: FailingTpm, fault: TpmError) -> None:
    """Without a proof the agent does not start. After the key has answered in this boot, the lease decides."""
    config.socket.parent.mkdir(parents=True, exist_ok=True)
    failing.fault = fault
    with pytest.raises(type(fault)):
        await Agent.load(config, state, failing).run()
    failing.fault = None
    async with running(Agent.load(config, state, failing)):
        pass
    failing.fault = fault
    agent = Agent.load(config, state, failing)
    async with running(agent):
        answer = await document(agent)
        assert (answer["gate"], answer["exit_code"]) == ("open", 0)
        assert [condition.code for condition in agent.status().conditions] == [fault.code]


async def test_on_another_machine_the_gate_stays_closed(
    config: Config, state: State, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with shared_chip(tmp_path_factory, tmp_path / "chip", 1) as other:
        port = Tpm(other.tcti)
        agent = Agent.load(config, state, port)
        async with running(agent):
            answer = await document(agent)
            assert (answer["state"], answer["gate"], answer["exit_code"]) == ("hardware-mismatch", "closed", 84)
        await port.aclose()


async def test_renew_over_the_socket_while_everything_else_runs(agent: Agent, fabric: Fabric) -> None:
    """New sessions replace the session in use. Nothing crashes, and every request is answered."""
    async with running(agent):
        statuses: list[int] = []

        async def renew() -> None:
            statuses.append((await request(agent.config.socket, "POST", "/v1/renew", seconds_max=30)).status)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(renew)
                agent.wake()
        assert statuses == [200] * 4


async def assert_pause_between_polls(agent: Agent, fabric: Fabric, pause_seconds: float, polls_min: int) -> None:
    """After the first two times the wake channel is opened at most once in each pause, and `polls_min` times in all."""
    async with running(agent):
        started = trio.current_time()

        def polls() -> int:
            return len([request for request in fabric.requests if request.path == EVENTS])

        def paused() -> bool:
            return (polls() - 2) * pause_seconds <= trio.current_time() - started

        await stays("a pause between two polls", paused, 0.7)
        await until(f"{polls_min} polls", lambda: polls() >= polls_min)


async def test_a_wake_channel_that_never_waits_is_not_asked_in_a_loop(agent: Agent, fabric: Fabric) -> None:
    async def at_once(_: Request) -> Reply:
        fabric.cursor += 1
        return Reply(200, b'{"cursor":%d}' % fabric.cursor)

    fabric.answers[EVENTS] = at_once
    await assert_pause_between_polls(agent, fabric, POLL_PAUSE_SECONDS, 3)


async def test_a_wake_channel_that_is_refused_is_not_asked_in_a_loop(agent: Agent, fabric: Fabric) -> None:
    fabric.answers[EVENTS] = refused("not_found")
    await assert_pause_between_polls(agent, fabric, schedule.WAKE_RETRY_SECONDS, 1)
    assert agent.licence.verdict().gate_open


async def test_trust_is_refreshed_soon_after_a_start(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a machine that is switched off every night would never get a new signing key."""
    refreshed = trio.Event()

    async def refresh(_: Path, **_held: object) -> TrustSet:
        refreshed.set()
        return agent._trust.value

    monkeypatch.setattr("node.trust.published.refresh", refresh)
    monkeypatch.setattr("node.exchanges.schedule.TRUST_FIRST_SECONDS_MAX", 0.1)
    async with running(agent):
        with trio.fail_after(5):
            await refreshed.wait()


async def test_a_signal_ends_it_while_it_settles(agent: Agent, fabric: Fabric, config: Config) -> None:
    fabric.answers[SESSIONS] = hang
    async with trio.open_nursery() as nursery:
        with trio.fail_after(4):
            nursery.start_soon(agent.run)
            await until("a session's request", lambda: any(each.path == SESSIONS for each in fabric.requests))
            os.kill(os.getpid(), signal.SIGINT)
    assert not config.socket.exists()


async def test_a_contact_ends_the_pause_of_the_report(
    agent: Agent, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[str] = []
    monkeypatch.setattr("node.agent.REPORT_SECONDS", 600.0)
    monkeypatch.setattr("node.system.notify.status", reported.append)
    async with running(agent):
        await until_it_polls(fabric)
        fabric.say(fabric.suspension())
        await until("the report of the suspension", lambda: "suspended, gate closed" in reported)


async def test_a_final_lease_is_logged_once_and_its_interval_is_obeyed(
    agent: Agent, fabric: Fabric, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("node.agent.REPORT_SECONDS", 0.01)
    ends = utc_now() + 3 * DAY
    key = key_hash(agent.licence.identity.node_key.public_key())
    async with running(agent):
        await until_it_polls(fabric)
        token = fabric.lease(
            node_key=key,
            final={"reason": "unpaid"},
            expires_at=ends,
            grace_until=ends,
            terminate_at=ends,
            intervals={"heartbeat_seconds": 77},
        )
        reports: list[Snapshot] = []
        take = agent.snapshot

        def snapshot() -> Snapshot:
            reports.append(take())
            return reports[-1]

        monkeypatch.setattr(agent, "snapshot", snapshot)
        fabric.say(token)
        await until("several reports", lambda: sum(report.notice is not None for report in reports) > 3)
        assert agent.heartbeat.slot_seconds == 77.0
    notices = [record.getMessage() for record in caplog.records if "notice" in record.getMessage()]
    assert len(notices) == 1
    assert "unpaid" in notices[0]


async def test_systemd_gets_watchdog_messages_while_the_loop_runs(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        received: list[bytes] = []

        def heard(message: bytes, times: int) -> bool:
            with suppress(BlockingIOError):
                while True:
                    received.append(receiver.recv(1000))
            return received.count(message) >= times

        async with running(agent):
            await until("three signs of life", lambda: heard(b"WATCHDOG=1", 3))
        assert heard(b"STOPPING=1", 1)
    assert received[-1] == b"STOPPING=1"


async def test_a_damaged_pending_generation_does_not_stop_the_one_in_force(
    config: Config, fabric: Fabric, state: State, tpm: Tpm, machine: Machine
) -> None:
    state.identities.save_generation(identity(fabric, machine.ak, machine.node_key, 2))
    (state.identities.generation_dir(2) / "identity.json").write_bytes(b"torn")
    agent = Agent.load(config, state, tpm)
    await agent.settle()
    assert (agent.contact.failures, agent.licence.verdict().gate_open) == (0, True)
    await agent.contact.connection.close()


def test_the_keys_are_real(tpm: Tpm, machine: Machine) -> None:
    assert off_loop(lambda: tpm.call(lambda esys: keys.sign(esys, machine.node_key, b"x")))


@pytest.mark.usefixtures("no_heartbeat")
async def test_without_an_answer_since_its_start_the_agent_retries_before_the_slot(
    agent: Agent, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "FIRST_ANSWER_SECONDS_MIN", 0.05)
    fabric.answers["/v1/node/nonces"] = refused("unavailable")
    async with running(agent):
        await until("three failures", lambda: agent.contact.failures >= 3)
        del fabric.answers["/v1/node/nonces"]
        await until("the first answer", lambda: agent.contact.last_contact_at is not None)
        await until_it_polls(fabric)
        asked = len(fabric.requests)
        await stays("no further request", lambda: len(fabric.requests) == asked, 0.2)


async def test_a_poll_that_is_cut_is_opened_again_soon_and_is_shorter(
    agent: Agent, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way cuts polls after 0.2 s, and the agent learns from any life."""
    monkeypatch.setattr("node.exchanges.poll_length.LIFE_SECONDS_MIN", 0.1)
    monkeypatch.setattr("node.exchanges.poll_length.SHORTEST_SECONDS", 1.0)
    monkeypatch.setattr(schedule, "WAKE_RETRY_SECONDS", 0.01)
    waits: list[int] = []

    async def cut(asked: Request) -> Reply:
        waits.append(int(asked.query["wait"][0]))
        await trio.sleep(0.2)
        raise trio.BrokenResourceError

    fabric.answers[EVENTS] = cut
    async with running(agent):
        await until("three polls", lambda: len(waits) >= 3)
        assert waits[0] > 40
        assert waits[2] == 1
        del fabric.answers[EVENTS]
        fabric.say(fabric.suspension())
        await until("the suspension", lambda: agent.licence.verdict().state == "suspended")


async def test_a_new_trust_is_reported_soon(
    agent: Agent, fabric: Fabric, refreshes: Refreshes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "TRUST_FIRST_SECONDS_MAX", 0.05)
    await agent.settle()
    with trio.move_on_after(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent._keep_trust)
            await agent.heartbeat._wake.wait()
            nursery.cancel_scope.cancel()
    assert agent.heartbeat._wake.is_set()
    assert agent._trust.value.version == VERSION + 1


@pytest.mark.parametrize(("path", "seat"), [("/v1/deactivate", "free"), ("/v1/deactivate/forget", "taken")])
async def test_it_ends_after_a_deactivation_and_is_not_started_again(
    agent: Agent, fabric: Fabric, state: State, path: str, seat: str
) -> None:
    """The answer is sent first. The command that asked removes the state (`tests/node/cli/test_deactivate.py`)."""
    if seat == "taken":
        fabric.answers["/v1/node/release"] = always(503)
    ready = trio.Event()

    async def run() -> None:
        with pytest.raises(NotActivated) as ended:
            await agent.run(ready.set)
        assert ended.value.exit == Exit.UNACTIVATED

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        with trio.fail_after(10):
            await ready.wait()
            reply = await request(agent.config.socket, "POST", path)
    assert (reply.status, reply.document["seat"]) == (200, seat)
    record = deactivated.load_record(state.directory)
    assert (record and record.complete) is False
    with pytest.raises(NotActivated):
        load_licence(state)


async def test_a_deactivation_that_the_cloud_refuses_changes_nothing(agent: Agent, fabric: Fabric) -> None:
    fabric.answers["/v1/node/release"] = refused("conflict")
    async with running(agent):
        reply = await request(agent.config.socket, "POST", "/v1/deactivate")
        assert (reply.status, reply.document["code"], reply.document["exit_code"]) == (503, "conflict", Exit.REFUSED)
        assert (await document(agent))["state"] == "active"
