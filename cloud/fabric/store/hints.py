"""Pure functions: the text of a hint to the other replicas. It names nodes whose wake cursor has advanced."""

from collections.abc import Sequence

from protocol.ids import NodeId

NODES_MAX = 100
"""Most nodes of one hint. Their ids stay below the length that the storage port allows."""


def hint_of(nodes: Sequence[NodeId]) -> str:
    """Return the hint that wakes these nodes, at most NODES_MAX."""
    return " ".join(nodes)


def nodes_of(hint: str) -> list[NodeId]:
    """Return the nodes that a hint names."""
    return [NodeId(node) for node in hint.split()]
