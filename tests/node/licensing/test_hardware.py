"""The hardware check: how each answer of the TPM is recorded, and which answers raise an error.

The faults of the port are simulated, the keys and the endorsement key are those of a software TPM.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from tpm2_pytss import TSS2_Exception

from node.clock import utc_now
from node.conditions import Conditions
from node.disk.boot import RECORD, BootRecord
from node.hwbind import counter, endorsement, keys, presence
from node.hwbind.errors import (
    TpmAbsent,
    TpmBusy,
    TpmError,
    TpmFailed,
    TpmHierarchyDisabled,
    TpmHierarchyPassword,
    TpmIntegrity,
    TpmLockout,
    TpmNotOurs,
    TpmPermission,
    TpmTimeout,
)
from node.hwbind.fingerprint import UNREAD, Components, Reasons, fingerprint
from node.hwbind.presence import EndorsementRecord
from node.hwbind.tpm import Tpm
from node.licensing.floors import Silent
from node.licensing.hardware import (
    FINGERPRINT_MISMATCH,
    FINGERPRINT_UNKNOWN,
    FINGERPRINT_UNREADABLE,
    HardwareCheck,
)
from protocol.fingerprint import enroll
from tests.node.conftest import Machine
from tests.node.licensing.samples import make_lease
from tests.off_loop import off_loop
from tests.simulators.chip_memory import forget_counters
from tests.simulators.faulty_ports import Faults, faulty_tpm

FAULTS = [
    TpmAbsent("x"),
    TpmPermission("x"),
    TpmBusy("x"),
    TpmTimeout("x"),
    TpmFailed("x"),
    TpmLockout("x"),
    TpmIntegrity("x"),
    TpmHierarchyPassword("x", "owner"),
    TpmHierarchyDisabled("x", "owner"),
]


class FailingTpm(Tpm):
    """A TPM that fails at its first work. Later work fails as well, or reaches the software TPM behind it."""

    def __init__(self, fault: TpmError, behind: Tpm | None = None) -> None:
        super().__init__("none")
        self._fault = fault
        self._behind = behind
        self._failed = False
        self.works = 0

    def call(self, work: Callable[[Any], Any]) -> Any:
        self.works += 1
        if self._failed and self._behind is not None:
            return self._behind.call(work)
        self._failed = True
        raise self._fault


@pytest.fixture
def record(machine: Machine, tpm: Tpm) -> EndorsementRecord:
    ek = off_loop(lambda: tpm.call(endorsement.read_endorsement))
    return off_loop(lambda: tpm.call(lambda esys: presence.record_endorsement(esys, machine.node_key, ek.public)))


async def test_the_chip_of_the_key_is_ours(machine: Machine, tpm: Tpm) -> None:
    check = HardwareCheck(tpm)
    assert (check.status, check.proven, check.fault) == ("unchecked", False, None)
    await check.check(machine.node_key)
    assert (check.status, check.proven, check.fault) == ("ours", True, None)


async def test_another_chip_is_an_answer_and_no_fault(machine: Machine) -> None:
    check = HardwareCheck(FailingTpm(TpmNotOurs("another chip")))
    await check.check(machine.node_key)
    assert (check.status, check.proven, check.fault) == ("other", False, None)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_key_that_cannot_be_asked_ends_the_start_without_a_proof(machine: Machine, fault: TpmError) -> None:
    """A copied disk with its TPM hidden looks the same."""
    check = HardwareCheck(FailingTpm(fault))
    with pytest.raises(type(fault)):
        await check.check(machine.node_key)
    assert (check.status, check.proven) == ("unchecked", False)


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_lease_decides_after_the_key_has_answered_in_this_boot(
    machine: Machine, tpm: Tpm, tmp_path: Path, fault: TpmError
) -> None:
    boot, conditions = BootRecord(tmp_path), Conditions(utc_now)
    await HardwareCheck(tpm, boot).check(machine.node_key)
    restarted = HardwareCheck(FailingTpm(fault, tpm), boot, conditions)
    await restarted.check(machine.node_key)
    assert (restarted.status, restarted.proven, restarted.fault) == ("unavailable", True, fault)
    [condition] = conditions.current()
    assert (condition.code, condition.text, condition.next) == (fault.code, str(fault), fault.advice)
    await restarted.check(machine.node_key)
    assert (restarted.status, restarted.fault, conditions.current()) == ("ours", None, ())


@pytest.mark.parametrize("change", ["other boot", "no boot id", "torn", "other key", "moved to this boot"])
async def test_a_record_of_another_boot_or_key_is_no_proof(
    machine: Machine, tpm: Tpm, tmp_path: Path, change: str
) -> None:
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("first")
    boot = BootRecord(tmp_path, boot_id)
    key = off_loop(lambda: tpm.call(keys.create_node_key)) if change == "other key" else machine.node_key
    await HardwareCheck(tpm, boot).check(key)
    path = tmp_path / RECORD
    if change == "torn":
        path.write_bytes(path.read_bytes()[:-9])
    elif change == "no boot id":
        boot_id.unlink()
    elif change == "other boot":
        boot_id.write_text("second")
    elif change == "moved to this boot":
        stored = boot.load()
        assert stored is not None
        boot_id.write_text("second")
        boot.save("second", stored[1])
    with pytest.raises(TpmAbsent):
        await HardwareCheck(FailingTpm(TpmAbsent("x")), boot).check(machine.node_key)


async def test_a_chip_that_shows_the_recorded_endorsement_key_is_known(
    machine: Machine, tpm: Tpm, record: EndorsementRecord
) -> None:
    fault = TpmHierarchyPassword("0x9a2", "owner")
    check = HardwareCheck(FailingTpm(fault, tpm))
    await check.check(machine.node_key, record)
    assert (check.status, check.proven, check.fault) == ("unavailable", True, fault)


@pytest.mark.parametrize("field", ["ek_public", "signature"])
async def test_an_edited_record_of_the_endorsement_key_is_no_proof(
    machine: Machine, tpm: Tpm, record: EndorsementRecord, field: str
) -> None:
    """Root on a copied disk could otherwise write the endorsement key of the other machine into the record."""
    edited = msgspec.structs.replace(record, **{field: getattr(record, field)[:-1] + b"x"})
    with pytest.raises(TpmHierarchyPassword):
        await HardwareCheck(FailingTpm(TpmHierarchyPassword("x", "owner"), tpm)).check(machine.node_key, edited)


async def test_a_cleared_chip_is_told_from_another_chip(machine: Machine, tpm: Tpm, record: EndorsementRecord) -> None:
    conditions = Conditions(utc_now)
    check = HardwareCheck(FailingTpm(TpmNotOurs("x"), tpm), conditions=conditions)
    check.report_fault(TpmNotOurs("during a contact"))
    assert [one.code for one in conditions.current()] == ["tpm-not-ours"]
    await check.check(machine.node_key, record)
    assert (check.status, check.proven, [one.code for one in conditions.current()]) == (
        "other",
        False,
        ["tpm-cleared"],
    )
    check.report_fault(TpmNotOurs("during the next contact"))
    assert [one.code for one in conditions.current()] == ["tpm-cleared"]


async def test_a_repeated_answer_of_another_chip_asks_for_no_endorsement_key(
    machine: Machine, record: EndorsementRecord
) -> None:
    port = FailingTpm(TpmNotOurs("x"))
    check = HardwareCheck(port)
    asked = []
    for _ in range(2):
        await check.check(machine.node_key, record)
        asked.append(port.works)
    assert asked == [3, 4]  # the key and both ways to see the endorsement key; then the key alone
    assert check.status == "other"


async def test_another_chip_ends_the_record_of_the_boot(machine: Machine, tpm: Tpm, tmp_path: Path) -> None:
    boot = BootRecord(tmp_path)
    await HardwareCheck(tpm, boot).check(machine.node_key)
    await HardwareCheck(FailingTpm(TpmNotOurs("another chip")), boot).check(machine.node_key)
    with pytest.raises(TpmAbsent):
        await HardwareCheck(FailingTpm(TpmAbsent("hidden")), boot).check(machine.node_key)


async def test_a_silent_disk_costs_the_record_and_not_the_start(
    machine: Machine, tpm: Tpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.licensing.hardware.RECORD_SECONDS_MAX", 0.01)
    pipe = tmp_path / "frozen"
    os.mkfifo(pipe)

    class Frozen(BootRecord):
        def boot_id(self) -> str:
            with pipe.open():  # waits for a writer
                return ""

    check = HardwareCheck(tpm, Frozen(tmp_path))
    await check.check(machine.node_key)
    assert check.status == "ours"
    await trio.to_thread.run_sync(lambda: pipe.open("w").close())


def test_a_reported_fault_stays_until_the_tpm_or_the_cloud_answers() -> None:
    check = HardwareCheck(Tpm("none"))
    check.report_ours()
    fault = TpmFailed("0x101")
    check.report_fault(fault)
    assert (check.status, check.proven, check.fault) == ("unavailable", True, fault)
    check.clear_fault()
    assert (check.status, check.proven, check.fault) == ("unavailable", True, None)


def test_a_fault_after_another_chip_does_not_open_the_gate() -> None:
    check = HardwareCheck(Tpm("none"))
    check.report_ours()
    check.report_fault(TpmNotOurs("another chip"))
    check.report_fault(TpmAbsent("hidden"))
    assert (check.status, check.proven) == ("other", False)


def test_another_chip_during_an_exchange_closes_the_gate_and_does_not_end_the_agent() -> None:
    check = HardwareCheck(Tpm("none"))
    check.report_fault(TpmNotOurs("another chip"))
    assert (check.status, check.fault) == ("other", None)


MACHINE_VALUES = {
    "product_uuid": "4c4c4544-0051-3510-8052-b4c04f564432",
    "board_serial": "CNFCP0096L00DE",
    "disk_serial": "S3Z8NB0K123456",
    "mac": "b8:2a:72:aa:bb:cc",
}
ANOTHER = {
    "product_uuid": "4c4c4544-0099-3510-8052-b4c04f564499",
    "board_serial": "CNOTHER000001",
    "disk_serial": "S5NEW00001",
    "mac": "b8:2a:72:aa:bb:ff",
}
SALT = b"s" * 32
SOFTWARE_LEASE = msgspec.structs.replace(
    make_lease(), tier="software", fingerprint=enroll(fingerprint(SALT, Components(MACHINE_VALUES, Reasons())))
)
HIDDEN = Components(
    {"disk_serial": "S3Z8NB0K123456"},
    Reasons(product_uuid="not readable by this user", board_serial="not readable by this user"),
    frozenset({"product_uuid", "board_serial"}),
)


@pytest.mark.parametrize(
    ("found", "status", "proven", "condition"),
    [
        (Components(MACHINE_VALUES, Reasons()), "ours", True, None),
        (Components(ANOTHER, Reasons()), "other", False, FINGERPRINT_MISMATCH),
        (HIDDEN, "unavailable", True, FINGERPRINT_UNREADABLE),
        (UNREAD, "unavailable", True, FINGERPRINT_UNREADABLE),
    ],
)
async def test_a_machine_without_a_tpm_is_its_fingerprint(
    found: Components, status: str, proven: bool, condition: str | None
) -> None:
    conditions = Conditions(utc_now)
    check = HardwareCheck(FailingTpm(TpmAbsent("x")), None, conditions)
    await check.check_fingerprint(SALT, SOFTWARE_LEASE, lambda: found)
    assert (check.status, check.proven) == (status, proven)
    assert [reported.code for reported in conditions.current()] == ([condition] if condition else [])
    assert check.judgement is not None
    assert check.can_prove == (status != "other")
    await check.check_fingerprint(SALT, SOFTWARE_LEASE, lambda: Components(MACHINE_VALUES, Reasons()))
    assert (check.status, check.proven, conditions.current()) == ("ours", True, ())


async def test_a_condition_names_the_kinds_and_the_cause() -> None:
    conditions = Conditions(utc_now)
    check = HardwareCheck(FailingTpm(TpmAbsent("x")), None, conditions)
    await check.check_fingerprint(SALT, SOFTWARE_LEASE, lambda: HIDDEN)
    assert "product_uuid (not readable by this user)" in conditions.current()[0].text
    await check.check_fingerprint(SALT, SOFTWARE_LEASE, lambda: Components(ANOTHER, Reasons()))
    assert [reported.code for reported in conditions.current()] == [FINGERPRINT_MISMATCH]
    assert "0 of 75" in conditions.current()[0].text
    assert "S5NEW00001" not in str(conditions.current()), "no serial number leaves the memory"


async def test_a_software_node_without_an_enrolled_fingerprint_opens_no_gate() -> None:
    conditions = Conditions(utc_now)
    check = HardwareCheck(FailingTpm(TpmAbsent("x")), None, conditions)
    await check.check_fingerprint(SALT, msgspec.structs.replace(SOFTWARE_LEASE, fingerprint=None), lambda: UNREAD)
    assert (check.status, check.proven, check.can_prove) == ("unavailable", False, True)
    assert [reported.code for reported in conditions.current()] == [FINGERPRINT_UNKNOWN]
    await check.check_fingerprint(SALT, None, lambda: UNREAD)
    assert (check.status, check.proven, check.in_software, check.unjudged) == ("unavailable", False, True, True)
    await check.check_fingerprint(SALT, SOFTWARE_LEASE, lambda: UNREAD)
    assert not check.unjudged


async def test_the_floor_counter_costs_two_commands_of_a_start(machine: Machine) -> None:
    label = "cascade.internal/node_of_this_test"
    faults = Faults()
    port = faulty_tpm(machine.chip.tcti, faults)
    try:
        made = await port.run(lambda esys: counter.establish(esys, label))
        check = HardwareCheck(port)
        check.expect_counter(label, made.index)
        faults.seen.clear()
        await check.check(machine.node_key)
        assert check.counter == made
        about_nv = {point.call: count for point, count in faults.seen.items() if point.call.startswith("nv")}
        assert about_nv == {"nv_readpublic": 1, "nv_read": 1}
    finally:
        await port.run(partial(forget_counters, label=label))
        await port.aclose()


async def test_a_counter_that_cannot_be_read_judges_nothing(
    machine: Machine, tpm: Tpm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node key answers, and the NV memory does not: the lease decides."""
    monkeypatch.setattr(counter, "read", lambda *_: (_ for _ in ()).throw(TSS2_Exception(0x923)))
    check = HardwareCheck(tpm)
    check.expect_counter("cascade.internal/node_of_this_test", 0x01A00000)
    await check.check(machine.node_key)
    assert check.status == "ours"
    assert isinstance(check.counter, Silent)
    assert "busy" in check.counter.reason
    assert not check.answered, "the next heartbeat asks for the counter again"
    monkeypatch.undo()
    await check.check(machine.node_key)
    assert check.counter is None
    assert check.answered  # type: ignore[unreachable]  # the check changed it
