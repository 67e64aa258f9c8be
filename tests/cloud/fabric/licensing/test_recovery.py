"""`cloud.fabric.licensing.recovery`: the rows of the table of recoveries, each with the inputs that fail."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from cloud.fabric.bodies.recovery import RecoveryEvidence, RecoveryPolicy
from cloud.fabric.licensing.recovery import Asked, Earlier, Go, Known, Refuse, Used, decide, situation_of
from protocol.messages.recovery import Situation

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NO_GRACE = RecoveryPolicy()
GRACE = RecoveryPolicy(grace_quota=2, silence_minutes=0)
NODE = Known(standing="active", seat_held=True, confirmed=True, tier="attested")


def evidence(**changes: Any) -> RecoveryEvidence:
    """Another chip in the enrolled machine, which presents its statement and was online an hour ago."""
    made = RecoveryEvidence(
        same_chip=False,
        fingerprint="match",
        matched={"product_uuid": 25, "board_serial": 25, "disk_wwn": 15},
        changed={"disk_serial": 15},
        statement=True,
        last_seen_at=NOW - HOUR,
        last_ran_at=None,
        tier="attested",
        address="192.0.2.1",
        agent_version="1.0",
    )
    return msgspec.structs.replace(made, **changes)


def asked(code: bool = False, claimed: Situation = "hardware-replaced", **changes: Any) -> Asked:
    return Asked(claimed=claimed, evidence=evidence(**changes), code=code)


def earlier(**changes: Any) -> Earlier:
    """A case of another machine that waits, with the evidence of a fingerprint."""
    made = Earlier(
        state="needs_operator",
        same_machine=False,
        evidence=evidence(),
        decide_by=NOW + 3 * DAY,
        next_allowed_at=None,
        reason="",
        code=False,
        grace=False,
        grace_until=None,
    )
    return msgspec.structs.replace(made, **changes)


def go(asks: Asked, policy: RecoveryPolicy = NO_GRACE, known: Known = NODE, before: Earlier | None = None) -> Go:
    decided = decide(policy, known, asks, Used(), before, NOW)
    assert isinstance(decided, Go), decided
    return decided


def refused(asks: Asked, known: Known = NODE, before: Earlier | None = None) -> Refuse:
    decided = decide(GRACE, known, asks, Used(), before, NOW)
    assert isinstance(decided, Refuse), decided
    return decided


@pytest.mark.parametrize("claimed", ["reinstalled", "tpm-cleared"])
def test_the_chip_alone_waits_and_a_code_goes_on(claimed: Situation) -> None:
    """OS reinstalled, disk replaced, TPM cleared: the same chip needs a code or a person."""
    alone = go(asked(claimed=claimed, same_chip=True))
    assert (alone.state, alone.goes_on, alone.needs, alone.situation) == (
        "needs_operator",
        False,
        "operator-or-code",
        claimed,
    )
    with_code = go(asked(code=True, claimed=claimed, same_chip=True))
    assert (with_code.state, with_code.goes_on, with_code.grace) == ("open", True, False)


def test_another_chip_gets_a_grace_lease_by_the_tenants_quota_only() -> None:
    assert go(asked()).state == "needs_operator"
    by_quota = go(asked(), GRACE)
    assert (by_quota.state, by_quota.goes_on, by_quota.grace) == ("eligible", True, True)


@pytest.mark.parametrize(
    ("changes", "tier", "reason"),
    [
        ({"fingerprint": "mismatch"}, "attested", "the fingerprint does not match: 65 of 80"),
        ({"last_seen_at": NOW - DAY - HOUR}, "attested", "not online within a day before it fell silent"),
        ({"last_seen_at": None}, "attested", "not online within a day"),
        ({"last_seen_at": NOW - 3 * DAY, "last_ran_at": NOW - DAY}, "attested", "not online within a day"),
        (
            {"last_seen_at": NOW - HOUR, "last_ran_at": NOW - 30 * DAY},
            "attested",
            "online long after this machine last",
        ),
        ({"former_chip": True}, "attested", "an earlier recovery of the node replaced this TPM"),
        ({"tier": "tpm"}, "attested", "reaches the tier tpm only"),
        ({"tier": "software"}, "attested", "without a TPM gets no grace lease"),
        ({"tier": "attested"}, "software", "without a TPM gets no grace lease"),
    ],
)
def test_no_grace_lease_without_a_person(changes: dict[str, Any], tier: Any, reason: str) -> None:
    decided = go(asked(**changes), GRACE, msgspec.structs.replace(NODE, tier=tier))
    assert (decided.state, decided.goes_on, decided.grace) == ("needs_operator", False, False)
    assert reason in decided.reason


def test_a_long_silence_counts_from_the_machines_last_run() -> None:
    """The cloud was not asked for a month. The machine was online shortly before it was switched off."""
    quiet: dict[str, Any] = {"last_seen_at": NOW - 30 * DAY, "last_ran_at": NOW - 29 * DAY}
    assert go(asked(**quiet), GRACE).grace
    recorded: dict[str, Any] = {"last_seen_at": NOW - HOUR, "last_ran_at": NOW - DAY - 2 * HOUR}
    assert go(asked(**recorded), GRACE).grace, "the machine records once a day that it runs"
    later: dict[str, Any] = {"last_seen_at": NOW - HOUR, "last_ran_at": NOW + 300 * DAY}
    assert go(asked(**later), GRACE).grace, "a report of the future counts as now"


def test_a_suspended_node_gets_no_grace_lease_and_may_recover() -> None:
    suspended = msgspec.structs.replace(NODE, standing="suspended")
    assert go(asked(), GRACE, suspended).reason == "the node is suspended"
    assert go(asked(code=True), GRACE, suspended).state == "open"


@pytest.mark.parametrize(
    ("used", "allowed_at"),
    [
        (Used(of_tenant=(NOW - 80 * DAY, NOW - 10 * DAY)), NOW + 10 * DAY),
        (Used(of_tenant=(NOW - 80 * DAY, NOW - 20 * DAY, NOW - 10 * DAY)), NOW + 70 * DAY),
        (Used(of_tenant=(NOW - DAY,), of_node=(NOW - DAY,)), NOW + 89 * DAY),
    ],
)
def test_a_quota_that_is_used_up_names_the_next_time(used: Used, allowed_at: datetime) -> None:
    decided = decide(GRACE, NODE, asked(), used, None, NOW)
    assert isinstance(decided, Go)
    assert (decided.state, decided.next_allowed_at) == ("needs_operator", allowed_at)
    assert decide(GRACE, NODE, asked(), Used(of_tenant=(NOW - DAY,)), None, NOW).grace  # type: ignore[union-attr]  # Go


def test_after_a_restore_a_code_needs_the_last_statement() -> None:
    held = msgspec.structs.replace(NODE, held=True)
    for asks in (asked(code=True, statement=False), asked(same_chip=True, statement=False)):
        waiting = go(asks, GRACE, held)
        assert (waiting.state, waiting.goes_on, waiting.needs) == ("needs_operator", False, "operator")
    assert go(asked(code=True), GRACE, held).state == "open"
    conflicting = msgspec.structs.replace(NODE, held=True, conflicting=True)
    assert go(asked(code=True), GRACE, conflicting).reason.startswith("the node waits for an operator")
    approved = earlier(same_machine=True, state="approved")
    assert go(asked(statement=False), GRACE, held, approved).goes_on
    assert go(asked(), GRACE, conflicting, approved).goes_on


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"standing": "revoked"}, "revoked"),
        ({"standing": "released"}, "no seat"),
        ({"seat_held": False}, "no seat"),
        ({"confirmed": False}, "never confirmed"),
    ],
)
def test_a_code_does_not_bring_back_a_node_that_ended(changes: dict[str, Any], reason: str) -> None:
    for code in (False, True):
        assert reason in refused(asked(code=code, same_chip=True), msgspec.structs.replace(NODE, **changes)).reason


def test_a_machine_that_shows_nothing_of_the_node_is_refused() -> None:
    nothing: dict[str, Any] = {"fingerprint": "mismatch", "statement": False}
    assert "another TPM, and 65 of 80" in refused(asked(**nothing)).reason
    assert "try again" in refused(asked(fingerprint="inconclusive", statement=False)).reason
    for changes in ({"same_chip": True}, {"former_chip": True}, {"statement": True}, {"fingerprint": "match"}):
        assert go(asked(**{**nothing, **changes})).state == "needs_operator"
    assert go(asked(code=True, **nothing)).state == "open"


def test_a_second_machine_is_refused_until_the_first_case_ends() -> None:
    second = refused(asked(), before=earlier())
    assert second.allowed_at == NOW + 3 * DAY
    assert go(asked(), before=earlier(decide_by=NOW)).state == "needs_operator"
    assert go(asked(), before=earlier(state="lapsed")).supersedes is False


@pytest.mark.parametrize(
    ("asks", "before", "wins"),
    [
        (asked(same_chip=True), earlier(), True),
        (asked(same_chip=True), earlier(state="approved"), False),
        (asked(same_chip=True), earlier(grace=True, grace_until=NOW + DAY), False),
        (asked(), earlier(evidence=evidence(fingerprint="mismatch")), True),
        (asked(fingerprint="mismatch"), earlier(evidence=evidence(fingerprint="mismatch")), False),
        (asked(code=True), earlier(grace=True, grace_until=NOW + DAY), True),
        (asked(code=True), earlier(state="approved"), True),
    ],
)
def test_stronger_evidence_ends_the_case_of_another_machine(asks: Asked, before: Earlier, wins: bool) -> None:
    decided = decide(GRACE, NODE, asks, Used(), before, NOW)
    assert isinstance(decided, Go) is wins
    assert not wins or decided.supersedes  # type: ignore[union-attr]  # a Go


def test_a_refused_machine_waits_until_the_time_of_the_refusal() -> None:
    denial = earlier(state="refused", same_machine=True, next_allowed_at=NOW + DAY, reason="stolen")
    answer = refused(asked(), before=denial)
    assert "stolen" in answer.reason
    assert answer.allowed_at == NOW + DAY
    assert go(asked(code=True), before=denial).state == "open"
    assert go(asked(), before=msgspec.structs.replace(denial, next_allowed_at=NOW)).state == "needs_operator"
    assert go(asked(), before=msgspec.structs.replace(denial, same_machine=False)).state == "needs_operator"


def test_the_same_machine_continues_its_case() -> None:
    own = earlier(same_machine=True)
    assert go(asked(), before=msgspec.structs.replace(own, state="open", code=True)).state == "open"
    assert go(asked(), before=msgspec.structs.replace(own, state="approved")).goes_on
    issued = go(asked(), before=msgspec.structs.replace(own, state="code_issued"))
    assert (issued.state, issued.needs, issued.goes_on) == ("code_issued", "code", False)
    running = msgspec.structs.replace(own, state="eligible", grace=True, grace_until=NOW + HOUR)
    assert go(asked(), before=running).grace, "the grace lease is counted already"
    ended = msgspec.structs.replace(running, grace_until=NOW)
    decided = decide(GRACE, NODE, asked(), Used(of_node=(NOW - DAY,)), ended, NOW)
    assert isinstance(decided, Go)
    assert (decided.state, decided.grace) == ("needs_operator", False)


@pytest.mark.parametrize(
    ("claimed", "changes", "judged"),
    [
        ("reinstalled", {"same_chip": True}, "reinstalled"),
        ("tpm-cleared", {"same_chip": True}, "tpm-cleared"),
        ("hardware-replaced", {"same_chip": True}, "reinstalled"),
        ("reinstalled", {}, "hardware-replaced"),
        ("reinstalled", {"tier": "software"}, "reinstalled"),
        ("reinstalled", {"tier": "software", "fingerprint": "mismatch"}, "hardware-replaced"),
    ],
)
def test_the_proof_says_what_has_happened(claimed: Situation, changes: dict[str, Any], judged: Situation) -> None:
    made = evidence(**changes)
    assert situation_of(claimed, made, made.tier) == judged


def test_a_node_that_loses_its_tpm_is_replaced() -> None:
    """The fingerprint is a report. The machine with the chip may be the node still, and its return is evidence."""
    assert situation_of("reinstalled", evidence(tier="software"), "attested") == "hardware-replaced"
