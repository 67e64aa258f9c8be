"""Use case: collect the files of the trust repository that a node without a network lacks."""

from typing import Literal

import msgspec
from tuf.api.metadata import Metadata, Snapshot, Targets, Timestamp

from cloud.fabric.tuf.repository import SNAPSHOT_ENTRY
from cloud.fabric.tuf.serving import METADATA_PREFIX, TARGETS_PREFIX, TrustStore
from protocol.encoding import sha256_hex
from protocol.limits import TRUST_ROOT_ROTATIONS_MAX
from protocol.messages.activation import TrustPin

METADATA = METADATA_PREFIX.removeprefix("/tuf/")
TARGETS = TARGETS_PREFIX.removeprefix("/tuf/")


class CarriedError(Exception):
    """The node cannot use the files of this repository: its pin is of another one, or it lacks too many roots."""


class HeldTrust(msgspec.Struct, frozen=True):
    """The trust that a node has. `root` and `targets` are versions, 0 without any. `pin` is the node's trust pin."""

    root: int
    targets: int
    pin: TrustPin | None


async def files_for(held: HeldTrust, store: TrustStore) -> dict[str, str]:
    """The files that a node lacks, by their path below `tuf/`. Empty if the node has the newest root and targets.

    The files are those that an update over the network reads (TUF 1.0 section 5): every root after the node's, or from
    the pin on; timestamp, snapshot and targets metadata; every target. They are consistent with one timestamp.
    Raises CarriedError, and LookupError if the repository is empty.
    """
    newest, timestamp = await store.latest("root"), await store.latest("timestamp")
    if newest is None or timestamp is None:
        raise LookupError("the TUF repository is empty: run `cascade init`")
    await _check_pin(held, store)
    first = held.root + 1 if held.root else held.pin.version if held.pin else 1
    if newest.version - first >= TRUST_ROOT_ROTATIONS_MAX:
        raise CarriedError(
            f"the node has root {first - 1}, and reads at most {TRUST_ROOT_ROTATIONS_MAX} roots at a time"
        )
    snapshot_version = Metadata[Timestamp].from_bytes(timestamp.data).signed.snapshot_meta.version
    snapshot = await _metadata(store, "snapshot", snapshot_version)
    targets_version = Metadata[Snapshot].from_bytes(snapshot).signed.meta[SNAPSHOT_ENTRY].version
    if first > newest.version and targets_version <= held.targets:
        return {}
    targets = await _metadata(store, "targets", targets_version)
    files = {f"{METADATA}timestamp.json": timestamp.data}
    files[f"{METADATA}{snapshot_version}.snapshot.json"] = snapshot
    files[f"{METADATA}{targets_version}.targets.json"] = targets
    for version in range(first, newest.version + 1):
        files[f"{METADATA}{version}.root.json"] = await _metadata(store, "root", version)
    for name, target in Metadata[Targets].from_bytes(targets).signed.targets.items():
        digest = target.hashes["sha256"]
        content = await store.target(name, digest)
        if content is None:
            raise LookupError(f"the TUF repository lacks the target {name}")
        files[f"{TARGETS}{digest}.{name}"] = content
    return {path: files[path].decode() for path in sorted(files)}


async def _check_pin(held: HeldTrust, store: TrustStore) -> None:
    """Check that the root of the node's pin is ours. Raises CarriedError."""
    if held.pin is None:
        return
    pinned = await store.metadata("root", held.pin.version)
    if pinned is None or sha256_hex(pinned) != held.pin.sha256:
        raise CarriedError("the trust pin in the request is that of another installation")


async def _metadata(store: TrustStore, role: Literal["root", "snapshot", "targets"], version: int) -> bytes:
    data = await store.metadata(role, version)
    if data is None:
        raise LookupError(f"the TUF repository lacks the {role} {version}")
    return data
