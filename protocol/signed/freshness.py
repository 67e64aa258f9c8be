"""Pure functions: freshness, the signed proof that a statement was current at a time, over the node's nonce.

Freshness has its own `typ` and its own signing key. That key is used often, and it cannot sign a statement.
"""

from datetime import datetime

import msgspec

from protocol.encoding import json_decode, json_encode, sha256_hex
from protocol.ids import NodeId
from protocol.signed.envelope import KeyRing, covers, open_envelope

TYP_FRESHNESS = "cascade-freshness+jws"


class Freshness(msgspec.Struct, frozen=True, kw_only=True):
    """A freshness. `statement_sha256` is the hex digest of the statement's token. `nonce` is the node's, as sent.

    `at` is the time at which Fabric signed it.
    """

    trust_domain: str
    node: NodeId
    generation: int
    nonce: str
    statement_sha256: str
    at: datetime


class FreshnessError(ValueError):
    """The freshness is not for this nonce, node or statement."""


def payload_of(freshness: Freshness) -> bytes:
    """The bytes of the token's payload."""
    return json_encode(freshness)


def verify_freshness(
    token: str, ring: KeyRing, *, trust_domain: str, node: str, generation: int, nonce: str, statement: str
) -> Freshness:
    """Verify a freshness token, and compare each field with the expected value.

    Args:
        token: the token.
        ring: the published signing keys.
        trust_domain: the expected trust domain.
        node: the expected node.
        generation: the expected generation.
        nonce: the nonce of the question.
        statement: the token of the statement; its SHA-256 is compared.

    Raises EnvelopeError, FreshnessError.
    """
    opened, key = open_envelope(token, TYP_FRESHNESS, ring)
    try:
        freshness = json_decode(opened.payload, Freshness)
    except msgspec.MsgspecError as error:
        raise FreshnessError("the payload is not a freshness") from error
    if freshness.at.tzinfo is None or not covers(key, freshness.at):
        raise FreshnessError("the signing key is not valid for the freshness's date")
    if (freshness.trust_domain, freshness.node, freshness.generation) != (trust_domain, node, generation):
        raise FreshnessError("the freshness is for another node or generation")
    if freshness.nonce != nonce:
        raise FreshnessError("the freshness is for another nonce")
    if freshness.statement_sha256 != sha256_hex(statement.encode()):
        raise FreshnessError("the freshness is for another statement")
    return freshness
