"""Use case: restore a backup into an empty installation, of either database engine.

The whole backup is read and verified before anything is written. Then it is read again and applied. While it is applied,
the directory has the marker of `target` and the databases have the mark of `cloud.storage.whole.loading`. So a restore
that was interrupted leaves an installation that no service starts from. A repeat of the command begins again, or, if
everything is in its place already, removes the marks.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path

import msgspec

from cloud.backup.contents import ENVIRONMENT, SERVICES, SETTINGS_FILE, is_safe_path
from cloud.backup.errors import BackupDamaged, BackupRefused
from cloud.backup.format import FileRecord, Manifest, Parts, ServicePart
from cloud.backup.reading import Item, Reader, Rows, Summary, TableBegin, Unlock, opened_backup, verify
from cloud.backup.target import PASSPHRASE, TOKEN, Marker, Target, with_database
from cloud.breakwater import restored as breakwater
from cloud.breakwater.settings import BreakwaterSettings
from cloud.fabric import restored as fabric
from cloud.fabric.settings import FabricSettings
from cloud.process.settings import ServiceSettings
from cloud.storage import Location, ServiceEngine
from cloud.storage.location import parse_location
from cloud.storage.migrate import known_ids
from cloud.storage.whole.loading import begin_loading, check_empty, end_loading, load, opened_for_loading, unmark
from cloud.storage.whole.shapes import Shape
from protocol.faults import fault_point
from protocol.messages.activation import TrustPin

DATABASE_FILE = Path("database.sqlite")
KINDS: dict[ServicePart, type[ServiceSettings]] = {"fabric": FabricSettings, "breakwater": BreakwaterSettings}
Progress = Callable[[str, int], None]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to restore, and where.

    `databases` are PostgreSQL databases; a service without one gets an SQLite file below `directory`. `pin` is the trust
    pin of the installation, `key_passphrase` the passphrase of its key files.
    """

    backup: Path
    unlock: Unlock
    directory: Path
    services: tuple[ServicePart, ...] = SERVICES
    databases: dict[ServicePart, Location] = {}
    pin: TrustPin
    key_passphrase: bytes


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """The report of a restore. `rows` and `files` count what was written. `migrated` are the migrations that ran."""

    directory: str
    parts: Parts
    made_at: datetime
    services: tuple[ServicePart, ...]
    files: int
    rows: int
    migrated: tuple[str, ...]
    token_file: str
    not_included: tuple[str, ...]


async def restore(order: Order, now: Callable[[], datetime], progress: Progress) -> Restored:
    """Restore a backup.

    Raises:
        BackupRefused: nothing was changed. `code` names the reason.
        DatabaseInUse: a database has tables; nothing was changed.
        KeyFileError, OSError, StorageError: the restore was interrupted; a repeat begins again.
    """
    # Not in a thread: nothing else runs, and Ctrl-C must end the reading of a large file at once.
    summary = verify(order.backup, order.unlock, order.pin, order.key_passphrase)
    at = now()
    _check_manifest(order.backup, summary.manifest, order.services, at)
    target = Target(order.directory.absolute())
    marker = Marker(
        "loading",
        summary.trailer.sha256,
        order.services,
        {service: str(_location(order, target.folder(service), service)) for service in order.services},
    )
    target.check_passphrase(order.key_passphrase)
    before = _check_target(target, marker)
    for service, location in order.databases.items():
        if service in order.services and (before is None or before.state == "loading"):
            await check_empty(service, location)
    with target.locked():
        before = _check_target(target, marker)  # another restore may have begun or ended meanwhile
        if before is not None and before.state == "finishing":
            return await _finished(target, before, summary)
        return await _Restore(order, target, marker, summary, at, progress).run()


def _check_target(target: Target, marker: Marker) -> Marker | None:
    """Return the marker of an interrupted restore that this one may repeat. Raises BackupRefused."""
    before = target.marker()
    if before is None:
        target.check_free(marker.services)
    else:
        _check_repeat(target, before, marker)
    return before


def _location(order: Order, folder: Path, service: ServicePart) -> Location:
    return order.databases.get(service, folder / DATABASE_FILE)


