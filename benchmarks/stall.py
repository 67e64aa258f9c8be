"""Benchmark: the longest time for which the agent's event loop does nothing else, with a slow TPM, in each operation.

The agent runs in this process, on the cloud and the software TPM of the run. Every TPM command takes 600 ms longer, as
on the slowest real chips. The event loop reports the begin and the end of each step of a task. While a step runs, no
other task can run: no answer on the local socket, no watchdog.
"""

import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from benchmarks.figures import Aim, Figure, progress
from benchmarks.world import World
from lab.processes import StepFailed
from node.agent import Agent
from node.clock import utc_now
from node.config import Config
from node.exchanges.activation import activate
from node.hwbind import tpm as port
from node.hwbind.tpm import Tpm
from node.state import State

COMMAND_SECONDS = 0.6
READY_SECONDS_MAX = 120.0
STALL_MS_MAX = 50.0


class SlowLink:
    """A connection to the TPM whose commands take longer. `threads` counts the commands by the thread that sent them."""

    def __init__(self, inner: Any, threads: Counter[int]) -> None:
        self._inner = inner
        self._threads = threads

    @property
    def pending(self) -> bool:
        return bool(self._inner.pending)

    def send(self, command: bytes) -> None:
        self._threads[threading.get_ident()] += 1
        self._inner.send(command)

    def receive(self, seconds_max: float) -> bytes:
        time.sleep(COMMAND_SECONDS)
        return bytes(self._inner.receive(seconds_max))

    def close(self) -> None:
        self._inner.close()


class Steps(trio.abc.Instrument):
    """Measures each step of each task: by the wall clock, and in CPU time of the thread of the event loop.

    `longest` has the longest step of each operation: milliseconds on the wall, milliseconds of CPU time, the task.
    """

    def __init__(self) -> None:
        self.operation = "before"
        self.longest: dict[str, tuple[float, float, str]] = {}
        self._began = (0.0, 0.0)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.perf_counter(), time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        wall = (time.perf_counter() - self._began[0]) * 1000
        cpu = (time.thread_time() - self._began[1]) * 1000
        if wall > self.longest.get(self.operation, (0.0, 0.0, ""))[0]:
            self.longest[self.operation] = wall, cpu, task.name

    @contextmanager
    def during(self, operation: str) -> Iterator[None]:
        """Count the steps of the block for an operation."""
        progress(f"agent stall: {operation}, {COMMAND_SECONDS * 1000:.0f} ms a TPM command")
        self.operation = operation
        try:
            yield
        finally:
            self.operation = "between"


def stall(world: World) -> list[Figure]:
    """Measure activation, start, check of the hardware, session, renewal and rekey. Raises StepFailed."""
    installed = world.installed()
    world.cloud_up()
    file = world.new_code(installed.tenant, "stall")
    config = Config(
        state_dir=world.machine.state, socket=world.directory / "stall.sock", tpm=world.chip.tcti, mode="development"
    )
    threads: Counter[int] = Counter()
    steps = Steps()
    tpm = Tpm(world.chip.tcti, open_link=lambda name: SlowLink(port._open_link(name), threads))
    try:
        with world.state.owned():
            trio.run(_operations, config, tpm, file, steps, instruments=[steps])
    finally:
        tpm.close()
    commands, loop = threads.total(), threads[threading.get_ident()]
    if not commands or loop:
        raise StepFailed(f"{loop} of {commands} TPM commands ran in the thread of the event loop")
    figures = [
        Figure(
            name=f"agent stall, {operation}", value=wall, unit="ms", aim=Aim(STALL_MS_MAX, of="value", unit="ms"),
            note=f"{cpu:.1f} ms of CPU time, in {task.rpartition('.')[2]}",
        )
        for operation, (wall, cpu, task) in steps.longest.items() if operation not in ("before", "between")
    ]  # fmt: skip
    return [*figures, Figure(name="agent stall, TPM commands", value=float(commands), unit="", note="none in the loop")]


async def _operations(config: Config, tpm: Tpm, file: Path, steps: Steps) -> None:
    state = State(config.state_dir)
    with steps.during("activation"):
        await activate(state, tpm, file, utc_now, lambda _: None)
    agent = await trio.to_thread.run_sync(Agent.load, config, State(config.state_dir), tpm)
    ready = trio.Event()
    async with trio.open_nursery() as nursery:
        with steps.during("start"):
            nursery.start_soon(agent.run, ready.set)
            with trio.fail_after(READY_SECONDS_MAX):
                await ready.wait()
        licence, hardware = agent.licence.identity, agent.contact._hardware
        operations: dict[str, Callable[[], Awaitable[object]]] = {
            "check": lambda: hardware.check(licence.node_key, licence.endorsement),
            "session": lambda: agent.contact.attempt(new_session=True),
            "renewal": lambda: agent.renew(rekey=False),
            "rekey": lambda: agent.renew(rekey=True),
        }
        for name, operation in operations.items():
            with steps.during(name):
                await operation()
        nursery.cancel_scope.cancel()
