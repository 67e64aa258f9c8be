"""The hardware check: how each answer of the TPM is recorded, and which answers raise an error."""

from datetime import timedelta

import pytest

from node.hwbind.errors import (
    TpmAbsent,
    TpmError,
    TpmFailed,
    TpmIntegrity,
    TpmLockout,
    TpmNotOurs,
    TpmTimeout,
)
from node.hwbind.tpm import Tpm
from node.licensing.hardware import HardwareCheck
from tests.node.conftest import Machine
from tests.node.licensing.samples import make_lease

LEASE = make_lease()
DUE = LEASE.refresh_after
BEFORE = DUE - timedelta(microseconds=1)


class FailingTpm(Tpm):
    """A TPM whose only answer is a fault."""

    def __init__(self, fault: TpmError) -> None:
        super().__init__("none")
        self._fault = fault

    def call(self, work):  # type: ignore[no-untyped-def]
        raise self._fault


def always() -> bool:
    return True


def never() -> bool:
    return False


async def test_the_chip_of_the_key_is_ours(machine: Machine, tpm: Tpm) -> None:
    check = HardwareCheck(tpm)
    assert (check.status, check.proven, check.fault) == ("unchecked", False, None)
    await check.check(machine.node_key, never)
    assert (check.status, check.proven, check.fault) == ("ours", True, None)


async def test_another_chip_is_an_answer_and_no_fault(machine: Machine) -> None:
    check = HardwareCheck(FailingTpm(TpmNotOurs("another chip")))
    await check.check(machine.node_key, never)
    assert (check.status, check.proven, check.fault) == ("other", False, None)


@pytest.mark.parametrize("fault", [TpmFailed("x"), TpmLockout("x"), TpmIntegrity("x")])
async def test_a_chip_that_answers_with_an_error_is_tolerated_until_the_lease_needs_a_refresh(
    machine: Machine, fault: TpmError
) -> None:
    check = HardwareCheck(FailingTpm(fault))
    await check.check(machine.node_key, always)
    assert (check.status, check.proven) == ("unavailable", False)
    with pytest.raises(type(fault)):
        await check.check(machine.node_key, never)


async def test_the_lease_is_checked_after_the_chip_has_failed(machine: Machine) -> None:
    """A slow chip takes seconds. Meanwhile the lease may become due for refresh."""
    events: list[str] = []

    class Slow(FailingTpm):
        def call(self, work):  # type: ignore[no-untyped-def]
            events.append("failed")
            raise TpmFailed("x")

    def lease_serves() -> bool:
        events.append("lease")
        return True

    await HardwareCheck(Slow(TpmFailed("x"))).check(machine.node_key, lease_serves)
    assert events == ["failed", "lease"]


@pytest.mark.parametrize("fault", [TpmAbsent("x"), TpmTimeout("x")])
async def test_a_chip_that_does_not_answer_is_never_tolerated(machine: Machine, fault: TpmError) -> None:
    check = HardwareCheck(FailingTpm(fault))
    with pytest.raises(type(fault)):
        await check.check(machine.node_key, always)
    assert check.status == "unchecked"


def test_a_reported_fault_stays_until_the_tpm_or_the_cloud_answers() -> None:
    check = HardwareCheck(Tpm("none"))
    check.report_ours()
    fault = TpmFailed("0x101")
    check.report_fault(fault)
    assert (check.status, check.proven, check.fault) == ("unavailable", True, fault)
    check.clear_fault()
    assert (check.status, check.proven, check.fault) == ("unavailable", True, None)


def test_another_chip_during_an_exchange_closes_the_gate_and_does_not_end_the_agent() -> None:
    check = HardwareCheck(Tpm("none"))
    check.report_fault(TpmNotOurs("another chip"))
    assert (check.status, check.fault) == ("other", None)
