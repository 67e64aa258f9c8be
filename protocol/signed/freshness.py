"""Freshness: Fabric's signed word that a statement was current at a time, over a nonce of the asker.

It has a `typ` and a key of its own, so that the often used key can say nothing about a licence.
"""

from datetime import datetime

import msgspec

from protocol.encoding import json_decode, json_encode, sha256_hex
from protocol.ids import NodeId
from protocol.signed.envelope import KeyRing, covers, open_envelope

TYP_FRESHNESS = "cascade-freshness+jws"


class Freshness(msgspec.Struct, frozen=True, kw_only=True):
    """`statement_sha256` is the hex digest of the statement's token; `nonce` is the asker's, as it was sent."""

    trust_domain: str
    node: NodeId
    generation: int
    nonce: str
    statement_sha256: str
    at: datetime


class FreshnessError(ValueError):
    """The word is not about this nonce, node or statement."""


def payload_of(freshness: Freshness) -> bytes:
    return json_encode(freshness)


def verify_freshness(
    token: str, ring: KeyRing, *, trust_domain: str, node: str, generation: int, nonce: str, statement: str
) -> Freshness:
    """Open a freshness token and hold every field against what was asked. Raises EnvelopeError, FreshnessError."""
    opened, key = open_envelope(token, TYP_FRESHNESS, ring)
    try:
        freshness = json_decode(opened.payload, Freshness)
    except msgspec.MsgspecError as error:
        raise FreshnessError("the payload is not a freshness") from error
    if freshness.at.tzinfo is None or not covers(key, freshness.at):
        raise FreshnessError("the signing key did not count at that time")
    if (freshness.trust_domain, freshness.node, freshness.generation) != (trust_domain, node, generation):
        raise FreshnessError("the freshness of another node")
    if freshness.nonce != nonce:
        raise FreshnessError("the freshness of another question")
    if freshness.statement_sha256 != sha256_hex(statement.encode()):
        raise FreshnessError("the freshness of another statement")
    return freshness
