"""`cascade pki status` and `check` of a new installation, as text and as JSON."""

import pytest

from tests.cloud.cli.pki.support import Host

pytestmark = pytest.mark.slow


def test_a_new_installation_is_shown_and_clean(new_host: Host) -> None:
    """After a minute without a CRL the shard of the services is a finding."""
    host = new_host
    status = host.pki("status")
    assert [(row["id"], row["state"], row["has_key"]) for row in status["authorities"]] == [
        ("nodes-1", "active", True),
        ("root-1", "active", False),
        ("services-1", "active", True),
    ]
    assert (status["crls"], status["crls_due"], status["secrets_open"]) == (1, 1, 0)
    assert "CN=cascade.internal nodes CA 1" in host.printed("status")
    report = host.pki("check", "--pkilint", "5")
    assert (report["certificates"], report["pkilint_certificates"], report["counts"]) == (2, 2, {})
    text = host.printed("check", "--pkilint", "5")
    assert "Clean" in text
    assert "Waived 2 times: pkix.invalid_uri_syntax" in text
