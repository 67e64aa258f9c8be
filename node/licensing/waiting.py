"""Pure functions: the licence of a machine whose first activation, or recovery, waits for an approval."""

from datetime import UTC, datetime

import msgspec

from node.disk.pending import ApprovalWait
from node.exits import Exit
from node.licensing.verdict import Snapshot, Verdict
from protocol.ids import NodeId, TenantId
from protocol.limits import LICENSE_ANSWER_LIFE
from protocol.messages.recovery import AwaitedRecovery, Needs
from protocol.signed.statements import Holder

_AWAITED: dict[Needs, str] = {
    "operator": "an operator's approval",
    "code": "a recovery code",
    "operator-or-code": "an operator's approval or a recovery code",
}


def next_step(waiting: ApprovalWait) -> str:
    """The next step of a machine whose activation or recovery waits."""
    recovery = waiting.recovery
    if recovery is msgspec.UNSET:
        return (
            f"Ask the operator to approve it: `cascade activation approve {waiting.activation}`. Then run `cascadia "
            "activate FILE` again with the same file."
        )
    approve = f"Ask the operator to approve it: `cascade recovery approve {recovery.case}`."
    code = "Run `cascadia recover` with a recovery code, which the operator issues."
    then = "Once it is approved, start the agent, or run `cascadia recover` again."
    return {
        "operator": f"{approve} {then}",
        "code": code,
        "operator-or-code": f"{approve} Or: {code[0].lower()}{code[1:]} {then}",
    }[recovery.needs]


def awaited(recovery: AwaitedRecovery) -> str:
    """What a recovery case waits for."""
    return _AWAITED[recovery.needs]


def waiting_text(waiting: ApprovalWait) -> str:
    """What the machine waits for, and until when."""
    recovery = waiting.recovery
    if recovery is msgspec.UNSET:
        until = f"{waiting.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        return f"the activation {waiting.activation} waits for an operator's approval until {until}"
    until = f"{recovery.decide_by.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return f"the recovery {recovery.case} waits for {awaited(recovery)} until {until}"


def waiting_snapshot(waiting: ApprovalWait, now: datetime) -> Snapshot:
    """The state `pending`, with the gate closed: the machine has no identity yet."""
    verdict = Verdict(
        state="pending",
        gate_open=False,
        new_work=False,
        reason=waiting_text(waiting),
        next=next_step(waiting),
        deadline=waiting.expires_at,
        valid_until=now + LICENSE_ANSWER_LIFE,
        exit=Exit.PENDING,
    )
    holder = Holder("", TenantId(""), NodeId(""), 0)
    return Snapshot(holder=holder, hardware="unchecked", lease=None, verdict=verdict)
