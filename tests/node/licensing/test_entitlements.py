"""The verdict about one entitlement: gate, name and its own dates, to the microsecond, and how long it may be used."""

from datetime import datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.licensing.acceptance import StoredEvidence
from node.licensing.entitlements import granted_names, judge_entitlement
from node.licensing.trusted_time import Judged
from node.licensing.verdict import Evidence, Hardware, Snapshot, judge
from protocol.signed.statements import Entitlement, Lease
from tests.node.licensing.samples import DAY, HOLDER, T0, changed, make_lease, make_suspension, trusted, verified

START, END = T0 + 2 * DAY, T0 + 4 * DAY
TERMS = Entitlement(name="cameras", limit=8, not_before=START, until=END, attributes={"site": "north"})
LEASE = changed(make_lease(), node_key="3b" * 32, entitlements=("render", TERMS))
TICK = timedelta(microseconds=1)


def snapshot(lease: Lease | None = LEASE, time: Judged | None = None, hardware: Hardware = "ours") -> Snapshot:
    statement = verified(make_suspension() if lease is None else lease)
    evidence = Evidence(
        holder=HOLDER, stored=StoredEvidence(statement), hardware=hardware, time=time or trusted(T0), proven=True
    )
    return Snapshot(holder=HOLDER, hardware=hardware, lease=lease, verdict=judge(evidence), time=evidence.time)


@pytest.mark.parametrize(
    ("name", "given", "why", "reason"),
    [
        ("render", snapshot(), "granted", "the lease is current"),
        ("Render", snapshot(), "not-included", "does not include 'Render'"),
        ("", snapshot(), "not-included", "does not include"),
        ("render", snapshot(hardware="other"), "gate-closed", "TPM"),
        ("render", snapshot(lease=None), "gate-closed", "suspended"),
        ("cameras", snapshot(), "not-yet", "begins at 2026-11-24T12:00:00Z"),
        ("cameras", snapshot(time=trusted(START - TICK)), "not-yet", "begins"),
        ("cameras", snapshot(time=trusted(START)), "granted", "refresh"),
        ("cameras", snapshot(time=trusted(END - TICK)), "granted", "refresh"),
        ("cameras", snapshot(time=trusted(END)), "ended", "ended at 2026-11-26T12:00:00Z"),
        ("cameras", snapshot(time=trusted(T0 + 60 * DAY)), "gate-closed", "terminated"),
    ],
)
def test_the_verdict(name: str, given: Snapshot, why: str, reason: str) -> None:
    verdict = judge_entitlement(given, name)
    assert (verdict.why, verdict.granted) == (why, why == "granted")
    assert reason in verdict.reason
    assert verdict.terms == (TERMS if name == "cameras" else verdict.terms)


@given(st.integers(-1, 70), st.integers(0, 10))
def test_the_granted_names_are_those_that_are_granted(days: int, ticks: int) -> None:
    given = snapshot(time=trusted(T0 + days * DAY + ticks * TICK))
    names = granted_names(given)
    assert names == {name for name in ("render", "cameras", "other") if judge_entitlement(given, name).granted}


@pytest.mark.parametrize("given", [snapshot(lease=None), snapshot(hardware="other")])
def test_with_a_closed_gate_no_name_is_granted(given: Snapshot) -> None:
    assert granted_names(given) == frozenset()


def test_dates_are_those_of_trusted_time_and_not_of_the_wall_clock() -> None:
    behind = Judged(low=T0, high=END, least_high=T0, wall=T0 - 300 * DAY, source="floor", suspect=True)
    assert judge_entitlement(snapshot(time=behind), "cameras").why == "ended"
    early = msgspec.structs.replace(behind, high=T0 - 400 * DAY)
    later = changed(LEASE, issued_at=END, refresh_after=END + DAY)
    assert judge_entitlement(snapshot(later, early), "cameras").why == "ended", "the lease was issued after the end"


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        (START - timedelta(seconds=5), 5),
        (END - timedelta(seconds=7), 7),
        (END - timedelta(seconds=70), 60),
        (END, 60),
        (START, 60),
    ],
)
def test_an_answer_ends_at_the_next_date_of_the_entitlement(at: datetime, seconds: int) -> None:
    wall = T0 + 100 * DAY
    time = msgspec.structs.replace(trusted(at), wall=wall)
    assert judge_entitlement(snapshot(time=time), "cameras").valid_until == wall + timedelta(seconds=seconds)


@given(seconds=st.integers(-(10**7), 10**7), limit=st.one_of(st.none(), st.integers(0, 100)))
def test_no_entitlement_is_granted_outside_its_dates_or_behind_a_closed_gate(seconds: int, limit: int | None) -> None:
    at = T0 + timedelta(seconds=seconds)
    lease = changed(LEASE, entitlements=(msgspec.structs.replace(TERMS, limit=limit),))
    given = snapshot(lease, trusted(at))
    verdict = judge_entitlement(given, "cameras")
    judged = max(at, lease.issued_at)
    assert verdict.granted == (given.verdict.gate_open and START <= judged < END)
    assert verdict.valid_until <= given.verdict.valid_until
    if verdict.granted:
        assert judged + (verdict.valid_until - at) <= END
