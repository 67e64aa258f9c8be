"""Pure: the contract of Breakwater's API over mutual TLS, which is the paths of its routes and the bodies.

The issuer and its callers share it; it has no rule of issuing. `protocol.messages.sessions` has the answer that nodes
get as well (`Certificate`). Services and nodes renew their certificates by EST (`protocol.messages.est`).

Evolution: requests refuse unknown fields; a field is added with a default, at the end.
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
"""Why a certificate is revoked, as RFC 5280 section 5.3.1 spells it. There is no certificateHold: a revocation is final."""
REASON_NUMBERS: dict[RevocationReason, int] = {
    "unspecified": 0,
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "privilegeWithdrawn": 9,
}
"""Name to CRLReason. A key is never certified again unless its certificates were revoked as superseded."""


class OpenGeneration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/generations/open`. Idempotent; 409 `conflict` when the generation is closed already."""

    tenant: TenantId
    node: NodeId
    generation: int


class GenerationOpened(msgspec.Struct, frozen=True):
    """The answer: the generation is open, by this command or by an earlier one like it."""

    generation: int


class CloseGenerations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/generations/close`. Final: every generation up to `up_to`, opened or not. The first reason counts."""

    tenant: TenantId
    node: NodeId
    up_to: int
    reason: RevocationReason = "superseded"


class CloseGeneration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/generations/close-one`. Final: this generation alone, opened or not; those before it live on."""

    tenant: TenantId
    node: NodeId
    generation: int
    reason: RevocationReason = "superseded"


class GenerationsClosed(msgspec.Struct, frozen=True):
    """The answer: how many device serials of these generations are revoked by now (also by earlier commands)."""

    revoked: int


class IssueNodeCertificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/certificates/device` and `.../session`. `csr` is DER, `request` makes a repeat harmless.

    `not_after`: for a device certificate the wanted end, for a session certificate the end of the device certificate.
    """

    request: str
    tenant: TenantId
    node: NodeId
    generation: int
    csr: bytes
    not_after: datetime


class RevokedSerial(msgspec.Struct, frozen=True):
    """A revoked certificate of a service: its place in the feed, serial (lower-case hex), end, reason."""

    feed: int
    serial: str
    not_after: datetime
    reason: int = 0


class Revocations(msgspec.Struct, frozen=True):
    """`GET /v1/revocations?cursor=&wait=`: what was revoked after `cursor` and has not expired, oldest first.

    `cursor` is where to go on. An answer without entries says that nothing was revoked in the time waited, or that
    `issuer` is another than the one named by `&issuer=`: the key id of the CA that Breakwater has its own certificate
    of, so that a service renews when its own is of another.
    """

    cursor: int
    entries: tuple[RevokedSerial, ...]
    issuer: str = ""


class SupersedeKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/generations/supersede-keys`. Final and idempotent, for a generation whose node key was changed.

    `spki_sha256` (hex) is of the key in force: device certificates of the generation for other keys that were recorded
    before its newest one are revoked as superseded. What is recorded later belongs to the next change.
    """

    tenant: TenantId
    node: NodeId
    generation: int
    spki_sha256: str


class KeysSuperseded(msgspec.Struct, frozen=True):
    """The answer: how many device serials this command revoked."""

    revoked: int
