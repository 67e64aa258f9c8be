"""Adapter: Fabric's records about a peer, for the guard of its listeners (port `cloud.http.guard.PeerChecks`)."""

from collections.abc import Callable

from cloud.fabric.store.nodes import NodeStore
from protocol.ids import NodeId, TenantId


class PeerRecords:
    """Called at every request of a node or service. `is_revoked` says whether a service's serial number is revoked."""

    def __init__(self, *, is_revoked: Callable[[int], bool], nodes: NodeStore) -> None:
        self._is_revoked = is_revoked
        self._nodes = nodes

    async def generation_open(self, tenant: TenantId, node: NodeId, generation: int) -> bool:
        """Whether the generation is open. Queries the database, so a revocation takes effect at once."""
        return await self._nodes.generation_open(tenant, node, generation)

    async def service_revoked(self, serial: int) -> bool:
        """Whether a service's certificate is revoked."""
        return self._is_revoked(serial)
