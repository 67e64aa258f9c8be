"""Use case: complete the recovery case of a machine that confirms, or begin its grace lease."""

from dataclasses import dataclass
from datetime import timedelta

import msgspec

from cloud.fabric.bodies.recovery import RecoveryPolicy
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.ports import Now
from cloud.fabric.service.rights.admitted import case_ended
from cloud.fabric.store.recovery_cases import RecoveryCaseStore
from cloud.fabric.store.rows import ActivationRow, GenerationRow, NodeRow


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

        The earlier generations of the node are closed already; `node` has the end of their overlap. Returns the changed
        generation. Raises RecoveryRefused if the case was refused or has lapsed meanwhile.
        """
        case, now = await self.cases.find(row.recovery), self.now()
        if case is None or case.state not in ("open", "approved", "eligible"):
            raise case_ended(case.reason if case else "", case.next_allowed_at if case else None)
        case = msgspec.structs.replace(case, generation=generation.number, overlap_until=node.overlap_until)
        if case.state == "eligible":
            until = case.grace_until or min(now + timedelta(hours=policy.grace_hours), case.decide_by)
            case = msgspec.structs.replace(case, grace_until=until)
            generation = msgspec.structs.replace(generation, recovery=case.id, grace_until=until)
        else:
            case = msgspec.structs.replace(case, state="consumed", reason="")
        await self.cases.update(case)
        await self.audit.write(
            actor,
            "recovery.grace" if case.state == "eligible" else "recovery.consumed",
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
