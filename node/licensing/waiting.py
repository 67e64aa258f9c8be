"""Pure functions: the licence of a machine whose first activation waits for an operator's approval."""

from datetime import UTC, datetime

from node.disk.pending import ApprovalWait
from node.exits import Exit
from node.licensing.verdict import Snapshot, Verdict
from protocol.ids import NodeId, TenantId
from protocol.limits import LICENSE_ANSWER_LIFE
from protocol.signed.statements import Holder


def next_step(activation: str) -> str:
    """The next step of a machine whose activation waits. `activation` is the id of the activation."""
    return (
        f"Ask the operator to approve it: `cascade activation approve {activation}`. Then run `cascadia activate FILE` "
        "again with the same file."
    )


def waiting_text(waiting: ApprovalWait) -> str:
    """What the machine waits for, and until when."""
    until = f"{waiting.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return f"the activation {waiting.activation} waits for an operator's approval until {until}"


def waiting_snapshot(waiting: ApprovalWait, now: datetime) -> Snapshot:
    """The state `pending`, with the gate closed: the machine has no identity yet."""
    verdict = Verdict(
        state="pending",
        gate_open=False,
        new_work=False,
        reason=waiting_text(waiting),
        next=next_step(waiting.activation),
        deadline=waiting.expires_at,
        valid_until=now + LICENSE_ANSWER_LIFE,
        exit=Exit.PENDING,
    )
    holder = Holder("", TenantId(""), NodeId(""), 0)
    return Snapshot(holder=holder, hardware="unchecked", lease=None, verdict=verdict)
