"""Roots of Debian: one for each release and list of packages, made once, and nothing left of a failed attempt."""

import subprocess
from pathlib import Path

import pytest

from lab.debian_root import PACKAGES, debian_root
from lab.processes import StepFailed


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of debootstrap. Each makes the folders that it would make."""
    given: list[list[str]] = []

    def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        given.append(list(command))
        target = Path(next(each for each in command if each.startswith("/")))
        (target / "etc/systemd/system").mkdir(parents=True)
        (target / "etc/ssl/certs").mkdir(parents=True)
        return subprocess.CompletedProcess(command, int("broken" in command), "", "no such mirror")

    monkeypatch.setattr(subprocess, "run", run)
    return given


def test_a_root_is_made_once(tmp_path: Path, commands: list[list[str]]) -> None:
    first = debian_root(tmp_path, "bookworm")
    assert debian_root(tmp_path, "bookworm") == first
    assert len(commands) == 1
    assert (first / "etc/hosts").read_bytes() == Path("/etc/hosts").read_bytes()
    assert (first / "etc/systemd/system/apt-daily.timer").readlink() == Path("/dev/null")
    assert list(tmp_path.iterdir()) == [first]


def test_another_release_package_or_mirror_makes_another_root(tmp_path: Path, commands: list[list[str]]) -> None:
    roots = {
        debian_root(tmp_path, "bookworm"),
        debian_root(tmp_path, "trixie"),
        debian_root(tmp_path, "trixie", extra=("podman",)),
        debian_root(tmp_path, "trixie", mirror="http://mirror.example/debian"),
    }
    assert len(roots) == len(commands) == 4
    assert "podman" in commands[2][2]
    assert commands[3][-1] == "http://mirror.example/debian"


def test_a_failed_attempt_leaves_nothing(tmp_path: Path, commands: list[list[str]]) -> None:
    with pytest.raises(StepFailed, match="`debootstrap` exited 1: no such mirror"):
        debian_root(tmp_path, "bookworm", mirror="broken")
    assert list(tmp_path.iterdir()) == []


def test_each_root_has_the_libraries_of_the_tpm() -> None:
    for packages in PACKAGES.values():
        assert any(name.startswith("libtss2-esys") for name in packages)
        assert {"tpm-udev", "swtpm", "tpm2-abrmd"} <= set(packages)
