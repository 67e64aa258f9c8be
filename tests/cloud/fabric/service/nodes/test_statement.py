"""`cloud.fabric.service.nodes.statement`: refreshes with real rows."""

from datetime import datetime, timedelta

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.fabric import schemas
from cloud.fabric.errors import Invalid
from protocol.encoding import sha256_hex
from protocol.endorsement import name_of
from protocol.evidence import NvCounter
from protocol.signed.statements import Entitlement, HardwareFloor, Intervals, Lease
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.support import Machine, World


async def test_a_refresh_writes_only_when_the_lease_is_due(world: World) -> None:
    machine = Machine(world)
    first = await machine.join((await world.code()).secret)
    assert isinstance(first, Lease)
    peer = await machine.peer()
    world.clock.forward(timedelta(hours=11))
    assert await machine.refresh(peer) == first
    world.clock.forward(timedelta(hours=1))
    peer = await machine.peer()
    second = await machine.refresh(peer)
    assert isinstance(second, Lease)
    assert (second.seq, second.issued_at) == (first.seq + 1, world.clock())
    assert (await world.node(machine.node)).lease_until == second.terminate_at


async def test_a_session_brings_the_due_lease_too(world: World) -> None:
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    world.clock.forward(timedelta(days=3))
    session = await machine.session()
    assert world.statement(session.current.statement).issued_at == world.clock()


TERMS = (schemas.EntitlementTerms("cameras", limit=8), schemas.EntitlementTerms("press"))


async def test_a_node_that_reads_version_2_gets_it_from_its_first_lease_on(world: World) -> None:
    machine = Machine(world, lease_version=2)
    code = await world.code(terms=TERMS, intervals=schemas.LeaseIntervals(heartbeat_seconds=60))
    lease = await machine.join(code.secret)
    assert isinstance(lease, Lease)
    generation = await world.generation(machine.node, 1)
    assert (lease.version, lease.node_key) == (2, sha256_hex(generation.node_public_key))
    assert lease.ek_name == name_of(machine.evidence().ek_public).hex()
    assert lease.entitlements == ("press", Entitlement(name="cameras", limit=8))
    assert lease.intervals == Intervals(heartbeat_seconds=60)
    assert await machine.refresh(await machine.peer()) == lease, "nothing has changed"


async def test_the_version_follows_the_agent_up_and_down_at_once(world: World) -> None:
    machine = Machine(world)
    first = await machine.join((await world.code(terms=TERMS)).secret)
    assert isinstance(first, Lease)
    assert (first.version, first.entitlements) == (1, ("press",)), "version 1 cannot say the limit"
    reports: list[tuple[int | msgspec.UnsetType, int]] = [(2, 2), (7, 2), (msgspec.UNSET, 1), (1, 1), (2, 2)]
    seqs = []
    for reads, version in reports:
        machine.lease_version = reads
        lease = world.statement((await machine.session()).current.statement)
        assert isinstance(lease, Lease)
        assert lease.version == version, f"it reads {reads}"
        seqs.append(lease.seq - first.seq)
    assert seqs == [1, 1, 2, 2, 3], "only a change of the version signs a lease that is not due"
    assert (await world.generation(machine.node, 1)).lease_version == 2


async def test_a_version_below_1_is_refused(world: World) -> None:
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    machine.lease_version = 0
    with pytest.raises(Invalid):
        await machine.session()


FLOOR = NvCounter(0x01A00007, "000b" + "ab" * 32, 4)


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_a_floor_is_promised_from_the_first_lease_on_and_never_shed(world: World) -> None:
    machine = Machine(world, lease_version=2, floor=FLOOR)
    first = await machine.join((await world.code()).secret)
    assert isinstance(first, Lease)
    assert first.floor == HardwareFloor(index=FLOOR.index)
    shown = await world.parts.operators.node_lists.detail(machine.node)
    assert (shown.node.floor_index, shown.node.floor_value) == (FLOOR.index, 4)
    machine.floor = msgspec.structs.replace(FLOOR, value=6)
    assert world.statement((await machine.session()).current.statement) == first, "a new value signs no lease"
    machine.floor = msgspec.UNSET
    assert world.statement((await machine.session()).current.statement) == first
    node = await world.node(machine.node)
    assert (node.floor_index, node.floor_value) == (FLOOR.index, 6), "a chip that had a floor keeps the promise"
    machine.floor = msgspec.structs.replace(FLOOR, index=0x01A00008, value=9)
    second = world.statement((await machine.session()).current.statement)
    assert isinstance(second, Lease)
    assert (second.seq, second.floor) == (first.seq + 1, HardwareFloor(index=0x01A00008))


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_a_counter_that_falls_or_changes_its_index_is_audited_and_shown(world: World) -> None:
    """A TPM's counter never falls. The report is the node's own, so it is a hint for an operator."""
    machine = Machine(world, lease_version=2, floor=FLOOR)
    await machine.join((await world.code()).secret)

    async def shown(**changes: int) -> tuple[int, datetime | None]:
        machine.floor = msgspec.structs.replace(FLOOR, **changes)
        await machine.session()
        detail = await world.parts.operators.node_lists.detail(machine.node)
        return (await world.actions(machine.node)).count("node.floor_reset"), detail.node.floor_reset_at

    assert await shown(value=9) == (0, None)
    count, first = await shown(value=8)
    assert (count, first is not None) == (1, True)
    assert await shown(value=8) == (1, first)
    assert await shown(value=12) == (1, first), "a later value is no reset"
    assert first is not None
    world.clock.forward(first + timedelta(hours=1, seconds=-1) - world.clock())
    assert await shown(value=3) == (1, first), "once an hour"
    world.clock.forward(timedelta(seconds=1))
    count, second = await shown(index=0x01A00008, value=13)
    assert count == 2
    assert second == first + timedelta(hours=1)


async def test_a_session_that_a_later_one_overtook_reports_no_counter(world: World) -> None:
    """The agent has asked again after a time-out, and has advanced its counter in between."""
    machine = Machine(world, lease_version=2, floor=FLOOR)
    await machine.join((await world.code()).secret)
    world.clock.forward(timedelta(seconds=2))
    slow = machine.ask_for_session()
    machine.floor = msgspec.structs.replace(FLOOR, value=7)
    world.clock.forward(timedelta(seconds=2))
    await machine.session()
    await world.parts.nodes.sessions.open_session(slow)
    node = await world.node(machine.node)
    assert (node.floor_value, node.floor_reset_at) == (7, None)
    assert "node.floor_reset" not in await world.actions(machine.node)


@pytest.mark.parametrize(
    "changes", [{"index": 0x81000001}, {"index": 0}, {"value": 0}, {"value": 2**63}, {"name": "00" * 67}]
)
async def test_a_floor_out_of_bounds_is_refused(world: World, changes: dict[str, int | str]) -> None:
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    machine.floor = msgspec.structs.replace(FLOOR, **changes)
    with pytest.raises(Invalid, match="floor"):
        await machine.session()


async def test_a_new_node_key_gets_a_new_lease(world: World) -> None:
    """A rekey changes the key of the generation; the lease names the key."""
    machine = Machine(world, lease_version=2)
    first = await machine.join((await world.code()).secret)
    peer = await machine.peer()
    spki = (
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    await world.stores.renewals.set_key(machine.node, 1, spki, world.clock() + timedelta(days=400))
    second = await machine.refresh(peer)
    assert isinstance(first, Lease)
    assert isinstance(second, Lease)
    assert (second.seq, second.node_key) == (first.seq + 1, sha256_hex(spki))
    assert await machine.refresh(peer) == second
