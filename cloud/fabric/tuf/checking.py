"""Pure: whether metadata that were signed offline may be published, by the rules of TUF 1.0.

Files, keys and time are arguments. What was refused here can strand no node; what is accepted is verified once
more by every client. Whether it is *wise* (who has adopted what is dropped) is the service's business.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp

from cloud.fabric.tuf.repository import MetadataFile, Publication, Signed, TargetContent
from protocol.encoding import sha256_hex
from protocol.signed.trust import TARGETS

ROLES = (Root.type, Targets.type, Snapshot.type, Timestamp.type)
ROOTS_MAX = 8
"""New roots in one publication; a ceremony makes one."""

R = TypeVar("R", Root, Targets, Snapshot, Timestamp)


class PublicationRefused(ValueError):
    """The files must not be published; the text names the rule."""


def read_metadata(data: bytes, kind: type[R]) -> Metadata[R]:
    """A metadata file of one role. Raises PublicationRefused."""
    try:
        metadata: Metadata[R] = Metadata.from_bytes(data)
    except (RepositoryError, ValueError, KeyError, TypeError) as error:
        # The library lets the last three through for JSON that is not of the form it expects.
        raise PublicationRefused(f"the metadata of {kind.type} cannot be read") from error
    if not isinstance(metadata.signed, kind):
        raise PublicationRefused(f"this is not metadata of {kind.type}")
    return metadata


def check_signed(
    root: MetadataFile,
    targets: MetadataFile,
    offered: Sequence[bytes],
    offered_targets: bytes,
    contents: Mapping[str, bytes],
    now: datetime,
) -> Signed:
    """What may be published upon the newest stored `root` and `targets`. `contents`: every target by name.

    1 each root continues the one before it (TUF 5.3); 2 the targets are signed by the threshold of keys that the
    newest root names (5.6.3); 3 their version is the next one; 4 they have not expired; 5 they delegate nothing and
    name exactly our targets, with length and SHA-256 of the contents. Without new targets the stored ones must hold
    under the new root. Raises PublicationRefused.
    """
    roots = check_roots(root, offered, now)
    newest = roots[-1] if roots else root
    above = read_metadata(newest.data, Root).signed
    if not offered_targets:
        if not roots:
            raise PublicationRefused("nothing new is offered")
        verify(above, Targets.type, read_metadata(targets.data, Targets))
        return Signed(roots=roots, targets=None)
    metadata = read_metadata(offered_targets, Targets)
    verify(above, Targets.type, metadata)
    signed = metadata.signed
    if signed.version != targets.version + 1:
        raise PublicationRefused(f"the targets have version {signed.version}; the next one is {targets.version + 1}")
    if signed.expires <= now:
        raise PublicationRefused("the targets have expired already")
    if signed.delegations is not None:
        raise PublicationRefused("the targets delegate to others, which no client follows")
    file = MetadataFile(role="targets", version=signed.version, data=offered_targets)
    return Signed(roots=roots, targets=file, contents=_check_contents(signed, contents))


def check_roots(current: MetadataFile, offered: Sequence[bytes], now: datetime) -> tuple[MetadataFile, ...]:
    """The offered roots, which follow `current`. Raises PublicationRefused.

    Each is signed by the threshold of the root before it and by its own, has the next version, is not expired, and
    keeps to consistent snapshots, by which our files are named.
    """
    if len(offered) > ROOTS_MAX:
        raise PublicationRefused(f"at most {ROOTS_MAX} roots at once")
    accepted: list[MetadataFile] = []
    for data in offered:
        before = read_metadata(current.data, Root).signed
        metadata = read_metadata(data, Root)
        signed = metadata.signed
        if signed.version != current.version + 1:
            raise PublicationRefused(f"a root has version {signed.version}; the next one is {current.version + 1}")
        verify(before, Root.type, metadata)
        verify(signed, Root.type, metadata)
        if signed.expires <= now:
            raise PublicationRefused(f"root {signed.version} has expired already")
        if not signed.consistent_snapshot or set(signed.roles) != set(ROLES):
            raise PublicationRefused(f"root {signed.version} is not of the form that this repository has")
        current = MetadataFile(role="root", version=signed.version, data=data)
        accepted.append(current)
    return tuple(accepted)


def check_online(root: MetadataFile, publication: Publication) -> None:
    """Whether the online files of a publication verify under its root. Raises PublicationRefused.

    A root that names other online keys than this Fabric's would stop every client.
    """
    above = read_metadata(root.data, Root).signed
    for file in publication.metadata:
        if file.role == "snapshot":
            verify(above, Snapshot.type, read_metadata(file.data, Snapshot))
        if file.role == "timestamp":
            verify(above, Timestamp.type, read_metadata(file.data, Timestamp))


def hashes_of(targets: bytes) -> dict[str, str]:
    """SHA-256 by name of what targets metadata name. Raises PublicationRefused."""
    return {name: _sha256(file) for name, file in read_metadata(targets, Targets).signed.targets.items()}


def _sha256(file: TargetFile) -> str:
    if set(file.hashes) != {"sha256"}:
        raise PublicationRefused("a target is named by SHA-256 and nothing else")
    return str(file.hashes["sha256"])


def _check_contents(signed: Targets, contents: Mapping[str, bytes]) -> tuple[TargetContent, ...]:
    if set(signed.targets) != set(TARGETS):
        raise PublicationRefused(f"the targets are exactly {', '.join(TARGETS)}")
    found = []
    for name, file in sorted(signed.targets.items()):
        data = contents.get(name)
        if data is None:
            raise PublicationRefused(f"the content of {name} is missing")
        if file.length != len(data) or _sha256(file) != sha256_hex(data):
            raise PublicationRefused(f"the content of {name} is not the one that was signed")
        found.append(TargetContent(name=name, sha256=sha256_hex(data), data=data))
    return tuple(found)


def verify(above: Root, role: str, metadata: Metadata[R]) -> None:
    """Raises PublicationRefused unless the threshold of keys that `above` names has signed."""
    try:
        above.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise PublicationRefused(
            f"{role} {metadata.signed.version} is not signed by the keys that root {above.version} names"
        ) from error
