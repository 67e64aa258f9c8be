"""Entitlements with limits from the operator to the program, and the licence files of one machine in another."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import ended, wait_until
from lab.tpm import SoftTpm
from tests.system.support.harness import new_machine

RECORDS = ("licence/g-1/statement.json", "identity/statement-g-1.json")
TOMBSTONE = "tombstones/g-1.json"


@pytest.fixture
def other(tmp_path: Path, chips: tuple[SoftTpm, SoftTpm]) -> Iterator[Machine]:
    """A machine with the second chip and without state."""
    (tmp_path / "other").mkdir()
    bare = new_machine(tmp_path / "other", chips[1])
    with ended(bare):
        yield bare


@pytest.mark.long(12, "entitlements")
def test_a_limit_reaches_the_program_and_a_licence_is_of_one_machine(
    cloud: Cloud, machine: Machine, other: Machine, tmp_path: Path
) -> None:
    tenant = cloud.tenant(machine.chip)
    options = ("cameras:limit=8,site=north", "trial:until=2020-01-01", "next:not-before=2100-01-01")
    extra = [part for option in options for part in ("--entitlement", option)]
    file = cloud.code(tenant, "--seats", "2", *extra)
    node = machine.run("activate", str(file))["node"]
    machine.up()
    cameras = machine.run("entitlement", "cameras")
    assert (cameras["why"], cameras["limit"], cameras["attributes"]) == ("granted", 8, {"site": "north"})
    assert machine.run("entitlement", "vision")["limit"] is None
    for name, why in (("trial", "ended"), ("next", "not-yet"), ("other", "not-included")):
        assert machine.run("entitlement", name, expect=3)["why"] == why
    assert machine.ask("/v1/license")["lease"]["lease_version"] == 2
    shown = cloud.run("node", "show", node)
    assert shown["node"]["entitlements"] == ["vision", "cameras", "trial", "next"]
    assert shown["generations"][0]["lease_version"] == 2

    second = other.run("activate", str(file))["node"]
    machine.down()
    kept = tmp_path / "kept"
    shutil.copytree(machine.state, kept)
    for record in RECORDS:
        shutil.copyfile(other.state / record, machine.state / record)
    with_others = machine.run("status", expect=85)
    assert with_others["license"]["gate"] == "closed"
    assert any("another node" in text for text in with_others["damaged"])
    for record in RECORDS:
        shutil.copyfile(kept / record, machine.state / record)
    machine.run("status")

    cloud.run("node", "revoke", second)
    assert other.start("run").wait() == 81
    (machine.state / TOMBSTONE).parent.mkdir(mode=0o700, exist_ok=True)
    shutil.copyfile(other.state / TOMBSTONE, machine.state / TOMBSTONE)
    (machine.state / TOMBSTONE).chmod(0o600)
    machine.run("status", expect=85)
    machine.up()
    machine.wait_state("active")
    wait_until("the doubtful tombstone is set aside", lambda: not (machine.state / TOMBSTONE).exists())
