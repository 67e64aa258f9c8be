"""The agent as a whole on a real TPM against a cloud that answers, misbehaves, or is not there."""

import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
import trio

from node.agent import Agent, Revoked
from node.config import Config
from node.errors import NodeError, StateDamaged
from node.exits import Exit
from node.hwbind import keys
from node.hwbind.errors import TpmAbsent, TpmFailed
from node.hwbind.tpm import Tpm
from node.link import api
from node.link.certificates import CertificateRejected
from node.local.client import ask
from node.state import NotActivated, State
from node.trust.published import TrustSet
from protocol.messages.est import PATH_SIMPLEREENROLL, encode_certs_only
from tests.node.conftest import Machine
from tests.node.shells import apply, identity, install, trust_of
from tests.simulators.fabric import DAY, Answer, Fabric, Reply, Request, always, hang, problem, raw, refused, utc_now

STATEMENT, SESSIONS, CONFIRM = "/v1/node/statement", "/v1/node/sessions", "/v1/node/confirm"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        state_dir=tmp_path / "state",
        socket=tmp_path / "s",
        tpm="tests",
        mode="development",
        heartbeat_seconds=2,
        settle_seconds=5,
    )


@pytest.fixture
def state(config: Config, fabric: Fabric, machine: Machine) -> State:
    return install(config.state_dir, fabric, machine.ak, machine.node_key)


@pytest.fixture
def agent(config: Config, state: State, tpm: Tpm) -> Agent:
    return Agent(config, state, tpm, state.load_licence(utc_now))


@asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[None]:
    """`run`, from READY to the end by a signal."""
    ready = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent.run, ready.set)
        with trio.fail_after(10):
            await ready.wait()
        yield
        os.kill(os.getpid(), signal.SIGTERM)


async def until(what: Callable[[], bool], seconds: float = 5.0) -> None:
    with trio.fail_after(seconds):
        while not what():  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.02)


async def document(agent: Agent) -> dict[str, object]:
    return (await ask(agent.config.socket, "GET", "/v1/license")).document


async def test_a_start_settles_before_it_is_ready(agent: Agent, fabric: Fabric) -> None:
    async with running(agent):
        assert agent.last_contact_at is not None
        told = await document(agent)
        assert (told["state"], told["gate"], agent.licence.hardware) == ("active", "open", "ours")
    paths = [request.path for request in fabric.requests]
    assert paths[:3] == ["/v1/node/nonces", SESSIONS, STATEMENT]
    assert agent._fabric is None


async def test_revoked_while_running_it_stays_up_with_the_gate_closed(agent: Agent, fabric: Fabric) -> None:
    async with running(agent):
        await until(lambda: any(request.path == "/v1/node/events" for request in fabric.requests))
        fabric.revoke()
        await until(lambda: agent.licence.revoked)
        assert ((await document(agent))["state"], (await document(agent))["gate"]) == ("revoked", "closed")
        assert (await ask(agent.config.socket, "GET", "/v1/entitlements/render")).status == 403
        asked = len(fabric.requests)
        await trio.sleep(0.3)
        assert len(fabric.requests) == asked


async def test_revoked_it_does_not_start_again_with_or_without_the_cloud(
    agent: Agent, fabric: Fabric, config: Config, state: State, tpm: Tpm
) -> None:
    fabric.revoke()
    with pytest.raises(Revoked) as caught:
        await agent.run()
    assert caught.value.exit is Exit.REVOKED
    asked = len(fabric.requests)
    with pytest.raises(Revoked):
        await Agent(config, state, tpm, state.load_licence(utc_now)).run()
    assert len(fabric.requests) == asked
    assert not config.socket.exists()


async def test_suspended_then_resumed(agent: Agent, fabric: Fabric) -> None:
    async with running(agent):
        await until(lambda: any(request.path == "/v1/node/events" for request in fabric.requests))
        fabric.say(fabric.suspension())
        await until(lambda: agent.licence.verdict().state == "suspended")
        assert (await document(agent))["gate"] == "closed"
        fabric.say(fabric.lease())
        await until(lambda: agent.licence.verdict().state == "active")
        assert (await document(agent))["gate"] == "open"


