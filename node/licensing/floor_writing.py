"""Adapter: the steps of one raise of the floor. A record is signed, its copies are stored, and the counter advances.

`node.licensing.raising` decides when these steps are due, and repeats them after a refusal.
"""

import logging
from functools import partial
from pathlib import Path

import msgspec

from node.disk.thread import on_disk
from node.hwbind import counter as nv
from node.hwbind import keys
from node.hwbind.keys import WrappedKey
from node.hwbind.tpm import Esys, Tpm
from node.licensing import floors
from node.licensing.floor_store import FloorStore
from node.licensing.floors import Record
from protocol.faults import fault_point
from protocol.signed import envelope

log = logging.getLogger("cascadia.floors")

WRITE_SECONDS_MAX = 30.0
"""After this time a disk that does not answer counts as failing."""


class CounterMoved(Exception):
    """Another process has advanced or replaced the counter."""


class Signed(msgspec.Struct, frozen=True):
    """A signed record that is not complete.

    `left` are the copies that are to be written. `whole` is whether both copies were written now.
    """

    record: Record
    token: str
    left: tuple[Path, ...]
    whole: bool = False


def sign(esys: Esys, *, node_key: WrappedKey, record: Record) -> str:
    """The token of a record. It runs in the TPM's thread."""
    signed = floors.signing_input(record, node_key.public_key())
    return envelope.assemble(signed, keys.sign(esys, node_key, signed))


async def store_copies(store: FloorStore, signed: Signed) -> Signed:
    """Write the copies that are left. One copy is enough; a copy that failed stays in `left`.

    Raises StateError if no copy was written, DiskSilent.
    """
    if not signed.left:
        return signed
    left = await _write(store, signed.token, signed.left)
    if left:
        log.warning("cannot write %s: the floor record has one copy", left[0])
    return msgspec.structs.replace(signed, left=left, whole=not left)


async def store_one(store: FloorStore, token: str, path: Path) -> None:
    """Write one copy. Raises StateError, DiskSilent."""
    await _write(store, token, (path,))


async def count(tpm: Tpm, record: Record) -> None:
    """Advance the counter to the value in the record. Raises TpmError, CounterMoved."""
    to = record.counter.value
    with fault_point("node.floor.count"):
        reached = await tpm.run(lambda esys: nv.advance(esys, record.counter, to))
    if reached != to:
        raise CounterMoved("another process has changed the floor counter")


async def _write(store: FloorStore, token: str, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Write copies. Returns the paths that were not written. Raises StateError if none was, DiskSilent."""
    failed = await on_disk(partial(store.write, token, paths), seconds_max=WRITE_SECONDS_MAX)
    if len(failed) == len(paths):
        raise next(iter(failed.values()))
    return tuple(failed)
