"""`cloud.fabric.service.recovery.refusals`: a refused machine leaves one audit entry, and nothing else."""

import pytest

from cloud.fabric import errors
from tests.cloud.fabric.recovering import OTHER_FINGERPRINT, claim, replacement, send, start
from tests.cloud.fabric.support import Machine, World

pytestmark = pytest.mark.slow


async def test_a_repeated_proof_adds_no_entry(world: World, machine: Machine) -> None:
    stranger = replacement(machine)
    stranger.fingerprint = OTHER_FINGERPRINT
    challenge = await start(stranger, claim(machine.node))
    for expected in (1, 2):
        body = stranger.proof(challenge)
        for _ in range(3):
            with pytest.raises(errors.RecoveryRefused):
                await send(stranger, challenge, body)
        assert (await world.actions(machine.node)).count("recovery.refused") == expected
        challenge = await start(stranger, claim(machine.node))
    entry = (await world.stores.audit.page("", machine.node, "", "aud_8", 1))[0]
    assert entry.detail["activation"].startswith("act_")
    assert "of the enrolled weight" in entry.detail["reason"]
