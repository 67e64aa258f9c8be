"""Placeholders: every kind of value that a manufacturer left unset, and real values that look similar."""

import random

import pytest

from protocol.placeholders import is_placeholder, normalise, swapped_uuid

PLACEHOLDERS = {
    "nothing": ["", "  ", "...", "-", "/ /", "___"],
    "one character": [
        "0", "00000000", "0000-0000", "xxxxxxxx", "XXXX-XXXX", "x.x", "FFFFFFFF", "ff:ff:ff:ff:ff:ff",
        "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "11111111-2222-3333-4444-555555555555",
    ],
    "a notation of nothing": ["0x0000000000000000", "naa.0000000000000000", "eui.0000000000000000", "0xffffffff"],
    "words without a value": [
        "None", "N/A", "n.a.", "NULL", "Unknown", "Undefined", "Standard", "Default string", "default  STRING",
        "Default_string", "To Be Filled By O.E.M.", "Filled By O.E.M", "To Be Set By OEM", "Not Specified", "Not Settable",
        "Not Applicable", "Not Available", "Not Present", "Enter Serial", "INVALID", "TBD", "No Asset Information",
    ],
    "the name of the field": [
        "System Serial Number", "Base Board Serial Number", "Board Serial Number", "Chassis Serial Number", "SerialNumber",
        "Type2 - Board Serial Number", "Type1 - TBD by OEM", "System Product Name", "Asset Tag", "OEM_Serial", "S/N:",
    ],
    "a name and filler": [
        "OEM Default string000", "MB-1234567890", "BSN12345678901234567", "Type1 - 123456789", "Type1 - SKU0", "S/N: 0000",
        "Serial Number xxxxxx",
    ],
    "a sequence": [
        "123456789", "0123456789", "1234567890", "12345678901234567", "0123456789ABCDEF", "1234567890ABCDEF", "987654321",
        "FEDCBA9876543210", "abcdefgh", "00112233445566778899", "00:11:22:33:44:55", "12:34:56:78:9a:bc",
        "01234567-89AB-CDEF-0123-456789ABCDEF", "12345678-1234-5678-1234-567812345678",
        "11223344-5566-7788-99AA-BBCCDDEEFF00",
    ],
    "a count": [
        "000000000001", "01", "00010203-0405-0607-0809-0A0B0C0D0E0F", "01020304-0506-0708-090A-0B0C0D0E0F10",
        "00020003-0004-0005-0006-000700080009",
    ],
    "the other byte order": [
        "03000200-0400-0500-0006-000700080009", "78563412-3412-7856-90AB-CDDEEFAABBCC",
        "03020100-0504-0706-0809-0A0B0C0D0E0F", "44454C4C-0000-1020-8020-80C04F202020",
    ],
    "a repeated pattern": ["FEFEFEFE-FEFE-FEFE-FEFE-FEFEFEFEFEFE", "A5A5A5A5", "12121212"],
    "an erased UUID": [
        "10000000-0000-8000-0040-000000000000", "FFFFFF00-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "8A3F21C7-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "4C4C4544-0000-2010-8020-80C04F202020", "4C4C4544-0020-2010-8020-A0C04F202020",
    ],
    "a known sample": ["12345678-1234-5678-90AB-CDDEEFAABBCC", "07090201-0103-0301-0807-060504030201", ".PCIE2", "123"],
    "a disk that a hypervisor counts": ["QM00001", "drive-scsi0", "drive-virtio10", "drive-ide0-0-1"],
}  # fmt: skip

REAL = [
    "10", "AB12", "PF2XK9QB", "S3Z8NB0K123456", "S4EVNX0M", "..CN7016343F00IC.", "/7QA2MF9/CN1296319N00AB/", "MT7012345678901",
    "WD-WCC4E1234567", "BR80FYDYZ68ICQ4", "0000000000000042", "Type 2 board 77", "Typewriter 5000", "SN0K123456", "MB10",
    "VB1a2b3c4d-5e6f7a8b", "QM12", "b8:2a:72:aa:bb:cc", "naa.5002538d40878f8e", "4c4c4544-0051-3510-8052-b4c04f564432",
    "4c4c4544-0000-2010-8020-80c04f202031", "00000000-0000-0000-0000-b82a72aabbcc", "76006b9c-c49c-0000-0000-000000000000",
]  # fmt: skip


@pytest.mark.parametrize("kind", PLACEHOLDERS)
def test_placeholders_never_count(kind: str) -> None:
    for value in PLACEHOLDERS[kind]:
        for spelling in (value, value.lower(), value.upper(), f"  {value}\n"):
            assert is_placeholder(spelling), spelling


@pytest.mark.parametrize("value", REAL)
def test_real_values_count(value: str) -> None:
    assert not is_placeholder(value)
    assert not is_placeholder(value.upper())


def test_random_serials_uuids_and_addresses_are_real() -> None:
    draw = random.Random(1)
    for _ in range(500):
        digits = f"{draw.getrandbits(128):032x}"
        serial = "".join(draw.choices("0123456789ABCDEFGHJKLMNPRSTUVWXYZ", k=12))
        address = f"{draw.getrandbits(48):012x}"
        uuid = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        for value in (serial, uuid, f"naa.5{digits[:15]}", ":".join(address[at : at + 2] for at in range(0, 12, 2))):
            assert not is_placeholder(value), value


def test_the_other_byte_order_of_a_uuid() -> None:
    assert swapped_uuid("44454c4c-5100-1035-8052-b4c04f564432") == "4c4c4544-0051-3510-8052-b4c04f564432"
    assert swapped_uuid("no uuid") == "no uuid"
    assert normalise("  A\tB \n") == "a b"
