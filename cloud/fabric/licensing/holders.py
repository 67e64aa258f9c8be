"""Pure functions: who holds a generation's key. The judgement of renewal tokens and of the TPM's clock.

One machine has one TPM, so one holder uses a generation's key. A copied virtual machine has the key too. The two copies
differ in what they spend: each session spends a renewal token (`cloud.fabric.licensing.renewal_tokens`), and a chain of
tokens can go on in one place only. The clock of the TPM (TCG TPM 2.0 Library, part 1, section 36) is the second
evidence. It is the node's own report, so it decides nothing that the tokens deny.

- A token that was spent last may be spent again: its answer was lost.
- An older token, or a clock that went back, is a machine that was put back from a backup. It starts another chain. If
  the first chain goes on later, there are two machines.
- A token that was handed out, and that the chain left aside, shows two machines at once.
- A node without a token is judged by the clock alone.
- A machine that was put back is repaired without a person as often as the tenant allows
  (`cloud.fabric.licensing.repairs`). A further one waits until an operator approves it. If the current holder goes on
  meanwhile, there are two machines.
- A machine that renews with a former key of the generation is judged at that renewal
  (`cloud.fabric.licensing.key_returns`). Its next session begins another chain, whatever its token is.
- Counts that fell show nothing by themselves: an update of the TPM's firmware may set them to 0. Two TPMs are shown by
  three requests: one, then another that is behind it, then a third that goes on from the first.

Nothing here ends a licence. A suspicion is a flag. The tenant's policy and an operator decide what follows.
"""

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from cloud.fabric.bodies.clones import CloneCause, HolderState
from cloud.fabric.licensing.known_holders import (
    Arrival,
    Holder,
    Holders,
    Outcome,
    SessionJudgement,
    bounded,
    holder_id,
    with_holder,
)
from cloud.fabric.licensing.renewal_tokens import NO_TOKEN, NUMBER_MAX, RenewalToken
from cloud.fabric.licensing.session_evidence import CLOCK_TOLERANCE, SessionEvidence, went_back, went_on

SPENT_MAX = 16
"""Spent tokens that a holder remembers: the sessions of about five days. An older token counts as a spent one."""
Relation = Literal["base", "child", "ahead", "spent", "diverged"]


def judge(holders: Holders | None, arrival: Arrival) -> SessionJudgement:
    """Judge one session by the holders that are known. `holders` is None before the first session."""
    if holders is None:
        return _first(arrival)
    token, current = arrival.token, holders.current
    if current.awaited:
        return _awaited(holders, arrival)
    if token is None:
        return _without_token(holders, arrival)
    holder = _holder_of(holders, token)
    relation = _relation(holder, token) if holder is not None else "spent"
    if holder is not None and holder.state in ("older", "shut"):
        return _refused(holders, arrival, holder)
    # The clocks of two replicas may differ. So a request with a token that the current holder spent counts as overtaken
    # within the tolerance, unless the TPM's clock shows that the request is later.
    overtaken = holder is current and relation == "spent" and not went_on(current.last, arrival.evidence)
    tolerance = CLOCK_TOLERANCE if overtaken else timedelta()
    if arrival.evidence.asked_at < current.last.asked_at + tolerance:
        # The request was overtaken by a later one of the same machine, so it shows nothing about the present.
        return SessionJudgement("late", holders, current.id, gets_token=False)
    if holder is current and relation in ("base", "child", "ahead"):
        return _goes_on(holders, arrival, token, relation)
    if holders.cause or (holders.settled and not _after_settling(holders, holder, token, relation)):
        return _refused(holders, arrival, None)
    if relation == "diverged":
        return _suspected(holders, current, _newcomer(arrival, "older"), "renewal-token", arrival)
    if holder is not None and holder is not current and relation != "spent":
        # The chain that a restored machine left goes on: the machine that was restored runs elsewhere too.
        returned = _spent(msgspec.structs.replace(holder, state="current"), arrival, token, relation)
        return _suspected(holders, returned, _displaced(current, "older"), "renewal-token", arrival)
    return _restored(holders, arrival, token)


def note_behind(holders: Holders, evidence: SessionEvidence) -> Holders:
    """The holders after a superseded generation of the same chip asked.

    Changed only if its TPM is behind the current holder's by more than one TPM goes back, and it asked later. The first
    such evidence stays until the current holder's next session decides.
    """
    current = holders.current.last
    # The two generations have different keys and one chip.
    same_key = msgspec.structs.replace(current, key=evidence.key)
    if holders.behind is not None or holders.cause or any(each.state == "shut" for each in holders.all):
        return holders
    if evidence.asked_at < current.asked_at + CLOCK_TOLERANCE or not went_back(same_key, evidence):
        return holders
    return msgspec.structs.replace(holders, behind=evidence)


