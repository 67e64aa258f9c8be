"""Helper: a machine that is copied with its software TPM, and what cloud and machines then do. For test and drill."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import ended
from lab.tpm import STATE_FILE, SoftTpm, shared_bus
from tests.system.support.harness import new_machine


@dataclass
class Copies:
    """A node of `cloud`, its machine, and copies of the machine. Every machine has a chip that it starts itself."""

    cloud: Cloud
    directory: Path
    tenant: str
    machine: Machine
    node: str

    def session(self, machine: Machine, *states: str) -> str:
        """Have the machine open a session, by a restart of its agent. Returns the state of its licence."""
        machine.down()
        machine.up()
        machine.wait_state(*(states or ("active",)))
        return machine.licence

    def snapshot(self, name: str) -> "Snapshot":
        """A copy of the machine's disk and TPM. The machine is stopped for it."""
        self.machine.down()
        self.machine.chip.stop()
        folder = self.directory / name
        folder.mkdir()
        shutil.copytree(self.machine.state, folder / "state")
        shutil.copy2(self.machine.chip.directory / STATE_FILE, folder / STATE_FILE)
        self.machine.chip.start()
        return Snapshot(folder)

    @contextmanager
    def copy(self, snapshot: "Snapshot", name: str) -> Iterator[Machine]:
        """Another machine, made of a snapshot, with its TPM running."""
        chip = SoftTpm(self.directory / f"chip of {name}", ca=self.machine.chip.ca, bus=shared_bus())
        chip.directory.mkdir()
        shutil.copy2(snapshot.folder / STATE_FILE, chip.directory / STATE_FILE)
        with chip:
            twin = new_machine(self.directory, chip, name)
            shutil.copytree(snapshot.folder / "state", twin.state)
            with ended(twin):
                yield twin

    def put_back(self, snapshot: "Snapshot") -> None:
        """Put the machine back to a snapshot of its disk and TPM, and boot it.

        The boot shows Fabric that the next session is later than those after the snapshot. Without a boot Fabric takes a
        session within a minute of them for an overtaken request.
        """
        self.machine.down()
        self.machine.chip.stop()
        shutil.rmtree(self.machine.state)
        shutil.copytree(snapshot.folder / "state", self.machine.state)
        shutil.copy2(snapshot.folder / STATE_FILE, self.machine.chip.directory / STATE_FILE)
        self.machine.chip.start()
        boot(self.machine)

    def case(self) -> dict[str, Any] | None:
        """The suspected clone of the node, as `cascade node clones` shows it; None if none is suspected."""
        found = self.cloud.run("node", "clones", self.tenant)
        return dict(found[0]) if found else None

    def actions(self) -> list[str]:
        """The actions in the audit of the node."""
        return [entry["action"] for entry in self.cloud.run("audit", "list", "--object", self.node)]


@dataclass(frozen=True)
class Snapshot:
    """A copy of a disk and of a TPM, in `folder`."""

    folder: Path


def boot(machine: Machine) -> None:
    """Restart the TPM of a machine without an agent, so that its reset count is one higher."""
    machine.chip.stop()
    machine.chip.start()


@contextmanager
def activated(directory: Path, cloud: Cloud, chip: SoftTpm, name: str = "acme") -> Iterator[Copies]:
    """A machine of the new tenant `name`. It has a stopped chip, which this starts, and one renewal token."""
    with chip:
        machine = new_machine(directory, chip, "original")
        tenant = cloud.tenant(chip, name)
        activation = machine.run("activate", str(cloud.code(tenant, "--seats", "2")))
        copies = Copies(cloud, directory, tenant, machine, activation["node"])
        with ended(machine):
            copies.session(machine)
            yield copies
