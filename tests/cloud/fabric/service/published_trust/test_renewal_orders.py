"""`cloud.fabric.service.published_trust.renewal_orders`: an order reaches every lease, at the pace of the order."""

from datetime import timedelta

import msgspec
import pytest

from cloud.fabric import schemas
from cloud.fabric.errors import Invalid
from protocol.signed.statements import Lease
from tests.cloud.fabric.fleets import fleet, session
from tests.cloud.fabric.support import ALICE, World, change

pytestmark = pytest.mark.slow


DAY = timedelta(days=1)


async def order(world: World, **body: object) -> schemas.RenewalOrder:
    return await world.parts.trust.renewal_orders.give(ALICE, schemas.RenewDevices(**body))  # type: ignore[arg-type]


async def test_an_order_to_renew_reaches_every_lease(world: World) -> None:
    one, two = await fleet(world, 2)
    peers = {machine.node: await session(machine) for machine in (one, two)}
    before = await one.refresh(peers[one.node])
    world.clock.forward(timedelta(minutes=1))
    made = await order(world, reason="the key is to be changed")
    assert (made.nodes, made.woken, made.spread_seconds, made.done) == (2, 0, 0, False)
    assert made.after == world.clock()
    cursors = {machine.node: (await world.node(machine.node)).wake_cursor for machine in (one, two)}
    assert await one.refresh(peers[one.node]) == before, "leases carry the order only when every replica knows it"
    world.clock.forward(timedelta(seconds=5))
    await world.follower.run_once()
    for machine in (one, two):
        assert (await world.node(machine.node)).wake_cursor == cursors[machine.node] + 1
        lease = await machine.refresh(peers[machine.node])
        assert isinstance(lease, Lease)
        assert lease.renew_device_after == made.after
        assert await machine.refresh(peers[machine.node]) == lease, "the lease is signed once"
    await world.follower.run_once()
    shown = await world.parts.trust.adoption.show()
    assert shown.renewal is not None
    assert (shown.renewal.woken, shown.renewal.done) == (2, True)
    assert await world.actions("renew_devices") == ["trust.renew_devices"]


async def test_waking_is_spread_and_survives_a_restart(world: World) -> None:
    machines = await fleet(world, 4)
    cursors = {machine.node: (await world.node(machine.node)).wake_cursor for machine in machines}
    await order(world, spread_seconds=40, after=world.clock() + DAY)
    world.clock.forward(DAY + timedelta(seconds=5))
    woken: list[int] = []
    for _ in range(6):
        woken.append(await world.parts.trust.renewal_orders.wake_due())
        world.parts.current_trust.order = None  # In its state after a restart.
        await world.follower.update()
        world.clock.forward(timedelta(seconds=10))
    assert woken == [0, 1, 1, 1, 1, 0]
    assert world.parts.current_trust.order is not None
    assert world.parts.current_trust.order.done
    for node, cursor in cursors.items():
        assert (await world.node(node)).wake_cursor == cursor + 1


async def test_a_lease_is_signed_again_only_when_the_turn_of_its_node_has_come(world: World) -> None:
    """Every node asks at each heartbeat. Without turns the order would reach a whole fleet within ten minutes."""
    machines = sorted(await fleet(world, 3), key=lambda machine: machine.node)
    peers = [await session(machine) for machine in machines]
    before = [await machine.refresh(peer) for machine, peer in zip(machines, peers, strict=True)]
    made = await order(world, spread_seconds=30)
    after, changed = before, []
    world.clock.forward(timedelta(seconds=5))
    for _ in range(4):
        await world.parts.trust.renewal_orders.wake_due()
        after = [await machine.refresh(peer) for machine, peer in zip(machines, peers, strict=True)]
        changed.append([one != other for one, other in zip(before, after, strict=True)])
        world.clock.forward(timedelta(seconds=10))
    assert changed == [[False] * 3, [True, False, False], [True, True, False], [True] * 3]
    assert all(isinstance(lease, Lease) and lease.renew_device_after == made.after for lease in after)


async def test_an_order_for_a_later_time_starts_then(world: World) -> None:
    """If leases carried the order before, the whole fleet would renew in the first heartbeat after that time."""
    (machine,) = await fleet(world, 1)
    made = await order(world, after=world.clock() + DAY)
    world.clock.forward(DAY)
    assert await world.parts.trust.renewal_orders.wake_due() == 0
    lease = await machine.refresh(await session(machine))
    assert isinstance(lease, Lease)
    assert lease.issued_at == world.clock()
    assert lease.renew_device_after is msgspec.UNSET
    world.clock.forward(timedelta(seconds=5))
    assert await world.parts.trust.renewal_orders.wake_due() == 1
    lease = await machine.refresh(await session(machine))
    assert isinstance(lease, Lease)
    assert lease.renew_device_after == made.after


async def test_a_clock_that_goes_back_wakes_no_node(world: World) -> None:
    await fleet(world, 3)
    await order(world, spread_seconds=30)
    world.clock.forward(timedelta(seconds=25))
    assert await world.parts.trust.renewal_orders.wake_due() == 2
    world.clock.forward(timedelta(seconds=-15))
    assert await world.parts.trust.renewal_orders.wake_due() == 0
    assert world.parts.current_trust.order is not None
    assert (world.parts.current_trust.order.woken, world.parts.current_trust.order.done) == (2, False)


async def test_of_two_replicas_one_wakes(world: World) -> None:
    (machine,) = await fleet(world, 1)
    await order(world)
    world.clock.forward(timedelta(seconds=5))
    held = world.parts.current_trust.order
    cursor = (await world.node(machine.node)).wake_cursor
    assert await world.parts.trust.renewal_orders.wake_due() == 1
    world.parts.current_trust.order = held  # The follower of the other replica has not run yet.
    await world.follower._try("wake", world.parts.trust.renewal_orders.wake_due)
    assert (await world.node(machine.node)).wake_cursor == cursor + 1


async def test_a_suspended_node_is_left_asleep(world: World) -> None:
    (machine,) = await fleet(world, 1)
    await change(world, machine, "suspend", "unpaid")
    peer = await session(machine)
    before = await machine.refresh(peer)
    await order(world)
    world.clock.forward(timedelta(seconds=5))
    assert await world.parts.trust.renewal_orders.wake_due() == 0
    assert await machine.refresh(peer) == before
    await change(world, machine, "resume")
    lease = await machine.refresh(peer)
    assert isinstance(lease, Lease)
    assert lease.renew_device_after == world.clock() - timedelta(seconds=5)


@pytest.mark.parametrize("body", [{"spread_seconds": -1}, {"spread_seconds": 10**9}, {"reason": "x" * 300}])
async def test_an_invalid_order_is_refused(world: World, body: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        await order(world, **body)
    assert await world.stores.installation.renewal_order() is None
