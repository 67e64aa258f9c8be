"""Pure function: the judgement of a machine that renews with a former key of its generation.

A rekey replaces the generation's key. If its former key comes back with fresh evidence of the same chip, the disk was put
back from a backup, or a copy of disk and TPM from before the rekey runs. The two look alike at first:

- The former key is that of the current holder: the holder never used the new key, because the answer of its rekey was
  lost, or an operator has kept this holder. The key is accepted. A machine without a TPM proves nothing by its former
  key, so it is accepted only if an operator has kept it.
- A rekey replaced the former key, and the node has an automatic repair left: the machine counts as restored, and takes
  the place of the current holder. Without a repair it waits until an operator approves it.
- A former key that came back itself displaced this key. So both machines go on, and there are two.
- A holder that an operator did not keep, and a key of before that decision, are shut out.
"""

from datetime import datetime

import msgspec

from cloud.fabric.bodies.clones import HolderState
from cloud.fabric.licensing.former_keys import FormerKey
from cloud.fabric.licensing.holders import unapproved
from cloud.fabric.licensing.known_holders import Holder, Holders, Outcome, SessionJudgement, bounded, with_holder
from cloud.fabric.licensing.session_evidence import SessionEvidence


class KeyReturn(msgspec.Struct, frozen=True):
    """A renewal by a machine that holds a former key of the generation.

    Attributes:
        id: 8 hex digits, the id of a new holder.
        former: the former key.
        evidence: what the renewal shows. Its `key` is that of the former key.
        proved: the key that the renewal proves, in the form of `evidence.key`: the former key again, or a new one.
        by_chip: whether a TPM proves the machine.
        may_repair: whether a restored machine is repaired without a person. False without a TPM.
    """

    id: str
    former: FormerKey
    evidence: SessionEvidence
    proved: str
    by_chip: bool = True
    may_repair: bool = True


def judge_return(holders: Holders | None, back: KeyReturn) -> SessionJudgement:
    """Judge a machine that renews with a former key. `gets_token` says whether the renewal is accepted.

    `holders` is None before the first session of the generation.
    """
    newcomer = Holder(back.id, "current", back.evidence.at, back.evidence, chain=back.id, awaited=back.proved)
    if holders is None:
        return SessionJudgement("normal", Holders((newcomer,)), newcomer.id)
    newcomer = msgspec.structs.replace(newcomer, number=holders.highest)
    own = holders.of_key(back.evidence.key)
    if own is holders.current and not (back.by_chip or own.awaited):
        own = next((each for each in holders.all[1:] if each.last.key == back.evidence.key), None)
    if own is not None and own is holders.current:
        return SessionJudgement("normal", with_holder(holders, _back(own, back)), own.id)
    if own is not None and own.state == "left":
        newcomer = msgspec.structs.replace(_back(own, back), state="current")
    elif own is not None:
        return _refused(holders, _back(own, back))
    of_before = holders.settled_at is not None and back.former.replaced_at <= holders.settled_at
    if holders.cause or of_before:
        state: HolderState = "older" if holders.cause else "shut"
        return _refused(holders, msgspec.structs.replace(newcomer, state=state))
    if back.former.displaced:
        return _suspected(holders, newcomer, back.evidence.at)
    if not back.may_repair:
        return unapproved(holders, msgspec.structs.replace(newcomer, state="older"))
    restored = _in_place_of_current(holders, newcomer, "left")
    restored = msgspec.structs.replace(restored, restored=holders.restored + 1, behind=None)
    return SessionJudgement("restored", restored, newcomer.id)


def _back(own: Holder, back: KeyReturn) -> Holder:
    """A known holder with the evidence of its renewal. A renewal shows no fingerprint, so the last one stays."""
    evidence = back.evidence
    if not evidence.fingerprint:
        evidence = msgspec.structs.replace(evidence, fingerprint=own.last.fingerprint)
    return msgspec.structs.replace(own, last=evidence, awaited=back.proved)


def _refused(holders: Holders, holder: Holder) -> SessionJudgement:
    outcome: Outcome = "older" if holder.state == "older" else "shut"
    return SessionJudgement(outcome, with_holder(holders, holder), holder.id, gets_token=False)


def _suspected(holders: Holders, returned: Holder, now: datetime) -> SessionJudgement:
    """Both machines go on. The displaced machine is current again, because its key is newer."""
    changed = _in_place_of_current(holders, returned, "older")
    changed = msgspec.structs.replace(changed, cause="former-key", since=now, behind=None)
    return SessionJudgement("suspected", changed, returned.id)


def _in_place_of_current(holders: Holders, newcomer: Holder, state: HolderState) -> Holders:
    """The holders with `newcomer` as the current one. The holder that was current gets the state `state`."""
    left = msgspec.structs.replace(holders.current, state=state)
    rest = tuple(each for each in holders.all[1:] if each.id != newcomer.id)
    return bounded(holders, (newcomer, left, *rest))
