"""PostgreSQL behind the storage port: locks, replicas, doubtful connections, servers away or unsuitable."""

import asyncio
import contextvars
import signal
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from cloud.storage import DatabaseUnavailable, PostgresLocation, ServiceEngine, Statement, StorageError
from cloud.storage.errors import (
    DatabaseBusy,
    OutcomeUnknown,
    StorageNotOpen,
    TransactionLost,
)
from cloud.storage.locks import Locks
from cloud.storage.postgres import PostgresBackend, begin_sql, lock_id
from cloud.storage.waits import waits_of_request
from lab.postgres import ROLE, Cluster, cluster, postgres_database
from tests.cloud.storage_sample.support import ENGINE, INSERT, NOW, SERVICE, add, count, ids, on
from tests.waiting import until

pytestmark = pytest.mark.slow

T = TypeVar("T")

SLEEP = Statement("SELECT pg_sleep(60)")
RUNNING = Statement("SELECT COUNT(*) AS n FROM pg_stat_activity WHERE state = 'active' AND query LIKE {pattern}")
BACKENDS = Statement("SELECT COUNT(*) AS n FROM pg_stat_activity WHERE datname = current_database()")


@pytest.fixture
def database() -> PostgresLocation:
    return postgres_database(SERVICE)


@pytest.fixture(scope="module")
def other_cluster() -> Iterator[Cluster]:
    """A second cluster: to initialise one takes longer than to restart it."""
    made = Cluster()
    yield made
    made.remove()


@pytest.fixture
def server(other_cluster: Cluster) -> Cluster:
    """A server with the usual settings that the test can stop and restart."""
    other_cluster.stop()
    other_cluster.start()
    return other_cluster


