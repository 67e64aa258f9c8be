"""Pure functions: judge the statement that a node presents, by the statement that the database has.

A database from a backup is older than its nodes. A node may hold a later lease, a suspension or a revocation that the
cloud signed after the backup. Each of them carries our signature, so the node cannot invent one. It can keep one back:
an older statement, and no statement at all, prove nothing about what was signed later.

- A revocation is final, so it is adopted at any time.
- A later suspension is adopted: a person has suspended the node.
- A later lease shows that the database is behind. An operator may have suspended or revoked the node after that lease,
  so the node keeps the lease, and gets no later dates until an operator accepts it.
- A statement that was signed for one copy of a suspected clone says nothing about the node.
"""

from typing import Literal

from protocol.signed.statements import Lease, Revocation, Statement, Suspension, is_for, position

Finding = Literal["known", "ahead", "suspended", "revoked", "unproven"]
"""`known`: the node has no statement, or an equal or earlier one. `ahead`: a later lease. `suspended`, `revoked`: a
later suspension, or a revocation. `unproven`: the statement is not signed by us, or for another generation or copy."""


def judge(
    stored: Statement | None,
    presented: Statement | None,
    *,
    tenant: str,
    node: str,
    generation: int,
    for_copies: frozenset[str] = frozenset(),
) -> Finding:
    """Judge a statement that a node of this generation presents.

    Args:
        stored: the statement in the database; None without one.
        presented: the statement that verified under our keys; None if the token did not verify.
        tenant: the tenant of the node, `node` its id, `generation` the number of the generation.
        for_copies: the reasons of statements that are signed for one copy of a suspected clone.
    """
    if presented is None or not is_for(presented, tenant, node, generation):
        return "unproven"
    if isinstance(presented, Revocation):
        return "known" if isinstance(stored, Revocation) else "revoked"
    if stored is not None and (isinstance(stored, Revocation) or position(presented) <= position(stored)):
        return "known"
    if is_for_a_copy(presented, for_copies):
        return "unproven"
    return "suspended" if isinstance(presented, Suspension) else "ahead"


def is_for_a_copy(statement: Statement, reasons: frozenset[str]) -> bool:
    """Whether the statement was signed for one copy of a suspected clone, with one of these reasons.

    A final lease of version 1 has no reason, so it counts as a lease of the node.
    """
    match statement:
        case Suspension():
            return statement.reason in reasons
        case Lease():
            return statement.final is not None and statement.final.reason in reasons
        case _:
            return False


def waits(presented_epoch: int, epoch: int, hold: str) -> bool:
    """Whether a node gets no new lease: it has not presented its statement in this epoch, or an operator must decide."""
    return presented_epoch < epoch or hold != ""
