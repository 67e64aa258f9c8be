"""Adapter: the key files of the published trust. Also makes the four keys and the first files for `cascade init`.

The keys of root and targets go to a separate directory, which an operator takes offline. The keys of snapshot and
timestamp go to the directory of Fabric's keys. The module writes key files only. The caller stores the files of the
repository.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner

from cloud.crypto.keyfile import KeyFileError, PrivateKey, read_key, read_keys, write_keys
from cloud.fabric.tuf.repository import OnlineSigners, Publication, create, signer_of

ROOT_KEY = "tuf-root.key.pem"
TARGETS_KEY = "tuf-targets.key.pem"
SNAPSHOT_KEY = "tuf-snapshot.key.pem"
TIMESTAMP_KEY = "tuf-timestamp.key.pem"


def initialise(
    now: datetime, offline_dir: Path, online_dir: Path, passphrase: bytes, targets: Mapping[str, bytes]
) -> Publication:
    """Make the four keys, and sign `targets` (name -> content) as version 1. The first metadata file is root 1.

    Raises KeyFileError if a key file cannot be written or exists already. A root key must not be replaced here, because
    nodes with the pin of its root could then never update.
    """
    offline, online = (
        [offline_dir / ROOT_KEY, offline_dir / TARGETS_KEY],
        [online_dir / SNAPSHOT_KEY, online_dir / TIMESTAMP_KEY],
    )
    root, targets_signer, snapshot, timestamp = _make([*offline, *online], passphrase)
    return create(now, root, targets_signer, OnlineSigners(snapshot=snapshot, timestamp=timestamp), targets)


def read_or_make_signer(path: Path, passphrase: bytes) -> CryptoSigner:
    """The signer over a key file. Makes the key and its file if the file does not exist. Raises KeyFileError."""
    return read_signer(path, passphrase) if path.exists() else _make([path], passphrase)[0]


def read_signer(path: Path, passphrase: bytes) -> CryptoSigner:
    """The signer over a key file that `initialise` wrote. Raises KeyFileError."""
    return _checked(path, read_key(path, passphrase))


def _checked(path: Path, key: PrivateKey) -> CryptoSigner:
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyFileError(f"cannot use {path}: not a P-256 key")
    return signer_of(key)


def read_online_signers(online_dir: Path, passphrase: bytes) -> OnlineSigners:
    """The keys of the online roles, which a running Fabric needs. Raises KeyFileError."""
    paths = [online_dir / name for name in (SNAPSHOT_KEY, TIMESTAMP_KEY)]
    snapshot, timestamp = map(_checked, paths, read_keys(paths, passphrase))
    return OnlineSigners(snapshot=snapshot, timestamp=timestamp)


def _make(paths: list[Path], passphrase: bytes) -> list[CryptoSigner]:
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in paths]
    write_keys(dict(zip(paths, keys, strict=True)), passphrase)
    return [signer_of(key) for key in keys]
