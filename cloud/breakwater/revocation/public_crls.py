"""Use case: find the CRL at a public address. A root's CRL comes from a ceremony, a shard's from the publisher."""

from cloud.breakwater.revocation.crl_publisher import CrlPublisher
from cloud.breakwater.revocation.root_crls import RootCrls
from cloud.breakwater.store.root_crls import RootCrlRow
from cloud.breakwater.store.shards import PublishedCrl, shard_id


class PublicCrls:
    """All CRLs that the plaintext listener serves."""

    def __init__(self, publisher: CrlPublisher, root_crls: RootCrls) -> None:
        self._publisher = publisher
        self._root_crls = root_crls

    async def find(self, authority: str, shard: str) -> PublishedCrl | RootCrlRow | None:
        """Return the CRL of a shard of `authority`; None if there is none. A root has one shard, with the number 1.

        Raises StorageError, and IssuerError when a shard's CRL is due and no earlier CRL exists.
        """
        if shard == shard_id(authority, 1):
            root_crl = await self._root_crls.newest(authority)
            if root_crl is not None:
                return root_crl
        return await self._publisher.ensure_fresh(shard)