def _check_manifest(path: Path, manifest: Manifest, services: tuple[ServicePart, ...], at: datetime) -> None:
    for service in services:
        if unknown := set(manifest.migrations[service]) - known_ids(service):
            raise BackupRefused(
                "backup_schema_too_new",
                f"cannot use {path}: the database of {service} is of a newer version (unknown migration {max(unknown)})",
                "Use the version of Cascade that made the backup, or a later one.",
            )
    if at < manifest.made_at:
        raise BackupRefused(
            "clock_behind",
            f"cannot restore {path}: this machine's clock ({at.isoformat(timespec='seconds')}) is before the time of "
            f"the backup ({manifest.made_at.isoformat(timespec='seconds')}), so numbers of CRLs would repeat",
            "Set the clock of this machine, then repeat the command.",
        )


def _check_repeat(target: Target, before: Marker, marker: Marker) -> None:
    same_backup = before.state == "loading" or before.sha256 == marker.sha256
    if not same_backup or set(before.services) != set(marker.services):
        raise BackupRefused(
            "restore_unfinished",
            f"cannot restore into {target.directory}: another restore ({', '.join(before.services)}) has not ended there",
            "Repeat that restore with the same backup and the same --only, or empty the directory and its databases.",
        )


async def _finished(target: Target, marker: Marker, summary: Summary) -> Restored:
    """Remove the marks of a restore that has put everything in its place."""
    for service in marker.services:
        async with opened_for_loading(service, parse_location(marker.databases[service])) as engine:
            with fault_point("restore.database.unmark"):
                await unmark(engine)
    target.end()
    token = target.directory / TOKEN
    manifest, trailer = summary.manifest, summary.trailer
    return Restored(
        directory=str(target.directory),
        parts=manifest.parts,
        made_at=manifest.made_at,
        services=marker.services,
        files=trailer.files,
        rows=sum(count for name, count in trailer.tables.items() if name.partition(".")[0] in marker.services),
        migrated=tuple(
            f"{service}.{name}"
            for service in marker.services
            for name in sorted(known_ids(service) - set(manifest.migrations[service]))
        ),
        token_file=str(token) if "fabric" in marker.services else "",
        not_included=manifest.not_included,
    )


