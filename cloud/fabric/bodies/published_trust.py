"""Messages: bodies about the published trust, its adoption, and orders to renew device certificates.

They belong to the operators' API; `cloud.fabric.schemas` has the rules and offers these names too.
"""

from datetime import datetime
from typing import Annotated

import msgspec

from protocol.bounds import limits
from protocol.ids import NodeId, TenantId

TEXT_CHARS_MAX = 256
"""Of a reason, a note, or an agent's version."""
TARGET_NAME_CHARS_MAX = 64
TARGETS_MAX = 16
"""Cascade publishes two targets. More are refused by the check of the targets, with a text that names them."""
SPREAD_SECONDS_MAX = 30 * 24 * 3600

Reason = Annotated[str, limits(maxLength=TEXT_CHARS_MAX)]


class PublishTrust(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Metadata and targets that the offline key holders have signed."""

    roots: tuple[bytes, ...] = ()
    """New `root.json` files, in the order of their versions."""
    targets: bytes = b""
    """New `targets.json`. Empty to publish roots alone."""
    contents: Annotated[
        dict[Annotated[str, limits(maxLength=TARGET_NAME_CHARS_MAX)], bytes], limits(maxProperties=TARGETS_MAX)
    ] = {}
    """Content of the targets by name. A content that Fabric has stored already may be left out."""
    override: bool = False
    """Publish although nodes still use a root or an issuer that this drops. Needs `reason`."""
    reason: Reason = ""
    """Reason for the audit."""


class Trust(msgspec.Struct, frozen=True):
    """Versions and expiry dates of the published trust."""

    targets_version: int
    """Version of `targets.json`. Nodes report this version as the one they use."""
    targets_expire_at: datetime
    """Time at which `targets.json` expires."""
    root_version: int
    """Version of `root.json`."""
    root_expires_at: datetime
    """Time at which `root.json` expires."""


class IssuerAdoption(msgspec.Struct, frozen=True):
    """Number of nodes whose device certificate one CA issued."""

    key_id: str
    """Key id of the CA. Empty for nodes that have shown no device certificate yet."""
    subject: str
    """Subject of the CA. Empty if the CA is not published."""
    published: bool
    """Whether the CA is in the published trust bundle."""
    nodes: int
    """Number of nodes."""
    sessions_until: datetime | None
    """Time after which every session certificate of this CA has expired."""


class ServiceAdoption(msgspec.Struct, frozen=True):
    """The issuer of a service's TLS certificate."""

    name: str
    """Name of the service."""
    issuer: str
    """Key id of the published CA that issued the TLS certificate, Breakwater's as Fabric met it last. Empty if no
    published CA did."""
    published: bool
    """Whether the CA is in the published trust bundle."""
    trust_version: int | None = None
    """Version of the trust that the service uses. Set for Fabric alone: Breakwater does not use the published trust."""


class RenewDevices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An order to renew device certificates."""

    after: datetime | None = None
    """Device certificates made before this time are renewed. Without it: the time of the request."""
    reason: Reason = ""
    """Reason for the audit."""
    spread_seconds: Annotated[int, limits(minimum=0, maximum=SPREAD_SECONDS_MAX)] | None = None
    """Time over which Fabric wakes the nodes. Without it: the time that the fleet needs at 50 nodes a second."""


class RenewalOrder(msgspec.Struct, frozen=True):
    """The order to renew device certificates that is in force, and its progress."""

    after: datetime
    """Device certificates made before this time are renewed."""
    reason: str
    """Reason that the operator gave."""
    set_at: datetime
    """Time of the order."""
    spread_seconds: int
    """Time over which Fabric wakes the nodes."""
    nodes: int
    """Number of nodes at the time of the order."""
    woken: int
    """Number of nodes that Fabric has woken."""
    done: bool
    """Whether Fabric has woken all nodes."""


class Adoption(msgspec.Struct, frozen=True):
    """Adoption of the published trust, counted over the nodes with a confirmed open generation."""

    trust_version: int
    """Version of the published targets."""
    nodes: int
    """Number of nodes."""
    adopted: int
    """Number of nodes that have reported the published version."""
    issuers: tuple[IssuerAdoption, ...]
    """Nodes by the CA of their device certificate."""
    services: tuple[ServiceAdoption, ...]
    """Issuers of the services' TLS certificates."""
    renewal: RenewalOrder | None
    """The order to renew device certificates in force."""


class NodeAdoption(msgspec.Struct, frozen=True):
    """The trust that one node uses."""

    node: NodeId
    """Id of the node."""
    tenant: TenantId
    """Tenant of the node."""
    trust_version: int
    """Version of the trust that the node reported last."""
    device_issuer: str
    """Key id of the CA of its device certificate. Empty if it has shown none yet."""
    seen_at: datetime | None
    """Time of the last session."""
