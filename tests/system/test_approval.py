"""Approval with the real commands: a machine waits for a person, through restarts of both sides."""

import json
from pathlib import Path

import pytest

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import ended, wait_until
from lab.tpm import SoftTpm
from tests.system.support.harness import new_machine

WAITS, REFUSED = 88, 77


def waiting(cloud: Cloud) -> dict[str, object]:
    """The only activation that waits."""
    (found,) = cloud.run("activation", "list")
    return dict(found)


@pytest.mark.long(6.0, "approval")
def test_a_machine_waits_for_a_person_through_restarts_of_both_sides(
    cloud: Cloud, machine: Machine, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    tenant = cloud.tenant(chips[0])
    cloud.run("tenant", "approve-tiers", tenant, "attested,tpm")
    file = cloud.code(tenant, "--seats", "1")
    error = machine.run("activate", str(file), "--no-wait", expect=WAITS)["error"]
    found = waiting(cloud)
    assert error["code"] == "approval_pending"
    assert str(found["id"]) in error["next"]
    assert [code["seats_taken"] for code in cloud.run("code", "list", tenant)] == [0]
    status = machine.run("status", expect=WAITS)
    assert (status["license"]["state"], status["license"]["gate"]) == ("pending", "closed")
    assert str(found["id"]) in status["license"]["reason"]
    # The evidence names the chip: it is the one that `cascadia identity ek` shows on the machine.
    shown = cloud.run("activation", "show", str(found["id"]))
    keys = machine.run("identity", "ek")["keys"]
    assert shown["ek_name"] in [key["name"] for key in keys]
    assert (shown["tier"], shown["state"], shown["node"], shown["address"]) == ("attested", "pending", "", "127.0.0.1")
    # A running command waits, and both sides are killed and started again.
    process = machine.start("activate", str(file), "--json")
    wait_until(
        "the repeat of the proof", lambda: "waits for an operator" in json.dumps(machine.run("status", expect=WAITS))
    )
    process.kill()
    cloud.down()
    cloud.up()
    cloud.run("activation", "approve", str(found["id"]), "--reason", "seen on site")
    assert [code["seats_taken"] for code in cloud.run("code", "list", tenant)] == [1]
    assert machine.run("activate", str(file))["state"] == "active"
    assert cloud.run("activation", "show", str(found["id"]))["state"] == "confirmed"
    (entry,) = [each for each in cloud.run("audit", "list") if each["action"] == "activation.approved"]
    assert (entry["object"], entry["detail"]["reason"]) == (found["id"], "seen on site")
    # A further activation waits beside the licence in force, and the agent has its state back.
    with ended(machine):
        machine.up()
        process = machine.start("activate", str(file), "--json")
        wait_until("the second activation", lambda: cloud.run("activation", "list"))
        wait_until("the agent at its work", lambda: machine.run("renew", expect=None).get("state") == "active")
        assert process.running
        assert machine.granted()
        process.kill()
    assert "approval_pending" in [each["code"] for each in machine.run("status")["conditions"]]
    second = waiting(cloud)
    assert (second["matched"], second["node"]) == ("chip", entry["detail"].get("node", second["node"]))
    cloud.run("activation", "deny", str(second["id"]), "--reason", "one is enough")
    refused = machine.run("activate", str(file), expect=REFUSED)["error"]
    assert (refused["code"], "one is enough" in refused["text"]) == ("approval_denied", True)
    assert machine.run("status")["license"]["state"] in ("active", "refresh-due")
    # The second operator comes late.
    late = cloud.run("activation", "approve", str(second["id"]), expect=REFUSED)["error"]
    assert late["code"] == "conflict"
    stranger = new_machine(tmp_path, chips[1], "stranger").run("activate", str(file), "--no-wait", expect=REFUSED)
    assert stranger["error"]["code"] in ("seats_exhausted", "tier_refused", "evidence_refused")
