"""The wall clock is aware and in UTC."""

from datetime import UTC, datetime, timedelta

from cloud.clock import utc_now


def test_the_time_is_aware_and_in_utc() -> None:
    before = datetime.now(UTC)
    assert before <= utc_now() <= datetime.now(UTC)
    assert utc_now().utcoffset() == timedelta(0)
