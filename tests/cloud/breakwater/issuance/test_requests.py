"""`cloud.breakwater.issuance.requests`: a CSR may contain the profile's own names and no others."""

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


async def test_a_csr_may_contain_the_own_names_and_no_others(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())

    def csr_for(uri: str, common_name: str) -> bytes:
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
    await issuer.issuing.issue_service("fabric", csr_for(own, "fabric"), "own", FABRIC)
    for number, csr in enumerate((csr_for(own, "ledger"), csr_for(f"{own}2", "fabric"))):
        with pytest.raises(CsrRefused):
            await issuer.issuing.issue_service("fabric", csr, f"w{number}", FABRIC)
