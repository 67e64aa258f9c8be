"""Adapter: what the issuer's records say of a peer, for the guard of its own listener (`cloud.http.guard.PeerChecks`)."""

from cloud.breakwater.store.generations import GenerationStore
from cloud.breakwater.store.issuance import IssuanceStore
from protocol.ids import NodeId, TenantId


class PeerRecords:
    """Asked at every request of a node or a service."""

    def __init__(self, generations: GenerationStore, issuance: IssuanceStore) -> None:
        self._generations = generations
        self._issuance = issuance

    async def generation_open(self, tenant: TenantId, node: NodeId, generation: int) -> bool:
        """Whether a node of this generation is admitted."""
        return await self._generations.is_open(tenant, node, generation)

    async def service_revoked(self, serial: int) -> bool:
        """Whether a service's certificate is revoked."""
        return await self._issuance.is_revoked(serial)
