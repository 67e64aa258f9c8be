"""Commands that root types: they become the owner of the installation, for good, before they touch it."""

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloud.cli import connection, owner
from cloud.cli.main import main
from cloud.cli.owner import become_owner, operator_settings, owner_of
from cloud.crypto.keyfile import KeyFileError, check_private, write_secret
from tests.cloud.cli.support import error_of


class Changes:
    """Records the calls that change the user, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, euid: int, uid: int) -> None:
        self.made: list[object] = []
        account = SimpleNamespace(pw_name="cascade", pw_uid=uid, pw_gid=77, pw_dir="/var/lib/cascade")
        monkeypatch.setattr(os, "geteuid", lambda: euid)
        monkeypatch.setattr(owner, "owner_of", lambda _: uid)
        monkeypatch.setattr(pwd, "getpwuid", lambda _: account)
        monkeypatch.setattr(os, "getgrouplist", lambda _name, gid: [gid, 88])
        monkeypatch.setenv("HOME", "/root")
        for name in ("setgroups", "setgid", "setuid", "umask"):
            monkeypatch.setattr(os, name, lambda value, name=name: self.made.append((name, value)))


def test_root_becomes_the_owner_with_its_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    changes = Changes(monkeypatch, euid=0, uid=99)
    assert become_owner(tmp_path) == "cascade"
    # The groups first: without root they cannot be changed any more.
    assert changes.made == [("setgroups", [77, 88]), ("setgid", 77), ("setuid", 99), ("umask", 0o077)]
    assert os.environ["HOME"] == "/var/lib/cascade"


@pytest.mark.parametrize(("euid", "uid"), [(0, 0), (99, 99), (99, 98), (99, 0)])
def test_nobody_else_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, euid: int, uid: int) -> None:
    changes = Changes(monkeypatch, euid=euid, uid=uid)
    assert become_owner(tmp_path) is None
    assert changes.made == []


def test_an_owner_without_an_account_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    changes = Changes(monkeypatch, euid=0, uid=99)

    def unknown(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert become_owner(tmp_path) is None
    assert changes.made == []


def test_the_owner_of_what_is_not_there_yet(tmp_path: Path) -> None:
    assert owner_of(tmp_path / "not" / "there") == os.getuid()
    assert owner_of(Path("/")) == 0


def test_an_owner_cannot_lend_a_directory_of_root(tmp_path: Path) -> None:
    """Otherwise the user of the services could make a command of root load settings from /tmp, as root."""
    uid = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.getuid()
    state, of_root = tmp_path / "state", tmp_path / "of_root"
    for folder in (state, state / "inner", of_root):
        folder.mkdir()
    (state / "installation").symlink_to(of_root)
    for path in (state, state / "installation"):
        os.chown(path, uid, -1, follow_symlinks=False)
    assert owner_of(state / "installation") == uid
    assert owner_of(state / "inner" / "folder") == uid
    # A link that root made leads through the link of the other user.
    (tmp_path / "link").symlink_to("state/installation")
    assert owner_of(tmp_path / "link") == uid
    assert owner_of(of_root) == os.getuid()
    (tmp_path / "loop").symlink_to("loop")
    assert owner_of(tmp_path / "loop") == os.getuid()


def test_every_command_with_a_directory_becomes_the_owner(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr("cloud.cli.main.become_owner", asked.append)
    commands = [
        ["init", "--port-base", "0"],
        ["serve", "fabric"],
        ["config", "check"],
        ["pki", "status"],
        ["pki", "rotate", "taint", "nodes-1"],
        ["backup", "make", "--out", "b"],
        ["backup", "keep", "--folder", "nowhere", "--recipient", "r"],
    ]
    for command in commands:
        main([*command, "--dir", str(tmp_path / "d"), "--json"])
    assert main(["restore", "b", "--into", str(tmp_path / "d"), "--json"]) == 2
    assert asked == [tmp_path / "d"] * (len(commands) + 1)
    main(["audit", "list", "--json"])
    assert len(asked) == len(commands) + 1, "it has no directory"
    capsys.readouterr()


def test_a_user_that_cannot_be_taken_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("cloud.cli.main.become_owner", refuse)
    assert main(["pki", "status", "--dir", str(tmp_path), "--json"]) == 70
    assert error_of(capsys.readouterr().out)["code"] == "owner_unusable"


def test_a_file_that_the_owner_cannot_read_names_the_owner(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cloud.cli.main.become_owner", lambda _: "cascade")

    def denied(*_: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert main(["serve", "fabric", "--dir", str(tmp_path), "--json"]) == 2
    assert "root runs this command as cascade" in str(error_of(capsys.readouterr().out)["next"])


def test_the_operators_values_are_read_and_never_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(owner, "INSTALLATION", tmp_path)
    assert operator_settings() == {}
    (tmp_path / "operator").mkdir()
    (tmp_path / "operator/env").write_text("# a comment=1\nCASCADE_URL=http://c:1\nCASCADE_TOKEN_FILE=$(id)\nodd\n")
    assert operator_settings() == {"CASCADE_URL": "http://c:1", "CASCADE_TOKEN_FILE": "$(id)"}
    monkeypatch.delenv("CASCADE_URL", raising=False)
    assert connection.setting(None, "CASCADE_URL", "--url") == "http://c:1"
    assert connection.setting("http://o", "CASCADE_URL", "--url") == "http://o"
    monkeypatch.setenv("CASCADE_URL", "http://e")
    assert connection.setting(None, "CASCADE_URL", "--url") == "http://e"


def test_a_token_of_the_installations_owner_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_secret(tmp_path / "token", b"x")
    mine = os.getuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 5)
    if mine:  # a file of root is accepted from everybody
        with pytest.raises(KeyFileError, match="belongs to another user"):
            check_private(tmp_path / "token")
    check_private(tmp_path / "token", mine)


def test_in_a_process_of_root_there_is_no_way_back(tmp_path: Path) -> None:
    """For real, if root runs the tests. Without root the process stays the same user."""
    target = tmp_path / "state"
    target.mkdir()
    uid = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.getuid()
    os.chown(target, uid, -1)
    script = (
        "import json, os, sys; from pathlib import Path; from cloud.cli.owner import become_owner\n"
        "become_owner(Path(sys.argv[1])); print(json.dumps([os.getresuid(), 0 in os.getgroups()]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(target / "installation")], check=True, capture_output=True, text=True
    )
    if os.geteuid() == 0:
        assert json.loads(run.stdout) == [[uid] * 3, False]
    else:
        assert json.loads(run.stdout)[0] == [uid] * 3
