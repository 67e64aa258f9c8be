"""Atomic writes, bounded reads, state files and the lock: on full disks, after crashes, with other processes."""

import hashlib
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.disk import calls
from node.disk.files import (
    StateFile,
    decode_state,
    encode_state,
    ensure_private_dir,
    read_bounded,
    read_state,
    remove_directory,
    remove_file,
    rename_file,
    write_atomic,
    write_directory,
)
from node.disk.lock import StateLock
from node.errors import (
    DiskFull,
    StateDamaged,
    StateError,
    StateUnreadable,
    StateUnsafe,
    StateUnwritable,
)
from tests.node.licensing.samples import in_child


class Sample(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    text: str
    data: bytes = b""


PATH = Path("sample.json")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_write_and_replace(home: Path) -> None:
    path = home / "file"
    for data in (b"one", b"", b"three" * 100_000):
        write_atomic(path, data)
        assert path.read_bytes() == data
    assert path.stat().st_mode & 0o7777 == 0o600
    write_atomic(path, b"x", mode=0o644)
    assert path.stat().st_mode & 0o7777 == 0o644
    assert names(home) == ["file"]


def test_files_that_a_crash_left_are_replaced(home: Path) -> None:
    (home / ".file.tmp").write_bytes(b"half")
    write_atomic(home / "file", b"whole")
    assert names(home) == ["file"]


def test_a_link_at_the_target_is_replaced_not_followed(home: Path) -> None:
    (home / "victim").write_bytes(b"keep")
    (home / "file").symlink_to(home / "victim")
    (home / ".file.tmp").symlink_to(home / "victim")
    write_atomic(home / "file", b"new")
    assert (home / "victim").read_bytes() == b"keep"
    assert not (home / "file").is_symlink()


@pytest.mark.parametrize("failing", ["write", "fsync", "rename", "fchmod"])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["EIO", "interrupt"])
def test_any_error_keeps_the_old_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    write_atomic(home / "file", b"old")

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else StateUnwritable):
            write_atomic(home / "file", b"new")
    assert (home / "file").read_bytes() == b"old"
    assert names(home) == ["file"]


def test_short_writes_are_carried_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:3]))
    write_atomic(home / "file", b"0123456789")
    assert (home / "file").read_bytes() == b"0123456789"


def test_a_size_limit_keeps_the_old_file(home: Path) -> None:
    write_atomic(home / "file", b"old")
    write_directory(home / "dir", {"a": b"old"})

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(DiskFull) as full:
            write_atomic(home / "file", b"n" * 1001)
        assert str(home / "file") in full.value.text
        assert str(home) in full.value.next
        with pytest.raises(DiskFull):
            write_directory(home / "dir", {"a": b"new", "b": b"n" * 1001})

    assert in_child(limited) == 0
    assert (home / "file").read_bytes() == b"old"
    assert (home / "dir" / "a").read_bytes() == b"old"
    assert names(home) == ["dir", "file"]


