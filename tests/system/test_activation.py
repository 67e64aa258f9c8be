"""Activation with the real commands: the same chip stays the same node in the same seat."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import ended, wait_until
from lab.tpm import SoftTpm
from node.trust import published
from tests.system.support.harness import new_machine


def test_the_same_chip_is_the_same_node_in_the_same_seat(
    cloud: Cloud, machine: Machine, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    tenant = cloud.tenant(chips[0])
    cloud.run("tenant", "pcr-policy", tenant, "require")
    file = cloud.code(tenant, "--seats", "1")
    first = machine.run("activate", str(file))
    # `cascade init` has signed the URL that the activation file has.
    assert published.load(machine.state).urls.repository == json.loads(file.read_bytes())["repository_url"]
    again = machine.run("activate", str(file))
    reinstalled = new_machine(tmp_path, chips[0], "reinstalled").run("activate", str(cloud.code(tenant)))
    assert first["node"] == again["node"] == reinstalled["node"]
    assert (first["generation"], again["generation"], reinstalled["generation"]) == (1, 2, 3)
    (node,) = cloud.run("node", "list", "--tenant", tenant)
    assert node["tier"] == "attested"
    # Each activation and the session of its confirm had a valid quote, as the tenant requires.
    generations = cloud.run("node", "show", node["id"])["generations"]
    assert [(len(each["pcr_values"]), each["pcr_changed"], each["pcr_fault"]) for each in generations] == [
        (8, [], "")
    ] * 3
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
    with ended(machine, reinstalled):
        reinstalled.up()
        assert reinstalled.granted()
        # The operator sees that the chip is in two places, or that an old disk is back.
        (node,) = cloud.run("node", "list", "--tenant", tenant)
        assert (node["superseded_asked_generation"], node["standing"]) == (1, "active")
        assert "possibly a clone" in node["notice"]
        entries = cloud.run("audit", "list", "--object", node["id"])
        asked = [entry["detail"] for entry in entries if entry["action"] == "node.superseded_asked"]
        assert asked == [{"generation": "1", "current_generation": "2"}]
        # The node is not revoked, so any open code brings the first state directory back.
        again = machine.run("activate", str(cloud.code(tenant)))
        assert (again["node"], again["generation"], again["state"]) == (node["id"], 3, "active")
        reinstalled.wait_state("revoked")


def forget_machines(cloud: Cloud) -> None:
    """Put Fabric's database back to the time before the first activation, as a restored backup does."""
    database = cloud.directory / "fabric" / "database.sqlite"
    with closing(sqlite3.connect(database, timeout=10)) as connection:
        connection.executescript(
            "BEGIN; DELETE FROM node; DELETE FROM generation; DELETE FROM activation; UPDATE code SET seats_taken = 0; COMMIT"
        )


def test_a_machine_that_the_cloud_does_not_know_activates_again_with_any_code(
    cloud: Cloud, machine: Machine, chips: tuple[SoftTpm, SoftTpm]
) -> None:
    tenant = cloud.tenant(chips[0])
    file = cloud.code(tenant, "--seats", "1")
    known = machine.run("activate", str(file))
    for number, code in enumerate((file, cloud.code(tenant)), start=2):
        forget_machines(cloud)
        refused = machine.run("renew", expect=77)["error"]
        assert "does not know the node" in refused["text"]
        assert "any open activation code" in refused["next"].lower()
        again = machine.run("activate", str(code))
        assert again["node"] != known["node"]
        assert (again["generation"], again["state"], again["gate"]) == (number, "active", "open")
        known = again
    assert machine.run("renew")["state"] == "active"


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
