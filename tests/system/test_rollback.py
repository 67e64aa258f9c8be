"""Older files are put back on a machine that the cloud cannot reach: each attack closes the gate, or changes nothing.

`make drills PART=rollback` makes every attack of `tests/system/support/rollback.py`. Here is one of each kind.
"""

from pathlib import Path

import pytest

from lab.cloud import Cloud
from lab.processes import ended
from lab.tpm import SoftTpm
from tests.system.support.harness import forked, new_machine
from tests.system.support.rollback import ROWS, History, walk


@pytest.mark.long(20, "test_rollback.py")
def test_files_of_an_earlier_time_bring_no_licence_back(
    cloud: Cloud, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    machine = new_machine(tmp_path, chips[0])
    with ended(machine):
        history = History(cloud, machine, cloud.tenant(chips[0], "rolled back"), tmp_path, forked)
        assert walk(history, tuple(row for row in ROWS if row.quick)) == []
        # A start without the cloud judges the same, and stays up with a closed gate.
        history.put_back("again")
        cloud.down()
        machine.up()
        assert (machine.licence, machine.granted()) == ("stale", False)
        floor = machine.ask("/v1/status")["floor"]
        assert (floor["present"], floor["standing"]) == (True, "stale")
        assert "older than the TPM's counter" in floor["reason"]
