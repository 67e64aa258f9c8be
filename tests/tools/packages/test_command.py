"""`tools.packages.command`: the options of `make packages`."""

import subprocess
from pathlib import Path

import pytest

from tools.packages import command
from tools.packages.errors import PackageError


def test_the_default_is_every_package_for_every_distribution() -> None:
    plan = command.planned(command.parser().parse_args([]))
    built = [target.file_name(package.name, "1.2.3") for target in plan.targets for package in plan.packages]
    assert built == [
        "cascadia_1.2.3-1~deb12_amd64.deb",
        "cascade-cloud_1.2.3-1~deb12_amd64.deb",
        "cascadia_1.2.3-1~deb13_amd64.deb",
        "cascade-cloud_1.2.3-1~deb13_amd64.deb",
        "cascadia-1.2.3-1.el9.x86_64.rpm",
        "cascade-cloud-1.2.3-1.el9.x86_64.rpm",
    ]


def test_one_package_for_one_distribution() -> None:
    plan = command.planned(command.parser().parse_args(["--only", "cascadia", "--target", "el9", "--version", "9"]))
    assert ([each.name for each in plan.packages], [each.name for each in plan.targets]) == (["cascadia"], ["el9"])
    assert plan.version == "9"


def test_no_signature_is_made_without_a_key() -> None:
    options = command.parser().parse_args([])
    with command.signer(options, command.planned(options)) as key:
        assert key is None


def test_two_keys_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.parser().parse_args(["--key", "a", "--throwaway-key"])
    assert "not allowed with" in capsys.readouterr().err


def test_without_a_clone_there_is_no_build(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="Build in a clone of the repository"):
        command.planned(command.parser().parse_args([]), tmp_path)


def test_a_release_is_built_from_a_commit(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    command.check_committed(tmp_path)
    (tmp_path / "stray.py").touch()
    with pytest.raises(PackageError, match=r"1 files differ from the commit, first stray\.py"):
        command.check_committed(tmp_path)


def test_a_user_who_is_not_root_gets_the_next_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert command.main([]) == 1
    assert "Run `sudo make packages`." in capsys.readouterr().err
