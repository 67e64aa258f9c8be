"""`cascade pki crl` shows, writes and publishes CRLs."""

from pathlib import Path

import pytest
from cryptography import x509

from tests.cloud.cli.pki.support import Host

pytestmark = pytest.mark.slow


def test_crls_are_made_shown_and_written(host: Host) -> None:
    (first,) = host.pki("crl")
    assert (first["shard"], first["entries"], first["behind"], first["file"]) == ("services-1.1", 0, False, "")
    (same,) = host.pki("crl", "--out", str(host.scratch / "crls"))
    assert same["number"] == first["number"]
    assert x509.load_der_x509_crl(Path(same["file"]).read_bytes()).issuer.rfc4514_string().endswith("services CA 1")
    (newer,) = host.pki("crl", "--publish")
    assert newer["number"] > first["number"]
    assert "services-1.1" in host.printed("crl")
