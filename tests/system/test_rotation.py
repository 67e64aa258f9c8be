"""A full rotation of the root and both issuing CAs with the commands of docs/rotation.md.

One test has a fleet under load, the other a machine that is off during the rotation.
"""

from pathlib import Path

import pytest

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import wait_until
from lab.tpm import SoftTpm
from tests.system.support.rotation import SERVICES, Rotation, device_issuer, rotate_under_load

NODES = 12
"""The number of nodes. `make drills PART=rotation` has 50."""
SETTLED_SECONDS = 15.0
"""A started agent contacts the cloud within its settling time, here 5 s. The rest allows for a busy test machine."""


@pytest.fixture
def rotation(cloud: Cloud, tmp_path: Path) -> Rotation:
    return Rotation(cloud, tmp_path / "hall")


@pytest.mark.long(15)
def test_a_whole_rotation_under_load(rotation: Rotation, machine: Machine, tmp_path: Path) -> None:
    fleet = rotate_under_load(rotation, machine, tmp_path, NODES)
    assert min(fleet.made[what] for what in ("session", "statement", "renewal", "trust")) >= NODES


@pytest.mark.long(6)
def test_a_machine_that_was_off_during_a_rotation_recovers_by_itself(
    cloud: Cloud, rotation: Rotation, machine: Machine, chips: tuple[SoftTpm, SoftTpm]
) -> None:
    node = machine.run("activate", str(cloud.code(cloud.tenant(chips[0]))))["node"]
    before = device_issuer(machine)
    rotation.make()
    rotation.publish_both()
    assert rotation.adopted() == (0, 1)
    assert [missing["node"] for missing in rotation.trust("adoption", "--missing")] == [node]
    code, text = rotation.refused(rotation.rotate, "activate", "nodes-2")
    assert (code, "0 of 1 nodes" in text) == ("adoption_incomplete", True)
    off = ("--override", "--reason", f"{node} is switched off and comes back by itself")
    for name in ("root-2", "nodes-2", "services-2"):
        rotation.rotate("activate", name, *off)
    rotation.trust("renew-devices", "--after", "now", "--reason", "rotation")
    wait_until("the renewal of the services", lambda: rotation.served_by("services-2"))
    dropped = rotation.drop()
    code, text = rotation.refused(rotation.trust, "publish", dropped)
    assert (code, node in text) == ("adoption_incomplete", True)
    rotation.trust("publish", dropped, *off)
    for step in ("taint", "revoke"):
        for name in ("nodes-1", "services-1", "root-1"):
            rotation.rotate(step, name, *off)
    wait_until("the end of the old root", lambda: all(rotation.is_gone("root-1", it) for it in SERVICES))

    machine.up()
    wait_until("the contact", lambda: machine.ask("/v1/status")["last_contact_at"], seconds=SETTLED_SECONDS)
    assert machine.granted()
    assert (before, device_issuer(machine)) == (rotation.subject("nodes-1"), rotation.subject("nodes-2"))
    wait_until("adoption", lambda: rotation.adopted() == (1, 1))
    # The machine has no certificate of the old CAs left, and renews like any other.
    machine.run("renew")
    assert machine.ask("/v1/license")["generation"] == 1
