"""Messages: what operators see and do after a restore of the cloud, and after the loss of its database.

The rules are those of `cloud.fabric.schemas`.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from protocol.bounds import limits
from protocol.ids import NodeId, TenantId
from protocol.limits import HELD_GENERATION_MAX, REASON_CHARS_MAX

Hold = Literal["", "conflicting", "unconfirmed"]
"""Why a node gets no later dates. `conflicting`: it has presented a statement of ours that is later than the restored
database. `unconfirmed`: its row was made from its certificate and statement. Empty: it gets leases as usual."""
Waiting = Literal["conflicting", "unconfirmed", "unpresented"]
"""Nodes that get no new lease: those with a hold, and those that have not presented their statement since a restore."""
ENTRIES_MAX = 500
"""Nodes or serial numbers of one import. The command sends several requests."""
Reason = Annotated[str, limits(maxLength=REASON_CHARS_MAX)]


class AcceptNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which state of a node an operator ends."""

    state: Waiting
    """The state that the operator has seen. A node in another state is not changed."""
    reason: Reason = ""
    """Reason, for the audit."""


class BeginRebuild(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of the request that begins a rebuild, or sets the end of a running rebuild."""

    reason: Reason = ""
    """Reason, for the audit."""
    until: datetime | None = None
    """Time at which the rebuild ends by itself, at most 90 days from now. Null: 30 days from now, or the end that a
    rebuild has which runs already."""


class ChangeRebuild(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Reason of the end of a rebuild."""

    reason: Reason = ""
    """Reason, for the audit."""


class ClosedGenerations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Closed generations of one node."""

    node: NodeId
    """Id of the node."""
    tenant: TenantId
    """Tenant of the node."""
    up_to: Annotated[int, limits(minimum=1, maximum=HELD_GENERATION_MAX)]
    """All generations up to this number are closed."""


class ImportClosed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known to be closed from other sources than a database."""

    generations: Annotated[tuple[ClosedGenerations, ...], limits(maxItems=ENTRIES_MAX)] = ()
    """Closed generations, for example of an earlier comparison."""
    serials: Annotated[
        tuple[Annotated[str, limits(pattern="^[0-9a-f]{1,40}$")], ...], limits(maxItems=ENTRIES_MAX)
    ] = ()
    """Serial numbers (lower-case hex) of device certificates in CRLs. The caller has verified the CRLs."""


class Rebuild(msgspec.Struct, frozen=True):
    """State of a rebuild."""

    since: datetime | None
    """Time at which an operator began it. Null while no rebuild runs."""
    unconfirmed: int
    """Number of nodes that wait for an operator, at most 1,000."""
    imported: int = 0
    """Number of closed generations and serial numbers that this request added."""
    until: datetime | None = None
    """Time at which it ends by itself. Null while no rebuild runs."""


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
