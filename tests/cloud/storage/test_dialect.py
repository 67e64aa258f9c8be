"""`cloud.storage.dialect`: a table that is bound to no engine runs nothing."""

import pytest

from cloud.storage import UNBOUND, StorageError
from tests.cloud.storage_sample.tables import Widget


async def test_a_table_runs_nothing() -> None:
    for query in Widget.select(), Widget.insert(Widget(made_at=None)), Widget.count(), Widget.create_table():
        with pytest.raises(StorageError, match="compile the query"):
            await query.run()
    with pytest.raises(StorageError, match="compile the query"):
        UNBOUND.transaction()
    with pytest.raises(StorageError, match="compile the query"):
        UNBOUND.atomic()
    with pytest.raises(StorageError, match="compile the query"):
        await Widget.select().batch()
    with pytest.raises(StorageError, match="compile the query"):
        UNBOUND.get_version_sync()
    with pytest.raises(StorageError, match="compile the query"):
        await UNBOUND.get_version()
    with pytest.raises(StorageError, match="compile the query"):
        await UNBOUND.prep_database()
