"""`cloud.fabric.service.nodes.statement_stream`: the `seq` of statements only rises."""

import msgspec

from protocol.limits import SEQ_JUMP_MAX
from tests.cloud.fabric.support import Machine, World


async def test_the_next_statement_follows_a_presented_one_that_is_ahead(world: World) -> None:
    machine = Machine(world)
    first = await machine.join((await world.code()).secret)
    peer = await machine.peer()
    ahead = msgspec.structs.replace(first, seq=first.seq + 10)
    machine.held = world.signer.statement(ahead)
    assert (await machine.refresh(peer)).seq == first.seq + 11
    for ignored in (
        world.signer.statement(msgspec.structs.replace(first, seq=first.seq + 12 + SEQ_JUMP_MAX)),
        world.signer.statement(
            msgspec.structs.replace(first, seq=500, node=first.node[:-1] + ("1" if first.node.endswith("0") else "0"))
        ),
        machine.held[:-4] + "AAAA",
        "no token",
    ):
        machine.held = ignored
        assert (await machine.refresh(peer)).seq == first.seq + 11
