"""Use case: complete the recovery case of a machine that confirms, or begin its grace lease."""

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
        if node.current_generation != case.generation:  # another machine may have activated since the case was opened
            case = msgspec.structs.replace(case, old_generation=node.current_generation, old_ek_hash=node.ek_hash)
        case = msgspec.structs.replace(case, generation=generation.number, overlap_until=node.overlap_until)
        if on_grace:
            until = case.grace_until or min(now + timedelta(hours=policy.grace_hours), case.decide_by)
            case = msgspec.structs.replace(case, grace_until=until)
            generation = msgspec.structs.replace(generation, recovery=case.id, grace_until=until)
        else:
            case = msgspec.structs.replace(case, state="consumed", reason="")
        await self.cases.update(case)
        await self.audit.write(
            actor,
            "recovery.grace" if on_grace else "recovery.consumed",
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
