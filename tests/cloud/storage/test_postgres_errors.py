"""What a real PostgreSQL server says about its disk becomes an error of the port, and the connection works afterwards."""

import socket

import pytest

from cloud.storage import DatabaseUnavailable, PostgresLocation, Statement, StorageError
from cloud.storage.errors import DatabaseNotWritable, DiskFull, OutcomeUnknown
from cloud.storage.postgres_errors import fault
from lab.postgres import postgres_database
from tests.cloud.storage_sample.support import ENGINE, SERVICE, add, ids, on

pytestmark = pytest.mark.slow


@pytest.fixture
def database() -> PostgresLocation:
    return postgres_database(SERVICE)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("53100", DiskFull),
        ("53200", DatabaseNotWritable),
        ("58030", DatabaseNotWritable),
        ("25006", DatabaseNotWritable),
        ("57P03", DatabaseUnavailable),
    ],
)
def test_a_server_that_stores_nothing_says_so_and_recovers(
    database: PostgresLocation, code: str, kind: type[StorageError]
) -> None:
    """A real server raises the code, in a statement by itself and inside a transaction."""
    raising = Statement(f"DO $$ BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '{code}'; END $$")

    async def test() -> None:
        with pytest.raises(kind) as caught:
            await ENGINE.fetch(raising)
        assert not isinstance(caught.value, OutcomeUnknown) or code == "57P03"
        with pytest.raises(kind):
            async with ENGINE.transaction():
                await add("lost")
                await ENGINE.fetch(raising)
        await add("fine")
        assert await ids() == ["fine"]

    on(database, test())


def test_a_read_only_server_and_a_full_disk_for_temporary_files(database: PostgresLocation) -> None:
    async def test() -> None:
        with pytest.raises(DatabaseNotWritable):
            async with ENGINE.transaction():
                await ENGINE.fetch(Statement("SET TRANSACTION READ ONLY"))
                await add("lost")
        with pytest.raises(DatabaseNotWritable):
            async with ENGINE.transaction():
                await ENGINE.fetch(Statement("SET LOCAL work_mem = '64kB'"))
                await ENGINE.fetch(Statement("SET LOCAL temp_file_limit = '64kB'"))
                await ENGINE.fetch(Statement("SELECT n FROM generate_series(1, 100000) AS n ORDER BY -n"))
        await add("fine")
        assert await ids() == ["fine"]

    on(database, test())


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('192.0.2.1', 5432)"), "Connection refused"),
        (TimeoutError(), "no answer in time"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (OSError("Multiple exceptions: one, two"), "Multiple exceptions: one, two"),
    ],
)
def test_a_server_that_cannot_be_reached_is_described_in_words(error: OSError, cause: str) -> None:
    found = fault(error)
    assert type(found) is DatabaseUnavailable
    assert str(found) == f"the database is not available: {cause}"
