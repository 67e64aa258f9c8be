"""Pure functions: the hardware fingerprint. Kinds of components, their weights, and the HMAC of a component.

Raw serial numbers never leave the machine. A component is sent as HMAC-SHA-256 under a salt of the tenant, so two
tenants cannot compare their machines. The kinds and their weights are fixed in this module; a node cannot change them.

The name of a component is its kind, such as `mac`. The second and each further value of a kind has the name `mac/2`,
`mac/3`. The number is no property of the machine and is not in the HMAC. So two fingerprints agree in a kind if they
have an HMAC of that kind in common, under whatever number.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Literal

from protocol.fingerprint import WEIGHTS
from protocol.placeholders import SAMPLES, TEXTS, is_placeholder, normalise, swapped_uuid

__all__ = [
    "SALT_BYTES",
    "ComponentKind",
    "canonical",
    "component_hmac",
    "fingerprint",
    "is_placeholder",
    "named",
    "placeholder_hmacs",
]

ComponentKind = Literal["product_uuid", "board_serial", "chassis_serial", "disk_serial", "disk_wwn", "mac"]

SALT_BYTES = 32

_UUID_DIGITS = re.compile(r"[0-9a-f]{32}")
_MAC_DIGITS = re.compile(r"[0-9a-f]{12}")
_NAA = re.compile(r"(?:wwn-)?(?:0x|naa\.)?([0-9a-f]{16}|[0-9a-f]{32})")
_REPLACED_BY_UDEV = re.compile(r"[^\w#+\-.:=@]|_")


def canonical(kind: str, value: str) -> str:
    """The one spelling of a value. Sources and firmware versions spell the same value in several ways.

    `kind` is a key of WEIGHTS. The function is idempotent. A value in an unknown form keeps its characters, in lower
    case and with single spaces.
    """
    text = normalise(value)
    match kind:
        case "product_uuid":
            return _canonical_uuid(text)
        case "disk_wwn":
            found = _NAA.fullmatch(re.sub(r"[:\s]", "", text))
            return f"0x{found[1]}" if found else text
        case "mac":
            digits = re.sub(r"[:.\-\s]", "", text)
            return ":".join(re.findall("..", digits)) if _MAC_DIGITS.fullmatch(digits) else text
        case "disk_serial":
            # udev replaces white space and most punctuation by "_"; the kernel reports the characters themselves.
            return normalise(_REPLACED_BY_UDEV.sub(" ", text))
        case _:
            return text


def _canonical_uuid(text: str) -> str:
    """The lower one of the UUID's two byte orders. An update of firmware or kernel changes the order (SMBIOS 2.6)."""
    digits = re.sub(r"[{}\-\s]", "", text.removeprefix("urn:uuid:"))
    if _UUID_DIGITS.fullmatch(digits) is None:
        return text
    spelling = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
    return min(spelling, swapped_uuid(spelling))


def named(kind: str, values: Iterable[str], at_most: int) -> dict[str, str]:
    """The different values of a kind, by component name. Of more than `at_most` values the highest are kept.

    One added or removed value changes at most one other member of the result, so a machine that loses a disk or a card
    keeps values in common with its earlier fingerprint.
    """
    spellings = {canonical(kind, value): value for value in sorted(values)}
    kept = sorted(spellings, reverse=True)[:at_most]
    return {kind if number == 1 else f"{kind}/{number}": spellings[key] for number, key in enumerate(kept, start=1)}


def component_hmac(salt: bytes, name: str, value: str) -> str:
    """HMAC-SHA-256 in hex over the component's kind and the canonical spelling of its value.

    `name` is a kind, or a kind with a number (`mac/2`). Because of the kind, equal serial numbers of two kinds give
    different HMACs.
    """
    kind = name.partition("/")[0]
    message = f"cascade-fingerprint-1\n{kind}\n{canonical(kind, value)}".encode()
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


def placeholder_hmacs(salt: bytes) -> frozenset[str]:
    """The HMACs of the known placeholders, in hex, for every kind. `salt` is the tenant's.

    An agent sends no placeholder that it knows. The cloud may know more of them than an older agent, and a changed agent
    may send them all. A placeholder that only a rule finds is not among them.
    """
    return frozenset(component_hmac(salt, kind, value) for kind in WEIGHTS for value in (*SAMPLES, *TEXTS))
