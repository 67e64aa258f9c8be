"""Pure functions: the SubjectPublicKeyInfo of a key (RFC 5280 section 4.1.2.7), which identifies the key everywhere."""

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes


def spki_of(public_key: PublicKeyTypes) -> bytes:
    """Return the key's SubjectPublicKeyInfo in DER."""
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
