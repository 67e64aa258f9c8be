"""Queries on the files of the TUF repository: the store that `cloud.fabric.tuf.serving` asks for."""

from typing import cast

from cloud.fabric.tuf.repository import MetadataFile, Publication, RoleName
from cloud.storage import ServiceEngine, Statement

_NEWEST = Statement("SELECT version FROM tuf_metadata WHERE role = {} ORDER BY version DESC LIMIT 1")
_METADATA = Statement("SELECT data FROM tuf_metadata WHERE id = {}")
_LATEST = Statement("SELECT role, version, data FROM tuf_metadata WHERE role = {} ORDER BY version DESC LIMIT 1")
_TARGET = Statement("SELECT data FROM tuf_target WHERE id = {}")
_ADD_METADATA = Statement("INSERT INTO tuf_metadata (id, role, version, data) VALUES ({}, {}, {}, {})")
_ADD_TARGET = Statement("INSERT INTO tuf_target (id, data) VALUES ({}, {}) ON CONFLICT (id) DO NOTHING")


class RepositoryStore:
    """The TUF repository as rows. Files are only ever added."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def metadata(self, role: RoleName, version: int) -> bytes | None:
        """The file of that role and version."""
        row = await self._engine.fetch_one(_METADATA, f"{role}.{version}")
        return None if row is None else bytes(row["data"])

    async def latest(self, role: RoleName) -> MetadataFile | None:
        """The highest version of a role."""
        row = await self._engine.fetch_one(_LATEST, role)
        if row is None:
            return None
        return MetadataFile(role=cast(RoleName, row["role"]), version=int(row["version"]), data=bytes(row["data"]))

    async def newest(self, role: RoleName) -> int:
        """The highest version of a role; 0 before the first."""
        row = await self._engine.fetch_one(_NEWEST, role)
        return 0 if row is None else int(row["version"])

    async def target(self, name: str, sha256: str) -> bytes | None:
        """The content of a target by name and hash."""
        row = await self._engine.fetch_one(_TARGET, f"{sha256}.{name}")
        return None if row is None else bytes(row["data"])

    async def publish(self, publication: Publication) -> None:
        """Add all files, or none. Raises IntegrityError when a version is there already."""
        async with self._engine.transaction():
            for target in publication.targets:
                await self._engine.fetch(_ADD_TARGET, f"{target.sha256}.{target.name}", target.data)
            for file in publication.metadata:
                await self._engine.fetch(
                    _ADD_METADATA, f"{file.role}.{file.version}", file.role, file.version, file.data
                )
