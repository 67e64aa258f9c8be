"""Use case: load a node and one of its generations, or refuse an unknown node or generation."""

from collections.abc import Callable

from cloud.fabric.errors import NodeUnknown, Refused
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import GenerationRow, NodeRow
from protocol.ids import NodeId, TenantId


def unknown() -> Refused:
    """The refusal of a certificate that names an unknown node or generation."""
    return NodeUnknown("this Fabric does not know the node or generation")


async def load(
    nodes: NodeStore, tenant: TenantId, node_id: NodeId, number: int, refusal: Callable[[], Refused] = unknown
) -> tuple[NodeRow, GenerationRow]:
    """The tenant's node and its generation with that number. Raises `refusal()` if one of them does not exist."""
    node = await nodes.find(node_id)
    generation = await nodes.find_generation(node_id, number)
    if node is None or generation is None or node.tenant != tenant:
        raise refusal()
    return node, generation
