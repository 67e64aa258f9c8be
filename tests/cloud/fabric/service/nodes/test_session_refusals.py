"""`cloud.fabric.service.nodes.session_refusals`: a limited number of refused proofs is recorded."""

import pytest

from cloud.fabric import errors
from cloud.fabric.service.nodes import session_refusals
from tests.cloud.fabric.support import Machine, World


async def test_a_stolen_device_certificate_cannot_fill_the_audit(world: World, machine: Machine) -> None:
    async def refusals(count: int) -> int:
        for _ in range(count):
            with pytest.raises(errors.ProofRefused):
                await world.parts.nodes.sessions.open_session(machine.ask_for_session(None, method="PUT"))
        return (await world.actions(machine.node)).count("session.refused")

    assert await refusals(session_refusals.REFUSALS_AUDITED_MAX + 5) == session_refusals.REFUSALS_AUDITED_MAX
    world.clock.forward(session_refusals.REFUSALS_PERIOD)
    assert await refusals(2) == session_refusals.REFUSALS_AUDITED_MAX + 2
