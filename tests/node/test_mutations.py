"""A short run of the drill `mutation`: `make drills PART=mutation` runs for ten minutes."""

from pathlib import Path

import pytest

from tests.drills.mutation import Mutations
from tests.node.conftest import Machine

pytestmark = [pytest.mark.slow, pytest.mark.long(6)]

SEED = 20261130
STEPS = 20


async def test_no_answer_ends_the_agent_or_moves_its_state(tmp_path: Path, machine: Machine) -> None:
    outcome = await Mutations(tmp_path, machine.chip, SEED, lambda _: None).run(0, STEPS)
    assert outcome.findings == ()
    # Each seed makes other mutations; the rounds with a lease and with a revocation must have met some.
    assert outcome.figures["rounds"] == 2
    assert sum(int(count) for name, count in outcome.figures.items() if name.startswith("mutated")) > STEPS / 4
