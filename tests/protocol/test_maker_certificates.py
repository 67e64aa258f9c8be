"""`protocol.maker_certificates`: what makers do is read, signatures are over their bytes, everything else is refused."""

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from protocol import asn1
from protocol.asn1 import NULL, SEQUENCE, SET
from protocol.maker_certificates import (
    KEY_ENCIPHERMENT,
    CertificateUnreadable,
    SignatureUnverified,
    exact_certificate,
    read_certificate,
    split_certificates,
    verify_signature,
)
from tests.simulators import forged_evidence as forged
from tests.simulators import odd_certificates as odd
from tests.simulators.forged_evidence import maker
from tests.simulators.odd_certificates import Draft, tlv

EK = forged.rsa2048("ek")
CERTIFICATE = maker().certify(EK.public_key())
ISSUER = maker().intermediate


@pytest.mark.parametrize("fault", odd.FAULTS)
def test_a_certificate_with_a_fault_of_makers_says_the_same(fault: str) -> None:
    sound = read_certificate(CERTIFICATE)
    found = read_certificate(odd.faulty(CERTIFICATE, ISSUER.key, odd.FAULTS[fault]))
    verify_signature(found, ISSUER.key.public_key())
    assert (found.issuer, found.subject, found.ca, found.usage, found.purposes) == (
        sound.issuer,
        sound.subject,
        False,
        frozenset({KEY_ENCIPHERMENT}),
        frozenset({"2.23.133.8.1"}),
    )
    assert (found.begins, found.ends) == (
        sound.begins.replace(second=0) if "seconds" in fault else sound.begins,
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
    )
    assert found.key == EK.public_key()
    with pytest.raises(SignatureUnverified, match="not from its issuer's key"):
        verify_signature(found, maker("Other").intermediate.key.public_key())


def test_the_fields_are_those_that_a_library_reads() -> None:
    library = maker().intermediate.certificate
    found = read_certificate(library.public_bytes(Encoding.DER))
    assert (found.signed, found.signature) == (library.tbs_certificate_bytes, library.signature)
    assert (found.begins, found.ends) == (library.not_valid_before_utc, library.not_valid_after_utc)
    assert (found.ca, found.path_length, found.self_issued) == (True, None, False)
    assert found.subject_text == "CN=Maker Issuing"
    assert found.critical_beyond(frozenset()) == "2.5.29.19"
    assert found.critical_beyond(frozenset(found.extensions)) is None
    assert read_certificate(CERTIFICATE).subject_text == "manufacturer=id:43415343,model=Paper,version=id:00010000"


@pytest.mark.parametrize("tag", [0x0C, 0x13, 0x14, 0x1E])
def test_names_are_compared_without_their_string_type(tag: int) -> None:
    name = odd.common_name(" maker  ISSUING" if tag != 0x13 else "Maker Issuing", tag)
    found = read_certificate(odd.renamed(CERTIFICATE, ISSUER.key, issuer=name))
    assert found.issuer == read_certificate(ISSUER.der).subject


def test_names_are_compared_without_the_order_in_a_part() -> None:
    names = [
        read_certificate(odd.renamed(CERTIFICATE, ISSUER.key, issuer=odd.multi_valued("M", "R", ordered=each))).issuer
        for each in (True, False)
    ]
    assert names[0] == names[1] != read_certificate(CERTIFICATE).issuer


def unsigned(change: odd.Fault) -> bytes:
    return odd.faulty(CERTIFICATE, ISSUER.key, change)


def twice(draft: Draft) -> Draft:
    """The same extensions two times."""

    def change(field: bytes) -> bytes:
        inner = asn1.read_whole(asn1.read_whole(field, 0xA3).content, SEQUENCE).content
        return tlv(0xA3, tlv(SEQUENCE, inner, inner))

    return draft.with_field(7, change)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "ends early"),
        (b"\x10\x01\x00\x04\x06\x00\x00" + CERTIFICATE, "instead of 0x30"),
        (CERTIFICATE + b"\xff", "bytes follow"),
        (CERTIFICATE[:-1], "longer than the bytes"),
        (unsigned(twice), "twice"),
        (
            unsigned(lambda d: d.with_field(2, lambda _: tlv(SEQUENCE, bytes.fromhex("06082a8648ce3d040303")))),
            "two diff",
        ),
        (unsigned(lambda d: d.with_field(4, lambda _: tlv(SEQUENCE))), "wrong count"),
        (unsigned(lambda d: d.with_field(3, lambda _: tlv(SEQUENCE, tlv(SET, tlv(NULL))))), "instead of 0x30"),
        (unsigned(lambda d: Draft(d.fields[:4])), "too few fields"),
    ],
)
def test_what_cannot_be_read(raw: bytes, says: str) -> None:
    with pytest.raises(CertificateUnreadable, match=says):
        read_certificate(raw)


def spki(*algorithm: bytes, key: bytes = b"\4" + bytes(64)) -> odd.Fault:
    return lambda d: d.with_field(6, lambda _: tlv(SEQUENCE, tlv(SEQUENCE, *algorithm), tlv(3, b"\0", key)))


