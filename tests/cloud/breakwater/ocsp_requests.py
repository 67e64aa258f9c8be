"""Valid and invalid OCSP requests about an issuer and a serial that do not exist."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from cloud.breakwater.pkix.linted import algorithm_der
from cloud.crypto.der import bit_string, sequence, tlv

SHA1, SHA512 = hashes.SHA1(), hashes.SHA512()  # noqa: S303  OCSP clients name issuers by SHA-1


def by_hash(number: int, name: bytes = b"n" * 20, key: bytes = b"k" * 20) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(name, key, number, SHA1)
    return builder.build().public_bytes(Encoding.DER)


def signed_request() -> bytes:
    """A signed request: an unsigned request, with the signature appended as second element."""
    plain = by_hash(7)
    inner = plain[2:]
    signature = sequence(algorithm_der("secp256r1"), bit_string(b"\x30\x06\x02\x01\x01\x02\x01\x01"))
    return sequence(inner, tlv(0xA0, signature))


def two_requests() -> bytes:
    single = by_hash(7)
    entry = single[single.index(b"\x30", 6) :]
    return sequence(sequence(sequence(entry, entry)))


def with_extension(extension: x509.ExtensionType, critical: bool) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(b"n" * 20, b"k" * 20, 7, SHA1)
    return builder.add_extension(extension, critical=critical).build().public_bytes(Encoding.DER)


def with_sha512() -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(b"n" * 64, b"k" * 64, 7, SHA512)
    return builder.build().public_bytes(Encoding.DER)


def unknown_oid() -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