def suspect(holders: Holders, cause: CloneCause, other: Holder, now: datetime) -> Holders:
    """The holders with a suspicion that other evidence gave. `other` is the holder beside the current one.

    A suspicion that is there already stays, and keeps its cause. A restored machine that waits is no suspicion.
    """
    flagged = with_holder(holders, msgspec.structs.replace(other, state="older"))
    if holders.cause not in ("", "restored"):
        return flagged
    return msgspec.structs.replace(flagged, cause=cause, since=now)


def settle(holders: Holders, keep: str, chain: str, now: datetime) -> Holders:
    """The holders after an operator kept the holder `keep`: it goes on in the chain `chain`, and no other does.

    If the holder is a restored machine that waited for approval, the others are left, as after an automatic repair.
    `chain` has 8 hex digits and is new. Raises KeyError for an unknown holder.
    """
    kept = holders.find(keep)
    if kept is None:
        raise KeyError(keep)
    highest = holders.highest
    approved = holders.cause == "restored" and kept is not holders.current
    state: HolderState = "left" if approved else "shut"
    others = [msgspec.structs.replace(each, state=state, statement="") for each in holders.all if each is not kept]
    if kept is not holders.current:
        # The other holder's tokens are of the old chain too. Only what comes after the kept one's own token counts, and a
        # token that the kept one got before.
        kept = msgspec.structs.replace(kept, chain=chain, number=highest, spent=(), statement="")
    if kept.last.key != holders.current.last.key:
        # It renews its certificate first, and shows its key by that.
        kept = msgspec.structs.replace(kept, awaited=kept.awaited or kept.last.key)
    kept = msgspec.structs.replace(kept, state="current")
    settled = msgspec.structs.replace(holders, all=(kept, *others), cause="", since=None, behind=None)
    if approved or not others:
        return settled
    return msgspec.structs.replace(settled, settled=highest, settled_at=now)


def _first(arrival: Arrival) -> SessionJudgement:
    holder = Holder(arrival.id, "current", arrival.evidence.at, arrival.evidence)
    token = arrival.token
    if token is None:
        return SessionJudgement("normal", Holders((holder,)), holder.id)
    holder = msgspec.structs.replace(holder, chain=token.chain, number=token.number, base=token.digest)
    return SessionJudgement("ahead", Holders((holder,)), holder.id)


def _without_token(holders: Holders, arrival: Arrival) -> SessionJudgement:
    """Judge a node that has no token: an older agent, or a lost file. The clock alone decides."""
    current = holders.current
    if arrival.evidence.asked_at < current.last.asked_at:
        return SessionJudgement("late", holders, current.id, gets_token=False)
    if msgspec.structs.replace(arrival.evidence, at=current.last.at) == current.last:
        return SessionJudgement("repeated", holders, current.id)
    waiting = _waiting(holders)
    if waiting is not None and waiting.awaited and arrival.evidence.key not in (waiting.last.key, waiting.awaited):
        return _restored_and_gone_on(holders, _asked_again(current, arrival), arrival)
    if holders.cause or holders.settled:
        return _refused(holders, arrival, None)
    if went_back(current.last, arrival.evidence):
        return _restored(holders, arrival, None)
    seen = _asked_again(current, arrival)
    holders, two = _compared_with_behind(holders, arrival)
    if two is not None:
        return _suspected(holders, seen, two, "chip", arrival)
    return SessionJudgement("token-lost" if current.number else "normal", with_holder(holders, seen), current.id)


def _displaced(holder: Holder, state: HolderState) -> Holder:
    """The holder in whose place another one comes. Its last session was answered with a token."""
    return msgspec.structs.replace(holder, state=state, unspent=holder.chain)


def _is_unspent(holder: Holder, token: RenewalToken) -> bool:
    """Whether the token is the last token that the holder got before another holder took its place."""
    return holder.unspent != "" and (token.chain, token.parent) == (holder.unspent, holder.base)


def _holder_of(holders: Holders, token: RenewalToken) -> Holder | None:
    """The holder that a token is of: it spent the token, or the token follows its last one; else that of the chain."""
    for each in holders.all:
        if each.base == token.digest:
            return each
    current, *others = holders.all
    if _is_unspent(current, token) and not any(token.digest in _digests(each) for each in others):
        return current
    for each in holders.all:
        if each.state in ("older", "shut") and (each.chain, each.base) == (token.chain, token.parent):
            return each
    return next((each for each in holders.all if each.chain == token.chain), None)


def _digests(holder: Holder) -> set[str]:
    """The tokens that a holder spent before its last one, as far as it remembers them."""
    return {digest for _, digest in holder.spent}