EC, P256, RSA = (
    bytes.fromhex("06072a8648ce3d0201"),
    bytes.fromhex("06082a8648ce3d030107"),
    bytes.fromhex("06092a864886f70d010101"),
)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (spki(EC, P256), "cannot be used"),
        (spki(EC), "neither RSA nor"),
        (spki(EC, bytes.fromhex("06052b8104000a")), "neither RSA nor"),
        (spki(RSA, key=tlv(SEQUENCE, odd.integer(2**512 + 1), odd.integer(3))), "1024 to 8192"),
        (spki(RSA, key=tlv(SEQUENCE, odd.integer(2**9000 + 1), odd.integer(3))), "1024 to 8192"),
        (spki(RSA, key=tlv(SEQUENCE, odd.integer(2**2048 + 1), odd.integer(2))), "cannot be used"),
    ],
)
def test_keys_that_cannot_be_used(fault: odd.Fault, says: str) -> None:
    with pytest.raises(CertificateUnreadable, match=says):
        read_certificate(unsigned(fault))


def test_the_key_of_an_older_certificate_is_read() -> None:
    numbers = EK.public_key().public_numbers()
    key = tlv(SEQUENCE, odd.integer(numbers.n), odd.integer(numbers.e))
    oaep = spki(bytes.fromhex("06092a864886f70d010107"), b"\x30\0", key=key)
    assert read_certificate(unsigned(oaep)).key == EK.public_key()


def signed_by(key: rsa.RSAPrivateKey, algorithm: hashes.SHA256, **options: padding.PSS) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "R")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, forged.NOW, forged.NOW)
    return builder.sign(key, algorithm, rsa_padding=options.get("scheme")).public_bytes(Encoding.DER)


def test_signatures_of_rsa_keys() -> None:
    key = forged.rsa2048("ca")
    for scheme in (
        None,
        padding.PSS(padding.MGF1(hashes.SHA256()), 32),
        padding.PSS(padding.MGF1(hashes.SHA256()), 20),
    ):
        options = {"scheme": scheme} if scheme else {}
        verify_signature(read_certificate(signed_by(key, hashes.SHA256(), **options)), key.public_key())
        with pytest.raises(SignatureUnverified, match="not from"):
            verify_signature(read_certificate(signed_by(key, hashes.SHA256(), **options)), EK.public_key())
    with pytest.raises(SignatureUnverified, match="is of the kind"):
        verify_signature(read_certificate(CERTIFICATE), key.public_key())
    with pytest.raises(SignatureUnverified, match="is of the kind"):
        verify_signature(read_certificate(signed_by(key, hashes.SHA256())), ISSUER.key.public_key())


def test_weak_signatures_do_not_count() -> None:
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505  the weak key is what is refused
    with pytest.raises(SignatureUnverified, match="1024 bits only"):
        verify_signature(read_certificate(signed_by(short, hashes.SHA256())), short.public_key())
    sha1 = bytes.fromhex("06092a864886f70d010105")
    weak = Draft.of(CERTIFICATE).with_field(2, lambda _: tlv(SEQUENCE, sha1, b"\5\0"))
    raw = Draft(weak.fields, tlv(SEQUENCE, sha1, b"\5\0")).sign(ISSUER.key)
    with pytest.raises(SignatureUnverified, match="is of the kind"):
        verify_signature(read_certificate(raw), EK.public_key())


def test_padding_behind_a_certificate_is_cut() -> None:
    assert exact_certificate(CERTIFICATE + b"\xff" * 200) == CERTIFICATE
    assert exact_certificate(b"\xff" * 20) == b"\xff" * 20
    assert exact_certificate(b"\x31\x00\xff") == b"\x31\x00\xff"


def test_a_concatenation_is_split() -> None:
    one, two = maker().root.der, ISSUER.der
    assert split_certificates(one + two + b"\xff" * 9, 8) == [one, two]
    assert split_certificates(one + two, 1) == [one]
    assert split_certificates(one + two[:-1], 8) == [one]
    assert split_certificates(b"", 8) == split_certificates(b"\0" * 9, 8) == []
    assert split_certificates(b"\x30\x00" * 5, 3) == [b"\x30\x00"] * 3


@given(position=st.integers(0, len(CERTIFICATE) - 1), change=st.integers(1, 255))
def test_no_changed_byte_verifies(position: int, change: int) -> None:
    """The count of unused bits before the signature is left out, as it is not signed and changes nothing."""
    raw = bytearray(CERTIFICATE)
    raw[position] ^= change
    try:
        found = read_certificate(bytes(raw))
    except CertificateUnreadable:
        return
    if found.signed == read_certificate(CERTIFICATE).signed and found.signature_kind == "1.2.840.10045.4.3.2":
        assert position > len(CERTIFICATE) - 90
    try:
        verify_signature(found, ISSUER.key.public_key())
    except SignatureUnverified:
        return
    assert found.signed == read_certificate(CERTIFICATE).signed


def test_a_curve_of_the_issuer_may_be_longer() -> None:
    key = ec.generate_private_key(ec.SECP521R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "R")])
    raw = x509.CertificateBuilder(name, name, key.public_key(), 1, forged.NOW, forged.NOW).sign(key, hashes.SHA512())
    verify_signature(read_certificate(raw.public_bytes(Encoding.DER)), key.public_key())
