"""`cloud.fabric.licensing.presented`: the whole table of stored and presented statements."""

from datetime import UTC, datetime

import msgspec
import pytest

from cloud.fabric.licensing import statements
from cloud.fabric.licensing.presented import Finding, is_for_a_copy, judge, waits
from cloud.fabric.schemas import LeaseTerms
from protocol.ids import NodeId, TenantId, make_id
from protocol.signed.statements import Statement

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
TENANT, NODE = TenantId(make_id("ten", 1, bytes(10))), NodeId(make_id("node", 1, bytes(10)))
SUBJECT = statements.Subject(
    trust_domain="cascade.test",
    tenant=TENANT,
    node=NODE,
    generation=2,
    epoch=1,
    tier="tpm",
    profile="standard",
    entitlements=("press",),
    terms=LeaseTerms(60, 120, 180, 240),
    version=2,
    node_key="ab" * 32,
)
COPIES = frozenset({"a copy"})


def lease(seq: int, *, epoch: int = 1, generation: int = 2, node: NodeId = NODE) -> Statement:
    return statements.lease(msgspec.structs.replace(SUBJECT, epoch=epoch, generation=generation, node=node), seq, NOW)


def final(seq: int, reason: str) -> Statement:
    held = statements.lease(SUBJECT, seq, NOW)
    return statements.final_lease(SUBJECT, seq, NOW, held, reason)


def suspended(seq: int, reason: str = "unpaid") -> Statement:
    return statements.suspension(SUBJECT, seq, NOW, reason)


REVOKED = statements.revocation(SUBJECT, 1, NOW, "revoked")


@pytest.mark.parametrize(
    ("stored", "presented", "finding"),
    [
        (lease(5), lease(5), "known"),
        (lease(5), lease(4), "known"),
        (lease(5), suspended(5), "known"),
        (lease(5), lease(6), "ahead"),
        (lease(5, epoch=2), lease(6), "known"),
        (lease(5), lease(1, epoch=2), "ahead"),
        (None, lease(1), "ahead"),
        (suspended(5), lease(6), "ahead"),
        (lease(5), suspended(6), "suspended"),
        (None, suspended(6), "suspended"),
        (lease(5), REVOKED, "revoked"),
        (suspended(5), REVOKED, "revoked"),
        (None, REVOKED, "revoked"),
        (REVOKED, REVOKED, "known"),
        (REVOKED, lease(9), "known"),
        (lease(5), None, "unproven"),
        (lease(5), lease(6, generation=3), "unproven"),
        (lease(5), lease(6, node=NodeId(make_id("node", 2, bytes(10)))), "unproven"),
        (lease(5), suspended(6, "a copy"), "unproven"),
        (lease(5), final(6, "a copy"), "unproven"),
        (lease(5), final(6, "unpaid"), "ahead"),
    ],
)
def test_the_table(stored: Statement | None, presented: Statement | None, finding: Finding) -> None:
    found = judge(stored, presented, tenant=TENANT, node=NODE, generation=2, for_copies=COPIES)
    assert found == finding


def test_a_revocation_and_an_ordinary_lease_are_for_no_copy() -> None:
    assert not is_for_a_copy(REVOKED, COPIES)
    assert not is_for_a_copy(lease(1), COPIES)


@pytest.mark.parametrize(
    ("presented_epoch", "hold", "waiting"),
    [(2, "", False), (1, "", True), (2, "conflicting", True), (1, "unconfirmed", True)],
)
def test_who_waits(presented_epoch: int, hold: str, waiting: bool) -> None:
    assert waits(presented_epoch, 2, hold) is waiting
