"""A cloud whose clock was ahead, with the real commands: its certificates begin in the future when the clock is right.

`tests/cloud/mtls/test_renewal.py` has the same faults in a running service, and
`tests/cloud/breakwater/issuance/test_issuing.py` those of the issuer.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import Process, Side, Start, ended, start_program
from lab.tpm import SoftTpm
from tests.system.support.harness import new_cloud

HOUR = 3600
YEAR = 365 * 24 * HOUR

_SHIFTED = """
import sys
from datetime import timedelta
from cloud import clock

right = clock.utc_now
clock.utc_now = lambda: right() + timedelta(seconds=int(sys.argv[1]))

from cloud.cli.main import main
from tests import light_keys

light_keys.use_light_keys()
sys.exit(main(sys.argv[2:]))
"""
"""Replaces the clock of the cloud before any other module imports it, and runs a `cascade` command."""


def ahead_by(seconds: int) -> Start:
    """A `Start` of `cascade` commands whose clock is ahead."""

    def start(directory: Path, side: Side, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        assert side == "cascade", side
        return start_program(directory, side, [sys.executable, "-c", _SHIFTED, str(seconds), *arguments], env)

    return start


def test_up_replaces_certificates_from_the_future(
    installation: Cloud, tmp_path: Path, chips: tuple[SoftTpm, SoftTpm], machine: Machine
) -> None:
    cloud = new_cloud(tmp_path).copy_from(installation)
    place = ("--dir", str(cloud.directory))
    start = ahead_by(HOUR)
    renewals = [start(tmp_path, "cascade", "pki", "renew", name, *place, "--json") for name in ("breakwater", "fabric")]
    for renewal in renewals:
        renewal.document()
    faults = cloud.run("pki", "status", *place)["faults"]
    assert [fault["subject"] for fault in faults] == ["breakwater", "fabric"]
    assert all(fault["fault"].startswith("is not valid before") for fault in faults)
    with ended(cloud):
        cloud.up()
        machine.run("activate", str(cloud.code(cloud.tenant(chips[0]))))
        assert cloud.run("pki", "status", *place)["faults"] == []
        report = cloud.run("pki", "check", *place, expect=None)
        assert {finding["check"] for finding in report["findings"]} <= {"certificate.future", "crl.missing"}
        assert len([each for each in report["findings"] if each["check"] == "certificate.future"]) == 2


def test_up_names_the_cure_of_an_installation_from_the_future(tmp_path: Path) -> None:
    early = Cloud(tmp_path / "early", start=ahead_by(YEAR)).init()
    cloud = new_cloud(tmp_path)
    early.directory.rename(cloud.directory)
    refused = cloud.run("up", "--dir", str(cloud.directory), expect=70)["error"]
    assert refused["code"] == "ca_not_valid"
    assert "services-1 is not valid before" in refused["text"]
    assert "364 days in the future" in refused["text"]
    assert "move the directory of the installation away and run `cascade init` again" in refused["next"]
    cloud.directory.rename(tmp_path / "away")
    cloud.init()
    assert cloud.run("pki", "status", "--dir", str(cloud.directory))["faults"] == []
