"""`cloud.fabric.peer_records`: a closed generation and a revoked service are refused at the next request."""

from cloud.fabric.peer_records import PeerRecords
from protocol.ids import TenantId, make_id
from tests.cloud.fabric.support import Machine, World, change


async def test_a_generation_is_admitted_until_it_is_closed(world: World, machine: Machine) -> None:
    records = PeerRecords(is_revoked=bool, nodes=world.stores.nodes)
    assert await records.generation_open(world.tenant, machine.node, 1)
    assert not await records.generation_open(world.tenant, machine.node, 2)
    assert not await records.generation_open(TenantId(make_id("ten", 9, bytes(10))), machine.node, 1)
    await change(world, machine, "revoke")
    assert not await records.generation_open(world.tenant, machine.node, 1)


async def test_a_service_is_admitted_until_its_serial_is_in_the_set(world: World) -> None:
    serials = set[int]()
    records = PeerRecords(is_revoked=serials.__contains__, nodes=world.stores.nodes)
    assert not await records.service_revoked(0xBAD)
    serials.add(0xBAD)
    assert await records.service_revoked(0xBAD)
    assert not await records.service_revoked(0x600D)
