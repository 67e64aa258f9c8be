"""The storage port on real databases of both engines: values, transactions, cancellations, crashes."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import types
from collections.abc import Coroutine, Generator
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from cloud.storage import (
    Location,
    ServiceEngine,
    Statement,
    StorageNotOpen,
    TransactionMisuse,
    compiled,
    param,
    params,
)
from cloud.storage.errors import IntegrityError, StorageError, TransactionLost, ValueRefused
from cloud.storage.location import parse_location
from lab.postgres import database_location
from tests.cloud.engines import ENGINES
from tests.cloud.storage_sample.support import COUNT, ENGINE, IDS, INSERT, NOW, SELECT, SERVICE, add, count, ids, on
from tests.cloud.storage_sample.tables import Widget

LABELS = compiled(Widget.select(Widget.label))
AMOUNT = compiled(Widget.select(Widget.amount_minor).where(Widget.id == param("id")))
SET_AMOUNT = compiled(Widget.update(params(Widget.amount_minor)).where(Widget.id == param("id")))
INSERT_NEW = compiled(
    Widget.insert(Widget(params(Widget.id, Widget.blob, Widget.made_at))).on_conflict(
        target=Widget.id, action="DO NOTHING"
    )
)


@pytest.fixture(params=ENGINES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A migrated, empty database."""
    return database_location(request.param, SERVICE, tmp_path)


def test_rows_are_typed_and_both_ways_agree(database: Location) -> None:
    insert = compiled(
        Widget.insert(Widget(params(Widget.id, Widget.label, Widget.amount_minor, Widget.blob, Widget.made_at)))
    )
    row = {"id": "w1", "label": "one", "is_open": True, "amount_minor": 2**60, "blob": b"\x00\xff", "made_at": NOW}

    async def test() -> None:
        async with ENGINE.transaction():
            given = {name: value for name, value in row.items() if name != "is_open"}
            assert await ENGINE.fetch(insert, **given) == [{"id": "w1"}]
        assert await ENGINE.fetch(SELECT, id="w1") == await ENGINE.browse(SELECT, id="w1") == [row]
        assert await ENGINE.fetch_one(SELECT, id="w1") == row
        assert await ENGINE.fetch_one(SELECT, id="w2") is None

    on(database, test())


def test_each_parameter_is_given_once_by_its_name(database: Location) -> None:
    async def test() -> None:
        for wrong in {}, {"key": "w1"}, {"id": "w1", "label": ""}:
            with pytest.raises(TypeError, match=r"takes the parameters \['id'\]"):
                await ENGINE.fetch(SELECT, **wrong)
            with pytest.raises(TypeError):
                await ENGINE.browse(SELECT, **wrong)

    on(database, test())


def test_two_engines_of_one_service_in_one_process(database: Location, tmp_path: Path) -> None:
    """Tables and statements belong to no engine. Each engine has its own rows and its own transaction."""
    kind = "sqlite" if isinstance(database, Path) else "postgresql"
    (tmp_path / "other").mkdir()
    other = ServiceEngine("storage_sample")
    other.configure(database_location(kind, SERVICE, tmp_path / "other"))

    async def test() -> None:
        await other.open()
        async with ENGINE.transaction(), other.transaction():
            await add("w1")
            assert await other.fetch(SELECT, id="w1") == []
            await other.fetch(INSERT, id="w2", label="", made_at=NOW)
        assert await ids() == ["w1"]
        assert await other.fetch(IDS) == [{"id": "w2"}]
        await other.close()

    on(database, test())


def test_uncommitted_rows_are_seen_inside_only(database: Location) -> None:
    async def test() -> None:
        written, looked = asyncio.Event(), asyncio.Event()

        async def writer() -> None:
            async with ENGINE.transaction():
                await add("w1", "one")
                assert await count() == 1
                assert (await ENGINE.browse(COUNT))[0]["n"] == 1
                written.set()
                await looked.wait()

        async def reader() -> None:
            await written.wait()
            assert await count() == 0
            assert (await ENGINE.browse(COUNT))[0]["n"] == 0
            looked.set()

        await asyncio.gather(writer(), reader())
        assert await count() == 1

    on(database, test())


