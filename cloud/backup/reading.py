"""Use case: read a backup from its begin to its end, and verify it. Nothing is changed and nothing is kept.

`verify` reads the whole file. It is done before a restore touches anything. The restore reads the file a second time
with the same checks (`Reader`), and compares the digest.
"""

import hashlib
import hmac
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import msgspec

from cloud.backup.age import AgeError, WrongKey, decrypting, unwrap
from cloud.backup.contents import is_safe_path
from cloud.backup.errors import BackupDamaged, BackupRefused
from cloud.backup.format import (
    FORMAT,
    HEADER_BYTES_MAX,
    LINE_BYTES_MAX,
    FileRecord,
    Header,
    Manifest,
    RowsRecord,
    TableRecord,
    Trailer,
    decode_header,
    decode_manifest,
    decode_record,
    row_decoder,
    seal_of,
)
from cloud.storage.whole.shapes import Shape
from protocol.encoding import sha256_hex
from protocol.messages.activation import TrustPin

ROWS_BYTES = 1024 * 1024
"""Bytes of rows that are passed on together."""


class Unlock(msgspec.Struct, frozen=True):
    """What decrypts a backup: identities of age, or a passphrase. One of the two is given."""

    identities: tuple[str, ...] = ()
    passphrase: str = ""


class Rows(msgspec.Struct, frozen=True):
    """Some rows of a table."""

    table: TableRecord
    rows: list[tuple[Any, ...]]


class TableBegin(msgspec.Struct, frozen=True):
    """A table begins. It may have no rows."""

    table: TableRecord


Item: TypeAlias = FileRecord | TableBegin | Rows | Trailer


class Summary(msgspec.Struct, frozen=True):
    """A verified backup."""

    manifest: Manifest
    trailer: Trailer


class Reader:
    """The content of an open backup. `manifest` is read at once, the items once."""

    def __init__(self, path: Path, plain: BinaryIO, header_sha256: str) -> None:
        self._path = path
        self._plain = plain
        self._digest = hashlib.sha256()
        self.manifest = self._manifest(header_sha256)

    def _line(self) -> bytes:
        line = self._plain.readline(LINE_BYTES_MAX)
        if not line.endswith(b"\n"):
            raise BackupDamaged(self._path, "its content ends early")
        return line

    def _manifest(self, header_sha256: str) -> Manifest:
        line = self._line()
        try:
            manifest = decode_manifest(line)
        except msgspec.DecodeError as error:
            raise BackupDamaged(self._path, f"its manifest cannot be read: {error}") from error
        if manifest.header_sha256 != header_sha256:
            raise BackupDamaged(self._path, "its header was changed after the backup was written")
        self._digest.update(line)
        return manifest

    def items(self) -> Iterator[Item]:
        """Iterate over the content. The last item is the trailer, whose counts and digest are right.

        Raises BackupDamaged.
        """
        files, tables = 0, dict[str, int]()
        while True:
            line = self._line()
            try:
                record = decode_record(line)
            except msgspec.DecodeError as error:
                raise BackupDamaged(self._path, f"a record cannot be read: {error}") from error
            if isinstance(record, Trailer):
                if (record.files, record.tables, record.sha256) != (files, tables, self._digest.hexdigest()):
                    raise BackupDamaged(self._path, "its counts or its digest are wrong")
                yield record
                return
            self._digest.update(line)
            if isinstance(record, FileRecord):
                if not is_safe_path(record.path):
                    raise BackupDamaged(self._path, f"it has a file outside the installation: {record.path}")
                files += 1
                yield record
            elif isinstance(record, TableRecord):
                yield TableBegin(record)
                tables[f"{record.service}.{record.shape.table}"] = yield from self._rows(record)
            else:
                raise BackupDamaged(self._path, "a table ends that has not begun")

    def _rows(self, table: TableRecord) -> Generator[Item, None, int]:
        """Iterate over the rows of a table, to its end. The generator's result is their number."""
        decode, count = row_decoder(table.shape).decode, 0
        page: list[tuple[Any, ...]] = []
        size = 0
        while True:
            line = self._line()
            self._digest.update(line)
            is_row = line.startswith(b"[")
            if page and (not is_row or size > ROWS_BYTES):
                yield Rows(table, page)
                page, size = [], 0
            if not is_row:
                self._check_end(table.shape, line, count)
                return count
            try:
                page.append(decode(line))
            except msgspec.DecodeError as error:
                raise BackupDamaged(self._path, f"a row of {table.shape.table} cannot be read: {error}") from error
            count += 1
            size += len(line)

    def _check_end(self, shape: Shape, line: bytes, count: int) -> None:
        try:
            record = decode_record(line)
        except msgspec.DecodeError as error:
            raise BackupDamaged(self._path, f"the end of {shape.table} cannot be read: {error}") from error
        if not isinstance(record, RowsRecord) or record.count != count:
            raise BackupDamaged(self._path, f"the table {shape.table} has lost rows")


