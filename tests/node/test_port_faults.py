"""One fault at each port, from the drill `agent-faults`: `make drills PART=agent-faults` lets every call fail."""

from pathlib import Path

import pytest

from node.disk import calls
from tests.drills.agent_faults import UNCOVERED, Walk, uncovered
from tests.node.conftest import Machine
from tests.simulators.faulty_ports import Point

pytestmark = [pytest.mark.slow, pytest.mark.long(8)]

CHOSEN: tuple[tuple[dict[Point, str], tuple[str, ...]], ...] = (
    ({Point("disk", "read licence/g-1/statement.json"): "EIO"}, ("suspended", "running")),
    ({Point("disk", "fsync licence/g-1/.statement.json.tmp"): "ENOSPC"}, ("lease", "running")),
    ({Point("tpm", "load"): "lock-out"}, ("unconfirmed", "running")),
    ({Point("cloud", "POST /v1/node/sessions"): "garbage"}, ("revoked", "running")),
)
"""The faults. Each has its scenarios: one kind of start, and a running agent."""


async def test_a_fault_at_each_port_ends_and_deafens_no_agent(tmp_path: Path, machine: Machine) -> None:
    outcome = await Walk(tmp_path, machine.chip, lambda _: None).run_chosen(CHOSEN)
    assert outcome.findings == ()
    assert outcome.figures["runs"] == 5 + 2 * len(CHOSEN)


def test_a_call_that_no_scenario_meets_is_found() -> None:
    nothing = uncovered([])
    assert {f"disk {call}" for call in calls.CALLS} <= {*nothing, *UNCOVERED}
    assert "cloud POST /v1/node/sessions" in nothing
    assert "tpm sign" in nothing
    assert "tpm sign" not in uncovered([Point("tpm", "sign")])