def fill(directory: Path) -> None:
    """Fill the file system to its last block."""
    with pytest.raises(OSError, match="No space"), (directory / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(b"x" * 4096)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of 64 kB. None if this process may not mount one; the size limit above then shows the same."""
    directory = tmp_path / "small"
    directory.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", str(directory)]
    mounted = mount is not None and subprocess.run([mount, *options], check=False, capture_output=True).returncode == 0
    yield directory if mounted else None
    if mounted:
        subprocess.run(["umount", str(directory)], check=True)


def test_a_full_file_system_keeps_the_old_file(small_disk: Path | None) -> None:
    if small_disk is None:
        return
    write_atomic(small_disk / "file", b"old")
    write_directory(small_disk / "dir", {"a": b"old"})
    fill(small_disk)
    with pytest.raises(DiskFull):
        write_atomic(small_disk / "file", b"new" * 5000)
    with pytest.raises(DiskFull):
        write_directory(small_disk / "dir", {"a": b"new" * 5000})
    assert (small_disk / "file").read_bytes() == b"old"
    assert (small_disk / "dir" / "a").read_bytes() == b"old"
    assert names(small_disk) == ["ballast", "dir", "file"]
    (small_disk / "ballast").unlink()
    write_atomic(small_disk / "file", b"new")
    assert (small_disk / "file").read_bytes() == b"new"


def test_a_directory_is_written_whole_and_replaced(home: Path) -> None:
    (home / ".dir.tmp").mkdir()
    (home / ".dir.tmp" / "half").write_bytes(b"")
    write_directory(home / "dir", {"a": b"1", "b": b"2"})
    assert names(home / "dir") == ["a", "b"]
    write_directory(home / "dir", {"c": b"3"})
    assert names(home / "dir") == ["c"]
    assert names(home) == ["dir"]
    assert (home / "dir").stat().st_mode & 0o777 == 0o700
    remove_directory(home / "dir")
    remove_directory(home / "dir")
    assert names(home) == []


def test_a_directory_that_cannot_be_put_in_place_leaves_the_old(home: Path) -> None:
    write_directory(home / "dir", {"a": b"1"})

    def fail(call: str, path: str) -> None:
        if (call, path) == ("rename", str(home / ".dir.tmp")):
            raise OSError(5, "Input/output error")

    with calls.hooked(fail), pytest.raises(StateUnwritable):
        write_directory(home / "dir", {"a": b"2"})
    assert (home / "dir" / "a").read_bytes() == b"1"
    assert names(home) == ["dir"]


def test_remove_and_rename(home: Path) -> None:
    write_atomic(home / "file", b"x")
    rename_file(home / "file", "other")
    rename_file(home / "file", "other")
    assert names(home) == ["other"]
    remove_file(home / "other")
    remove_file(home / "other")
    assert names(home) == []


def test_reads_are_bounded(home: Path) -> None:
    (home / "file").write_bytes(b"12345")
    assert read_bounded(home / "file", 5) == b"12345"
    with pytest.raises(StateDamaged, match="larger than 4"):
        read_bounded(home / "file", 4)
    with pytest.raises(FileNotFoundError):
        read_bounded(home / "none", 4)
    with pytest.raises(StateDamaged, match="regular"):
        read_bounded(home, 4)
    (home / "link").symlink_to(home / "file")
    with pytest.raises(StateDamaged, match="symbolic"):
        read_bounded(home / "link", 9)
    with pytest.raises(StateUnreadable):
        read_bounded(home / "file" / "below", 9)


@given(st.text(), st.binary())
def test_state_round_trip(text: str, data: bytes) -> None:
    value = Sample(text=text, data=data)
    assert decode_state(PATH, encode_state(value), Sample) == value


def test_the_form_of_a_state_file_is_fixed() -> None:
    assert encode_state(Sample(text="a", data=b"b")) == (
        b'{"format":1,"text":"a","data":"Yg==",'
        b'"sha256":"c5ed2eaaf0fe76c38720695af8f31e1e230e606cc5d571fd6248cb1d242059f9"}\n'
    )


def test_every_changed_byte_and_every_truncation_of_a_state_file() -> None:
    sound = encode_state(Sample(text="abc", data=b"\0\1\2"))
    for length in range(len(sound)):
        with pytest.raises(StateDamaged):
            decode_state(PATH, sound[:length], Sample)
    for at in range(len(sound)):
        for bit in range(8):
            with pytest.raises(StateDamaged):
                decode_state(PATH, sound[:at] + bytes([sound[at] ^ 1 << bit]) + sound[at + 1 :], Sample)


def sealed(body: bytes) -> bytes:
    """A state file of any content, with the right checksum."""
    return body[:-1] + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"format":2,"text":"a","data":""}', "format is 2"),
        (b'{"format":0,"text":"a","data":""}', "format is 0"),
        (b'{"text":"a","data":""}', "not valid"),
        (b'{"format":"1","text":"a","data":""}', "not valid"),
        (b'{"format":1,"text":"a","data":"","more":1}', "not valid"),
        (b'{"format":1,"text":7,"data":""}', "not valid"),
        (b'{"format":1,"data":""}', "not valid"),
        (b'{"format":1,"text":"a"}', "canonical encoding"),
        (b'{"format":1,"data":"","text":"a"}', "canonical encoding"),
        (b'{"format":1, "text":"a","data":""}', "canonical encoding"),
        (b'{"format":1,"text":"b","text":"a","data":""}', "canonical encoding"),
        (b"}", "not valid"),
    ],
)
def test_a_fitting_checksum_is_not_enough(body: bytes, reason: str) -> None:
    with pytest.raises(StateDamaged, match=reason) as caught:
        decode_state(PATH, sealed(body), Sample, "do this")
    assert "sample.json" in caught.value.text
    assert caught.value.next


def test_read_state(home: Path) -> None:
    assert read_state(home / "none", Sample) is None
    write_atomic(home / "file", encode_state(Sample(text="x")))
    assert read_state(home / "file", Sample) == Sample(text="x")
    (home / "file").write_bytes(b"")
    with pytest.raises(StateDamaged) as caught:
        read_state(home / "file", Sample, "do this")
    assert caught.value.next == "do this"


def test_private_directories(home: Path) -> None:
    path = home / "a" / "b"
    ensure_private_dir(path)
    ensure_private_dir(path)
    assert path.stat().st_mode & 0o777 == 0o700


def use_directory(path: Path) -> tuple[Callable[[], object], ...]:
    return (
        lambda: ensure_private_dir(path),
        lambda: write_atomic(path / "file", b"x"),
        lambda: write_directory(path / "dir", {}),
        lambda: StateLock(path).acquire(),
    )


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_directory_that_others_may_write_becomes_private(home: Path, mode: int) -> None:
    path = home / "state"
    path.mkdir()
    for use in use_directory(path):
        path.chmod(mode)
        use()
        assert path.stat().st_mode & 0o7777 == mode & ~0o022


def test_a_shared_directory_is_refused_and_stays_shared(home: Path) -> None:
    path = home / "tmp"
    path.mkdir()
    path.chmod(0o1777)
    for use in use_directory(path):
        with pytest.raises(StateUnsafe, match="shared by all users"):
            use()
    assert names(path) == []
    assert path.stat().st_mode & 0o7777 == 0o1777


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_modes_do_not_depend_on_the_umask(home: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with StateLock(home / "parent" / "state"):
            write_atomic(home / "parent/state/file", b"x")
            write_directory(home / "parent/state/dir", {"file": b"x"})
    finally:
        os.umask(before)
    found = {str(path.relative_to(home)): path.stat().st_mode & 0o7777 for path in home.rglob("*")}
    assert found == {
        "parent": 0o755,
        "parent/state": 0o700,
        "parent/state/lock": 0o600,
        "parent/state/file": 0o600,
        "parent/state/dir": 0o700,
        "parent/state/dir/file": 0o600,
    }


def test_a_linked_or_wrong_directory_is_refused(home: Path) -> None:
    (home / "real").mkdir(mode=0o700)
    (home / "link").symlink_to(home / "real")
    (home / "file").write_bytes(b"")
    (home / "dangling").symlink_to(home / "nowhere")
    for name in ("link", "file", "dangling"):
        with pytest.raises(StateUnsafe):
            ensure_private_dir(home / name)
        with pytest.raises(StateError):
            write_atomic(home / name / "x", b"x")
    with pytest.raises(StateUnwritable):
        write_atomic(home / "missing" / "x", b"x")


def test_another_users_directory_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = home.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner == 0:
        ensure_private_dir(home)  # A directory of root is accepted, because root can change everything anyway.
        os.chown(home, 12345, -1)
    with pytest.raises(StateUnsafe, match="another user"):
        ensure_private_dir(home)
