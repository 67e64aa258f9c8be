"""The hardware fingerprint: named components, their weights, placeholders, and the HMAC under the tenant's salt.

Raw serial numbers never leave the machine: a component travels as HMAC-SHA-256 under a salt of the tenant, so two
tenants cannot compare machines. Which components count, and how much, is fixed here and by the cloud, not by a node.
"""

import hashlib
import hmac
import re
from typing import Literal

ComponentName = Literal["product_uuid", "board_serial", "chassis_serial", "disk_serial", "disk_wwn", "mac"]

WEIGHTS: dict[str, int] = {
    "product_uuid": 25,
    "board_serial": 25,
    "chassis_serial": 10,
    "disk_serial": 15,
    "disk_wwn": 15,
    "mac": 10,
}
"""Weight of a component; judged when the software tier comes. Of several MACs each is a component `mac/<interface>`
and together they weigh what `mac` weighs."""

SALT_BYTES = 32

_PLACEHOLDERS = frozenset(
    {
        "",
        "none",
        "n/a",
        "na",
        "null",
        "unknown",
        "default string",
        "not specified",
        "not applicable",
        "not available",
        "not present",
        "empty",
        "invalid",
        "oem",
        "o.e.m.",
        "to be filled by o.e.m.",
        "system serial number",
        "base board serial number",
        "chassis serial number",
        "serial number",
        "system product name",
        "123456789",
        "0123456789",
        "1234567890",
        "03000200-0400-0500-0006-000700080009",
        "12345678-1234-5678-90ab-cddeefaabbcc",
    }
)
_ONE_CHARACTER = re.compile(r"([^a-z0-9]*)([a-z0-9])(?:\2|[^a-z0-9])*")


def normalise(value: str) -> str:
    """Case and surrounding or repeated white space do not tell two machines apart."""
    return " ".join(value.split()).lower()


def is_placeholder(value: str) -> bool:
    """Whether a vendor left this value empty: the well-known texts, and any one character repeated (zeros, Fs)."""
    text = normalise(value)
    return text in _PLACEHOLDERS or _ONE_CHARACTER.fullmatch(text) is not None or not re.search(r"[a-z0-9]", text)


def component_hmac(salt: bytes, name: str, value: str) -> str:
    """HMAC-SHA-256 in hex over name and normalised value; the name keeps equal serials of two kinds apart."""
    message = f"cascade-fingerprint-1\n{name}\n{normalise(value)}".encode()
    return hmac.new(salt, message, hashlib.sha256).hexdigest()


def fingerprint(salt: bytes, components: dict[str, str]) -> dict[str, str]:
    """The components as sent: name -> HMAC, placeholders dropped. `components` are raw values by name."""
    return {
        name: component_hmac(salt, name, value)
        for name, value in sorted(components.items())
        if not is_placeholder(value)
    }
