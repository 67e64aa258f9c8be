"""Pure functions: what Fabric decides about a machine that asks for its node back.

The first rule that applies, from the top:

    the node is revoked or released, or was never confirmed     refuse
    nothing ties the machine to the node                        refuse
    another machine asks for the node, with no weaker evidence  refuse, until its case ends
    a person refused this machine a short time ago              refuse, until the time of the refusal
    the cloud was restored, and no statement is presented, or
    an operator must accept the node first                      needs_operator: waits, also with a code
    a recovery code for the node                                open: goes on
    a person approved this machine                              approved: goes on
    the tenant's policy gives a grace lease                     eligible: waits for the silence of the node, then
                                                                goes on with a grace lease
    an operator issued a code for the case                      code_issued: waits
    otherwise                                                   needs_operator: waits

A refusal changes nothing. The fingerprint is the machine's own report: it makes a case eligible, and proves nothing. The
TPM alone does not recover a node either, because a thief may hold the machine.

The cloud's last contact before the machine fell silent is known; when it fell silent is its own report. So "online within
a day before it fell silent" means: between the last contact and the time at which the machine last ran is at most a day.
A machine that lost this time must have had a contact within a day before it asks. A contact long after the machine last
ran shows that the node runs elsewhere.

The fingerprint and the last run are the machine's own report. So the node must also be silent from the proof on, for a
time that the policy sets: a node that is online makes a contact in each heartbeat slot
(`cloud.fabric.service.nodes.silence`).
"""

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from cloud.fabric.attestation.tiers import TIERS
from cloud.fabric.bodies.recovery import RecoveryEvidence, RecoveryPolicy
from cloud.fabric.schemas import Standing
from protocol.messages.recovery import CaseState, Needs, Situation
from protocol.signed.statements import Tier

SILENT_MAX = timedelta(days=1)
"""Longest time between the last contact and the machine's last run, for a grace lease without a person."""

RECORDED_WITHIN = timedelta(days=2)
"""A machine records about once a day that it runs. A node that was online this long after the record is another machine,
or runs from another disk: this one may be an old copy."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """The node that a machine asks for. `confirmed`: it had a confirmed generation.

    `held`: the node must present its last statement before it gets anything, as after a restore from a backup.
    `conflicting`: an operator must accept the node first, because the database may be older than its last statement.
    `heartbeat_seconds` is the node's slot, if the cloud sets it; otherwise 0.
    """

    standing: Standing
    seat_held: bool
    confirmed: bool
    tier: Tier
    held: bool = False
    conflicting: bool = False
    heartbeat_seconds: int = 0


class Earlier(msgspec.Struct, frozen=True, kw_only=True):
    """The newest case of the node.

    `same_machine`: the machine of that case asks now. `grace_until` is the end of the grace lease of that case; None
    without a grace lease.
    """

    state: CaseState
    same_machine: bool
    evidence: RecoveryEvidence
    decide_by: datetime
    next_allowed_at: datetime | None
    reason: str
    code: bool
    grace: bool
    grace_until: datetime | None
    silent_until: datetime | None = None


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """The grace leases of the period, by the times of their cases, the oldest first: the tenant's, and the node's."""

    of_tenant: tuple[datetime, ...] = ()
    of_node: tuple[datetime, ...] = ()


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine shows. `claimed` is the situation that it found. `code`: it has a recovery code for this node."""

    claimed: Situation
    evidence: RecoveryEvidence
    code: bool


class Refuse(msgspec.Struct, frozen=True, kw_only=True):
    """The machine is refused, and nothing changes. It may ask again at `allowed_at`; None if no rule sets a time."""

    reason: str
    allowed_at: datetime | None = None


