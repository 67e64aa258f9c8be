"""Use case: what lets a proved machine in. An activation code makes or finds a node, a recovery case gives a node back.

`admission` calls an entrance in the transaction of the proof. The entrance names the node, with its seat; or makes the
activation wait; or refuses.
"""

from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import msgspec

from cloud.fabric.errors import CodeRefused, RecoveryRefused, SeatsExhausted
from cloud.fabric.licensing.standing import check_admission
from cloud.fabric.service.activations.approval import Approvals
from cloud.fabric.service.activations.proved import Proved, Recognised
from cloud.fabric.service.nodes.silence import Silences
from cloud.fabric.service.ports import Now
from cloud.fabric.service.recovery.cases import Claimant, RecoveryCases
from cloud.fabric.service.recovery.refusals import RecoveryRefusals
from cloud.fabric.service.rights.admitted import RECOGNISED_IN_PART, Admitted
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.keys import code_key, recovery_code_key, recovery_key
from cloud.fabric.store.rows import ActivationRow, CodeRow, NodeRow
from protocol.ids import CodeId, NodeId
from protocol.messages.activation import AwaitedApproval


class Entered(msgspec.Struct, frozen=True):
    """A machine that goes on: its activation, its node with a seat, and whether the node is new."""

    row: ActivationRow
    node: NodeRow
    is_new: bool


class Entrance(Protocol):
    """Lets proved machines in."""

    def keys(self, row: ActivationRow) -> tuple[str, ...]:
        """The keys of the transaction that `enter` needs beside those of chip and node."""
        ...

    def attempt(self, row: ActivationRow) -> AbstractAsyncContextManager[None]:
        """The context of the transaction. It counts and records a refusal that the transaction rolls back."""
        ...

    async def prepare(self, row: ActivationRow, admitted: Admitted, found: Recognised, proved: Proved) -> None:
        """Check what needs no transaction. Raises TooManyChallenges."""
        ...

    async def enter(
        self, row: ActivationRow, admitted: Admitted, found: Recognised, node: NodeId, proved: Proved
    ) -> ActivationRow | Entered:
        """The node for the machine, or the stored row of an activation that waits. Called in the transaction.

        `row` has the proof and the evidence; `node` is the id for a new node. Raises as `Admissions.admit`.
        """
        ...

    async def waiting(self, row: ActivationRow) -> AwaitedApproval:
        """The answer to a machine whose activation waits, or waited. Raises the refusal of an ended wait."""
        ...


@dataclass(frozen=True, kw_only=True)
class CodeEntrance:
    """Lets machines in by an activation code. `epoch` is the installation's epoch."""

    epoch: int
    now: Now
    codes: CodeStore
    approvals: Approvals

    def keys(self, row: ActivationRow) -> tuple[str, ...]:
        """See `Entrance`."""
        return (code_key(row.code),)

    def attempt(self, row: ActivationRow) -> AbstractAsyncContextManager[None]:
        """See `Entrance`."""
        return nullcontext()

    async def prepare(self, row: ActivationRow, admitted: Admitted, found: Recognised, proved: Proved) -> None:
        """See `Entrance`. Raises TooManyChallenges."""
        if _must_wait(admitted, _code_of(admitted), row, found):
            await self.approvals.check_room(row.tenant)

    async def enter(
        self, row: ActivationRow, admitted: Admitted, found: Recognised, node: NodeId, proved: Proved
    ) -> ActivationRow | Entered:
        """See `Entrance`. Raises CodeRefused, NodeRevoked, ApprovalDenied, SeatsExhausted, TooManyChallenges."""
        code = _code_of(admitted)
        known = self._node_for(row, code, found, node, proved)
        if row.state == "challenged":
            await self.approvals.check_not_denied(row, proved.enrolled)
            if _must_wait(admitted, code, row, found):
                row = await self.approvals.ask(row, code, found.node)
                if row.state == "pending":
                    return row
        return Entered(row, await self._with_seat(row, code, known), found.node is None)

    async def waiting(self, row: ActivationRow) -> AwaitedApproval:
        """See `Entrance`. Raises ApprovalDenied, ApprovalExpired."""
        return self.approvals.answer(row)

    async def _with_seat(self, row: ActivationRow, code: CodeRow, node: NodeRow) -> NodeRow:
        """The node with a seat: its own seat, the seat that an approval holds, or a free seat. Raises SeatsExhausted."""
        if node.seat_held:
            if row.seat_reserved:  # another activation of this machine took a seat after the approval
                await self.codes.free_seat(code.id)
            return node
        if not row.seat_reserved and not await self.codes.take_seat(code.id):
            raise SeatsExhausted(f"all {code.seats} seats of this code are taken")
        return msgspec.structs.replace(node, seat_held=True, code=code.id)

    def _node_for(self, row: ActivationRow, code: CodeRow, found: Recognised, new: NodeId, proved: Proved) -> NodeRow:
        """The node that the machine is recognised as, or a new node row with the id `new`.

        Raises CodeRefused, NodeRevoked.
        """
        node = found.node
        made_for_it = code.readmit_node is not None and node is not None and code.readmit_node == node.id
        if code.readmit_node is not None and not made_for_it:
            raise CodeRefused
        if node is not None:
            check_admission(
                node.standing, node.standing_at, made_for_this_node=made_for_it, code_made_at=code.created_at
            )
            return node
        now = self.now()
        return NodeRow(
            id=new,
            tenant=row.tenant,
            ek_hash=row.ek_hash,
            standing="active",
            standing_reason="",
            standing_at=now,
            current_generation=0,
            last_generation=0,
            closed_up_to=0,
            closed_at_issuer=0,
            closing=False,
            epoch=self.epoch,
            seq=0,
            code=CodeId(code.id),
            seat_held=False,
            tier=row.tier,
            profile=code.profile,
            entitlements=code.entitlements,
            lease=code.lease,
            lease_until=None,
            wake_cursor=1,
            created_at=now,
            confirmed_at=None,
            intervals=code.intervals,
            enrolled=proved.fingerprint,
            presented_epoch=self.epoch,
        )


