"""`cloud.fabric.service.nodes.chip_challenge`: challenges to a chip, and the checks of the answers."""

from protocol.ids import TenantId, make_id
from tests.cloud.fabric.support import World


async def test_a_chip_is_another_node_for_another_tenant(world: World) -> None:
    names = {
        world.parts.nodes.chip_challenges.ek_hash(tenant, b"name")
        for tenant in (world.tenant, TenantId(make_id("ten", 9, bytes(10))))
    }
    assert len(names) == 2
