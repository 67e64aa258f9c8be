"""Containers: what can be said without root. `make drills PART=units` boots them."""

import configparser
from pathlib import Path

import pytest

from lab import nspawn
from lab.nspawn import Container
from lab.processes import StepFailed


def test_a_container_that_does_not_run_says_so(tmp_path: Path) -> None:
    with Container(tmp_path / "one", tmp_path / "root") as container:
        assert container.leader == 0
        with pytest.raises(StepFailed, match="the container one does not run"):
            container.run("true")


def test_before_the_boot_a_file_is_written_into_the_layer(tmp_path: Path) -> None:
    container = Container(tmp_path / "one", tmp_path / "root")
    container.write("/etc/some/file", "text", 0o600)
    written = tmp_path / "one/upper/etc/some/file"
    assert written.read_text() == "text"
    assert written.stat().st_mode & 0o777 == 0o600


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nspawn, "NEEDED", {"no-such-program": "its-package", "sh": "dash"})
    assert nspawn.missing_packages() == ["its-package"]


def test_a_container_gets_a_cgroup_of_its_own_in_each_tree_of_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "unified", tmp_path / "systemd"
    mounts = (
        f"30 20 0:25 / {first} rw - cgroup2 cgroup2 rw\n"
        f"31 20 0:26 / {second} rw shared:9 - cgroup cgroup rw,name=systemd\n"
        f"32 20 0:27 / {tmp_path}/pids rw - cgroup cgroup rw,pids\n"
    )
    files = {"mountinfo": mounts, "cgroup": "2:pids:/x\n1:name=systemd:/\n0::/user.slice\n"}
    for folder in (first / "user.slice", second):
        folder.mkdir(parents=True)
    monkeypatch.setattr(Path, "read_text", lambda path: files[path.name])
    assert nspawn._own_groups("lab") == [first / "user.slice/lab", second / "lab"]
    files["cgroup"] = "2:pids:/x\n"
    with pytest.raises(StepFailed, match="no cgroups of systemd"):
        nspawn._own_groups("lab")


def test_the_units_of_the_tpm_can_be_read() -> None:
    for text in (*nspawn._TPM_UNITS.values(), nspawn._DEVELOPMENT):
        parsed = configparser.RawConfigParser(strict=False)
        parsed.read_string(text)
        assert parsed.has_section("Service")
