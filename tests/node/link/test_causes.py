"""Texts for certificates and clocks."""

from datetime import timedelta

from node.link.causes import current, whom, wrong_clock
from tests.simulators.fabric import DAY, Fabric, utc_now


def test_a_certificate_is_named_with_its_issuer() -> None:
    fabric = Fabric()
    assert whom((fabric.leaves["fabric"].chain[0], b"x")) == (
        "The server showed a certificate of CN=fabric, issued by CN=services."
    )
    assert whom((b"no certificate",)) == "The server's certificate cannot be read."
    assert whom(()) == "The server showed no certificate."


def test_a_clock_is_fast_or_slow() -> None:
    assert wrong_clock(timedelta(minutes=15)) == "this machine's clock is fast by 15 min 0 s"
    assert wrong_clock(timedelta(days=-365)) == "this machine's clock is slow by 365 d 0 h"


def test_dates_of_a_chain_compare_with_a_clock() -> None:
    fabric, now = Fabric(), utc_now()
    leaf = fabric.service_leaf("fabric", not_before=now + timedelta(minutes=9), not_after=now + DAY).chain[0]
    assert not current((leaf,), now)
    assert current((leaf,), now + timedelta(hours=1))
    assert not current((leaf,), now + 2 * DAY)
    assert not current((b"unreadable",), now)
