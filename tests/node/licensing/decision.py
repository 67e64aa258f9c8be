"""A node whose licence is decided by the real code, over simulated clocks, a chip in memory and a directory in memory.

`Site` does to the node what an attacker, a bad clock or a bad network can do. `Decision` (a Hypothesis state machine)
does these things in any order, and compares every verdict with what the cloud has signed.
"""

import shutil
import tempfile
from contextlib import suppress
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import trio
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from node.conditions import Conditions
from node.disk.identity import Identity
from node.hwbind import counter
from node.hwbind.keys import WrappedKey, key_hash
from node.hwbind.tpm import Tpm
from node.licensing.floor_store import FloorStore
from node.licensing.floors import STATEMENTS
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence, StatementRejected
from node.licensing.raising import FloorKeeper
from node.licensing.saving import Saver
from node.licensing.store import LicenceStore
from node.licensing.trusted_time import (
    SAVE_INTERVAL,
    UNCLEAN_RESETS_MAX,
    BootTime,
    TrustedTime,
    first_floor,
    low_of,
)
from node.licensing.verdict import Verdict
from node.trust.current import CurrentTrust
from protocol import faults
from protocol.limits import CLOCK_SKEW
from protocol.messages.sessions import StatementAnswer
from protocol.signed.lease import HardwareFloor
from protocol.signed.statements import Lease, Revocation, Suspension, position, verify_statement
from tests.fault_hooks import hooked
from tests.node.shells import trust_of
from tests.simulators import fabric as simulator
from tests.simulators.fabric import DOMAIN, NODE, TENANT, Fabric
from tests.simulators.machine_clocks import DAY, START, MachineClocks
from tests.simulators.memory_chip import MemoryChip, chips_in_memory, make_key

MEMORY = Path("/dev/shm")
"""A file system in memory. Without it the examples take longer."""
NONCE = "n" * 32
GENERATIONS = 3
FOLDERS = ("licence", "identity", "tombstones")
CRASHES = ("node.statement.write", "node.tombstone.write", "node.floor.write", "node.floor.copy", "node.floor.count")


class Killed(BaseException):
    """The process was killed at a fault point."""


@lru_cache
def cloud_of_all() -> Fabric:
    """One cloud for all examples: its keys take longer to make than an example takes."""
    simulated, simulator.utc_now = simulator.utc_now, lambda: START
    try:
        return Fabric()
    finally:
        simulator.utc_now = simulated


@lru_cache
def node_key(generation: int) -> WrappedKey:
    """The node key of a generation."""
    return make_key()


def _public_keys() -> list[ec.EllipticCurvePublicKey]:
    return [node_key(one).public_key() for one in range(1, GENERATIONS + 1)]


