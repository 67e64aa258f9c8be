"""A machine without a TPM, with the real commands: activation, a start, a copy of its disk elsewhere, and a new TPM."""

import shutil
from pathlib import Path

import pytest

from lab.cloud import Cloud
from lab.processes import ended
from lab.tpm import SoftTpm
from tests.system.support.software_machine import without_tpm


@pytest.mark.slow
def test_a_machine_without_a_tpm_and_a_copy_of_its_disk(
    cloud: Cloud, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    tenant = cloud.tenant(chips[0])
    file = str(cloud.code(tenant))
    machine, other = (without_tpm(tmp_path, chips[0], number) for number in (1, 2))
    with ended(machine, other):
        assert machine.run("activate", file, expect=87)["error"]["code"] == "tpm-absent"
        assert machine.run("activate", file, "--software", expect=77)["error"]["code"] == "tier_refused"
        cloud.run("tenant", "tiers", tenant, "attested,software")
        licence = machine.run("activate", file, "--software")
        assert (licence["state"], licence["lease"]["tier"]) == ("active", "software")
        machine.up()
        machine.wait_state("active")
        assert machine.granted()
        status = machine.run("status")
        assert status["fingerprint"]["result"] == "match"
        assert "no hardware floor" in status["limits"]
        machine.down()
        # The disk is copied to another machine; the cloud is away at first.
        cloud.down()
        shutil.copytree(machine.state, other.state)
        other.up()
        other.wait_state("hardware-mismatch")
        assert not other.granted()
        status = other.run("status", expect=84)
        assert status["license"]["gate"] == "closed"
        assert [condition["code"] for condition in status["conditions"]] == ["fingerprint_mismatch"]
        cloud.up()
        failure = other.run("renew", expect=77)["error"]
        assert failure["code"] == "fingerprint_refused"
        assert not other.granted()
        machine.up()
        assert machine.granted()
        (node,) = cloud.run("node", "list", "--tenant", tenant)
        assert (node["tier"], node["standing"]) == ("software", "active")
        # The machine gains a TPM. By a code for its node it stays the node, in its seat.
        machine.down()
        machine.env["CASCADIA_TPM"] = chips[0].tcti
        licence = machine.run("activate", str(cloud.code(tenant, "--readmit", node["id"])))
        assert (licence["node"], licence["generation"], licence["lease"]["tier"]) == (node["id"], 2, "attested")
        machine.up()
        assert machine.granted()
        assert len(cloud.run("node", "list", "--tenant", tenant)) == 1
