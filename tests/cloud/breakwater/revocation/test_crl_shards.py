"""`cloud.breakwater.revocation.crl_shards`: places are reserved once, and no shard gets too many certificates."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud.breakwater.revocation.crl_shards import (
    PLACES_MAX,
    PLACES_RESERVED,
    Place,
    Places,
    crl_path,
    distribution,
    shard_of_path,
    split_shard,
)
from cloud.breakwater.store.shards import ShardStore
from cloud.storage import Location, ServiceEngine, Statement
from lab.postgres import database_location
from tests.cloud.engines import ENGINES

BASE_URL = "http://pki.cascade.test"
_RESERVED = Statement("SELECT id, reserved FROM shard ORDER BY authority, number LIMIT 100")


@pytest.fixture(params=ENGINES)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return database_location(request.param, "breakwater", tmp_path)


@pytest.fixture
async def engine(location: Location) -> AsyncIterator[ServiceEngine]:
    made = ServiceEngine("breakwater")
    made.configure(location)
    await made.open()
    yield made
    await made.close()


async def reserved(engine: ServiceEngine) -> dict[str, int]:
    return {row["id"]: row["reserved"] for row in await engine.fetch(_RESERVED)}


async def test_one_write_reserves_many_places(engine: ServiceEngine) -> None:
    places = Places(ShardStore(engine), BASE_URL)
    taken = {(await places.take("nodes-1")).shard for _ in range(PLACES_RESERVED)}
    assert taken == {"nodes-1.1"}
    assert await reserved(engine) == {"nodes-1.1": PLACES_RESERVED}
    await places.take("nodes-1")
    assert await reserved(engine) == {"nodes-1.1": 2 * PLACES_RESERVED}


async def test_authorities_share_no_shard(engine: ServiceEngine) -> None:
    places = Places(ShardStore(engine), BASE_URL)
    assert await places.take("nodes-1") == Place("nodes-1.1", distribution(BASE_URL, "nodes-1", "nodes-1.1"))
    assert (await places.take("nodes-2")).shard == "nodes-2.1"
    assert (await places.take("services-1")).shard == "services-1.1"


async def test_a_restart_loses_places_and_never_gives_one_twice(engine: ServiceEngine) -> None:
    given: Counter[str] = Counter()
    for _ in range(5):
        places = Places(ShardStore(engine), BASE_URL, reserved=4, places_max=12)
        given[(await places.take("nodes-1")).shard] += 1
    assert await reserved(engine) == {"nodes-1.1": 12, "nodes-1.2": 8}
    assert given == {"nodes-1.1": 3, "nodes-1.2": 2}


async def test_replicas_that_race_overfill_nothing(engine: ServiceEngine) -> None:
    replicas = [Places(ShardStore(engine), BASE_URL, reserved=3, places_max=9) for _ in range(4)]
    taken = await asyncio.gather(*(replica.take("nodes-1") for replica in replicas for _ in range(10)))
    given = Counter(place.shard for place in taken)
    found = await reserved(engine)
    assert max(given.values()) <= 9
    assert all(given[shard] <= count <= 9 for shard, count in found.items())


def test_the_bounds() -> None:
    assert PLACES_MAX == 5000
    assert PLACES_MAX % PLACES_RESERVED == 0


def test_paths_and_ids() -> None:
    assert crl_path("nodes-2.17") == "/crl/nodes-2/17.crl"
    assert shard_of_path("nodes-2", "17.crl") == "nodes-2.17"
    assert split_shard("services-1.3") == ("services-1", 3)


@pytest.mark.parametrize(
    ("authority", "file"),
    [
        ("nodes-1", "1"),
        ("nodes-1", "01.crl"),
        ("nodes-1", "0.crl"),
        ("nodes-1", "1.crl.crl"),
        ("people-1", "1.crl"),
        ("nodes-1", "-1.crl"),
        ("nodes-1", "1.CRL"),
        ("nodes-01", "1.crl"),
        ("", ".crl"),
        ("nodes-1", "9" * 30 + ".crl"),
    ],
)
def test_invalid_crl_paths_are_refused(authority: str, file: str) -> None:
    with pytest.raises(ValueError, match="not the path"):
        shard_of_path(authority, file)
