"""Values: the server secrets of an installation, which `cascade init` stored in the database."""

import msgspec

from cloud.fabric.entropy import Entropy
from cloud.fabric.nonce import KEY_BYTES
from cloud.fabric.store.installation import CURSOR_KEY, RECOVERY_KEY, InstallationStore
from cloud.storage import StorageError


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """Values that `cascade init` stored in the database.

    They are the epoch of the statements, and the keys of nonces, of EK hashes, of the hashes of recovery codes, and of the
    cursors of lists.
    """

    epoch: int
    nonce_key: bytes
    ek_key: bytes
    recovery_key: bytes
    cursor_key: bytes

    def __repr__(self) -> str:
        return f"Secrets(epoch={self.epoch})"


async def read_secrets(installation: InstallationStore, entropy: Entropy) -> Secrets:
    """Read the server secrets. Raises StorageError if `cascade init` did not make this database.

    An installation of an earlier release lacks some keys. They are made here, once, whichever replica is first.
    """
    rows = await installation.read_all()
    if not {"nonce_key", "ek_key", "epoch"} <= set(rows):
        raise StorageError("this database has no server secrets: `cascade init` did not make it")
    missing = {RECOVERY_KEY, CURSOR_KEY} - set(rows)
    for name in sorted(missing):
        await installation.insert_new(name, entropy(KEY_BYTES))
    if missing:
        rows = await installation.read_all()
    return Secrets(
        epoch=int(rows["epoch"]),
        nonce_key=rows["nonce_key"],
        ek_key=rows["ek_key"],
        recovery_key=rows[RECOVERY_KEY],
        cursor_key=rows[CURSOR_KEY],
    )
