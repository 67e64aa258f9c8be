"""Checks of an issued certificate: each mutation is refused at its exact step."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node.exits import Exit
from node.link.certificates import EKU_SESSION, CertificateRejected, Window, chain_of, check_chain
from protocol.ids import EKU_DEVICE, EKU_DEVICE_OLD, NodeId, NodeSpiffeId
from protocol.limits import CLOCK_SKEW
from tests.simulators.fabric import (
    DOMAIN,
    NODE,
    NODE_URI,
    TENANT,
    Fabric,
    authority,
    make_certificate,
    subject,
    utc_now,
)

FABRIC = Fabric()
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
NOW = utc_now().replace(microsecond=0)
Chain = tuple[bytes, ...]


def expected(**changes: Any) -> dict[str, Any]:
    return {
        "bundle": FABRIC.bundle,
        "spiffe": NodeSpiffeId(DOMAIN, TENANT, NODE),
        "generation": 2,
        "usage": EKU_DEVICE,
        "public_key": KEY.public_key(),
        "window": at(NOW),
    } | changes


def at(time: datetime) -> Window:
    return Window(time, time)


def chain(
    *,
    uris: tuple[str, ...] = (NODE_URI,),
    dns: tuple[str, ...] = (),
    serials: tuple[str, ...] = ("2",),
    usages: tuple[str, ...] = (EKU_DEVICE,),
    ca: bool | None = None,
    named: bool = True,
    not_before: datetime = NOW,
    not_after: datetime = NOW + timedelta(days=90),
) -> Chain:
    names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
    extensions: list[x509.ExtensionType] = [x509.SubjectAlternativeName(names)] if named else []
    if usages:
        extensions.append(x509.ExtendedKeyUsage([x509.ObjectIdentifier(usage) for usage in usages]))
    if ca is not None:
        extensions.append(x509.BasicConstraints(ca=ca, path_length=None))
    certificate = make_certificate(
        FABRIC.nodes,
        KEY.public_key(),
        subject((NameOID.COMMON_NAME, NODE), *((NameOID.SERIAL_NUMBER, serial) for serial in serials)),
        *extensions,
        not_before=not_before,
        not_after=not_after,
    )
    return certificate.public_bytes(serialization.Encoding.DER), FABRIC.nodes.der


def by(other: Any) -> Chain:
    """A chain of another issuer with the same name."""
    name = subject((NameOID.COMMON_NAME, NODE), (NameOID.SERIAL_NUMBER, "2"))
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(NODE_URI)])
    usage = x509.ExtendedKeyUsage([x509.ObjectIdentifier(EKU_DEVICE)])
    leaf = make_certificate(other, KEY.public_key(), name, san, usage)
    return leaf.public_bytes(serialization.Encoding.DER), other.der


def with_byte(der: bytes, at: int) -> bytes:
    return der[:at] + bytes([der[at] ^ 1]) + der[at + 1 :]


CHAINS: list[tuple[str, int, Callable[[], Chain]]] = [
    ("empty", 1, lambda: ()),
    ("leaf alone", 1, lambda: chain()[:1]),
    ("too long", 1, lambda: (*chain(), FABRIC.root.der, FABRIC.root.der, FABRIC.root.der)),
    ("no certificate", 1, lambda: (b"\x30\x00", FABRIC.nodes.der)),
    ("no issuer's certificate", 1, lambda: (chain()[0], b"")),
    ("nobody's", 1, lambda: chain(named=False)),
    ("by the CA of services", 2, lambda: by(FABRIC.services)),
    ("by another CA under the root", 2, lambda: by(authority("nodes", FABRIC.root))),
    ("by the root", 2, lambda: by(FABRIC.root)),
    ("by a stranger, ours shown", 2, lambda: (by(authority("nodes"))[0], FABRIC.nodes.der)),
    ("signature changed", 2, lambda: (with_byte(leaf := chain()[0], len(leaf) - 1), FABRIC.nodes.der)),
    ("another node's", 3, lambda: chain(uris=(NODE_URI[:-1] + "2",))),
    ("another tenant's", 3, lambda: chain(uris=(NODE_URI.replace("ten_01", "ten_02"),))),
    ("another domain's", 3, lambda: chain(uris=(NODE_URI.replace(DOMAIN, "other"),))),
    ("a service's", 3, lambda: chain(uris=(f"spiffe://{DOMAIN}/service/fabric",))),
    ("two ids", 3, lambda: chain(uris=(NODE_URI, NODE_URI))),
    ("a host name beside", 3, lambda: chain(dns=("localhost",))),
    ("an older generation", 4, lambda: chain(serials=("1",))),
    ("no generation", 4, lambda: chain(serials=())),
    ("two generations", 4, lambda: chain(serials=("2", "2"))),
    ("another spelling", 4, lambda: chain(serials=("02",))),
    ("session's usage", 5, lambda: chain(usages=(EKU_SESSION,))),
    ("no usage", 5, lambda: chain(usages=())),
    ("a usage beside", 5, lambda: chain(usages=(EKU_DEVICE, EKU_SESSION))),
    ("the old usage beside the new", 5, lambda: chain(usages=(EKU_DEVICE, EKU_DEVICE_OLD))),
    ("any usage", 5, lambda: chain(usages=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE.dotted_string,))),
    ("a CA's", 7, lambda: chain(ca=True)),
    ("not yet", 8, lambda: chain(not_before=NOW + CLOCK_SKEW + timedelta(seconds=1))),
    ("over", 8, lambda: chain(not_before=NOW - timedelta(days=2), not_after=NOW)),
]


@pytest.mark.parametrize(("step", "make"), [row[1:] for row in CHAINS], ids=[row[0] for row in CHAINS])
def test_one_mutation_one_step(step: int, make: Callable[[], Chain]) -> None:
    with pytest.raises(CertificateRejected) as caught:
        check_chain(make(), **expected())
    assert caught.value.step == step
    assert caught.value.exit is Exit.VERIFICATION


def test_the_old_usage_of_device_certificates_is_accepted() -> None:
    before = chain(usages=(EKU_DEVICE_OLD,))
    assert check_chain(before, **expected()).public_bytes(serialization.Encoding.DER) == before[0]
    with pytest.raises(CertificateRejected) as caught:
        check_chain(before, **expected(usage=EKU_SESSION))
    assert caught.value.step == 5


def test_another_key_is_step_6() -> None:
    with pytest.raises(CertificateRejected) as caught:
        check_chain(chain(), **expected(public_key=OTHER.public_key()))
    assert caught.value.step == 6


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"bundle": msgspec.structs.replace(FABRIC.bundle, node_issuers=(FABRIC.services.der,))}, 2),
        ({"bundle": msgspec.structs.replace(FABRIC.bundle, node_issuers=())}, 2),
        ({"spiffe": NodeSpiffeId(DOMAIN, TENANT, NodeId(NODE[:-1] + "2"))}, 3),
        ({"generation": 3}, 4),
        ({"usage": EKU_SESSION}, 5),
        ({"window": at(NOW - CLOCK_SKEW - timedelta(seconds=1))}, 8),
        ({"window": at(NOW + timedelta(days=90))}, 8),
    ],
)
def test_one_other_expectation_one_step(changes: dict[str, Any], step: int) -> None:
    with pytest.raises(CertificateRejected) as caught:
        check_chain(chain(), **expected(**changes))
    assert caught.value.step == step


def test_a_right_certificate_is_accepted() -> None:
    """Basic constraints may say that the leaf is no CA. The first and the last instant of its validity count."""
    for good, now in (
        (chain(), NOW),
        (chain(ca=False), NOW - CLOCK_SKEW),
        (chain(), NOW + timedelta(days=90, seconds=-1)),
    ):
        leaf = check_chain(good, **expected(window=at(now)))
        assert leaf.public_bytes(serialization.Encoding.DER) == good[0]


def test_certificates_above_the_issuer_are_not_checked() -> None:
    for above in ((FABRIC.root.der,), (FABRIC.root.der, b"not looked at")):
        assert check_chain((*chain(), *above), **expected()).serial_number


def test_a_leaf_is_given_the_issuer_that_signed_it() -> None:
    newer = authority("nodes", FABRIC.root)
    bundle = msgspec.structs.replace(FABRIC.bundle, node_issuers=(newer.der, FABRIC.nodes.der))
    for good in (chain(), by(newer)):
        assert chain_of(good[0], bundle) == good
    for leaf, step in ((by(authority("nodes"))[0], 2), (b"", 1)):
        with pytest.raises(CertificateRejected) as caught:
            chain_of(leaf, bundle)
        assert caught.value.step == step


def test_any_changed_byte_of_the_signed_part_is_refused() -> None:
    good = chain()
    signed = x509.load_der_x509_certificate(good[0]).tbs_certificate_bytes
    start = good[0].index(signed)
    for at in range(start, start + len(signed)):
        with pytest.raises(CertificateRejected):
            check_chain((with_byte(good[0], at), good[1]), **expected())
