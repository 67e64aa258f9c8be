"""The keys of a backup from the command line, and the exit codes of its refusals."""

from argparse import Namespace
from pathlib import Path

import pytest

from cloud.backup.age import KeyTextError
from cloud.backup.errors import BackupDamaged, BackupRefused
from cloud.cli.backup.unlocking import read_pin, read_unlock, reported
from cloud.cli.errors import CliError
from cloud.process.settings import SettingsError
from cloud.storage import DatabaseUnavailable, StorageError
from cloud.storage.errors import DatabaseInUse


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (BackupDamaged("b", "short"), "backup_damaged", 65),
        (BackupRefused("backup_too_new", "cannot", "Do."), "backup_too_new", 77),
        (BackupRefused("target_in_use", "cannot", "Do."), "target_in_use", 2),
        (SettingsError("cannot"), "settings_refused", 2),
        (DatabaseInUse("cannot"), "database_in_use", 2),
        (KeyTextError("no key"), "recipient_invalid", 2),
        (DatabaseUnavailable("away"), "database_unavailable", 75),
        (StorageError("broken"), "backup_failed", 70),
        (OSError(28, "No space left on device"), "backup_failed", 70),
    ],
)
def test_every_error_has_a_code_and_a_next_step(error: Exception, code: str, exit_code: int) -> None:
    with pytest.raises(CliError) as raised, reported("make the backup", "There is no file."):
        raise error
    assert (raised.value.code, raised.value.exit_code) == (code, exit_code)
    assert raised.value.next_step


def test_a_broken_pipe_ends_the_command() -> None:
    with pytest.raises(BrokenPipeError), reported("make the backup", "There is no file."):
        raise BrokenPipeError


def test_exactly_one_key_is_given(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("not an identity")
    path.chmod(0o600)
    for identity, passphrase_file, code in (
        (None, None, "backup_key_missing"),
        (path, path, "backup_key_missing"),
        (path, None, "identity_invalid"),
        (tmp_path / "lost", None, "identity_invalid"),
        (None, tmp_path / "lost", "passphrase_invalid"),
    ):
        with pytest.raises(CliError) as raised:
            read_unlock(Namespace(identity=identity, passphrase_file=passphrase_file))
        assert raised.value.code == code
        assert "not an identity" not in raised.value.text


def test_the_pin_comes_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_TRUST", f"1:{'a' * 64}")
    pin = read_pin(Namespace(trust=None))
    assert pin is not None
    assert pin.sha256 == "a" * 64
    monkeypatch.delenv("CASCADE_TRUST")
    assert read_pin(Namespace(trust=None)) is None
