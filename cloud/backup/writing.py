"""Use case: write a backup beside the running services.

The snapshots of both databases are open at the same time, Fabric's first. What Breakwater stores between the two moments
is in the backup, and Fabric's rows do not refer to it: a certificate that Fabric has not stored, or a closed
generation that Fabric takes over later. Files are read after the snapshots, so the key of every CA of the snapshot is
among them. The file appears under its name when it is whole and durable.
"""

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from cloud.backup.age import encrypting, make_identity, wrap
from cloud.backup.contents import SERVICES, Installation, files_of, not_included, rows_in
from cloud.backup.errors import BackupRefused
from cloud.backup.format import (
    FORMAT,
    SALT_BYTES,
    FileRecord,
    Header,
    Manifest,
    Parts,
    RowsRecord,
    ServicePart,
    TableRecord,
    Trailer,
    encode,
    encode_rows,
    seal_of,
)
from cloud.crypto import keyfile
from cloud.crypto.keyfile import read_passphrase, sync_directory
from cloud.storage.whole.shapes import Snapshot
from cloud.storage.whole.snapshot import snapshot_of
from protocol.encoding import sha256_hex
from protocol.faults import fault_point

Progress = Callable[[str, int], None]
"""Called with the name of a table and the number of its rows so far."""


NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
"""Errors of a file system without hard links."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup has. `tables` counts the rows by `SERVICE.TABLE`."""

    file: str
    parts: Parts
    made_at: datetime
    bytes: int
    files: int
    rows: int
    sha256: str
    not_included: tuple[str, ...]


class Lock(msgspec.Struct, frozen=True):
    """How a backup is encrypted: for recipients, or with a passphrase. One of the two is given."""

    recipients: tuple[str, ...] = ()
    passphrase: str = ""

    def header(self) -> tuple[Header, tuple[str, ...]]:
        """Return the header, and the recipients that encrypt the rest."""
        if self.recipients:
            return Header(FORMAT, "recipient"), self.recipients
        identity, recipient = make_identity()
        return Header(FORMAT, "passphrase", wrap(identity, self.passphrase)), (recipient,)


