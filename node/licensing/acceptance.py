"""Pure functions: whether a verified statement is stored, and which evidence then counts.

`protocol.signed.statements` verifies statements; `node.licensing.store` stores them. A later statement replaces an
earlier one. A revocation is final in its generation; it needs neither order nor freshness. If no undamaged evidence is
stored, a statement must be fresh, because otherwise a replayed old lease would be accepted as the current one.

A statement of a higher generation that the cloud has confirmed voids all lower generations of the node.
"""

from datetime import datetime
from typing import Literal

import msgspec

from protocol.limits import SEQ_JUMP_MAX
from protocol.signed.statements import Holder, Revocation, Statement, Verified, position


class StoredEvidence(msgspec.Struct, frozen=True):
    """The verified evidence of one generation.

    Attributes:
        statement: the current statement; None without one.
        tombstone: the revocation that ended the generation; None without one.
        received_at: the wall clock's time at which the statement came.
        damaged: a text for each stored file that did not verify.
        tombstone_doubtful: the tombstone is one of the damaged files. The node may be revoked, so the gate stays closed
            until the cloud answers.
        partial: a record of the current statement is missing, damaged or older.
        later: a statement of this node's highest confirmed generation, if this generation is lower. It voids this
            generation. None otherwise.
        floor: the position below which a statement of the generation is too old; None without one.
        unproven: the floor record does not fit the counter in the TPM, so the disk may be an old copy.
    """

    statement: Verified | None = None
    tombstone: Verified | None = None
    received_at: datetime | None = None
    damaged: tuple[str, ...] = ()
    tombstone_doubtful: bool = False
    partial: bool = False
    later: Verified | None = None
    floor: tuple[int, int] | None = None
    unproven: bool = False


class Accept(msgspec.Struct, frozen=True, tag=True):
    """Store the statement. With `settles` a doubtful tombstone is renamed after the statement is stored."""

    statement: Verified
    settles: bool = False


class Ignore(msgspec.Struct, frozen=True, tag=True):
    """Store nothing: the statement is the `same` as the stored one, `stale` (earlier), or the generation is `final`."""

    reason: Literal["same", "stale", "final"]


class Refuse(msgspec.Struct, frozen=True, tag=True):
    """Refuse the statement. The caller logs the reason. No state changes."""

    code: Literal["other_node", "not_fresh", "conflict", "too_far"]
    reason: str


Decision = Accept | Ignore | Refuse


def decide(stored: StoredEvidence, offered: Verified, holder: Holder, *, fresh: bool) -> Decision:
    """What to do with the verified statement `offered`.

    `fresh` is whether a verified freshness says that the statement is current.

    1. The statement must be for this node and generation, and a lease for one of its keys and its chip.
    2. A revocation is stored, unless every record of a revocation is stored already and undamaged.
    3. No statement follows a revocation.
    4. Without undamaged stored evidence, or if the disk may be an old copy, the statement must be fresh.
    5. An earlier statement of the stream is stale, and so is a statement below the floor.
    6. A statement at the same position must be equal to the stored one; its signature may differ. It is stored again
       if a record is missing or damaged.
    7. The statement must not be more than SEQ_JUMP_MAX ahead in the same epoch.
    """
    new, current = offered.statement, stored.statement
    incomplete = bool(stored.damaged) or stored.partial
    if not holder.holds(new):
        return Refuse("other_node", "the statement is for another node, generation, node key or chip")  # 1
    revoked = stored.tombstone is not None
    if isinstance(new, Revocation):  # 2
        known = revoked and current is not None and isinstance(current.statement, Revocation)
        return Ignore("same") if known and not incomplete else Accept(offered)
    if revoked or (current is not None and isinstance(current.statement, Revocation)):
        return Ignore("final")  # 3
    if (current is None or stored.damaged or stored.unproven) and not fresh:
        return Refuse("not_fresh", "no undamaged statement is stored, and no freshness says that it is current")  # 4
    there = position(new)
    if stored.floor is not None and there < stored.floor:
        return Ignore("stale")  # 5
    if current is None:
        return Accept(offered, settles=stored.tombstone_doubtful)
    here = position(current.statement)
    if there < here:
        return Ignore("stale")  # 5
    if there == here:  # 6
        if new != current.statement:
            return Refuse("conflict", "another statement is stored with the same epoch and seq")
        if offered.kid == current.kid and not incomplete:
            return Ignore("same")
    elif there[0] == here[0] and there[1] - here[1] > SEQ_JUMP_MAX:
        return Refuse("too_far", "the statement is too far ahead of the stored one")  # 7
    return Accept(offered, settles=stored.tombstone_doubtful)


def after_accepting(stored: StoredEvidence, accepted: Accept, at: datetime) -> StoredEvidence:
    """The evidence with `accepted` in place of all earlier evidence of the generation.

    It counts at once, whether or not the disk stores it. After it is stored, the next start reads the same evidence. A
    revocation is stored as a tombstone as well. Any other statement is accepted only without a tombstone, or with a
    doubtful tombstone, which the store then renames. `at` is the wall clock's time now.
    """
    new = accepted.statement
    tombstone = new if isinstance(new.statement, Revocation) else None
    return StoredEvidence(statement=new, tombstone=tombstone, received_at=at, later=stored.later)


def voids_lower_generations(statement: Statement) -> bool:
    """Whether the statement proves that the lower generations of its node are closed.

    Fabric signs a lease or a suspension only for a confirmed generation, and a confirmation closes the lower ones.
    The revocation of a node that is revoked or released closes all generations of the node. Fabric signs a revocation
    with the reason `superseded` also for a generation that was never confirmed, while a lower one remains in force.
    """
    return not isinstance(statement, Revocation) or statement.reason != "superseded"