async def test_without_the_cloud_it_starts_on_its_lease(agent: Agent, fabric: Fabric) -> None:
    fabric.answers["/v1/node/nonces"] = always(503)
    async with running(agent):
        assert (await document(agent))["gate"] == "open"
        assert (agent.failures, agent.last_contact_at) == (1, None)


async def test_a_cloud_that_hangs_holds_a_start_up_for_the_settling_time_only(
    config: Config, state: State, tpm: Tpm, fabric: Fabric
) -> None:
    fabric.answers[SESSIONS] = hang
    agent = Agent(
        Config(**{**{f: getattr(config, f) for f in config.__struct_fields__}, "settle_seconds": 1}),
        state,
        tpm,
        state.load_licence(utc_now),
    )
    started = trio.current_time()
    await agent.settle()
    assert trio.current_time() - started > 0.9
    assert agent.licence.verdict().gate_open
    del fabric.answers[SESSIONS]
    assert await agent.contact()
    await agent.new_session()


BAD: dict[str, Answer] = {
    "401": always(401),
    "403": always(403),
    "404": always(404),
    "429": refused("rate_limited"),
    "500": refused("internal"),
    "503": always(503),
    "hung up": raw(b""),
    "node_revoked unsigned": refused("node_revoked"),
    "peer_refused": refused("peer_refused"),
    "generation_closed unsigned": refused("generation_closed"),
    "certificate_refused": refused("certificate_refused"),
}


@pytest.mark.parametrize("path", [SESSIONS, STATEMENT])
async def test_no_answer_without_a_signed_word_changes_a_state(agent: Agent, fabric: Fabric, path: str) -> None:
    await agent.check_hardware()
    before = agent.licence.presented
    for number, (name, answer) in enumerate(BAD.items(), start=1):
        fabric.answers[path] = answer
        assert not await agent.contact(), name
        assert (agent.licence.verdict().state, agent.licence.verdict().gate_open) == ("active", True), name
        assert (agent.licence.presented, agent.failures) == (before, number), name
    del fabric.answers[path]
    assert await agent.contact()
    assert agent.failures == 0
    await agent.new_session()


@pytest.mark.parametrize("wrong", ["spiffe", "issuer", "expired"])
async def test_no_failure_of_tls_changes_a_state(agent: Agent, fabric: Fabric, wrong: str) -> None:
    await agent.check_hardware()
    good = fabric.leaves["fabric"]
    fabric.leaves["fabric"] = {
        "spiffe": lambda: fabric.service_leaf("breakwater"),
        "issuer": lambda: fabric.service_leaf("fabric", issuer=fabric.nodes),
        "expired": lambda: fabric.service_leaf("fabric", not_before=utc_now() - 2 * DAY, not_after=utc_now() - DAY),
    }[wrong]()
    assert not await agent.contact()
    assert agent.licence.verdict().gate_open
    assert fabric.received == 0
    fabric.leaves["fabric"] = good
    assert await agent.contact()
    await agent.new_session()


async def test_forged_and_replayed_statements_are_silence(agent: Agent, fabric: Fabric) -> None:
    await agent.check_hardware()
    stranger = Fabric()
    stranger.confirmed, stranger.seq = 1, 50
    old = fabric.statement
    fabric.say(fabric.lease())
    assert await agent.contact()
    for token in (stranger.revocation(), stranger.lease(), old, fabric.revocation(2), "", "x"):
        fabric.statement = token
        assert not await agent.contact()
        assert agent.licence.verdict().state == "active"
    await agent.new_session()


