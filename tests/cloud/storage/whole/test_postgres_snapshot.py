"""What a snapshot of PostgreSQL has alone: faults of the server are errors of the port. See also test_snapshot.py."""

import pytest

from cloud.storage import DatabaseUnavailable, PostgresLocation
from cloud.storage.whole.postgres_snapshot import postgres_snapshot


async def test_a_server_that_is_away(tmp_path_factory: pytest.TempPathFactory) -> None:
    nowhere = PostgresLocation(host=str(tmp_path_factory.mktemp("nowhere")), name="n", user="u")
    with pytest.raises(DatabaseUnavailable):
        async with postgres_snapshot(nowhere):
            raise AssertionError("there is no server")
