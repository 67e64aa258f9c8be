"""Chains of services: the leaf, its issuer, and the cross-certificates up to trusted roots."""

from datetime import timedelta

import msgspec
import pytest
from cryptography import x509

from cloud.clock import utc_now
from cloud.mtls.chain import build_chain
from cloud.mtls.identity import IdentityError
from cloud.mtls.peer import require_issuer
from tests.cloud.mtls.identities import crossed, der
from tests.cloud.pki import Pki, authority


def test_the_chain_is_the_leaf_its_issuer_and_what_crosses_its_root() -> None:
    pki = Pki()
    oldest, older = authority("oldest"), authority("older")
    leaf = pki.service("fabric").certificate
    new_by_older, older_by_oldest = crossed(pki.root, older), crossed(older, oldest)
    older_by_new, expired = crossed(older, pki.root), crossed(pki.root, oldest, timedelta(days=-1))
    stranger = crossed(authority("root"), older)
    offered = (
        *(pki.root.certificate, pki.nodes.certificate, pki.services.certificate, oldest.certificate),
        *(older_by_oldest, new_by_older, older_by_new, expired, stranger),
    )
    pem = build_chain(leaf, tuple(map(der, offered)), pki.trust, utc_now())
    assert x509.load_pem_x509_certificates(pem) == [leaf, pki.services.certificate, new_by_older, older_by_oldest]
    alone = build_chain(leaf, (der(pki.root.certificate),), pki.trust, utc_now())
    assert x509.load_pem_x509_certificates(alone) == [leaf, pki.services.certificate]
    require_issuer(leaf, pki.trust.service_issuers)
    # Only up to trusted roots, if the trusted roots are known.
    for roots, led in (((pki.root, older, oldest), 2), ((pki.root, older), 1), ((pki.root, oldest), 0), ((), 0)):
        trust = msgspec.structs.replace(pki.trust, roots=tuple(root.certificate for root in roots))
        pem = build_chain(leaf, tuple(map(der, offered)), trust, utc_now())
        assert x509.load_pem_x509_certificates(pem)[2:] == [new_by_older, older_by_oldest][:led]
    with pytest.raises(IdentityError, match="not issued by a CA of services in the current trust"):
        build_chain(pki.node().certificate, (), pki.trust, utc_now())
