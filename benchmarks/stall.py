"""Benchmark: the longest time for which the agent's event loop does nothing else, with a slow TPM, in each operation.

The agent runs in a process of its own (`benchmarks.slow_agent`), on the cloud and the software TPM of the run. Every TPM
command takes 600 ms longer, as on the slowest real chips. Meanwhile this process asks for the status again and again.
"""

import sys
import time

import msgspec

from benchmarks.figures import Aim, Figure, progress
from benchmarks.slow_agent import Report, Settings
from benchmarks.world import World
from lab.processes import Process, StepFailed

COMMAND_SECONDS = 0.6
RUN_SECONDS_MAX = 600.0
"""Bound of all operations together. They take about three minutes."""
STALL_MS_MAX = 50.0
ASK_PAUSE_SECONDS = 0.02


def stall(world: World) -> list[Figure]:
    """Measure activation, start, floor raises, check, session, renewal, rekey and status. Raises StepFailed."""
    installed = world.installed()
    world.cloud_up()
    machine = world.machine
    machine.socket.unlink(missing_ok=True)
    settings = Settings(
        state=str(machine.state),
        socket=str(machine.socket),
        tcti=world.chip.tcti,
        file=str(world.new_code(installed.tenant, "stall")),
        command_seconds=COMMAND_SECONDS,
    )
    progress(f"agent stall: all operations, {COMMAND_SECONDS * 1000:.0f} ms a TPM command")
    command = [sys.executable, "-m", "benchmarks.slow_agent", msgspec.json.encode(settings).decode()]
    process = world.start("slow-agent", command)
    answers = _answers(world, process)
    if process.wait() != 0:
        raise StepFailed(f"the agent on a slow TPM failed:\n{process.report()}")
    return _figures(msgspec.json.decode(process.printed(), type=Report), answers)


def _answers(world: World, process: Process) -> list[float]:
    """Ask for the status until the process has ended. Returns how long each answer took, in milliseconds."""
    answers = []
    ends_at = time.monotonic() + RUN_SECONDS_MAX
    while process.running:
        if time.monotonic() > ends_at:
            process.kill()
            raise StepFailed(f"the operations did not end within {RUN_SECONDS_MAX:g} s:\n{process.report()}")
        began = time.perf_counter()
        if world.machine.ask("/v1/status") is not None:
            answers.append((time.perf_counter() - began) * 1000)
        time.sleep(ASK_PAUSE_SECONDS)
    return answers


def _figures(report: Report, answers: list[float]) -> list[Figure]:
    """The table. Raises StepFailed if a TPM command ran in the event loop, or nothing was measured."""
    commands = sum(step.commands for step in report.operations.values())
    if not commands or report.in_loop or not answers:
        raise StepFailed(
            f"{report.in_loop} of {commands} TPM commands ran in the event loop's thread; {len(answers)} answers"
        )
    aim = Aim(STALL_MS_MAX, of="value", unit="ms")
    figures = [
        Figure(
            name=f"agent stall, {operation}", value=step.wall, unit="ms", aim=aim,
            note=f"{step.cpu:.1f} ms of CPU time, in {step.task}; {step.commands} TPM commands, none in the loop",
        )
        for operation, step in report.operations.items()
    ]  # fmt: skip
    note = f"the slowest of {len(answers)} answers on the local socket, while all this ran"
    return [*figures, Figure(name="agent stall, status", value=max(answers), unit="ms", aim=aim, note=note)]
