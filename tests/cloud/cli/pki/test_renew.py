"""`cascade pki renew` replaces a certificate, and refuses services that the installation does not have."""

import pytest
from cryptography import x509

from cloud.cli.errors import EXIT_USAGE
from tests.cloud.cli.pki.support import Host

pytestmark = pytest.mark.slow


def test_the_new_certificate_is_for_a_new_key(host: Host) -> None:
    chain = host.directory / "fabric" / "tls" / "chain.pem"
    before = x509.load_pem_x509_certificate(chain.read_bytes())
    made = host.pki("renew", "fabric")
    after = x509.load_pem_x509_certificate(chain.read_bytes())
    assert (made["serial"], made["file"]) == (f"{after.serial_number:040x}", str(chain))
    assert after.public_key() != before.public_key()
    assert "fabric" in host.refused(EXIT_USAGE, "service_unknown", "renew", "headwaters")
