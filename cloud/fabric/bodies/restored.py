"""Messages: what operators see and do after a restore of the cloud, and after the loss of its database.

The rules are those of `cloud.fabric.schemas`.
"""

from typing import Literal

import msgspec

from protocol.ids import NodeId, TenantId

Hold = Literal["", "conflicting", "unconfirmed"]
"""Why a node gets no later dates. `conflicting`: it has presented a statement of ours that is later than the restored
database. `unconfirmed`: its row was made from its certificate and statement. Empty: it gets leases as usual."""

Repair = Literal["revoked", "closed", "later", "lapsed", "remembered"]
"""A change in Fabric's database. `revoked`: Breakwater has closed every generation of the node. `closed`: it has closed the
generation. `later`: it has opened the generation, which Fabric did not know. `lapsed`: it has closed a generation that was
never confirmed. `remembered`: Fabric has no row of the node, and refuses the closed generation."""
Order = Literal["close-up-to", "close", "open"]
"""A command to Breakwater."""


class Reconcile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to compare the generations."""

    dry_run: bool = False
    """Whether to change nothing, and to say only what would be changed."""


class Taken(msgspec.Struct, frozen=True):
    """One change in Fabric's database, because of what Breakwater has recorded."""

    node: NodeId
    """Id of the node."""
    tenant: TenantId
    """Tenant of the node."""
    generation: int
    """Number of the generation. `revoked` and `closed` concern the earlier generations too."""
    change: Repair
    """`revoked`: every generation is closed. `closed`: a later one is open. `later`: a generation that Fabric did not
    know. `lapsed`: never confirmed. `remembered`: the node has no row in Fabric's database."""


class Sent(msgspec.Struct, frozen=True):
    """One command to Breakwater, because of what Fabric has recorded."""

    node: NodeId
    """Id of the node."""
    tenant: TenantId
    """Tenant of the node."""
    generation: int
    """Number of the generation. `close-up-to` concerns the earlier generations too."""
    order: Order
    """`close-up-to`, `close` or `open`."""


class Reconciliation(msgspec.Struct, frozen=True):
    """Result of a comparison of all generations of Fabric and Breakwater."""

    dry_run: bool
    """Whether nothing was changed."""
    nodes: int
    """Number of compared nodes."""
    taken_count: int
    """Number of changes in Fabric's database."""
    sent_count: int
    """Number of commands to Breakwater."""
    taken: tuple[Taken, ...]
    """Changes in Fabric's database, at most 1,000."""
    sent: tuple[Sent, ...]
    """Commands to Breakwater, at most 1,000."""
    refused: tuple[Sent, ...] = ()
    """Commands that Breakwater refused, at most 1,000. A node of another tenant there is a fault for an operator."""