@contextmanager
def opened_backup(path: Path, unlock: Unlock) -> Iterator[Reader]:
    """Open a backup and read its manifest.

    Raises:
        BackupRefused: the file cannot be read, is of a newer version, or the key is wrong.
        BackupDamaged: the file is truncated or damaged; also when the block ends.
    """
    try:
        with path.open("rb") as file:
            line, header = _header(path, file)
            identities = _identities(path, header, unlock)
            with decrypting(file, identities) as plain:
                yield Reader(path, plain, sha256_hex(line))
    except WrongKey as error:
        raise _wrong_key(path) from error
    except AgeError as error:
        raise BackupDamaged(path, str(error)) from error


def _wrong_key(path: Path) -> BackupRefused:
    return BackupRefused(
        "backup_key_wrong",
        f"cannot use {path}: the key or the passphrase does not decrypt it",
        "Use the identity of a recipient of this backup, or the passphrase that it was made with.",
    )


def _header(path: Path, file: BinaryIO) -> tuple[bytes, Header]:
    line = file.readline(HEADER_BYTES_MAX)
    try:
        header = decode_header(line)
    except msgspec.DecodeError as error:
        raise BackupRefused(
            "backup_invalid", f"cannot use {path}: it is no backup of Cascade", "Check the name of the file."
        ) from error
    if header.cascade_backup != FORMAT:
        raise BackupRefused(
            "backup_too_new",
            f"cannot use {path}: it has version {header.cascade_backup} of the format, and this program reads "
            f"version {FORMAT}",
            "Use the version of Cascade that made the backup, or a later one.",
        )
    return line, header


def _identities(path: Path, header: Header, unlock: Unlock) -> tuple[str, ...]:
    if header.key == "recipient":
        if not unlock.identities:
            raise BackupRefused(
                "backup_key_missing",
                f"cannot decrypt {path}: it was made for a recipient",
                "Name the file of the recipient's identity with --identity.",
            )
        return unlock.identities
    if not unlock.passphrase:
        raise BackupRefused(
            "backup_key_missing",
            f"cannot decrypt {path}: it was made with a passphrase",
            "Name the passphrase's file with --passphrase-file.",
        )
    return (unwrap(header.wrapped, unlock.passphrase),)


def verify(path: Path, unlock: Unlock, pin: TrustPin | None, key_passphrase: bytes | None) -> Summary:
    """Read a whole backup and verify it. `pin` names the installation that it has to be of.

    `key_passphrase` is the passphrase of the installation's key files, which proves that the installation made the
    backup. Without it the seal is not checked.

    Raises:
        BackupRefused: as `opened_backup`; the backup is of another installation; or the passphrase of the key files
            does not fit.
        BackupDamaged: the backup is truncated or damaged.
        OSError: the file cannot be read.
    """
    with opened_backup(path, unlock) as reader:
        if pin is not None:
            _check_pin(path, reader.manifest, pin)
        trailer = None
        for item in reader.items():
            if isinstance(item, Trailer):
                trailer = item
    if trailer is None:  # the reader ends with the trailer or an exception
        raise BackupDamaged(path, "its end is missing")
    if key_passphrase is not None:
        try:
            seal = seal_of(key_passphrase, reader.manifest, trailer.sha256)
        except ValueError as error:
            raise BackupDamaged(path, str(error)) from error
        if not hmac.compare_digest(seal, trailer.seal):
            raise BackupRefused(
                "backup_not_sealed",
                f"cannot use {path}: it was not made by an installation whose key files have this passphrase",
                "Use the passphrase of the key files of the time of the backup.",
            )
    return Summary(reader.manifest, trailer)


def _check_pin(path: Path, manifest: Manifest, pin: TrustPin) -> None:
    if str(pin) not in manifest.pins:
        raise BackupRefused(
            "backup_of_another_installation",
            f"cannot use {path}: it is of another installation, or older than the root {pin.version} of the trust pin",
            "Give the trust pin of this installation, or an older one of its pins.",
        )
