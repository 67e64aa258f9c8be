"""Values: where the rows run, what a row has seen, and its comparison with the table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import StepFailed
from lab.tpm import SoftTpm, SoftTpmError
from tests.system.support.attacks.table import Attack, Command


@dataclass
class Site:
    """The parts that the rows of all kinds share."""

    directory: Path
    cloud: Cloud
    """A running cloud. A row that stops it starts it again."""
    new_chip: Callable[[Path, int], SoftTpm]
    """Makes a stopped chip in a new directory. Chips of one number have the same endorsement key."""
    whole: bool = True
    """Whether a running agent confirms the result of each row. `make test` asks one agent a kind."""
    say: Callable[[str], None] = lambda _: None

    def folder(self, name: str) -> Path:
        """A new directory for the files of one kind."""
        path = self.directory / name
        path.mkdir()
        return path


class Seen(NamedTuple):
    """The state of the licence, and the exit code of the command that the row names."""

    state: str
    code: int


Result = tuple[Attack, str]
"""A row, and what is wrong with its result; an empty text if the result is as expected."""
Take = Callable[[Sequence[Attack], Site], Iterator[Result]]
"""Takes the rows of a kind. A kind may stop before its last row by an error."""


def judged(attack: Attack, work: Callable[[], Seen]) -> Result:
    """Run a row, and compare what it has seen with the table."""
    try:
        seen = work()
    except (AssertionError, StepFailed, SoftTpmError) as error:
        return attack, f"the row stopped: {error}"
    expected = Seen(attack.state, attack.code)
    return attack, "" if seen == expected else f"{tuple(seen)}, and not {tuple(expected)}"


def look(machine: Machine, command: Command = "status") -> Seen:
    """The state that `cascadia status` shows, and the exit code of `command`, which runs first."""
    code = None
    if command == "run":
        code = machine.launch().wait()
    elif command != "status":
        code = machine.start(command, "--json").wait()
    status = machine.start("status", "--json")
    shown = status.wait()
    return Seen(str(status.out()["license"]["state"]), shown if code is None else code)


def look_at_agent(machine: Machine, attack: Attack) -> Seen:
    """As `look`, with a running agent, whose answer about the entitlement has to fit its state.

    An agent serves its socket when its stored evidence has decided. It is stopped afterwards.
    """
    if attack.command == "run":
        return look(machine, "run")
    machine.up()
    try:
        seen = look(machine, attack.command)
        gate: Any = machine.ask("/v1/license")
        entitlement = machine.start("entitlement", "vision", "--json").wait()
        assert (entitlement == 0) == (gate["gate"] == "open"), f"entitlement: exit {entitlement}, gate {gate['gate']}"
        return seen
    finally:
        machine.down()