@dataclass(frozen=True, kw_only=True)
class RecoveryEntrance:
    """Gives machines their nodes back, by a recovery case."""

    now: Now
    activations: ActivationStore
    approvals: Approvals
    cases: RecoveryCases
    silences: Silences
    refusals: RecoveryRefusals

    def keys(self, row: ActivationRow) -> tuple[str, ...]:
        """See `Entrance`."""
        used = row.claim.code if row.claim is not None else ""
        return (recovery_key(row.tenant), recovery_code_key(used)) if used else (recovery_key(row.tenant),)

    def attempt(self, row: ActivationRow) -> AbstractAsyncContextManager[None]:
        """See `Entrance`. Raises TooOften."""
        return self.refusals.attempt(row)

    async def prepare(self, row: ActivationRow, admitted: Admitted, found: Recognised, proved: Proved) -> None:
        """See `Entrance`. Raises TooManyChallenges."""
        await self.approvals.check_room(row.tenant)

    async def enter(
        self, row: ActivationRow, admitted: Admitted, found: Recognised, node: NodeId, proved: Proved
    ) -> ActivationRow | Entered:
        """See `Entrance`. Raises RecoveryRefused, RecoveryCodeRefused."""
        if found.node is None:
            raise RecoveryRefused("no node of this tenant is named, and this machine's TPM is that of no node")
        case, goes_on = await self.cases.judge(self._claimant(row, found, found.node, proved), admitted.tenant)
        row = msgspec.structs.replace(row, recovery=case.id, candidate=found.node.id)
        if goes_on:
            return Entered(row, found.node, False)
        if row.state != "challenged":
            raise RecoveryRefused("the recovery is not approved any more", case.next_allowed_at)
        row = msgspec.structs.replace(row, state="pending", asked_at=self.now(), approve_by=case.decide_by)
        await self.activations.set_pending(row)
        return row

    async def waiting(self, row: ActivationRow) -> AwaitedApproval:
        """See `Entrance`. Raises RecoveryRefused, ApprovalExpired."""
        await self.silences.let_on(row)
        awaited = await self.cases.awaited(row)
        return msgspec.structs.replace(self.approvals.answer(row), recovery=awaited)

    @staticmethod
    def _claimant(row: ActivationRow, found: Recognised, node: NodeRow, proved: Proved) -> Claimant:
        return Claimant(
            row=row,
            node=node,
            same_chip=found.matched == "chip" or (row.tier == "software" and found.matched in ("key", "changed")),
            former_chip=found.matched == "replaced",
            fingerprint=proved.fingerprint,
            unreadable=proved.unreadable,
        )


def _code_of(admitted: Admitted) -> CodeRow:
    """The activation code. Raises CodeRefused in a recovery, which has none."""
    if admitted.code is None:
        raise CodeRefused
    return admitted.code


def _must_wait(admitted: Admitted, code: CodeRow, row: ActivationRow, found: Recognised) -> bool:
    """Whether a person must approve: code or tenant say so, or key or fingerprint alone say which node it is.

    A code that readmits this node is already a person's decision about it.
    """
    if row.state != "challenged":
        return False
    in_part = found.matched in RECOGNISED_IN_PART and code.readmit_node is None
    return in_part or admitted.needs_approval(row.tier)
