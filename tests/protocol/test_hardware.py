"""Fingerprints of hardware: one spelling a value, one name a kind, and another HMAC for each tenant and kind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.fingerprint import WEIGHTS
from protocol.hardware import canonical, component_hmac, fingerprint, named

SALT = b"s" * 32
ONE_VALUE = {
    "product_uuid": [
        "4c4c4544-0051-3510-8052-b4c04f564432", "44454C4C-5100-1035-8052-B4C04F564432",
        "{4C4C4544-0051-3510-8052-B4C04F564432}", "urn:uuid:4c4c4544-0051-3510-8052-b4c04f564432",
        "4c4c454400513510 8052b4c04f564432",
    ],
    "board_serial": [".5Q5RVD2.CNFCP0096L00DE.", " .5q5rvd2.cnfcp0096l00de. \n"],
    "chassis_serial": ["CZC 1234", "czc  1234"],
    "disk_serial": ["WD-WCC 4E12/34", "wd-wcc_4e12_34", "  WD-WCC  4E12/34 ", "WD-WCC_4E12/34__"],
    "disk_wwn": ["0x5002538d40878f8e", "naa.5002538d40878f8e", "5002538D40878F8E", "wwn-0x5002538d40878f8e", "50:02:53:8d:40:87:8f:8e"],
    "mac": ["b8:2a:72:aa:bb:cc", "B8-2A-72-AA-BB-CC", "b82a.72aa.bbcc", "b82a72aabbcc"],
}  # fmt: skip
OTHER_VALUES = [
    ("product_uuid", "4c4c4544-0051-3510-8052-b4c04f564432", "4c4c4544-5100-3510-8052-b4c04f564432"),
    ("board_serial", "CN-1", "CN1"),
    ("disk_serial", "1-23", "12-3"),
    ("disk_wwn", "naa.5002538d40878f8e", "eui.5002538d40878f8e"),
    ("disk_wwn", "t10.ATA Disk S1", "t10.ATA Disk S2"),
    ("mac", "b8:2a:72:aa:bb:cc", "b8:2a:72:aa:bb:cd"),
]
HEX = st.text("0123456789abcdef", min_size=32, max_size=32)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_all_spellings_of_a_value_have_one_hmac(kind: str) -> None:
    assert len({component_hmac(SALT, kind, spelling) for spelling in ONE_VALUE[kind]}) == 1


@pytest.mark.parametrize(("kind", "value", "other"), OTHER_VALUES)
def test_other_values_have_other_hmacs(kind: str, value: str, other: str) -> None:
    assert component_hmac(SALT, kind, value) != component_hmac(SALT, kind, other)


@given(
    st.sampled_from(sorted(WEIGHTS)), st.one_of(st.text(max_size=40), HEX, HEX.map(lambda digits: f"naa.{digits[:16]}"))
)
def test_a_canonical_value_is_its_own_canonical_value(kind: str, value: str) -> None:
    once = canonical(kind, value)
    assert canonical(kind, once) == once


@given(st.sampled_from(sorted(WEIGHTS)), st.data())
def test_different_serials_stay_different(kind: str, data: st.DataObject) -> None:
    """Without case and separators no two values are one: serial numbers of any length, names, addresses."""
    values = st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=33).filter(
        lambda text: len(text) != 32 and not text.startswith("0x")
    )
    first, second = data.draw(values), data.draw(values)
    assert (canonical(kind, first) == canonical(kind, second)) == (first == second)


@given(HEX, HEX)
def test_only_its_other_byte_order_is_the_same_uuid(first: str, second: str) -> None:
    def little_endian(digits: str) -> str:
        raw = bytes.fromhex(digits)
        return (raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]).hex()

    assert canonical("product_uuid", first) == canonical("product_uuid", little_endian(first))
    same = canonical("product_uuid", first) == canonical("product_uuid", second)
    assert same == (second in (first, little_endian(first)))


def test_a_fingerprint_is_of_tenant_and_kind() -> None:
    assert sum(WEIGHTS.values()) == 100
    first = component_hmac(b"a" * 32, "board_serial", "PF2XK9QB")
    assert first != component_hmac(b"b" * 32, "board_serial", "PF2XK9QB")
    assert first != component_hmac(b"a" * 32, "chassis_serial", "PF2XK9QB")
    assert component_hmac(SALT, "mac", "b8:2a:72:aa:bb:cc") == component_hmac(SALT, "mac/7", "b8:2a:72:aa:bb:cc")
    assert fingerprint(SALT, {"board_serial": "Default string"}) == {}


def test_the_values_of_a_kind_are_numbered() -> None:
    assert named("disk_serial", ["AAA1"], 6) == {"disk_serial": "AAA1"}
    assert named("disk_serial", ["AAA1", "BBB2", "aaa1"], 6) == {"disk_serial": "BBB2", "disk_serial/2": "aaa1"}
    assert named("mac", [], 6) == {}


@given(
    st.sets(st.text("0123456789ABCDEF", min_size=8, max_size=8).map("S3Z8{}".format), min_size=2, max_size=12),
    st.data(),
)
def test_one_lost_member_leaves_the_others_in_common(serials: set[str], data: st.DataObject) -> None:
    """Also when there are more members than a fingerprint carries."""
    lost = data.draw(st.sampled_from(sorted(serials)))
    before = set(fingerprint(SALT, named("disk_serial", serials, 6)).values())
    after = set(fingerprint(SALT, named("disk_serial", serials - {lost}, 6)).values())
    assert len(before & after) >= min(6, len(before)) - 1 >= 0
    assert len(before | after) <= 7
