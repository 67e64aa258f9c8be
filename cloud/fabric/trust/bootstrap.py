"""What `cascade init` does for the trust of documents: four keys and the first files of the repository.

The keys of root and targets go to a directory of their own, to be taken offline; those of snapshot and timestamp to
Fabric's keys. It writes key files only; the files of the repository are handed back for the caller to store.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner

from cloud.fabric.trust.repository import OnlineSigners, Publication, create, signer_of
from cloud.keyfile import KeyFileError, read_key, write_key

ROOT_KEY = "tuf-root.key.pem"
TARGETS_KEY = "tuf-targets.key.pem"
SNAPSHOT_KEY = "tuf-snapshot.key.pem"
TIMESTAMP_KEY = "tuf-timestamp.key.pem"


def initialise(
    now: datetime, offline_dir: Path, online_dir: Path, passphrase: bytes, targets: Mapping[str, bytes]
) -> Publication:
    """Make the keys and sign `targets` (name -> content) as the first version; the first metadata file is root 1.

    Raises KeyFileError when a key cannot be written or is there already: replacing a root key would strand every
    node that was pinned to it.
    """
    root, targets_signer = (_make(offline_dir / name, passphrase) for name in (ROOT_KEY, TARGETS_KEY))
    snapshot, timestamp = (_make(online_dir / name, passphrase) for name in (SNAPSHOT_KEY, TIMESTAMP_KEY))
    return create(now, root, targets_signer, OnlineSigners(snapshot=snapshot, timestamp=timestamp), targets)


def read_or_make_signer(path: Path, passphrase: bytes) -> CryptoSigner:
    """The signer over a key file, which is made if there is none. Raises KeyFileError."""
    return read_signer(path, passphrase) if path.exists() else _make(path, passphrase)


def read_signer(path: Path, passphrase: bytes) -> CryptoSigner:
    """The signer over a key file that `initialise` wrote. Raises KeyFileError."""
    key = read_key(path, passphrase)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyFileError(f"cannot use {path}: not a P-256 key")
    return signer_of(key)


def read_online_signers(online_dir: Path, passphrase: bytes) -> OnlineSigners:
    """The keys that a running Fabric needs. Raises KeyFileError."""
    return OnlineSigners(
        snapshot=read_signer(online_dir / SNAPSHOT_KEY, passphrase),
        timestamp=read_signer(online_dir / TIMESTAMP_KEY, passphrase),
    )


def _make(path: Path, passphrase: bytes) -> CryptoSigner:
    if path.exists():
        raise KeyFileError(f"cannot write {path}: there is a key already")
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(path, key, passphrase)
    return signer_of(key)
