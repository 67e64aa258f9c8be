"""Adapter: the published trust as files in a folder. Operators carry the folder to the offline keys and back.

    N.root.json         roots: the newest, or the new ones
    targets.json        the targets metadata
    signing-keys.json, x509-bundle.json, services.json      the target files that it names

The files are not secret. Reading a folder checks that the files belong together: the newest root signed itself, it
names the keys that signed the targets, and the targets name the hashes of the target files. Dates are not checked,
because the folder is used to sign expired files again. A person who carries the folder could replace all files by a
consistent set. So a holder signs only on top of a root or targets that the holder's key has signed (`check_own`).
"""

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Signer
from tuf.api.metadata import Root, Targets

from cloud.crypto.keyfile import KeyFileError, write_secret
from cloud.fabric.tuf.checking import PublicationRefused, hashes_of, read_metadata, verify
from cloud.fabric.tuf.repository import MetadataFile
from cloud.fabric.tuf.targets import Content, read_content
from protocol.encoding import sha256_hex
from protocol.signed.trust import TARGETS

TARGETS_FILE = "targets.json"
FILE_BYTES_MAX = 256 * 1024
"""Largest file that is read. Clients read no more of targets.json or of a target."""
_ROOT_FILE = re.compile(r"([1-9][0-9]{0,8})\.root\.json", re.ASCII)


class FolderError(Exception):
    """The folder cannot be read, written or used. The text names the folder or file."""


class Folder(msgspec.Struct, frozen=True):
    """The files of a folder. `roots` are in order of version. `files` are the target files by name."""

    roots: tuple[MetadataFile, ...]
    targets: MetadataFile
    files: dict[str, bytes]

    @property
    def root(self) -> MetadataFile:
        """The newest root."""
        return self.roots[-1]

    @property
    def content(self) -> Content:
        """The contents of the targets. Raises TargetsError."""
        return read_content(self.files)


def read_folder(directory: Path) -> Folder:
    """Read a folder, and check that its files belong together. Raises FolderError, PublicationRefused."""
    found = [(int(match[1]), path) for path in _entries(directory) if (match := _ROOT_FILE.fullmatch(path.name))]
    if not found:
        raise FolderError(f"cannot use {directory}: it contains no file N.root.json")
    roots = tuple(
        MetadataFile(role="root", version=version, data=_read(path)) for version, path in sorted(found, key=_version)
    )
    data = _read(directory / TARGETS_FILE)
    files = {name: _read(directory / name) for name in TARGETS}
    newest, metadata = read_metadata(roots[-1].data, Root), read_metadata(data, Targets)
    verify(newest.signed, Root.type, newest)
    verify(newest.signed, Targets.type, metadata)
    if hashes_of(data) != {name: sha256_hex(content) for name, content in files.items()}:
        raise PublicationRefused(f"the files in {directory} do not have the hashes that {TARGETS_FILE} names")
    return Folder(roots, MetadataFile(role="targets", version=metadata.signed.version, data=data), files)


def check_own(targets: MetadataFile, key: Signer) -> None:
    """Check that exactly this key has signed these targets before. Raises PublicationRefused."""
    metadata = read_metadata(targets.data, Targets)
    signature = metadata.signatures.get(key.public_key.keyid)
    try:
        if signature is None:
            raise UnverifiedSignatureError
        key.public_key.verify_signature(signature, metadata.signed_bytes)
    except UnverifiedSignatureError as error:
        raise PublicationRefused(
            f"the key that would sign the next targets has not signed targets {targets.version}. "
            "A person who carried the folder here may have changed them"
        ) from error


def write_folder(directory: Path, roots: Sequence[MetadataFile], targets: bytes, files: dict[str, bytes]) -> None:
    """Write the files into a new or empty folder. Raises FolderError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise FolderError(f"cannot write into {directory}: it is not empty")
        for root in roots:
            write_secret(directory / f"{root.version}.root.json", root.data)
        for name, content in files.items():
            write_secret(directory / name, content)
        # targets.json is written last. A folder without it is incomplete, and `read_folder` refuses it.
        write_secret(directory / TARGETS_FILE, targets)
    except (OSError, KeyFileError) as error:
        raise FolderError(f"cannot write into {directory}: {error}") from error


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError as error:
        raise FolderError(f"cannot read {directory}: {error.strerror}") from error


def _version(entry: tuple[int, Path]) -> int:
    return entry[0]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise FolderError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise FolderError(f"cannot use {path}: it is larger than {FILE_BYTES_MAX} bytes")
    return content
