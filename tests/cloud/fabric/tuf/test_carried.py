"""`cloud.fabric.tuf.carried`: the files that a node without a network lacks, and an update that reads nothing else."""

from datetime import timedelta

import pytest
from tuf.api.metadata import Metadata, Targets

from cloud.fabric.tuf.carried import CarriedError, HeldTrust, files_for
from cloud.fabric.tuf.repository import ROOT_LIFE, Publication, pin_of, sign_root
from cloud.fabric.tuf.serving import file_for
from protocol.limits import TRUST_ROOT_ROTATIONS_MAX
from protocol.messages.activation import TrustPin
from protocol.signed.trust import TARGETS
from tests.simulators.repository import START, MemoryStore, Repository


async def with_roots(repository: Repository, newest: int) -> None:
    """Publish roots up to the version `newest`."""
    store = repository.store
    for version in range(2, newest + 1):
        current = store.files["root", version - 1]
        made = sign_root(START + ROOT_LIFE + timedelta(days=version), current, repository.root)
        await store.publish(Publication(metadata=(made,)))


def kinds(files: dict[str, str]) -> list[str]:
    """The files without numbers and hashes."""
    return sorted(path.rpartition("/")[2].partition(".")[2].removesuffix(".json") for path in files)


async def test_a_new_node_gets_everything_from_its_pin_on() -> None:
    repository = Repository()
    await with_roots(repository, 3)
    pin = pin_of(repository.store.files["root", 2])
    files = await files_for(HeldTrust(root=0, targets=0, pin=pin), repository.store)
    assert [path for path in files if path.endswith("root.json")] == ["metadata/2.root.json", "metadata/3.root.json"]
    assert kinds(files) == sorted(["json", "root", "root", "snapshot", "targets", *(n[:-5] for n in TARGETS)])
    for path, content in files.items():
        assert await file_for(f"/tuf/{path}", repository.store) == content.encode()


async def test_a_node_gets_the_roots_that_it_slept_through() -> None:
    repository = Repository()
    await with_roots(repository, 5)
    files = await files_for(HeldTrust(root=2, targets=1, pin=repository.pin), repository.store)
    assert [path for path in files if path.endswith("root.json")] == [f"metadata/{n}.root.json" for n in (3, 4, 5)]
    assert "metadata/timestamp.json" in files


async def test_a_node_with_the_current_trust_gets_nothing() -> None:
    repository = Repository()
    targets = await repository.store.latest("targets")
    assert targets is not None
    held = HeldTrust(root=1, targets=targets.version, pin=repository.pin)
    assert await files_for(held, repository.store) == {}
    older = HeldTrust(root=1, targets=targets.version - 1, pin=repository.pin)
    files = await files_for(older, repository.store)
    assert not [path for path in files if path.endswith("root.json")]
    names = Metadata[Targets].from_bytes(targets.data).signed.targets
    assert len(files) == 3 + len(names)


async def test_a_request_for_another_installation_is_refused() -> None:
    for pin in (TrustPin(1, "0" * 64), TrustPin(9, Repository().pin.sha256)):
        with pytest.raises(CarriedError, match="of another installation"):
            await files_for(HeldTrust(root=0, targets=0, pin=pin), Repository().store)


async def test_more_roots_than_a_node_reads_are_refused() -> None:
    repository = Repository()
    await with_roots(repository, TRUST_ROOT_ROTATIONS_MAX + 2)
    assert await files_for(HeldTrust(root=2, targets=1, pin=None), repository.store)
    with pytest.raises(CarriedError, match="reads at most 64 roots"):
        await files_for(HeldTrust(root=1, targets=1, pin=None), repository.store)


async def test_an_empty_repository_is_a_fault() -> None:
    with pytest.raises(LookupError):
        await files_for(HeldTrust(root=1, targets=1, pin=None), MemoryStore())
