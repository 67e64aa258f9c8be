"""`cloud.fabric.service.input_checks`: texts from outside have limits."""

import pytest

from cloud.fabric import errors
from protocol.messages.sessions import Ask
from tests.cloud.fabric.support import Machine, World


@pytest.mark.parametrize("fingerprint", [{"a" * 65: "b"}, {"a": "b" * 65}, {str(n): "b" for n in range(33)}])
async def test_a_fingerprint_is_bounded(world: World, machine: Machine, fingerprint: dict[str, str]) -> None:
    with pytest.raises(errors.Invalid, match="fingerprint"):
        await world.parts.nodes.sessions.open_session(machine.ask_for_session(None, fingerprint=fingerprint))


@pytest.mark.parametrize("nonce", ["", "n" * 15, "n" * 129])
async def test_nonces_of_nodes_are_bounded(world: World, nonce: str) -> None:
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    with pytest.raises(errors.Invalid):
        await world.parts.nodes.statements.statement(await machine.peer(), Ask(nonce))
