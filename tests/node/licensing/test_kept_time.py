"""`node.licensing.kept_time`: without a hardware floor, a clock that is set back before each start gains little."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from node.licensing.kept_time import KEEP_EVERY, KeptTime
from node.licensing.trusted_time import Clocks, TimeFloor, TrustedTime, first_floor, low_of
from protocol.evidence import ClockInfo

START = datetime(2027, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def run(kept: KeptTime, hours: int) -> TrustedTime:
    """A boot whose wall clock was set back to START. It runs, and keeps its time each hour."""
    elapsed = 0.0
    clocks = Clocks(lambda: START + timedelta(seconds=elapsed), lambda: elapsed, lambda: elapsed)
    time = TrustedTime(kept.load() or first_floor(START), clocks)
    kept.save(time.kept)
    for _ in range(hours):
        elapsed += 3600
        kept.save(time.kept)
    return time


def test_a_clock_that_is_set_back_at_each_boot_does_not_stop_the_time(tmp_path: Path) -> None:
    for boot in range(1, 8):
        time = run(KeptTime(tmp_path), 24)
        assert timedelta(0) <= START + boot * 24 * HOUR - time.high() < timedelta(minutes=1)
        assert time.low() == low_of(time.kept) <= time.high()


def test_the_file_is_written_when_some_time_has_passed(tmp_path: Path) -> None:
    kept, floor = KeptTime(tmp_path), first_floor(START)
    kept.save(floor)
    kept.save(first_floor(START + KEEP_EVERY - timedelta(seconds=1)))
    assert kept.load() == floor
    kept.save(first_floor(START + KEEP_EVERY))
    assert kept.load() == first_floor(START + KEEP_EVERY)
    # A new activation begins trusted time again.
    KeptTime(tmp_path).save(floor)
    assert kept.load() == floor


def test_the_clock_of_a_tpm_goes_on_across_boots(tmp_path: Path) -> None:
    time = TrustedTime(first_floor(START), Clocks(lambda: START, lambda: 0.0, lambda: 0.0))
    time.observe(ClockInfo(10_000, 1, 0, True))
    KeptTime(tmp_path).save(time.kept)
    stored = KeptTime(tmp_path).load()
    assert stored == TimeFloor(signed_at=START, clock=ClockInfo(10_000, 1, 0, True))


def test_a_file_that_cannot_be_used_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert KeptTime(tmp_path).load() is None
    (tmp_path / "licence").mkdir()
    (tmp_path / "licence" / "time.json").write_text("{}")
    assert KeptTime(tmp_path).load() is None
    (tmp_path / "licence" / "time.json").unlink()
    (tmp_path / "licence").chmod(0o777)
    (tmp_path / "licence").rmdir()
    (tmp_path / "licence").write_text("")
    KeptTime(tmp_path).save(first_floor(START))
    assert "does not know the time that has passed" in caplog.text
