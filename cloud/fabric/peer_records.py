"""Adapter: what Fabric's records say of a peer, for the guard of its listeners (`cloud.http.guard.PeerChecks`)."""

from collections.abc import Callable

from cloud.fabric.store.nodes import NodeStore
from protocol.ids import NodeId, TenantId


class PeerRecords:
    """Asked at every request of a node or a service. `is_revoked` knows the serials of revoked services."""

    def __init__(self, *, is_revoked: Callable[[int], bool], nodes: NodeStore) -> None:
        self._is_revoked = is_revoked
        self._nodes = nodes

    async def generation_open(self, tenant: TenantId, node: NodeId, generation: int) -> bool:
        """Whether a node of this generation is admitted: one query by key, so a revocation counts at once."""
        return await self._nodes.generation_open(tenant, node, generation)

    async def service_revoked(self, serial: int) -> bool:
        """Whether a service's certificate is revoked."""
        return self._is_revoked(serial)