def apart(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that does not inherit the transaction of the task that starts it."""
    return asyncio.create_task(work, context=contextvars.Context())


async def number(statement: Statement, **values: Any) -> int:
    row = await ENGINE.fetch_one(statement, **values)
    assert row is not None
    return int(row["n"])


async def until_number(statement: Statement, wanted: int, **values: Any) -> None:
    async def reached() -> bool:
        return await number(statement, **values) == wanted

    await until(f"{wanted} at the server", reached)


def test_locks_are_numbers_of_service_and_key() -> None:
    numbers = {lock_id("fabric"), lock_id("breakwater"), lock_id("fabric", "a"), lock_id("fabric", "b")}
    assert len(numbers) == 4
    assert all(-(2**63) <= number < 2**63 for number in numbers)

    def locks(*keys: str, reads: tuple[str, ...] = ()) -> str:
        first, before, calls, *after = begin_sql("fabric", Locks(keys, reads), 1.5, 0.5, 4).split("; ")
        assert first == "BEGIN ISOLATION LEVEL READ COMMITTED"
        assert [before, *after] == [
            "SET LOCAL statement_timeout = 1500",
            "SET LOCAL statement_timeout = 4000",
            "SET LOCAL lock_timeout = 500",
        ]
        return calls.removeprefix("SELECT ")

    own, a, b = lock_id("fabric"), lock_id("fabric", "a"), lock_id("fabric", "b")
    assert locks() == f"pg_advisory_xact_lock({own})"
    keyed = [f"pg_advisory_xact_lock({number})" for number in sorted((a, b))]
    assert locks("b", "a", "b") == ", ".join((f"pg_advisory_xact_lock_shared({own})", *keyed))
    assert locks("a", reads=("b",)) == locks("a", "b").replace(f"lock({b})", f"lock_shared({b})")
    assert locks("a", "b", reads=("b",)) == locks("a", "b")


def test_two_replicas_exclude_each_other(database: PostgresLocation) -> None:
    """Two engines of one service, as in two processes: a read and the write that follows are never interleaved."""
    others = [ServiceEngine(ENGINE.service) for _ in range(2)]
    read = Statement("SELECT amount_minor FROM widget WHERE id = 'w'")
    write = Statement("UPDATE widget SET amount_minor = {amount} WHERE id = 'w'")

    async def count_up(engine: ServiceEngine, *keys: str) -> None:
        async with engine.transaction(*keys):
            row = await engine.fetch_one(read)
            assert row is not None
            await engine.fetch(write, amount=row["amount_minor"] + 1)

    async def test() -> None:
        for engine in others:
            engine.configure(database)
            await engine.open()
        await add("w")
        async with asyncio.timeout(20):
            await asyncio.gather(*(count_up(engine) for engine in others for _ in range(20)))
            await asyncio.gather(*(count_up(engine, "w") for engine in others for _ in range(8)))
            mixed = [count_up(engine, *keys) for engine in others for keys in ((), ("w",)) for _ in range(4)]
            await asyncio.gather(*mixed)
        assert await ENGINE.fetch(read) == [{"amount_minor": 72}]
        for engine in others:
            await engine.close()

    on(database, test())


def test_other_keys_and_other_services_do_not_wait(database: PostgresLocation) -> None:
    other, stranger = ServiceEngine(ENGINE.service), ServiceEngine("another")

    async def test() -> None:
        for engine in (other, stranger):
            engine.configure(database)
            await engine.open()
        async with ENGINE.transaction("a"):
            async with asyncio.timeout(2), other.transaction("b"), stranger.transaction():
                await other.fetch(INSERT, id="w1", label="", made_at=NOW)
            await other.fetch(INSERT, id="w2", label="", made_at=NOW)  # a single statement waits for no transaction
        async with ENGINE.transaction():
            await other.fetch(INSERT, id="w3", label="", made_at=NOW)
        assert await ids() == ["w1", "w2", "w3"]
        for engine in (other, stranger):
            await engine.close()

    on(database, test())


def test_a_lock_held_for_too_long_is_busy(database: PostgresLocation) -> None:
    other = ServiceEngine(ENGINE.service)

    async def test() -> None:
        other.configure(database)
        await other.open()
        for keys in (), ("a",), ("b", "a"):
            async with ENGINE.transaction("a"):
                with waits_of_request(0.2), pytest.raises(DatabaseBusy, match="hold the same data"):
                    async with other.transaction(*keys):
                        raise AssertionError
            async with asyncio.timeout(2), other.transaction(*keys):  # its connection is at rest again
                await other.fetch(INSERT, id=f"w{len(keys)}", label="", made_at=NOW)
        assert await count() == 3
        await other.close()

    on(database, test())


def test_when_all_connections_are_in_use(database: PostgresLocation) -> None:
    async def test() -> None:
        async with ENGINE.transaction("a"):
            held, done = asyncio.Event(), asyncio.Event()

            async def hold() -> None:
                async with ENGINE.transaction("b"):
                    held.set()
                    await done.wait()

            holding = apart(hold())
            await held.wait()

            async def counted_soon() -> None:
                with waits_of_request(0.1):
                    await count()

            with pytest.raises(DatabaseBusy, match="all 2 connections"):
                await apart(counted_soon())
            done.set()
            await holding
        assert await count() == 0

    on(msgspec.structs.replace(database, pool=2), test())


def test_many_at_once_share_few_connections(database: PostgresLocation) -> None:
    async def test() -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*(add(f"w{i}") for i in range(60)), *(count() for _ in range(60)))
        assert await count() == 60
        assert await number(BACKENDS) <= 3

    on(msgspec.structs.replace(database, pool=3), test())


def test_a_cancelled_statement_has_ended_when_the_task_has(database: PostgresLocation) -> None:
    """Alone, in a transaction, and in a wait for a lock: a cancelled statement ends at the server.

    Every connection is kept.
    """

    other = ServiceEngine(ENGINE.service)

    async def alone() -> None:
        await ENGINE.fetch(SLEEP)

    async def inside() -> None:
        async with ENGINE.transaction():
            await add("gone")
            await ENGINE.fetch(SLEEP)

    async def test() -> None:
        for what in (alone, inside):
            task = asyncio.create_task(what())
            await until_number(RUNNING, 1, pattern="SELECT pg_sleep%")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await number(RUNNING, pattern="SELECT pg_sleep%") == 0
        other.configure(database)
        await other.open()
        async with other.transaction("a"):
            waiting = apart(locked())
            await apart(until_number(RUNNING, 1, pattern="BEGIN%"))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await apart(number(RUNNING, pattern="BEGIN%")) == 0
        async with asyncio.timeout(2):
            await inside_fine()
        assert await ids() == ["fine"]
        assert await number(BACKENDS) == 3  # the largest number in use at the same time
        await other.close()

    async def locked() -> None:
        async with ENGINE.transaction("a"):
            await add("gone")

    async def inside_fine() -> None:
        async with ENGINE.transaction():
            await add("fine")

    on(database, test())


def test_a_transaction_the_server_ended_is_lost(database: PostgresLocation) -> None:
    ends = Statement("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = {name}")
    killer = ServiceEngine("killer")

    async def test() -> None:
        killer.configure(database)
        await killer.open()
        name = f"cascade-{ENGINE.service}"
        with pytest.raises((TransactionLost, DatabaseUnavailable)):
            async with ENGINE.transaction():
                await add("gone")
                await killer.fetch(ends, name=name)
                await add("gone too")
        with pytest.raises((TransactionLost, OutcomeUnknown)):
            async with ENGINE.transaction():
                await add("gone")
                await killer.fetch(ends, name=name)
        with pytest.raises(TransactionLost):
            async with ENGINE.transaction():
                await ENGINE.fetch(Statement("ROLLBACK"))
        await add("fine")
        assert await ids() == ["fine"]
        await killer.close()

    on(database, test())


def test_an_idle_transaction_is_ended(database: PostgresLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.storage.postgres.IDLE_SECONDS", 0.3)
    idle = Statement("SELECT COUNT(*) AS n FROM pg_stat_activity WHERE state = 'idle in transaction'")
    watch = ServiceEngine("watch")

    async def test() -> None:
        watch.configure(database)
        await watch.open()

        async def ended() -> bool:
            return not (await watch.fetch(idle))[0]["n"]

        with pytest.raises((TransactionLost, DatabaseUnavailable)):
            async with ENGINE.transaction():
                await add("gone")
                await until("its end at the server", ended)
                await add("gone too")
        assert await count() == 0
        await watch.close()

    on(database, test())


@pytest.mark.slow
def test_a_server_that_goes_away_and_comes_back(server: Cluster) -> None:
    location = server.create()

    async def test() -> None:
        await ENGINE.fetch(Statement("CREATE TABLE widget (id TEXT PRIMARY KEY, label TEXT, made_at TIMESTAMPTZ)"))
        for how in (signal.SIGINT, signal.SIGQUIT):
            name = how.name
            await add(name)
            with pytest.raises(StorageError):
                async with ENGINE.transaction():
                    await add(f"{name} gone")
                    await asyncio.to_thread(server.stop, how)
                    await add(f"{name} gone too")
            with pytest.raises(DatabaseUnavailable, match="not available"):
                await count()
            with pytest.raises(DatabaseUnavailable):
                async with ENGINE.transaction():
                    raise AssertionError
            server.launch()
            await asyncio.to_thread(server.wait)
            async with ENGINE.transaction():
                await add(f"{name} back")
        assert await ids() == ["SIGINT", "SIGINT back", "SIGQUIT", "SIGQUIT back"]

    on(location, test())
    server.stop()
    with pytest.raises(DatabaseUnavailable, match="cannot open the database"):
        open_and_close(location)


def open_and_close(location: PostgresLocation) -> None:
    async def body() -> None:
        engine = ServiceEngine("tried")
        engine.configure(location)
        await engine.open()
        await engine.close()

    asyncio.run(body())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "reason"),
    [("synchronous_commit", "would not be durable"), ("fsync", "power cut"), ("full_page_writes", "power cut")],
)
def test_a_server_that_does_not_keep_what_it_commits_is_refused(server: Cluster, setting: str, reason: str) -> None:
    location = server.location("postgres")
    server.stop()
    server.start(**{setting: "off"})
    with pytest.raises(StorageError, match=reason) as caught:
        open_and_close(location)
    assert setting in str(caught.value)
    if setting != "synchronous_commit":
        open_and_close(msgspec.structs.replace(location, needs_fsync=False))


@pytest.mark.parametrize("options", ["ENCODING 'UTF8' LOCALE 'C.UTF-8'", "ENCODING 'SQL_ASCII' LOCALE 'C'"])
def test_a_database_that_sorts_or_stores_otherwise_is_refused(options: str) -> None:
    location = cluster().create("template0", options)
    if "C.UTF-8" in options:
        open_and_close(location)
        return
    with pytest.raises(StorageError, match="LOCALE 'C'"):
        open_and_close(location)


@pytest.mark.parametrize("change", [{"name": "absent"}, {"user": "nobody"}, {"host": "/nowhere"}])
def test_what_is_not_there_is_unavailable(database: PostgresLocation, change: dict[str, str]) -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot open the database"):
        open_and_close(msgspec.structs.replace(database, **change))


def test_a_password_is_read_from_its_file_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_text("pass-word-of-the-test\n")
    backend = PostgresBackend(PostgresLocation(host="h", name="n", user="u", password_file=str(file)), "s")
    assert backend._password() == "pass-word-of-the-test"
    assert "pass-word" not in repr(backend._location) + str(backend._location)
    monkeypatch.setenv("PGPASSWORD", "of-the-environment")
    assert PostgresBackend(PostgresLocation(host="h", name="n", user="u"), "s")._password() == ""
    file.unlink()
    with pytest.raises(StorageError, match="password file"):
        backend._password()


@pytest.mark.slow
def test_the_server_asks_for_the_password_of_the_file(
    server: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password is read for each connection, so a new one is used without a restart.

    The environment's is not tried.
    """
    file = tmp_path / "password"
    rules = server.folder / "hba"
    rules.write_text(f"local all {ROLE} trust\nlocal all all scram-sha-256\n")
    server.stop()
    server.start(hba_file=str(rules))
    server.administer("CREATE ROLE guarded LOGIN PASSWORD 'the first one'")
    location = msgspec.structs.replace(server.location("postgres"), user="guarded", password_file=str(file))
    file.write_text("the first one\n")
    open_and_close(location)
    server.administer("ALTER ROLE guarded PASSWORD 'the second one'")
    monkeypatch.setenv("PGPASSWORD", "the second one")
    for wrong in (location, msgspec.structs.replace(location, password_file="")):
        with pytest.raises(DatabaseUnavailable, match="password") as caught:
            open_and_close(wrong)
        assert "the first one" not in str(caught.value)
    file.write_text("the second one\n")
    open_and_close(location)


def test_closing_waits_for_those_that_have_begun(database: PostgresLocation) -> None:
    async def test() -> None:
        begun, go = asyncio.Event(), asyncio.Event()

        async def write() -> None:
            async with ENGINE.transaction():
                begun.set()
                await go.wait()
                await add("w1")

        writing = asyncio.create_task(write())
        await begun.wait()
        closing = asyncio.create_task(ENGINE.close())
        await until("the beginning of the end", lambda: not ENGINE._is_open)
        with pytest.raises(StorageNotOpen):
            await count()
        go.set()
        await writing
        await closing
        ENGINE.configure(database)
        await ENGINE.open()
        assert await ids() == ["w1"]

    on(database, test())


def test_a_statement_is_prepared_once(database: PostgresLocation) -> None:
    """On a connection that was given back: no reset of the session removes its prepared statements."""
    prepared = Statement("SELECT COUNT(*) AS n FROM pg_prepared_statements WHERE statement LIKE {pattern}")

    async def test() -> None:
        for i in range(100):
            await add(f"w{i}")
        assert await number(prepared, pattern="INSERT INTO widget%") == 1
        assert await number(BACKENDS) == 1

    on(database, test())


def test_transactions_that_wait_for_a_hanging_peer_leave_connections_to_others(database: PostgresLocation) -> None:
    """A peer holds keys and does not end. More transactions want them than there are connections."""
    peer = ServiceEngine(ENGINE.service)
    keys = [f"k{number}" for number in range(8)]

    async def want(key: str) -> None:
        with waits_of_request(20):
            async with ENGINE.transaction(key):
                await add(f"{key} {len(done)}")
        done.append(key)

    done: list[str] = []

    async def test() -> None:
        peer.configure(database)
        await peer.open()
        async with peer.transaction(*keys):
            waiting = [apart(want(key)) for key in keys for _ in range(2)]
            for number in range(20):
                async with asyncio.timeout(2):
                    await apart(want(f"free {number}"))
            assert len(done) == 20
        await asyncio.gather(*waiting)
        assert len(done) == 20 + 2 * len(keys)
        await peer.close()

    on(msgspec.structs.replace(database, pool=4), test())


def test_readers_of_a_key_share_it_and_exclude_its_writer(database: PostgresLocation) -> None:
    other = ServiceEngine(ENGINE.service)

    async def test() -> None:
        other.configure(database)
        await other.open()
        async with ENGINE.transaction("a", reads=("t",)):
            async with asyncio.timeout(2), other.transaction("b", reads=("t",)):
                pass
            with pytest.raises(DatabaseBusy, match="hold the same data"):
                async with other.transaction("t", patience=0.15):
                    raise AssertionError
        async with ENGINE.transaction("t"):
            with waits_of_request(0.15), pytest.raises(DatabaseBusy, match="hold the same data"):
                async with other.transaction(reads=("t",)):
                    raise AssertionError
        await other.close()

    on(database, test())