def test_transactions_serialise(database: Location) -> None:
    async def test() -> None:
        async def add_one(i: int) -> None:
            async with ENGINE.transaction():
                before = await count()
                await asyncio.sleep(0)
                await add(f"w{i}", str(before))

        await asyncio.gather(*(add_one(i) for i in range(30)))
        labels = {row["label"] for row in await ENGINE.browse(LABELS)}
        assert labels == {str(i) for i in range(30)}

    on(database, test())


def test_exception_rolls_back_and_nested_joins(database: Location) -> None:
    async def test() -> None:
        with pytest.raises(KeyError):
            async with ENGINE.transaction():
                await add("w1")
                raise KeyError
        assert await count() == 0
        async with ENGINE.transaction() as outer:
            await add("w1")
            async with ENGINE.transaction() as inner:
                assert inner is outer
                await add("w2")
        assert await count() == 2

    on(database, test())


def test_a_failed_inner_block_dooms_the_whole(database: Location) -> None:
    async def test() -> None:
        with pytest.raises(TransactionMisuse, match="rolled back"):
            async with ENGINE.transaction():
                await add("w1")
                with pytest.raises(KeyError):
                    async with ENGINE.transaction():
                        raise KeyError
        assert await count() == 0

    on(database, test())


def test_a_transaction_belongs_to_its_task(database: Location) -> None:
    async def test() -> None:
        go = asyncio.Event()

        async def later() -> None:
            await go.wait()
            await add("w2")

        async with ENGINE.transaction():
            with pytest.raises(TransactionMisuse, match="belongs to the task"):
                await asyncio.create_task(add("w1"))
            task = asyncio.create_task(later())
        go.set()
        await task  # it was started inside and runs after: it writes in its own transaction
        assert await count() == 1

    on(database, test())


@types.coroutine
def cancelled_at(wait: int, work: Coroutine[Any, Any, None]) -> Generator[Any, None, bool]:
    """Run `work`, and cancel its task at its wait number `wait`. Return False if it waited fewer times."""
    error: BaseException | None = None
    waits = 0
    while True:
        try:
            waited = work.send(None) if error is None else work.throw(error)
        except StopIteration:
            return waits >= wait
        error = None
        waits += 1
        if waits == wait:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        try:
            yield waited
        except BaseException as caught:  # noqa: BLE001  the work gets it
            error = caught


def test_cancellation_at_every_await_leaves_the_writer_usable(database: Location) -> None:
    """Cancel a transaction at its first, second, third ... wait. Each time all its changes are there, or none."""

    async def change(name: str) -> None:
        async with ENGINE.transaction():
            await add(f"a{name}")
            await asyncio.sleep(0)
            await add(f"b{name}")
            await asyncio.sleep(0)

    async def cancelled(wait: int) -> bool:
        return await cancelled_at(wait, change(str(wait)))

    async def test() -> None:
        kept = 0
        for wait in range(1, 100):
            kept = await count()
            try:
                if not await asyncio.create_task(cancelled(wait)):
                    break
            except asyncio.CancelledError:
                assert await count() in (kept, kept + 2)
            async with asyncio.timeout(10), ENGINE.transaction():
                pass
        assert 2 < wait < 99
        assert await count() == kept + 2

    on(database, test())


def test_cancellation_while_waiting_for_the_writer(database: Location) -> None:
    async def test() -> None:
        async with ENGINE.transaction():
            waiting = asyncio.create_task(add("w1"))
            elsewhere = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.01, elsewhere.set_result, None)
            await elsewhere
            waiting.cancel()
        with pytest.raises((asyncio.CancelledError, TransactionMisuse)):
            await waiting
        await add("w2")
        assert await count() == 1

    on(database, test())


def test_a_lost_transaction_runs_no_statement_on_its_own(database: Location) -> None:
    async def test() -> None:
        with pytest.raises(TransactionLost):
            async with ENGINE.transaction():
                await ENGINE.fetch(Statement("ROLLBACK"))
                await add("w1")
        assert await count() == 0

    on(database, test())


def test_not_open_and_configured_twice(database: Location, tmp_path: Path) -> None:
    engine = ServiceEngine("other")
    with pytest.raises(StorageNotOpen, match="not been configured"):
        asyncio.run(engine.open())

    async def test() -> None:
        with pytest.raises(TransactionMisuse, match="is open"):
            ENGINE.configure(database)
        engine.configure(tmp_path / "absent" / "x.sqlite")
        with pytest.raises(StorageError, match="cannot open the database"):
            await engine.open()

    on(database, test())
    with pytest.raises(StorageNotOpen, match="is not open"):
        asyncio.run(count())


