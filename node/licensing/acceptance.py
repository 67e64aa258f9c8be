"""Pure functions: whether a verified statement is stored, and which evidence then counts.

Verification is `protocol.signed.statements`; storing is `node.licensing.store`. A later statement replaces an earlier
one. A revocation is final in its generation and needs neither order nor freshness. Without sound stored evidence to
compare with, a statement must be fresh: a replayed old lease would pass for the current one.
"""

from datetime import datetime
from typing import Literal

import msgspec

from protocol.limits import SEQ_JUMP_MAX
from protocol.signed.statements import Holder, Lease, Revocation, Suspension, Verified, position


class StoredEvidence(msgspec.Struct, frozen=True):
    """The verified evidence of one generation.

    `received_at` is the wall clock at which the statement came. `damaged` has a text for each stored file that did not
    verify. `tombstone_doubtful`: a tombstone is one of them. The node cannot rule out that it is revoked, so the gate
    stays closed until the cloud answers.
    """

    statement: Verified | None = None
    tombstone: Verified | None = None
    received_at: datetime | None = None
    damaged: tuple[str, ...] = ()
    tombstone_doubtful: bool = False


class Accept(msgspec.Struct, frozen=True, tag=True):
    """Store it. `settles`: it is the cloud's answer to a doubtful tombstone, which is set aside once it is stored."""

    statement: Verified
    settles: bool = False


class Ignore(msgspec.Struct, frozen=True, tag=True):
    """Nothing to store: it is the `same` as stored, `stale` (earlier in the stream), or the generation is `final`."""

    reason: Literal["same", "stale", "final"]


class Refuse(msgspec.Struct, frozen=True, tag=True):
    """The statement is refused, and the journal gets a line. No state changes."""

    code: Literal["other_node", "not_fresh", "conflict", "too_far"]
    reason: str


Decision = Accept | Ignore | Refuse


def decide(stored: StoredEvidence, offered: Verified, holder: Holder, *, fresh: bool) -> Decision:
    """What to do with `offered`, whose signature is verified. `fresh`: so is the cloud's word that it is current.

    1 it is for this node and generation; 2 a revocation is stored unless one is; 3 nothing follows a revocation;
    4 with nothing sound to compare with, it must be fresh; 5 earlier in the stream is stale; 6 at the same place it
    is the same statement, perhaps with another signature; 7 it is not absurdly far ahead. Section 6 of the design.
    """
    new, current = offered.statement, stored.statement
    if not holder.holds(new):
        return Refuse("other_node", "the statement is for another node or generation")  # 1
    revoked = stored.tombstone is not None
    if isinstance(new, Revocation):  # 2
        known = revoked and current is not None and isinstance(current.statement, Revocation) and not stored.damaged
        return Ignore("same") if known else Accept(offered)
    if revoked or (current is not None and isinstance(current.statement, Revocation)):
        return Ignore("final")  # 3
    if (current is None or stored.damaged) and not fresh:
        return Refuse("not_fresh", "nothing sound is stored to compare with, and the cloud did not vouch for it")  # 4
    if current is None:
        return Accept(offered, settles=stored.tombstone_doubtful)
    here, there = position(current.statement), position(new)
    if there < here:
        return Ignore("stale")  # 5
    if there == here:  # 6
        if new != current.statement:
            return Refuse("conflict", "another statement stands at the same place of the stream")
        if offered.kid == current.kid and not stored.damaged:
            return Ignore("same")
    elif there[0] == here[0] and there[1] - here[1] > SEQ_JUMP_MAX:
        return Refuse("too_far", "the statement is too far ahead of the stored one")  # 7
    return Accept(offered, settles=stored.tombstone_doubtful)


def after_storing(accepted: Accept, at: datetime) -> StoredEvidence:
    """The evidence once the disk holds `accepted`: what the next start reads.

    Nothing else of the earlier evidence remains. A revocation writes the tombstone too. A statement that is no
    revocation is accepted without a tombstone, or with a doubtful one, which the store sets aside.
    """
    new = accepted.statement
    return StoredEvidence(
        statement=new, tombstone=new if isinstance(new.statement, Revocation) else None, received_at=at
    )


def without_storing(stored: StoredEvidence, accepted: Accept, at: datetime) -> StoredEvidence:
    """The evidence of this process when the disk refused `accepted`.

    A revocation or suspension closes the gate all the same. A lease counts only once it is stored.
    """
    new = accepted.statement
    match new.statement:
        case Lease():
            return stored
        case Suspension():
            return msgspec.structs.replace(stored, statement=new, received_at=at)
        case Revocation():
            return msgspec.structs.replace(
                stored, statement=new, tombstone=new, received_at=at, tombstone_doubtful=False
            )
