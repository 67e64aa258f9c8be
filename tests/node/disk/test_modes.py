"""Paths of the state that other users could change: they are found, and made private where the content is safe."""

import os
from pathlib import Path

import pytest

from node.disk.modes import inspect

TREE = (
    *("current.json", "identity/g-1/identity.json", "identity/g-1/device.pem", "trust/current.json"),
    *(
        "identity/statement-g-1.json",
        "trust/gen-1/targets.json",
        "licence/g-1/statement.json",
        "tombstones/g-1.json",
        "lock",
    ),
)
UNSIGNED = {"current.json", "identity/g-1/identity.json", "identity/g-1/device.pem", "trust/current.json"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    for name in TREE:
        path = state / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        path.chmod(0o600)
    for path in (state, *state.rglob("*")):
        if path.is_dir():
            path.chmod(0o700)
    return state


def modes(home: Path) -> dict[str, int]:
    return {str(path.relative_to(home)): path.stat().st_mode & 0o022 for path in (home, *home.rglob("*"))}


def test_a_private_tree_has_no_finding(home: Path) -> None:
    assert inspect(home, mend=True) == ()
    assert inspect(home / "missing", mend=True) == ()


def test_directories_and_signed_files_become_private_and_unsigned_files_keep_their_trace(home: Path) -> None:
    for path in (home, *home.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    assert not any(finding.mended for finding in inspect(home, mend=False))
    assert all(modes(home).values())
    found = {str(finding.path.relative_to(home)): finding.mended for finding in inspect(home, mend=True)}
    assert found == {name: name not in UNSIGNED for name in modes(home)}
    assert {name for name, mode in modes(home).items() if mode} == UNSIGNED
    again = inspect(home, mend=True)
    assert {(str(finding.path.relative_to(home)), finding.reason) for finding in again} == {
        (name, "can be written by other users") for name in UNSIGNED
    }


def test_a_link_a_fifo_and_a_deep_tree_do_not_stop_the_walk(home: Path) -> None:
    (home / "identity/loop").symlink_to(home)
    os.mkfifo(home / "identity/fifo", 0o600)
    (home / "a/b/c/d/e/f").mkdir(parents=True, mode=0o700)
    (home / "zone").mkdir()
    (home / "zone").chmod(0o702)
    assert [finding.path.name for finding in inspect(home, mend=True)] == ["zone"]


def test_a_file_of_another_user_is_found(home: Path) -> None:
    if os.geteuid() != 0:
        return
    os.chown(home / "licence/g-1/statement.json", 12345, -1)
    os.chown(home / "current.json", 12345, -1)
    found = {finding.path.name: (finding.reason, finding.mended) for finding in inspect(home, mend=True)}
    assert found == {
        "statement.json": ("belongs to another user (12345)", True),
        "current.json": ("belongs to another user (12345)", False),
    }
    assert (home / "licence/g-1/statement.json").stat().st_uid == 0