def test_two_engines_do_not_know_of_each_other(database: Location, tmp_path: Path) -> None:
    other = ServiceEngine("other")
    other.configure(tmp_path / "other.sqlite")

    async def test() -> None:
        await other.open()
        async with ENGINE.transaction(), other.transaction():
            await other.fetch(Statement("CREATE TABLE t (a TEXT)"))
            await add("w1")
        assert await other.fetch(Statement("SELECT * FROM t")) == []
        assert (tmp_path / "other.sqlite").stat().st_mode & 0o777 == 0o600
        await other.close()

    on(database, test())


def test_a_refused_statement_ends_its_transaction(database: Location) -> None:
    async def test() -> None:
        await add("w1")
        with pytest.raises(IntegrityError):
            await add("w1")  # alone: only its own change is lost
        with pytest.raises(TransactionMisuse, match="rolled back"):
            async with ENGINE.transaction():
                await add("w2")
                with pytest.raises(IntegrityError):
                    await add("w1")
                with pytest.raises(TransactionMisuse, match="can only be rolled back"):
                    await count()
        async with ENGINE.transaction():
            assert await ENGINE.fetch(INSERT_NEW, id="w1", blob=b"", made_at=NOW) == []
            await add("w3")
        assert await ids() == ["w1", "w3"]

    on(database, test())


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 2**70])
def test_a_value_beyond_its_column_is_refused_and_not_shown(database: Location, value: int) -> None:
    async def test() -> None:
        await add("w1")
        with pytest.raises(ValueRefused) as caught:
            await ENGINE.fetch(SET_AMOUNT, id="w1", amount_minor=value)
        assert str(value) not in str(caught.value)
        with pytest.raises(ValueRefused):
            async with ENGINE.transaction():
                await ENGINE.fetch(SET_AMOUNT, id="w1", amount_minor=value)
        await ENGINE.fetch(SET_AMOUNT, id="w1", amount_minor=2**63 - 1)
        row = await ENGINE.fetch_one(SELECT, id="w1")
        assert row is not None
        assert row["amount_minor"] == 2**63 - 1

    on(database, test())


@pytest.mark.parametrize("sql", ["SELECT nothing FROM widget", "DELETE FROM nowhere", "SELECT FROM WHERE"])
def test_a_statement_that_cannot_run_is_a_storage_error(database: Location, sql: str) -> None:
    async def test() -> None:
        with pytest.raises(StorageError):
            await ENGINE.fetch(Statement(sql))
        with pytest.raises(StorageError):
            async with ENGINE.transaction():
                await ENGINE.fetch(Statement(sql))
        await add("w1")
        assert await ids() == ["w1"]

    on(database, test())


def test_texts_sort_by_code_point_and_times_are_utc(database: Location) -> None:
    async def test() -> None:
        names = ["Z", "_", "a", "a-b", "ab", "z", "~", "é"]
        for name in reversed(names):
            await add(name)
        assert await ids() == sorted(names) == names
        await ENGINE.fetch(INSERT, id="later", label="", made_at=NOW.astimezone(timezone(timedelta(hours=5))))
        row = await ENGINE.fetch_one(SELECT, id="later")
        assert row is not None
        assert row["made_at"] == NOW
        assert row["made_at"].utcoffset() == timedelta(0)

    on(database, test())


def test_an_inner_block_cannot_rely_on_more_than_the_outer_holds(database: Location) -> None:
    async def test() -> None:
        async with ENGINE.transaction(), ENGINE.transaction("a"):
            await add("w1")
        async with ENGINE.transaction("a", "b") as outer, ENGINE.transaction("b") as inner:
            assert inner is outer
            await add("w2")
        for keys in (), ("c",), ("a", "c"):
            with pytest.raises(TransactionMisuse, match="cannot be joined"):
                async with ENGINE.transaction("a", "b"):
                    await add("w3")
                    async with ENGINE.transaction(*keys):
                        pass
        assert await ids() == ["w1", "w2"]

    on(database, test())


