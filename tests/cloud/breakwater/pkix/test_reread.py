"""`cloud.breakwater.pkix.reread`: parses an issued certificate into the `Wanted` it was built from."""

import msgspec
import pytest
from cryptography import x509

from cloud.breakwater.pkix import profiles
from cloud.breakwater.pkix.linted import assemble
from cloud.breakwater.pkix.profiles import PROFILE_VERSION, Issuer, Wanted
from cloud.breakwater.pkix.reread import reread
from tests.cloud.breakwater.wanted_samples import CLEAN, DEVICE, NODES, SESSION


def issued(wanted: Wanted, issuer: Issuer) -> x509.Certificate:
    """The certificate with an invalid signature, which these tests do not verify."""
    return x509.load_der_x509_certificate(assemble(profiles.build(wanted, issuer), issuer.curve, b"\x30\x00"))


@pytest.mark.parametrize("name", CLEAN)
def test_reread_returns_the_wanted_of_each_certificate(name: str) -> None:
    wanted, issuer = CLEAN[name]
    assert reread(issued(wanted, issuer), wanted.profile, PROFILE_VERSION) == wanted


def test_a_ca_of_the_first_version_says_no_class() -> None:
    wanted, issuer = CLEAN["nodes CA"]
    assert (wanted.ca, wanted.trust_domain) == ("nodes", "cascade.test")
    found = reread(issued(wanted, issuer), "issuing", 1)
    assert (found.ca, found.trust_domain, found.version) == (None, "", 1)


def test_missing_extensions_become_empty_fields() -> None:
    found = reread(issued(SESSION, NODES), "session", PROFILE_VERSION)
    assert (found.distribution, found.dns_names, found.addresses) == (None, (), ())


def test_another_profile_is_read_as_it_is_named() -> None:
    found = reread(issued(DEVICE, NODES), "session", PROFILE_VERSION)
    assert found == msgspec.structs.replace(DEVICE, profile="session")
    with pytest.raises(msgspec.ValidationError):
        reread(issued(DEVICE, NODES), "person", PROFILE_VERSION)