def _relation(holder: Holder, token: RenewalToken) -> Relation:
    if token.digest == holder.base:
        return "base"
    if _is_unspent(holder, token):
        return "child"
    if (token.chain, token.parent) == (holder.chain, holder.base) and token.number > holder.number:
        return "child"
    if token.number > holder.number + 1:
        # A crash of the cloud, or a restored database, forgets the last tokens that were spent.
        return "ahead"
    oldest = holder.spent[0][0] if holder.spent else holder.number
    return "spent" if token.digest in _digests(holder) or token.number < oldest else "diverged"


def _awaited(holders: Holders, arrival: Arrival) -> SessionJudgement:
    """Judge a session while the current holder, which came back with a former key, has opened none since."""
    current = holders.current
    if arrival.evidence.asked_at < current.last.asked_at:
        return SessionJudgement("late", holders, current.id, gets_token=False)
    other = holders.of_key(arrival.evidence.key)
    if other is None or other is current:  # a key that no holder has shown is from another rekey of the current holder
        return SessionJudgement("normal", with_holder(holders, _begun(holders, current, arrival)), current.id)
    if holders.cause or other.state == "shut":
        return _refused(holders, arrival, other)
    # The key that was to be replaced is in use after the machine with the former key came back.
    left = msgspec.structs.replace(current, state="older")
    return _suspected(holders, _begun(holders, other, arrival), left, "former-key", arrival)


def _begun(holders: Holders, holder: Holder, arrival: Arrival) -> Holder:
    """The holder, now the current one, with a new chain that this session begins."""
    return msgspec.structs.replace(
        holder,
        state="current",
        last=arrival.evidence,
        chain=arrival.id,
        number=holders.highest,
        base=arrival.token.digest if arrival.token is not None else NO_TOKEN,
        answers=1,
        spent=(),
        statement="",
        asked_before=None,
        awaited="",
    )


def _goes_on(holders: Holders, arrival: Arrival, token: RenewalToken, relation: Relation) -> SessionJudgement:
    """Judge the current holder's own next session."""
    current = holders.current
    gone_on = _spent(current, arrival, token, relation)
    if holders.cause == "restored":
        return _restored_and_gone_on(holders, gone_on, arrival)
    if not holders.cause and went_back(current.last, arrival.evidence):
        if relation == "base":
            return _restored(holders, arrival, token)
        holders = msgspec.structs.replace(holders, behind=None)
        if relation == "child" and current.asked_before is not None and went_on(current.asked_before, arrival.evidence):
            # No backup has this token, because it was never spent. Another TPM of the same state asked in between: this
            # one goes on from the session before that.
            other = msgspec.structs.replace(_displaced(current, "older"), id=arrival.id, spent=())
            return _suspected(holders, gone_on, other, "tpm-clock", arrival)
        # The one answer went to this machine. Its TPM was put back, and its disk was not.
        again = msgspec.structs.replace(with_holder(holders, gone_on), restored=holders.restored + 1)
        return SessionJudgement("restored", again, current.id)
    holders, two = _compared_with_behind(holders, arrival)
    if two is not None:
        return _suspected(holders, gone_on, two, "chip", arrival)
    outcome: Outcome = "repeated" if relation == "base" else "ahead" if relation == "ahead" else "normal"
    return SessionJudgement(outcome, with_holder(holders, gone_on), current.id)


def _spent(holder: Holder, arrival: Arrival, token: RenewalToken, relation: Relation) -> Holder:
    """The holder after it spent the token."""
    if relation == "base":
        return _asked_again(holder, arrival)
    spent = holder.spent if holder.base == NO_TOKEN else (*holder.spent, (holder.number, holder.base))
    if relation == "ahead" and token.chain == holder.chain and token.parent != NO_TOKEN:
        # The token was handed out for its parent, so this chain spent that too.
        spent = (*spent, (token.number - 1, token.parent))
    return msgspec.structs.replace(
        holder,
        last=arrival.evidence,
        number=max(holder.number, token.number),
        base=token.digest,
        answers=1,
        spent=spent[-SPENT_MAX:],
        asked_before=None,
        unspent="",
    )


def _compared_with_behind(holders: Holders, arrival: Arrival) -> tuple[Holders, Holder | None]:
    """The holders after the current one went on, and the holder of a second TPM if its evidence shows one.

    A superseded generation asked from a TPM behind the current holder's. If the current holder goes on from where it was,
    there are two TPMs. If its own counts fell, the TPM was reset, and nothing is shown.
    """
    behind, current = holders.behind, holders.current
    if behind is None:
        return holders, None
    without = msgspec.structs.replace(holders, behind=None)
    if holders.cause or went_back(current.last, arrival.evidence):
        return without, None
    later = arrival.evidence.asked_at >= behind.asked_at + CLOCK_TOLERANCE
    if not (later and went_on(current.last, arrival.evidence)):
        return holders, None
    return without, Holder(holder_id(behind), "older", behind.at, behind)


