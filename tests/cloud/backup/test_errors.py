"""Refusals have a stable code and a next step."""

from pathlib import Path

from cloud.backup.errors import BackupDamaged, BackupRefused


def test_a_damaged_backup_is_a_refusal_that_names_the_file() -> None:
    error = BackupDamaged(Path("x.backup"), "it ends early")
    assert isinstance(error, BackupRefused)
    assert error.code == "backup_damaged"
    assert "x.backup" in str(error)
    assert "it ends early" in str(error)
    assert error.next_step