class Site:
    """A cloud, a machine, and the agent on it. `true` times are known to the cloud only."""

    def __init__(self) -> None:
        self._patched = chips_in_memory()
        self._patched.__enter__()
        self.directory = Path(tempfile.mkdtemp(prefix="decision-", dir=MEMORY if MEMORY.is_dir() else None))
        self.machine = MachineClocks()
        self._now, simulator.utc_now = simulator.utc_now, lambda: self.machine.true
        self.chip = MemoryChip(self.machine.tpm)
        self.cloud = cloud_of_all()
        self.cloud.epoch, self.cloud.seq, self.cloud.confirmed = 1, 0, 1
        self.trust = CurrentTrust(self.directory, trust_of(self.cloud), self.machine.wall)
        self.generation = 1
        self.signed: list[str] = []
        self.boot_time: tuple[int, BootTime] | None = None
        self.unpowered = timedelta(0)
        self.cuts = 0
        self.start()

    def close(self) -> None:
        """End the site."""
        simulator.utc_now = self._now
        shutil.rmtree(self.directory)
        self._patched.__exit__(None, None, None)

    # The agent

    def start(self) -> None:
        """Start the agent. It reads the disk and checks the TPM."""
        self.conditions = Conditions(self.machine.wall)
        self.keeper = FloorKeeper(
            FloorStore(self.directory),
            self.conditions,
            clock=self.machine.wall,
            boot_id=lambda: str(self.machine.boots),
            elapsed=self.machine.clocks().awake_seconds,
        )
        self.keeper.tpm = cast(Tpm, self.chip)
        self.saver = Saver(LicenceStore(self.directory), self.conditions, self.keeper)
        identity = self.identity(self.generation)
        self.keeper.load(identity.holder, identity.node_key.public_key(), _public_keys)
        held = self.boot_time
        boot = held[1] if held is not None and held[0] == self.machine.boots else None
        self.time = TrustedTime(self.keeper.time_floor or first_floor(START - DAY), self.machine.clocks(), boot)
        self.keeper.time = lambda: self.time.floor
        self.hardware = HardwareCheck(cast(Tpm, self.chip))
        self.hardware.time = self.time
        self.licence = Licence(self.saver, identity, self.trust, self.hardware, self.time)
        trio.run(self._check)
        self.keep_boot_time()

    async def _check(self) -> None:
        await self.hardware.check(self.licence.identity.node_key)

    def identity(self, generation: int) -> Identity:
        """The identity of a generation."""
        return Identity(
            trust_domain=DOMAIN,
            tenant=TENANT,
            node=NODE,
            generation=generation,
            activated_at=START,
            confirm_by=START,
            fingerprint_salt=bytes(32),
            ak=node_key(1),
            node_key=node_key(generation),
            chain=(b"",),
        )

    def keep_boot_time(self) -> None:
        """Keep the record of the boot."""
        self.boot_time = (self.machine.boots, self.time.boot)

    def apply(self, token: str, freshness: str, nonce: str = NONCE) -> bool:
        """Give the agent an answer. Returns whether it was accepted."""
        with suppress(StatementRejected):
            self.licence.apply(StatementAnswer(token, freshness), nonce)
            self.keep_boot_time()
            return True
        return False

    def store(self, killed_at: str = "", stage: faults.Stage = "before") -> None:
        """Store what waits and raise the floor. The agent may be killed at a fault point, and then starts again."""

        def kill(name: str, at: faults.Stage) -> None:
            if (name, at) == (killed_at, stage):
                raise Killed

        try:
            with hooked(kill):
                trio.run(self._store)
        except BaseException as error:
            if not _is_kill(error):
                raise
            self.start()

    async def _store(self) -> None:
        await self.saver.flush()
        await self.keeper.raise_now()

    @property
    def verdict(self) -> Verdict:
        """The verdict now."""
        return self.licence.verdict()

    @property
    def standing(self) -> str:
        """The standing of the floor record."""
        return self.keeper.status().standing

    # The cloud

    def say(self, token: str) -> None:
        """Sign a statement, and make it the current one."""
        self.signed.append(token)
        self.cloud.statement = token

    def lease(self, *, promised: bool = True) -> str:
        """A new lease of the generation that the cloud has confirmed. `promised`: it names the counter of the floor.

        Fabric learns of the counter from a session, so the first lease of a node does not name it.
        """
        key = key_hash(node_key(self.cloud.confirmed).public_key())
        floor = HardwareFloor(index=counter.places(f"{DOMAIN}/{NODE}")[0]) if promised else None
        return self.cloud.lease(node_key=key, floor=floor)

    def contact(self) -> bool:
        """A whole contact: the current statement, with a freshness over the agent's nonce."""
        token = self.cloud.statement
        return self.apply(token, self.cloud.freshness(NONCE, token, self.generation))

    # The disk

    def files(self) -> dict[Path, bytes]:
        """All files of the state directory."""
        return {
            path.relative_to(self.directory): path.read_bytes()
            for path in sorted(self.directory.rglob("*"))
            if path.is_file()
        }

    def put_back(self, files: dict[Path, bytes], *, only: str = "") -> None:
        """Replace the state directory, or one of its folders, by an earlier copy."""
        for folder in [only] if only else FOLDERS:
            shutil.rmtree(self.directory / folder, ignore_errors=True)
        for path, content in files.items():
            if not only or path.parts[0] == only:
                (self.directory / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                (self.directory / path).write_bytes(content)
                (self.directory / path).chmod(0o600)


def _is_kill(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_kill(one) for one in error.exceptions)
    return isinstance(error, Killed)


minutes = st.integers(0, 4 * 24 * 60).map(lambda count: timedelta(minutes=count))
walls = st.sampled_from([timedelta(days=days) for days in (-20_000, -400, -30, -1, 0, 0, 0, 1, 30, 400)])


class Decision(RuleBasedStateMachine):
    """Any sequence of network failures, restarts, clock moves, restored files and valid documents."""

    def __init__(self) -> None:
        super().__init__()
        self.site = Site()
        self.copies: list[tuple[int, dict[Path, bytes]]] = []
        # What the floor record in the TPM's counter stands for: generation and position, and the floor of time.
        self.sealed: tuple[int, tuple[int, int]] = (0, (0, 0))
        self.sealed_low: datetime = START - DAY
        self.final: set[int] = set()
        self.value = 0
        self.low: tuple[int, datetime] | None = None
        self.high: tuple[int, datetime] | None = None

    def teardown(self) -> None:
        self.site.close()

    @initialize()
    def activate(self) -> None:
        for promised in (False, True):
            self.site.say(self.site.lease(promised=promised))
            assert self.site.contact()
            self._store()
            assert self.site.verdict.state == "active"

    # Rules

    @rule(kind=st.sampled_from(["lease", "lease", "suspension", "revocation"]))
    def the_cloud_signs(self, kind: str) -> None:
        cloud = self.site.cloud
        current = self._statement(cloud.statement)
        if isinstance(current, Revocation):
            return
        make = {"lease": self.site.lease, "suspension": cloud.suspension, "revocation": cloud.revocation}[kind]
        self.site.say(make())

    @precondition(lambda self: self.site.cloud.confirmed < GENERATIONS)
    @rule()
    def activate_again(self) -> None:
        """The same chip activates again: a higher generation, with its lease."""
        site = self.site
        site.cloud.confirmed += 1
        site.generation = site.cloud.confirmed
        site.start()
        site.say(site.lease())
        assert site.contact()
        self._store()
        assert site.verdict.gate_open

    @rule()
    def contact(self) -> None:
        """A whole contact. Afterwards the agent does what the cloud says, whatever happened before."""
        site = self.site
        current = self._statement(site.cloud.statement)
        if current.generation != site.generation:
            return
        if isinstance(current, Lease) and site.machine.true - current.issued_at > DAY:
            site.say(site.lease())
        site.contact()
        state = site.verdict.state
        current = self._statement(site.cloud.statement)
        expected = {"Lease": "active", "Suspension": "suspended", "Revocation": "revoked"}
        assert state == expected[type(current).__name__] or (state == "refresh-due" and isinstance(current, Lease))
        self._store()

    @rule(crash=st.sampled_from(CRASHES), stage=st.sampled_from(["before", "after"]))
    def contact_and_be_killed(self, crash: str, stage: faults.Stage) -> None:
        if self._statement(self.site.cloud.statement).generation == self.site.generation:
            self.site.contact()
        self._forget_run()
        self.site.store(crash, stage)
        self._note_sealed()

    @rule(at=st.integers(0, 40), nonce=st.sampled_from([NONCE, "m" * 32, ""]))
    def an_old_answer_is_replayed(self, at: int, nonce: str) -> None:
        """A statement of any time, with a freshness over another nonce, an empty nonce, or none."""
        token = self.site.signed[at % len(self.site.signed)]
        freshness = self.site.cloud.freshness("x" * 32, token, self.site.generation)
        self.site.apply(token, freshness if nonce != NONCE else "", nonce)
        self._store()

    @rule(data=st.binary(max_size=30))
    def the_network_fails(self, data: bytes) -> None:
        """No answer of the cloud, or bytes that are no answer, change nothing."""
        before = self.site.verdict
        assert not self.site.apply(data.hex(), "")
        assert (self.site.verdict.state, self.site.verdict.gate_open) == (before.state, before.gate_open)

    @rule(error=walls)
    def the_wall_clock_is_set(self, error: timedelta) -> None:
        self.site.machine.wall_error = error

    @rule(duration=minutes)
    def time_passes(self, duration: timedelta) -> None:
        self.site.machine.run(duration)

    @rule(duration=minutes, tpm_runs=st.booleans())
    def the_machine_sleeps(self, duration: timedelta, *, tpm_runs: bool) -> None:
        self.site.machine.sleep(duration, tpm_runs=tpm_runs)
        self.site.unpowered += duration

    @rule(with_record=st.booleans())
    def the_agent_restarts(self, *, with_record: bool) -> None:
        if not with_record:
            self.site.boot_time = None
            self._forget_run()
        self.site.start()
        self._store()

    @rule(off=minutes, clean=st.booleans(), error=walls)
    def the_machine_restarts(self, off: timedelta, error: timedelta, *, clean: bool) -> None:
        site = self.site
        site.machine.reboot(off, clean=clean)
        site.machine.wall_error = error
        site.unpowered += off
        site.cuts += not clean
        self._forget_run()
        site.start()
        self._store()

    @rule()
    def a_copy_is_made(self) -> None:
        self.copies = [*self.copies[-3:], (self.site.generation, self.site.files())]

    @precondition(lambda self: self.copies)
    @rule(at=st.integers(0, 3), only=st.sampled_from(["", "", *FOLDERS]))
    def a_copy_is_put_back(self, at: int, only: str) -> None:
        generation, files = self.copies[at % len(self.copies)]
        self.site.put_back(files, only=only)
        if not only:
            self.site.generation = generation
        self._forget_run()
        self.site.start()
        self._store()

    @rule(only=st.sampled_from(["licence", "tombstones", "licence/floors.json", "identity/floors.json"]))
    def files_are_deleted(self, only: str) -> None:
        path = self.site.directory / only
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        self._forget_run()
        self.site.start()
        self._store()

    @rule(ordinary=st.booleans())
    def the_counter_is_deleted_or_replaced(self, *, ordinary: bool) -> None:
        self.site.chip.delete_counter()
        self.site.chip.ordinary = ordinary
        self.site.chip.value = 1 if ordinary else None
        self._forget_run()
        self.site.start()
        self._store()

    # Invariants

    @invariant()
    def the_state_follows_signed_statements(self) -> None:
        site, verdict = self.site, self.site.verdict
        signed = [self._statement(token) for token in site.signed]
        if verdict.state == "revoked":
            assert any(isinstance(one, Revocation) and one.generation >= site.generation for one in signed)
        if verdict.state == "suspended":
            assert any(isinstance(one, Suspension) and one.generation == site.generation for one in signed)
        if verdict.gate_open:
            assert any(one == site.licence.lease for one in signed)

    @invariant()
    def a_revocation_is_left_by_an_activation_only(self) -> None:
        if self.site.generation in self.final:
            assert not self.site.verdict.gate_open
            assert self.site.verdict.state in ("revoked", "stale")

    @invariant()
    def no_floor_falls(self) -> None:
        site = self.site
        if site.verdict.gate_open and site.licence.statement is not None:
            statement = site.licence.statement.statement
            assert (statement.generation, position(statement)) >= self.sealed
        if site.chip.value is not None and not site.chip.ordinary:
            assert site.chip.value >= self.value
            self.value = site.chip.value

    @invariant()
    def trusted_time_does_not_run_backwards(self) -> None:
        time, boot = self.site.time, self.site.machine.boots
        low, high = time.low(), time.high()
        if self.low is not None and self.low[0] == boot:
            assert low >= self.low[1]
        if self.high is not None and self.high[0] == boot:
            assert high >= self.high[1]
        if self.site.standing in ("current", "unfinished"):
            assert low >= self.sealed_low
        self.low = (boot, low)
        self.high = (boot, high) if time.confirmed else None

    @invariant()
    def trusted_time_is_right(self) -> None:
        """`low` has passed. After a signed time `high` is now. A lease outlives its end by the unpowered time at most."""
        site = self.site
        time, true = site.time, site.machine.true
        assert time.low() <= true
        if time.confirmed:
            assert abs(time.high() - true) <= CLOCK_SKEW
        lease = site.licence.lease
        if site.verdict.gate_open and lease is not None:
            lost = min(site.cuts, UNCLEAN_RESETS_MAX) * SAVE_INTERVAL
            assert true - site.unpowered - lost < lease.terminate_at

    # Help

    def _statement(self, token: str) -> Any:
        return verify_statement(token, self.site.trust.value.signing_keys, DOMAIN).statement

    def _forget_run(self) -> None:
        self.low = self.high = None

    def _store(self) -> None:
        self.site.store()
        self._note_sealed()

    def _note_sealed(self) -> None:
        """What the record stands for that fits the counter now."""
        keeper, chip = self.site.keeper, self.site.chip
        record = keeper._record
        if record is None or chip.value is None or chip.ordinary or record.counter.value != chip.value:
            return
        if keeper.status().standing != "current":
            return
        entries = record.streams.get(STATEMENTS, ())
        places = [(one.generation, (one.epoch, one.seq)) for one in entries]
        self.sealed = max([self.sealed, *places])
        self.final |= {one.generation for one in entries if one.token}
        if record.time is not None:
            self.sealed_low = max(self.sealed_low, low_of(record.time))
