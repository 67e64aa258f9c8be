"""`cascade pki export` writes each kind of file to its place."""

import json

import pytest

from cloud.cli.errors import EXIT_USAGE
from tests.cloud.cli.pki.support import Host

pytestmark = pytest.mark.slow


def test_an_export_has_everything(host: Host) -> None:
    out = host.scratch / "export"
    answer = host.pki("export", "--out", str(out), "--certificates")
    assert (answer["authorities"], answer["crls"], answer["certificates"]) == (3, 2, 2)
    files = {str(path.relative_to(out)) for path in out.rglob("*.*")}
    assert {"ca/root-1.pem", "ca/nodes-1.pem", "ca/services-1.pem", "crl/services-1.1.crl", "crl/root-1.1.crl"} < files
    lines = [json.loads(line) for line in (out / "inventory.jsonl").read_text().splitlines()]
    assert {line["service"] for line in lines} == {"fabric", "breakwater"}
    for line in lines:
        assert "tbs" not in line
        assert f"certificates/{line['serial']}.pem" in files
    assert {line["reason"] for line in lines} == {""}
    host.refused(EXIT_USAGE, "directory_in_use", "export", "--out", str(out))


def test_the_inventory_spells_a_reason_as_the_option_does(host: Host) -> None:
    (serial, *_) = host.pki("revoke", "--service", "fabric", "--reason", "cACompromise")["serials"]
    host.pki("export", "--out", str(host.scratch / "export"))
    inventory = (host.scratch / "export" / "inventory.jsonl").read_text()
    reasons = {line["serial"]: line["reason"] for line in map(json.loads, inventory.splitlines())}
    assert reasons.pop(serial) == "cACompromise"
    assert set(reasons.values()) == {""}
