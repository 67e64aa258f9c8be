"""Adapter: gives a TLS context a certificate and its key without writing the key to a disk."""

import os
import ssl

from cryptography.hazmat.primitives import serialization

from cloud.crypto.keyfile import PrivateKey


def load_key_pair(context: ssl.SSLContext, chain_pem: bytes, key: PrivateKey) -> None:
    """Give a context its certificate chain (leaf first) and key. The key is passed through a file in memory.

    Raises:
        ssl.SSLError: key and certificate do not belong together.
    """
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(chain_pem.rstrip() + b"\n" + key_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)
