"""`cloud.fabric.tuf.serving`: which file a path names, and when the online roles are signed again."""

from datetime import timedelta

import pytest

from cloud.fabric.tuf.serving import MetadataName, TargetName, file_for, keep_fresh, parse_path
from protocol.signed.trust import TARGET_SERVICES
from tests.simulators.repository import START, MemoryStore, Repository, content

DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/tuf/metadata/timestamp.json", MetadataName(role="timestamp", version=None)),
        ("/tuf/metadata/1.root.json", MetadataName(role="root", version=1)),
        ("/tuf/metadata/1795348800.snapshot.json", MetadataName(role="snapshot", version=1795348800)),
        ("/tuf/metadata/12.targets.json", MetadataName(role="targets", version=12)),
        (f"/tuf/targets/{'a' * 64}.services.json", TargetName(name="services.json", sha256="a" * 64)),
        ("/tuf/metadata/root.json", None),
        ("/tuf/metadata/0.root.json", None),
        ("/tuf/metadata/01.root.json", None),
        ("/tuf/metadata/1.timestamp.json", None),
        ("/tuf/metadata/٣.root.json", None),
        ("/tuf/metadata/1.root.json\n", None),
        ("/tuf/metadata/../metadata/1.root.json", None),
        ("/tuf/metadata/1.delegated.json", None),
        ("/tuf/metadata/" + "9" * 400 + ".root.json", None),
        ("/tuf/targets/services.json", None),
        (f"/tuf/targets/{'A' * 64}.services.json", None),
        (f"/tuf/targets/{'a' * 64}.../secrets.json", None),
        ("/tuf/", None),
        ("", None),
    ],
)
def test_paths_name_files_by_the_rules_of_consistent_snapshots(
    path: str, named: MetadataName | TargetName | None
) -> None:
    assert parse_path(path) == named


async def test_files_are_served_from_the_store_and_older_ones_stay() -> None:
    repository = Repository()
    store = repository.store
    old = repository.latest
    services = repository.target_path(TARGET_SERVICES)
    repository.replace(content(port=9000))
    assert await file_for("/tuf/metadata/timestamp.json", store) == repository.latest.timestamp.data
    assert await file_for("/tuf/metadata/1.targets.json", store) == old.targets.data
    assert await file_for("/tuf/metadata/2.targets.json", store) == repository.latest.targets.data
    assert await file_for("/tuf/metadata/2.root.json", store) is None
    assert b":8440" in (await file_for(services, store) or b"")
    assert b":9000" in (await file_for(repository.target_path(TARGET_SERVICES), store) or b"")
    assert await file_for("/tuf/metadata/timestamp.json", MemoryStore()) is None
    assert await file_for("/etc/passwd", store) is None


async def test_the_loop_publishes_when_it_is_due() -> None:
    repository = Repository()
    assert await keep_fresh(repository.store, START, repository.online) is False
    assert await keep_fresh(repository.store, START + 4 * DAY, repository.online) is True
    assert await keep_fresh(repository.store, START + 4 * DAY, repository.online) is False
    with pytest.raises(LookupError, match="cascade init"):
        await keep_fresh(MemoryStore(), START, repository.online)
