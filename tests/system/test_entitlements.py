"""Entitlements with limits from the operator to the program."""

from lab.cloud import Cloud
from lab.machine import Machine


def test_a_limit_reaches_the_program(cloud: Cloud, machine: Machine) -> None:
    tenant = cloud.tenant(machine.chip)
    options = ("cameras:limit=8,site=north", "trial:until=2020-01-01", "next:not-before=2100-01-01")
    extra = [part for option in options for part in ("--entitlement", option)]
    file = cloud.code(tenant, *extra)
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
