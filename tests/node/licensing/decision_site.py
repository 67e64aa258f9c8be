"""Simulator: a node whose licence is decided by the real code, over simulated clocks, a chip and a disk in memory.

`Site` does to the node what an attacker, a bad clock, a bad network or a power cut can do. The state directory, the
start, the contact, the confirmation, the rekey, the floors and trusted time are the real code. The cloud answers in the
place of the exchanges on the wire (`tests/node/licensing/decision_cloud.py`). The certificates of servers, the evidence
of an activation and a changed fingerprint are not in the model.
"""

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast
from unittest import mock

import trio

from node.disk.boot import BootRecord
from node.errors import NodeError
from node.exchanges import confirmation, contact
from node.exchanges.confirmation import confirm
from node.exchanges.contact import Contact
from node.exchanges.renewal import DeviceRenewal
from node.hwbind import reading
from node.hwbind.errors import TpmError
from node.hwbind.tpm import Tpm
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence, StatementRejected
from node.licensing.trusted_time import TrustedTime, first_floor
from node.link import api
from node.state import NotActivated, State
from node.trust.current import CurrentTrust
from protocol import faults
from protocol.messages.sessions import StatementAnswer
from tests.fault_hooks import hooked
from tests.node.licensing.decision_cloud import SERIALS, Cloud, Proofs, trust_of_all
from tests.simulators import fabric as simulator
from tests.simulators.machine_clocks import DAY, START, MachineClocks
from tests.simulators.memory_chip import MemoryChip, chips_in_memory

T = TypeVar("T")

MEMORY = Path("/dev/shm")
"""A file system in memory. Without it the examples take longer."""
NONCE = "n" * 32
FOLDERS = ("licence", "identity", "tombstones", "current.json")
"""What can be put back on its own."""


class Killed(BaseException):
    """The process was killed at a fault point."""


