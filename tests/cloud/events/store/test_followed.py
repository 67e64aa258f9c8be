"""`cloud.events.store.followed`: the cursor of a producer, and the newest event of each of its objects."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud.events.cursor import Cursor, CursorError
from cloud.events.store.followed import ABSENT_MAX, FollowedStore
from cloud.storage import Location, ServiceEngine
from lab.postgres import database_location
from tests.cloud.engines import ENGINES
from tests.cloud.events.support import opened


@pytest.fixture(params=ENGINES)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return database_location(request.param, "breakwater", tmp_path)


@pytest.fixture
async def engine(location: Location) -> AsyncIterator[ServiceEngine]:
    async with opened(location) as made:
        yield made


async def test_the_cursor_of_each_producer(engine: ServiceEngine) -> None:
    one, other = FollowedStore(engine, "breakwater"), FollowedStore(engine, "ledger")
    assert await one.cursor() is None
    for cursor in (Cursor("breakwater", 1, 5), Cursor("breakwater", 2, 3)):
        await one.set_cursor(cursor)
        assert await one.cursor() == cursor
    assert await other.cursor() is None
    await other.set_cursor(Cursor("breakwater", 2, 3))
    with pytest.raises(CursorError, match="cursor of breakwater"):
        await other.cursor()


async def test_only_a_later_event_of_an_object_is_new(engine: ServiceEngine) -> None:
    store = FollowedStore(engine, "breakwater")
    steps = [((1, 2), True), ((1, 2), False), ((1, 1), False), ((1, 3), True), ((2, 1), True), ((1, 9), False)]
    assert [await store.is_new("thing/a", *number) for number, _ in steps] == [wanted for _, wanted in steps]
    assert await store.is_new("thing/b", 1, 1)
    assert await FollowedStore(engine, "ledger").is_new("thing/a", 1, 1)


async def test_objects_of_older_epochs_are_told_some_at_a_time(engine: ServiceEngine) -> None:
    store = FollowedStore(engine, "breakwater")
    async with engine.transaction("a"):
        for number in range(ABSENT_MAX + 1):
            await store.is_new(f"thing/{number:04}", 1, 1)
        for subject in ("thing/new", "things/a", "thin/a"):
            await store.is_new(subject, 2 if subject == "thing/new" else 1, 1)
        await FollowedStore(engine, "ledger").is_new("thing/a", 1, 1)
    first = await store.older("thing", 2)
    assert first == [f"thing/{number:04}" for number in range(ABSENT_MAX)]
    assert [await store.forget(subject) for subject in (first[0], first[0])] == [True, False]
    for subject in first[1:]:
        await store.forget(subject)
    assert await store.older("thing", 2) == [f"thing/{ABSENT_MAX:04}"]
