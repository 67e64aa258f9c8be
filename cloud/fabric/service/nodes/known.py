"""Use case: load a node and one of its generations, or refuse what is unknown."""

from collections.abc import Callable

from cloud.fabric.errors import CertificateRefused, Refused
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import GenerationRow, NodeRow
from protocol.ids import NodeId, TenantId


def unknown() -> Refused:
    """The refusal of a certificate that names no node or generation of here."""
    return CertificateRefused("this node or generation is not known here")


async def load(
    nodes: NodeStore, tenant: TenantId, node_id: NodeId, number: int, refusal: Callable[[], Refused] = unknown
) -> tuple[NodeRow, GenerationRow]:
    """The tenant's node and its generation of that number. Raises `refusal()` if there is no such one."""
    node = await nodes.find(node_id)
    generation = await nodes.find_generation(node_id, number)
    if node is None or generation is None or node.tenant != tenant:
        raise refusal()
    return node, generation
