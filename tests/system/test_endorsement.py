"""Machines whose endorsement certificates are as makers make them. `make drills PART=endorsement` has every kind."""

import pytest

from lab.cloud import Cloud
from lab.machine import Machine
from lab.tpm import SoftTpm
from node.hwbind.tpm import Tpm
from tests.system.support.endorsed_machine import KINDS, walk


@pytest.mark.parametrize("name", ["CAs in the chip, ECC P-256", "certificate that cannot be read"])
def test_a_machine_goes_the_whole_way(
    cloud: Cloud, machine: Machine, chips: tuple[SoftTpm, SoftTpm], name: str
) -> None:
    tpm = Tpm(chips[0].tcti)
    try:
        walk(cloud, machine, tpm, KINDS[name])
    finally:
        tpm.close()
