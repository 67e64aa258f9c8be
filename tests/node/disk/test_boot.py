"""The record of the boot: kept, read, removed; and no fault of the directory is raised."""

from pathlib import Path

import pytest

from node.disk import calls
from node.disk.boot import BOOT_ID, RECORD, BootRecord


def test_the_record_is_kept_and_removed(tmp_path: Path) -> None:
    record = BootRecord(tmp_path)
    assert record.load() is None
    record.save("boot", b"signature")
    assert BootRecord(tmp_path).load() == ("boot", b"signature")
    assert (tmp_path / RECORD).stat().st_mode & 0o777 == 0o600
    record.clear()
    assert record.load() is None
    record.clear()


def test_the_id_is_the_kernels(tmp_path: Path) -> None:
    assert BootRecord(tmp_path).boot_id() == BOOT_ID.read_text().strip() != ""
    assert BootRecord(tmp_path, tmp_path / "missing").boot_id() == ""


@pytest.mark.parametrize("call", calls.CALLS)
def test_no_fault_of_the_disk_is_raised(tmp_path: Path, call: str) -> None:
    record = BootRecord(tmp_path)
    record.save("boot", b"signature")

    def fail(name: str, path: str) -> None:
        if name == call:
            raise OSError(5, "Input/output error")

    with calls.hooked(fail):
        record.save("boot", b"signature")
        assert record.load() in (None, ("boot", b"signature"))
        assert record.boot_id() in ("", BOOT_ID.read_text().strip())
        record.clear()


def test_a_missing_directory_keeps_no_record(tmp_path: Path) -> None:
    record = BootRecord(tmp_path / "missing")
    record.save("boot", b"signature")
    assert record.load() is None
    record.clear()


def test_an_odd_record_is_no_record(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_bytes(b"x" * 10)
    assert BootRecord(tmp_path).load() is None
    (tmp_path / RECORD).unlink()
    (tmp_path / RECORD).mkdir()
    assert BootRecord(tmp_path).load() is None
