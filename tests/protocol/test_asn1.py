"""`protocol.asn1`: elements are read within bounds, and every other input is an Asn1Error."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import asn1
from protocol.asn1 import Asn1Error, Element


def element(written: str) -> Element:
    return asn1.read_element(bytes.fromhex(written))


@pytest.mark.parametrize("written", ["0401ff", "048101ff", "0484 00000001 ff"])
def test_a_length_need_not_be_minimal(written: str) -> None:
    found = element(written)
    assert (found.tag, found.content, found.whole) == (asn1.OCTET_STRING, b"\xff", bytes.fromhex(written))


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("", "ends early"),
        ("30", "ends early"),
        ("1f8101 00", "tag of several bytes"),
        ("3080 0000", "no definite length"),
        ("3085 0000000001 00", "more than 4 bytes"),
        ("3002 00", "longer than the bytes"),
        ("3084 ffffffff 00", "longer than the bytes"),
        ("3082", "longer than the bytes|ends early"),
    ],
)
def test_what_is_no_element(written: str, says: str) -> None:
    with pytest.raises(Asn1Error, match=says):
        asn1.children(asn1.read_whole(bytes.fromhex(written), asn1.SEQUENCE))


def test_bytes_behind_are_refused_and_parts_are_counted() -> None:
    with pytest.raises(Asn1Error, match="follow"):
        asn1.read_whole(bytes.fromhex("3000ff"), asn1.SEQUENCE)
    with pytest.raises(Asn1Error, match="instead of 0x30"):
        asn1.read_whole(bytes.fromhex("3100"), asn1.SEQUENCE)
    most = Element(asn1.SEQUENCE, b"\5\0" * asn1.CHILDREN_MAX, b"")
    assert len(asn1.children(most)) == asn1.CHILDREN_MAX
    with pytest.raises(Asn1Error, match="more than 128 parts"):
        asn1.children(Element(asn1.SEQUENCE, most.content + b"\5\0", b""))


def test_values() -> None:
    assert [asn1.boolean(element(each)) for each in ("010100", "0101ff", "010101")] == [False, True, True]
    assert [asn1.integer(element(each)) for each in ("020100", "0202ffff", "0203000001")] == [0, -1, 1]
    assert asn1.unsigned(element("0201ff")) == 255
    assert asn1.bits(element("0302 05ff")) == b"\xe0"
    assert asn1.bits(element("0301 00")) == b""
    assert asn1.object_identifier(element("0603551d0f")) == "2.5.29.15"
    assert asn1.object_identifier(element("0605 67810508 01")) == "2.23.133.8.1"
    assert asn1.object_identifier(element("06082a8648ce3d040302")) == "1.2.840.10045.4.3.2"
    assert [asn1.text(element(each)) for each in ("0c0161", "1e020061", "1401e4", "020161")] == ["a", "a", "ä", None]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("170d", "not even one"),
        ("0101", "early"),
        ("0100", "BOOLEAN"),
        ("0200", "INTEGER"),
        ("0300", "BIT STRING"),
        ("030108", "BIT STRING"),
        ("030101", "BIT STRING"),
        ("0600", "OBJECT"),
        ("060180", "OBJECT"),
        ("0641" + "01" * 65, "OBJECT"),
    ],
)
def test_wrong_values(written: str, read: str) -> None:
    readers = {1: asn1.boolean, 2: asn1.integer, 3: asn1.bits, 6: asn1.object_identifier, 0x17: asn1.time}
    with pytest.raises(Asn1Error):
        readers[bytes.fromhex(written)[0]](element(written))
    if read == "INTEGER":
        with pytest.raises(Asn1Error):
            asn1.unsigned(element(written))


@pytest.mark.parametrize(
    ("tag", "written", "when"),
    [
        (asn1.UTC_TIME, "491231235959Z", datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (asn1.UTC_TIME, "5001010000Z", datetime(1950, 1, 1, tzinfo=UTC)),
        (asn1.UTC_TIME, "200101020000+0200", datetime(2020, 1, 1, tzinfo=UTC)),
        (asn1.UTC_TIME, "200101000000", datetime(2020, 1, 1, tzinfo=UTC)),
        (asn1.GENERALIZED_TIME, "20200101000060Z", datetime(2020, 1, 1, 0, 0, 59, tzinfo=UTC)),
        (asn1.GENERALIZED_TIME, "20200101000000.5Z", datetime(2020, 1, 1, tzinfo=UTC)),
        (asn1.GENERALIZED_TIME, "202001010000-0130", datetime(2020, 1, 1, 1, 30, tzinfo=UTC)),
        (asn1.GENERALIZED_TIME, "99991231235959Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_times_of_makers(tag: int, written: str, when: datetime) -> None:
    assert asn1.time(Element(tag, written.encode(), b"")) == when


@pytest.mark.parametrize(
    "written",
    [
        "",
        "Z",
        "2020",
        "20201301000000Z",
        "00000101000000Z",
        "2020010100000xZ",
        "99991231235959-2359",
        "²0200101000000Z",
    ],
)
def test_what_is_no_time(written: str) -> None:
    with pytest.raises(Asn1Error, match="date"):
        asn1.time(Element(asn1.GENERALIZED_TIME, written.encode(), b""))


@given(st.binary(max_size=200))
def test_no_input_ends_in_another_error(raw: bytes) -> None:
    for read in (
        lambda: asn1.children(asn1.read_whole(raw, asn1.SEQUENCE)),
        lambda: asn1.time(asn1.read_element(raw)),
        lambda: asn1.object_identifier(Element(asn1.OBJECT_IDENTIFIER, raw, raw)),
        lambda: asn1.bits(Element(asn1.BIT_STRING, raw, raw)),
    ):
        with suppress(Asn1Error):
            read()
