"""Pure functions: a certificate chain as it is stored, in PEM with a digest in its last line."""

import re
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from node.errors import StateDamaged
from protocol.encoding import sha256_hex

_SEAL = re.compile(rb"# sha256 ([0-9a-f]{64})\n")
_SEAL_BYTES = len(b"# sha256 \n") + 64


def encode_chain(chain: tuple[bytes, ...]) -> bytes:
    """A chain (DER, leaf first) as PEM, with a last line that holds the SHA-256 of the lines above it.

    PEM readers skip the last line. Raises ValueError if the chain is empty or an element is no certificate.
    """
    if not chain:
        raise ValueError("a chain has at least the leaf")
    body = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain)
    return body + f"# sha256 {sha256_hex(body)}\n".encode()


def decode_chain(path: Path, data: bytes) -> tuple[bytes, ...]:
    """Inverse of `encode_chain`. `path` is used in the error's text. Raises StateDamaged."""
    body, seal = data[:-_SEAL_BYTES], _SEAL.fullmatch(data[-_SEAL_BYTES:])
    if seal is None or sha256_hex(body).encode() != seal[1]:
        raise StateDamaged(path, "it is torn or was edited (its checksum does not match)")
    try:
        return tuple(certificate.public_bytes(Encoding.DER) for certificate in x509.load_pem_x509_certificates(body))
    except ValueError as error:
        raise StateDamaged(path, "it holds no certificates") from error
