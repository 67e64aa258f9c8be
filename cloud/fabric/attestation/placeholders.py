"""Pure functions: take known placeholders out of a reported fingerprint.

An agent sends no placeholder that it knows. An older agent knows fewer of them, and a changed agent may send all. Fabric
stores and compares a fingerprint without them: a value that many machines share identifies none. Fabric sees HMACs, so it
knows the placeholders of `protocol.placeholders` that are listed by value.
"""

from collections.abc import Mapping
from functools import lru_cache

from protocol.hardware import placeholder_hmacs

SALTS_KEPT = 64
"""Tenants whose placeholders are kept, in about 5 MB."""


@lru_cache(maxsize=SALTS_KEPT)
def placeholders(salt: bytes) -> frozenset[str]:
    """The HMACs of the known placeholders in hex, under the tenant's fingerprint salt."""
    return placeholder_hmacs(salt)


def without_placeholders(fingerprint: Mapping[str, str], salt: bytes) -> dict[str, str]:
    """The components (name to HMAC in hex) whose value is no known placeholder. `salt` is the tenant's."""
    worthless = placeholders(salt)
    return {name: value for name, value in fingerprint.items() if value not in worthless}
