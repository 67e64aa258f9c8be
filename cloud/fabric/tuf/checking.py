"""Pure functions: check by the rules of TUF 1.0 that metadata which were signed offline may be published.

Files, keys and time are arguments. Every client verifies the published files again. These checks keep files from being
published that clients would refuse. Whether nodes still use a dropped root or issuer is checked by the use case
`cloud.fabric.service.published_trust.publishing`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp

from cloud.fabric.tuf.repository import MetadataFile, Publication, Signed, TargetContent
from protocol.encoding import sha256_hex
from protocol.limits import SEQ_MAX
from protocol.signed.trust import TARGETS

ROLES = (Root.type, Targets.type, Snapshot.type, Timestamp.type)
ROOTS_MAX = 8
"""Most new roots in one publication. A ceremony makes one."""

R = TypeVar("R", Root, Targets, Snapshot, Timestamp)


class PublicationRefused(ValueError):
    """The files must not be published. The text names the broken rule."""


def read_metadata(data: bytes, kind: type[R]) -> Metadata[R]:
    """Read the metadata file of one role. Raises PublicationRefused."""
    try:
        metadata: Metadata[R] = Metadata.from_bytes(data)
    except (RepositoryError, ValueError, KeyError, TypeError) as error:
        # The library raises the last three for JSON of an unexpected form.
        raise PublicationRefused(f"the metadata of {kind.type} cannot be read") from error
    if not isinstance(metadata.signed, kind):
        raise PublicationRefused(f"this is not metadata of {kind.type}")
    if not 1 <= metadata.signed.version <= SEQ_MAX:
        raise PublicationRefused(f"the version of {kind.type} is not 1 to {SEQ_MAX}")
    return metadata


def check_signed(
    root: MetadataFile,
    targets: MetadataFile,
    offered: Sequence[bytes],
    offered_targets: bytes,
    contents: Mapping[str, bytes],
    now: datetime,
) -> Signed:
    """Check the offered files against the newest stored `root` and `targets`, and return them.

    `offered` are root files in order of version. `offered_targets` is targets.json, empty for none. `contents` are all
    target files by name. 1 each root follows the root before it (TUF 5.3); 2 the threshold of keys that the newest root
    names has signed the targets (5.6.3); 3 the targets have the next version; 4 they have not expired; 5 they delegate
    nothing, and name exactly our targets, with length and SHA-256 of the contents. Without new targets, the stored
    targets must verify under the new root. Raises PublicationRefused.
    """
    roots = check_roots(root, offered, now)
    newest = roots[-1] if roots else root
    above = read_metadata(newest.data, Root).signed
    if not offered_targets:
        if not roots:
            raise PublicationRefused("the request contains neither new roots nor new targets")
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
        raise PublicationRefused("the targets contain delegations, which no client follows")
    file = MetadataFile(role="targets", version=signed.version, data=offered_targets)
    return Signed(roots=roots, targets=file, contents=_check_contents(signed, contents))


def check_roots(current: MetadataFile, offered: Sequence[bytes], now: datetime) -> tuple[MetadataFile, ...]:
    """Check the offered roots, which must follow `current`, and return them. Raises PublicationRefused.

    The thresholds of the root before it and of the root itself have signed each root. Each has the next version and has
    not expired. Each uses consistent snapshots, because our file names depend on them.
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
            raise PublicationRefused(f"root {signed.version} has other roles, or does not use consistent snapshots")
        current = MetadataFile(role="root", version=signed.version, data=data)
        accepted.append(current)
    return tuple(accepted)


def check_online(root: MetadataFile, publication: Publication) -> None:
    """Check that snapshot and timestamp of a publication verify under its root. Raises PublicationRefused.

    No client could update any more if the root named other online keys than those of this Fabric.
    """
    above = read_metadata(root.data, Root).signed
    for file in publication.metadata:
        if file.role == "snapshot":
            verify(above, Snapshot.type, read_metadata(file.data, Snapshot))
        if file.role == "timestamp":
            verify(above, Timestamp.type, read_metadata(file.data, Timestamp))


def hashes_of(targets: bytes) -> dict[str, str]:
    """The SHA-256 (hex) of each target that targets.json names, by name. Raises PublicationRefused."""
    return {name: _sha256(file) for name, file in read_metadata(targets, Targets).signed.targets.items()}


def _sha256(file: TargetFile) -> str:
    if set(file.hashes) != {"sha256"}:
        raise PublicationRefused("a target must be named by its SHA-256 only")
    return str(file.hashes["sha256"])


def _check_contents(signed: Targets, contents: Mapping[str, bytes]) -> tuple[TargetContent, ...]:
    if set(signed.targets) != set(TARGETS):
        raise PublicationRefused(f"the targets must be exactly {', '.join(TARGETS)}")
    found = []
    for name, file in sorted(signed.targets.items()):
        data = contents.get(name)
        if data is None:
            raise PublicationRefused(f"the content of {name} is missing")
        if file.length != len(data) or _sha256(file) != sha256_hex(data):
            raise PublicationRefused(f"the content of {name} does not match the signed length and hash")
        found.append(TargetContent(name=name, sha256=sha256_hex(data), data=data))
    return tuple(found)


def verify(above: Root, role: str, metadata: Metadata[R]) -> None:
    """Check that the threshold of keys that the root `above` names for `role` has signed. Raises PublicationRefused."""
    try:
        above.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise PublicationRefused(
            f"{role} {metadata.signed.version} is not signed by the keys that root {above.version} names"
        ) from error
