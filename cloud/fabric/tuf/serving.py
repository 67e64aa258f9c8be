"""Use case: find the stored file for a path of the repository, and sign the online roles again. With the store's port.

Fabric's store implements `TrustStore`. A malformed path gets the same answer as a file that does not exist. From a path
only a role, a number, a name and a hash reach the store.
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
    """Port: the store of the repository's files. Files are only added, so a client can finish the update it began."""

    async def metadata(self, role: RoleName, version: int) -> bytes | None:
        """The file of that role and version."""

    async def latest(self, role: RoleName) -> MetadataFile | None:
        """The highest version of a role."""

    async def target(self, name: str, sha256: str) -> bytes | None:
        """The content of a target by name and lower-case hex hash."""

    async def publish(self, publication: Publication) -> None:
        """Add all files in one transaction.

        Raises IntegrityError if a (role, version) is stored already; then another replica was first. A target with the
        same (name, sha256) has the same content, and is not an error.
        """


class MetadataName(msgspec.Struct, frozen=True):
    """A metadata file that a path names. Without a version it is the latest."""

    role: RoleName
    version: int | None


class TargetName(msgspec.Struct, frozen=True):
    """A target that a path names."""

    name: str
    sha256: str


def parse_path(path: str) -> MetadataName | TargetName | None:
    """The file that a path names, by the rules of consistent snapshots (TUF 1.0 section 6.2); None if it names none."""
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
    """The bytes of the file at `path`; None if there is no such file."""
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
    """Sign the online roles again if they are due. True if new files were published. One call an hour is enough.

    Raises LookupError if the repository is empty. Raises the store's IntegrityError if another replica was first.
    """
    targets, snapshot, timestamp = [await store.latest(role) for role in ("targets", "snapshot", "timestamp")]
    if targets is None or snapshot is None or timestamp is None:
        raise LookupError("the TUF repository is empty: run `cascade init`")
    publication = refresh_online(Latest(targets=targets, snapshot=snapshot, timestamp=timestamp), now, online)
    if publication is None:
        return False
    await store.publish(publication)
    return True
