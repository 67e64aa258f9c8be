"""Simulator: an agent in virtual time, for days and weeks of a node's life.

The agent, the chip, the disk, the socket and the connections are real. The cloud is simulated. The time of machine and
cloud is virtual: it does not move while anything works, and `VirtualSite.jump` lets it pass.

A loop of the agent that runs every second (the check of the clocks, the report of the state, the sign of life) runs once
in a jump. A contact is due once in a heartbeat slot, and a long poll ends after 250 seconds at most. So jumps that are
shorter than both leave out none of them.
"""

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import msgspec
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec
from tpm2_pytss.constants import TPM2_CC

from cloud.fabric.lease_schemas import LeaseTerms
from cloud.fabric.licensing.statements import TERMS
from node.agent import Agent
from node.config import Config
from node.disk import thread
from node.exchanges.activation import activate
from node.exchanges.activation_file import read_activation_file
from node.hwbind import reading
from node.hwbind.fingerprint import Components, Reasons
from node.hwbind.keys import key_hash
from node.hwbind.link import open_link
from node.hwbind.tpm import Tpm
from node.link.connect import network_limiter
from node.state import State
from protocol.ids import EKU_DEVICE
from protocol.signed.lease import Entitlement, Grant, HardwareFloor, Tier
from tests.drills.flapping import FlappingFabric
from tests.simulators import fabric as simulator
from tests.simulators import software_cloud
from tests.simulators.fabric import DAY, Reply, Request
from tests.simulators.repository import Repository
from tests.simulators.site import repository_of, write_activation_file
from tests.simulators.software_cloud import SoftwareCloud

SLOT_SECONDS = 600
"""A heartbeat slot, as the agent's own setting has it."""
SETTLE_SECONDS_MAX = 60.0
"""Real time that the work after a jump may take."""
MACHINE = {
    "product_uuid": "4c4c4544-0051-3510-8052-b4c04f564432",
    "board_serial": "CNFCP0096L00DE",
    "disk_serial": "S3Z8NB0K123456",
    "mac": "b8:2a:72:aa:bb:cc",
}
VISION_LIMIT = 4
NV_WRITERS = frozenset(
    int(getattr(TPM2_CC, name))
    for name in (
        "NV_DefineSpace", "NV_UndefineSpace", "NV_UndefineSpaceSpecial", "NV_Write", "NV_Increment", "NV_Extend",
        "NV_SetBits", "NV_WriteLock", "NV_GlobalWriteLock", "NV_ReadLock", "NV_ChangeAuth", "EvictControl",
        "HierarchyControl", "HierarchyChangeAuth", "SetPrimaryPolicy", "ChangePPS", "ChangeEPS", "Clear",
        "ClearControl", "ClockSet", "DictionaryAttackLockReset", "DictionaryAttackParameters", "PCR_Allocate",
    )
)  # fmt: skip
"""Commands that write the NV memory of a TPM (TPM 2.0 Library Part 3)."""


class VirtualTime:
    """The time of machine and cloud. It moves by `MockClock.jump` only."""

    def __init__(self) -> None:
        self.clock = trio.testing.MockClock()
        self._base = datetime.now(UTC).replace(microsecond=0)
        self._began = self.clock.current_time()

    def seconds(self) -> float:
        """Virtual seconds since the begin. The machine never sleeps."""
        return round(self.clock.current_time() - self._began, 3)

    def now(self) -> datetime:
        """The wall clock of machine and cloud."""
        return self._base + timedelta(seconds=self.seconds())


class CountedLink:
    """A connection to the TPM. It counts the commands, and notes when a command writes the NV memory."""

    def __init__(self, tcti: str, commands: Counter[int], note: Callable[[int], None]) -> None:
        self._link = open_link(tcti)
        self._commands = commands
        self._note = note

    @property
    def pending(self) -> bool:
        return self._link.pending

    def send(self, command: bytes) -> None:
        code = int.from_bytes(command[6:10], "big")
        self._commands[code] += 1
        if code in NV_WRITERS:
            self._note(code)
        self._link.send(command)

    def receive(self, seconds_max: float) -> bytes:
        return self._link.receive(seconds_max)

    def close(self) -> None:
        self._link.close()


class DatedFabric(FlappingFabric):
    """A Fabric that signs leases of version 2 with the dates of a tier.

    A lease grants `render` without terms. It grants `vision` with a limit, from a date between `refresh_after` and
    `expires_at` to a date between `expires_at` and `grace_until`. `terms` has the dates of the next lease. `paths`
    counts the requests by path.
    """

    def __init__(self, tier: Tier, device_life: timedelta = 90 * DAY) -> None:
        super().__init__()
        self.terms: LeaseTerms = TERMS[tier]
        self.paths: Counter[str] = Counter()
        self._tier = tier
        self._device_life = device_life
        self._floor: HardwareFloor | None = None

    def lease(self, generation: int = 0, issued_at: datetime | None = None, **changes: object) -> str:
        at, terms = issued_at or simulator.utc_now(), self.terms
        refresh, expires, grace, terminate = (
            at + timedelta(seconds=seconds)
            for seconds in (
                terms.refresh_after_seconds, terms.expires_seconds, terms.grace_seconds, terms.terminate_seconds
            )
        )  # fmt: skip
        vision = Entitlement(
            name="vision",
            limit=VISION_LIMIT,
            not_before=_between(refresh, expires),
            until=_between(expires, grace),
            attributes={"edition": "full"},
        )
        grants: tuple[Grant, ...] = ("render", vision)
        fields: dict[str, object] = {
            "tier": self._tier,
            "entitlements": grants,
            "refresh_after": refresh,
            "expires_at": expires,
            "grace_until": grace,
            "terminate_at": terminate,
            "floor": self._floor,
        }
        token = super().lease(generation, at, **fields | changes)
        self._lease_due = at + timedelta(seconds=terms.refresh_after_seconds / 2)
        return token

    def suspend(self) -> None:
        """Suspend the node, until the next lease."""
        self._lease_due = datetime.max.replace(tzinfo=UTC)
        self.say(self.suspension())

    def node_chain(
        self,
        public_key: ec.EllipticCurvePublicKey,
        generation: int,
        usage: str = EKU_DEVICE,
        life: timedelta | None = None,
        not_before: datetime | None = None,
    ) -> tuple[bytes, ...]:
        if usage == EKU_DEVICE:
            self.lease_fields = self.lease_fields | {"node_key": key_hash(public_key)}
        return super().node_chain(public_key, generation, usage, life or self._device_life, not_before)

    def _open_session(self, request: Request) -> Reply:
        reply = super()._open_session(request)
        floor = self.proofs[-1].floor
        if floor is not msgspec.UNSET:
            self._floor = HardwareFloor(index=floor.index)
        return reply

    async def answer(self, request: Request) -> Reply | bytes:
        # Weeks of requests are not kept.
        for kept in (self.proofs, self.trust_versions, self.held_generations):
            kept.clear()
        self.paths[request.path] += 1
        return await super().answer(request)


