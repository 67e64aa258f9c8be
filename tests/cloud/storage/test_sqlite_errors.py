"""What SQLite says about its disk and its file becomes an error of the port, and nothing acknowledged is lost."""

import asyncio
import resource
import sqlite3
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cloud.storage import StorageError
from cloud.storage.errors import DatabaseNotWritable, DatabaseUnavailable, DiskFull
from cloud.storage.sqlite import SqliteBackend, SqliteUnchanged, fault
from lab.postgres import sqlite_database
from tests.cloud.storage_sample.support import ENGINE, SERVICE, add, ids, on, sqlite_writer


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return sqlite_database(SERVICE, tmp_path)


def pragma(text: str) -> int:
    row = sqlite_writer().execute(f"PRAGMA {text}").fetchone()
    return int(row[0]) if row else 0


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, as on a full disk. The errors are real ones of the system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def no_more_pages(_: Path) -> Callable[[], object]:
    pragma(f"max_page_count = {pragma('page_count')}")
    return lambda: pragma("max_page_count = 1000000")


def read_only(_: Path) -> Callable[[], object]:
    pragma("query_only = ON")
    return lambda: pragma("query_only = OFF")


@pytest.mark.parametrize(("breaks", "kind"), [(no_more_pages, DiskFull), (read_only, DatabaseNotWritable)])
def test_a_database_that_stores_nothing_says_so_and_recovers(
    database: Path, breaks: Callable[[Path], Callable[[], object]], kind: type[StorageError]
) -> None:
    async def test() -> None:
        await add("before")
        mend = breaks(database)
        for _ in range(2):
            with pytest.raises(kind) as caught:
                await add("lost", "x" * 100_000)
            assert isinstance(caught.value, DatabaseUnavailable)
        with pytest.raises(kind):
            async with ENGINE.transaction():
                await add("lost too", "x" * 100_000)
        assert await ids() == ["before"]
        mend()
        await add("after", "x" * 100_000)
        assert await ids() == ["after", "before"]

    on(database, test())


def test_a_disk_that_fills_up_during_commits_and_checkpoints_loses_nothing(database: Path) -> None:
    """Checkpoints fail first, without harm; then a COMMIT fails. Each acknowledged row is there, and no other."""
    kept: list[str] = []
    room = database.stat().st_size + 60_000

    async def fill(name: str) -> None:
        async with ENGINE.transaction():
            await add(f"{name}-1", "x" * 3000)
            await add(f"{name}-2", "x" * 3000)
        kept.extend((f"{name}-1", f"{name}-2"))

    async def test() -> None:
        pragma("wal_autocheckpoint = 1")
        with files_of_at_most(room):
            with pytest.raises(DatabaseNotWritable) as caught:
                for number in range(1000):
                    await fill(f"{number:04}")
            assert "cannot commit" in str(caught.value) or "refused" in str(caught.value)
            assert len(kept) > 4
            ended = await asyncio.gather(*(fill(f"full-{each}") for each in range(4)), return_exceptions=True)
            assert all(isinstance(each, DatabaseNotWritable) for each in ended), ended
            assert await ids() == kept
        await fill("space-is-back")
        assert await ids() == kept

    on(database, test())
    with closing(sqlite3.connect(database)) as again:
        assert again.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert [row[0] for row in again.execute("SELECT id FROM widget ORDER BY id")] == kept


def test_each_code_has_its_kind(tmp_path: Path) -> None:
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"no database" * 1000)
    with closing(sqlite3.connect(broken)) as connection, pytest.raises(sqlite3.DatabaseError) as caught:
        connection.execute("SELECT * FROM widget")
    wrong = fault(caught.value, "cannot begin")
    assert type(wrong) is DatabaseUnavailable
    assert str(wrong) == "cannot begin: file is not a database (SQLITE_NOTADB)"
    with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(sqlite3.OperationalError) as unknown:
        connection.execute("SELECT * FROM no_such_table")
    assert type(fault(unknown.value, "x")) is StorageError


@pytest.mark.parametrize(("free", "kind"), [(0, DiskFull), (1 << 30, StorageError)])
async def test_a_disk_that_is_full_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, kind: type[StorageError]
) -> None:
    """SQLite reports an I/O error when it has no place for the index of its log."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: Namespace(free=free))
    with pytest.raises(kind, match=r"^cannot open the database ") as caught:
        await SqliteBackend(tmp_path).open()  # a directory cannot be opened
    assert type(caught.value) is kind


@pytest.mark.parametrize(("is_full", "kind"), [(True, DiskFull), (False, DatabaseUnavailable)])
def test_a_check_names_a_full_disk_where_sqlite_names_an_io_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_full: bool, kind: type[StorageError]
) -> None:
    """The file that cannot be opened is missing here; on a full disk it is the index of the log."""
    monkeypatch.setattr("cloud.storage.sqlite.is_disk_full", lambda _: is_full)
    with pytest.raises(StorageError, match="the disk is full" if is_full else "unable to open") as caught:
        asyncio.run(SqliteUnchanged(tmp_path / "missing").open())
    assert isinstance(caught.value, kind)
