"""`node.disk.version`: the version is written once, a newer one is refused, and a failing disk looks like no version."""

from pathlib import Path

import pytest

from node.disk.version import STATE_VERSION, StateNewer, check_version, forget_version, keep_version, version_of
from node.errors import StateDamaged
from node.state import NotActivated, State
from tests.node.shells import load_licence


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir(mode=0o700)
    return tmp_path / "state"


def test_the_owner_writes_the_version_once(directory: Path) -> None:
    assert (version_of(directory), check_version(directory)) == (0, 0)
    with State(directory).owned():
        written = (directory / "version").stat()
    assert (directory / "version").read_bytes() == b"%d\n" % STATE_VERSION
    with State(directory).owned():
        pass
    assert (directory / "version").stat() == written, "a later start writes nothing"


def test_an_older_version_is_raised(directory: Path) -> None:
    (directory / "version").write_bytes(b"0001\n")
    with pytest.raises(StateDamaged, match="it has no version"):  # a version has no leading zero
        version_of(directory)
    keep_version(directory)
    assert version_of(directory) == STATE_VERSION


@pytest.mark.parametrize("content", [b"", b"two\n", b"2", b"-3\n", b"9" * 100, b"99\n99\n"])
def test_a_file_without_a_version_is_written_again_and_kept_aside(directory: Path, content: bytes) -> None:
    (directory / "version").write_bytes(content)
    assert check_version(directory) == 0
    keep_version(directory)
    assert version_of(directory) == STATE_VERSION
    assert (directory / "version.unreadable").read_bytes() == content
    forget_version(directory)
    assert list(directory.iterdir()) == []


def test_a_newer_state_is_refused_by_owners_and_readers(directory: Path) -> None:
    (directory / "version").write_bytes(b"%d\n" % (STATE_VERSION + 1))
    text = rf"its format is version {STATE_VERSION + 1}, and this version of Cascadia reads {STATE_VERSION}"
    with pytest.raises(StateNewer, match=text) as refused, State(directory).owned():
        pass
    assert (int(refused.value.exit), refused.value.code) == (2, "state_newer")
    assert "newer one" in refused.value.next
    with pytest.raises(StateNewer):
        load_licence(State(directory))
    assert (directory / "version").read_bytes() == b"%d\n" % (STATE_VERSION + 1)


def test_a_forgotten_version_refuses_no_agent(directory: Path) -> None:
    (directory / "version").write_bytes(b"%d\n" % (STATE_VERSION + 1))
    forget_version(directory)
    assert check_version(directory) == 0
    (directory / "version").mkdir()
    forget_version(directory)


def test_a_disk_that_refuses_the_version_stops_nothing(directory: Path) -> None:
    (directory / "version").mkdir()
    with State(directory).owned(), pytest.raises(NotActivated):
        load_licence(State(directory))
    assert (directory / "version").is_dir()
