"""Texts for certificates and clocks."""

from datetime import UTC, datetime, timedelta

import pytest

from node.link.causes import expired, slow_by, time_of, whom, wrong_clock
from tests.simulators.fabric import DAY, Fabric, utc_now


def test_a_certificate_is_named_with_its_issuer() -> None:
    fabric = Fabric()
    assert whom((fabric.leaves["fabric"].chain[0], b"x")) == (
        "The server showed a certificate of CN=fabric, issued by CN=services."
    )
    assert whom((b"no certificate",)) == "The server's certificate cannot be read."
    assert whom(()) == "The server showed no certificate."


@pytest.mark.parametrize(
    "date",
    ["", "yesterday", "Mon, 30 Nov 2026 02:00:00 -0000", "Mon, 99 Nov 2026 02:00:00 GMT", "1" * 9000, ", , ,", "\x00"],
)
def test_an_unusable_date_measures_nothing(date: str) -> None:
    assert time_of(date) is None


def test_a_date_measures_a_clock() -> None:
    assert time_of("Mon, 30 Nov 2026 02:00:00 GMT") == datetime(2026, 11, 30, 2, tzinfo=UTC)
    assert wrong_clock(timedelta(minutes=15)) == "this machine's clock is fast by 15 min 0 s"
    assert wrong_clock(timedelta(days=-365)) == "this machine's clock is slow by 365 d 0 h"


def test_dates_of_a_chain_measure_a_clock() -> None:
    fabric, now = Fabric(), utc_now()
    leaf = fabric.service_leaf("fabric", not_before=now + timedelta(minutes=9), not_after=now + DAY).chain[0]
    assert timedelta(minutes=8, seconds=58) < slow_by((b"unreadable", leaf), now) <= timedelta(minutes=9)
    assert slow_by((leaf,), now + timedelta(hours=1)) == timedelta(0)
    assert slow_by((), now) == timedelta(0)
    assert not expired((leaf,), now)
    assert expired((leaf, b"unreadable"), now + 2 * DAY)
