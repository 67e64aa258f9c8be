"""The start of the agent on a disk that fails, is read-only, or comes back: it stays up and names the cause."""

import errno
import os
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from node import startup
from node.cli.borrowing import owned
from node.config import Config
from node.disk import calls
from node.disk.lock import StateLock
from node.errors import StateBusy, StateUnsafe, StateUnwritable
from node.hwbind.tpm import Tpm
from node.local.client import AgentAbsent, AgentUnusable, request
from node.state import NotActivated, State
from node.trust import published
from node.trust.errors import TrustUnreachable
from tests.node.shells import agent_config, apply, load_licence, publish_trust, trust_of
from tests.simulators.fabric import Fabric
from tests.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return agent_config(tmp_path, settle_seconds=1)


class Fault:
    """A hook that fails one call at the paths that end with `name`, until `mended`."""

    def __init__(self, call: str, name: str, code: int) -> None:
        self.call, self.name, self.code = call, name, code
        self.mended = False
        self.made = 0

    def __call__(self, call: str, path: str) -> None:
        if not self.mended and call == self.call and path.endswith(self.name):
            self.made += 1
            raise OSError(self.code, os.strerror(self.code))


@asynccontextmanager
async def started(config: Config, tpm: Tpm) -> AsyncIterator[Callable[[str], Any]]:
    """Start the agent. Gives the function that asks it for a document. A signal ends the agent at the end."""

    async def ask(what: str) -> Any:
        with suppress(AgentAbsent, AgentUnusable):  # between the answers of the start and those of the agent
            return (await request(config.socket, "GET", f"/v1/{what}")).document
        return None

    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await startup.run(config, tpm, retry_seconds=0.01, silent_seconds=0.2)

        nursery.start_soon(run)
        with trio.fail_after(20):
            yield ask
        os.kill(os.getpid(), signal.SIGTERM)


async def until_active(ask: Callable[[str], Any]) -> None:
    async def active() -> bool:
        return ((await ask("license")) or {}).get("state") == "active"

    await until("the agent to use the state", active)


FAULTS = (
    ("lstat", "state", errno.EIO),
    ("flock", "state", errno.EIO),
    ("open", "trust/current.json", errno.EIO),
    ("open", "trust/current.json", errno.EMFILE),
    ("read", "identity/g-1/device.pem", errno.EIO),
    ("open", "state/identity/g-1/identity.json", errno.EACCES),
)


@pytest.mark.parametrize(("call", "name", "code"), FAULTS)
async def test_a_state_that_cannot_be_read_keeps_the_agent_up_until_the_disk_is_back(
    config: Config, state: State, tpm: Tpm, call: str, name: str, code: int
) -> None:
    fault = Fault(call, name, code)
    with calls.hooked(fault):
        async with started(config, tpm) as ask:
            status = await until("the agent answers", lambda: ask("status"))
            licence = status["license"]
            assert (licence["state"], licence["gate"], licence["exit_code"]) == ("stale", "closed", 85)
            assert os.strerror(code) in licence["reason"]
            assert [condition["text"] for condition in status["conditions"]] == [licence["reason"]]
            answer = await request(config.socket, "POST", "/v1/renew")
            assert (answer.status, os.strerror(code) in str(answer.document)) == (503, True)
            made = fault.made
            await until("another attempt", lambda: fault.made > made)
            fault.mended = True
            await until_active(ask)
            assert (await ask("status"))["conditions"] == []


async def test_a_signal_ends_an_agent_that_waits(config: Config, state: State, tpm: Tpm) -> None:
    with calls.hooked(Fault("open", "trust/current.json", errno.EIO)):
        async with started(config, tpm) as ask:
            await until("the agent answers", lambda: ask("license"))
    with StateLock(config.state_dir):
        pass


async def test_a_pin_that_others_could_write_closes_the_gate_and_says_so(
    config: Config, state: State, tpm: Tpm
) -> None:
    (config.state_dir / "trust/current.json").chmod(0o666)
    async with started(config, tpm) as ask:
        licence = await until("the agent answers", lambda: ask("license"))
        assert (licence["gate"], "the pin" in licence["reason"]) == ("closed", True)
        assert "cascadia activate" in licence["next"]


