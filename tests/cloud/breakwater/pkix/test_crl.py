"""`cloud.breakwater.pkix.crl`: the content of a list, and that the lint refuses every mutation of it."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.errors import LintError
from cloud.breakwater.pkix.crl import (
    CRL_LIFE_MAX,
    ENTRIES_MAX,
    Entry,
    WantedCrl,
    build_crl,
    lint_crl,
    make_crl,
    want_crl,
)
from cloud.breakwater.pkix.linted import algorithm_der, assemble
from cloud.breakwater.pkix.profiles import CaName, Issuer, hash_of, make_serial

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
LIFE = timedelta(days=4)
URL = "http://pki.cascade.test/crl/nodes-1/1.crl"
SERIALS = [make_serial(bytes([n]) * 20) for n in (3, 1, 2)]
ENTRIES = tuple(Entry(serial, NOW, reason) for serial, reason in zip(SERIALS, (0, 1, 4), strict=True))


def issuer(curve: str = "secp256r1", name: CaName = "nodes") -> Issuer:
    return Issuer(
        name=name,
        authority=f"{name}-1",
        subject=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cascade.test nodes CA 1")]),
        key_id=b"k" * 20,
        curve=curve,
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=3650),
        certificate_der=b"",
    )


def wanted(**changes: object) -> WantedCrl:
    return msgspec.structs.replace(want_crl(7, NOW, LIFE, ENTRIES, URL), **changes)


@pytest.mark.parametrize("curve", ["secp256r1", "secp384r1"])
def test_the_content_of_a_list(curve: str) -> None:
    linted = make_crl(wanted(), issuer(curve), 6)
    crl = x509.load_der_x509_crl(assemble(linted.redeem(), curve, b"\x00"))
    assert [entry.serial_number for entry in crl] == sorted(SERIALS)
    assert crl.last_update_utc == NOW.replace(microsecond=0)
    assert crl.next_update_utc == NOW.replace(microsecond=0) + LIFE
    assert [extension.critical for extension in crl.extensions] == [False, False, True]
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 7
    assert crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == b"k" * 20
    point = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value
    assert point.full_name == [x509.UniformResourceIdentifier(URL)]
    assert (point.only_contains_user_certs, point.only_contains_ca_certs, point.indirect_crl) == (True, False, False)
    reasons = {entry.serial_number: list(entry.extensions) for entry in crl}
    assert reasons[SERIALS[0]] == []
    assert reasons[SERIALS[1]][0].value == x509.CRLReason(x509.ReasonFlags.key_compromise)
    assert reasons[SERIALS[2]][0].value == x509.CRLReason(x509.ReasonFlags.superseded)


def test_a_list_without_entries_has_no_list_of_them() -> None:
    crl = x509.load_der_x509_crl(assemble(make_crl(wanted(entries=()), issuer()).tbs, "secp256r1", b"\x00"))
    assert len(crl) == 0


def test_a_roots_list_has_no_distribution_point() -> None:
    linted = make_crl(wanted(distribution_url=None), issuer("secp384r1", "root"))
    crl = x509.load_der_x509_crl(assemble(linted.tbs, "secp384r1", b"\x00"))
    assert [type(extension.value) for extension in crl.extensions] == [x509.AuthorityKeyIdentifier, x509.CRLNumber]


def test_dates_beyond_2049() -> None:
    late = datetime(2049, 12, 31, 12, 0, 0, tzinfo=UTC)
    made = want_crl(7, late, LIFE, (Entry(1, late + timedelta(days=2)), Entry(2, late)), URL)
    make_crl(made, msgspec.structs.replace(issuer(), not_after=late + LIFE))


def test_the_largest_list() -> None:
    entries = [Entry(make_serial(os.urandom(20)), NOW, 1) for _ in range(ENTRIES_MAX)]
    linted = make_crl(want_crl(7, NOW, LIFE, entries, URL), issuer())
    assert len(linted.tbs) < 280_000


@pytest.mark.parametrize(
    ("rule", "changes", "previous"),
    [
        ("crl_number", {}, 7),
        ("crl_number", {}, 8),
        ("crl_number", {"number": 2**63}, 0),
        ("crl_dates", {"next_update": NOW.replace(microsecond=0)}, 0),
        ("crl_dates", {"next_update": NOW.replace(microsecond=0) + CRL_LIFE_MAX + timedelta(seconds=1)}, 0),
        ("crl_dates", {"this_update": NOW + timedelta(days=3650), "next_update": NOW + timedelta(days=3651)}, 0),
        ("crl_entries", {"entries": tuple(Entry(n, NOW) for n in range(1, ENTRIES_MAX + 2))}, 0),
        ("crl_order", {"entries": ENTRIES}, 0),
        ("crl_order", {"entries": (ENTRIES[1], ENTRIES[1])}, 0),
        ("crl_serials", {"entries": (Entry(2**159, NOW),)}, 0),
        ("crl_build", {"entries": (Entry(1, NOW, 8),)}, 0),
        ("crl_build", {"entries": (Entry(1, NOW, 6),)}, 0),
        ("crl_scope", {"distribution_url": None}, 0),
    ],
)
def test_lists_out_of_bounds_are_refused(rule: str, changes: dict[str, object], previous: int) -> None:
    with pytest.raises(LintError) as refused:
        make_crl(wanted(**changes), issuer(), previous)
    assert refused.value.rule == rule


def test_a_root_names_no_shard() -> None:
    with pytest.raises(LintError) as refused:
        make_crl(wanted(), issuer("secp256r1", "root"))
    assert refused.value.rule == "crl_scope"


def built(extensions: list[x509.Extension[x509.ExtensionType]] | None = None, **changes: object) -> bytes:
    """A list built directly with `cryptography`, in which `changes` replace parts of the clean list."""
    good = x509.load_der_x509_crl(assemble(build_crl(wanted(), issuer()), "secp256r1", b"\x00"))
    entries = changes.get("entries", list(good))
    builder = x509.CertificateRevocationListBuilder(
        changes.get("name", good.issuer),  # type: ignore[arg-type]
        changes.get("last_update", NOW.replace(tzinfo=None, microsecond=0)),  # type: ignore[arg-type]
        changes.get("next_update", (NOW + LIFE).replace(tzinfo=None, microsecond=0)),  # type: ignore[arg-type]
        list(good.extensions) if extensions is None else extensions,
        entries,  # type: ignore[arg-type]
    )
    curve: ec.EllipticCurve = changes.get("curve", ec.SECP256R1())  # type: ignore[assignment]
    return builder.sign(ec.derive_private_key(1, curve), hash_of(curve.name)).tbs_certlist_bytes


def extension(value: x509.ExtensionType, critical: bool = False) -> x509.Extension[x509.ExtensionType]:
    return x509.Extension(value.oid, critical, value)


def good_extensions() -> list[x509.Extension[x509.ExtensionType]]:
    return list(x509.load_der_x509_crl(assemble(build_crl(wanted(), issuer()), "secp256r1", b"\x00")).extensions)


def point(**changes: object) -> x509.Extension[x509.ExtensionType]:
    parts: dict[str, object] = {
        "full_name": [x509.UniformResourceIdentifier(URL)],
        "relative_name": None,
        "only_contains_user_certs": True,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return extension(x509.IssuingDistributionPoint(**(parts | changes)), True)  # type: ignore[arg-type]


def with_last(last: x509.Extension[x509.ExtensionType]) -> list[x509.Extension[x509.ExtensionType]]:
    return [*good_extensions()[:2], last]


def other_entry(serial: int, at: datetime = NOW, reason: x509.ReasonFlags | None = None) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder(serial, at.replace(tzinfo=None, microsecond=0), [])
    if reason is not None:
        builder = builder.add_extension(x509.CRLReason(reason), critical=False)
    return builder.build()


def other_name() -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "another CA")])


MUTATIONS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "garbage": ("crl_der", lambda: b"\x30\x03\x02\x01\x00"),
    "nothing": ("crl_der", lambda: b""),
    "bytes after it": ("crl_der", lambda: build_crl(wanted(), issuer()) + b"\x05\x00"),
    "another issuer": ("crl_issuer", lambda: built(name=other_name())),
    "another algorithm": ("crl_der", lambda: built(curve=ec.SECP384R1())),
    "another thisUpdate": ("crl_dates", lambda: built(last_update=NOW.replace(tzinfo=None) - timedelta(hours=1))),
    "another nextUpdate": ("crl_dates", lambda: built(next_update=NOW.replace(tzinfo=None) + timedelta(days=9))),
    "an entry missing": ("crl_entries", lambda: built(entries=[other_entry(serial) for serial in sorted(SERIALS)[:2]])),
    "no entries": ("crl_entries", lambda: built(entries=[])),
    "another serial": ("crl_entries", lambda: built(entries=[other_entry(n) for n in (1, 2, 3)])),
    "another order": ("crl_entries", lambda: built(entries=[other_entry(serial) for serial in SERIALS])),
    "unspecified, said aloud": (
        "crl_entries",
        lambda: built(entries=[other_entry(n, NOW, x509.ReasonFlags.unspecified) for n in sorted(SERIALS)]),
    ),
    "removeFromCRL": (
        "crl_entries",
        lambda: built(entries=[other_entry(n, NOW, x509.ReasonFlags.remove_from_crl) for n in sorted(SERIALS)]),
    ),
    "no AKI": ("crl_extensions", lambda: built(good_extensions()[1:])),
    "no number": ("crl_extensions", lambda: built([good_extensions()[0], good_extensions()[2]])),
    "no distribution point": ("crl_extensions", lambda: built(good_extensions()[:2])),
    "another key": (
        "crl_extensions",
        lambda: built([extension(x509.AuthorityKeyIdentifier(b"x" * 20, None, None)), *good_extensions()[1:]]),
    ),
    "another number": (
        "crl_extensions",
        lambda: built([good_extensions()[0], extension(x509.CRLNumber(8)), good_extensions()[2]]),
    ),
    "not critical": ("crl_extensions", lambda: built(with_last(extension(point().value)))),
    "another shard": (
        "crl_extensions",
        lambda: built(with_last(point(full_name=[x509.UniformResourceIdentifier(URL.replace("1.crl", "2.crl"))]))),
    ),
    "two addresses": (
        "crl_extensions",
        lambda: built(with_last(point(full_name=[x509.UniformResourceIdentifier(URL)] * 2))),
    ),
    "for CAs": (
        "crl_extensions",
        lambda: built(with_last(point(only_contains_user_certs=False, only_contains_ca_certs=True))),
    ),
    "for everybody": ("crl_extensions", lambda: built(with_last(point(only_contains_user_certs=False)))),
    "indirect": ("crl_extensions", lambda: built(with_last(point(indirect_crl=True)))),
    "a delta": ("crl_extensions", lambda: built([*good_extensions(), extension(x509.DeltaCRLIndicator(6), True)])),
    "version 1": (
        "crl_der",
        lambda: build_crl(wanted(), issuer()).replace(b"\x02\x01\x01\x30", b"\x02\x01\x00\x30", 1),
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_no_mutation_passes(name: str) -> None:
    rule, make = MUTATIONS[name]
    with pytest.raises(LintError) as refused:
        lint_crl(make(), wanted(), issuer())
    assert refused.value.rule == rule


def test_the_list_before_the_mutations_passes() -> None:
    assert lint_crl(built(), wanted(), issuer()).tbs == build_crl(wanted(), issuer())
    assert algorithm_der("secp256r1") in built()


def test_no_single_byte_can_change() -> None:
    tbs = build_crl(wanted(), issuer())
    for at in range(len(tbs)):
        mutated = tbs[:at] + bytes([tbs[at] ^ 1]) + tbs[at + 1 :]
        with pytest.raises(LintError):
            lint_crl(mutated, wanted(), issuer())


def test_it_is_signed_once() -> None:
    linted = make_crl(wanted(), issuer())
    linted.redeem()
    with pytest.raises(LintError, match="already"):
        linted.redeem()