async def test_a_refusal_with_a_forged_statement_is_silence(agent: Agent, fabric: Fabric) -> None:
    await agent.check_hardware()
    stranger = Fabric()
    stranger.confirmed = 1

    async def lie(_: Request) -> Reply:
        return problem("generation_closed", stranger.revocation(), "")

    fabric.answers[SESSIONS] = lie
    assert not await agent.contact()
    assert agent.licence.verdict().state == "active"


async def test_a_revoked_session_is_asked_why_and_told(agent: Agent, fabric: Fabric) -> None:
    """The refusal of a kept-alive connection says nothing; the new proof brings the signed word."""
    await agent.settle()
    fabric.revoke()
    assert await agent.contact()
    assert agent.licence.revoked
    assert agent._credentials is None


async def test_a_pending_generation_is_confirmed_first(agent: Agent, fabric: Fabric, state: State, tpm: Tpm) -> None:
    pending = identity(fabric, agent.licence.identity.ak, agent.licence.identity.node_key, 2)
    state.identities.save_generation(pending)
    await agent.settle()
    current = state.identities.current()
    assert current is not None
    assert (current.generation, agent.licence.identity.generation, fabric.confirmed) == (2, 2, 2)
    assert agent.licence.verdict().gate_open
    paths = [request.path for request in fabric.requests]
    assert paths.index(CONFIRM) < paths.index(STATEMENT)
    assert {request.generation for request in fabric.requests if request.path == STATEMENT} == {2}
    await agent.new_session()


async def test_a_generation_that_cannot_be_confirmed_leaves_the_one_in_force(
    agent: Agent, fabric: Fabric, state: State
) -> None:
    state.identities.save_generation(identity(fabric, agent.licence.identity.ak, agent.licence.identity.node_key, 2))
    fabric.answers[CONFIRM] = refused("activation_closed")
    await agent.settle()
    assert (agent.licence.identity.generation, agent.licence.verdict().gate_open) == (1, True)
    await agent.new_session()


