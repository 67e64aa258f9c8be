"""Rows: attacks without a defence. `cascadia status` names them with the bound in time, and the licence ends there."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from lab.machine import Machine
from lab.processes import StepFailed, ended, wait_until
from node.hwbind import nv
from node.hwbind.tpm import Esys, Tpm
from node.licensing import floors
from tests.simulators import chip_memory
from tests.system.support.attacks.life import TRUST_DOMAIN
from tests.system.support.attacks.shifted import ShiftedMachine, library
from tests.system.support.attacks.site import Result, Seen, Site, judged, look
from tests.system.support.attacks.table import Attack
from tests.system.support.software_machine import without_tpm

DAY = 86_400
LEASE_SECONDS = f"{DAY},{2 * DAY},{3 * DAY},{4 * DAY}"
SHORT_LEASE_SECONDS = "5,10,15,30"
"""A lease that ends while the row waits. A machine whose processes read simulated serial numbers has no wrong clock."""
SIDE_SECONDS = 300
_FREE_INDEX = 0x01B00000
_SIZES = (2048, 256, 32, 8)
_COUNTER_BYTES = 8


def _named(machine: Machine, ids: Sequence[str]) -> datetime:
    """The bound that the status of a running agent shows. Asserts that it names `ids`, and the end of the lease."""
    status: Any = machine.ask("/v1/status")
    assert tuple(status["floor"]["undefended"]) == tuple(ids), f"the status names {status['floor']['undefended']}"
    bound = datetime.fromisoformat(status["offline_bound_at"])
    assert bound == datetime.fromisoformat(status["license"]["lease"]["terminate_at"])
    process = machine.start("status")
    process.wait()
    line = next(each for each in process.printed().splitlines() if each.startswith("offline bound"))
    assert all(each in line for each in ids), f"the text of the status has: {line}"
    return bound


def _ends(machine: ShiftedMachine, bound: datetime) -> Seen:
    """The machine boots before and after the bound."""
    at = bound.timestamp() - datetime.now(UTC).timestamp()
    machine.set(at - SIDE_SECONDS)
    machine.boot()
    assert machine.granted(), "the gate is closed before the bound"
    machine.set(at + SIDE_SECONDS)
    machine.boot()
    return look(machine)


def _copied_together(site: Site, directory: Path) -> Seen:
    """A suspended machine, and a copy of its disk and TPM from before the suspension, offline."""
    made = library(directory)
    with site.new_chip(directory / "chip", 0) as chip:
        machine = ShiftedMachine(directory, chip, made)
        with ended(machine):
            _activated(site, machine, "copied together", LEASE_SECONDS)
            chip.stop()
            twin_chip = chip.copy_to(directory / "twin-chip")
            state = directory / "copied"
            shutil.copytree(machine.state, state)
            chip.start()
            _suspended(site, machine)
        site.cloud.down()
        try:
            with twin_chip:
                twin = ShiftedMachine(directory, twin_chip, made, "twin")
                shutil.copytree(state, twin.state)
                with ended(twin):
                    twin.boot()
                    assert twin.granted(), "the copy does not run"
                    return _ends(twin, _named(twin, floors.UNDEFENDED_FROM_THE_START))
        finally:
            site.cloud.up()


def _without_counter(site: Site, directory: Path, *, later: bool = False) -> Seen:
    """A machine whose TPM has no room for the counter. Its disk from before a suspension is put back, offline.

    `later`: the TPM gets room after the activation, and the agent makes the counter. The attacker deletes the counter.
    """
    with site.new_chip(directory / "chip", 0) as chip:
        machine = ShiftedMachine(directory, chip, library(directory))
        _on_chip(machine, _fill)
        with ended(machine):
            _activated(site, machine, f"without a counter, {later}", LEASE_SECONDS)
            label = f"{TRUST_DOMAIN}/{machine.run('status')['license']['node']}"
            state = directory / "copied"
            shutil.copytree(machine.state, state)
            if later:
                _on_chip(machine, _empty)
                _counted(machine)
            _suspended(site, machine)
            _on_chip(machine, lambda esys: chip_memory.forget_counters(esys, label))
            site.cloud.down()
            try:
                shutil.rmtree(machine.state)
                shutil.copytree(state, machine.state)
                machine.boot()
                assert machine.granted(), "the restored directory does not run"
                return _ends(machine, _named(machine, floors.UNDEFENDED_WITHOUT_COUNTER))
            finally:
                site.cloud.up()


def _counted(machine: ShiftedMachine) -> None:
    """Run the agent until its TPM has a counter, and its floor record has risen."""
    machine.boot()
    wait_until("a floor", lambda: machine.ask("/v1/status")["floor"]["record_state"] == "current")
    machine.down()


def _on_chip(machine: Machine, work: Callable[[Esys], object]) -> None:
    """Use the TPM of a machine."""
    port = Tpm(machine.chip.tcti)
    try:
        port.call(work)
    finally:
        port.close()


def _without_tpm(site: Site, directory: Path) -> Seen:
    """A machine without a TPM. Its disk from before a suspension is put back, offline, until the lease has ended."""
    with site.new_chip(directory / "chip", 0) as chip:
        machine = without_tpm(directory, chip, 1)
        with ended(machine):
            tenant = site.cloud.tenant(chip, "without a TPM")
            site.cloud.run("tenant", "tiers", tenant, "attested,software")
            file = site.cloud.code(tenant, "--lease-seconds", SHORT_LEASE_SECONDS)
            node = machine.run("activate", str(file), "--software")["node"]
            state = directory / "copied"
            shutil.copytree(machine.state, state)
            site.cloud.run("node", "suspend", node)
            machine.up()
            machine.wait_state("suspended")
            machine.down()
            site.cloud.down()
            try:
                shutil.rmtree(machine.state)
                shutil.copytree(state, machine.state)
                machine.up()
                assert machine.granted(), "the restored directory does not run"
                bound = _named(machine, floors.UNDEFENDED_IN_SOFTWARE)
                machine.wait_state("terminated", seconds=60)
                if datetime.now(UTC) < bound:
                    raise StepFailed("the licence ended before the bound")
                return look(machine)
            finally:
                machine.down()
                site.cloud.up()


def _activated(site: Site, machine: ShiftedMachine, name: str, lease: str) -> None:
    """Activate a machine of a new tenant, and run its agent once."""
    tenant = site.cloud.tenant(machine.chip, name)
    machine.run("activate", str(site.cloud.code(tenant, "--lease-seconds", lease)))
    machine.boot()
    machine.wait_state("active")
    machine.down()


def _suspended(site: Site, machine: ShiftedMachine) -> None:
    """Suspend the node. Its agent hears it and stops."""
    site.cloud.run("node", "suspend", machine.run("status")["license"]["node"])
    machine.boot()
    machine.wait_state("suspended")
    machine.down()


def _fill(esys: Esys) -> None:
    """Define NV indices until none fits."""
    index = _FREE_INDEX
    for size in _SIZES:
        while chip_memory.has_room(esys, index, size):
            index += 1
    while chip_memory.has_room(esys, index, _COUNTER_BYTES, chip_memory.COUNTERS):
        index += 1


def _empty(esys: Esys) -> None:
    """Remove the indices of `_fill`."""
    for index in nv.defined_indices(esys, _FREE_INDEX, _FREE_INDEX + 0xFFFF):
        chip_memory.remove(esys, index)


ROWS: dict[str, Callable[[Site, Path], Seen]] = {
    "disk and TPM copied together, offline": _copied_together,
    "the disk of a machine without a TPM put back": _without_tpm,
    "the disk of a machine without a counter put back": _without_counter,
    "the disk from before the first counter put back": partial(_without_counter, later=True),
}


def take(attacks: Sequence[Attack], site: Site) -> Iterator[Result]:
    """Take each row with machines of its own."""
    place = site.folder("bounds")
    for number, attack in enumerate(attacks):
        directory = place / str(number)
        directory.mkdir()
        yield judged(attack, partial(ROWS[attack.name], site, directory))
