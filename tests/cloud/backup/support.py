"""A small installation with rows of a real activation, and the comparison of whole databases."""

import shutil
import stat
from pathlib import Path
from typing import Any

import msgspec

from cloud.backup.age import make_identity
from cloud.backup.contents import Installation, read_installation
from cloud.backup.format import Parts, ServicePart
from cloud.backup.reading import Unlock
from cloud.backup.restoring import Order, Restored, restore
from cloud.backup.writing import Lock, Made, pins_of, write_backup
from cloud.clock import utc_now
from cloud.process.settings import describe_database
from cloud.storage import Location
from cloud.storage.whole.snapshot import snapshot_of
from protocol.messages.activation import parse_pin
from tests.cloud.breakwater.support import PASSPHRASE
from tests.fault_hooks import hooked

IDENTITY, RECIPIENT = make_identity()
LOCK = Lock((RECIPIENT,))
UNLOCK = Unlock((IDENTITY,))
CHANGED = {
    ("fabric", "installation"),
    ("fabric", "operator_token"),
    ("fabric", "audit"),
    ("fabric", "event_state"),
    ("breakwater", "event_state"),
    ("breakwater", "counter"),
    ("breakwater", "enrolment"),
    ("breakwater", "audit"),
}
"""The tables that a restore changes."""


def silent(_table: str, _count: int) -> None:
    """Report no progress."""


def names_in(folder: Path) -> list[str]:
    """The names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def mode_and_size(path: Path) -> tuple[int, int]:
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_size


def copy_of(installation: Installation, directory: Path, *without: str) -> Installation:
    """A copy of an installation without some of its files."""
    shutil.copytree(installation.directory, directory)
    for name in without:
        (directory / name).unlink()
    return read_installation(directory)


def moved(home: Path, directory: Path) -> Installation:
    """Copy an installation that is not running. Its passphrase is where `cascade init` stores it."""
    for service in ("fabric", "breakwater"):
        shutil.copytree(home / service, directory / service)
        settings = directory / service / "settings.toml"
        settings.write_text(settings.read_text().replace('"../passphrase"', '"../secrets/passphrase"'))
    (directory / "secrets").mkdir(mode=0o700)
    shutil.copy(home / "passphrase", directory / "secrets" / "passphrase")
    return read_installation(directory)


def over(installation: Installation, databases: dict[ServicePart, Location]) -> Installation:
    """The installation with other databases."""
    return msgspec.structs.replace(
        installation,
        fabric=msgspec.structs.replace(installation.fabric, database=describe_database(databases["fabric"])),
        breakwater=msgspec.structs.replace(
            installation.breakwater, database=describe_database(databases["breakwater"])
        ),
    )


async def back_up(installation: Installation, out: Path, parts: Parts = "whole", lock: Lock = LOCK) -> Made:
    return await write_backup(installation, out, lock, parts, utc_now, silent)


def order_of(backup: Path, directory: Path, pin: str, **changes: Any) -> Order:
    """An order that restores everything into SQLite files."""
    order = Order(backup=backup, unlock=UNLOCK, directory=directory, pin=parse_pin(pin), key_passphrase=PASSPHRASE)
    return msgspec.structs.replace(order, **changes)


async def restored(order: Order) -> Restored:
    return await restore(order, utc_now, silent)


Content = dict[tuple[str, str], list[tuple[Any, ...]]]


async def content_of(databases: dict[ServicePart, Location]) -> Content:
    """All rows of both databases by service and table, sorted, with the columns in the order of their names."""
    found: Content = {}
    for service, location in databases.items():
        async with snapshot_of(location) as snapshot:
            for shape in await snapshot.shapes():
                order = sorted(range(len(shape.columns)), key=lambda place: shape.columns[place].name)
                rows = [row async for page in snapshot.rows(shape) for row in page]
                found[service, shape.table] = sorted((tuple(row[place] for place in order) for row in rows), key=repr)
    return found


def unchanged(content: Content) -> Content:
    """The tables that a restore does not change."""
    return {name: rows for name, rows in content.items() if name not in CHANGED}


def databases_of(installation: Installation) -> dict[ServicePart, Location]:
    return {"fabric": installation.database("fabric"), "breakwater": installation.database("breakwater")}


async def points_of_a_restore(order: Order) -> list[str]:
    """The fault points that a restore passes, in the order of the first passages. The restore is done."""
    passed: dict[str, None] = {}
    with hooked(lambda name, _: passed.setdefault(name)):
        await restored(order)
    return list(passed)


async def pin_of_installation(installation: Installation) -> str:
    async with snapshot_of(installation.database("fabric")) as snapshot:
        return (await pins_of(snapshot))[0]
