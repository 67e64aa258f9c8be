"""Fingerprints of hardware: placeholders are dropped, and each tenant and component gives another HMAC."""

import pytest

from protocol.hardware import WEIGHTS, component_hmac, fingerprint, is_placeholder

PLACEHOLDERS = [
    "", "  ", "None", "N/A", "Default string", "default  STRING", "To Be Filled By O.E.M.", "System Serial Number",
    "0", "00000000", "0000-0000", "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
    "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "xxxxxxxx", "XXXX-XXXX", "...", "-", "Not Specified", "0123456789",
    "03000200-0400-0500-0006-000700080009", "1234567890",
]  # fmt: skip


@pytest.mark.parametrize("value", PLACEHOLDERS)
def test_placeholders_never_count(value: str) -> None:
    assert is_placeholder(value)
    assert fingerprint(b"s" * 32, {"board_serial": value}) == {}


@pytest.mark.parametrize(
    "value", ["PF2XK9QB", "52:54:00:12:34:56", "4c4c4544-0042-3510-8054-b7c04f4b4d32", "S4EVNX0M", "10"]
)
def test_real_values_count(value: str) -> None:
    assert not is_placeholder(value)


def test_a_fingerprint_is_of_tenant_and_component() -> None:
    assert sum(WEIGHTS.values()) == 100
    first = component_hmac(b"a" * 32, "board_serial", "PF2XK9QB")
    assert first == component_hmac(b"a" * 32, "board_serial", " pf2xk9qb ")
    assert first != component_hmac(b"b" * 32, "board_serial", "PF2XK9QB")
    assert first != component_hmac(b"a" * 32, "chassis_serial", "PF2XK9QB")
