"""A certificate and its key for a TLS context: they must belong together, and no file stays behind."""

import ssl
from pathlib import Path

import pytest

from cloud.mtls.key_pair import load_key_pair
from tests.cloud.pki import Pki


def test_a_pair_that_belongs_together() -> None:
    leaf, before = Pki().service("fabric"), len(list(Path("/proc/self/fd").iterdir()))
    load_key_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), leaf.chain_pem, leaf.key)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_key_of_another_certificate() -> None:
    pki = Pki()
    with pytest.raises(ssl.SSLError):
        load_key_pair(
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pki.service("fabric").chain_pem, pki.service("fabric").key
        )
