"""Command `python -m benchmarks.slow_agent SETTINGS`: an agent on a slow TPM. It prints the longest steps of its loop.

`benchmarks.stall` starts this process. The agent runs in it as `cascadia run` does, with every TPM command slowed down.
The event loop reports the begin and the end of each step of a task. While a step runs, no other task can run: no answer
on the local socket, no watchdog.
"""

import gc
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import trio

from benchmarks.figures import progress
from lab.processes import BIN, StepFailed
from node.agent import Agent
from node.cli.main import _COLLECTED_AT_A_START, _collect_garbage
from node.clock import utc_now
from node.config import Config
from node.exchanges.activation import activate
from node.exchanges.activation_file import read_activation_file
from node.hwbind import counter
from node.hwbind.link import Link, open_link
from node.hwbind.tpm import Tpm
from node.startup import _Start
from node.state import State

OPERATION_SECONDS_MAX = 120.0
"""An operation takes up to a minute with a TPM of 600 ms a command."""
POLL_SECONDS = 0.05
SILENT_SECONDS_MAX = 30.0
"""How long the start waits for the disk."""


class Settings(msgspec.Struct, frozen=True):
    """The argument of the command, as JSON. `command_seconds` is what each TPM command takes longer."""

    state: str
    socket: str
    tcti: str
    file: str
    command_seconds: float


class Longest(msgspec.Struct, frozen=True):
    """The longest step of an operation: milliseconds on the wall, milliseconds of CPU time, and the name of the task.

    `commands` is the number of TPM commands during the operation.
    """

    wall: float = 0.0
    cpu: float = 0.0
    task: str = ""
    commands: int = 0


class Report(msgspec.Struct, frozen=True):
    """The output of the command. `in_loop` is the number of TPM commands in the thread of the event loop."""

    operations: dict[str, Longest]
    in_loop: int


class Steps(trio.abc.Instrument):
    """Measures each step of each task: by the wall clock, and in CPU time of the thread of the event loop."""

    def __init__(self) -> None:
        self.operation = ""
        self.longest: dict[str, Longest] = {}
        self.commands: Counter[str] = Counter()
        self.in_loop = 0
        self._loop = threading.get_ident()
        self._began = (0.0, 0.0)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.perf_counter(), time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        wall = (time.perf_counter() - self._began[0]) * 1000
        if wall > self.longest.get(self.operation, Longest()).wall:
            cpu = (time.thread_time() - self._began[1]) * 1000
            self.longest[self.operation] = Longest(wall, cpu, task.name)

    def count_command(self) -> None:
        """Count a TPM command of the calling thread."""
        self.commands[self.operation] += 1
        self.in_loop += threading.get_ident() == self._loop

    def report(self) -> Report:
        """The operations in the order in which they ran."""
        named = {name: step for name, step in self.longest.items() if name}
        counted = {
            name: msgspec.structs.replace(step, commands=self.commands[name], task=step.task.rpartition(".")[2])
            for name, step in named.items()
        }
        return Report(counted, self.in_loop)

    @asynccontextmanager
    async def during(self, operation: str) -> AsyncIterator[None]:
        """Count the steps of the block for an operation. Raises StepFailed if it takes too long."""
        progress(f"agent stall: {operation}")
        await trio.lowlevel.checkpoint()  # the running step belongs to the operation before
        self.operation = operation
        try:
            with trio.fail_after(OPERATION_SECONDS_MAX):
                yield
                await trio.lowlevel.checkpoint()
        except trio.TooSlowError as error:
            raise StepFailed(f"{operation} did not end within {OPERATION_SECONDS_MAX:g} s") from error
        finally:
            self.operation = ""


class SlowLink:
    """A connection to the TPM whose commands take longer."""

    def __init__(self, inner: Link, seconds: float, count: Callable[[], None]) -> None:
        self._inner = inner
        self._seconds = seconds
        self._count = count
        self.close = inner.close

    @property
    def pending(self) -> bool:
        return self._inner.pending

    def send(self, command: bytes) -> None:
        self._count()
        self._inner.send(command)

    def receive(self, seconds_max: float) -> bytes:
        time.sleep(self._seconds)
        return self._inner.receive(seconds_max)


async def _run(settings: Settings, steps: Steps) -> None:
    config = Config(state_dir=Path(settings.state), socket=Path(settings.socket), tpm=settings.tcti, mode="development")
    tpm = Tpm(
        settings.tcti,
        mode=config.mode,
        open_link=lambda name: SlowLink(open_link(name), settings.command_seconds, steps.count_command),
    )
    try:
        async with steps.during("activation"):
            with State(config.state_dir).owned():
                await activate(
                    State(config.state_dir), tpm, read_activation_file(Path(settings.file)), utc_now, lambda _: None
                )
        with ExitStack() as held:
            async with trio.open_nursery() as nursery:
                ready = trio.Event()
                async with steps.during("start"):
                    start = _Start(config, tpm, utc_now, held)
                    agent = await start.load(1.0, SILENT_SECONDS_MAX, late=lambda: None)
                    if agent is None:
                        raise StepFailed("the agent was stopped")

                    def is_ready() -> None:
                        _collect_garbage()
                        ready.set()

                    nursery.start_soon(agent.run, is_ready)
                    await ready.wait()
                await _operations(agent, tpm, steps)
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await tpm.aclose()


async def _operations(agent: Agent, tpm: Tpm, steps: Steps) -> None:
    """The operations of a running agent, one after the other. Its own tasks run beside them."""
    contact, licence = agent.contact, agent.licence.identity

    async def contacted(*, new_session: bool) -> None:
        if not await contact.attempt(new_session=new_session):
            raise StepFailed(f"a contact failed: {contact.last_failure}")

    async with steps.during("floor raise at the start"):
        await _until(lambda: contact.saver.floors.status().record_state == "current")
    operations: dict[str, Callable[[], Awaitable[object]]] = {
        "check of the hardware": lambda: agent._hardware.check(licence.node_key, licence.endorsement),
        "refresh over the session": lambda: contacted(new_session=False),
        "session with quote": lambda: contacted(new_session=True),
        "new floor counter": lambda: tpm.run(lambda esys: counter.establish(esys, "benchmark")),
        "renewal": lambda: agent.renew(rekey=False),
        "rekey": lambda: agent.renew(rekey=True),
        "suspension and its floor raise": lambda: _ordered(agent, "suspend", "suspended"),
        "resumption and its floor raise": lambda: _ordered(agent, "resume", "active"),
    }
    for name, operation in operations.items():
        async with steps.during(name):
            await operation()


async def _ordered(agent: Agent, action: str, state: str) -> None:
    """Have an operator order a change. Wait until it is in force, and until its floor has been raised."""
    floors = agent.contact.saver.floors
    before = floors.status().value
    await trio.run_process([str(BIN / "cascade"), "node", action, agent.licence.identity.node], capture_stdout=True)
    await _until(lambda: agent.licence.verdict().state == state and floors.status().value > before)


async def _until(event: Callable[[], bool]) -> None:
    while not event():  # noqa: ASYNC110 (the agent has no event for it)
        await trio.sleep(POLL_SECONDS)


def main() -> int:
    """Run the operations, and print the report as JSON."""
    gc.set_threshold(*_COLLECTED_AT_A_START)  # as `cascadia run` until READY
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    steps = Steps()
    trio.run(_run, settings, steps, instruments=[steps])
    print(msgspec.json.encode(steps.report()).decode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
