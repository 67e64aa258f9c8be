"""Pure functions: the hardware fingerprint. Named components, their weights, placeholders, and the HMAC of a component.

Raw serial numbers never leave the machine. A component is sent as HMAC-SHA-256 under a salt of the tenant, so two
tenants cannot compare their machines. The components and their weights are fixed in this module; a node cannot change
them.
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
"""Weight of each component. No code uses the weights yet; the software tier will. A machine with several network cards
has a component `mac/<interface>` for each, and all of them together have the weight of `mac`."""

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
    """The value in lower case, with single spaces and without surrounding white space."""
    return " ".join(value.split()).lower()


def is_placeholder(value: str) -> bool:
    """Whether the manufacturer did not set this value: a well-known text, or one character repeated (zeros, Fs)."""
    text = normalise(value)
    return text in _PLACEHOLDERS or _ONE_CHARACTER.fullmatch(text) is not None or not re.search(r"[a-z0-9]", text)


def component_hmac(salt: bytes, name: str, value: str) -> str:
    """HMAC-SHA-256 in hex over the component's name and its normalised value.

    Because of the name, equal serial numbers of two components give different HMACs.
    """
    message = f"cascade-fingerprint-1\n{name}\n{normalise(value)}".encode()
    return hmac.new(salt, message, hashlib.sha256).hexdigest()


def fingerprint(salt: bytes, components: dict[str, str]) -> dict[str, str]:
    """The components as they are sent: name -> HMAC in hex, without placeholders.

    `components` has the raw values by name. `salt` is the tenant's, SALT_BYTES long.
    """
    return {
        name: component_hmac(salt, name, value)
        for name, value in sorted(components.items())
        if not is_placeholder(value)
    }
