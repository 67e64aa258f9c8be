"""Which statements are stored: one row for each step, and a revocation after every other evidence."""

from functools import cache

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.licensing.acceptance import (
    Accept,
    Decision,
    Ignore,
    Refuse,
    StoredEvidence,
    after_accepting,
    decide,
    voids_lower_generations,
)
from protocol.ids import TenantId
from protocol.limits import SEQ_JUMP_MAX
from protocol.signed.statements import Holder, Statement, Verified
from tests.node.licensing.samples import (
    DAY,
    HOLDER,
    OTHER_KEY,
    OTHER_NODE,
    T0,
    changed,
    make_lease,
    make_revocation,
    make_suspension,
    verified,
)

LEASE_1, LEASE_5 = verified(make_lease(seq=1)), verified(make_lease(seq=5))
SUSPENSION = verified(make_suspension(seq=6))
REVOCATION = verified(make_revocation(seq=2))
HELD = StoredEvidence(statement=LEASE_5)
EMPTY = StoredEvidence()
TORN = StoredEvidence(statement=LEASE_5, damaged=("torn",), tombstone_doubtful=True)
TOMBSTONE = StoredEvidence(statement=LEASE_5, tombstone=REVOCATION)
REVOKED = StoredEvidence(statement=REVOCATION, tombstone=REVOCATION)
PARTIAL = StoredEvidence(statement=REVOCATION, tombstone=REVOCATION, partial=True)
RESIGNED = verified(make_lease(seq=5), OTHER_KEY)
FORKED = verified(changed(make_lease(seq=5), profile="other"))
FAR = verified(make_lease(seq=5 + SEQ_JUMP_MAX + 1))
FARTHEST = verified(make_lease(seq=5 + SEQ_JUMP_MAX))
NEXT_EPOCH = verified(changed(make_lease(seq=1), epoch=2))
REFUSED_OTHER = Refuse("other_node", "")

ROWS: list[tuple[str, StoredEvidence, Verified, bool, Decision]] = [
    ("another node's", HELD, verified(make_lease(seq=9, node=OTHER_NODE)), True, REFUSED_OTHER),
    ("another generation's", HELD, verified(make_lease(seq=9, generation=2)), True, REFUSED_OTHER),
    ("another node's revocation", HELD, verified(make_revocation(node=OTHER_NODE)), True, REFUSED_OTHER),
    ("another trust domain's", HELD, verified(changed(make_lease(seq=9), trust_domain="x.y")), True, REFUSED_OTHER),
    (
        "another tenant's",
        HELD,
        verified(changed(make_lease(seq=9), tenant=TenantId("ten_0" + "9" * 25))),
        True,
        REFUSED_OTHER,
    ),
    ("revocation, not fresh, earlier", HELD, REVOCATION, False, Accept(REVOCATION)),
    ("revocation, nothing stored", EMPTY, REVOCATION, False, Accept(REVOCATION)),
    ("revocation, torn", TORN, REVOCATION, False, Accept(REVOCATION)),
    ("revocation, tombstone but not the statement", TOMBSTONE, REVOCATION, True, Accept(REVOCATION)),
    (
        "revocation, statement but no tombstone",
        StoredEvidence(statement=REVOCATION),
        REVOCATION,
        True,
        Accept(REVOCATION),
    ),
    ("revocation again", REVOKED, REVOCATION, True, Ignore("same")),
    ("lease after revocation", REVOKED, verified(make_lease(seq=99)), True, Ignore("final")),
    ("lease after a tombstone", TOMBSTONE, verified(make_lease(seq=99)), True, Ignore("final")),
    (
        "lease after a lone revocation",
        StoredEvidence(statement=REVOCATION),
        verified(make_lease(seq=99)),
        True,
        Ignore("final"),
    ),
    ("first lease, fresh", EMPTY, LEASE_1, True, Accept(LEASE_1)),
    ("first lease, not fresh", EMPTY, LEASE_1, False, Refuse("not_fresh", "")),
    ("torn, not fresh", TORN, verified(make_lease(seq=9)), False, Refuse("not_fresh", "")),
    ("torn, the same, fresh", TORN, LEASE_5, True, Accept(LEASE_5, settles=True)),
    (
        "torn and lost, fresh",
        StoredEvidence(tombstone_doubtful=True, damaged=("",)),
        LEASE_1,
        True,
        Accept(LEASE_1, settles=True),
    ),
    ("earlier", HELD, LEASE_1, True, Ignore("stale")),
    ("the same", HELD, LEASE_5, True, Ignore("same")),
    ("the same, signed again by the same key", HELD, verified(make_lease(seq=5)), True, Ignore("same")),
    ("the same, signed by a newer key", HELD, RESIGNED, True, Accept(RESIGNED)),
    ("another at the same place", HELD, FORKED, True, Refuse("conflict", "")),
    ("the same, a record is missing", StoredEvidence(LEASE_5, partial=True), LEASE_5, True, Accept(LEASE_5)),
    ("revocation again, a record is missing", PARTIAL, REVOCATION, False, Accept(REVOCATION)),
    ("later", HELD, SUSPENSION, False, Accept(SUSPENSION)),
    (
        "resumed",
        StoredEvidence(statement=SUSPENSION),
        verified(make_lease(seq=7)),
        True,
        Accept(verified(make_lease(seq=7))),
    ),
    ("as far as may be", HELD, FARTHEST, True, Accept(FARTHEST)),
    ("too far", HELD, FAR, True, Refuse("too_far", "")),
    ("the next epoch begins low", HELD, NEXT_EPOCH, True, Accept(NEXT_EPOCH)),
]


