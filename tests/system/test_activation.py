"""Activation with the real commands: the same chip stays the same node in the same seat."""

import shutil
from pathlib import Path

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import ended, wait_until
from lab.tpm import SoftTpm
from tests.system.support.harness import new_machine


def test_the_same_chip_is_the_same_node_in_the_same_seat(
    cloud: Cloud, machine: Machine, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    tenant = cloud.tenant(chips[0])
    file = cloud.code(tenant, "--seats", "1")
    first = machine.run("activate", str(file))
    again = machine.run("activate", str(file))
    reinstalled = new_machine(tmp_path, chips[0], "reinstalled").run("activate", str(cloud.code(tenant)))
    assert first["node"] == again["node"] == reinstalled["node"]
    assert (first["generation"], again["generation"], reinstalled["generation"]) == (1, 2, 3)
    (node,) = cloud.run("node", "list", "--tenant", tenant)
    assert node["tier"] == "attested"
    assert sum(code["seats_taken"] for code in cloud.run("code", "list", tenant)) == 1
    # Breakwater has closed the earlier generations as well: only the last device certificate is valid.
    valid = "SELECT generation FROM certificate WHERE profile = 'device' AND state = 'issued'"
    wait_until("the closing at Breakwater", lambda: cloud.rows("breakwater", valid) == [(3,)])
    states = cloud.rows("fabric", "SELECT number, state FROM generation ORDER BY number")
    assert states == [(1, "closed"), (2, "closed"), (3, "confirmed")]


def test_a_superseded_state_directory_is_reported_as_superseded(
    cloud: Cloud, machine: Machine, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    tenant = cloud.tenant(chips[0])
    machine.run("activate", str(cloud.code(tenant)))
    reinstalled = new_machine(tmp_path, chips[0], "reinstalled")
    reinstalled.run("activate", str(cloud.code(tenant)))
    # The first state directory, in the same machine: a signed statement says that its generation is superseded.
    assert machine.launch().wait() == 81
    assert "superseded" in machine.run("status", expect=81)["license"]["reason"]
    with ended(reinstalled):
        reinstalled.up()
        assert reinstalled.granted()


def test_two_chips_are_two_nodes_in_two_seats(
    cloud: Cloud, machine: Machine, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    tenant = cloud.tenant(chips[0])
    file = str(cloud.code(tenant, "--seats", "2"))
    first = machine.run("activate", file)
    second = new_machine(tmp_path, chips[1], "second").run("activate", file)
    assert first["node"] != second["node"]
    assert [code["seats_taken"] for code in cloud.run("code", "list", tenant)] == [2]
    # A state directory copied to another machine does not open the gate there.
    moved = new_machine(tmp_path, chips[1], "moved")
    shutil.copytree(machine.state, moved.state)
    with ended(moved):
        moved.up()
        assert moved.licence == "hardware-mismatch"
        assert not moved.granted()
        moved.run("status", expect=84)


def test_the_same_chip_is_another_node_for_another_tenant(
    cloud: Cloud, machine: Machine, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    first = machine.run("activate", str(cloud.code(cloud.tenant(chips[0], "one"))))
    other = new_machine(tmp_path, chips[0], "other")
    second = other.run("activate", str(cloud.code(cloud.tenant(chips[0], "two"))))
    assert first["node"] != second["node"]
    assert first["tenant"] != second["tenant"]
    # Neither node ends the other, and Fabric stores a different hash of the EK for each tenant.
    (hashes,) = zip(*cloud.rows("fabric", "SELECT ek_hash FROM node"), strict=True)
    assert len(set(hashes)) == 2
    with ended(machine):
        machine.up()
        assert machine.granted()
