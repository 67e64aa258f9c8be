"""The verdict: every state of the table, every boundary instant, and the properties that hold for any evidence."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.exits import Exit
from node.licensing.acceptance import StoredEvidence
from node.licensing.trusted_time import Judged
from node.licensing.verdict import (
    STATES,
    Evidence,
    Hardware,
    LicenceState,
    current_lease,
    current_revocation,
    judge,
)
from protocol.ids import RecoveryId, make_id
from protocol.signed.statements import Final, Holder, Verified
from tests.node.licensing.samples import (
    DAY,
    HOLDER,
    OTHER_NODE,
    T0,
    make_lease,
    make_revocation,
    make_suspension,
    trusted,
    verified,
)

US = timedelta(microseconds=1)
LEASE = make_lease()
LEASED = StoredEvidence(statement=verified(LEASE), received_at=T0)
SUSPENDED = StoredEvidence(statement=verified(make_suspension()))
TOMB = verified(make_revocation())
GRACE = msgspec.structs.replace(
    LEASE,
    node_key="3b" * 32,
    expires_at=T0 + 3 * DAY,
    grace_until=T0 + 3 * DAY,
    terminate_at=T0 + 3 * DAY,
    recovery=RecoveryId(make_id("rcv", 1, bytes(10))),
)
RECOVERS = StoredEvidence(statement=verified(GRACE), received_at=T0)
FOREIGN_LEASE = verified(make_lease(node=OTHER_NODE))
FOREIGN_TOMB = verified(make_revocation(node=OTHER_NODE))
NEWER = Holder(HOLDER.trust_domain, HOLDER.tenant, HOLDER.node, 2)


def evidence(
    stored: StoredEvidence = LEASED,
    *,
    holder: Holder | None = HOLDER,
    hardware: Hardware = "ours",
    now: datetime = T0,
    time: Judged | None = None,
    unconfirmed: bool = False,
    proven: bool = True,
    in_software: bool = False,
) -> Evidence:
    return Evidence(
        holder=holder,
        stored=stored,
        hardware=hardware,
        time=time or trusted(now),
        unconfirmed=unconfirmed,
        proven=proven,
        in_software=in_software,
    )


@dataclass
class Case:
    name: str
    evidence: Evidence
    state: LicenceState
    gate_open: bool
    exit: Exit
    new_work: bool = field(default=False)


CASES = [
    Case("nothing on the disk", evidence(StoredEvidence(), holder=None), "unactivated", False, Exit.UNACTIVATED),
    Case("a lease without an identity", evidence(holder=None), "unactivated", False, Exit.UNACTIVATED),
    Case("tombstone alone", evidence(StoredEvidence(tombstone=TOMB)), "revoked", False, Exit.REVOKED),
    Case(
        "tombstone beside an old lease",
        evidence(StoredEvidence(statement=verified(LEASE), tombstone=TOMB)),
        "revoked",
        False,
        Exit.REVOKED,
    ),
    Case(
        "revocation whose tombstone is lost", evidence(StoredEvidence(statement=TOMB)), "revoked", False, Exit.REVOKED
    ),
    Case(
        "revoked and other TPM",
        evidence(StoredEvidence(tombstone=TOMB), hardware="other"),
        "revoked",
        False,
        Exit.REVOKED,
    ),
    Case(
        "revoked before it was confirmed",
        evidence(StoredEvidence(tombstone=TOMB), unconfirmed=True),
        "revoked",
        False,
        Exit.REVOKED,
    ),
    Case("unconfirmed, nothing stored", evidence(StoredEvidence(), unconfirmed=True), "pending", False, Exit.PENDING),
    Case("unconfirmed with its lease", evidence(unconfirmed=True), "pending", False, Exit.PENDING),
    Case("suspended", evidence(SUSPENDED), "suspended", False, Exit.SUSPENDED),
    Case("suspended for years", evidence(SUSPENDED, now=T0 + 999 * DAY), "suspended", False, Exit.SUSPENDED),
    Case("suspended and other TPM", evidence(SUSPENDED, hardware="other"), "suspended", False, Exit.SUSPENDED),
    Case("other TPM", evidence(hardware="other"), "hardware-mismatch", False, Exit.HARDWARE_MISMATCH),
    Case(
        "other TPM, nothing stored",
        evidence(StoredEvidence(), hardware="other"),
        "hardware-mismatch",
        False,
        Exit.HARDWARE_MISMATCH,
    ),
    Case("confirmed, nothing stored", evidence(StoredEvidence()), "stale", False, Exit.STALE),
    Case("damaged statement", evidence(StoredEvidence(damaged=("torn",))), "stale", False, Exit.STALE),
    Case(
        "damaged tombstone beside a lease",
        evidence(StoredEvidence(statement=verified(LEASE), damaged=("torn",), tombstone_doubtful=True)),
        "stale",
        False,
        Exit.STALE,
    ),
    Case(
        "another node's tombstone",
        evidence(StoredEvidence(statement=verified(LEASE), tombstone=FOREIGN_TOMB)),
        "stale",
        False,
        Exit.STALE,
    ),
    Case("another node's lease", evidence(StoredEvidence(statement=FOREIGN_LEASE)), "stale", False, Exit.STALE),
    Case("another generation's lease", evidence(holder=NEWER), "stale", False, Exit.STALE),
    Case("another generation's suspension", evidence(SUSPENDED, holder=NEWER), "stale", False, Exit.STALE),
    Case("fresh lease", evidence(), "active", True, Exit.OK, True),
    Case("not asked of the TPM", evidence(hardware="unchecked", proven=False), "active", False, Exit.TPM),
    Case("TPM never answered", evidence(hardware="unavailable", proven=False), "active", False, Exit.TPM),
    Case("TPM fails later", evidence(hardware="unavailable"), "active", True, Exit.OK, True),
    Case(
        "TPM fails past refresh_after",
        evidence(hardware="unavailable", now=LEASE.refresh_after),
        "refresh-due",
        True,
        Exit.TPM,
        True,
    ),
    Case(
        "TPM fails, terminated",
        evidence(hardware="unavailable", now=LEASE.terminate_at),
        "terminated",
        False,
        Exit.TERMINATED,
    ),
    Case("grace lease of a recovery", evidence(RECOVERS), "recovery-pending", True, Exit.OK, True),
    Case("grace lease due for refresh", evidence(RECOVERS, now=T0 + 2 * DAY), "recovery-pending", True, Exit.OK, True),
    Case("grace lease at its end", evidence(RECOVERS, now=T0 + 3 * DAY), "terminated", False, Exit.TERMINATED),
    Case(
        "grace lease on another chip",
        evidence(RECOVERS, hardware="other"),
        "hardware-mismatch",
        False,
        Exit.HARDWARE_MISMATCH,
    ),
    Case("clock at 1970", evidence(now=datetime.fromtimestamp(0, T0.tzinfo)), "active", True, Exit.OK, True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_table(case: Case) -> None:
    verdict = judge(case.evidence)
    assert (verdict.state, verdict.gate_open, verdict.exit, verdict.new_work) == (
        case.state,
        case.gate_open,
        case.exit,
        case.new_work,
    )
    assert verdict.reason
    assert verdict.next or verdict.state == "active"


def test_the_cases_and_the_dates_reach_every_state() -> None:
    reached = {judge(case.evidence).state for case in CASES} | {state for _, state, *_ in BOUNDARIES}
    assert reached == set(STATES) == set(get_args(LicenceState))


BOUNDARIES: list[tuple[datetime, LicenceState, bool, bool, datetime | None]] = [
    (T0, "active", True, True, LEASE.refresh_after),
    (LEASE.refresh_after - US, "active", True, True, LEASE.refresh_after),
    (LEASE.refresh_after, "refresh-due", True, True, LEASE.expires_at),
    (LEASE.expires_at - US, "refresh-due", True, True, LEASE.expires_at),
    (LEASE.expires_at, "grace", True, True, LEASE.grace_until),
    (LEASE.grace_until - US, "grace", True, True, LEASE.grace_until),
    (LEASE.grace_until, "restricted", True, False, LEASE.terminate_at),
    (LEASE.terminate_at - US, "restricted", True, False, LEASE.terminate_at),
    (LEASE.terminate_at, "terminated", False, False, None),
    (LEASE.terminate_at + 9999 * DAY, "terminated", False, False, None),
]


@pytest.mark.parametrize(("now", "state", "gate_open", "new_work", "deadline"), BOUNDARIES)
def test_dates(now: datetime, state: LicenceState, gate_open: bool, new_work: bool, deadline: datetime | None) -> None:
    verdict = judge(evidence(now=now))
    assert (verdict.state, verdict.gate_open, verdict.new_work, verdict.deadline) == (
        state,
        gate_open,
        new_work,
        deadline,
    )


def test_valid_until_ends_with_the_state_or_after_a_minute() -> None:
    assert judge(evidence(now=T0)).valid_until == T0 + timedelta(seconds=60)
    near = LEASE.terminate_at - timedelta(seconds=7)
    assert judge(evidence(now=near)).valid_until == LEASE.terminate_at
    assert judge(evidence(now=LEASE.terminate_at)).valid_until == LEASE.terminate_at + timedelta(seconds=60)


@pytest.mark.parametrize(("behind", "suspect"), [(timedelta(minutes=5), False), (timedelta(minutes=5) + US, True)])
def test_a_clock_behind_the_signed_time_is_flagged_and_locks_nothing(behind: timedelta, suspect: bool) -> None:
    verdict = judge(evidence(now=T0 - behind))
    assert (verdict.clock_suspect, verdict.gate_open, verdict.deadline) == (suspect, True, LEASE.refresh_after)


def test_flags_and_details_are_reported() -> None:
    verdict = judge(
        evidence(StoredEvidence(statement=verified(LEASE), damaged=("cannot trust X",)), hardware="unavailable")
    )
    assert verdict.hardware_failing
    assert verdict.damaged == ("cannot trust X",)
    assert "unpaid" in judge(evidence(SUSPENDED)).reason


@pytest.mark.parametrize(
    ("hardware", "proven", "now", "state", "gate_open", "exit_code", "reason"),
    [
        ("ours", True, T0, "active", True, Exit.OK, "current"),
        ("other", False, T0, "hardware-mismatch", False, Exit.HARDWARE_MISMATCH, "too little of the activated machine's"),
        ("unavailable", True, T0, "active", True, Exit.OK, "current"),
        ("unavailable", True, LEASE.refresh_after, "refresh-due", True, Exit.TPM, "fingerprint of this machine cannot be read"),
        ("unavailable", True, LEASE.terminate_at, "terminated", False, Exit.TERMINATED, "terminated"),
        ("unavailable", False, T0, "active", False, Exit.TPM, "not compared with its enrolled fingerprint"),
        ("unchecked", False, T0, "active", False, Exit.TPM, "not compared with its enrolled fingerprint"),
    ],
)  # fmt: skip
def test_a_node_without_a_tpm(
    hardware: Hardware, proven: bool, now: datetime, state: str, gate_open: bool, exit_code: Exit, reason: str
) -> None:
    verdict = judge(evidence(hardware=hardware, proven=proven, now=now, in_software=True))
    assert (verdict.state, verdict.gate_open, verdict.exit) == (state, gate_open, exit_code)
    assert reason in verdict.reason
    assert "TPM" not in verdict.reason + verdict.next
    assert not verdict.hardware_failing


def test_only_the_holders_lease_is_the_lease() -> None:
    assert current_lease(LEASED, HOLDER) == LEASE
    assert current_lease(LEASED, NEWER) is None
    assert current_lease(LEASED, None) is None
    assert current_lease(SUSPENDED, HOLDER) is None


def test_only_the_holders_revocation_ends_its_generation() -> None:
    for stored in (StoredEvidence(tombstone=TOMB), StoredEvidence(statement=TOMB)):
        assert current_revocation(stored, HOLDER) == TOMB.statement
        assert current_revocation(stored, NEWER) is None
    assert current_revocation(LEASED, HOLDER) is None


def test_a_verdict_can_be_sent() -> None:
    assert b'"exit":80' in msgspec.json.encode(judge(evidence(holder=None)))


def test_a_grace_lease_names_its_case_and_its_one_end() -> None:
    verdict = judge(evidence(RECOVERS, now=T0 + 2 * DAY))
    assert str(GRACE.recovery) in verdict.reason
    assert "cascadia recover" in verdict.next
    assert verdict.deadline == GRACE.terminate_at
    assert judge(evidence(RECOVERS, now=GRACE.terminate_at)).deadline is None


def test_a_suspected_clone_on_a_grace_lease_has_the_exit_code_of_the_clone() -> None:
    suspected = verified(msgspec.structs.replace(GRACE, clone_suspected=T0))
    verdict = judge(evidence(StoredEvidence(statement=suspected, received_at=T0)))
    assert (verdict.state, verdict.gate_open, verdict.exit) == ("recovery-pending", True, Exit.CLONE)


STATEMENTS: list[Verified | None] = [
    None,
    LEASED.statement,
    RECOVERS.statement,
    SUSPENDED.statement,
    TOMB,
    FOREIGN_LEASE,
    FOREIGN_TOMB,
]
stored_evidence = st.builds(
    StoredEvidence,
    statement=st.sampled_from(STATEMENTS),
    tombstone=st.sampled_from([None, TOMB, FOREIGN_TOMB]),
    damaged=st.sampled_from([(), ("torn",)]),
    tombstone_doubtful=st.booleans(),
)
instants = st.timedeltas(timedelta(days=-400), timedelta(days=400)).map(lambda delta: T0 + delta)
any_evidence = st.builds(
    Evidence,
    holder=st.sampled_from([None, HOLDER, NEWER]),
    stored=stored_evidence,
    hardware=st.sampled_from(get_args(Hardware)),
    time=instants.map(trusted),
    unconfirmed=st.booleans(),
    proven=st.booleans(),
    in_software=st.booleans(),
)


@given(any_evidence)
def test_an_open_gate_follows_from_a_lease_and_the_hardware(one: Evidence) -> None:
    verdict = judge(one)
    if verdict.gate_open:
        lease = current_lease(one.stored, one.holder)
        assert lease is not None
        assert one.time.wall < lease.terminate_at
        assert verdict.valid_until <= lease.terminate_at
        assert one.hardware == "ours" or (one.hardware == "unavailable" and one.proven)
        assert one.stored.tombstone is None
        assert not one.stored.tombstone_doubtful
        assert not one.unconfirmed
    assert not verdict.new_work or verdict.gate_open
    assert one.time.wall < verdict.valid_until <= one.time.wall + timedelta(seconds=60)
    assert verdict.deadline is None or verdict.deadline > one.time.wall


@given(any_evidence)
def test_a_tombstone_never_opens_the_gate(one: Evidence) -> None:
    for tombstone in (TOMB, FOREIGN_TOMB):
        stored = msgspec.structs.replace(one.stored, tombstone=tombstone)
        assert not judge(msgspec.structs.replace(one, stored=stored)).gate_open


@given(any_evidence, st.timedeltas(timedelta(0), timedelta(days=400)))
def test_time_alone_never_improves_a_verdict(one: Evidence, passed: timedelta) -> None:
    now, later = judge(one), judge(msgspec.structs.replace(one, time=trusted(one.time.wall + passed)))
    assert not (later.gate_open and not now.gate_open)
    assert not (later.new_work and not now.new_work)
    assert STATES.index(later.state) <= STATES.index(now.state)


@given(any_evidence)
def test_the_verdict_holds_until_its_deadline(one: Evidence) -> None:
    verdict = judge(one)
    if verdict.deadline is not None:
        before = judge(msgspec.structs.replace(one, time=trusted(verdict.deadline - US)))
        assert (before.state, before.gate_open) == (verdict.state, verdict.gate_open)
        assert judge(msgspec.structs.replace(one, time=trusted(verdict.deadline))).state != verdict.state


def test_superseded_is_not_told_as_revoked() -> None:
    """Every open code admits the chip again. A code that readmits is for a revoked node."""
    ended = verified(msgspec.structs.replace(make_revocation(), reason="superseded"))
    verdict = judge(evidence(StoredEvidence(tombstone=ended)))
    assert (verdict.state, verdict.exit, verdict.superseded) == ("revoked", Exit.REVOKED, True)
    assert "activated again elsewhere" in verdict.reason
    assert "any open activation code" in verdict.next
    assert "readmit" not in verdict.reason + verdict.next
    revoked = judge(evidence(StoredEvidence(tombstone=TOMB)))
    assert (revoked.superseded, "readmits" in revoked.next) == (False, True)


@pytest.mark.parametrize(
    ("now", "state", "gate_open", "new_work", "exit_code"),
    [
        (T0, "grace", True, True, Exit.CLONE),
        (LEASE.refresh_after, "grace", True, True, Exit.CLONE),
        (LEASE.expires_at, "grace", True, True, Exit.CLONE),
        (LEASE.grace_until, "restricted", True, False, Exit.CLONE),
        (LEASE.terminate_at, "terminated", False, False, Exit.TERMINATED),
    ],
)
def test_a_suspected_clone_runs_in_grace_at_the_best(
    now: datetime, state: LicenceState, gate_open: bool, new_work: bool, exit_code: Exit
) -> None:
    suspected = verified(msgspec.structs.replace(LEASE, clone_suspected=T0))
    verdict = judge(evidence(StoredEvidence(statement=suspected, received_at=T0), now=now))
    assert (verdict.state, verdict.gate_open, verdict.new_work, verdict.exit, verdict.clone_suspected) == (
        state,
        gate_open,
        new_work,
        exit_code,
        True,
    )
    assert not judge(evidence(now=now)).clone_suspected


def test_the_older_copy_reads_its_reason() -> None:
    lease = msgspec.structs.replace(LEASE, clone_suspected=T0, final=Final(reason="this is the older copy"))
    verdict = judge(evidence(StoredEvidence(statement=verified(lease), received_at=T0)))
    assert "a copy of this machine" in verdict.reason
    assert "this is the older copy" in verdict.reason
    assert "operator" in verdict.next


def test_a_suspended_node_is_suspended_whatever_is_suspected() -> None:
    verdict = judge(evidence(SUSPENDED))
    assert (verdict.state, verdict.exit, verdict.clone_suspected) == ("suspended", Exit.SUSPENDED, False)
