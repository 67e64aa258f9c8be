"""Helper: the holders of a test cloud's offline keys. They sign as `cascade trust sign` does, and publish."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from tuf.api.metadata import Root

from cloud.fabric import schemas
from cloud.fabric.tuf.bootstrap import ROOT_KEY, TARGETS_KEY, read_signer
from cloud.fabric.tuf.checking import hashes_of, read_metadata
from cloud.fabric.tuf.offline import Changes, changed
from cloud.fabric.tuf.repository import MetadataFile, sign_targets
from cloud.fabric.tuf.targets import Content, read_content
from cloud.storage import Statement
from tests.cloud.breakwater.support import PASSPHRASE
from tests.cloud.fabric.support import ALICE, World
from tests.simulators.repository import MemoryStore

YEAR = timedelta(days=365)


@dataclass
class Holders:
    """The holders of the keys of root and targets."""

    world: World
    offline: Path

    def __post_init__(self) -> None:
        self.root = read_signer(self.offline / ROOT_KEY, PASSPHRASE)
        self.targets = read_signer(self.offline / TARGETS_KEY, PASSPHRASE)

    async def newest(self, role: str) -> MetadataFile:
        file = await self.world.stores.repository.latest(role)  # type: ignore[arg-type]  # one of the four roles
        assert file is not None
        return file

    async def content(self) -> Content:
        files = {}
        for name, sha256 in hashes_of((await self.newest("targets")).data).items():
            data = await self.world.stores.repository.target(name, sha256)
            assert data is not None
            files[name] = data
        return read_content(files)

    async def signed(self, changes: Changes | None = None, life: timedelta = YEAR) -> schemas.PublishTrust:
        """The next version of the targets, with the changes made."""
        files = changed(await self.content(), changes or Changes()).encoded()
        version = (await self.newest("targets")).version + 1
        targets = sign_targets(self.world.clock() + life, version, self.targets, files)
        return schemas.PublishTrust(targets=targets.data, contents=files)

    async def publish(self, changes: Changes | None = None, *, override: str = "") -> schemas.Trust:
        """Sign, publish, and run Fabric's follower once."""
        body = await self.signed(changes)
        offered = schemas.PublishTrust(body.roots, body.targets, body.contents, bool(override), override)
        published = await self.world.parts.trust.publishing.publish(ALICE, offered)
        await self.world.follower.run_once()
        return published

    async def root_metadata(self) -> Root:
        return read_metadata((await self.newest("root")).data, Root).signed


async def mirrored(world: World) -> MemoryStore:
    """All files that Fabric has published, for a separate server."""
    copy = MemoryStore()
    for row in await world.stores.engine.fetch(Statement("SELECT role, version, data FROM tuf_metadata LIMIT 1000")):
        file = MetadataFile(role=row["role"], version=row["version"], data=bytes(row["data"]))
        copy.files[file.role, file.version] = file
    for row in await world.stores.engine.fetch(Statement("SELECT id, data FROM tuf_target LIMIT 1000")):
        sha256, _, name = str(row["id"]).partition(".")
        copy.contents[name, sha256] = bytes(row["data"])
    return copy


def names(items: Sequence[schemas.IssuerAdoption]) -> dict[str, int]:
    """The number of nodes by the key id of their issuer, without issuers that have none."""
    return {item.key_id: item.nodes for item in items if item.nodes}
