"""`cloud.fabric.service.nodes.chip_challenge`: challenges to a chip, and the checks of the answers."""

import msgspec

from cloud.fabric import schemas
from protocol.endorsement import TEMPLATES, name_of
from protocol.evidence import OtherEndorsement
from protocol.ids import TenantId, make_id
from tests.cloud.fabric.support import ALICE, Machine, World
from tests.simulators import forged_evidence as forged
from tests.simulators.forged_evidence import maker


async def test_a_chip_is_another_node_for_another_tenant(world: World) -> None:
    names = {
        world.parts.nodes.chip_challenges.ek_hash(tenant, b"name")
        for tenant in (world.tenant, TenantId(make_id("ten", 9, bytes(10))))
    }
    assert len(names) == 2


async def test_a_chip_with_several_keys_stays_the_chip_of_its_node(world: World) -> None:
    key = forged.p256("second EK of the chip").public_key()
    numbers = key.public_numbers()
    other = OtherEndorsement(TEMPLATES["ecc_p256"].public(numbers.x, numbers.y), maker("Second").certify(key))
    roots = (maker("Second").root.pem + maker("Second").intermediate.pem).decode()
    await world.parts.operators.tenants.add_ek_roots(ALICE, world.tenant, schemas.AddEkRoots(roots, "ecc_p256"))
    tenant = await world.parts.operators.tenants.find(world.tenant)
    evidence = msgspec.structs.replace(Machine(world).evidence(), others=(other,))
    challenges, now = world.parts.nodes.chip_challenges, world.clock()
    rsa, ecc = name_of(evidence.ek_public), name_of(other.ek_public)
    for known, found in ((b"", rsa), (rsa, rsa), (ecc, ecc), (b"of another chip", rsa)):
        made = await challenges.make(tenant, evidence, now, challenges.ek_hash(world.tenant, known) if known else "")
        assert (made.ek_name, made.ek_hash) == (found, challenges.ek_hash(world.tenant, found))
    # Without a certificate for the first EK, the second one identifies the chip.
    bare = msgspec.structs.replace(evidence, ek_certificate=None)
    assert (await challenges.make(tenant, bare, now)).ek_name == ecc
