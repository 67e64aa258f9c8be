"""Pure functions: the hint to the other replicas that wakes nodes. It names nodes whose wake cursor has advanced."""

from collections.abc import Sequence

from cloud.events.doorbell import hint_text
from protocol.ids import NodeId

NODES = "nodes"
"""The topic of these hints."""
NODES_MAX = 100
"""Most nodes of one hint. Their ids stay below the length that the storage port allows."""


def hint_of(nodes: Sequence[NodeId]) -> str:
    """Return the hint that wakes these nodes, at most NODES_MAX."""
    return hint_text(NODES, " ".join(nodes))


def nodes_of(text: str) -> list[NodeId]:
    """Return the nodes that the text of a hint names, after its topic."""
    return [NodeId(node) for node in text.split()]
