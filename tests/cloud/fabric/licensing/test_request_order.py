"""`cloud.fabric.licensing.request_order`: a request is earlier only if the machine's time and its TPM say so."""

from datetime import UTC, datetime, timedelta

import pytest

from cloud.fabric.licensing.request_order import Moment, is_earlier
from protocol.evidence import ClockInfo
from protocol.limits import CLOCK_SKEW

AT = datetime(2026, 11, 30, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TPM = ClockInfo(1000, 2, 1, True)
LATER = (ClockInfo(1001, 2, 1, True), ClockInfo(5, 3, 1, True), ClockInfo(5, 2, 2, True))


@pytest.mark.parametrize("later", LATER)
def test_time_and_tpm_decide_together(later: ClockInfo) -> None:
    assert is_earlier(Moment(AT, TPM), Moment(AT + MINUTE, later))
    assert not is_earlier(Moment(AT + MINUTE, TPM), Moment(AT, later)), "a restored machine, whose TPM went back"
    assert not is_earlier(Moment(AT, later), Moment(AT + MINUTE, TPM)), "a dead battery, which set the time back"
    assert not is_earlier(Moment(AT + MINUTE, later), Moment(AT, TPM))


def test_the_same_moment_is_not_earlier() -> None:
    assert not is_earlier(Moment(AT, TPM), Moment(AT, TPM))
    assert not is_earlier(Moment(AT, TPM), Moment(AT + MINUTE, TPM))


def test_without_a_tpm_the_time_decides_with_a_tolerance() -> None:
    assert not is_earlier(Moment(AT, None), Moment(AT + CLOCK_SKEW, None))
    assert is_earlier(Moment(AT, None), Moment(AT + CLOCK_SKEW + MINUTE, None))
    assert is_earlier(Moment(AT, TPM), Moment(AT + CLOCK_SKEW + MINUTE, None))
