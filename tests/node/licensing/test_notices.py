"""Notices: from which date they count, when they end, and what a final lease says."""

from datetime import datetime, timedelta

import pytest

from node.licensing.notices import Notice, notice_of
from protocol.ids import RecoveryId, make_id
from protocol.signed.statements import Final
from tests.node.licensing.samples import DAY, T0, changed, make_lease

ENDS = T0 + 30 * DAY
LEASE = changed(make_lease(), notify_at=(ENDS - 7 * DAY, ENDS - DAY))
FINAL = changed(
    LEASE, node_key="3b" * 32, expires_at=ENDS, grace_until=ENDS, terminate_at=ENDS, final=Final(reason="unpaid")
)


@pytest.mark.parametrize(
    ("at", "since"),
    [
        (T0, None),
        (ENDS - 7 * DAY - timedelta(microseconds=1), None),
        (ENDS - 7 * DAY, ENDS - 7 * DAY),
        (ENDS - DAY, ENDS - DAY),
        (ENDS - timedelta(microseconds=1), ENDS - DAY),
        (ENDS, None),
        (ENDS + DAY, None),
    ],
)
def test_a_lease_has_a_notice_between_its_dates_and_its_expiry(at: datetime, since: datetime | None) -> None:
    notice = notice_of(LEASE, at)
    assert (notice and notice.since) == since
    if notice is not None:
        assert notice.text.endswith("the lease expires at 2026-12-22T12:00:00Z")


def test_a_final_lease_has_a_notice_from_its_issue_on_and_one_at_each_date() -> None:
    text = "this is the last lease (unpaid): all licensed software stops at 2026-12-22T12:00:00Z"
    assert notice_of(FINAL, T0) == Notice(T0, text)
    assert notice_of(FINAL, ENDS - 7 * DAY) == Notice(ENDS - 7 * DAY, text)
    assert notice_of(FINAL, ENDS) is None


def test_a_grace_lease_has_a_notice_from_its_issue_on() -> None:
    case = RecoveryId(make_id("rcv", 1, bytes(10)))
    lease = changed(FINAL, final=None, recovery=case, notify_at=())
    notice = notice_of(lease, T0)
    assert notice is not None
    assert (notice.since, case in notice.text) == (T0, True)
    assert notice.text.endswith("all licensed software stops at 2026-12-22T12:00:00Z")
    assert notice_of(lease, ENDS) is None


def test_without_dates_there_is_no_notice() -> None:
    assert notice_of(make_lease(), ENDS - timedelta(seconds=1)) is None
