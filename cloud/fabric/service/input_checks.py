"""Pure: bounds of texts that come from outside."""

from cloud.fabric.errors import Invalid
from protocol.limits import COMPONENTS_MAX, NONCE_BYTES_MAX, NONCE_BYTES_MIN

TEXT_CHARS_MAX = 256
"""Of a reason, a note, or an agent's version."""
COMPONENT_CHARS_MAX = 64
"""Of a fingerprint component's name, and of its HMAC-SHA-256 in hex."""


def check_nonce_form(nonce: str) -> None:
    """The asker's nonce is opaque, but bounded. Raises Invalid."""
    if not NONCE_BYTES_MIN <= len(nonce) <= NONCE_BYTES_MAX:
        raise Invalid(f"the nonce has {NONCE_BYTES_MIN} to {NONCE_BYTES_MAX} characters")


def check_fingerprint(components: dict[str, str]) -> None:
    """Names and values are opaque here, but bounded. Raises Invalid."""
    if len(components) > COMPONENTS_MAX or any(
        max(len(name), len(value)) > COMPONENT_CHARS_MAX for name, value in components.items()
    ):
        raise Invalid(f"fingerprint: at most {COMPONENTS_MAX} components of {COMPONENT_CHARS_MAX} characters")


def check_text(what: str, text: str, characters_max: int = TEXT_CHARS_MAX, *, empty: bool = True) -> str:
    """A text from outside: bounded and printable. Raises Invalid."""
    if len(text) > characters_max or not text.isprintable() or (not empty and not text.strip()):
        raise Invalid(f"{what}: {'up to' if empty else '1 to'} {characters_max} printable characters")
    return text
