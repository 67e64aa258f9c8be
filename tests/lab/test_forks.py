"""`lab.forks`: forked processes run the real command lines, after the preparation that the test passes."""

import importlib.util
import os
import signal
from pathlib import Path

import msgspec
import pytest

from lab.forks import _PRELOAD, ForkServer
from lab.processes import Side

pytestmark = pytest.mark.slow

SERVER = ForkServer("tests.lab.test_forks")


class Note(msgspec.Struct, frozen=True):
    """Preparation of a new process: write a note to `path`, and kill the process if `deadly`."""

    path: str
    deadly: bool = False

    def __call__(self, side: Side) -> None:
        Path(self.path).write_text(f"{side} {os.getpid()} {os.environ['SAMPLE']}")
        if self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("module", _PRELOAD)
def test_every_module_imported_before_forking_exists(module: str) -> None:
    """The fork server ignores a module that it cannot find, and then every start imports that module itself."""
    assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("side", ["cascade", "cascadia"])
def test_a_command_line_is_forked_and_prepared(side: Side, tmp_path: Path) -> None:
    note = tmp_path / "note"
    process = SERVER.start(tmp_path, side, ["--help"], env={"SAMPLE": "x"}, prepare=Note(str(note)))
    assert process.wait() == 0, process.report()
    assert f"usage: {side}" in process.printed()
    assert note.read_text() == f"{side} {process.pid} x"
    assert process.pid != os.getpid()
    assert not process.running


def test_the_exit_status_is_that_of_the_command_line(tmp_path: Path) -> None:
    process = SERVER.start(tmp_path, "cascade", ["no-such-command"])
    assert process.wait() == 2
    assert "no-such-command" in process.log.read_text()


def leave(path: str, code: int) -> None:
    """A function for a forked process."""
    Path(path).write_text(str(os.getpid()))
    if code:
        raise SystemExit(code)
    raise ValueError("the reason")


def test_a_function_is_called_in_a_process_of_its_own(tmp_path: Path) -> None:
    process = SERVER.call(tmp_path, "leave", leave, str(tmp_path / "note"), 7)
    assert process.wait() == 7
    assert (tmp_path / "note").read_text() == str(process.pid) != str(os.getpid())
    process = SERVER.call(tmp_path, "leave", leave, str(tmp_path / "note"), 0)
    assert process.wait() == 1
    assert "ValueError: the reason" in process.report()
    assert "tests.lab.test_forks.leave" in process.report()


def test_a_killed_process_reports_the_signal(tmp_path: Path) -> None:
    prepare = Note(str(tmp_path / "note"), deadly=True)
    process = SERVER.start(tmp_path, "cascadia", ["--help"], env={"SAMPLE": "x"}, prepare=prepare)
    assert process.wait() == -signal.SIGKILL
    assert process.out() is None
