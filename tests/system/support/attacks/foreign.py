"""Steps: the state directory beside another TPM, and licence files of another node."""

import shutil
from collections.abc import Callable

from lab.machine import Machine
from tests.system.support.attacks.life import LEASE_1, Life, Step
from tests.system.support.harness import new_machine


def _elsewhere(life: Life) -> Machine:
    """A machine with another chip of the same maker, and with the state directory."""
    chip = life.other_chip()
    other = new_machine(life.directory, chip, f"elsewhere-{len(list(life.directory.glob('elsewhere-*')))}")
    other.env["CASCADIA_SETTLE_SECONDS"] = "1"
    shutil.copytree(life.state, other.state)
    return other


def _elsewhere_online(life: Life) -> Machine:
    """The same; its agent asks the cloud first, which refuses the session."""
    other = _elsewhere(life)
    life.reach(yes=True)
    other.up()
    try:
        other.wait_state("hardware-mismatch")
        other.start("renew", "--json").wait()
        assert other.licence == "hardware-mismatch"
    finally:
        other.down()
    return other


def _files(stage: str, *names: str) -> Callable[[Life], None]:
    return lambda life: life.put_file_back(stage, *names)


def _both(life: Life) -> None:
    life.put_file_back("neighbour", *LEASE_1)
    life.put_file_back("neighbour revoked", "tombstones")


COPIED_STATE: dict[str, Step] = {
    "the state directory beside another TPM": Step("active", _elsewhere),
    "the same, and the cloud answers": Step("active", _elsewhere_online),
}
SWAPPED: dict[str, Step] = {
    "the lease of another node": Step("active", _files("neighbour", *LEASE_1), uses=("neighbour",), mended="active"),
    "the tombstone of another node": Step(
        "active", _files("neighbour revoked", "tombstones"), uses=("neighbour revoked",), mended="active"
    ),
    "lease and tombstone of another node": Step("active", _both, uses=("neighbour revoked",), mended="active"),
}
