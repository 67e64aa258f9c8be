"""SQLite behind the storage port: grouped commits, failures in them, and a writer that is always passed on."""

import asyncio
import contextlib
import resource
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from cloud.storage import Statement, StorageError
from cloud.storage.errors import DatabaseBusy, TransactionLost
from cloud.storage.sqlite import SqliteBackend, connect, run
from lab.postgres import sqlite_database
from tests.cloud.storage_sample.support import COUNT, ENGINE, SERVICE, add, count, ids, on, sqlite_writer, turns


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return sqlite_database(SERVICE, tmp_path)


@contextmanager
def traced() -> Iterator[list[str]]:
    """The first words of the writer's statements."""
    lines: list[str] = []
    sqlite_writer().set_trace_callback(lambda sql: lines.append(sql.split("(")[0].strip()))
    yield lines
    sqlite_writer().set_trace_callback(None)


@contextmanager
def refused(kind: int, word: str) -> Iterator[None]:
    """The database refuses `word` (COMMIT, ROLLBACK), as after an I/O error."""

    def allow(action: int, argument: str | None, *_: object) -> int:
        return sqlite3.SQLITE_DENY if action == kind and argument == word else sqlite3.SQLITE_OK

    sqlite_writer().set_authorizer(allow)
    yield
    sqlite_writer().set_authorizer(None)


class Crowd:
    """Tasks that wait for the writer, while the first task holds it until `go`."""

    def __init__(self) -> None:
        self._gate = asyncio.Event()
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def _hold(self) -> None:
        async with ENGINE.transaction():
            await add("first")
            await self._gate.wait()

    async def _write(self, name: str, then: Callable[[], object] | None) -> None:
        async with ENGINE.transaction():
            await add(name)
            if then is not None:
                then()

    async def gather(self, names: str, then: dict[str, Callable[[], object]] | None = None) -> None:
        """One task holds the writer. One task for each letter waits for it, in order."""
        self.tasks["first"] = asyncio.create_task(self._hold())
        for name in names:
            await turns(2)
            self.tasks[name] = asyncio.create_task(self._write(name, (then or {}).get(name)))
        await turns()

    async def go(self) -> dict[str, BaseException | None]:
        """Let the tasks run, and return the end of each."""
        self._gate.set()
        async with asyncio.timeout(10):
            ended = await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        return dict(zip(self.tasks, ended, strict=True))


def fails() -> None:
    raise KeyError("the member's own")


def test_writers_that_wait_share_a_commit(database: Path) -> None:
    async def test() -> None:
        with traced() as lines:
            await asyncio.gather(*(add(f"w{i}") for i in range(33)))
        assert await count() == 33
        assert lines.count("COMMIT") == 2  # the first alone, then together all that waited during its sync
        assert lines.count("BEGIN IMMEDIATE") == 2

    on(database, test())