class _Digested:
    """Writes lines, and keeps their digest and counts."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.files = 0
        self.tables: dict[str, int] = {}

    def write(self, lines: bytes) -> None:
        self._digest.update(lines)
        self._file.write(lines)

    def record(self, record: Manifest | FileRecord | TableRecord | RowsRecord) -> None:
        self.write(encode(record) + b"\n")

    def end(self, passphrase: bytes, manifest: Manifest) -> str:
        """Write the trailer, and return the digest."""
        sha256 = self._digest.hexdigest()
        seal = seal_of(passphrase, manifest, sha256)
        trailer = Trailer(files=self.files, tables=self.tables, sha256=sha256, seal=seal)
        self._file.write(encode(trailer) + b"\n")
        return sha256


async def write_backup(
    installation: Installation, out: Path, lock: Lock, parts: Parts, now: Callable[[], datetime], progress: Progress
) -> Made:
    """Write a backup to the new file `out`. After an error or a cancellation there is no file.

    Raises:
        BackupRefused: the key file of a CA is missing, or a file is too large.
        KeyFileError: the passphrase of the key files cannot be read.
        KeyTextError: a recipient is none.
        StorageError: a database cannot be read.
        OSError: the file cannot be written; a full disk too.
    """
    passphrase = await asyncio.to_thread(
        read_passphrase, installation.breakwater.path(installation.breakwater.passphrase_file)
    )
    header, recipients = await asyncio.to_thread(lock.header)
    scratch = out.with_name(f".{out.name}.{os.getpid()}.new")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb", 1024 * 1024) as file:
            file.write(line := encode(header) + b"\n")
            with encrypting(file, recipients) as plain:
                content = _Digested(plain)
                manifest = await _fill(installation, content, sha256_hex(line), parts, now, progress)
                sha256 = await asyncio.to_thread(content.end, passphrase, manifest)
                await asyncio.to_thread(plain.flush)
            with fault_point("backup.file.sync"):
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
            size = file.tell()
        _publish(scratch, out)
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
    return Made(
        file=str(out),
        parts=parts,
        made_at=manifest.made_at,
        bytes=size,
        files=content.files,
        rows=sum(content.tables.values()),
        sha256=sha256,
        not_included=manifest.not_included,
    )


def _publish(scratch: Path, out: Path) -> None:
    """Give the file its name. Raises FileExistsError if another file has the name; OSError."""
    with fault_point("backup.file.publish"):
        try:
            os.link(scratch, out)  # unlike a rename, a link never replaces a file
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            # FAT, and some network file systems, have no hard links. The empty file reserves the name. After a power
            # cut it may stay empty: `cascade backup check` refuses it.
            os.close(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            scratch.replace(out)
        sync_directory(out.parent)


async def _fill(
    installation: Installation,
    content: _Digested,
    header_sha256: str,
    parts: Parts,
    now: Callable[[], datetime],
    progress: Progress,
) -> Manifest:
    async with (
        snapshot_of(installation.database("fabric")) as fabric,
        snapshot_of(installation.database("breakwater")) as breakwater,
    ):
        snapshots: dict[ServicePart, Snapshot] = {"fabric": fabric, "breakwater": breakwater}
        manifest = Manifest(
            cascade_backup=FORMAT,
            header_sha256=header_sha256,
            made_at=now(),
            parts=parts,
            trust_domain=installation.fabric.trust_domain,
            pins=await pins_of(fabric),
            migrations={service: tuple(await each.migrations()) for service, each in snapshots.items()},
            not_included=not_included(installation),
            salt=os.urandom(SALT_BYTES),
            cost=keyfile.COST,
        )
        content.record(manifest)
        paths = set()
        for file in files_of(installation):
            content.record(file)
            content.files += 1
            paths.add(file.path)
        await _check_keys(breakwater, paths, installation)
        for service in SERVICES:
            await _tables(snapshots, service, content, parts, progress)
    return manifest


async def _tables(
    snapshots: Mapping[ServicePart, Snapshot],
    service: ServicePart,
    content: _Digested,
    parts: Parts,
    progress: Progress,
) -> None:
    snapshot = snapshots[service]
    for shape in await snapshot.shapes():
        where = rows_in(parts, service, shape.table)
        if where is None:
            continue
        name, count = f"{service}.{shape.table}", 0
        content.record(TableRecord(service, shape))
        async for rows in snapshot.rows(shape, where):
            await asyncio.to_thread(content.write, encode_rows(rows))
            count += len(rows)
            progress(name, count)
        content.record(RowsRecord(count))
        content.tables[name] = count


async def pins_of(fabric: Snapshot) -> tuple[str, ...]:
    """Return the pin of each root of the published trust, oldest first."""
    # SQL by hand, because a snapshot reads databases of older schemas too.
    rows = await fabric.run("SELECT version, data FROM tuf_metadata WHERE role = 'root' ORDER BY version")
    return tuple(f"{row['version']}:{sha256_hex(bytes(row['data']))}" for row in rows)


async def _check_keys(breakwater: Snapshot, paths: set[str], installation: Installation) -> None:
    """Raises BackupRefused if the key file of a CA of the snapshot is not among the files."""
    keys = installation.breakwater.path(installation.breakwater.ca) / "keys"
    if not keys.resolve().is_relative_to(installation.directory):
        return
    folder = keys.resolve().relative_to(installation.directory).as_posix()
    for row in await breakwater.run("SELECT id, key FROM authority WHERE state <> 'revoked' ORDER BY id"):
        prefix, _, name = str(row["key"]).partition(":")
        if prefix == "file" and f"{folder}/{name}" not in paths:
            raise BackupRefused(
                "key_missing",
                f"cannot back up the CA {row['id']}: its key file {folder}/{name} is missing",
                "Put the key file in its place, or repeat the backup if a ceremony was running.",
            )
