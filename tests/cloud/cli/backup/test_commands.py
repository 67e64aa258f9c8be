"""`cascade backup` and `cascade restore`: a backup of a fresh installation is made, checked, shown and restored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud.backup.contents import Installation
from cloud.cli.main import main
from tests.cloud.backup.light_age import light_wrap
from tests.cloud.cli.support import error_of

Run = Callable[..., Any]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command with --json; return the document, or the error's document."""

    def call(*arguments: object, code: int = 0) -> Any:
        capsys.readouterr()
        assert main([*map(str, arguments), "--json"]) == code
        out = capsys.readouterr().out
        return error_of(out) if code else json.loads(out)

    return call


def test_make_check_show_and_restore(installed: Installation, pin: str, tmp_path: Path, run: Run) -> None:
    key = run("backup", "key", "--out", tmp_path / "key")
    assert run("backup", "key", "--out", tmp_path / "key", code=2)["code"] == "file_in_the_way"
    backup = tmp_path / "b"
    make = ("backup", "make", "--dir", installed.directory, "--out", backup, "--recipient", key["recipient"])
    made = run(*make)
    assert made["rows"] > 10
    assert run(*make, code=2)["code"] == "file_in_the_way"
    unlock = ("--identity", tmp_path / "key")
    proof = ("--trust", pin, "--key-passphrase-file", installed.directory / "secrets" / "passphrase")
    checked = run("backup", "check", backup, *unlock, *proof)
    assert (checked["sha256"], checked["sealed"], checked["installation_checked"]) == (made["sha256"], True, True)
    assert run("backup", "show", backup, *unlock)["pins"] == [pin]
    restored = run("restore", backup, "--into", tmp_path / "new", *unlock, *proof)
    assert Path(restored["token_file"]).stat().st_mode & 0o777 == 0o600
    assert run("restore", backup, "--into", tmp_path / "new", *unlock, *proof, code=2)["code"] == "target_in_use"
    wrong = ("--trust", f"1:{'0' * 64}", *proof[2:])
    refused = run("restore", backup, "--into", tmp_path / "other", *unlock, *wrong, code=65)
    assert refused["code"] == "backup_of_another_installation"
    assert refused["next"]
    assert not (tmp_path / "other").exists()


def test_a_backup_with_a_passphrase(
    installed: Installation, pin: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.backup.writing.wrap", light_wrap)
    monkeypatch.delenv("CASCADE_TRUST", raising=False)
    for name, text in (("right", "a passphrase of a person"), ("wrong", "another passphrase")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    make = ("backup", "make", "--dir", installed.directory, "--out", tmp_path / "b", "--keys-only")
    run(*make, "--passphrase-file", tmp_path / "right")
    checked = run("backup", "check", tmp_path / "b", "--passphrase-file", tmp_path / "right")
    assert (checked["parts"], checked["sealed"], checked["installation_checked"]) == ("keys", False, False)
    wrong = run("backup", "check", tmp_path / "b", "--passphrase-file", tmp_path / "wrong", code=65)
    assert wrong["code"] == "backup_key_wrong"


def test_what_cannot_be_backed_up(installed: Installation, tmp_path: Path, run: Run) -> None:
    make = ("backup", "make", "--out", tmp_path / "b", "--dir")
    assert run(*make, installed.directory, code=2)["code"] == "backup_key_missing"
    assert run(*make, installed.directory, "--recipient", "age1x", code=2)["code"] == "recipient_invalid"
    recipient = run("backup", "key", "--out", tmp_path / "key")["recipient"]
    assert run(*make, tmp_path / "nothing", "--recipient", recipient, code=2)["code"] == "settings_refused"
    assert not (tmp_path / "b").exists()


def test_a_page_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backup", "key", "--out", str(tmp_path / "key")]) == 0
    assert "age1" in capsys.readouterr().out