def test_transactions_with_a_key_in_common_serialise(database: Location) -> None:
    """Counters by key: each is read, awaited over and written.

    One transaction without a key does the same with all of them.
    """

    async def count_up(*widgets: str) -> None:
        for widget in widgets:
            row = await ENGINE.fetch_one(AMOUNT, id=widget)
            await asyncio.sleep(0)
            assert row is not None
            await ENGINE.fetch(SET_AMOUNT, id=widget, amount_minor=row["amount_minor"] + 1)

    async def keyed(*widgets: str) -> None:
        async with ENGINE.transaction(*widgets):
            await count_up(*widgets)

    async def alone() -> None:
        async with ENGINE.transaction():
            await count_up("a", "b")

    async def test() -> None:
        await add("a")
        await add("b")
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            for _ in range(8):
                for widgets in ("a",), ("b",), ("a", "b"), ("b", "a"):
                    tasks.create_task(keyed(*widgets))
                tasks.create_task(alone())
        for widget in "ab":
            assert await ENGINE.fetch(AMOUNT, id=widget) == [{"amount_minor": 32}]

    on(database, test())


CHILD = """
import asyncio, sys
from cloud.storage.location import parse_location
from tests.cloud.storage_sample.support import ENGINE, add

async def main():
    ENGINE.configure(parse_location(sys.argv[1]))
    await ENGINE.open()

    async def write(name):
        for i in range(100000):
            async with ENGINE.transaction():
                await add(f"{name}a{i}")
                await add(f"{name}b{i}")
            print(f"{name} {i}", flush=True)

    await asyncio.gather(*(write(name) for name in "xyz"))

asyncio.run(main())
"""


def test_what_was_committed_survives_a_kill(database: Location) -> None:
    """Three writers at the same time, in groups on SQLite. Every reported change is there as a whole."""
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(database)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or "." for entry in sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    reported: dict[str, int] = {}
    for line in child.stdout:
        name, number = line.split()
        reported[name] = int(number)
        if number == "30" and not child.poll():
            child.send_signal(signal.SIGKILL)
    child.stdout.close()
    child.wait()
    assert reported.keys() == set("xyz")

    async def test() -> None:
        rows = {row["id"] for row in await ENGINE.browse(compiled(Widget.select(Widget.id)))}
        for name, last in reported.items():
            assert {f"{name}{letter}{i}" for i in range(last + 1) for letter in "ab"} <= rows
        assert len(rows) % 2 == 0

    on(database, test())


def test_where_it_is_said_on_a_command_line(database: Location) -> None:
    assert parse_location(str(database)) == database


class HalfCommitted:
    """A backend whose commit ends without a result: the request is cancelled meanwhile."""

    def __init__(self) -> None:
        self.hints: list[str] = []

    async def begin(self, *_: object) -> "HalfCommitted":
        return self

    async def commit(self) -> None:
        raise asyncio.CancelledError

    def hint(self, text: str) -> None:
        self.hints.append(text)


async def test_a_commit_without_a_result_sends_its_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    """The change may have been made. Then the other processes need the hint."""
    engine, backend = ServiceEngine("halves"), HalfCommitted()
    calls = ["not called"]
    monkeypatch.setattr(engine, "_backend", backend)
    monkeypatch.setattr(engine, "_is_open", True)
    with pytest.raises(asyncio.CancelledError):
        async with engine.transaction("a"):
            engine.hint("one")
            engine.after_commit(calls.clear)
    assert backend.hints == ["one"]
    assert calls == []


async def test_functions_are_called_after_the_commit_and_once(database: Location) -> None:
    engine = ServiceEngine("calls")
    engine.configure(database)
    await engine.open()
    calls: list[str] = []

    def call() -> None:
        calls.append("called")

    try:
        engine.after_commit(call)
        assert calls == ["called"]
        async with engine.transaction("a"):
            inside = engine.is_in_transaction
            async with engine.transaction("a"):
                engine.after_commit(call)
            engine.after_commit(call)
            assert calls == ["called"]
        assert (inside, engine.is_in_transaction) == (True, False)
        assert calls == ["called"] * 2
        with pytest.raises(RuntimeError):
            async with engine.transaction("a"):
                engine.after_commit(call)
                raise RuntimeError
        assert calls == ["called"] * 2
        assert engine.commits_in_order == (engine.engine_type == "sqlite")
    finally:
        await engine.close()
