"""A crash before and after every durable write and every call to the issuer, then a restart and a repeat.

Afterwards there is one node, one seat and one open generation, at Fabric and at the issuer. The test runs in one
process, with real databases and the real issuer. The crash is an exception that no code handles. The restart opens the
same databases again. The system tests kill real processes (`tests/system/test_fault_walk.py`).
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cloud.fabric import errors
from protocol import faults
from protocol.messages.activation import Challenge, ProveActivation
from tests.cloud.breakwater.support import Clock
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.support import Machine, World, change, run_once, world_at

pytestmark = pytest.mark.slow

Hit = tuple[str, str]

NAMES = {
    "events.event.add",
    "fabric.activation.challenge",
    "fabric.activation.prove",
    "fabric.activation.purge",
    "fabric.airgap.purge",
    "fabric.renewal.purge",
    "fabric.activation.store",
    "fabric.confirm.commit",
    "fabric.generation.closed",
    "fabric.revocation.tell",
    "fabric.session.issuer",
    "fabric.session.seen",
    "fabric.standing.commit",
    "issuer.open",
    "issuer.device",
    "issuer.session",
    "issuer.close",
}
"""The fault points that this scenario passes. Refresh, lapse and freed seats have separate tests."""


class Crash(BaseException):
    """The simulated process has crashed."""


class Faults:
    """The fault hook of this test file. It is installed once, and does nothing until a test arms it."""

    def __init__(self) -> None:
        self.hook: Callable[[str, str], None] | None = None
        faults.install(self)

    def __call__(self, name: str, stage: str) -> None:
        if self.hook is not None and not name.startswith("breakwater"):
            self.hook(name, stage)

    @contextmanager
    def armed(self, hook: Callable[[str, str], None]) -> Iterator[None]:
        self.hook = hook
        try:
            yield
        finally:
            self.hook = None


FAULTS = Faults()


@dataclass
class Run:
    """One activation, with the values that the machine keeps."""

    machine: Machine
    challenge: Challenge | None = None
    body: ProveActivation | None = None
    confirmed: bool = False


@dataclass
class Durable:
    """The state of machine and operator, which survives a crash of the cloud. Unanswered requests are repeated."""

    code: str = ""
    runs: list[Run] = field(default_factory=list)
    activated_twice: bool = False
    revoked: bool = False


async def live(world: World, kept: Durable) -> None:
    """Activate twice, revoke, receive the revocation. A step that was answered is skipped."""
    while sum(run.confirmed for run in kept.runs) < 2:
        if not kept.runs or kept.runs[-1].confirmed:
            kept.runs.append(Run(Machine(world)))
        run = kept.runs[-1]
        run.machine.world = world
        if run.challenge is None or run.body is None:
            run.challenge = await run.machine.start(kept.code)
            run.body = run.machine.proof(run.challenge)
        if run.machine.activated is None:
            await run.machine.prove(run.challenge, run.body)
        await run.machine.confirm()
        run.confirmed = True
    machine = kept.runs[-1].machine
    machine.world = world
    await run_once(world)
    if not kept.activated_twice:
        await check(world, machine, current=2, closed=1)
        kept.activated_twice = True
    if not kept.revoked:
        await change(world, machine, "revoke")
        kept.revoked = True
    with pytest.raises(errors.GenerationClosed):
        await machine.session()
    await run_once(world)
    await check(world, machine, current=2, closed=2)


async def check(world: World, machine: Machine, *, current: int, closed: int) -> None:
    assert len(await world.stores.nodes.page("", "", "", 10)) == 1
    row = await world.node(machine.node)
    assert (row.current_generation, row.last_generation) == (current, current)
    assert (row.closed_up_to, row.closed_at_issuer, row.closing) == (closed, closed, False)
    (code,) = await world.stores.codes.page(world.tenant, "", 10)
    assert code.seats_taken == 1
    for number in range(1, current + 1):
        is_open = number > closed
        assert await world.stores.nodes.generation_open(row.tenant, row.id, number) is is_open
        assert await world.issuer.generations.is_open(row.tenant, row.id, number) is is_open


def watch(world: World, hook: Callable[[str, str], None]) -> None:
    world.issuer.before = lambda name: hook(f"issuer.{name}", "before")
    world.issuer.after = lambda name: hook(f"issuer.{name}", "after")


def left_behind(databases: Path, again: Path) -> Path:
    """Copy the files as the crash left them. The copy shows that no other state is needed.

    On PostgreSQL the files name the databases. The server has rolled back the open transactions.
    """
    again.mkdir()
    for file in databases.iterdir():
        if file.is_file():
            shutil.copy(file, again)
    return again


async def first_start(home: Path, databases: Path, clock: Clock, kept: Durable) -> None:
    async with world_at(home, databases, clock) as world:
        kept.code = (await world.code()).secret


async def test_every_step_is_walked(home: Path, databases: Path) -> None:
    clock, kept = Clock(), Durable()
    await first_start(home, databases, clock, kept)
    hits: list[Hit] = []
    async with world_at(home, databases, clock, first=False) as world:
        watch(world, lambda name, stage: hits.append((name, stage)))
        with FAULTS.armed(lambda name, stage: hits.append((name, stage))):
            await live(world, kept)
    assert {name for name, _ in hits} == NAMES


@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_a_crash_anywhere(home: Path, databases: Path, tmp_path: Path, name: str, stage: str, nth: int) -> None:
    clock, kept = Clock(), Durable()
    await first_start(home, databases, clock, kept)
    seen = 0

    def hook(at: str, when: str) -> None:
        nonlocal seen
        if (at, when) == (name, stage):
            seen += 1
            if seen == nth:
                raise Crash(f"{when} {at}")

    try:
        async with world_at(home, databases, clock, first=False) as world:
            watch(world, hook)
            with FAULTS.armed(hook):
                await live(world, kept)
    except Crash:
        async with world_at(home, left_behind(databases, tmp_path / "again"), clock, first=False) as world:
            await live(world, kept)
