"""Pure functions: make and read renewal tokens. Each session spends one and gets the next.

A token is the place of a session in a chain. It names its chain, its number in the chain, and the token that was spent
for it. A MAC shows that this cloud made the token for this node and generation. The database stores the last token that
was *spent*, and none that was only handed out. So a lost answer leaves no trace: the node spends the same token again,
and gets another token after it.

A token depends on the proof that it answers, and on nothing random. So a repeated proof gets the same token.
"""

import hashlib
import hmac

import msgspec

from protocol.encoding import EncodingError, b64url_decode, b64url_encode, sha256
from protocol.ids import NodeId

CHAIN_BYTES = 4
DIGEST_BYTES = 8
NUMBER_MAX = 2**48 - 1
FIRST_CHAIN = "00" * CHAIN_BYTES
"""The chain of a generation's first token. It is constant, so two replicas that answer the first sessions agree."""
NO_TOKEN = "00" * DIGEST_BYTES
"""The digest in place of a spent token, in the first token of a chain."""

_FORMAT = b"\x01"
_NUMBER_BYTES = 6
_MAC_BYTES = 16
_BODY_BYTES = len(_FORMAT) + CHAIN_BYTES + _NUMBER_BYTES + 2 * DIGEST_BYTES
_CONTEXT = b"cascade-renewal-token-1"


class RenewalToken(msgspec.Struct, frozen=True):
    """A renewal token.

    Attributes:
        chain: the chain, 8 hex digits.
        number: the place in the chain, from 1. It only grows, also from one chain of a generation to the next.
        parent: the digest of the token that was spent for this one; NO_TOKEN if none was.
        digest: 16 hex digits that identify this token.
        text: the token as the node gets it.
    """

    chain: str
    number: int
    parent: str
    digest: str
    text: str


class TokenInvalid(ValueError):
    """This cloud did not make the token for this node and generation, or the token cannot be read."""


def make_token(
    key: bytes, node: NodeId, generation: int, *, chain: str, number: int, parent: str, proof: str
) -> RenewalToken:
    """The token that answers a session proof.

    Args:
        key: the MAC key of the installation.
        node: the node.
        generation: the node's generation.
        chain: the chain, 8 hex digits.
        number: the place in the chain, 1 to NUMBER_MAX.
        parent: the digest of the spent token, 16 hex digits, or NO_TOKEN.
        proof: the session proof (a JWS). Another proof gets another token.
    """
    salt = sha256(proof.encode())[:DIGEST_BYTES]
    numbered = bytes.fromhex(chain) + number.to_bytes(_NUMBER_BYTES, "big") + bytes.fromhex(parent)
    body = _FORMAT + numbered + salt
    return _token(body + _mac(key, node, generation, body))


def read_token(key: bytes, node: NodeId, generation: int, text: str) -> RenewalToken:
    """Read a token that a node presents: 1 its form; 2 its MAC, in constant time. Raises TokenInvalid."""
    try:
        data = b64url_decode(text)
    except EncodingError as error:
        raise TokenInvalid("the renewal token cannot be read") from error
    if len(data) != _BODY_BYTES + _MAC_BYTES or data[: len(_FORMAT)] != _FORMAT:
        raise TokenInvalid("the renewal token cannot be read")
    body, mac = data[:_BODY_BYTES], data[_BODY_BYTES:]
    if not hmac.compare_digest(mac, _mac(key, node, generation, body)):
        raise TokenInvalid("this cloud did not make the renewal token for this generation")
    return _token(data)


def _mac(key: bytes, node: NodeId, generation: int, body: bytes) -> bytes:
    message = _CONTEXT + f"\n{node}\n{generation}\n".encode() + body
    return hmac.new(key, message, hashlib.sha256).digest()[:_MAC_BYTES]


def _token(data: bytes) -> RenewalToken:
    chain_end = len(_FORMAT) + CHAIN_BYTES
    number_end = chain_end + _NUMBER_BYTES
    return RenewalToken(
        chain=data[len(_FORMAT) : chain_end].hex(),
        number=int.from_bytes(data[chain_end:number_end], "big"),
        parent=data[number_end : number_end + DIGEST_BYTES].hex(),
        digest=sha256(data)[:DIGEST_BYTES].hex(),
        text=b64url_encode(data),
    )
