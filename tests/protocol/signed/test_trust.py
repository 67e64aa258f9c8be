"""The targets of the published trust: their form, and the key ring."""

import msgspec
import pytest

from protocol.encoding import json_decode, json_encode
from protocol.signed.envelope import EnvelopeError
from protocol.signed.statements import verify_statement
from protocol.signed.trust import TARGETS, ServiceUrls, SigningKeys, X509Bundle
from tests.protocol.vectors import examples
from tests.protocol.vectors.__main__ import vectors


def test_the_targets_have_distinct_names() -> None:
    assert len(set(TARGETS)) == 3


@pytest.mark.parametrize(
    "value",
    [
        SigningKeys(1, (examples.verification_key("lease"),)),
        X509Bundle(1, examples.TRUST_DOMAIN, (b"root",), (b"nodes", b"nodes of before"), (b"services",)),
        ServiceUrls(1, "https://cloud.example:8440", "https://cloud.example:8441"),
        ServiceUrls(1, "https://cloud.example:8440", "https://cloud.example:8441", "http://cloud.example:8442"),
    ],
)
def test_targets_round_trip(value: msgspec.Struct) -> None:
    assert json_decode(json_encode(value), type(value)) == value


def test_the_ring_holds_the_published_keys_and_no_other() -> None:
    token = vectors()["lease"]["token"]
    ring = SigningKeys(1, (examples.verification_key("lease"),)).ring()
    assert verify_statement(token, ring, examples.TRUST_DOMAIN).statement == examples.lease()
    with pytest.raises(EnvelopeError):
        verify_statement(token, SigningKeys(1, ()).ring(), examples.TRUST_DOMAIN)