@pytest.mark.parametrize(
    ("stored", "offered", "fresh", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_decide(stored: StoredEvidence, offered: Verified, fresh: bool, expected: Decision) -> None:
    decision = decide(stored, offered, HOLDER, fresh=fresh)
    match expected:
        case Refuse(code=code):
            assert isinstance(decision, Refuse)
            assert decision.code == code
            assert decision.reason
        case Accept(statement=statement, settles=settles):
            assert isinstance(decision, Accept)
            assert (decision.statement.statement, decision.settles) == (statement.statement, settles)
        case Ignore():
            assert decision == expected


def test_the_date_of_issue_orders_nothing() -> None:
    backdated = verified(changed(make_lease(seq=6, issued_at=T0 - 30 * DAY)))
    assert decide(HELD, backdated, HOLDER, fresh=True) == Accept(backdated)


def test_a_holder_is_trust_domain_tenant_node_and_generation() -> None:
    lease = make_lease()
    assert HOLDER.holds(lease)
    assert not Holder("other.internal", HOLDER.tenant, HOLDER.node, 1).holds(lease)
    assert not Holder(HOLDER.trust_domain, HOLDER.tenant, HOLDER.node, 2).holds(lease)


def test_an_accepted_statement_replaces_all_earlier_evidence_of_the_generation() -> None:
    later = verified(make_lease(generation=2))
    for statement in (verified(make_lease(seq=9)), SUSPENSION):
        assert after_accepting(TORN, Accept(statement), T0) == StoredEvidence(statement=statement, received_at=T0)
    before = StoredEvidence(statement=LEASE_5, partial=True, later=later)
    assert after_accepting(before, Accept(REVOCATION), T0) == StoredEvidence(REVOCATION, REVOCATION, T0, later=later)


@pytest.mark.parametrize(
    ("statement", "voids"),
    [
        (make_lease(), True),
        (make_suspension(), True),
        (make_revocation(), True),
        (msgspec.structs.replace(make_revocation(), reason="released"), True),
        # Fabric signs it for an activation that was not confirmed in time, too.
        (msgspec.structs.replace(make_revocation(), reason="superseded"), False),
    ],
)
def test_only_a_statement_that_proves_it_voids_the_lower_generations(statement: Statement, voids: bool) -> None:
    assert voids_lower_generations(statement) is voids


KEY, OTHER = "3b" * 32, "aa" * 32
BOUND = msgspec.structs.replace(HOLDER, node_keys=(KEY,), ek_name="000b" + "4c" * 32)


@cache
def offered(seq: int, kind: str) -> Verified:
    lease = make_lease(seq=seq)
    statements: dict[str, Statement] = {
        "version 1": lease,
        "version 2": changed(lease, node_key=KEY, ek_name=BOUND.ek_name),
        "another key": changed(lease, node_key=OTHER),
        "another chip": changed(lease, node_key=KEY, ek_name="000b" + "5d" * 32),
        "suspension": make_suspension(seq=seq),
    }
    return verified(statements[kind])


KINDS = ("version 1", "version 2", "another key", "another chip", "suspension")


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from(KINDS), st.booleans()), max_size=12))
def test_both_versions_are_one_stream_that_never_goes_back(offers: list[tuple[int, str, bool]]) -> None:
    stored, heard = EMPTY, 0
    for seq, kind, fresh in offers:
        statement = offered(seq, kind)
        decision = decide(stored, statement, BOUND, fresh=fresh)
        if kind.startswith("another"):
            assert isinstance(decision, Refuse)
            assert decision.code == "other_node"
        elif isinstance(decision, Accept):
            assert seq > heard
            stored, heard = after_accepting(stored, decision, T0), seq
        elif seq > heard:
            assert isinstance(decision, Refuse)
            assert decision.code == "not_fresh"
    assert stored.statement is None or stored.statement.statement.seq == heard
