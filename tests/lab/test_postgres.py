"""`lab.postgres`: one fill a template, databases lent in turn, and a server that ends with its owner."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from cloud.storage import PostgresLocation
from lab.postgres import Cluster, binaries, database_location, located
from lab.processes import wait_until

OWNER = """
import time
from lab.postgres import cluster
print(cluster().folder, cluster()._process.pid, flush=True)
time.sleep(60)
"""


def test_a_file_is_a_migrated_database_of_its_service(tmp_path: Path) -> None:
    location = database_location("sqlite", "fabric", tmp_path)
    assert location == tmp_path / "fabric.sqlite"
    assert located(tmp_path, "fabric") == location
    assert location.read_bytes().startswith(b"SQLite format 3")


def run(location: PostgresLocation, *statements: str) -> list[tuple[object, ...]]:
    """The rows of the last statement."""

    async def work() -> list[tuple[object, ...]]:
        connection = await asyncpg.connect(host=location.host, user=location.user, database=location.name)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return [tuple(row) for row in await connection.fetch(statements[-1])]
        finally:
            await connection.close()

    return asyncio.run(work())


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    """A server whose databases only the tests of this module borrow. Each test has templates of its own."""
    made = Cluster()
    yield made
    made.remove()


def fill(location: PostgresLocation) -> None:
    """Two tables; one has a row."""
    run(
        location,
        "CREATE TABLE item (id serial PRIMARY KEY, name text DEFAULT 'none', made timestamptz, data bytea)",
        "CREATE TABLE empty (id text PRIMARY KEY)",
        "INSERT INTO item VALUES (7, '$rows$ ''a''', '2026-11-29 10:00:00.123456+02', '\\x00ff')",
        "SELECT 1",
    )


@pytest.mark.slow
def test_a_template_is_filled_once_and_no_database_is_lent_twice(server: Cluster) -> None:
    filled: list[str] = []
    first, second = (server.copy_of("once", lambda location: filled.append(location.name)) for _ in range(2))
    other = server.copy_of("other", lambda location: filled.append(location.name))
    assert len({*filled, first.name, second.name, other.name}) == 5
    server.give_back()
    again = [server.copy_of("once", fill) for _ in range(3)]
    assert {location.name for location in again[:2]} == {first.name, second.name}
    assert again[2].name not in {first.name, second.name, other.name}


@pytest.mark.slow
def test_a_database_that_is_lent_again_equals_its_template(server: Cluster) -> None:
    rows = "SELECT id, name, made, data FROM item ORDER BY id"
    lent = server.copy_of("equal", fill)
    before = run(lent, rows)
    assert [row[0] for row in before] == [7]
    used = run(
        lent,
        "INSERT INTO empty VALUES ('left behind')",
        "UPDATE item SET name = 'changed'",
        "INSERT INTO item (name) VALUES ('more')",
        rows,
    )
    assert [row[:2] for row in used] == [(1, "more"), (7, "changed")]
    server.give_back()
    assert server.copy_of("equal", fill) == lent
    assert run(lent, rows) == before
    assert run(lent, "SELECT count(*) FROM empty") == [(0,)]
    assert run(lent, "INSERT INTO item (name) VALUES ('next') RETURNING id") == [(1,)]


@pytest.mark.slow
def test_connections_of_the_previous_borrower_are_ended(server: Cluster) -> None:
    """A transaction left open would otherwise hold its locks and could still commit."""
    lent = server.copy_of("ended", fill)

    async def leave_open() -> None:
        connection = await asyncpg.connect(host=lent.host, user=lent.user, database=lent.name)
        await connection.execute("BEGIN; INSERT INTO empty VALUES ('left behind')")
        server.give_back()
        assert await asyncio.to_thread(server.copy_of, "ended", fill) == lent
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await connection.execute("COMMIT")
        connection.terminate()

    asyncio.run(leave_open())
    assert run(lent, "SELECT count(*) FROM empty") == [(0,)]


@pytest.mark.slow
def test_a_database_whose_tables_were_changed_is_not_lent_again(server: Cluster) -> None:
    lent = server.copy_of("changed", fill)
    reset = server._templates["changed"].reset
    for change in (
        "CREATE TABLE more (id text)",
        "ALTER TABLE item ADD more text",
        "ALTER TABLE item ALTER name SET DEFAULT 'another'",
        "CREATE INDEX more ON item (name)",
    ):
        with pytest.raises(asyncpg.RaiseError, match="the tables have changed"):
            run(lent, "BEGIN", change, reset)  # the end of the connection undoes the change
    run(lent, "DROP TABLE empty")
    server.give_back()
    assert server.copy_of("changed", fill) != lent
    found = f"SELECT 1 FROM pg_database WHERE datname = '{lent.name}'"  # noqa: S608  a name that this server made
    assert run(server.location("postgres"), found) == []


@pytest.mark.slow
def test_a_server_can_be_stopped_and_started_with_other_settings() -> None:
    server = Cluster()
    try:
        server.stop()
        server.start(max_connections="7")
        done = subprocess.run(
            [binaries() / "psql", "-h", server.folder, "-U", "cascade", "-Atc", "SHOW max_connections", "postgres"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == "7\n"
    finally:
        server.remove()
    assert not server.folder.exists()


@pytest.mark.slow
def test_nothing_is_left_when_the_owner_is_killed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        folder, pid = owner.stdout.readline().split()
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    wait_until("the end of its files", lambda: not Path(folder).exists())

    def gone() -> bool:
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    wait_until("the end of the server", gone)
