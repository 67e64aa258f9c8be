"""Pure functions and a reader: which files and tables of an installation belong into a backup.

The files of both services are in the installation's directory, below `breakwater/` and `fabric/`: settings, key files
as they are stored (encrypted with the passphrase of the key files), certificates. The passphrase, the offline keys,
operators' tokens and databases' password files are not in a backup.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec

from cloud.backup.errors import BackupRefused
from cloud.backup.format import FILE_BYTES_MAX, FileRecord, Parts, ServicePart
from cloud.breakwater.settings import BreakwaterSettings
from cloud.fabric.settings import FabricSettings
from cloud.process.settings import ServiceSettings, load_settings
from cloud.storage import Location

SERVICES: tuple[ServicePart, ...] = ("fabric", "breakwater")
"""The order of the snapshots. Fabric asks Breakwater and then stores the answer, so the later snapshot of Breakwater has
everything that the earlier one of Fabric refers to."""
SETTINGS_FILE = "settings.toml"
ENVIRONMENT = "operator/env"
KEY_TABLES: dict[ServicePart, dict[str, str]] = {
    "fabric": dict.fromkeys(
        (
            "installation",
            "tenant",
            "ek_root",
            "ek_allowed",
            "tuf_metadata",
            "tuf_target",
            "closed_node",
            "revoked_serial",
        ),
        "",
    ),
    "breakwater": {
        **dict.fromkeys(("authority", "cross_certificate", "counter", "root_crl", "service_host"), ""),
        **dict.fromkeys(("shard", "crl", "closing"), ""),
        "generation": "closed_at IS NOT NULL",
        "certificate": "service <> '' OR state IN ('revoked', 'orphaned')",
    },
}
"""The tables of a key backup, each with the condition of its rows in SQL: the keys in databases, the CAs, published trust
and tenants, the services' certificates, and everything that is closed or revoked, so that no CRL loses an entry."""
_SCRATCH = (".new", ".staged", ".next")
_DATABASE = ("", "-wal", "-shm", "-journal")


class Installation(msgspec.Struct, frozen=True):
    """The directory of an installation, and the settings of its services."""

    directory: Path
    breakwater: BreakwaterSettings
    fabric: FabricSettings

    def settings(self, service: ServicePart) -> ServiceSettings:
        return self.fabric if service == "fabric" else self.breakwater

    def database(self, service: ServicePart) -> Location:
        """Return where the service's database is. Raises KeyFileError."""
        return self.settings(service).database_location()


def read_installation(directory: Path) -> Installation:
    """Read the settings of both services. Raises SettingsError."""
    directory = directory.resolve()
    return Installation(
        directory,
        load_settings(directory / "breakwater" / SETTINGS_FILE, BreakwaterSettings),
        load_settings(directory / "fabric" / SETTINGS_FILE, FabricSettings),
    )


def files_of(installation: Installation) -> Iterator[FileRecord]:
    """Iterate over the files of the backup, in order of their paths.

    Raises BackupRefused for a file that is too large, and OSError.
    """
    left_out = {
        Path(f"{location}{ending}")
        for service in SERVICES
        if isinstance(location := installation.database(service), Path)
        for ending in _DATABASE
    } | set(_secret_files(installation))
    root = installation.directory
    found = [path for service in SERVICES for path in (root / service).rglob("*")]
    for path in (*sorted(found), root / ENVIRONMENT):
        if path.is_symlink() or not path.is_file() or path in left_out or _is_scratch(path):
            continue
        if path.stat().st_size > FILE_BYTES_MAX:
            raise BackupRefused(
                "file_too_large",
                f"cannot back up {path}: it is larger than {FILE_BYTES_MAX} bytes",
                "Move files that are not the services' own out of the installation's directory.",
            )
        yield FileRecord(path.relative_to(root).as_posix(), path.read_bytes())


def _is_scratch(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix in _SCRATCH


def _secret_files(installation: Installation) -> Iterator[Path]:
    """The files that authenticate to a database or open the key files."""
    for service in SERVICES:
        settings = installation.settings(service)
        yield from map(settings.path, settings.secret_files)
        yield settings.path(settings.passphrase_file)
        if settings.database.password_file:
            yield settings.path(settings.database.password_file)
    if installation.breakwater.token is not None:
        yield installation.breakwater.path(installation.breakwater.token.pin_file)


def not_included(installation: Installation) -> tuple[str, ...]:
    """Name what the installation needs and the backup does not have, one text each."""
    breakwater, fabric = installation.breakwater, installation.fabric
    found = [
        "the passphrase of the key files",
        "offline keys of the root CA and of the published trust",
        "operators' tokens",
    ]
    if breakwater.token is not None:
        found.append(f"CA keys in the PKCS#11 token {breakwater.token.label}")
    found.extend(
        f"the password file of the database of {service}"
        for service in SERVICES
        if installation.settings(service).database.password_file
    )
    folders = {
        "breakwater: ca": breakwater.path(breakwater.ca),
        "breakwater: tls": breakwater.path(breakwater.tls),
        "fabric: keys": fabric.path(fabric.keys),
        "fabric: tls": fabric.path(fabric.tls),
    }
    for name, folder in folders.items():
        if not folder.resolve().is_relative_to(installation.directory):
            found.append(f"{name}, which is outside the directory: {folder}")
    return tuple(found)


def rows_in(parts: Parts, service: ServicePart, table: str) -> str | None:
    """Return the condition in SQL for the rows of a table in a backup. Empty means all rows, None means no row."""
    return "" if parts == "whole" else KEY_TABLES[service].get(table)


def is_safe_path(path: str) -> bool:
    """Whether a path of a backup stays inside the folders that a backup may fill."""
    pure = PurePosixPath(path)
    parts = pure.parts
    is_inside = path == ENVIRONMENT or (len(parts) > 1 and parts[0] in SERVICES)
    return is_inside and not pure.is_absolute() and ".." not in parts and pure.as_posix() == path and "\0" not in path