async def test_cancelled_at_its_end_a_confirmation_is_not_forgotten(
    agent: Agent, fabric: Fabric, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.identities.save_generation(identity(fabric, agent.licence.identity.ak, agent.licence.identity.node_key, 2))
    await agent.check_hardware()
    monkeypatch.setattr(agent, "new_session", trio.sleep_forever)
    with trio.move_on_after(1):
        await agent.contact()
    assert agent.licence.identity.generation == 2


class FailingTpm(Tpm):
    """The real one, until it is told to fail."""

    fault: Exception | None = None

    def call(self, work):  # type: ignore[no-untyped-def]
        if self.fault is not None:
            raise self.fault
        return super().call(work)


@pytest.fixture
async def failing(machine: Machine) -> AsyncIterator[FailingTpm]:
    port = FailingTpm(machine.chip.tcti)
    yield port
    port.close()


async def test_a_tpm_lost_while_running_is_borne_while_the_lease_lasts(
    config: Config, state: State, failing: FailingTpm, fabric: Fabric
) -> None:
    agent = Agent(config, state, failing, state.load_licence(utc_now))
    async with running(agent):
        await until(lambda: any(request.path == "/v1/node/events" for request in fabric.requests))
        failing.fault = TpmAbsent("unplugged")
        reply = await ask(config.socket, "POST", "/v1/renew")
        assert reply.status == 503
        assert agent.licence.hardware == "unavailable"
        assert (await document(agent))["gate"] == "open"
        failing.fault = None
        agent.ask_soon()
        await until(lambda: agent.licence.hardware == "ours" and agent.failures == 0)


async def test_a_tpm_lost_past_the_refresh_ends_the_agent(
    config: Config, state: State, failing: FailingTpm, fabric: Fabric
) -> None:
    due = fabric.lease(issued_at=utc_now() - DAY, refresh_after=utc_now())
    fabric.say(due)
    apply(state.load_licence(utc_now), fabric, due)
    agent = Agent(config, state, failing, state.load_licence(utc_now))
    with pytest.raises(ExceptionGroup) as caught:
        async with running(agent):
            failing.fault = TpmAbsent("unplugged")
            await agent.new_session()
            agent.ask_soon()
            await trio.sleep(5)
    assert caught.group_contains(TpmAbsent, match="unplugged")


async def test_a_tpm_that_fails_still_hears_a_revocation_over_its_session(
    config: Config, state: State, failing: FailingTpm, fabric: Fabric
) -> None:
    agent = Agent(config, state, failing, state.load_licence(utc_now))
    async with running(agent):
        await until(lambda: any(request.path == "/v1/node/events" for request in fabric.requests))
        failing.fault = TpmFailed("0x101")
        agent.licence.hardware = "unavailable"
        fabric.say(fabric.suspension())
        await until(lambda: agent.licence.verdict().state == "suspended")


@pytest.mark.parametrize(("fault", "starts"), [(TpmFailed("0x101"), True), (TpmAbsent("no device"), False)])
async def test_a_start_on_a_bad_tpm(
    config: Config, state: State, failing: FailingTpm, fault: Exception, starts: bool
) -> None:
    agent = Agent(config, state, failing, state.load_licence(utc_now))
    failing.fault = fault
    if not starts:
        with pytest.raises(TpmAbsent):
            await agent.run()
        return
    async with running(agent):
        told = await document(agent)
        assert (told["gate"], told["exit_code"]) == ("closed", 87)


async def test_on_another_machine_the_gate_stays_closed(
    config: Config, state: State, machine: Machine, tmp_path: Path
) -> None:
    from lab.tpm import SoftTpm, shared_bus

    with SoftTpm(tmp_path / "chip", ca=machine.chip.ca, bus=shared_bus()) as other:
        port = Tpm(other.tcti)
        agent = Agent(config, state, port, state.load_licence(utc_now))
        async with running(agent):
            told = await document(agent)
            assert (told["state"], told["gate"], told["exit_code"]) == ("hardware-mismatch", "closed", 84)
        port.close()


async def test_renewal_replaces_the_device_certificate(agent: Agent, fabric: Fabric, state: State) -> None:
    await agent.settle()
    before = agent.licence.identity.chain
    await agent.renew_device()
    stored = state.identities.current()
    assert stored is not None
    assert stored.chain == agent.licence.identity.chain != before
    assert fabric.requests[-1].service == "breakwater"
    await agent.new_session()


async def test_a_wrong_device_certificate_replaces_nothing(
    agent: Agent, fabric: Fabric, machine: Machine, state: State
) -> None:
    await agent.settle()
    before = agent.licence.identity.chain

    async def wrong(_: Request) -> Reply:
        return Reply(200, encode_certs_only(fabric.node_chain(machine.ak.public_key(), 1)[:1]))

    fabric.answers[PATH_SIMPLEREENROLL] = wrong
    with pytest.raises(CertificateRejected):
        await agent.renew_device()
    stored = state.identities.current()
    assert stored is not None
    assert stored.chain == agent.licence.identity.chain == before
    await agent.new_session()


async def test_renewal_needs_a_session(agent: Agent) -> None:
    with pytest.raises(api.CloudUnreachable):
        await agent.renew_device()


async def test_renew_over_the_socket_while_everything_else_runs(agent: Agent, fabric: Fabric) -> None:
    """New sessions under the loops' feet: nothing crashes, all are answered."""
    async with running(agent):
        statuses: list[int] = []

        async def renew() -> None:
            statuses.append((await ask(agent.config.socket, "POST", "/v1/renew", seconds_max=30)).status)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(renew)
                agent.ask_soon()
        assert statuses == [200] * 4


async def test_a_wake_channel_that_never_waits_is_not_asked_in_a_loop(agent: Agent, fabric: Fabric) -> None:
    async def at_once(_: Request) -> Reply:
        fabric.cursor += 1
        return Reply(200, b'{"cursor":%d}' % fabric.cursor)

    fabric.answers["/v1/node/events"] = at_once
    async with running(agent):
        await trio.sleep(0.7)
    assert len([request for request in fabric.requests if request.path == "/v1/node/events"]) <= 5


async def test_a_wake_channel_that_is_refused_is_not_asked_in_a_loop(agent: Agent, fabric: Fabric) -> None:
    fabric.answers["/v1/node/events"] = refused("not_found")
    async with running(agent):
        await trio.sleep(0.7)
    assert len([request for request in fabric.requests if request.path == "/v1/node/events"]) <= 3
    assert agent.licence.verdict().gate_open


async def test_trust_is_refreshed_for_the_licence_in_force(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, fabric: Fabric
) -> None:
    newer: TrustSet = trust_of(fabric)

    async def refresh(_: Path) -> TrustSet:
        return newer

    monkeypatch.setattr("node.trust.published.refresh", refresh)
    await agent._refresh_trust()
    assert agent.licence.trust is newer


async def test_trust_is_refreshed_soon_after_a_start(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a machine that is switched off every night would never learn a new signing key."""
    refreshed = trio.Event()

    async def refresh(_: Path) -> TrustSet:
        refreshed.set()
        return agent.licence.trust

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
            await until(lambda: any(request.path == SESSIONS for request in fabric.requests))
            os.kill(os.getpid(), signal.SIGINT)
    assert not config.socket.exists()


async def test_systemd_is_told_that_the_loop_turns(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        told: list[bytes] = []

        def heard(message: bytes, times: int) -> bool:
            with suppress(BlockingIOError):
                while True:
                    told.append(receiver.recv(1000))
            return told.count(message) >= times

        async with running(agent):
            await until(lambda: heard(b"WATCHDOG=1", 3))
        assert heard(b"STOPPING=1", 1)
    assert told[-1] == b"STOPPING=1"


async def test_another_key_beside_the_certificate_is_noticed(
    fabric: Fabric, state: State, tpm: Tpm, machine: Machine
) -> None:
    """A key that this TPM can load is not enough: it must be the one that was certified."""
    stored = state.identities.load(1)
    stranger = await tpm.run(keys.create_node_key)
    shutil.rmtree(state.identities.generation_dir(1))
    (state.directory / "current.json").unlink()
    state.identities.save_generation(msgspec.structs.replace(stored, node_key=stranger))
    state.identities.switch_to(1)
    with pytest.raises(StateDamaged, match="not the certificate of this node"):
        state.load_licence(utc_now)


async def test_a_damaged_generation_that_waits_does_not_stop_the_one_in_force(
    config: Config, fabric: Fabric, state: State, tpm: Tpm, machine: Machine
) -> None:
    state.identities.save_generation(identity(fabric, machine.ak, machine.node_key, 2))
    (state.identities.generation_dir(2) / "identity.json").write_bytes(b"torn")
    agent = Agent(config, state, tpm, state.load_licence(utc_now))
    await agent.settle()
    assert (agent.failures, agent.licence.verdict().gate_open) == (0, True)
    await agent.new_session()


def test_nothing_to_run_as(tmp_path: Path) -> None:
    with pytest.raises(NotActivated) as caught:
        State(tmp_path).load_licence(utc_now)
    assert isinstance(caught.value, NodeError)


async def test_a_revoked_generation_gives_way_to_one_that_waits(fabric: Fabric, state: State, machine: Machine) -> None:
    apply(state.load_licence(utc_now), fabric, fabric.revocation())
    assert state.load_licence(utc_now).revoked
    state.identities.save_generation(identity(fabric, machine.ak, machine.node_key, 2))
    licence = state.load_licence(utc_now)
    assert (licence.identity.generation, licence.confirmed, licence.verdict().state) == (2, False, "pending")


def test_the_keys_are_real(tpm: Tpm, machine: Machine) -> None:
    assert tpm.call(lambda esys: keys.sign(esys, machine.node_key, b"x"))