class _Restore:
    """One restore, from the marker to the end."""

    def __init__(
        self, order: Order, target: Target, marker: Marker, summary: Summary, at: datetime, progress: Progress
    ) -> None:
        self._order = order
        self._target = target
        self._marker = marker
        self._summary = summary
        self._at = at
        self._progress = progress
        self._services = marker.services
        self._settings: dict[ServicePart, ServiceSettings] = {}
        self._environment = b""
        self._counts: Counter[str] = Counter()
        self._engines: dict[ServicePart, ServiceEngine] = {}
        self._shapes: dict[ServicePart, dict[str, Shape]] = {}

    async def run(self) -> Restored:
        await asyncio.to_thread(self._target.begin, self._marker)
        async with AsyncExitStack() as opened:
            for service in self._services:
                await self._begin(service, opened)
            await self._apply()
            for service, engine in self._engines.items():
                with fault_point("restore.schema.migrate"):
                    await end_loading(service, self._place(service), engine)
            token = await self._mark()
        await asyncio.to_thread(self._put_in_place, token)
        return await _finished(self._target, self._marker, self._summary)

    def _place(self, service: ServicePart) -> Location:
        """Where the database is while it is loaded."""
        return _location(self._order, self._target.building(service), service)

    async def _begin(self, service: ServicePart, opened: AsyncExitStack) -> None:
        location = self._place(service)
        engine = await opened.enter_async_context(opened_for_loading(service, location))
        with fault_point("restore.database.begin"):
            shapes = await begin_loading(service, location, self._summary.manifest.migrations[service], engine)
        self._engines[service] = engine
        self._shapes[service] = {shape.table: shape for shape in shapes}

    async def _apply(self) -> None:
        """Read the backup again, and write its files and rows. Raises BackupDamaged if it has changed meanwhile."""
        async with _items(self._order) as items:
            async for item in items:
                if isinstance(item, FileRecord):
                    await asyncio.to_thread(self._file, item)
                elif isinstance(item, TableBegin):
                    self._check_shape(item)
                elif isinstance(item, Rows):
                    await self._rows(item)
                elif item.sha256 != self._summary.trailer.sha256:
                    raise BackupDamaged(self._order.backup, "it was replaced while it was restored")
        if missing := [service for service in self._services if service not in self._settings]:
            raise BackupDamaged(self._order.backup, f"it has no settings of {missing[0]}")

    def _file(self, file: FileRecord) -> None:
        if not is_safe_path(file.path):  # checked by the reader too
            raise BackupDamaged(self._order.backup, f"it has a file outside the installation: {file.path}")
        data = file.data
        for service in self._services:
            if file.path == f"{service}/{SETTINGS_FILE}":
                location = self._order.databases.get(service, DATABASE_FILE)
                data = with_database(data, location, KINDS[service])
                settings = msgspec.toml.decode(data, type=KINDS[service], strict=True)
                base = str(self._target.folder(service))
                self._settings[service] = msgspec.structs.replace(settings, base=base)
        if file.path == ENVIRONMENT:
            self._environment = data
        self._target.write_file(file.path, data, self._services)

    def _check_shape(self, item: TableBegin) -> None:
        """Check that the table of the backup is the table that its migrations make here."""
        service, shape = item.table.service, item.table.shape
        if service not in self._services:
            return
        here = self._shapes[service].get(shape.table)
        if here is None or set(here.columns) != set(shape.columns):
            raise BackupDamaged(self._order.backup, f"its table {service}.{shape.table} is not that of its migrations")

    async def _rows(self, item: Rows) -> None:
        service, shape = item.table.service, item.table.shape
        if service not in self._services:
            return
        with fault_point("restore.rows.insert"):
            await load(self._engines[service], shape, item.rows)
        name = f"{service}.{shape.table}"
        self._counts[name] += len(item.rows)
        self._progress(name, self._counts[name])

    async def _mark(self) -> str:
        """Let each service mark its database. Returns the text of Fabric's new token, or an empty text."""
        made_at, parts, token = self._summary.manifest.made_at, self._summary.manifest.parts, ""
        with fault_point("restore.service.mark"):
            if "breakwater" in self._engines:
                await breakwater.mark_restored(self._engines["breakwater"], self._at, made_at, parts)
            if "fabric" in self._engines:
                token = await fabric.mark_restored(self._engines["fabric"], self._at, made_at, parts)
        return token

    def _put_in_place(self, token: str) -> None:
        target = self._target
        target.publish(self._services)
        passphrase = target.directory / PASSPHRASE
        for settings in self._settings.values():
            if not passphrase.exists() and settings.path(settings.passphrase_file).resolve() == passphrase.resolve():
                target.write_private(PASSPHRASE, self._order.key_passphrase + b"\n")
        if token:
            target.write_private(TOKEN, token.encode() + b"\n")
            if self._environment:
                target.write_private(Path(ENVIRONMENT), _environment(self._environment, target.directory / TOKEN))
        target.finish(self._marker)


def _environment(text: bytes, token_file: Path) -> bytes:
    """Return the operator's environment with the path of the new token."""
    name = "CASCADE_TOKEN_FILE="
    lines = [line for line in text.decode().splitlines() if not line.startswith(name)]
    return "\n".join([*lines, f"{name}{token_file}", ""]).encode()


@asynccontextmanager
async def _items(order: Order) -> AsyncIterator[AsyncIterator[Item]]:
    """Read a backup in a thread, item by item."""
    context = opened_backup(order.backup, order.unlock)
    reader: Reader = await asyncio.to_thread(context.__enter__)
    items = reader.items()

    async def each() -> AsyncIterator[Item]:
        while (item := await asyncio.to_thread(next, items, None)) is not None:
            yield item

    try:
        yield each()
    except BaseException as error:  # also for a cancellation: the thread and the pipe must end
        if not await asyncio.to_thread(context.__exit__, type(error), error, error.__traceback__):
            raise
    else:
        await asyncio.to_thread(context.__exit__, None, None, None)
