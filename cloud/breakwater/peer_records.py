"""Adapter: checks peers of Breakwater's listener against the issuer's records (`cloud.http.guard.PeerChecks`)."""

from cloud.breakwater.store.generations import GenerationStore
from cloud.breakwater.store.issuance import IssuanceStore
from protocol.ids import NodeId, TenantId


class PeerRecords:
    """The checks. The guard calls them at each request of a node or service."""

    def __init__(self, generations: GenerationStore, issuance: IssuanceStore) -> None:
        self._generations = generations
        self._issuance = issuance

    async def generation_open(self, tenant: TenantId, node: NodeId, generation: int) -> bool:
        """Whether the generation is open, so that its node is admitted."""
        return await self._generations.is_open(tenant, node, generation)

    async def service_revoked(self, serial: int) -> bool:
        """Whether the certificate with this serial is revoked or orphaned."""
        return await self._issuance.is_revoked(serial)
