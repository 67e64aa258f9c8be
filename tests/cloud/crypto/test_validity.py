"""`cloud.crypto.validity`: both ends of a validity."""

from datetime import UTC, datetime, timedelta

import pytest

from cloud.crypto.validity import is_current, outside
from tests.cloud.pki import authority

BEGINS = datetime(2026, 11, 30, 6, 0, tzinfo=UTC)
ENDS = BEGINS + timedelta(days=7)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (BEGINS, ""),
        (ENDS - SECOND, ""),
        (ENDS, "has expired at 2026-12-07 06:00:00 UTC"),
        (BEGINS - SECOND, "is not valid before 2026-11-30 06:00:00 UTC, which is 0 min 1 s in the future"),
        (
            BEGINS - timedelta(minutes=61),
            "is not valid before 2026-11-30 06:00:00 UTC, which is 1 h 1 min in the future",
        ),
        (
            BEGINS - timedelta(days=365),
            "is not valid before 2026-11-30 06:00:00 UTC, which is 365 days in the future",
        ),
    ],
)
def test_the_ends(now: datetime, text: str) -> None:
    assert outside(BEGINS, ENDS, now) == text


def test_a_certificate() -> None:
    certificate = authority("root").certificate
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    assert [is_current(certificate, now) for now in (begins - SECOND, begins, ends - SECOND, ends)] == [
        False,
        True,
        True,
        False,
    ]
