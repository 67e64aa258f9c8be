"""One machine's life for attacks with older or foreign files: a copy of its state directory at each stage.

A step changes the machine as it is at the end of its stage. Then `cascadia status` judges without a running agent, and
asks no cloud, as a start without the cloud does. In a whole run the cloud is stopped, an agent starts too, and the cloud
mends the licence afterwards.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from lab.machine import Machine
from lab.processes import ended, wait_until
from lab.tpm import SoftTpm
from node.hwbind.tpm import Esys, Tpm
from node.licensing.floor_store import FloorStore
from tests.system.support.attacks.site import Result, Seen, Site, judged, look, look_at_agent
from tests.system.support.attacks.table import Attack
from tests.system.support.harness import Plan, new_machine

TRUST_DOMAIN = "cascade.internal"
LEASE_1 = ("licence/g-1/statement.json", "identity/statement-g-1.json")
LEASE_2 = ("licence/g-2", "identity/statement-g-2.json")
GENERATION_1 = ("current.json", *LEASE_1, "identity/g-1")
RECORD = ("licence/floors.json", "identity/floors.json")

Stage = Literal[
    "neighbour", "neighbour revoked", "active", "suspended", "resumed", "again", "revoked", "cleared", "readmitted"
]
FIRST = "first"
"""The copy of the directory with the first lease, before the floor has risen to it. A whole run has it."""


class Life:
    """One machine from its activation to the activation after a TPM clear. `copies` has its directory at each stage.

    The stages: `neighbour`, another node of another tenant on the same chip, and `neighbour revoked`; `active`;
    `suspended`; `resumed`; `again`, after another activation in the same directory; `revoked`; `cleared`, after a TPM
    clear; `readmitted`, after another activation of the cleared chip in a new directory.
    """

    def __init__(self, site: Site, directory: Path, machine: Machine, tenant: str) -> None:
        self.site, self.cloud, self.directory = site, site.cloud, directory
        self.machine, self.tenant = machine, tenant
        self.copies: dict[str, Path] = {}
        self.node = ""
        self.neighbour: Machine | None = None
        self.neighbour_node = ""
        self.reachable = True
        self._stack = ExitStack()
        self._other_chip: SoftTpm | None = None

    def end(self) -> None:
        """Stop what the steps have started, and start the cloud if a step has stopped it."""
        if self.neighbour is not None:
            self.neighbour.kill()
        self._stack.close()
        self.reach(yes=True)

    def other_chip(self) -> SoftTpm:
        """A running chip with another endorsement key, of the same maker."""
        if self._other_chip is None:
            self._other_chip = self._stack.enter_context(self.site.new_chip(self.directory / "other-chip", 1))
        return self._other_chip

    @property
    def state(self) -> Path:
        """The state directory of the machine."""
        return self.machine.state

    @property
    def label(self) -> str:
        """The label of the node's counter."""
        return f"{TRUST_DOMAIN}/{self.node}"

    def advance(self, stage: Stage) -> None:
        """Go on to a stage, and keep a copy of its directory."""
        self.reach(yes=True)
        _ADVANCE[stage](self)

    def reach(self, *, yes: bool) -> None:
        """Start the cloud, or stop it."""
        if yes != self.reachable:
            (self.cloud.up if yes else self.cloud.down)()
            self.reachable = yes

    def live(self, stage: str, state: str) -> None:
        """Run the agent until it has heard the statement of the stage, and its floor has risen. Keep the directory."""
        self.machine.up()
        self.machine.wait_state(state)
        wait_until(f"the floor of {stage}", self._risen)
        assert self.machine.down() == 0
        self.keep(stage)

    def _risen(self) -> bool:
        status = self.machine.ask("/v1/status")
        conditions = {one["code"] for one in status["conditions"]}
        return status["floor"]["record_state"] == "current" and "floor_not_raised" not in conditions

    def keep(self, stage: str, state: Path | None = None) -> None:
        """Keep a copy of a directory, by default the machine's, as that of a stage."""
        self.copies[stage] = self.directory / f"copy-{stage}"
        shutil.rmtree(self.copies[stage], ignore_errors=True)
        shutil.copytree(state or self.state, self.copies[stage])

    def put_back(self, stage: str) -> None:
        """Replace the whole state directory by the copy of a stage."""
        shutil.rmtree(self.state)
        shutil.copytree(self.copies[stage], self.state)

    def put_file_back(self, stage: str, *names: str) -> None:
        """Replace single files or directories by those of a stage."""
        for name in names:
            here, there = self.state / name, self.copies[stage] / name
            if here.is_dir():
                shutil.rmtree(here)
            elif here.exists():
                here.unlink()
            if there.is_dir():
                shutil.copytree(there, here)
            elif there.exists():
                here.parent.mkdir(mode=0o700, exist_ok=True)
                shutil.copy2(there, here)

    def change_records(self, change: Callable[[bytes], bytes]) -> None:
        """Change both copies of the floor record."""
        for path in FloorStore(self.state).paths:
            path.write_bytes(change(path.read_bytes()))

    def call(self, work: Callable[[Esys], object]) -> None:
        """Use the TPM of the machine."""
        port = Tpm(self.machine.chip.tcti)
        try:
            port.call(work)
        finally:
            port.close()


