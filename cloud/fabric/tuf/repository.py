"""Pure functions: make and sign the metadata of the TUF repository. Keys and time are arguments, files are values.

Rules:

- Offline keys sign root and targets. Online keys sign snapshot and timestamp.
- The version of a snapshot or timestamp is `max(stored + 1, unix time)`. So a database that was restored from a backup
  never publishes an older version.
- Metadata name a file with its length and SHA-256.

Nodes and the operators' command line verify the files with `tuf.ngclient`.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from protocol.encoding import sha256_hex
from protocol.limits import CLOCK_SKEW
from protocol.messages.activation import TrustPin

RoleName = Literal["root", "targets", "snapshot", "timestamp"]

ROOT_LIFE = timedelta(days=3652)
"""Ten years, because root changes in a ceremony only, and an expired root would lock every node out of new trust."""
TARGETS_LIFE = timedelta(days=365)
"""One year. At least this often, the holders of the offline keys check the targets and sign them again."""
SNAPSHOT_LIFE = timedelta(days=30)
TIMESTAMP_LIFE = timedelta(days=7)
"""For this long an attacker on the network can show a node an old state of the repository."""

SNAPSHOT_ENTRY = "targets.json"


class MetadataFile(msgspec.Struct, frozen=True):
    """One signed metadata file. Role and version identify it; its content never changes."""

    role: RoleName
    version: int
    data: bytes


class TargetContent(msgspec.Struct, frozen=True):
    """The bytes of one version of a target. Name and SHA-256 (hex) identify it."""

    name: str
    sha256: str
    data: bytes


class Publication(msgspec.Struct, frozen=True):
    """Files that are published together. Store them in one transaction, or a client finds a name without its file."""

    metadata: tuple[MetadataFile, ...]
    targets: tuple[TargetContent, ...] = ()


class Latest(msgspec.Struct, frozen=True):
    """The newest stored file of each role that a change is based on."""

    targets: MetadataFile
    snapshot: MetadataFile
    timestamp: MetadataFile


class Signed(msgspec.Struct, frozen=True):
    """Files that the holders of the offline keys have signed, and `checking` has checked.

    `roots` are the new roots in order of version. `targets` are the new targets, or None.
    """

    roots: tuple[MetadataFile, ...]
    targets: MetadataFile | None
    contents: tuple[TargetContent, ...] = ()


class OnlineSigners:
    """The keys of the two online roles."""

    def __init__(self, snapshot: Signer, timestamp: Signer) -> None:
        self.snapshot = snapshot
        self.timestamp = timestamp


def signer_of(private_key: ec.EllipticCurvePrivateKey) -> CryptoSigner:
    """A TUF signer (`ecdsa-sha2-nistp256`) over a P-256 key. Raises ValueError for another curve."""
    if not isinstance(private_key.curve, ec.SECP256R1):
        raise ValueError("the keys of the TUF repository are P-256 keys")
    return CryptoSigner(private_key, SSlibKey.from_crypto(private_key.public_key()))


def pin_of(root: MetadataFile) -> TrustPin:
    """The pin of a root: its version and SHA-256. A node starts from it. Raises ValueError for another role."""
    if root.role != "root":
        raise ValueError("a trust pin is made from a root")
    return TrustPin(version=root.version, sha256=sha256_hex(root.data))


def create(
    now: datetime, root: Signer, targets: Signer, online: OnlineSigners, content: Mapping[str, bytes]
) -> Publication:
    """The first files of a new repository: root 1, targets 1 over `content` (name -> bytes), snapshot and timestamp."""
    signed = Root(version=1, expires=now + ROOT_LIFE, consistent_snapshot=True)
    signed.add_key(root.public_key, Root.type)
    signed.add_key(targets.public_key, Targets.type)
    signed.add_key(online.snapshot.public_key, Snapshot.type)
    signed.add_key(online.timestamp.public_key, Timestamp.type)
    first = _sign("root", Metadata(signed), root)
    rest = _publish_targets(now, _Stored(targets=0, snapshot=0, timestamp=0), targets, online, content)
    return Publication(metadata=(first, *rest.metadata), targets=rest.targets)


def replace_targets(
    now: datetime, latest: Latest, targets: Signer, online: OnlineSigners, content: Mapping[str, bytes]
) -> Publication:
    """The next version of the targets, over exactly `content` (name -> bytes), with new snapshot and timestamp."""
    stored = _Stored(latest.targets.version, latest.snapshot.version, latest.timestamp.version)
    return _publish_targets(now, stored, targets, online, content)


def sign_targets(expires: datetime, version: int, signer: Signer, content: Mapping[str, bytes]) -> MetadataFile:
    """Targets metadata over `content` (name -> bytes), signed by a holder of the offline key."""
    named = {name: TargetFile.from_data(name, data, ["sha256"]) for name, data in content.items()}
    return _sign("targets", Metadata(Targets(version=version, expires=expires, targets=named)), signer)


def sign_root(
    expires: datetime,
    current: MetadataFile,
    signer: Signer,
    *,
    new_root: Signer | None = None,
    new_targets: Signer | None = None,
) -> MetadataFile:
    """The root after `current`, with the expiry time `expires`, and with new keys of root or targets if given.

    The old root key signs it, and the new root key too if there is one (TUF 5.3.4). Only roles with one key are
    supported. Raises ValueError if `signer` is not the only root key of `current`, or if a role that changes has
    several keys.
    """
    root = Metadata[Root].from_bytes(current.data).signed
    if root.roles[Root.type].keyids != [signer.public_key.keyid]:
        raise ValueError(f"this key is not the only root key of root {root.version}")
    root.version += 1
    root.expires = expires
    for role, fresh in ((Root.type, new_root), (Targets.type, new_targets)):
        if fresh is None:
            continue
        if len(root.roles[role].keyids) != 1:
            raise ValueError(f"the role {role} has several keys")
        root.revoke_key(root.roles[role].keyids[0], role)
        root.add_key(fresh.public_key, role)
    metadata = Metadata(root)
    metadata.sign(signer)
    if new_root is not None:
        metadata.sign(new_root, append=True)
    return MetadataFile(role="root", version=root.version, data=metadata.to_bytes())


def publish_signed(now: datetime, latest: Latest, signed: Signed, online: OnlineSigners) -> Publication:
    """The files that were signed offline, with a new snapshot and timestamp over them."""
    targets = signed.targets or latest.targets
    snapshot = _snapshot(now, latest.snapshot.version, targets, online.snapshot)
    timestamp = _timestamp(now, latest.timestamp.version, snapshot, online.timestamp)
    fresh = () if signed.targets is None else (signed.targets,)
    return Publication(metadata=(*signed.roots, *fresh, snapshot, timestamp), targets=signed.contents)


def refresh_online(latest: Latest, now: datetime, online: OnlineSigners) -> Publication | None:
    """New files of the online roles that have less than half of their life left, or more than all; None if neither has.

    A role with more than its whole life left was signed by a clock that was ahead. A new snapshot always comes with a
    new timestamp that names it.
    """
    snapshot = Metadata[Snapshot].from_bytes(latest.snapshot.data).signed
    timestamp = Metadata[Timestamp].from_bytes(latest.timestamp.data).signed
    if not SNAPSHOT_LIFE / 2 <= snapshot.expires - now <= SNAPSHOT_LIFE + CLOCK_SKEW:
        fresh = _snapshot(now, latest.snapshot.version, latest.targets, online.snapshot)
        return Publication(metadata=(fresh, _timestamp(now, latest.timestamp.version, fresh, online.timestamp)))
    if not TIMESTAMP_LIFE / 2 <= timestamp.expires - now <= TIMESTAMP_LIFE + CLOCK_SKEW:
        return Publication(metadata=(_timestamp(now, latest.timestamp.version, latest.snapshot, online.timestamp),))
    return None


class _Stored(msgspec.Struct, frozen=True):
    targets: int
    snapshot: int
    timestamp: int


def _publish_targets(
    now: datetime, stored: _Stored, signer: Signer, online: OnlineSigners, content: Mapping[str, bytes]
) -> Publication:
    targets = sign_targets(now + TARGETS_LIFE, stored.targets + 1, signer, content)
    snapshot = _snapshot(now, stored.snapshot, targets, online.snapshot)
    timestamp = _timestamp(now, stored.timestamp, snapshot, online.timestamp)
    return Publication(
        metadata=(targets, snapshot, timestamp),
        targets=tuple(
            TargetContent(name=name, sha256=sha256_hex(data), data=data) for name, data in sorted(content.items())
        ),
    )


def _snapshot(now: datetime, stored: int, targets: MetadataFile, signer: Signer) -> MetadataFile:
    signed = Snapshot(
        version=_next_version(stored, now), expires=now + SNAPSHOT_LIFE, meta={SNAPSHOT_ENTRY: _named(targets)}
    )
    return _sign("snapshot", Metadata(signed), signer)


def _timestamp(now: datetime, stored: int, snapshot: MetadataFile, signer: Signer) -> MetadataFile:
    signed = Timestamp(version=_next_version(stored, now), expires=now + TIMESTAMP_LIFE, snapshot_meta=_named(snapshot))
    return _sign("timestamp", Metadata(signed), signer)


def _next_version(stored: int, now: datetime) -> int:
    return max(stored + 1, int(now.timestamp()))


def _named(file: MetadataFile) -> MetaFile:
    return MetaFile.from_data(file.version, file.data, ["sha256"])


def _sign(
    role: RoleName,
    metadata: Metadata[Root] | Metadata[Targets] | Metadata[Snapshot] | Metadata[Timestamp],
    signer: Signer,
) -> MetadataFile:
    metadata.sign(signer)
    return MetadataFile(role=role, version=metadata.signed.version, data=metadata.to_bytes())
