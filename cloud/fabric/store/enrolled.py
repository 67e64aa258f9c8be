"""Store: enrolled fingerprints of software nodes, by the values of disks and boards, to find a node by them."""

from cloud.fabric.tables import EnrolledComponent
from cloud.storage import ServiceEngine, compiled, insert_into, param
from protocol.ids import NodeId, TenantId

NODES_MAX = 32
"""Most nodes that one value finds. More nodes with one serial number mean that the number identifies no machine."""

_ADD = compiled(insert_into(EnrolledComponent).on_conflict(target=EnrolledComponent.id, action="DO NOTHING"))
_FORGET = compiled(
    EnrolledComponent.delete().where(
        EnrolledComponent.tenant == param("tenant"), EnrolledComponent.node == param("node")
    )
)
_NODES = compiled(
    EnrolledComponent.select(EnrolledComponent.node)
    .where(EnrolledComponent.tenant == param("tenant"), EnrolledComponent.value == param("value"))
    .order_by(EnrolledComponent.node)
    .limit(NODES_MAX)
)


class EnrolledStore:
    """Values of disks and boards in enrolled fingerprints."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def nodes_with(self, tenant: TenantId, value: str) -> list[NodeId]:
        """The tenant's nodes whose enrolled fingerprint has this value (HMAC in hex, under the salt of the tenant).

        At most NODES_MAX.
        """
        return [NodeId(row["node"]) for row in await self._engine.fetch(_NODES, tenant=tenant, value=value)]

    async def replace(self, tenant: TenantId, node: NodeId, values: tuple[str, ...]) -> None:
        """Store the values of a node in place of its earlier ones."""
        await self._engine.fetch(_FORGET, tenant=tenant, node=node)
        for value in values:
            await self._engine.fetch(_ADD, id=f"{value}.{node}", tenant=tenant, value=value, node=node)
