"""Use case: the recovery case of a machine, from its proof to its confirm. Called in the transactions of the activation.

`cloud.fabric.licensing.recovery` decides. Here the rows are read, the case is stored with one audit entry, and the
recovery code is used, in one transaction.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from cloud.fabric.bodies.recovery import RecoveryEvidence, RecoveryPolicy
from cloud.fabric.entropy import Entropy, new_id
from cloud.fabric.errors import RecoveryRefused
from cloud.fabric.licensing.presented import waits
from cloud.fabric.licensing.recovery import UNFINISHED, Asked, Earlier, Go, Known, Refuse, Used, continues, decide
from cloud.fabric.service.audit_log import ANONYMOUS, AuditLog
from cloud.fabric.service.ports import Now
from cloud.fabric.service.recovery.codes import RecoveryCodes
from cloud.fabric.service.rights.admitted import case_ended
from cloud.fabric.service.uptime import Uptime
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.recovery_cases import RecoveryCaseStore
from cloud.fabric.store.rows import ActivationRow, NodeRow, RecoveryCaseRow, TenantRow, enrolled_of
from protocol.fingerprint import Judgement, judge, policy_of
from protocol.ids import RecoveryId
from protocol.messages.recovery import AwaitedRecovery

GRACES_MAX = 10_000
"""Grace leases of one tenant and period that are counted. A larger quota counts as this number."""


class Claimant(msgspec.Struct, frozen=True, kw_only=True):
    """A proved machine that asks for a node.

    `same_chip`: its TPM is that of the node, or without a TPM the key in force signed the proof. `former_chip`: an earlier
    recovery of the node replaced its TPM. `fingerprint` has the HMACs by component, `unreadable` the kinds that the
    machine could not read.
    """

    row: ActivationRow
    node: NodeRow
    same_chip: bool
    former_chip: bool
    fingerprint: dict[str, str]
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RecoveryCases:
    """Opens and continues recovery cases. `epoch` is the installation's epoch."""

    epoch: int
    now: Now
    entropy: Entropy
    audit: AuditLog
    activations: ActivationStore
    nodes: NodeStore
    cases: RecoveryCaseStore
    codes: RecoveryCodes
    uptime: Uptime

    async def judge(self, claimant: Claimant, tenant: TenantRow) -> tuple[RecoveryCaseRow, bool]:
        """Open or continue the case of a machine, and use its recovery code. Called in the transaction of the proof.

        Returns the stored case, and whether the activation goes on. Raises RecoveryRefused, RecoveryCodeRefused.
        """
        row, node, now = claimant.row, claimant.node, self.now()
        if row.claim is None:
            raise RecoveryRefused("this activation is no recovery")
        judged = await self._judged(claimant)
        evidence = await self._evidence(claimant, judged)
        asked = Asked(claimed=row.claim.situation, evidence=evidence, code=bool(row.claim.code))
        before = await self.cases.latest(node.id)
        earlier = await self._earlier(claimant, before) if before is not None else None
        used = await self._used(node, tenant.recovery, now)
        held = waits(node.presented_epoch, self.epoch, node.hold)
        known = Known(
            standing=node.standing,
            seat_held=node.seat_held,
            confirmed=node.current_generation > 0,
            tier=node.tier,
            held=held,
            conflicting=node.hold != "" or (held and row.claim.later),
            heartbeat_seconds=(node.intervals.heartbeat_seconds or 0) if node.intervals is not None else 0,
        )
        decided = decide(tenant.recovery, known, asked, used, earlier, now)
        if isinstance(decided, Refuse):
            raise RecoveryRefused(decided.reason, decided.allowed_at)
        own = before if earlier is not None and continues(earlier, now) else None
        case = self._case(claimant, evidence, decided, own, tenant.recovery)
        if row.claim.code and decided.goes_on:
            matches = judged.result == "match"
            await self.codes.use(row.claim.code, node, case.id, fingerprint_matches=matches)
        if before is not None and before.state in UNFINISHED:
            await self._end_before(before, case)
        if own is None:
            generation = await self.nodes.find_generation(node.id, node.current_generation)
            ends = generation.terminate_at if generation is not None else None
            case = msgspec.structs.replace(case, overlap_until=ends)
            await self.cases.insert(case)
        else:
            await self.cases.update(case)
        if decided.silent_until is not None and not decided.goes_on:
            # A node that is online makes a contact at once.
            watched = msgspec.structs.replace(node, silent_until=decided.silent_until)
            await self.nodes.update(watched, "changed", wakes=True, since=node)
        await self._audit_proof(case, row, opened=own is None)
        return case, decided.goes_on

    async def awaited(self, row: ActivationRow) -> AwaitedRecovery:
        """The case that a waiting activation waits for. Raises RecoveryRefused if the case was refused or has lapsed."""
        case = await self.cases.find(row.recovery)
        if case is None or case.state in ("refused", "lapsed"):
            raise case_ended(case.reason if case else "", case.next_allowed_at if case else None)
        return AwaitedRecovery(case.id, case.state, case.needs, case.decide_by, case.reason)

    # Inside of the transaction of the proof

    async def _judged(self, claimant: Claimant) -> Judgement:
        """The reported fingerprint, compared with the enrolled one of the node."""
        node = claimant.node
        generation = await self.nodes.find_generation(node.id, node.current_generation)
        enrolled = enrolled_of(node, generation) if generation is not None else node.enrolled
        return judge(policy_of(enrolled), claimant.fingerprint, claimant.unreadable)

    async def _evidence(self, claimant: Claimant, judged: Judgement) -> RecoveryEvidence:
        row, node = claimant.row, claimant.node
        generation = await self.nodes.find_generation(node.id, node.current_generation)
        seen = [generation.seen_at, generation.confirmed_at] if generation is not None else []
        contacts = [at for at in seen if at is not None]
        return RecoveryEvidence(
            same_chip=claimant.same_chip,
            fingerprint=judged.result,
            matched={kind.kind: kind.weight for kind in judged.kinds if kind.result == "same"},
            changed={kind.kind: kind.weight for kind in judged.kinds if kind.result != "same"},
            statement=row.claim is not None and row.claim.statement,
            last_seen_at=max(contacts, default=None),
            last_ran_at=row.claim.last_ran_at if row.claim is not None else None,
            tier=row.tier,
            address=row.address,
            agent_version=row.agent_version,
            former_chip=claimant.former_chip,
        )

    async def _earlier(self, claimant: Claimant, case: RecoveryCaseRow) -> Earlier:
        return Earlier(
            state=case.state,
            same_machine=await self._is_same(claimant, case),
            evidence=case.evidence,
            decide_by=case.decide_by,
            next_allowed_at=case.next_allowed_at,
            reason=case.reason,
            code=bool(case.code),
            grace=case.grace,
            grace_until=case.grace_until,
            silent_until=self.uptime.end_of(case.silent_until) if case.silent_until is not None else None,
        )

    async def _is_same(self, claimant: Claimant, case: RecoveryCaseRow) -> bool:
        """Whether a case is of this machine: the same chip; without a TPM, the same fingerprint as in the case's proof."""
        if claimant.row.tier != "software" or case.evidence.tier != "software":
            return claimant.row.ek_hash == case.ek_hash
        proof = await self.activations.find(case.activation)
        if proof is None:
            return False
        return judge(policy_of(proof.fingerprint), claimant.fingerprint, claimant.unreadable).result == "match"

    async def _used(self, node: NodeRow, policy: RecoveryPolicy, now: datetime) -> Used:
        if policy.grace_quota == 0:
            return Used()
        since = now - timedelta(days=policy.period_days)
        graces = await self.cases.graces(node.tenant, since, GRACES_MAX)
        return Used(
            of_tenant=tuple(at for at, _ in graces), of_node=tuple(at for at, owner in graces if owner == node.id)
        )

    def _case(
        self,
        claimant: Claimant,
        evidence: RecoveryEvidence,
        decided: Go,
        own: RecoveryCaseRow | None,
        policy: RecoveryPolicy,
    ) -> RecoveryCaseRow:
        """The case after the proof: a new one, or the machine's unfinished one `own`."""
        row, node, now = claimant.row, claimant.node, self.now()
        if own is None:
            own = RecoveryCaseRow(
                id=RecoveryId(new_id("rcv", now, self.entropy)),
                tenant=node.tenant,
                node=node.id,
                situation=decided.situation,
                state=decided.state,
                needs=decided.needs,
                evidence=evidence,
                activation=row.id,
                ek_hash=row.ek_hash,
                old_ek_hash=node.ek_hash,
                old_generation=node.current_generation,
                generation=0,
                overlap_until=None,
                opened_at=now,
                decide_by=now + timedelta(days=policy.case_days),
            )
        else:
            decided = msgspec.structs.replace(decided, situation=own.situation)
        code = row.claim.code if row.claim is not None and decided.goes_on else ""
        return msgspec.structs.replace(
            own,
            situation=decided.situation,
            state=decided.state,
            needs=decided.needs,
            evidence=evidence,
            activation=row.id,
            ek_hash=row.ek_hash,
            next_allowed_at=decided.next_allowed_at,
            reason=decided.reason or (own.reason if own.decided_by else ""),
            code=code or own.code,
            grace=own.grace or decided.grace,
            silent_until=decided.silent_until or own.silent_until,
        )

    async def _end_before(self, before: RecoveryCaseRow, case: RecoveryCaseRow) -> None:
        """End what waited for the node before: the earlier activation, and the case if it is of another machine."""
        if before.activation != case.activation:  # the machine has started again
            await self.activations.end_waiting(before.activation, "superseded")
        if before.id == case.id:
            return
        ended = msgspec.structs.replace(before, state="lapsed", reason=f"superseded by {case.id}")
        await self.cases.update(ended)

    async def _audit_proof(self, case: RecoveryCaseRow, row: ActivationRow, *, opened: bool) -> None:
        await self.audit.write(
            ANONYMOUS,
            "recovery.opened" if opened else "recovery.continued",
            case.id,
            case.tenant,
            node=case.node,
            activation=row.id,
            state=case.state,
            situation=case.situation,
            same_chip=case.evidence.same_chip,
            fingerprint=case.evidence.fingerprint,
            statement=case.evidence.statement,
            tier=row.tier,
            code=case.code,
            grace=case.grace or "",
            reason=case.reason,
        )
