"""`node.licensing.waiting`: a machine without an identity that waits for an operator is `pending`, not `unactivated`."""

from datetime import UTC, datetime, timedelta

from node.disk.pending import ApprovalWait
from node.exits import Exit
from node.licensing.waiting import waiting_snapshot
from node.local.documents import absent_status
from protocol.ids import ActivationId

AT = datetime(2026, 11, 30, 12, tzinfo=UTC)
WAIT = ApprovalWait(ActivationId("act_01jd7xq2vafw6b8tn4rz9k3mec"), AT, AT + timedelta(days=14))


def test_the_state_is_pending_with_the_gate_closed() -> None:
    status = absent_status(waiting_snapshot(WAIT, AT), "production", ())
    licence = status.license
    assert (licence.state, licence.gate, licence.new_work, licence.exit_code) == (
        "pending",
        "closed",
        False,
        Exit.PENDING,
    )
    assert "waits for an operator's approval until 2026-12-14 12:00 UTC" in licence.reason
    assert f"cascade activation approve {WAIT.activation}" in licence.next
    assert not status.agent_running
