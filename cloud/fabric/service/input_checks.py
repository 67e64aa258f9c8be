"""Pure functions: check the size and form of texts and times that come from outside."""

from datetime import UTC, datetime

import msgspec

from cloud.fabric.bodies.published_trust import TEXT_CHARS_MAX
from cloud.fabric.errors import Invalid
from cloud.http import bounds
from protocol.evidence import NvCounter
from protocol.limits import COMPONENT_CHARS_MAX, COMPONENTS_MAX, HELD_GENERATION_MAX, NONCE_BYTES_MAX, NONCE_BYTES_MIN
from protocol.signed.lease import NV_INDICES

NV_NAME_CHARS_MAX = 132
"""The name of an NV index in hex: two bytes of algorithm and the largest digest of a TPM."""
NV_VALUE_MAX = 2**63 - 1
"""The largest value that a database stores. A counter of a TPM has 64 bits, and its cell wears out long before."""


def check_time(what: str, at: datetime) -> datetime:
    """Check that a time has a zone and is from 1970 to 8999, and return it in UTC. Raises Invalid."""
    try:
        bounds.check_time(at, what)
    except bounds.OutOfBounds as error:
        raise Invalid(str(error)) from error
    return at.astimezone(UTC)


def check_nonce_form(nonce: str) -> None:
    """Check the length of a node's nonce. Its content is opaque. Raises Invalid."""
    if not NONCE_BYTES_MIN <= len(nonce) <= NONCE_BYTES_MAX:
        raise Invalid(f"nonce: must have {NONCE_BYTES_MIN} to {NONCE_BYTES_MAX} characters")


def check_fingerprint(components: dict[str, str]) -> None:
    """Check the number of components, and that names and values are printable and not too long. Raises Invalid."""
    if len(components) > COMPONENTS_MAX or any(
        max(len(name), len(value)) > COMPONENT_CHARS_MAX or not (name + value).isprintable()
        for name, value in components.items()
    ):
        raise Invalid(
            f"fingerprint: at most {COMPONENTS_MAX} components, names and values of at most {COMPONENT_CHARS_MAX}"
            " printable characters"
        )


def check_floor(floor: NvCounter | msgspec.UnsetType) -> None:
    """Check the counter that a node reports: index, length of the name, and value. Raises Invalid."""
    if floor is msgspec.UNSET:
        return
    if floor.index not in NV_INDICES:
        raise Invalid("floor: the index is no NV index")
    if len(floor.name) > NV_NAME_CHARS_MAX or not 1 <= floor.value <= NV_VALUE_MAX:
        raise Invalid(f"floor: a name of at most {NV_NAME_CHARS_MAX} characters, and a value from 1 to {NV_VALUE_MAX}")


def check_held_generation(number: int) -> int:
    """Check the number of a generation that a machine reports at its activation, and return it. Raises Invalid."""
    if not 1 <= number <= HELD_GENERATION_MAX:
        raise Invalid(f"held_generation: 1 to {HELD_GENERATION_MAX}")
    return number


def check_text(what: str, text: str, characters_max: int = TEXT_CHARS_MAX, *, empty: bool = True) -> str:
    """Check that a text is printable and not too long, and return it. `what` names the field. Raises Invalid."""
    if len(text) > characters_max or not text.isprintable() or (not empty and not text.strip()):
        raise Invalid(f"{what}: {'up to' if empty else '1 to'} {characters_max} printable characters")
    return text
