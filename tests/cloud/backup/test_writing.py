"""A backup is one consistent point of both services, and a whole file or none."""

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest

from cloud.backup import writing
from cloud.backup.contents import Installation
from cloud.backup.errors import BackupRefused
from cloud.backup.format import ServicePart, Trailer
from cloud.backup.reading import Rows, opened_backup
from cloud.storage import Location, ServiceEngine, Statement
from cloud.storage.errors import DatabaseMissing
from cloud.storage.whole.shapes import Snapshot
from cloud.storage.whole.snapshot import snapshot_of
from tests.cloud.backup.support import UNLOCK, back_up, copy_of, databases_of, mode_and_size, names_in, over


async def put(location: Location, table: str, name: str, value: object) -> None:
    engine = ServiceEngine("writer")
    engine.configure(location)
    await engine.open()
    try:
        await engine.fetch(Statement(f"INSERT INTO {table} (name, value) VALUES ({{n}}, {{v}})"), n=name, v=value)  # noqa: S608
    finally:
        await engine.close()


def names_of_rows(backup: Path, service: ServicePart, table: str) -> set[object]:
    """The first values of a table's rows."""
    with opened_backup(backup, UNLOCK) as reader:
        return {
            row[0]
            for item in reader.items()
            if isinstance(item, Rows) and (item.table.service, item.table.shape.table) == (service, table)
            for row in item.rows
        }


async def test_the_file_is_private_and_never_replaces_another(installed: Installation, tmp_path: Path) -> None:
    made = await back_up(installed, tmp_path / "b")
    assert mode_and_size(tmp_path / "b") == (0o600, made.bytes)
    with pytest.raises(FileExistsError):
        await back_up(installed, tmp_path / "b")
    assert names_in(tmp_path) == ["b"]


async def test_a_file_system_without_hard_links(
    installed: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT on a memory stick has none."""

    def link(_: Path, out: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(out))

    monkeypatch.setattr(os, "link", link)
    made = await back_up(installed, tmp_path / "b")
    assert mode_and_size(tmp_path / "b") == (0o600, made.bytes)
    with pytest.raises(FileExistsError):
        await back_up(installed, tmp_path / "b")
    assert names_in(tmp_path) == ["b"]
    assert mode_and_size(tmp_path / "b") == (0o600, made.bytes)


async def test_the_snapshots_are_taken_before_anything_else_and_that_of_fabric_first(
    installed: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that the services write later are in neither part."""
    databases: dict[ServicePart, Location] = {
        "fabric": Path(shutil.copy(installed.directory / "fabric" / "database.sqlite", tmp_path / "fabric")),
        "breakwater": Path(
            shutil.copy(installed.directory / "breakwater" / "database.sqlite", tmp_path / "breakwater")
        ),
    }
    order: list[str] = []
    pins_of = writing.pins_of

    def watched(location: Location) -> AbstractAsyncContextManager[Snapshot]:
        order.append(str(location))
        return snapshot_of(location)

    async def pins_and_writes(snapshot: Snapshot) -> tuple[str, ...]:
        await put(databases["fabric"], "installation", "late", b"1")
        await put(databases["breakwater"], "counter", "late", 1)
        return await pins_of(snapshot)

    monkeypatch.setattr(writing, "snapshot_of", watched)
    monkeypatch.setattr(writing, "pins_of", pins_and_writes)
    await back_up(over(installed, databases), tmp_path / "b")
    assert order == [str(databases["fabric"]), str(databases["breakwater"])]
    assert "late" not in names_of_rows(tmp_path / "b", "fabric", "installation")
    assert "late" not in names_of_rows(tmp_path / "b", "breakwater", "counter")


async def test_a_missing_key_file_stops_the_backup(installed: Installation, tmp_path: Path) -> None:
    broken = copy_of(installed, tmp_path / "cloud", "breakwater/keys/nodes-ca.key.pem")
    with pytest.raises(BackupRefused) as refused:
        await back_up(broken, tmp_path / "b")
    assert refused.value.code == "key_missing"
    assert names_in(tmp_path) == ["cloud"]


async def test_a_missing_database_leaves_nothing(installed: Installation, tmp_path: Path) -> None:
    databases = databases_of(installed) | {"fabric": tmp_path / "lost.sqlite"}
    with pytest.raises(DatabaseMissing):
        await back_up(over(installed, databases), tmp_path / "b")
    assert names_in(tmp_path) == []


@pytest.fixture
def short_files() -> Iterator[None]:
    """No file of this process can be longer than a part of a backup, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (36_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_file_that_cannot_be_written_to_its_end_leaves_nothing(
    installed: Installation, tmp_path: Path, short_files: None
) -> None:
    with pytest.raises(OSError) as raised:  # noqa: PT011  (the number of the error is checked)
        await back_up(installed, tmp_path / "b")
    assert raised.value.errno == errno.EFBIG
    assert names_in(tmp_path) == []


async def test_the_counts_of_the_report_are_those_of_the_file(installed: Installation, tmp_path: Path) -> None:
    made = await back_up(installed, tmp_path / "b")
    with opened_backup(tmp_path / "b", UNLOCK) as reader:
        (trailer,) = [item for item in reader.items() if isinstance(item, Trailer)]
    assert (made.files, made.rows, made.sha256) == (trailer.files, sum(trailer.tables.values()), trailer.sha256)
    assert msgspec.json.encode(made)
