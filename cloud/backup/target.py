"""Store: the directory into which a restore writes, and the marker of a restore that has not ended.

The file `restoring` is in the directory from the first change to the last. While it is there, no command reads the
settings of the installation (`cloud.process.settings`). It has one of two states:

- `loading`: the content is not complete. A repeat removes everything that the restore has made, and begins again.
- `finishing`: everything is in its place, and databases may still be marked. A repeat only removes the marks.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from cloud.backup.contents import SETTINGS_FILE
from cloud.backup.errors import BackupRefused
from cloud.backup.format import ServicePart
from cloud.crypto.keyfile import read_passphrase, sync_directory, write_secret
from cloud.process.settings import RESTORING_FILE, ServiceSettings, database_toml
from cloud.storage import Location
from protocol.faults import fault_point

PASSPHRASE = Path("secrets/passphrase")
"""Where `cascade init` stores the passphrase of the key files."""
TOKEN = Path("operator/token")


class Marker(msgspec.Struct, frozen=True):
    """The content of the marker. `sha256` names the backup, `databases` are addresses of the databases in use."""

    state: Literal["loading", "finishing"]
    sha256: str
    services: tuple[ServicePart, ...]
    databases: dict[ServicePart, str]


class Target:
    """The directory of a restore."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def marker_file(self) -> Path:
        return self.directory / RESTORING_FILE

    def marker(self) -> Marker | None:
        """Return the marker of an interrupted restore. Raises BackupRefused if it cannot be read."""
        try:
            return msgspec.json.decode(self.marker_file.read_bytes(), type=Marker)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise BackupRefused(
                "restore_marker_invalid",
                f"cannot restore into {self.directory}: {self.marker_file} cannot be read: {error}",
                "Empty the directory, then repeat the restore.",
            ) from error

    def building(self, service: ServicePart) -> Path:
        """The folder of a service while it is made."""
        return self.directory / f".{service}.restoring"

    def folder(self, service: ServicePart) -> Path:
        return self.directory / service

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the directory, and exclude another restore into it. The lock ends with this process.

        Raises BackupRefused (`restore_running`).
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BackupRefused(
                    "restore_running",
                    f"cannot restore into {self.directory}: another restore into it is running",
                    "Wait for its end. Nothing was changed.",
                ) from error
            yield
        finally:
            os.close(descriptor)

    def check_free(self, services: tuple[ServicePart, ...]) -> None:
        """Raises BackupRefused (`target_in_use`) if the directory has a file that the restore would write."""
        used = [self.folder(service) for service in services if self.folder(service).exists()]
        if "fabric" in services and (self.directory / TOKEN).exists():
            used.append(self.directory / TOKEN)
        if used:
            raise BackupRefused(
                "target_in_use",
                f"cannot restore into {self.directory}: {used[0]} exists",
                "Name an empty directory, or move the old installation away. Nothing was changed.",
            )

    def check_passphrase(self, passphrase: bytes) -> None:
        """Raises BackupRefused (`passphrase_differs`) if the directory has another passphrase of key files.

        Raises KeyFileError if it cannot be read.
        """
        file = self.directory / PASSPHRASE
        if file.exists() and read_passphrase(file) != passphrase:
            raise BackupRefused(
                "passphrase_differs",
                f"cannot restore into {self.directory}: {file} is not the passphrase of the backup's key files",
                "Name an empty directory. Nothing was changed.",
            )

    def begin(self, marker: Marker) -> None:
        """Write the marker, and remove what an interrupted restore has left. Call it inside `locked`."""
        before = self.marker()
        with fault_point("restore.marker.write"):
            write_secret(self.marker_file, msgspec.json.encode(marker))
        for service in marker.services:
            shutil.rmtree(self.building(service), ignore_errors=True)
            if before is not None:
                shutil.rmtree(self.folder(service), ignore_errors=True)
        if before is not None and "fabric" in before.services:
            (self.directory / TOKEN).unlink(missing_ok=True)
        for service in marker.services:
            self.building(service).mkdir(mode=0o700)

    def write_file(self, path: str, data: bytes, services: tuple[ServicePart, ...]) -> None:
        """Write a file of the backup, if it belongs to one of the services. Its mode is 0600."""
        first, _, rest = path.partition("/")
        if first not in services:
            return
        file = self.directory / f".{first}.restoring" / rest
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with fault_point("restore.file.write"):
            write_secret(file, data)

    def write_private(self, relative: Path, data: bytes) -> None:
        """Write a file beside the services' folders."""
        file = self.directory / relative
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with fault_point("restore.secret.write"):
            write_secret(file, data)

    def publish(self, services: tuple[ServicePart, ...]) -> None:
        """Give the folders of the services their names."""
        for service in services:
            for folder, _, _ in os.walk(self.building(service)):
                sync_directory(Path(folder))
            with fault_point("restore.folder.publish"):
                self.building(service).rename(self.folder(service))
                sync_directory(self.directory)

    def finish(self, marker: Marker) -> None:
        """Record that everything is in its place."""
        with fault_point("restore.marker.finish"):
            write_secret(self.marker_file, msgspec.json.encode(msgspec.structs.replace(marker, state="finishing")))

    def end(self) -> None:
        """Remove the marker."""
        with fault_point("restore.marker.remove"):
            self.marker_file.unlink(missing_ok=True)
            sync_directory(self.directory)


def with_database(text: bytes, location: Location, kind: type[ServiceSettings]) -> bytes:
    """Return the text of a settings file with another `[database]` table.

    Raises BackupRefused if the text has no such table of its own, or anything else would change.
    """
    kept: list[str] = []
    inside = False
    for line in text.decode().splitlines():
        if line.strip().startswith("["):
            inside = line.strip() == "[database]"
        if not inside:
            kept.append(line)
    changed = ("\n".join(kept).rstrip("\n") + "\n\n" + database_toml(location) + "\n").encode()
    try:
        before, after = (msgspec.toml.decode(each, type=kind, strict=True) for each in (text, changed))
    except msgspec.DecodeError as error:
        raise _unchangeable(str(error)) from error
    if msgspec.structs.replace(before, database=after.database) != after:
        raise _unchangeable("its database is not in a table of its own")
    return changed


def _unchangeable(cause: str) -> BackupRefused:
    return BackupRefused(
        "settings_invalid",
        f"cannot use the {SETTINGS_FILE} in the backup: {cause}",
        "Use a backup of an installation whose settings have a [database] table at their end.",
    )
