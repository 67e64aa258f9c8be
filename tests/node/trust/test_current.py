"""The trust in use: every part sees a refresh, and one refresh runs at a time."""

from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from node.clock import utc_now
from node.errors import DiskFull, StateDamaged
from node.trust.current import CurrentTrust
from node.trust.errors import TrustUnreachable
from node.trust.published import TrustNotStored, TrustSet
from tests.node.shells import VERSION, Refreshes, publish_trust, trust_of
from tests.simulators.fabric import Fabric


@pytest.fixture
def trust(tmp_path: Path, fabric: Fabric) -> CurrentTrust:
    return CurrentTrust(tmp_path, trust_of(fabric), utc_now)


def test_it_starts_with_the_stored_trust(tmp_path: Path) -> None:
    fabric = Fabric()
    with pytest.raises(StateDamaged):
        CurrentTrust.load(tmp_path, utc_now)
    publish_trust(tmp_path, fabric)
    assert CurrentTrust.load(tmp_path, utc_now).value.bundle == fabric.bundle


async def test_a_refresh_replaces_the_value(trust: CurrentTrust, refreshes: Refreshes) -> None:
    before = trust.value
    await trust.refresh()
    assert (trust.value.version, before.version, refreshes.asked) == (VERSION + 1, VERSION, 1)


async def test_a_repository_out_of_reach_leaves_the_value(trust: CurrentTrust, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refresh(_: Path, **_held: object) -> TrustSet:
        raise TrustUnreachable("cannot fetch the published trust")

    monkeypatch.setattr("node.trust.published.refresh", refresh)
    before = trust.value
    with pytest.raises(TrustUnreachable):
        await trust.refresh()
    assert trust.value is before


async def test_a_trust_that_the_disk_refuses_is_used_from_memory(
    trust: CurrentTrust, refreshes: Refreshes, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = refreshes.make()

    async def refresh(_: Path, **_held: object) -> TrustSet:
        raise TrustNotStored(newer, DiskFull(Path("trust")))

    monkeypatch.setattr("node.trust.published.refresh", refresh)
    with pytest.raises(TrustNotStored, match="no space is left"):
        await trust.refresh()
    assert trust.value is newer


async def test_an_older_trust_does_not_replace_a_newer_one(trust: CurrentTrust, refreshes: Refreshes) -> None:
    """The disk has an older trust than the memory, and the repository has the older one again."""
    await trust.refresh()
    before = trust.value
    refreshes.make = lambda: msgspec.structs.replace(before, version=VERSION)
    await trust.refresh()
    assert trust.value is before


async def test_the_trust_is_refreshed_by_one_at_a_time(
    trust: CurrentTrust, refreshes: Refreshes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two refreshes overlap. The slower one must not replace the newer trust by the older one."""
    gates = [trio.Event(), trio.Event()]
    finish = iter(gates)
    refresh = refreshes.refresh

    async def slow(path: Path, **_held: object) -> TrustSet:
        await next(finish).wait()
        return msgspec.structs.replace(await refresh(path), version=VERSION + refreshes.asked)

    monkeypatch.setattr("node.trust.published.refresh", slow)
    async with trio.open_nursery() as nursery:
        for _ in gates:
            nursery.start_soon(trust.refresh)
        await trio.testing.wait_all_tasks_blocked()
        gates[1].set()
        await trio.testing.wait_all_tasks_blocked()
        assert refreshes.asked == 0
        gates[0].set()
    assert trust.value.version == VERSION + 2
