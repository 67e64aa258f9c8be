"""`cloud.fabric.service.published_trust.adoption`: nodes are counted and listed by the trust that they use."""

import pytest

from cloud.fabric.errors import Invalid
from cloud.fabric.service.published_trust import adoption
from cloud.fabric.store import adoption as adoption_store
from cloud.mtls.peer import key_id_of
from tests.cloud.fabric.fleets import counted, fleet
from tests.cloud.fabric.support import Machine, World, change

pytestmark = pytest.mark.slow


async def test_only_open_confirmed_generations_count(world: World) -> None:
    code = await world.code(seats=4)
    active, suspended, revoked, offered = (Machine(world, label=f"ek {n}") for n in range(4))
    for machine in (active, suspended, revoked):
        await machine.join(code.secret)
    await offered.activate(code.secret)
    await change(world, suspended, "suspend")
    await change(world, revoked, "revoke")
    shown = await counted(world)
    assert (shown.nodes, shown.adopted) == (2, 0)
    first = await world.parts.trust.adoption.nodes("", "", 1)
    rest = await world.parts.trust.adoption.nodes("", first.next_cursor, 1)
    assert [entry.node for entry in (*first.items, *rest.items)] == sorted((active.node, suspended.node))
    assert rest.next_cursor == ""
    issuer = key_id_of(world.trust.node_issuers[0])
    assert len((await world.parts.trust.adoption.nodes(issuer, "", 50)).items) == 2
    assert (await world.parts.trust.adoption.nodes(adoption.UNKNOWN_ISSUER, "", 50)).items == ()
    with pytest.raises(Invalid):
        await world.parts.trust.adoption.nodes("", "!", 50)


async def test_a_fleet_is_walked_in_stretches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = await fleet(world, 3)
    monkeypatch.setattr(adoption_store, "STRETCH_NODES", 1)
    shown = await counted(world)
    assert (shown.nodes, shown.adopted) == (3, 0)
    missing = await world.parts.trust.adoption.nodes("", "", 50)
    assert [entry.node for entry in missing.items] == sorted(machine.node for machine in machines)
    assert await world.parts.trust.adoption.blocking(1, ()) == sorted(machine.node for machine in machines)
