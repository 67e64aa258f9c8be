"""Values: ids of objects, and SPIFFE ids of nodes and services. They are parsed where they enter a process.

An id is a type prefix, `_` and a UUIDv7 (RFC 9562) in lower-case Crockford base 32 (26 letters). Ids of one type sort
by time. The prefix names the type. URLs and SPIFFE paths contain ids without escaping.
"""

import re
from typing import Literal, NewType

import msgspec

TenantId = NewType("TenantId", str)
NodeId = NewType("NodeId", str)
ActivationId = NewType("ActivationId", str)
RenewalId = NewType("RenewalId", str)
CodeId = NewType("CodeId", str)
TokenId = NewType("TokenId", str)
RecoveryId = NewType("RecoveryId", str)
RecoveryCodeId = NewType("RecoveryCodeId", str)
AirgapRequestId = NewType("AirgapRequestId", str)
EventId = NewType("EventId", str)

Prefix = Literal["ten", "node", "act", "code", "tok", "req", "aud", "ren", "enr", "rcv", "rcc", "agr", "evt", "cns"]
ServiceName = Literal["fabric", "breakwater", "ledger", "headwaters", "conduit", "weir"]
SERVICE_NAMES: tuple[ServiceName, ...] = ("fabric", "breakwater", "ledger", "headwaters", "conduit", "weir")

EKU_DEVICE = "1.2.840.113556.1.8000.2554.17056.48184.29203.16678.48423.2885547.12081603"
"""The only extended key usage of a device certificate (an LDevID). No TLS stack knows it, so no TLS stack accepts the
certificate for a client or a server. The last seven numbers are the UUID 42a0bc38-7213-4126-bd27-2c07abb859c3 in parts
of at most 24 bits, because many parsers refuse numbers above 31 bits (docs/adr/0019)."""
EKU_DEVICE_OLD = "2.25.238106524351137287"
"""The usage in device certificates of profile versions 1 and 2. They live for at most 1,095 days."""
EKU_DEVICE_ACCEPTED = (EKU_DEVICE, EKU_DEVICE_OLD)
"""The usages of a device certificate that agent and cloud accept. A certificate has exactly one of them."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
ID_LETTERS = "[0-7][0-9a-hjkmnp-tv-z]{25}"
"""Regular expression of an id after its prefix and `_`."""
_ID = re.compile(rf"(ten|node|act|code|tok|req|aud|ren|enr|rcv|rcc|agr|evt|cns)_{ID_LETTERS}")
_TRUST_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,252}[a-z0-9])?")
_GENERATION = re.compile(r"[1-9][0-9]{0,8}")


class IdError(ValueError):
    """The text is not an id of the expected type."""


def make_id(prefix: Prefix, unix_ms: int, entropy: bytes) -> str:
    """Make an id from a Unix time in ms and 10 random bytes, of which 74 bits are used (RFC 9562 section 5.7).

    Raises ValueError for another number of bytes.
    """
    if len(entropy) != 10:
        raise ValueError("an id takes 10 bytes of entropy")
    random_bits = int.from_bytes(entropy, "big")
    value = (unix_ms & (2**48 - 1)) << 80 | 0x7 << 76 | (random_bits >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | random_bits & (2**62 - 1)
    return f"{prefix}_" + "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def parse_id(prefix: Prefix, text: str) -> str:
    """The id, if it is well formed and has the prefix. Raises IdError."""
    if not _ID.fullmatch(text) or not text.startswith(f"{prefix}_"):
        raise IdError(f"not an id of the form {prefix}_...")
    return text


def parse_generation(text: str) -> int:
    """The generation in the serialNumber of a certificate's subject: decimal, from 1, without leading zeros.

    Raises IdError.
    """
    if not _GENERATION.fullmatch(text):
        raise IdError("not a generation number")
    return int(text)


class ServiceSpiffeId(msgspec.Struct, frozen=True):
    """`spiffe://<trust domain>/service/<name>`"""

    trust_domain: str
    name: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/service/{self.name}"


class NodeSpiffeId(msgspec.Struct, frozen=True):
    """`spiffe://<trust domain>/tenant/<tenant>/node/<node>`"""

    trust_domain: str
    tenant: TenantId
    node: NodeId

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/tenant/{self.tenant}/node/{self.node}"


SpiffeId = ServiceSpiffeId | NodeSpiffeId


def parse_trust_domain(text: str) -> str:
    """A trust domain (SPIFFE-ID section 2.1): lower case, without port and user. Raises IdError."""
    if not _TRUST_DOMAIN.fullmatch(text) or ".." in text:
        raise IdError("not a trust domain")
    return text


def parse_spiffe(uri: str) -> SpiffeId:
    """The SPIFFE id of a service or a node. Raises IdError for any other text, also with a query or a fragment."""
    scheme, separator, rest = uri.partition("://")
    if scheme != "spiffe" or not separator:
        raise IdError("not a SPIFFE id")
    match rest.split("/"):
        case [domain, "service", name] if name in SERVICE_NAMES:
            return ServiceSpiffeId(parse_trust_domain(domain), name)
        case [domain, "tenant", tenant, "node", node]:
            return NodeSpiffeId(
                parse_trust_domain(domain), TenantId(parse_id("ten", tenant)), NodeId(parse_id("node", node))
            )
        case _:
            raise IdError("not the SPIFFE id of a service or a node")
