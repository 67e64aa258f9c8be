"""Use case: what a decision about a recovery case changes, and the end of cases that no person decided.

`approve` and `deny` are called in the transaction of the operator's use case, which holds `keys` and calls `after` once
it is committed.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from cloud.audit import SYSTEM
from cloud.fabric.errors import Conflict, NotFound, Refused
from cloud.fabric.licensing.recovery import UNFINISHED
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.nodes.statement_stream import StatementStream, is_closed
from cloud.fabric.service.ports import Now, Transaction, WakeBackground
from cloud.fabric.service.rights.admitted import REFUSALS, Rights
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.keys import chip_key, node_key, recovery_key, tenant_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.recovery_cases import RecoveryCaseStore
from cloud.fabric.store.recovery_codes import RecoveryCodeStore
from cloud.fabric.store.rows import ActivationRow, GenerationRow, NodeRow, RecoveryCaseRow
from cloud.fabric.store.tenants import TenantStore
from cloud.fabric.wake import WakeRoom
from cloud.storage.errors import DatabaseBusy, DatabaseUnavailable, TransactionLost
from cloud.tasks.bounded_log import BoundedLog
from protocol.faults import fault_point
from protocol.ids import RecoveryId

ROWS_MAX = 100
"""Cases that one pass ends. Further cases are handled in the next pass."""


@dataclass(frozen=True, kw_only=True)
class CaseDecisions:
    """Approves and denies recovery cases, and ends overdue ones."""

    now: Now
    transaction: Transaction
    audit: AuditLog
    activations: ActivationStore
    nodes: NodeStore
    tenants: TenantStore
    cases: RecoveryCaseStore
    codes: RecoveryCodeStore
    rights: Rights
    statement_stream: StatementStream
    wake_room: WakeRoom
    wake_background: WakeBackground
    troubles: BoundedLog
    """Gets the cases that cannot be ended."""

    async def find(self, case: RecoveryId) -> RecoveryCaseRow:
        """The case. Raises NotFound."""
        row = await self.cases.find(case)
        if row is None:
            raise NotFound("no such recovery case")
        return row

    @staticmethod
    def keys(case: RecoveryCaseRow) -> tuple[str, ...]:
        """The keys of the transaction of `approve` and `deny`."""
        chips = dict.fromkeys((case.ek_hash, case.old_ek_hash))
        return recovery_key(case.tenant), node_key(case.node), *map(chip_key, chips)

    async def reads(self, case: RecoveryCaseRow) -> tuple[str, ...]:
        """The keys that the transaction of `approve` shares with others."""
        row = await self.activations.find(case.activation)
        return await self.rights.reads(row) if row is not None else (tenant_key(case.tenant),)

    def after(self, case: RecoveryCaseRow) -> None:
        """Wake the node's polls and the background work. Called after the commit."""
        self.wake_room.wake(case.node)
        self.wake_background()

    async def approve(self, case: RecoveryCaseRow, *, by: str, actor: str, reason: str) -> RecoveryCaseRow:
        """Approve a case. `by` is the id of the operator's token, `actor` the name for the audit. Returns the new row.

        A machine that runs on its grace lease gets an ordinary lease of the same generation. A machine that waits goes on
        when it repeats its proof. A refused machine may ask again. Raises Conflict if the case is finished, if the node
        has a later case, or if the node or the tenant does not admit the machine any more.
        """
        if case.state not in (*UNFINISHED, "refused"):
            raise Conflict(f"the case is {case.state}; it does not wait for a decision")
        if case.state in ("approved", "open"):
            raise Conflict(f"the case is {case.state} already; the machine has not confirmed yet")
        await self._check_newest(case)
        node = await self._node(case)
        waiting = await self._admitted(case)
        now = self.now()
        approved = msgspec.structs.replace(
            case,
            state="approved",
            decide_by=now + await self._case_life(case),
            next_allowed_at=None,
            decided_at=now,
            decided_by=by,
            reason=reason,
        )
        running = await self._on_grace(case, node)
        if waiting is not None:
            decided = msgspec.structs.replace(
                waiting,
                state="approved",
                approve_by=approved.decide_by,
                decided_at=now,
                decided_by=by,
                decision_reason=reason,
            )
            await self.activations.set_decided(decided)
        elif running is not None:
            approved = msgspec.structs.replace(approved, state="consumed")
            await self._give_full_right(node, running, now)
        await self._store(approved, actor, "recovery.approved")
        return approved

    async def deny(self, case: RecoveryCaseRow, *, by: str, actor: str, reason: str) -> RecoveryCaseRow:
        """Refuse a case, as `approve`. A machine that runs on its grace lease gets the revocation of its generation.

        The unused codes that were issued for the case are revoked, or the refused machine would go on with one of them.
        The machine may ask again once the time for a decision has passed. Raises Conflict if the case is finished.
        """
        if case.state not in UNFINISHED:
            raise Conflict(f"the case is {case.state}; it does not wait for a decision")
        now, node = self.now(), await self._node(case)
        denied = msgspec.structs.replace(
            case,
            state="refused",
            next_allowed_at=now + await self._case_life(case),
            decided_at=now,
            decided_by=by,
            reason=reason,
            grace_until=now if case.grace else None,  # a code that is issued for the case later brings no grace back
        )
        await self.activations.end_waiting(case.activation, "denied")
        running = await self._on_grace(case, node)
        if running is not None:
            node = await self.statement_stream.end_open_generations(node, running.number, now, "revoked")
            node = await self._give_chip_back(case, node)
        await self._end_unconfirmed(case, node, now)
        for code in await self.codes.revoke_of_case(case.node, case.id, now):
            await self.audit.write(actor, "recovery.code_revoked", code, case.tenant, node=case.node, case=case.id)
        await self._store(denied, actor, "recovery.denied")
        return denied

    async def end_overdue(self) -> None:
        """End the cases that were not decided, or not completed, in time. A grace lease of theirs has ended as well.

        No person has said that the machine on the grace lease is the node. So its chip is not the node's any more, and
        its next case is that of another machine. Its generation stays open and gets no lease: a tombstone on the machine
        would bar `cascadia recover`, with which an honest machine asks again.

        A case that cannot be ended is logged and tried again in the next pass. It stops no other one. Raises DatabaseBusy,
        DatabaseUnavailable, TransactionLost.
        """
        after, ended = "", 0
        while ended < ROWS_MAX and (cases := await self.cases.overdue(self.now(), after, ROWS_MAX - ended)):
            after = cases[-1].id
            for case in cases:
                try:
                    await self._end(case)
                    ended += 1
                except (DatabaseBusy, DatabaseUnavailable, TransactionLost):
                    raise
                except Exception as error:  # noqa: BLE001 (one broken case must not keep the others open)
                    self.troubles.warn(
                        type(error).__name__, "cannot end an overdue recovery", case=case.id, error=repr(error)
                    )

    async def _end(self, case: RecoveryCaseRow) -> None:
        with fault_point("fabric.recovery.lapse"):
            async with self.transaction(*self.keys(case)):
                fresh = await self.cases.find(case.id)
                if fresh is None or fresh.state not in UNFINISHED or fresh.decide_by > self.now():
                    return
                await self.activations.end_waiting(fresh.activation, "expired")
                node = await self._node(fresh)
                if await self._on_grace(fresh, node) is not None:
                    await self._give_chip_back(fresh, node)
                lapsed = msgspec.structs.replace(fresh, state="lapsed", reason="the time for it ran out")
                await self._store(lapsed, SYSTEM, "recovery.lapsed")

    # Inside of the transaction

    async def _node(self, case: RecoveryCaseRow) -> NodeRow:
        node = await self.nodes.find(case.node)
        if node is None:
            raise NotFound("the node of this case does not exist")
        return node

    async def _give_chip_back(self, case: RecoveryCaseRow, node: NodeRow) -> NodeRow:
        """Write the node with the chip of the machine before the case. The chip of the case is not that of the node."""
        node = msgspec.structs.replace(node, ek_hash=case.old_ek_hash)
        await self.nodes.update(node, "changed", wakes=True)
        return node

    async def _check_newest(self, case: RecoveryCaseRow) -> None:
        """Check that a later case of the node does not replace this one. Raises Conflict."""
        newest = await self.cases.latest(case.node)
        if newest is not None and newest.id != case.id:
            raise Conflict(f"the case {newest.id} of the same node was opened later; decide about that one")

    async def _case_life(self, case: RecoveryCaseRow) -> timedelta:
        tenant = await self.tenants.find(case.tenant)
        if tenant is None:
            raise NotFound("the tenant of this case does not exist")
        return timedelta(days=tenant.recovery.case_days)

    async def _admitted(self, case: RecoveryCaseRow) -> ActivationRow | None:
        """The activation of the case that waits; None if none waits. Raises Conflict if it is not admitted any more."""
        row = await self.activations.find(case.activation)
        if row is None:
            return None
        try:
            await self.rights.admitted(msgspec.structs.replace(row, recovery=RecoveryId("")))
        except REFUSALS as error:
            raise Conflict(f"cannot approve: {_text(error)}") from error
        return row if row.state == "pending" else None

    async def _on_grace(self, case: RecoveryCaseRow, node: NodeRow) -> GenerationRow | None:
        """The open generation of the node that runs on the grace lease of this case, also after its end."""
        generation = await self.nodes.find_generation(node.id, node.current_generation)
        if generation is None or generation.recovery != case.id or is_closed(node, generation):
            return None
        return generation

    async def _give_full_right(self, node: NodeRow, generation: GenerationRow, now: datetime) -> None:
        """Sign an ordinary lease for a generation on grace. A person has approved its fingerprint, so it is enrolled."""
        generation = msgspec.structs.replace(generation, recovery=RecoveryId(""), grace_until=None)
        node = msgspec.structs.replace(node, enrolled=generation.fingerprint)
        node, _ = await self.statement_stream.write_current(node, generation, now)
        await self.nodes.update(node, "changed", wakes=True)

    async def _end_unconfirmed(self, case: RecoveryCaseRow, node: NodeRow, now: datetime) -> None:
        """Begin the lapse of the case's activation, if it has a generation that is not confirmed."""
        row = await self.activations.find(case.activation)
        if row is None or not await self.activations.set_lapsing(row.id):
            return
        generation = await self.nodes.find_generation(node.id, row.generation)
        if generation is not None and not is_closed(node, generation):
            node = await self.statement_stream.write_end(node, generation, now, "superseded")
            await self.nodes.update(node, "lapsed")

    async def _store(self, case: RecoveryCaseRow, actor: str, action: str) -> None:
        await self.cases.update(case)
        await self.audit.write(
            actor,
            action,
            case.id,
            case.tenant,
            node=case.node,
            activation=case.activation,
            generation=case.generation or "",
            state=case.state,
            reason=case.reason,
        )


def _text(error: Refused) -> str:
    return error.detail or "node or tenant do not admit the machine any more"