def test_a_group_is_bounded(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.storage.sqlite.GROUP_MAX", 4)

    async def test() -> None:
        with traced() as lines:
            await asyncio.gather(*(add(f"w{i}") for i in range(33)))
        assert await count() == 33
        assert lines.count("COMMIT") == 9

    on(database, test())


def test_a_transaction_alone_commits_at_once(database: Path) -> None:
    async def test() -> None:
        with traced() as lines:
            for name in "abc":
                await add(name)
        one = ["BEGIN IMMEDIATE", "INSERT INTO widget", "COMMIT"]
        assert lines == one * 3

    on(database, test())


def test_no_member_gets_its_result_before_the_commit(database: Path) -> None:
    async def test() -> None:
        crowd = Crowd()

        def look() -> None:
            """Runs in the last task: the others have ended their blocks, and none may have returned."""
            assert not any(task.done() for task in crowd.tasks.values())
            seen.append(True)

        seen: list[bool] = []
        await crowd.gather("ab", {"b": look})
        assert set((await crowd.go()).values()) == {None}
        assert seen
        assert await ids() == ["a", "b", "first"]

    on(database, test())


def test_a_member_that_fails_takes_back_its_own(database: Path) -> None:
    async def test() -> None:
        for names in ("abcd", "dcba"):
            crowd = Crowd()
            await crowd.gather(names, {"b": fails, "d": fails})
            with traced() as lines:
                ended = await crowd.go()
            assert {name for name, error in ended.items() if error is not None} == {"b", "d"}
            assert isinstance(ended["b"], KeyError)
            assert lines.count("COMMIT") == 1
            assert await ids() == ["a", "c", "first"]
            await ENGINE.fetch(Statement("DELETE FROM widget"))

    on(database, test())


@contextmanager
def a_full_disk(database: Path) -> Iterator[None]:
    """No file may grow beyond the log's present size, as on a full disk. The error is a real one of the system."""
    size = Path(f"{database}-wal").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_commit_that_fails_fails_all_and_keeps_nothing(database: Path) -> None:
    """A member's refusal is not valid if the changes that it has seen were lost.

    The member `b` gets the group's error.
    """

    async def test() -> None:
        await add("kept")
        crowd = Crowd()
        await crowd.gather("abc", {"b": fails})
        with a_full_disk(database):
            ended = await crowd.go()
        for error in ended.values():
            assert isinstance(error, StorageError)
            assert "cannot commit" in str(error)
        assert len({id(error) for error in ended.values()}) == 4
        assert await ids() == ["kept"]
        await add("after")
        assert await count() == 2

    on(database, test())


def test_members_of_a_group_that_the_database_ended_get_the_error(database: Path) -> None:
    async def test() -> None:
        crowd = Crowd()
        await crowd.gather("abc", {"b": lambda: sqlite_writer().execute("ROLLBACK")})
        ended = await crowd.go()
        assert {name for name, error in ended.items() if isinstance(error, TransactionLost)} == {"first", "a", "b"}
        assert ended["c"] is None  # it came later, in its own group
        assert await ids() == ["c"]

    on(database, test())


def test_cancelled_while_it_waits_for_the_writer(database: Path) -> None:
    async def test() -> None:
        for gone in ("a", "b", "c", "ab", "bc", "abc"):
            crowd = Crowd()
            await crowd.gather("abc")
            for name in gone:
                crowd.tasks[name].cancel()
            ended = await crowd.go()
            assert {name for name, error in ended.items() if isinstance(error, asyncio.CancelledError)} == set(gone)
            assert await ids() == sorted({"a", "b", "c", "first"} - set(gone))
            await ENGINE.fetch(Statement("DELETE FROM widget"))

    on(database, test())


def test_cancelled_when_its_turn_has_come(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task is cancelled after it got the writer and before it runs. The group before it is still committed."""

    async def test() -> None:
        assert isinstance(ENGINE.backend, SqliteBackend)
        backend, hand_on = ENGINE.backend, ENGINE.backend._hand_on
        for names, gone in (("a", "a"), ("ab", "a"), ("ab", "b"), ("abc", "b")):
            crowd = Crowd()
            await crowd.gather(names)
            turn = backend._waiting[names.index(gone)]

            def and_cancel(crowd: Crowd = crowd, gone: str = gone, turn: asyncio.Future[None] = turn) -> None:
                hand_on()
                if turn.done():
                    crowd.tasks[gone].cancel()

            with monkeypatch.context() as patch:
                patch.setattr(backend, "_hand_on", and_cancel)
                ended = await crowd.go()
            assert turn.done()
            assert not turn.cancelled()
            assert isinstance(ended.pop(gone), asyncio.CancelledError)
            assert set(ended.values()) == {None}
            assert await ids() == sorted({*names, "first"} - {gone})
            await ENGINE.fetch(Statement("DELETE FROM widget"))

    on(database, test())


def test_cancelled_while_it_waits_for_the_group_s_commit(database: Path) -> None:
    """A member that is cancelled in COMMIT keeps its change, like a single transaction. The others are not affected."""

    async def test() -> None:
        crowd = Crowd()
        await crowd.gather("ab", {"b": lambda: crowd.tasks["a"].cancel()})  # noqa: PLW0108  the task does not exist yet
        ended = await crowd.go()
        assert isinstance(ended["a"], asyncio.CancelledError)
        assert ended["b"] is ended["first"] is None
        assert await ids() == ["a", "b", "first"]

    on(database, test())


def test_a_rollback_that_fails_opens_the_writer_again(database: Path) -> None:
    async def test() -> None:
        await add("kept")
        with pytest.raises(KeyError), refused(sqlite3.SQLITE_TRANSACTION, "ROLLBACK"):
            async with ENGINE.transaction():
                await add("gone")
                fails()
        await add("after")
        assert await ids() == ["after", "kept"]
        crowd = Crowd()
        await crowd.gather("ab", {"b": fails})
        with refused(sqlite3.SQLITE_SAVEPOINT, "ROLLBACK"):
            ended = await crowd.go()
        assert isinstance(ended["a"], TransactionLost)
        assert isinstance(ended["first"], TransactionLost)
        assert isinstance(ended["b"], KeyError)
        await add("again")
        assert await ids() == ["after", "again", "kept"]

    on(database, test())


def test_a_commit_and_a_rollback_that_fail_together(database: Path) -> None:
    async def test() -> None:
        def allow(action: int, *_: object) -> int:
            return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK

        with pytest.raises(StorageError, match="cannot commit: not authorized"):
            async with ENGINE.transaction():
                await add("gone")
                sqlite_writer().set_authorizer(allow)
        await add("after")
        assert await ids() == ["after"]

    on(database, test())


def test_a_full_disk_keeps_nothing_and_loses_nothing(database: Path) -> None:
    async def test() -> None:
        await add("kept")
        await ENGINE.fetch(Statement("PRAGMA max_page_count = 8"))
        with pytest.raises((StorageError, TransactionLost), match="full"):
            async with ENGINE.transaction():
                for i in range(100):
                    await add(f"w{i}", "x" * 4000)
        await ENGINE.fetch(Statement("PRAGMA max_page_count = 100000"))
        assert await count() == 1
        await add("after")

    on(database, test())


def test_another_process_s_write_lock_is_waited_for(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.storage.sqlite.BUSY_WAIT_SECONDS", 0.1)

    async def test() -> None:
        other = sqlite3.connect(database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy, match="another process"):
            await add("w1")
        asyncio.get_running_loop().call_later(0.05, other.execute, "ROLLBACK")
        await add("w1")
        assert await count() == 1
        other.close()

    on(database, test())


def test_closing_waits_for_those_that_have_begun(database: Path) -> None:
    async def test() -> None:
        crowd = Crowd()
        await crowd.gather("ab")
        closing = asyncio.create_task(ENGINE.close())
        await turns()
        assert set((await crowd.go()).values()) == {None}
        await closing
        ENGINE.configure(database)
        await ENGINE.open()
        assert await ids() == ["a", "b", "first"]

    on(database, test())


def test_no_commit_waits_for_a_long_query(database: Path) -> None:
    async def test() -> None:
        began, may_end = threading.Event(), threading.Event()

        def held() -> int:
            began.set()
            may_end.wait(10)
            return 1

        assert isinstance(ENGINE.backend, SqliteBackend)
        ENGINE.backend._browser.create_function("held", 0, held)
        long_query = asyncio.create_task(ENGINE.browse(Statement("SELECT held() AS n")))
        await asyncio.to_thread(began.wait)
        async with asyncio.timeout(5):
            await add("w1")
        assert not long_query.done()
        may_end.set()
        assert await long_query == [{"n": 1}]

    on(database, test())


def test_a_reader_that_fails_is_a_storage_error(database: Path) -> None:
    """The query of /readyz: a database that cannot be read is reported as such, not as an unknown failure."""

    async def test() -> None:
        await add("w1")
        assert isinstance(ENGINE.backend, SqliteBackend)
        for connection in (ENGINE.backend._reader, ENGINE.backend._browser):
            connection.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
        with pytest.raises(StorageError, match="refused"):
            await count()
        with pytest.raises(StorageError, match="refused"):
            await ENGINE.browse(COUNT)

    on(database, test())


def is_open_here(path: Path) -> bool:
    """Whether this process has the file open."""
    return path.resolve() in {link.resolve() for link in Path("/proc/self/fd").iterdir()}


async def test_a_file_that_is_no_database_stays_open_in_no_connection(tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite"
    path.write_text("this is no database" * 100)
    with pytest.raises(StorageError) as caught:
        await SqliteBackend(path).open()
    assert caught.value.__cause__ is not None
    assert not is_open_here(path)


def test_numbers_flags_and_times_keep_their_types(database: Path) -> None:
    connection = connect(database, writes=True)
    with contextlib.closing(connection):
        connection.execute("CREATE TABLE kinds (n INTEGER, flag BOOLEAN, at TIMESTAMPTZ, none TIMESTAMPTZ)")
        at = datetime(2026, 11, 30, 1, 2, 3, 456_789, tzinfo=timezone(timedelta(hours=2)))
        for flag in (True, False):
            connection.execute("INSERT INTO kinds VALUES (?, ?, ?, NULL)", (2**63 - 1, flag, at))
        rows = run(connection, "SELECT * FROM kinds ORDER BY rowid", ())
    assert [row["flag"] for row in rows] == [True, False]
    assert all(type(row["flag"]) is bool and type(row["n"]) is int and row["none"] is None for row in rows)
    assert (rows[0]["n"], rows[0]["at"], rows[0]["at"].tzinfo) == (2**63 - 1, at, UTC)


def test_an_opening_waits_while_another_process_closes_the_database(database: Path) -> None:
    """The last connection that closes holds the file alone while SQLite merges the log."""
    with contextlib.closing(connect(database, writes=True)) as last, ThreadPoolExecutor(1) as pool:
        last.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        last.execute("BEGIN IMMEDIATE")
        opening = pool.submit(connect, database, writes=True)
        assert not wait([opening], 0.1).done
        last.execute("ROLLBACK")
        last.close()
        with contextlib.closing(opening.result()) as opened:
            assert opened.execute("PRAGMA busy_timeout").fetchone() == (0,)
