"""`cascade backup keep`: one backup a run, a bounded number in the folder, and no other file is removed."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloud.backup.age import make_identity
from cloud.backup.contents import Installation
from cloud.cli.backup import keep
from cloud.cli.main import main
from tests.cloud.cli.support import error_of


def test_the_oldest_are_removed_after_the_new_one_is_whole(
    installed: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at = datetime(2026, 12, 1, 2, 0, 0, tzinfo=UTC)
    identity, recipient = make_identity()
    other = tmp_path / "cascade-2020.backup"
    other.write_bytes(b"of a person")
    command = ["backup", "keep", "--dir", str(installed.directory), "--folder", str(tmp_path), "--keep", "2", "--json"]
    for day in range(3):
        monkeypatch.setattr(keep, "utc_now", lambda day=day: at + timedelta(days=day))
        capsys.readouterr()
        assert main([*command, "--recipient", f" {recipient} "]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert (kept["kept"], kept["removed"]) == (2, ["cascade-20261201T020000Z.backup"])
    names = ["cascade-2020.backup", "cascade-20261202T020000Z.backup", "cascade-20261203T020000Z.backup"]
    assert sorted(each.name for each in tmp_path.glob("*.backup")) == names
    (tmp_path / "key").write_text(identity)
    (tmp_path / "key").chmod(0o600)
    assert main(["backup", "check", kept["file"], "--identity", str(tmp_path / "key"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sha256"] == kept["sha256"]
    # A backup that fails removes nothing: here the name is taken.
    assert main([*command[:-3], "--keep", "1", "--json", "--recipient", recipient]) != 0
    assert error_of(capsys.readouterr().out)["code"]
    assert sorted(each.name for each in tmp_path.glob("*.backup")) == names


def test_the_new_backup_stays_when_the_clock_was_ahead(
    installed: Installation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ahead = [tmp_path / f"cascade-2999010{day}T020000Z.backup" for day in (1, 2)]
    for path in ahead:
        path.write_bytes(b"earlier")
    command = ["backup", "keep", "--dir", str(installed.directory), "--folder", str(tmp_path), "--keep", "1", "--json"]
    assert main([*command, "--recipient", make_identity()[1]]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert (kept["kept"], kept["removed"]) == (1, [path.name for path in ahead])
    assert [str(path) for path in tmp_path.glob("*.backup")] == [kept["file"]]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--folder", "nowhere", "--recipient", "age1"], "folder_missing"),
        (["--folder", ".", "--recipient", "  "], "backup_key_missing"),
        (["--folder", ".", "--recipient", "age1nobody"], "settings_refused"),
    ],
)
def test_what_is_refused(
    options: list[str], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["backup", "keep", "--dir", "nowhere", *options, "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", "10001", "9999999", "²"])
def test_a_number_that_is_none(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["backup", "keep", "--folder", ".", "--recipient", "age1", "--keep", number])
    assert "number between 1 and" in capsys.readouterr().err
