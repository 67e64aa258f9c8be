"""Use case: an activation waits for a person. The proof comes first, so the person decides about a proven machine.

The proof of the machine and its evidence are stored with the state `pending`. No seat, node or generation is made for
it. An operator's decision (`cloud.fabric.service.operators.activations`) takes the seat. The machine repeats its proof
and continues. Without a decision, or without the return of an approved machine, the activation expires.

The number of pending activations is bounded by code and by tenant, and each chip has one with a code. So a hostile
holder of a code fills the places of that code, and the operator revokes the code.

A denial holds for the machine with this code, until an operator lifts it or it is purged (`starts`). A machine with a TPM
is known by its chip. A machine without one makes a new key for each activation, so it is known by its fingerprint.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from cloud.audit import SYSTEM
from cloud.fabric.errors import ApprovalDenied, ApprovalExpired, SeatsExhausted, TooManyChallenges
from cloud.fabric.service.audit_log import ANONYMOUS, AuditLog
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.denied import DeniedStore
from cloud.fabric.store.keys import entry_key
from cloud.fabric.store.rows import ActivationRow, CodeRow, NodeRow
from protocol.faults import fault_point
from protocol.fingerprint import judge, policy_of
from protocol.ids import ActivationId, TenantId
from protocol.limits import APPROVAL_RETRY_SECONDS_MAX, APPROVAL_RETRY_SECONDS_MIN
from protocol.messages.activation import AwaitedApproval

PENDING_PER_CODE_MAX = 1_000
PENDING_PER_TENANT_MAX = 10_000
"""A tenant of 10,000 new machines can activate all of them at once. One code fills a tenth of the places."""
ROWS_MAX = 100
"""Rows of one pass. Further rows are handled in the next pass."""


@dataclass(frozen=True, kw_only=True)
class Approvals:
    """Makes activations wait, answers them, and ends overdue ones.

    An operator must decide, and an approved machine must return, within `approve_within`.
    """

    approve_within: timedelta
    now: Now
    transaction: Transaction
    audit: AuditLog
    activations: ActivationStore
    codes: CodeStore
    denied: DeniedStore
    per_code_max: int = PENDING_PER_CODE_MAX
    per_tenant_max: int = PENDING_PER_TENANT_MAX

    async def check_room(self, tenant: TenantId) -> None:
        """Check the number of pending activations of a tenant. Raises TooManyChallenges.

        The transaction of `ask` does not repeat this check, because it would need the keys of every code.
        """
        if await self.activations.count_pending_of_tenant(tenant) >= self.per_tenant_max:
            raise TooManyChallenges("too many activations of this tenant wait for approval")

    async def check_not_denied(self, row: ActivationRow, values: tuple[str, ...]) -> None:
        """Check that no operator has denied this machine with this code. Called in a transaction with the code's key.

        `row` has the reported fingerprint, and `values` are its disks and boards; empty with a TPM. Raises ApprovalDenied.
        """
        denied = await self.activations.denied(row.code, row.ek_hash)
        if denied is not None:
            raise _denied(denied)
        found: dict[ActivationId, None] = {}
        for value in values:
            found.update(dict.fromkeys(await self.denied.activations_with(row.code, value)))
        for activation in found:
            earlier = await self.activations.find(activation)
            if earlier is None or earlier.state != "denied":
                continue
            if judge(policy_of(earlier.fingerprint), row.fingerprint).result == "match":
                raise _denied(earlier)

    async def ask(self, row: ActivationRow, code: CodeRow, known: NodeRow | None) -> ActivationRow:
        """Make a proved activation wait. Called in the transaction that has checked the proof and holds the code's key.

        `row` has the proof and the evidence. `known` is the node that the machine is recognised as. An earlier pending
        activation of the same chip with this code is superseded. If it was approved already, and shows the same machine,
        this one is approved. Returns the changed row. Raises SeatsExhausted, TooManyChallenges.
        """
        candidate = known.id if known is not None else ""
        approved = None
        for earlier in await self.activations.waiting_of(code.id, row.ek_hash):
            await self.activations.end_waiting(earlier.id, "superseded")
            if _is_decided(row, candidate, earlier):
                approved = earlier
            elif earlier.seat_reserved:
                await self.codes.free_seat(code.id)
                code = msgspec.structs.replace(code, seats_taken=code.seats_taken - 1)
        seat_held = (known is not None and known.seat_held) or (approved is not None and approved.seat_reserved)
        if not seat_held and code.seats_taken >= code.seats:
            raise SeatsExhausted(f"all {code.seats} seats of this code are taken")
        if await self.activations.count_pending_of_code(code.tenant, code.id) >= self.per_code_max:
            raise TooManyChallenges("too many activations with this code wait for approval")
        now = self.now()
        pending = msgspec.structs.replace(
            row,
            state="pending",
            candidate=candidate,
            asked_at=now,
            approve_by=now + self.approve_within,
        )
        await self.activations.set_pending(pending)
        await self.audit.write(
            ANONYMOUS,
            "activation.pending",
            row.id,
            row.tenant,
            code=code.id,
            tier=row.tier,
            node=pending.candidate,
            matched=row.matched,
        )
        return await self._approved_again(pending, approved) if approved is not None else pending

    async def _approved_again(self, row: ActivationRow, before: ActivationRow) -> ActivationRow:
        """Carry the decision about an earlier activation of the same chip over to this one, with its seat."""
        carried = msgspec.structs.replace(
            row,
            state="approved",
            approve_by=before.approve_by,
            decided_at=before.decided_at,
            decided_by=before.decided_by,
            decision_reason=before.decision_reason,
            seat_reserved=before.seat_reserved,
        )
        await self.activations.set_decided(carried)
        await self.audit.write(SYSTEM, "activation.approved", row.id, row.tenant, code=row.code, earlier=before.id)
        return carried

    def answer(self, row: ActivationRow) -> AwaitedApproval:
        """The answer to a machine whose activation is pending. Raises ApprovalDenied, ApprovalExpired."""
        now = self.now()
        if row.state == "denied":
            raise _denied(row)
        if (
            row.state in ("expired", "lifted")
            or row.asked_at is None
            or row.approve_by is None
            or row.approve_by <= now
        ):
            raise ApprovalExpired
        return AwaitedApproval(row.id, row.asked_at, row.approve_by, retry_seconds(now - row.asked_at))

    async def expire_overdue(self) -> None:
        """End pending and approved activations at their `approve_by`, and free the seats that approvals hold."""
        now = self.now()
        for row in await self.activations.undecided(now, ROWS_MAX):
            await self._expire(row, now)

    async def _expire(self, row: ActivationRow, now: datetime) -> None:
        with fault_point("fabric.approval.expire"):
            async with self.transaction(entry_key(row.code, row.tenant)):
                fresh = await self.activations.find(row.id)
                if fresh is None or fresh.approve_by is None or fresh.approve_by > now:
                    return
                if not await self.activations.end_waiting(row.id, "expired"):
                    return
                if fresh.seat_reserved:
                    await self.codes.free_seat(row.code)
                await self.audit.write(
                    SYSTEM,
                    "activation.expired",
                    row.id,
                    row.tenant,
                    code=row.code,
                    state=fresh.state,
                    seat_freed=fresh.seat_reserved,
                )


def retry_seconds(waited: timedelta) -> int:
    """The seconds after which a machine that has waited this long asks again: a fifth of the wait, within bounds."""
    seconds = int(waited.total_seconds()) // 5
    return max(APPROVAL_RETRY_SECONDS_MIN, min(APPROVAL_RETRY_SECONDS_MAX, seconds))


def _is_decided(row: ActivationRow, candidate: str, earlier: ActivationRow) -> bool:
    """Whether the approval of an earlier activation of the same chip is a decision about this one too.

    A machine without a TPM reports itself which machine it is. So the same key with another fingerprint, or for another
    node, waits for a decision about that.
    """
    if earlier.state != "approved" or earlier.tier != row.tier:
        return False
    same = (earlier.candidate, earlier.fingerprint) == (candidate, row.fingerprint)
    return row.tier != "software" or same


def _denied(row: ActivationRow) -> ApprovalDenied:
    """The refusal names the denied activation, perhaps an earlier one, because an operator lifts the denial by its id."""
    reason = f": {row.decision_reason}" if row.decision_reason else ""
    return ApprovalDenied(f"an operator denied the activation {row.id}{reason}")
