"""`cloud.fabric.tuf.current_trust`: it trusts no certificate before the first bundle. A bad bundle changes nothing."""

from datetime import timedelta

import msgspec
import pytest
from cryptography import x509

from cloud.fabric.tuf.current_trust import CurrentTrust, RenewalOrder
from cloud.fabric.tuf.targets import TargetsError
from cloud.mtls.peer import key_id_of
from protocol.signed.trust import X509Bundle
from tests.cloud.breakwater.support import START, TRUST_DOMAIN
from tests.cloud.fabric.authorities import Generation

ORDER = RenewalOrder(after=START, reason="", set_at=START, starts_at=START, spread_seconds=60, nodes=3)


def bundle(made: Generation) -> X509Bundle:
    return X509Bundle(
        format=1,
        trust_domain=TRUST_DOMAIN,
        roots=(made.root.der,),
        node_issuers=(made.nodes.der,),
        service_issuers=(made.services.der,),
    )


def test_no_certificate_is_trusted_before_the_first_bundle() -> None:
    current = CurrentTrust(TRUST_DOMAIN)
    assert (current.version, current.roots, current.ca_pem, current.order) == (0, (), b"", None)
    assert (current.trust.trust_domain, current.trust.node_issuers) == (TRUST_DOMAIN, ())


def test_a_bundle_replaces_the_one_before_it() -> None:
    current, made = CurrentTrust(TRUST_DOMAIN), Generation()
    current.replace(7, bundle(made))
    assert current.version == 7
    assert current.roots == current.trust.roots == (made.root.certificate,)
    assert current.trust.node_issuers == (made.nodes.certificate,)
    assert current.trust.service_issuers == (made.services.certificate,)
    assert current.ca_pem == made.root.pem
    kept = current.trust
    with pytest.raises(TargetsError):
        current.replace(8, msgspec.structs.replace(bundle(Generation(2)), service_issuers=(b"no certificate",)))
    assert (current.version, current.trust) == (7, kept)


def test_a_bundle_without_a_valid_ca_of_a_class_is_a_fault() -> None:
    current, made = CurrentTrust(TRUST_DOMAIN), Generation()
    begins, ends = made.root.certificate.not_valid_before_utc, made.root.certificate.not_valid_after_utc
    assert current.outside(begins - timedelta(days=1)) == ""
    current.replace(1, bundle(made))
    assert current.outside(made.services.certificate.not_valid_before_utc) == ""
    assert current.outside(begins - timedelta(hours=1)).startswith("no published root is valid: the last is not valid")
    assert "has expired at" in current.outside(ends)


def test_an_issuer_is_named_by_its_key_whether_it_is_published_or_not() -> None:
    current, made, other = CurrentTrust(TRUST_DOMAIN), Generation(), Generation(2)
    current.replace(1, bundle(made))
    assert current.key_id(made.nodes.der) == made.nodes.key_id
    assert current.key_id(other.nodes.der) == key_id_of(x509.load_der_x509_certificate(other.nodes.der))
    with pytest.raises(ValueError, match="parsing"):
        current.key_id(b"no certificate")


def test_an_order_reaches_the_nodes_in_the_order_of_their_ids() -> None:
    on_its_way = msgspec.structs.replace(ORDER, woken=1, woken_up_to="node_b")
    assert [on_its_way.reached(node) for node in ("node_a", "node_b", "node_c")] == [True, True, False]
    assert msgspec.structs.replace(on_its_way, done=True).reached("node_c")
    assert not ORDER.reached("node_a")
    assert ORDER.starts_at - START == timedelta(0)
