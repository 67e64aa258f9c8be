"""`cascade pki revoke` revokes by serial, certificate and service, and refuses what it cannot find."""

import pytest
from cryptography import x509

from cloud.cli.errors import EXIT_REFUSED, EXIT_USAGE
from tests.cloud.cli.pki.support import Host

pytestmark = pytest.mark.slow


def test_a_service_is_renewed_and_revoked(host: Host) -> None:
    chain = host.directory / "fabric" / "tls" / "chain.pem"
    before = x509.load_pem_x509_certificate(chain.read_bytes())
    renewed = host.pki("renew", "fabric")
    assert renewed["serial"] == f"{x509.load_pem_x509_certificate(chain.read_bytes()).serial_number:040x}"
    host.refused(EXIT_USAGE, "service_unknown", "renew", "headwaters")
    serial = f"{before.serial_number:040x}"
    colons = ":".join(serial[place : place + 2] for place in range(0, 40, 2))
    assert host.pki("revoke", "--serial", colons, "--reason", "keyCompromise")["serials"] == [serial]
    assert host.pki("revoke", "--serial", serial)["serials"] == []
    (shard, _) = host.pki("crl")
    assert shard["entries"] == 1
    (line,) = host.audit("certificate.revoke")
    assert (line["object"], line["detail"]) == (serial, "keyCompromise")
    assert line["caller"].startswith("operator/")
    assert host.pki("revoke", "--certificate", str(chain), "--reason", "superseded")["serials"] == [renewed["serial"]]
    (other,) = host.pki("revoke", "--service", "breakwater", "--reason", "superseded")["serials"]
    assert host.pki("check")["counts"] == {}
    assert (
        other
        in host.printed("export", "--out", str(host.scratch / "out"))
        + (host.scratch / "out" / "inventory.jsonl").read_text()
    )


def test_what_cannot_be_revoked_is_refused(host: Host) -> None:
    assert "hexadecimal" in host.refused(EXIT_USAGE, "serial_invalid", "revoke", "--serial", "zz")
    host.refused(EXIT_USAGE, "serial_invalid", "revoke", "--certificate", str(host.scratch / "none.pem"))
    host.refused(EXIT_REFUSED, "refused", "revoke", "--serial", "0abc")
    host.refused(EXIT_REFUSED, "refused", "revoke", "--service", "nobody")
    assert host.pki("revoke", "--service", "weir")["serials"] == []
