"""Values: the contract of Breakwater's API over mutual TLS, which is the paths of its routes and their bodies.

Breakwater and its callers share this module. It has no rule of issuing. `protocol.messages.sessions` has the answer
that nodes get as well (`Certificate`). Services and nodes renew their certificates by EST (`protocol.messages.est`).

Evolution: requests refuse unknown fields. A new field has a default and is added at the end.
"""

from datetime import datetime
from typing import Literal

import msgspec

from protocol.ids import NodeId, TenantId

PATH_OPEN = "/v1/generations/open"
PATH_CLOSE = "/v1/generations/close"
PATH_CLOSE_ONE = "/v1/generations/close-one"
PATH_SUPERSEDE_KEYS = "/v1/generations/supersede-keys"
PATH_DEVICE = "/v1/certificates/device"
PATH_SESSION = "/v1/certificates/session"
PATH_REVOCATIONS = "/v1/revocations"

RevocationReason = Literal[
    "unspecified",
    "keyCompromise",
    "cACompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
]
"""Reason of a revocation, spelled as in RFC 5280 section 5.3.1. certificateHold is missing because a revocation is
final."""
REASON_NUMBERS: dict[RevocationReason, int] = {
    "unspecified": 0,
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "privilegeWithdrawn": 9,
}
"""Reason -> number of the CRLReason (RFC 5280 section 5.3.1). A key is certified again only if its revoked certificates
were revoked as superseded."""


class OpenGeneration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/generations/open`. Idempotent. 409 `conflict` if the generation is closed already."""

    tenant: TenantId
    node: NodeId
    generation: int


class GenerationOpened(msgspec.Struct, frozen=True):
    """The answer: the generation is open, through this request or an earlier one."""

    generation: int


class CloseGenerations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/generations/close`. Closes every generation up to `up_to`, opened or not, for good.

    The reason of the first request that closes a generation stays.
    """

    tenant: TenantId
    node: NodeId
    up_to: int
    reason: RevocationReason = "superseded"


class CloseGeneration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/generations/close-one`. Closes this generation alone, opened or not, for good.

    Earlier generations stay open.
    """

    tenant: TenantId
    node: NodeId
    generation: int
    reason: RevocationReason = "superseded"


class GenerationsClosed(msgspec.Struct, frozen=True):
    """The answer: the number of device serials of these generations that are revoked now, also by earlier requests."""

    revoked: int


class IssueNodeCertificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/certificates/device` and `POST /v1/certificates/session`.

    `request` identifies the request: a repeat with the same value gets the same certificate. `csr` is DER. For a device
    certificate, `not_after` is the wanted end. For a session certificate, `not_after` is the end of the device
    certificate.
    """

    request: str
    tenant: TenantId
    node: NodeId
    generation: int
    csr: bytes
    not_after: datetime


class RevokedSerial(msgspec.Struct, frozen=True):
    """A revoked certificate of a service.

    `feed` is its place in the feed, `serial` lower-case hexadecimal, `not_after` the end of the certificate, `reason`
    the number of the CRLReason.
    """

    feed: int
    serial: str
    not_after: datetime
    reason: int = 0


class Revocations(msgspec.Struct, frozen=True):
    """`GET /v1/revocations?cursor=&wait=&issuer=`: unexpired certificates revoked after `cursor`, oldest first.

    `cursor` is the start of the next request. The answer has no entries if no certificate was revoked within `wait`
    seconds, or if `issuer` differs from the `issuer` of the request. `issuer` is the key id of the CA that issued
    Breakwater's own certificate. A service whose own certificate is from another CA renews it.
    """

    cursor: int
    entries: tuple[RevokedSerial, ...]
    issuer: str = ""


class SupersedeKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/generations/supersede-keys`. Final and idempotent. For a generation whose node key was changed.

    `spki_sha256` (hexadecimal) identifies the current key. Breakwater revokes, as superseded, the generation's device
    certificates for other keys that were recorded before the newest certificate of the current key. Certificates that
    are recorded later are left for the next change of the key.
    """

    tenant: TenantId
    node: NodeId
    generation: int
    spki_sha256: str


class KeysSuperseded(msgspec.Struct, frozen=True):
    """The answer: the number of device serials that this request revoked."""

    revoked: int
