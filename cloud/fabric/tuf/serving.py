"""Use case: which stored file a path of the repository names, and keeping the online roles fresh.

It never touches a table: Fabric's store implements `TrustStore`. A path that names no file is answered like a file
that is not there; nothing of a path reaches the store but a role, a number, a name and a hash.
"""

import re
from datetime import datetime
from typing import Protocol, cast

import msgspec

from cloud.fabric.tuf.repository import Latest, MetadataFile, OnlineSigners, Publication, RoleName, refresh_online

METADATA_PREFIX = "/tuf/metadata/"
TARGETS_PREFIX = "/tuf/targets/"

_METADATA_NAME = re.compile(r"([1-9][0-9]{0,14})\.(root|targets|snapshot)\.json", re.ASCII)
_TARGET_NAME = re.compile(r"([0-9a-f]{64})\.([a-z0-9-]{1,64}\.json)", re.ASCII)


class TrustStore(Protocol):
    """What Fabric's store gives. Files are only ever added, so a client in the middle of an update finds its own."""

    async def metadata(self, role: RoleName, version: int) -> bytes | None:
        """The file of that role and version."""

    async def latest(self, role: RoleName) -> MetadataFile | None:
        """The highest version of a role."""

    async def target(self, name: str, sha256: str) -> bytes | None:
        """The content of a target by name and lower-case hex hash."""

    async def publish(self, publication: Publication) -> None:
        """Add all files in one transaction. A (role, version) that is there already is an `IntegrityError`:
        another replica was first. A (name, sha256) that is there already is the same content and no error."""


class MetadataName(msgspec.Struct, frozen=True):
    """A metadata file as a path names it; without a version, the latest."""

    role: RoleName
    version: int | None


class TargetName(msgspec.Struct, frozen=True):
    """A target as a path names it."""

    name: str
    sha256: str


def parse_path(path: str) -> MetadataName | TargetName | None:
    """What a path names, by the rules of consistent snapshots (TUF 1.0 section 6.2); None when nothing."""
    if path == f"{METADATA_PREFIX}timestamp.json":
        return MetadataName(role="timestamp", version=None)
    if path.startswith(METADATA_PREFIX):
        match = _METADATA_NAME.fullmatch(path.removeprefix(METADATA_PREFIX))
        return MetadataName(role=cast(RoleName, match[2]), version=int(match[1])) if match else None
    if path.startswith(TARGETS_PREFIX):
        match = _TARGET_NAME.fullmatch(path.removeprefix(TARGETS_PREFIX))
        return TargetName(name=match[2], sha256=match[1]) if match else None
    return None


async def file_for(path: str, store: TrustStore) -> bytes | None:
    """The bytes to answer `GET path` with; None is a 404."""
    match parse_path(path):
        case MetadataName(role=role, version=None):
            latest = await store.latest(role)
            return latest.data if latest else None
        case MetadataName(role=role, version=int(version)):
            return await store.metadata(role, version)
        case TargetName(name=name, sha256=sha256):
            return await store.target(name, sha256)
        case _:
            return None


async def keep_fresh(store: TrustStore, now: datetime, online: OnlineSigners) -> bool:
    """Sign the online roles again if they are due (hourly is often enough); whether something was published.

    Raises LookupError when the repository was never initialised; the store's IntegrityError when another replica was
    first, which the loop ignores.
    """
    targets, snapshot, timestamp = [await store.latest(role) for role in ("targets", "snapshot", "timestamp")]
    if targets is None or snapshot is None or timestamp is None:
        raise LookupError("the TUF repository is empty: run `cascade init`")
    publication = refresh_online(Latest(targets=targets, snapshot=snapshot, timestamp=timestamp), now, online)
    if publication is None:
        return False
    await store.publish(publication)
    return True
