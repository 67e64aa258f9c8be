"""Requests for certificates are parsed, and become orders for one authority."""

from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from cloud.breakwater.errors import CsrRefused
from tests.cloud.breakwater.support import (
    FABRIC,
    TRUST_DOMAIN,
    Issuer,
    new_key,
    opening,
)

pytestmark = pytest.mark.slow


async def test_the_own_names_may_stand_in_a_request_and_no_others(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())

    def wishing(uri: str, common_name: str) -> bytes:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = x509.CertificateSigningRequestBuilder(name)
        names = [
            x509.UniformResourceIdentifier(uri),
            x509.DNSName("localhost"),
            x509.IPAddress(ip_address("127.0.0.1")),
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(new_key(), hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    own = f"spiffe://{TRUST_DOMAIN}/service/fabric"
    await issuer.issuing.issue_service("fabric", wishing(own, "fabric"), "own", FABRIC)
    for number, wish in enumerate((wishing(own, "ledger"), wishing(f"{own}2", "fabric"))):
        with pytest.raises(CsrRefused):
            await issuer.issuing.issue_service("fabric", wish, f"w{number}", FABRIC)
