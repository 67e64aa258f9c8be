"""Credential files: what is read, what is refused, and that a change is noticed."""

import os
from pathlib import Path

import pytest

from node.disk.credentials import forget, hierarchy_passwords, keep
from node.hwbind.tpm import Password


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tpm-owner-auth"
    path.touch(mode=0o600)
    return path


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"", b""),
        (b"\n", b""),
        (b"secret", b"secret"),
        (b"secret\n", b"secret"),
        (b" a\n\n", b" a\n"),
        (b"x" * 64, b"x" * 64),
    ],
)
def test_the_password_is_the_content_without_its_line_end(file: Path, content: bytes, value: bytes) -> None:
    file.write_bytes(content)
    assert hierarchy_passwords(file, None)() == {"owner": Password(value, str(file))}


def test_each_hierarchy_has_its_own_file_and_a_change_is_noticed(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    read = hierarchy_passwords(file, other)
    file.write_bytes(b"first")
    assert read()["owner"].value == b"first"
    assert "no such file" in read()["endorsement"].fault
    file.write_bytes(b"second")
    other.touch(mode=0o600)
    other.write_bytes(b"third")
    assert {name: password.value for name, password in read().items()} == {"owner": b"second", "endorsement": b"third"}


def test_without_files_there_are_no_passwords() -> None:
    assert hierarchy_passwords(None, None)() == {}


@pytest.mark.parametrize(
    ("mode", "content", "fault"),
    [
        (0o604, b"secret", "other users can read it"),
        (0o622, b"secret", "can be written by other users"),
        (0o600, b"x" * 65, "longer than 64 bytes"),
        (0o600, b"x" * 66, "larger than 65 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_gives_no_password(
    file: Path, mode: int, content: bytes, fault: str
) -> None:
    file.write_bytes(content)
    file.chmod(mode)
    password = hierarchy_passwords(None, file)()["endorsement"]
    assert password.value == b""
    assert fault in password.fault
    assert str(file) in password.fault
    assert "secret" not in password.fault


@pytest.mark.parametrize("kind", ["directory", "pipe", "link"])
def test_something_else_than_a_file_is_a_fault(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "auth"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    else:
        path.symlink_to(tmp_path / "nothing")
    password = hierarchy_passwords(path, None)()["owner"]
    assert (password.value, bool(password.fault)) == (b"", True)


def test_a_kept_password_counts_when_its_file_cannot_be_read_any_more(file: Path, tmp_path: Path) -> None:
    file.write_bytes(b"kept\n")
    try:
        keep(file, tmp_path / "missing", None)
        file.unlink()
        assert hierarchy_passwords(file, None)()["owner"].value == b"kept"
        (tmp_path / "missing").touch(mode=0o600)
        assert hierarchy_passwords(None, tmp_path / "missing")()["endorsement"].fault == ""
    finally:
        forget()
    assert "no such file" in hierarchy_passwords(file, None)()["owner"].fault
