"""Damage to the files of an activated machine's state, and the check that its agent keeps the gate closed.

`tests/system/test_bad_input.py` damages each file in one way; the drill `damaged-state` damages each file in every way.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lab.machine import Machine
from lab.processes import ended, wait_until
from lab.tpm import SoftTpm
from tests.system.support.harness import Plan, forked
from tests.system.support.snapshots import files_of

REFUSED_EXITS = frozenset({2, 70, 80, 81, 87})
"""The exits of an agent that does not start."""
AT_ONCE = 4
"""How many agents run at the same time."""

Case = tuple[tuple[str | Path, ...], str]
"""The files that are damaged, and the kind of the damage."""


class Copies:
    """An activated machine, and copies of its state to damage."""

    def __init__(self, directory: Path, chip: SoftTpm, saved: Path) -> None:
        self.directory, self.chip, self.saved = directory, chip, saved

    def machine(self, name: str, start: Plan = forked) -> Machine:
        """A machine with a copy of the state."""
        machine = Machine(self.directory, self.chip, name, 600, start)
        shutil.copytree(self.saved, machine.state)
        return machine

    def offline(self, name: str) -> Machine:
        """A machine for a time without the cloud. Its agent waits one second for a first answer of the cloud."""
        machine = self.machine(name)
        machine.env["CASCADIA_SETTLE_SECONDS"] = "1"
        return machine


def _truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _edited(data: bytes) -> bytes:
    at = len(data) // 3
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": _truncated,
    "edited": _edited,
    "empty": lambda _: b"",
    "torn": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
}
RECORDS = ("licence/g-1/statement.json", "identity/statement-g-1.json")
"""The records of the statement. One is enough."""
FLOORS = ("licence/floors.json", "identity/floors.json")
"""The copies of the floor record. One is enough."""


def damage(machine: Machine, names: Iterable[str | Path], kind: str) -> None:
    """Damage some files of the machine's state."""
    for name in names:
        path = machine.state / name
        before = path.read_bytes()
        path.write_bytes(DAMAGES[kind](before))
        assert path.read_bytes() != before, name


def damaged_files(saved: Path) -> list[tuple[str | Path, ...]]:
    """The files whose damage closes the gate: each file by itself, and redundant files together.

    `version` is no evidence: without it, the agent reads the state as that of an earlier agent.
    """
    redundant = {*RECORDS, *FLOORS, "current.json", "version"}
    assert {str(name) for name in files_of(saved)} > redundant
    alone = [(name,) for name in files_of(saved) if str(name) not in redundant]
    return [*alone, RECORDS, FLOORS, (*RECORDS, "current.json")]


def check_gates_stay_closed(copies: Copies, cases: Sequence[Case]) -> None:
    """Start an agent on a copy of the state for each case. No agent may open the gate. The cloud must be stopped."""
    for at in range(0, len(cases), AT_ONCE):
        batch = cases[at : at + AT_ONCE]
        machines = [copies.offline(f"{at + index}") for index in range(len(batch))]
        with ended(*machines):
            for machine, (names, kind) in zip(machines, batch, strict=True):
                damage(machine, names, kind)
                machine.launch()
            for machine, case in zip(machines, batch, strict=True):
                _stays_closed(machine, f"{case}")


def _stays_closed(machine: Machine, case: str) -> None:
    """The agent exits with a documented code, or it runs and the gate is closed."""
    agent = machine.agent
    assert agent is not None
    wait_until("an answer or the end of the agent", lambda: not agent.running or machine.answers())
    if agent.running:
        assert machine.ask("/v1/license")["gate"] == "closed", case
        assert not machine.granted(), case
        assert machine.down() == 0, case
    else:
        assert agent.wait() in REFUSED_EXITS, (case, agent.report())
        assert "internal error" not in agent.tail(), (case, agent.report())