class Step(NamedTuple):
    """The step of a row. The directory of its stage is there before the step."""

    stage: Stage
    do: Callable[[Life], Machine | None]
    """Makes the attack. Returns the machine to look at, if it is another one."""
    uses: tuple[Stage, ...] = ()
    """Stages whose copies the step uses, with those before them."""
    mended: str = ""
    """The state that the next answer of the cloud leads to. Empty: not checked."""


def _neighbour(life: Life) -> None:
    life.neighbour = new_machine(life.directory, life.machine.chip, "neighbour")
    tenant = life.cloud.tenant(life.machine.chip, "neighbour")
    life.neighbour_node = str(life.neighbour.run("activate", str(life.cloud.code(tenant)))["node"])
    life.keep("neighbour", life.neighbour.state)


def _neighbour_revoked(life: Life) -> None:
    assert life.neighbour is not None
    life.cloud.run("node", "revoke", life.neighbour_node)
    assert life.neighbour.launch().wait() == 81
    life.keep("neighbour revoked", life.neighbour.state)


def _active(life: Life) -> None:
    file = str(life.cloud.code(life.tenant))
    if life.site.whole:
        life.machine.start("activate", file, start=Plan(kill=("node.statement.copy", "after"))).wait()
        life.keep(FIRST)
    life.node = str(life.machine.run("activate", file)["node"])
    life.live("active", "active")


def _suspended(life: Life) -> None:
    life.cloud.run("node", "suspend", life.node)
    life.live("suspended", "suspended")


def _resumed(life: Life) -> None:
    life.cloud.run("node", "resume", life.node)
    life.live("resumed", "active")


def _again(life: Life) -> None:
    life.machine.run("activate", str(life.cloud.code(life.tenant)))
    life.live("again", "active")


def _revoked(life: Life) -> None:
    life.cloud.run("node", "revoke", life.node)
    assert life.machine.launch().wait() == 81
    life.keep("revoked")


def _cleared(life: Life) -> None:
    life.machine.chip.clear()
    life.keep("cleared")


def _readmitted(life: Life) -> None:
    shutil.rmtree(life.state)
    life.machine.run("activate", str(life.cloud.code(life.tenant, "--readmit", life.node)))
    life.live("readmitted", "active")


_ADVANCE: dict[Stage, Callable[[Life], None]] = {
    "neighbour": _neighbour,
    "neighbour revoked": _neighbour_revoked,
    "active": _active,
    "suspended": _suspended,
    "resumed": _resumed,
    "again": _again,
    "revoked": _revoked,
    "cleared": _cleared,
    "readmitted": _readmitted,
}
"""In the order of the life."""
_SUSPENDED: tuple[Stage, ...] = ("active", "suspended")
_BEFORE: dict[Stage, tuple[Stage, ...]] = {
    "neighbour": (),
    "neighbour revoked": ("neighbour",),
    "active": (),
    "suspended": ("active",),
    "resumed": _SUSPENDED,
    "again": (*_SUSPENDED, "resumed"),
    "revoked": (*_SUSPENDED, "resumed", "again"),
    "cleared": ("active",),
    "readmitted": (*_SUSPENDED, "resumed", "again", "revoked", "cleared"),
}
"""The stages that a stage needs."""


_RETURNS: tuple[Stage, ...] = ("active", "suspended", "resumed", "again")
"""The stages whose directory is there again before the next stage."""


@contextmanager
def begun(site: Site) -> Iterator[Life]:
    """A machine before its activation, with a chip of its own."""
    directory = site.folder("life")
    with ExitStack() as stack:
        chip = stack.enter_context(site.new_chip(directory / "chip", 0))
        machine = new_machine(directory, chip)
        machine.env["CASCADIA_SETTLE_SECONDS"] = "1"
        stack.enter_context(ended(machine))
        life = Life(site, directory, machine, site.cloud.tenant(chip, "life"))
        stack.callback(life.end)
        yield life


def take(attacks: Sequence[Attack], site: Site, steps: Mapping[tuple[str, str], Step]) -> Iterator[Result]:
    """Take one machine through the stages, and take the rows of each stage in their order in `steps`.

    `steps` has the step of each row by its kind and name.
    """
    chosen = {(attack.kind, attack.name): attack for attack in attacks}
    ordered = [(chosen[key], step) for key, step in steps.items() if key in chosen]
    ends = {stage for _, step in ordered for stage in (step.stage, *step.uses)}
    wanted = ends | {before for stage in ends for before in _BEFORE[stage]}
    with begun(site) as life:
        for stage in _ADVANCE:
            if stage not in wanted:
                continue
            life.advance(stage)
            for attack, step in ordered:
                if step.stage == stage:
                    life.put_back(stage)
                    yield judged(
                        attack, partial(_taken, life, attack, step, agent=site.whole or attack.kind == "rollback")
                    )
            if stage in _RETURNS:
                life.put_back(stage)


def _taken(life: Life, attack: Attack, step: Step, *, agent: bool) -> Seen:
    machine = step.do(life) or life.machine
    seen = look(machine) if attack.command == "status" else None
    if agent or seen is None:
        life.reach(yes=False)
        confirmed = look_at_agent(machine, attack)
        assert seen in (None, confirmed), f"{seen} without an agent, and {confirmed} with one"
        seen = confirmed
    if step.mended and life.site.whole:
        life.reach(yes=True)
        life.live(step.stage, step.mended)
    return seen
