"""`cloud.fabric.store.repository`: files of the TUF repository are only added."""

import pytest

from cloud.fabric.store import Stores
from cloud.fabric.tuf.repository import MetadataFile, Publication, TargetContent
from cloud.storage import IntegrityError

SERVICES = TargetContent(name="services.json", sha256="a" * 64, data=b"{}")


def root(version: int) -> MetadataFile:
    return MetadataFile(role="root", version=version, data=f"root {version}".encode())


async def test_an_empty_repository_has_no_version(stores: Stores) -> None:
    assert await stores.repository.newest("targets") == 0
    assert await stores.repository.latest("targets") is None
    assert await stores.repository.metadata("targets", 1) is None
    assert await stores.repository.target("services.json", "a" * 64) is None


async def test_the_highest_version_is_the_latest(stores: Stores) -> None:
    for version in (9, 10):
        await stores.repository.publish(Publication(metadata=(root(version),), targets=(SERVICES,)))
    assert await stores.repository.newest("root") == 10
    assert await stores.repository.latest("root") == root(10)
    assert await stores.repository.metadata("root", 9) == b"root 9"
    assert await stores.repository.target("services.json", "a" * 64) == b"{}"
    assert await stores.repository.target("services.json", "b" * 64) is None


async def test_a_stored_version_is_not_replaced_and_its_publication_is_rolled_back(stores: Stores) -> None:
    await stores.repository.publish(Publication(metadata=(root(1),), targets=()))
    with pytest.raises(IntegrityError):
        await stores.repository.publish(Publication(metadata=(root(2), root(1)), targets=(SERVICES,)))
    assert await stores.repository.newest("root") == 1
    assert await stores.repository.target("services.json", "a" * 64) is None
