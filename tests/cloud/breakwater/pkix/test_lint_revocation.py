"""`cloud.breakwater.pkix.lint_revocation`: the address of a root's CRL in CA certificates.

`test_lint.py` breaks the rules for leaf certificates.
"""

import msgspec
import pytest
from cryptography import x509

from cloud.breakwater.errors import LintError
from cloud.breakwater.pkix import profiles
from cloud.breakwater.pkix.lint import lint, relint
from cloud.breakwater.pkix.linted import assemble
from cloud.breakwater.pkix.profiles import Issuer, Wanted
from cloud.breakwater.pkix.reread import reread
from tests.cloud.breakwater.chains import NOW as START
from tests.cloud.breakwater.wanted_samples import CROSS, OLD_ROOT, ROOT, SESSION, issuing
from tests.cloud.breakwater.wanted_samples import NODES as NODES_CA

URL = "http://pki.test/crl/root-1/1.crl"


def naming(wanted: Wanted, url: str = URL) -> Wanted:
    return msgspec.structs.replace(wanted, crl_url=url)


def certificate_of(wanted: Wanted, issuer: Issuer) -> x509.Certificate:
    return x509.load_der_x509_certificate(assemble(profiles.build(wanted, issuer), issuer.curve, b"\x30\x00"))


@pytest.mark.parametrize(
    ("wanted", "issuer"),
    [(naming(issuing("nodes")), ROOT), (naming(CROSS, URL.replace("root-1", "root-0")), OLD_ROOT)],
    ids=["issuing", "cross"],
)
def test_a_ca_certificate_names_the_crl_of_its_root(wanted: Wanted, issuer: Issuer) -> None:
    lint(profiles.build(wanted, issuer), wanted, issuer)
    certificate = certificate_of(wanted, issuer)
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints)
    assert [name.value for point in points.value for name in point.full_name or ()] == [wanted.crl_url]
    assert points.critical is False
    assert reread(certificate, wanted.profile, wanted.version) == wanted
    relint(certificate, issuer, wanted.profile, wanted.version, START)
    with pytest.raises(LintError) as caught:
        relint(certificate, issuer, wanted.profile, 2, START)
    assert caught.value.rule == "distribution"


@pytest.mark.parametrize(
    ("built", "wanted", "issuer", "rule"),
    [
        (issuing("nodes"), naming(issuing("nodes")), ROOT, "extension_set"),
        (naming(issuing("nodes")), issuing("nodes"), ROOT, "extension_set"),
        (naming(issuing("nodes")), naming(issuing("nodes"), URL.replace("pki", "old")), ROOT, "crl_points"),
        (naming(issuing("nodes"), URL + "?"), naming(issuing("nodes"), URL + "?"), ROOT, "distribution_url"),
        (naming(CROSS), naming(CROSS), OLD_ROOT, "distribution_authority"),
        (naming(SESSION), naming(SESSION), NODES_CA, "distribution"),
    ],
    ids=["missing", "not wanted", "another", "no plain http URL", "of another root", "a session"],
)
def test_one_mutation_one_rule(built: Wanted, wanted: Wanted, issuer: Issuer, rule: str) -> None:
    with pytest.raises(LintError) as caught:
        lint(profiles.build(built, issuer), wanted, issuer)
    assert caught.value.rule == rule
