"""The record of what a boot knows about the time."""

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from node.disk.boot import BootRecord
from node.licensing.boot_time import RECORD, BootTimeRecord
from node.licensing.trusted_time import BootTime, TimeFloor
from protocol.evidence import ClockInfo
from tests.simulators.machine_clocks import START

TIME = BootTime(
    booted_at=START,
    signed_at=START + timedelta(hours=1),
    signed_boot_seconds=3600.5,
    low_at=START,
    low_awake_seconds=3.25,
    floor=TimeFloor(signed_at=START, powered_ms=7, clock=ClockInfo(5, 1, 0, True)),
)


@pytest.fixture
def record(tmp_path: Path) -> BootTimeRecord:
    (tmp_path / "boot_id").write_text("one\n")
    return BootTimeRecord(BootRecord(tmp_path, tmp_path / "boot_id"))


def test_a_restart_in_the_same_boot_finds_it(record: BootTimeRecord) -> None:
    assert record.load() is None
    record.save(TIME)
    assert record.load() == TIME


def test_a_usable_record_of_the_same_time_is_not_written_again(record: BootTimeRecord, tmp_path: Path) -> None:
    record.save(TIME)
    first = (tmp_path / RECORD).stat().st_ino
    record.save(TIME)
    assert (tmp_path / RECORD).stat().st_ino == first
    again = BootTimeRecord(BootRecord(tmp_path, tmp_path / "boot_id"))
    assert again.load() == TIME
    again.save(TIME)
    assert (tmp_path / RECORD).stat().st_ino == first
    later = msgspec.structs.replace(TIME, signed_boot_seconds=3601.0)
    again.save(later)
    assert record.load() == later
    (tmp_path / RECORD).unlink()
    again.save(later)
    assert record.load() == later
    (tmp_path / RECORD).chmod(0o666)
    again.save(later)
    assert record.load() == later


def test_another_boot_does_not(record: BootTimeRecord, tmp_path: Path) -> None:
    record.save(TIME)
    (tmp_path / "boot_id").write_text("two\n")
    assert record.load() is None


def test_without_an_id_of_the_boot_nothing_is_kept(record: BootTimeRecord, tmp_path: Path) -> None:
    record.save(TIME)
    (tmp_path / "boot_id").unlink()
    assert record.load() is None
    (tmp_path / RECORD).unlink()
    record.save(TIME)
    assert not (tmp_path / RECORD).exists()


@pytest.mark.parametrize("mode", [0o666, 0o660])
def test_a_record_that_other_users_can_write_does_not_count(record: BootTimeRecord, tmp_path: Path, mode: int) -> None:
    record.save(TIME)
    (tmp_path / RECORD).chmod(mode)
    assert record.load() is None


def test_a_damaged_record_does_not_count_and_is_replaced(record: BootTimeRecord, tmp_path: Path) -> None:
    record.save(TIME)
    (tmp_path / RECORD).write_bytes(b"torn")
    assert record.load() is None
    record.save(TIME)
    assert record.load() == TIME


def test_a_directory_that_is_missing_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "boot_id").write_text("one\n")
    record = BootTimeRecord(BootRecord(tmp_path / "missing", tmp_path / "boot_id"))
    record.save(TIME)
    assert record.load() is None