async def test_a_damaged_trust_is_repaired_from_its_pin(
    config: Config, state: State, tpm: Tpm, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = trio.Event()

    async def repair(state_dir: Path, **_: object) -> None:
        if not reached.is_set():
            raise TrustUnreachable("no network yet")
        publish_trust(state_dir, fabric)

    monkeypatch.setattr(published, "repair", repair)
    (config.state_dir / "trust/gen-1/targets.json").write_bytes(b"torn")
    async with started(config, tpm) as ask:
        licence = await until("the agent answers", lambda: ask("license"))
        assert (licence["gate"], "targets.json" in licence["reason"]) == ("closed", True)
        reached.set()
        await until_active(ask)
        assert (await ask("status"))["conditions"] == []


async def test_a_damaged_trust_on_a_disk_that_cannot_be_written_is_used_from_memory(
    config: Config, state: State, tpm: Tpm, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def repair(state_dir: Path, **_: object) -> None:
        raise published.TrustNotStored(trust_of(fabric), StateUnwritable(state_dir / "trust", "Read-only file system"))

    monkeypatch.setattr(published, "repair", repair)
    (config.state_dir / "trust/gen-1/targets.json").write_bytes(b"torn")
    async with started(config, tpm) as ask:
        await until_active(ask)
        (condition,) = (await ask("status"))["conditions"]
        assert condition["code"] == "trust_not_stored"
        assert "Read-only file system" in condition["text"]


async def test_a_revocation_that_is_read_late_closes_the_gate(
    config: Config, state: State, tpm: Tpm, fabric: Fabric
) -> None:
    apply(load_licence(state), fabric, fabric.revocation())
    fault = Fault("open", "trust/current.json", errno.EIO)
    with calls.hooked(fault):
        async with started(config, tpm) as ask:
            await until("the agent answers", lambda: ask("license"))
            fault.mended = True

            async def revoked() -> bool:
                return (await ask("license") or {}).get("state") == "revoked"

            await until("the revocation", revoked)


async def test_a_disk_that_does_not_answer_leaves_the_socket_answering(config: Config, state: State, tpm: Tpm) -> None:
    thawed = threading.Event()

    def freeze(call: str, path: str) -> None:
        if path.endswith("trust/current.json"):
            thawed.wait()

    with calls.hooked(freeze):
        async with started(config, tpm) as ask:
            try:
                status = await until("the agent answers", lambda: ask("status"))
            finally:
                thawed.set()
            assert (status["license"]["state"], status["license"]["gate"]) == ("stale", "closed")
            assert [condition["code"] for condition in status["conditions"]] == ["disk_silent"]
            await until_active(ask)


async def test_an_unexpected_exception_is_retried(
    config: Config, state: State, tpm: Tpm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("sample")

    with monkeypatch.context() as patch:
        patch.setattr(State, "load_licence", broken)
        async with started(config, tpm) as ask:
            status = await until("the agent answers", lambda: ask("status"))
            assert "sample" in status["license"]["reason"]
            assert "fault_start" in [condition["code"] for condition in status["conditions"]]
            patch.undo()
            await until_active(ask)
            assert (await ask("status"))["conditions"] == []


async def test_what_waiting_does_not_end_is_raised(config: Config, tpm: Tpm) -> None:
    with pytest.raises(NotActivated):
        await startup.run(config, tpm)
    assert not config.state_dir.exists()
    with StateLock(config.state_dir), pytest.raises(StateBusy):
        await startup.run(config, tpm)
    with pytest.raises(NotActivated):
        await startup.run(config, tpm)
    config.state_dir.rename(config.state_dir.with_name("elsewhere"))
    config.state_dir.symlink_to("elsewhere")
    with pytest.raises(StateUnsafe):
        await startup.run(config, tpm)


def refuse_writes(call: str, path: str) -> None:
    if call in ("write", "mkdir", "rmdir", "unlink", "rename", "fchmod", "fchown") or path.endswith((".tmp", "/lock")):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.fixture
def read_only_disk(config: Config, state: State) -> Iterator[None]:
    """The state directory on a read-only file system. Without the right to mount, the port refuses every write."""
    path = str(config.state_dir)
    mounted = os.geteuid() == 0 and subprocess.run(["mount", "--bind", path, path], check=False).returncode == 0
    if not mounted:
        with calls.hooked(refuse_writes):
            yield
        return
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", path], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


async def test_a_valid_lease_on_a_read_only_disk_serves(
    config: Config, tpm: Tpm, fabric: Fabric, read_only_disk: None
) -> None:
    fabric.say(fabric.lease())
    async with started(config, tpm) as ask:
        licence = await until("the agent answers", lambda: ask("license"))
        assert (licence["state"], licence["gate"]) == ("active", "open")
        with pytest.raises(StateBusy):
            StateLock(config.state_dir).acquire()


@asynccontextmanager
async def borrowed(config: Config, state: State) -> AsyncIterator[None]:
    """Borrow the state, until the agent has seen that it is taken."""
    looks = 0

    def count(call: str, path: str) -> None:
        nonlocal looks
        looks += call == "flock" and path.endswith("state")

    async with owned(config, state):
        yield
        with calls.hooked(count):
            await until("the agent to look for the lock", lambda: looks >= 2)


async def test_an_active_agent_lends_its_state_and_licensed_software_does_not_notice(
    config: Config, state: State, tpm: Tpm, fabric: Fabric
) -> None:
    async with started(config, tpm) as ask:
        await until_active(ask)
        with pytest.raises(StateBusy):
            StateLock(config.state_dir).acquire()
        async with borrowed(config, state):
            asked = len(fabric.requests)
            assert (await ask("license"))["gate"] == "open"
            renewal = await request(config.socket, "POST", "/v1/renew")
            assert (renewal.status, renewal.document["code"]) == (503, "state_lent")
            other = await request(config.socket, "POST", "/v1/state/lend")
            assert (other.status, other.document["code"]) == (503, "state_lent")
            assert len(fabric.requests) == asked
        await until("another session", lambda: len(fabric.requests) > asked)
        await until_active(ask)


async def test_a_revoked_agent_lends_its_state_and_runs_on_what_the_command_has_stored(
    config: Config, state: State, tpm: Tpm, fabric: Fabric
) -> None:
    async with started(config, tpm) as ask:
        await until_active(ask)
        fabric.revoke()

        async def revoked() -> bool:
            return (await ask("license") or {}).get("state") == "revoked"

        await until("the revocation", revoked)
        async with borrowed(config, state):
            assert (await ask("license"))["gate"] == "closed"
        await until("the revoked agent to answer again", revoked)
        assert (await ask("status"))["agent_running"]


async def test_a_revocation_that_the_disk_refuses_is_not_forgotten_by_a_lend(
    config: Config, state: State, tpm: Tpm, fabric: Fabric
) -> None:
    async with started(config, tpm) as ask:
        await until_active(ask)

        async def revoked() -> bool:
            return (await ask("license") or {}).get("state") == "revoked"

        def full(call: str, path: str) -> None:
            if call == "write" and str(config.state_dir) in path:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with calls.hooked(full):
            fabric.revoke()
            await until("the revocation", revoked)
            lent = await request(config.socket, "POST", "/v1/state/lend")
            assert (lent.status, lent.document["code"]) == (503, "disk_full")
            assert await revoked()
        assert (await request(config.socket, "POST", "/v1/state/lend")).status == 200


async def test_an_agent_that_cannot_read_its_state_lends_it_to_the_command_that_mends_it(
    config: Config, state: State, tpm: Tpm
) -> None:
    (config.state_dir / "trust/current.json").chmod(0o666)
    async with started(config, tpm) as ask:
        await until("the agent answers", lambda: ask("license"))
        async with borrowed(config, state):
            assert (await ask("license"))["gate"] == "closed"
            (config.state_dir / "trust/current.json").chmod(0o600)
        await until_active(ask)


async def test_a_signal_ends_an_agent_whose_state_is_lent(config: Config, state: State, tpm: Tpm) -> None:
    async with started(config, tpm) as ask:
        await until_active(ask)
        await request(config.socket, "POST", "/v1/state/lend")
        await until("the agent answers", lambda: ask("license"))
    with StateLock(config.state_dir):
        pass


async def test_a_start_under_systemd_waits_for_the_command_that_has_just_activated_the_machine(
    config: Config, state: State, tpm: Tpm
) -> None:
    command, looks = StateLock(config.state_dir), 0
    command.acquire()

    def release(call: str, path: str) -> None:
        nonlocal looks
        looks += call == "flock" and path.endswith("state")
        if looks == 3:
            command.release()

    async def active() -> bool:
        reply = await request(config.socket, "GET", "/v1/license")
        return str(reply.document["state"]) == "active"

    with socket.socket(socket.AF_UNIX) as of_systemd:
        of_systemd.bind(str(config.socket))
        config.socket.chmod(0o666)
        of_systemd.listen()
        async with trio.open_nursery() as nursery:
            with calls.hooked(release):
                nursery.start_soon(partial(startup.run, config, tpm, passed=[of_systemd.fileno()]))
                await until("the agent to use the state", active)
            os.kill(os.getpid(), signal.SIGTERM)


async def test_a_start_without_systemd_beside_another_agent_ends(config: Config, state: State, tpm: Tpm) -> None:
    with StateLock(config.state_dir), pytest.raises(StateBusy):
        await startup.run(config, tpm)
