"""`cloud.breakwater.pkix.lint_rules`: every version of a profile has its rules, and parsers read every OID."""

from cryptography.hazmat.primitives.serialization import Encoding

from cloud.breakwater.pkix.lint_rules import NEWEST, RULES
from protocol.ids import EKU_DEVICE, EKU_DEVICE_OLD
from tests.cloud.breakwater.chains import load, make_chain, specimens

ARC_MAX = 2**31 - 1
"""Go's `encoding/asn1` refuses larger numbers."""


def identifiers(der: bytes) -> list[bytes]:
    """The content of every OBJECT IDENTIFIER in a DER value, also of those inside OCTET STRINGs."""
    found, at = [], 0
    while at < len(der):
        tag, length, start = der[at], der[at + 1], at + 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(der[at + 2 : start], "big")
        content = der[start : start + length]
        if tag == 0x06:
            found.append(content)
        elif tag & 0x20 or (tag == 0x04 and content[:1] in (b"\x30", b"\x06")):
            found += identifiers(content)
        at = start + length
    return found


def arcs(content: bytes) -> list[int]:
    """The numbers of an encoded OID; the first two are one number."""
    numbers, value = [], 0
    for byte in content:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    return numbers


async def test_every_number_of_every_oid_has_at_most_31_bits() -> None:
    for name, (der, _) in (await specimens()).items():
        oids = identifiers(load(der).public_bytes(Encoding.DER))
        assert len(oids) > 5, name
        assert max(number for oid in oids for number in arcs(oid)) <= ARC_MAX, name


async def test_the_device_oid_is_seen_by_that_test() -> None:
    chain = await make_chain()
    device = await chain.sign(*chain.wanted()["device"])
    last = int(EKU_DEVICE.rpartition(".")[2])
    assert last in [number for oid in identifiers(device) for number in arcs(oid)]
    assert int(EKU_DEVICE_OLD.rpartition(".")[2]) > ARC_MAX


def test_old_versions_keep_the_old_purpose() -> None:
    purposes = {version: RULES["device", version].purposes for version in (1, 2, 3)}
    assert purposes == {1: (EKU_DEVICE_OLD,), 2: (EKU_DEVICE_OLD,), 3: (EKU_DEVICE,)}
    assert max(version for _, version in RULES) == NEWEST
