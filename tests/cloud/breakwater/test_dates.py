"""`cloud.breakwater.dates`: which CAs are not valid now, and the next step."""

from datetime import UTC, datetime, timedelta

import pytest

from cloud.breakwater.dates import ca_faults
from tests.cloud.breakwater.revoking import Hierarchy

NOW = datetime(2026, 11, 30, 6, 0, tzinfo=UTC)
HIERARCHY = Hierarchy(NOW)
"""Its CAs begin a day and five minutes before `NOW`."""


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (NOW, ""),
        (NOW - timedelta(days=2), "is not valid before 2026-11-29 05:55:00 UTC, which is 23 h 55 min in the future"),
        (NOW + timedelta(days=3650), "has expired at "),
    ],
)
def test_the_faults(now: datetime, text: str) -> None:
    issuing = [issuer for issuer in HIERARCHY.issuers.values() if issuer.name != "root"]
    faults = ca_faults(issuing, now)
    assert [fault.subject for fault in faults] == (["nodes-1", "nodes-2", "services-1"] if text else [])
    assert all(fault.fault.startswith(text) for fault in faults)


def test_the_next_step_fits_the_ca_and_the_fault() -> None:
    early = {fault.subject: fault.next_step for fault in ca_faults(HIERARCHY.issuers.values(), NOW - timedelta(days=9))}
    late = {
        fault.subject: fault.next_step for fault in ca_faults(HIERARCHY.issuers.values(), NOW + timedelta(days=9999))
    }
    assert "cascade pki rotate request services" in early["services-1"]
    assert "cascade pki rotate request nodes" in early["nodes-1"]
    assert "root" in early["root-1"]
    assert all("cascade init" in text for text in early.values())
    assert all("cascade init" not in text for text in late.values())
