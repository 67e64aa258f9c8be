"""What is said to Breakwater over mTLS: the bodies of its routes, and their paths.

Shared by the issuer and by those who ask it; holds no rule of issuing. `protocol.sessions` has the two bodies that
nodes use too (`RenewDevice`, `Certificate`).

Evolution: requests refuse unknown fields; a field is added with a default, at the end.
"""

from datetime import datetime

import msgspec

from protocol.ids import NodeId, TenantId

PATH_OPEN = "/v1/generations/open"
PATH_CLOSE = "/v1/generations/close"
PATH_CLOSE_ONE = "/v1/generations/close-one"
PATH_DEVICE = "/v1/certificates/device"
PATH_SESSION = "/v1/certificates/session"
PATH_SERVICE = "/v1/certificates/service"
PATH_REVOKED_SERVICES = "/v1/certificates/revoked-services"
PATH_RENEW_DEVICE = "/v1/node/device-certificate"


class OpenGeneration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/generations/open`. Idempotent; 409 `conflict` when the generation is closed already."""

    tenant: TenantId
    node: NodeId
    generation: int


class GenerationOpened(msgspec.Struct, frozen=True):
    """The answer: the generation is open, by this command or by an earlier one like it."""

    generation: int


class CloseGenerations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/generations/close`. Final: every generation up to `up_to`, opened or not."""

    tenant: TenantId
    node: NodeId
    up_to: int


class CloseGeneration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/generations/close-one`. Final: this generation alone, opened or not; those before it live on."""

    tenant: TenantId
    node: NodeId
    generation: int


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


class IssueServiceCertificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/certificates/service`: for the caller's own name; the host names are those set at `cascade init`."""

    request: str
    csr: bytes


class RevokedServices(msgspec.Struct, frozen=True):
    """Serials (lower-case hex) of service certificates that must not be believed and have not expired yet."""

    serials: tuple[str, ...]
