"""Messages: the contract of Breakwater's API over mutual TLS: paths of its routes, and bodies.

Breakwater and its callers share it. It has no rule of issuance. The body `Certificate` is in
`protocol.messages.sessions`, because nodes get it too. Services and nodes renew their certificates by EST
(`protocol.messages.est`).

Evolution: requests refuse unknown fields. A field is added at the end with a default. The text below a field is its
description in the API document.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from cloud.tasks.buckets import Rate
from protocol.bounds import limits
from protocol.ids import NodeId, TenantId

GENERATION_MAX = 999_999_999
"""The certificate's subject has room for nine digits (`protocol.ids.parse_generation`)."""
Generation = Annotated[int, limits(minimum=1, maximum=GENERATION_MAX)]

PATH_OPEN = "/v1/generations/open"
PATH_CLOSE = "/v1/generations/close"
PATH_CLOSE_ONE = "/v1/generations/close-one"
PATH_SUPERSEDE_KEYS = "/v1/generations/supersede-keys"
PATH_GENERATIONS = "/v1/generations"
PATH_DEVICE = "/v1/certificates/device"
PATH_SESSION = "/v1/certificates/session"

SESSIONS_PER_NODE = Rate(120, 30.0)
"""Session certificates of one node: 120 in a row, for a machine that restarts its agent again and again, and then one in
30 s. A healthy node opens three a day. So a hostile node leaves at most 3,000 records a day, of about 2 kB each."""

RevocationReason = Literal[
    "unspecified",
    "keyCompromise",
    "cACompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
]
"""Reason of a revocation, as RFC 5280 section 5.3.1 spells it. There is no certificateHold: a revocation is final."""
REASON_NUMBERS: dict[RevocationReason, int] = {
    "unspecified": 0,
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "privilegeWithdrawn": 9,
}
"""Name -> CRLReason. A key whose certificates were revoked is certified again only if the reason was superseded.

This is the only spelling of a reason in texts: options, bodies, files, audit, metrics and pages. Where a format has the
number of the RFC (CRLs, OCSP, the database), this table has the number.
"""
REASON_NAMES: dict[int, RevocationReason] = {number: name for name, number in REASON_NUMBERS.items()}
"""CRLReason -> name."""


class OpenGeneration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Generation to open. A closed generation is refused (`conflict`)."""

    tenant: TenantId
    """Tenant of the node."""
    node: NodeId
    """Id of the node."""
    generation: Generation
    """Number of the generation."""


class GenerationOpened(msgspec.Struct, frozen=True):
    """The generation is open, by this command or an earlier one."""

    generation: int
    """Number of the generation."""


class CloseGenerations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Generations to close for ever: every one up to `up_to`, opened or not."""

    tenant: TenantId
    """Tenant of the node."""
    node: NodeId
    """Id of the node."""
    up_to: Generation
    """Number of the newest generation to close."""
    reason: RevocationReason = "superseded"
    """Reason of the revocation. The first reason of a generation stays."""


class CloseGeneration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One generation to close for ever, opened or not. Older generations stay as they are."""

    tenant: TenantId
    """Tenant of the node."""
    node: NodeId
    """Id of the node."""
    generation: Generation
    """Number of the generation."""
    reason: RevocationReason = "superseded"
    """Reason of the revocation."""


class GenerationsClosed(msgspec.Struct, frozen=True):
    """Result of closing generations."""

    revoked: int
    """Number of device certificates of these generations that are revoked, by this command or an earlier one."""


class IssueNodeCertificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Order of a certificate for a node."""

    request: Annotated[str, limits(pattern="^[A-Za-z0-9_.:-]{1,128}$")]
    """Name of the order. A repeat with the same name and key gets the same certificate."""
    tenant: TenantId
    """Tenant of the node."""
    node: NodeId
    """Id of the node."""
    generation: Generation
    """Number of the generation. It must be open."""
    csr: bytes
    """Certificate request (PKCS#10) in DER."""
    not_after: datetime
    """Device certificate: its end. Session certificate: the end of the node's device certificate, as its bound."""


class SupersedeKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Change of a generation's node key: the device certificates for its older keys are revoked as superseded.

    Certificates that were recorded after the newest one of the key in force belong to the next change.
    """

    tenant: TenantId
    """Tenant of the node."""
    node: NodeId
    """Id of the node."""
    generation: Generation
    """Number of the generation."""
    spki_sha256: Annotated[str, limits(pattern="^[0-9a-f]{64}$")]
    """SHA-256 of the SubjectPublicKeyInfo of the key in force, in hex."""


class KeysSuperseded(msgspec.Struct, frozen=True):
    """Result of superseding keys."""

    revoked: int
    """Number of device certificates that this command revoked."""


class NodeGenerations(msgspec.Struct, frozen=True):
    """Generations of one node, as Breakwater records them."""

    node: NodeId
    """Id of the node."""
    tenant: TenantId
    """Tenant of the node."""
    closed_up_to: int
    """All generations up to this number are closed. 0 if no close of several generations was ordered."""
    opened: tuple[int, ...] = ()
    """Open generations."""
    closed: tuple[int, ...] = ()
    """Generations above `closed_up_to` that are closed."""


class GenerationsPage(msgspec.Struct, frozen=True):
    """One page of the generations of all nodes, in the order of the nodes' ids."""

    nodes: tuple[NodeGenerations, ...]
    """Generations of each node of the page."""
    cursor: str
    """Id of the last node of the page, for the next request. Empty on the last page."""
    restored: int
    """Time at which Breakwater's database was last restored from a backup, in milliseconds since 1970. 0 if it never was.
    After a restore, Breakwater may have forgotten generations that Fabric has closed or opened."""
