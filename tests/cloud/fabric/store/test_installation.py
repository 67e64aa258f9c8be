"""`cloud.fabric.store.installation`: server secrets, the renewal order, and the ends of sessions."""

from cloud.fabric.store import Stores
from cloud.fabric.store.installation import REBUILD_LIFE, RunningRebuild, sessions_until
from cloud.fabric.tuf.current_trust import RenewalOrder
from tests.cloud.fabric.store.support import HOUR, NOW


async def test_values_are_read_by_name(stores: Stores) -> None:
    await stores.installation.insert("epoch", b"1")
    assert await stores.installation.read_all() == {"epoch": b"1"}


async def test_an_order_is_replaced_and_advanced_by_compare_and_set(stores: Stores) -> None:
    assert await stores.installation.renewal_order() is None
    order = RenewalOrder(after=NOW, reason="é", set_at=NOW, starts_at=NOW, spread_seconds=1, nodes=2)
    other = RenewalOrder(after=NOW, reason="other", set_at=NOW, starts_at=NOW, spread_seconds=1, nodes=2)
    await stores.installation.set_renewal_order(other)
    await stores.installation.set_renewal_order(order)
    assert await stores.installation.renewal_order() == order
    assert not await stores.installation.advance_renewal_order(other, order)
    assert await stores.installation.advance_renewal_order(order, other)
    assert await stores.installation.renewal_order() == other


async def test_the_end_of_an_issuers_sessions_only_moves_forward(stores: Stores) -> None:
    for hours in (2, 1, 3, 0):
        await stores.installation.raise_sessions_until("aa", NOW + hours * HOUR)
    await stores.installation.raise_sessions_until("bb", NOW)
    kept = sessions_until(await stores.installation.read_all())
    assert kept == {"aa": NOW + 3 * HOUR, "bb": NOW}


async def test_the_last_comparison_with_breakwater_is_stored(stores: Stores) -> None:
    assert await stores.installation.reconciled() == (1, 0)
    for reconciled in ((2, 0), (2, 1), (12, 3)):
        await stores.installation.set_reconciled(*reconciled)
        assert await stores.installation.reconciled() == reconciled


async def test_a_rebuild_runs_until_it_is_ended(stores: Stores) -> None:
    assert await stores.installation.rebuild() is None
    assert not await stores.installation.end_rebuild()
    rebuild = RunningRebuild(NOW, NOW + HOUR)
    await stores.installation.set_rebuild(rebuild)
    assert await stores.installation.rebuild() == rebuild
    assert await stores.installation.end_rebuild()
    assert await stores.installation.rebuild() is None
    # An earlier release stored the begin only.
    await stores.installation.insert("rebuild", NOW.isoformat().encode())
    assert await stores.installation.rebuild() == RunningRebuild(NOW, NOW + REBUILD_LIFE)