def _between(first: datetime, second: datetime) -> datetime:
    """A whole second between two dates."""
    return (first + (second - first) / 2).replace(microsecond=0)


class VirtualSite:
    """One machine with one agent, and its cloud.

    Args:
        directory: the directory of the machine. It is made.
        tcti: the connection to the chip; empty for a machine without a TPM.
        tier: the tier of the leases.
        device_life: the life of a device certificate.
    """

    def __init__(self, directory: Path, tcti: str, tier: Tier, device_life: timedelta = 90 * DAY) -> None:
        directory.mkdir()
        self.time = VirtualTime()
        self.commands: Counter[int] = Counter()
        self.nv_writes: list[tuple[float, int]] = []
        """Virtual seconds and code of each command that wrote the NV memory."""
        self.tpm = Tpm(
            tcti or "device:/nonexistent/tpm",
            open_link=lambda to: CountedLink(to, self.commands, self._note_write),
        )
        self.socket = directory / "s.sock"
        self.state_dir = directory / "state"
        self.fabric: DatedFabric
        self.repository: Repository
        self._directory = directory
        self._tier: Tier = tier
        self._software = not tcti
        self._device_life = device_life

    def _note_write(self, code: int) -> None:
        self.nv_writes.append((self.time.seconds(), code))

    @contextlib.asynccontextmanager
    async def agent(self) -> AsyncIterator[tuple[Agent, trio.Nursery]]:
        """The activated agent, after READY, and a nursery for tasks that end with it."""
        with self._patched():
            self.fabric = fabric = DatedFabric(self._tier, self._device_life)
            for service in fabric.leaves:
                fabric.leaves[service] = fabric.service_leaf(service, not_after=self.time.now() + 360 * DAY)
            if self._software:
                SoftwareCloud(fabric)
            async with trio.open_nursery() as nursery:
                await nursery.start(fabric.serve)
                self.repository = repository = repository_of(fabric)
                with repository.served():
                    await self._activate(repository)
                    config = Config(
                        state_dir=self.state_dir, socket=self.socket, tpm="site", mode="development",
                        heartbeat_seconds=SLOT_SECONDS,
                    )  # fmt: skip
                    state = State(config.state_dir, self.time.now, self.time.seconds)
                    with state.owned():
                        agent = Agent.load(config, state, self.tpm, self.time.now, lambda: 0.0, self.time.seconds)
                        ready = trio.Event()
                        nursery.start_soon(agent.run, ready.set)
                        while not ready.is_set():
                            await self.jump(1)
                        yield agent, nursery
                        nursery.cancel_scope.cancel()

    async def _activate(self, repository: Repository) -> None:
        state = State(self.state_dir, self.time.now, self.time.seconds)
        state.directory.mkdir(mode=0o700)
        path, now = self._directory / "file.json", self.time.now
        file = write_activation_file(path, repository.url, repository.pin, created_at=now())
        await activate(state, self.tpm, read_activation_file(file), now, lambda _: None, in_software=self._software)

    async def jump(self, seconds: float) -> None:
        """Let the time pass, and wait in real time until the agent has nothing left to do."""
        if seconds > 0:
            self.time.clock.jump(seconds)
        until = time.monotonic() + SETTLE_SECONDS_MAX
        while True:
            await trio.testing.wait_all_tasks_blocked(0.002)
            if not self._in_threads():
                break
            if time.monotonic() > until:
                raise TimeoutError(f"the agent still works, {SETTLE_SECONDS_MAX:.0f} s after a jump of {seconds:.0f} s")
            await trio.to_thread.run_sync(time.sleep, 0.001)

    def _in_threads(self) -> bool:
        """Whether a thread works for a task: for the TPM, the disk or the network."""
        disk, reader = thread._limiter.get(), reading._reader.get()
        limiters = [trio.to_thread.current_default_thread_limiter(), network_limiter(), self.tpm._limiter]
        limiters += [disk] if disk is not None else []
        limiters += [reader.limiter] if reader is not None else []
        return any(limiter.borrowed_tokens for limiter in limiters)

    @contextlib.contextmanager
    def _patched(self) -> Iterator[None]:
        """Give the simulated cloud the virtual time, and a machine without a TPM its serial numbers."""
        with contextlib.ExitStack() as stack:
            for module in (simulator, software_cloud):
                stack.enter_context(patch.object(module, "utc_now", self.time.now))
            if self._software:
                components = Components(MACHINE, Reasons())
                stack.enter_context(patch.object(reading, "read_components", lambda: components))
            yield
