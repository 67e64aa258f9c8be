"""Values: the server secrets of an installation, which `cascade init` stored in the database."""

import msgspec

from cloud.fabric.store.installation import InstallationStore
from cloud.storage import StorageError


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """Values that `cascade init` stored in the database: epoch of the statements, nonce key, key of the EK hashes."""

    epoch: int
    nonce_key: bytes
    ek_key: bytes

    def __repr__(self) -> str:
        return f"Secrets(epoch={self.epoch})"


async def read_secrets(installation: InstallationStore) -> Secrets:
    """Read the server secrets. Raises StorageError if `cascade init` did not make this database."""
    rows = await installation.read_all()
    if not {"nonce_key", "ek_key", "epoch"} <= set(rows):
        raise StorageError("this database has no server secrets: `cascade init` did not make it")
    return Secrets(epoch=int(rows["epoch"]), nonce_key=rows["nonce_key"], ek_key=rows["ek_key"])
