"""The lock of the state directory: exclusive between processes, and possible on a disk that cannot be written."""

import errno
import fcntl
import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from node.disk import calls
from node.disk.lock import StateLock
from node.errors import StateBusy, StateUnwritable
from node.exits import Exit


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def test_the_lock_is_exclusive_and_ends_with_its_block(home: Path) -> None:
    with StateLock(home):
        with pytest.raises(StateBusy) as busy:
            StateLock(home).acquire()
        assert busy.value.exit is Exit.TRY_AGAIN
    with StateLock(home):
        pass
    lock = StateLock(home)
    lock.release()


def _hold(home: Path, pipe: Connection) -> None:
    with StateLock(home):
        pipe.send("held")
        pipe.recv()


def test_the_lock_ends_with_the_process(home: Path) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    holder = context.Process(target=_hold, args=(home, theirs))
    holder.start()
    assert ours.recv() == "held"
    with pytest.raises(StateBusy):
        StateLock(home).acquire()
    holder.kill()
    holder.join()
    with StateLock(home):
        pass


def test_a_linked_lock_is_not_followed(home: Path) -> None:
    (home / "lock").symlink_to(home / "victim")
    with StateLock(home):
        assert not (home / "victim").exists()
        with pytest.raises(StateBusy):
            StateLock(home).acquire()


def test_a_process_of_an_earlier_version_holds_the_file_only(home: Path) -> None:
    with (home / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StateBusy):
            StateLock(home).acquire()
    with StateLock(home):
        pass


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE, errno.ELOOP])
def test_a_file_that_cannot_be_opened_leaves_the_lock_on_the_directory(home: Path, code: int) -> None:
    def fail(call: str, path: str) -> None:
        if (call, path) == ("open", str(home / "lock")):
            raise OSError(code, os.strerror(code))

    with calls.hooked(fail), StateLock(home), pytest.raises(StateBusy):
        StateLock(home).acquire()
    assert not (home / "lock").exists()


def test_a_file_system_that_locks_no_directory_locks_the_file(home: Path) -> None:
    def fail(call: str, path: str) -> None:
        if (call, path) == ("flock", str(home)):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    with calls.hooked(fail), StateLock(home), pytest.raises(StateBusy):
        StateLock(home).acquire()


@pytest.mark.parametrize("call", ["open", "fstat", "flock"])
def test_a_fault_of_the_directory_is_a_state_error_and_leaves_no_descriptor(home: Path, call: str) -> None:
    def fail(name: str, path: str) -> None:
        if (name, path) == (call, str(home)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = len(list(Path("/proc/self/fd").iterdir()))
    with calls.hooked(fail), pytest.raises(StateUnwritable):
        StateLock(home).acquire()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    with StateLock(home):
        pass
