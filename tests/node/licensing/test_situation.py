"""What `cascadia recover` does about each finding: a recovery only if the state or the key is certainly lost."""

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.exits import Exit
from node.licensing.situation import Fault, Found, Plan, Way, plan
from node.licensing.verdict import STATES, LicenceState, Verdict
from protocol.ids import RecoveryId, make_id
from protocol.messages.recovery import AwaitedRecovery, Situation
from tests.node.licensing.samples import NODE, T0

CASE = RecoveryId(make_id("rcv", 1, bytes(10)))
WAITS = AwaitedRecovery(CASE, "needs_operator", "operator-or-code", T0)
BUSY = Fault("tpm-busy", "cannot use the TPM now: it is busy", "Try again.", 87)
UNREADABLE = Fault("state_unreadable", "cannot read X: input/output error", "Check the disk.", 70)


def verdict(state: LicenceState = "active", **changes: object) -> Verdict:
    made = Verdict(
        state=state,
        gate_open=state == "active",
        new_work=state == "active",
        reason="the lease is current",
        next="",
        deadline=None,
        valid_until=T0 + timedelta(seconds=60),
        exit=Exit.OK,
    )
    return msgspec.structs.replace(made, **changes)


def found(**changes: object) -> Found:
    works = Found(
        directory="present",
        node=NODE,
        generation=1,
        chip="same",
        node_key="works",
        verdict=verdict(),
        has_trust=True,
    )
    return msgspec.structs.replace(works, **changes)


DEAD = {"chip": "cleared", "node_key": "refused", "verdict": verdict("hardware-mismatch")}
ROWS: list[tuple[str, Found, Way, Situation | None]] = [
    ("nothing is wrong", found(), "nothing", None),
    ("the wall clock is suspect", found(verdict=verdict(clock_suspect=True)), "renewal", None),
    ("a record is damaged", found(verdict=verdict(damaged=("torn",))), "renewal", None),
    ("the certificate has expired", found(certificate_expired=True), "renewal", None),
    ("the activation is not confirmed", found(verdict=verdict("pending")), "renewal", None),
    ("the tenant was suspended", found(verdict=verdict("suspended")), "renewal", None),
    ("no statement can be trusted", found(verdict=verdict("stale")), "renewal", None),
    ("the lease has terminated", found(verdict=verdict("terminated")), "renewal", None),
    ("the node runs on a grace lease", found(verdict=verdict("recovery-pending"), case=CASE), "renewal", None),
    ("the node is revoked", found(verdict=verdict("revoked")), "revoked", None),
    ("the node is revoked, and its TPM was cleared", found(**DEAD | {"verdict": verdict("revoked")}), "revoked", None),
    ("the node was activated elsewhere", found(verdict=verdict("revoked", superseded=True)), "superseded", None),
    ("the TPM is busy", found(chip="silent", node_key="unknown", fault=BUSY), "tpm", None),
    ("the disk cannot be read", found(directory="damaged", verdict=None, fault=UNREADABLE), "disk", None),
    ("the TPM was cleared", found(**DEAD), "recovery", "tpm-cleared"),
    ("the board was replaced", found(**DEAD | {"chip": "other"}), "recovery", "hardware-replaced"),
    (
        "the parts of a machine without a TPM were replaced",
        found(chip="none", in_software=True, verdict=verdict("hardware-mismatch")),
        "recovery",
        "hardware-replaced",
    ),
    ("the system was reinstalled", Found(directory="lost"), "recovery", "reinstalled"),
    ("the identity is damaged", found(directory="damaged", chip="unknown", verdict=None), "recovery", "reinstalled"),
    ("a recovery of a cleared TPM waits", found(**DEAD, waits=WAITS), "wait", "tpm-cleared"),
    ("a recovery of a lost state waits", Found(directory="lost", waits=WAITS), "wait", "reinstalled"),
    ("a recovery waits, and the old TPM is back", found(waits=WAITS), "nothing", None),
    ("a recovery waits, and the node was revoked", found(verdict=verdict("revoked"), waits=WAITS), "revoked", None),
]


@pytest.mark.parametrize(("found", "way", "situation"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_table(found: Found, way: Way, situation: Situation | None) -> None:
    made = plan(found)
    assert (made.way, made.situation) == (way, situation)
    assert made.needs
    assert made.next


def test_a_code_goes_to_a_recovery_that_waits_and_to_a_grace_lease() -> None:
    assert plan(found(**DEAD, waits=WAITS), has_code=True).way == "recovery"
    assert plan(found(verdict=verdict("recovery-pending"), case=CASE), has_code=True).way == "recovery"
    assert plan(found(), has_code=True).way == "nothing"


def test_the_next_step_of_a_fault_is_the_faults_own() -> None:
    assert "Try again." in plan(found(chip="silent", fault=BUSY)).next
    assert "Check the disk." in plan(found(directory="damaged", verdict=None, fault=UNREADABLE)).next


@given(
    st.builds(
        Found,
        directory=st.sampled_from(["present", "damaged", "lost"]),
        chip=st.sampled_from(["same", "cleared", "other", "silent", "none", "unknown"]),
        node_key=st.sampled_from(["works", "refused", "unknown"]),
        verdict=st.none() | st.sampled_from(STATES).map(verdict),
        fault=st.sampled_from([None, BUSY, UNREADABLE]),
        waits=st.sampled_from([None, WAITS]),
        case=st.sampled_from(["", CASE]),
    ),
    st.booleans(),
)
def test_no_revoked_node_and_no_machine_with_a_fault_recovers(one: Found, has_code: bool) -> None:
    made: Plan = plan(one, has_code=has_code)
    if made.way in ("recovery", "wait"):
        assert made.situation is not None
        assert one.verdict is None or one.verdict.state != "revoked"
        assert one.directory == "lost" or one.fault is None
    else:
        assert made.situation is None