class Site:
    """A cloud, a machine, and the agent on it. `true` times are known to the cloud only.

    Attributes:
        fault: why the state cannot be read; None while the agent runs.
        unpowered: the time without power or asleep.
        cuts: the resets at which the TPM's clock may have lost time.
        tpm_ahead: the time by which the TPM's clock was set forward.
        starts: how often the agent has started.
    """

    def __init__(self, *, software: bool = False) -> None:
        self.software = software
        self._stack = ExitStack()
        self._held = ExitStack()
        self._base = Path(tempfile.mkdtemp(prefix="decision-", dir=MEMORY if MEMORY.is_dir() else None))
        self.directory, self._run = self._base / "state", self._base / "run"
        self.machine = MachineClocks()
        self.chip = MemoryChip(self.machine.tpm)
        self._stack.enter_context(chips_in_memory())
        self.cloud = Cloud(self.machine, software=software)
        self._patch()
        self.fault: NodeError | None = None
        self.unpowered = self.tpm_ahead = timedelta(0)
        self.cuts = self.starts = 0
        self._boot()

    def _patch(self) -> None:
        replaced: tuple[tuple[Any, str, object], ...] = (
            (simulator, "utc_now", lambda: self.machine.true),
            (contact, "open_session", self.cloud.open_session),
            (confirmation, "open_session", self.cloud.open_session),
            (api, "connect", lambda *_: Proofs(self.cloud)),
            (DeviceRenewal, "_proof", _method(self.cloud.make_proof)),
            (DeviceRenewal, "_software_proof", _method(self.cloud.make_proof)),
            (reading, "read_components", lambda: SERIALS),
            (trio.to_thread, "run_sync", _at_once),
        )
        for place, name, value in replaced:
            self._stack.enter_context(mock.patch.object(place, name, value))

    def close(self) -> None:
        """End the site."""
        self.stop()
        self._stack.close()
        shutil.rmtree(self._base)

    def _boot(self) -> None:
        """Begin a boot of the machine: its memory is empty."""
        shutil.rmtree(self._run, ignore_errors=True)
        self._run.mkdir(mode=0o700)
        (self._run / "boot_id").write_text(str(self.machine.boots))

    # The agent

    def stop(self) -> None:
        """End the process of the agent."""
        self._held.close()

    def _state(self) -> State:
        self.stop()
        clocks, boots = self.machine.clocks(), str(self.machine.boots)
        state = State(self.directory, self.machine.wall, clocks.awake_seconds, lambda: boots)
        self._held.enter_context(state.owned())
        state.floors.tpm = self.tpm
        state.trust_in_memory = trust_of_all()
        return state

    @property
    def tpm(self) -> Tpm:
        """The chip, as the port."""
        return cast(Tpm, self.chip)

    def start(self) -> None:
        """Start the agent. It reads the disk and checks the TPM."""
        self.starts += 1
        self.state = self._state()
        hardware = HardwareCheck(self.tpm, BootRecord(self._run, self._run / "boot_id"), self.state.conditions)
        self.fault = None
        try:
            licence = self.state.load_licence(hardware, self.machine.clocks())
        except NodeError as error:
            self.fault = error
            return
        self.contact = Contact(self.state, self.tpm, hardware, licence, self.machine.wall)
        trio.run(licence.check_hardware)

    @property
    def licence(self) -> Licence:
        """The licence in force."""
        return self.contact.licence

    @property
    def generation(self) -> int:
        """The generation of the licence; 0 without one."""
        return self.licence.identity.generation if self.fault is None else 0

    @property
    def time(self) -> TrustedTime:
        """Trusted time."""
        return self.state.time

    @property
    def view(self) -> tuple[str, bool]:
        """State and gate. A state directory that cannot be read closes the gate."""
        if self.fault is not None:
            return ("unactivated" if isinstance(self.fault, NotActivated) else "stale"), False
        verdict = self.licence.verdict()
        return verdict.state, verdict.gate_open

    def exchange(self, away_from: int | None = None, killed_at: str = "", stage: faults.Stage = "before") -> None:
        """One contact with the cloud. Then store what waits, and raise the floor. The agent may be killed meanwhile."""

        async def work() -> None:
            await self.contact.attempt()
            await self._store()

        self._do(work, away_from, killed_at, stage)

    def store(self) -> None:
        """Store what waits and raise the floor."""
        self._do(self._store)

    def rekey(self, away_from: int | None = None, killed_at: str = "", stage: faults.Stage = "before") -> None:
        """Get a certificate for a new node key, as `cascadia renew --rekey` does."""

        async def work() -> None:
            with suppress(NodeError, TpmError):
                await self.contact.renew_device(rekey=True)
            await self._store()

        self._do(work, away_from, killed_at, stage)

    def activate(self, away_from: int | None = None, killed_at: str = "", stage: faults.Stage = "before") -> None:
        """Run `cascadia activate` from the cloud's answer to its proof on. Then start the agent."""
        state = self._state()
        # As `activate`: not from the stored floor.
        state.start_time(first_floor(START - DAY), None, self.machine.clocks())
        hardware = HardwareCheck(self.tpm)
        hardware.time = state.time
        trust = CurrentTrust(self.directory, trust_of_all(), state.time.low)

        async def work() -> None:
            try:
                identity = self.cloud.begin()
                state.identities.save_generation(identity)
                await confirm(state, identity, trust, self.tpm, hardware)
            except NodeError:
                await state.saver.flush()
                return
            await state.saver.flush()
            await state.floors.raise_now()
            state.keep_time()

        self._do(work, away_from, killed_at, stage, again=False)
        self.start()

    def _do(
        self,
        work: Callable[[], Awaitable[None]],
        away_from: int | None = None,
        killed_at: str = "",
        stage: faults.Stage = "before",
        *,
        again: bool = True,
    ) -> None:
        """Do the work of a process, which takes a second. After a kill at a fault point the agent starts `again`."""
        self.machine.run(timedelta(seconds=1))

        def kill(name: str, at: faults.Stage) -> None:
            if (name, at) == (killed_at, stage):
                raise Killed

        try:
            with hooked(kill), self.cloud.reached(away_from):
                trio.run(work)
        except BaseException as error:
            if not _is_kill(error):
                raise
            if again:
                self.start()

    async def _store(self) -> None:
        await self.state.saver.flush()
        await self.state.floors.raise_now()

    def apply(self, token: str, freshness: str, nonce: str = NONCE) -> bool:
        """Give the agent an answer. Returns whether it was accepted."""
        try:
            self.licence.apply(StatementAnswer(token, freshness), nonce)
        except StatementRejected:
            return False
        self.state.save_time()
        return True

    @property
    def standing(self) -> str:
        """The standing of the floor record."""
        return self.state.floors.status().record_state

    # The machine

    def reboot(self, off: timedelta, *, clean: bool = True) -> None:
        """End the boot, leave the machine without power, and boot it again. The agent is not started."""
        self.stop()
        self.machine.reboot(off, clean=clean)
        self.unpowered += off
        self.cuts += not clean
        self._boot()

    def forget_boot_time(self) -> None:
        """Delete what this boot knows about the time."""
        (self._run / "time.json").unlink(missing_ok=True)

    # The disk

    def files(self) -> dict[Path, bytes]:
        """All files of the state directory."""
        return {
            path.relative_to(self.directory): path.read_bytes()
            for path in sorted(self.directory.rglob("*"))
            if path.is_file() and path.name != "lock"
        }

    def put_back(self, files: dict[Path, bytes], *, only: str = "") -> None:
        """Replace the state directory, or a part of it, by an earlier copy."""
        self.stop()
        for name in [only] if only else [path.name for path in self.directory.iterdir()]:
            self.delete(name)
        for path, content in files.items():
            if not only or path.parts[0] == only:
                (self.directory / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                (self.directory / path).write_bytes(content)
                (self.directory / path).chmod(0o600)

    def delete(self, name: str) -> None:
        """Delete a file or a folder of the state directory."""
        self.stop()
        path = self.directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


async def _at_once(work: Callable[..., T], *arguments: object, **_: object) -> T:
    """In the place of a worker thread. Everything is in memory, so no work waits."""
    await trio.lowlevel.checkpoint()
    return work(*arguments)


def _method(function: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """A function that takes the instance as its first argument, whatever it is bound to."""

    def method(*arguments: Any, **options: Any) -> Awaitable[T]:
        return function(*arguments, **options)

    return method


def _is_kill(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_kill(one) for one in error.exceptions)
    return isinstance(error, Killed)
