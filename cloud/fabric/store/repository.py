"""Store: the files of the TUF repository. Implements the port `cloud.fabric.tuf.serving.TrustStore`."""

from typing import cast

from cloud.fabric.store.keys import TRUST
from cloud.fabric.tables import TufMetadata, TufTarget
from cloud.fabric.tuf.repository import MetadataFile, Publication, RoleName
from cloud.storage import ServiceEngine, compiled, insert_into, param

_NEWEST = compiled(
    TufMetadata.select(TufMetadata.version)
    .where(TufMetadata.role == param("role"))
    .order_by(TufMetadata.version, ascending=False)
    .limit(1)
)
_LATEST = compiled(
    TufMetadata.select(TufMetadata.role, TufMetadata.version, TufMetadata.data)
    .where(TufMetadata.role == param("role"))
    .order_by(TufMetadata.version, ascending=False)
    .limit(1)
)
_METADATA = compiled(TufMetadata.select(TufMetadata.data).where(TufMetadata.id == param("id")))
_TARGET = compiled(TufTarget.select(TufTarget.data).where(TufTarget.id == param("id")))
_ADD_METADATA = compiled(insert_into(TufMetadata))
_ADD_TARGET = compiled(insert_into(TufTarget).on_conflict(target=TufTarget.id, action="DO NOTHING"))


class RepositoryStore:
    """The TUF repository as rows. Files are only added."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def metadata(self, role: RoleName, version: int) -> bytes | None:
        """The file of that role and version."""
        row = await self._engine.fetch_one(_METADATA, id=f"{role}.{version}")
        return None if row is None else bytes(row["data"])

    async def latest(self, role: RoleName) -> MetadataFile | None:
        """The highest version of a role."""
        row = await self._engine.fetch_one(_LATEST, role=role)
        if row is None:
            return None
        return MetadataFile(role=cast(RoleName, row["role"]), version=int(row["version"]), data=bytes(row["data"]))

    async def newest(self, role: RoleName) -> int:
        """The number of the highest version of a role; 0 before the first."""
        row = await self._engine.fetch_one(_NEWEST, role=role)
        return 0 if row is None else int(row["version"])

    async def target(self, name: str, sha256: str) -> bytes | None:
        """The content of a target by name and hash."""
        row = await self._engine.fetch_one(_TARGET, id=f"{sha256}.{name}")
        return None if row is None else bytes(row["data"])

    async def publish(self, publication: Publication) -> None:
        """Add all files or none. Raises IntegrityError if a version of a role is stored already."""
        async with self._engine.transaction(TRUST):
            for target in publication.targets:
                await self._engine.fetch(_ADD_TARGET, id=f"{target.sha256}.{target.name}", data=target.data)
            for file in publication.metadata:
                identifier = f"{file.role}.{file.version}"
                await self._engine.fetch(
                    _ADD_METADATA, id=identifier, role=file.role, version=file.version, data=file.data
                )