class Go(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the case, and whether the activation goes on (`goes_on`) or waits.

    `grace`: the lease is a grace lease. `supersedes`: the node's unfinished case of another machine ends. `reason` says
    why a person or a code is needed. `next_allowed_at` is the time from which the policy gives a grace lease again.
    Until `silent_until` the node must make no contact.
    """

    state: Literal["open", "approved", "eligible", "code_issued", "needs_operator"]
    situation: Situation
    goes_on: bool
    needs: Needs
    grace: bool = False
    supersedes: bool = False
    reason: str = ""
    next_allowed_at: datetime | None = None
    silent_until: datetime | None = None


UNFINISHED = frozenset({"open", "eligible", "needs_operator", "approved", "code_issued"})


def continues(earlier: Earlier, now: datetime) -> bool:
    """Whether a proof continues the newest case of the node. A case whose time has run out ends, and another one opens."""
    return earlier.same_machine and earlier.state in UNFINISHED and now < earlier.decide_by


def situation_of(claimed: Situation, evidence: RecoveryEvidence, tier: Tier) -> Situation:
    """What has happened to a node of this tier, by the proof. Whether a proved chip was cleared is the machine's own report.

    A machine without a TPM that becomes a node with one has lost the chip, so the machine with the chip is replaced.
    """
    if not evidence.same_chip:
        same_parts = tier == evidence.tier == "software" and evidence.fingerprint == "match"
        return "reinstalled" if same_parts else "hardware-replaced"
    return "tpm-cleared" if claimed == "tpm-cleared" else "reinstalled"


def decide(
    policy: RecoveryPolicy, known: Known, asked: Asked, used: Used, earlier: Earlier | None, now: datetime
) -> Refuse | Go:
    """What follows for a machine whose proof was checked. The module has the order of the rules."""
    refused = _barred(known, asked) or _barred_by_earlier(asked, earlier, now)
    if refused is not None:
        return refused
    own = earlier if earlier is not None and continues(earlier, now) else None
    go = _go(policy, known, asked, used, own, now)
    other = earlier is not None and not earlier.same_machine and earlier.state in UNFINISHED
    return msgspec.structs.replace(go, supersedes=other)


def _barred(known: Known, asked: Asked) -> Refuse | None:
    """The refusal because of the node's standing, or because nothing ties the machine to it."""
    if known.standing == "revoked":
        return Refuse(reason="the node was revoked; it needs an activation code that readmits it")
    if known.standing == "released" or not known.seat_held:
        return Refuse(reason="the node has no seat any more; it needs an activation code")
    if not known.confirmed:
        return Refuse(reason="the node was never confirmed; it needs an activation code")
    evidence = asked.evidence
    if evidence.same_chip or evidence.former_chip or evidence.statement or asked.code:
        return None
    if evidence.fingerprint == "match":
        return None
    if evidence.fingerprint == "inconclusive":
        return Refuse(reason="too little of the fingerprint could be read; try again")
    return Refuse(reason=f"this machine is not the node: another TPM, and {_share(evidence)}")


def _barred_by_earlier(asked: Asked, earlier: Earlier | None, now: datetime) -> Refuse | None:
    """The refusal because of another machine's case, or because a person refused this machine."""
    if earlier is None or asked.code:
        return None
    until = earlier.decide_by
    if earlier.state in UNFINISHED and not earlier.same_machine and now < until and not _outranks(asked, earlier):
        return Refuse(reason="another machine asks for this node", allowed_at=until)
    if earlier.state != "refused" or not earlier.same_machine:
        return None
    if earlier.next_allowed_at is not None and now < earlier.next_allowed_at:
        reason = f": {earlier.reason}" if earlier.reason else ""
        return Refuse(reason=f"an operator refused this machine{reason}", allowed_at=earlier.next_allowed_at)
    return None


def _go(policy: RecoveryPolicy, known: Known, asked: Asked, used: Used, own: Earlier | None, now: datetime) -> Go:
    """The state of the case. `own` is the unfinished case of this machine, None without one."""
    situation = situation_of(asked.claimed, asked.evidence, known.tier)
    if (wait := _wait_after_restore(known, asked.evidence)) and (own is None or own.state != "approved"):
        return Go(state="needs_operator", situation=situation, goes_on=False, needs="operator", reason=wait)
    if asked.code or (own is not None and own.state == "open"):
        return Go(state="open", situation=situation, goes_on=True, needs="operator-or-code")
    if own is not None and own.state == "approved":
        return Go(state="approved", situation=situation, goes_on=True, needs="operator-or-code")
    if own is not None and own.grace and (own.grace_until is None or now < own.grace_until):
        # The grace lease is counted already. A repeat gets no later end, and no earlier one of the silence.
        return _eligible(situation, own.silent_until, now)
    refused = grace_refusal(policy, known, asked.evidence, used, now)
    if refused is None:
        return _eligible(situation, _silent_until(policy, known, asked.evidence, now), now)
    issued = own is not None and own.state == "code_issued"
    return Go(
        state="code_issued" if issued else "needs_operator",
        situation=situation,
        goes_on=False,
        needs="code" if issued else "operator-or-code",
        reason=refused.reason,
        next_allowed_at=refused.allowed_at,
    )


def _silent_until(policy: RecoveryPolicy, known: Known, evidence: RecoveryEvidence, now: datetime) -> datetime | None:
    """Until when the node must be silent. None if the policy asks for none, or if the machine has the node's chip."""
    if not policy.silence_minutes or evidence.same_chip:
        return None
    return now + silence(policy.silence_minutes, 2 * known.heartbeat_seconds)


def silence(minutes: int, slots_seconds: int) -> timedelta:
    """How long a node must be silent: the policy's minutes, or some of its heartbeat slots if those are longer."""
    return timedelta(seconds=max(60 * minutes, slots_seconds))


def _eligible(situation: Situation, silent_until: datetime | None, now: datetime) -> Go:
    """The case of a machine that gets a grace lease, at once or after the silence of the node."""
    waits = silent_until is not None and now < silent_until
    return Go(
        state="eligible",
        situation=situation,
        goes_on=not waits,
        grace=True,
        needs="operator-or-code",
        reason=f"a grace lease follows if the node is silent until {silent_until:%Y-%m-%d %H:%M} UTC" if waits else "",
        silent_until=silent_until,
    )


def _wait_after_restore(known: Known, evidence: RecoveryEvidence) -> str:
    """Why an operator must decide after a restore, also about a code; empty if the cloud has what it needs."""
    if known.conflicting:
        return "the node waits for an operator since the cloud was restored or rebuilt"
    if known.held and not evidence.statement:
        return "the cloud was restored from a backup, and the machine shows no statement of the node"
    return ""


def grace_refusal(
    policy: RecoveryPolicy, known: Known, evidence: RecoveryEvidence, used: Used, now: datetime
) -> Refuse | None:
    """Why the policy gives no grace lease to this machine; None if it gives one."""
    if policy.grace_quota == 0:
        return Refuse(reason="the tenant gives no grace lease without a person")
    if "software" in (known.tier, evidence.tier):
        return Refuse(reason="a machine without a TPM gets no grace lease without a person")
    if TIERS.index(evidence.tier) > TIERS.index(known.tier):
        return Refuse(reason=f"the TPM reaches the tier {evidence.tier} only, and the node had {known.tier}")
    if known.standing != "active":
        return Refuse(reason="the node is suspended")
    if evidence.former_chip:
        return Refuse(reason="an earlier recovery of the node replaced this TPM")
    if evidence.fingerprint != "match":
        return Refuse(reason=f"the fingerprint does not match: {_share(evidence)}")
    if evidence.last_seen_at is None or _silent_from(evidence, now) - evidence.last_seen_at > SILENT_MAX:
        return Refuse(reason="the node was not online within a day before it fell silent")
    if evidence.last_ran_at is not None and evidence.last_seen_at - evidence.last_ran_at > RECORDED_WITHIN:
        return Refuse(reason="the node was online long after this machine last ran")
    period = timedelta(days=policy.period_days)
    if used.of_node:
        return Refuse(reason="the node had a grace lease in this period", allowed_at=used.of_node[-1] + period)
    if len(used.of_tenant) >= policy.grace_quota:
        frees = used.of_tenant[len(used.of_tenant) - policy.grace_quota]
        return Refuse(reason="the tenant's grace leases of this period are used up", allowed_at=frees + period)
    return None


def _silent_from(evidence: RecoveryEvidence, now: datetime) -> datetime:
    """When the machine fell silent: when it last ran by its own report, but not in the future; without a report, now."""
    return now if evidence.last_ran_at is None else min(evidence.last_ran_at, now)


def _rank(evidence: RecoveryEvidence, *, code: bool) -> int:
    """How strongly the evidence ties a machine to the node: a person or a code, the chip, the fingerprint, a name."""
    if code:
        return 3
    return 2 if evidence.same_chip else int(evidence.fingerprint == "match")


def _outranks(asked: Asked, earlier: Earlier) -> bool:
    """Whether the evidence is stronger than that of another machine's case. A machine that runs stays."""
    decided = earlier.code or earlier.state == "approved"
    stronger = _rank(asked.evidence, code=asked.code) > _rank(earlier.evidence, code=decided)
    return stronger and earlier.grace_until is None


def _share(evidence: RecoveryEvidence) -> str:
    same = sum(evidence.matched.values())
    return f"{same} of {same + sum(evidence.changed.values())} of the enrolled weight is the same"
