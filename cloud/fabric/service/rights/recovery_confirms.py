"""Use case: complete the recovery case of a machine that confirms, or begin its grace lease.

After a restore from a backup, a machine may show a confirm that the database has lost.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from cloud.audit import SYSTEM
from cloud.fabric.bodies.recovery import RecoveryPolicy
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.ports import Now
from cloud.fabric.service.rights.admitted import case_ended
from cloud.fabric.store.recovery_cases import UNFINISHED, RecoveryCaseStore
from cloud.fabric.store.rows import ActivationRow, GenerationRow, NodeRow, RecoveryCaseRow
from protocol.signed.statements import Lease


@dataclass(frozen=True, kw_only=True)
class RecoveryConfirms:
    """The part of a confirm that concerns a recovery case."""

    now: Now
    audit: AuditLog
    cases: RecoveryCaseStore

    async def at_confirm(
        self, row: ActivationRow, node: NodeRow, generation: GenerationRow, policy: RecoveryPolicy, actor: str
    ) -> GenerationRow:
        """Complete the case of a recovery that confirms, or begin its grace lease. Called in the confirm's transaction.

        The earlier generations of the node are closed already; `node` has the end of their overlap, and still the chip
        and the current generation of the machine before. Returns the changed generation. Raises RecoveryRefused if the
        case was refused or has lapsed meanwhile.
        """
        case, now = await self.cases.find(row.recovery), self.now()
        on_grace = case is not None and _gets_grace(case, now)
        if case is None or not (on_grace or case.state in ("open", "approved")):
            raise case_ended(case.reason if case else "", case.next_allowed_at if case else None)
        until = case.grace_until or min(now + timedelta(hours=policy.grace_hours), case.decide_by)
        return await self._completed(case, node, generation, until if on_grace else None, actor)

    async def taken_up(
        self, row: ActivationRow, node: NodeRow, generation: GenerationRow, lease: Lease, actor: str
    ) -> GenerationRow:
        """Complete the case of a recovery whose confirm the database has lost. `lease` shows the confirm.

        Otherwise as `at_confirm`. A grace lease has the end of the grace as its own. The case may have been decided
        since, so its state and the time for its decision do not count against the lease.
        """
        case = await self.cases.find(row.recovery)
        if case is None:
            return generation
        named = case.grace if lease.recovery is msgspec.UNSET and lease.version == 1 else lease.recovery == case.id
        on_grace = named and lease.expires_at == lease.terminate_at
        return await self._completed(case, node, generation, lease.terminate_at if on_grace else None, actor)

    async def _completed(
        self, case: RecoveryCaseRow, node: NodeRow, generation: GenerationRow, grace_until: datetime | None, actor: str
    ) -> GenerationRow:
        """Store the case of a confirmed generation, which has a grace lease until `grace_until`, or its full right."""
        if node.current_generation != case.generation:  # another machine may have activated since the case was opened
            case = msgspec.structs.replace(case, old_generation=node.current_generation, old_ek_hash=node.ek_hash)
        case = msgspec.structs.replace(case, generation=generation.number, overlap_until=node.overlap_until)
        if grace_until is not None:
            case = msgspec.structs.replace(case, grace_until=grace_until)
            generation = msgspec.structs.replace(generation, recovery=case.id, grace_until=grace_until)
        else:
            case = msgspec.structs.replace(case, state="consumed", reason="")
        await self.cases.update(case)
        await self.audit.write(
            actor,
            "recovery.grace" if grace_until is not None else "recovery.consumed",
            case.id,
            case.tenant,
            node=case.node,
            generation=case.generation,
            old_generation=case.old_generation,
            overlap_until=case.overlap_until,
            grace_until=case.grace_until,
            code=case.code,
        )
        return generation

    async def end_overtaken(self, row: ActivationRow, node: NodeRow) -> None:
        """End the unfinished case of the node, if the confirmed activation `row` is not of it. Call it in the confirm.

        A decision or a grace lease of that case is of before the activation. It must not close the new generation.
        """
        case = await self.cases.latest(node.id)
        if case is None or case.id == row.recovery or case.state not in UNFINISHED:
            return
        ended = msgspec.structs.replace(case, state="lapsed", reason=f"superseded by the activation {row.id}")
        await self.cases.update(ended)
        await self.audit.write(
            SYSTEM,
            "recovery.lapsed",
            case.id,
            case.tenant,
            node=case.node,
            activation=case.activation,
            generation=case.generation or "",
            state=ended.state,
            reason=ended.reason,
        )


def _gets_grace(case: RecoveryCaseRow, now: datetime) -> bool:
    """Whether the confirm begins the grace lease of the case, or continues it. One that has ended is not begun again."""
    open_until = case.grace_until is None or now < case.grace_until
    return case.grace and case.state in ("eligible", "code_issued") and open_until