def _asked_again(holder: Holder, arrival: Arrival) -> Holder:
    """The holder after another answer to its last token. A repeated proof gets the same answer again."""
    if holder.last.asked_at == arrival.evidence.asked_at:
        return msgspec.structs.replace(holder, last=arrival.evidence)
    before = holder.asked_before if holder.asked_before is not None else holder.last
    return msgspec.structs.replace(holder, last=arrival.evidence, answers=holder.answers + 1, asked_before=before)


def _after_settling(holders: Holders, holder: Holder | None, token: RenewalToken, relation: Relation) -> bool:
    """Whether the token was spent in the kept holder's chain after the settling."""
    return holder is holders.current and relation == "spent" and token.number > holders.settled


def _restored_and_gone_on(holders: Holders, gone_on: Holder, arrival: Arrival) -> SessionJudgement:
    """The current holder asked while a restored machine waits for approval. If it asked later, there are two machines."""
    waiting = _waiting(holders)
    # The restored machine may ask again while this session is on its way. It runs since it was refused first.
    if waiting is None or (holders.since is not None and arrival.evidence.asked_at < holders.since):
        return SessionJudgement("normal", with_holder(holders, gone_on), gone_on.id)
    # The dates of the node's lease were meant for the one machine.
    waiting = msgspec.structs.replace(waiting, statement="")
    return _suspected(holders, gone_on, waiting, "former-key" if waiting.awaited else "renewal-token", arrival)


def _waiting(holders: Holders) -> Holder | None:
    """The restored machine that waits for approval, or None."""
    if holders.cause != "restored":
        return None
    return next((each for each in holders.all if each.state == "older"), None)


def _restored(holders: Holders, arrival: Arrival, token: RenewalToken | None) -> SessionJudgement:
    """A machine that was put back takes the place of the current holder, and starts a chain.

    Without an automatic repair it waits beside the current holder until an operator approves it.
    """
    if not arrival.may_repair:
        return unapproved(holders, _newcomer(arrival, "older"))
    base = token.digest if token is not None else NO_TOKEN
    newcomer = Holder(arrival.id, "current", arrival.evidence.at, arrival.evidence, arrival.id, holders.highest, base)
    changed = bounded(holders, (newcomer, _displaced(holders.current, "left"), *holders.all[1:]))
    changed = msgspec.structs.replace(changed, restored=holders.restored + 1, behind=None)
    return SessionJudgement("restored", changed, newcomer.id)


def _suspected(
    holders: Holders, current: Holder, other: Holder, cause: CloneCause, arrival: Arrival
) -> SessionJudgement:
    """Two machines: `current` goes on, `other` is the older one. One of the two opened this session."""
    rest = tuple(each for each in holders.all if each.id not in (current.id, other.id))
    changed = bounded(holders, (current, other, *rest))
    changed = msgspec.structs.replace(changed, cause=cause, since=arrival.evidence.at)
    opened = current if current.last is arrival.evidence else other
    return SessionJudgement("suspected", changed, opened.id, gets_token=opened is current)


def _refused(holders: Holders, arrival: Arrival, holder: Holder | None) -> SessionJudgement:
    """A session of a holder that gets no token. A holder that is not known is added."""
    state: HolderState = "older" if holders.cause else "shut"
    if holder is None:
        holder = _newcomer(arrival, state)
    else:
        base = arrival.token.digest if arrival.token is not None else holder.base
        spent = holder.spent if base == holder.base else (*holder.spent, (holder.number, holder.base))[-SPENT_MAX:]
        holder = msgspec.structs.replace(holder, last=arrival.evidence, base=base, spent=spent, unspent="")
    outcome: Outcome = "older" if holder.state == "older" else "shut"
    return SessionJudgement(outcome, with_holder(holders, holder), holder.id, gets_token=False)


def _newcomer(arrival: Arrival, state: HolderState) -> Holder:
    token = arrival.token
    if token is None:
        return Holder(arrival.id, state, arrival.evidence.at, arrival.evidence)
    return Holder(arrival.id, state, arrival.evidence.at, arrival.evidence, token.chain, token.number, token.digest)


def unapproved(holders: Holders, waiting: Holder) -> SessionJudgement:
    """The judgement of a restored machine, `waiting`, that an operator must approve."""
    changed = msgspec.structs.replace(with_holder(holders, waiting), cause="restored", since=waiting.last.at)
    return SessionJudgement("unapproved", changed, waiting.id, gets_token=False)


def next_number(holders: Holders) -> int:
    """The number of the next token."""
    return min(holders.highest + 1, NUMBER_MAX)
