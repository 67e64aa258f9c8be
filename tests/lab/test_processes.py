"""`lab.processes`: wait for, stop and kill processes; their output, log and report; free ports; scratch directories."""

import shlex
import signal
import sys
from pathlib import Path

import pytest

from lab import processes
from lab.processes import (
    Process,
    StepFailed,
    accepts,
    ended,
    free_ports,
    reports,
    scratch_directory,
    start_program,
    wait_until,
)

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
PATIENT = "import time; print(1, flush=True); time.sleep(60)"


def python(directory: Path, code: str, env: dict[str, str] | None = None) -> Process:
    return start_program(directory, "sample", [sys.executable, "-c", code], env)


def test_the_first_true_value_is_returned() -> None:
    values = iter(["", 0, "three"])
    assert wait_until("a value", lambda: next(values)) == "three"


def test_a_wait_that_times_out_names_the_awaited_event() -> None:
    with pytest.raises(StepFailed, match="the end of the world did not happen within 0 s"):
        wait_until("the end of the world", lambda: False, seconds=0.05)


def test_output_and_log_are_kept_apart(tmp_path: Path) -> None:
    process = python(
        tmp_path, "import os, sys; print(os.environ['SAMPLE']); print('noise', file=sys.stderr)", {"SAMPLE": "[1]"}
    )
    assert process.document() == [1]
    assert process.log.read_text() == "noise\n"
    assert process.tail() == "noise\n[1]\n"


def test_two_processes_of_one_name_share_their_log_only(tmp_path: Path) -> None:
    first, second = (python(tmp_path, f"import os; print({n}); os.write(2, b'log\\n')") for n in (1, 2))
    assert (first.document(), second.document()) == (1, 2)
    assert first.log.read_text() == "log\nlog\n"


def test_another_exit_status_is_an_error_that_quotes_the_log(tmp_path: Path) -> None:
    code = "import sys; print('sorry', file=sys.stderr); sys.exit(3)"
    with pytest.raises(StepFailed, match="sample exited 3, not 0:\n") as raised:
        python(tmp_path, code).document()
    text = str(raised.value)
    assert shlex.join([sys.executable, "-c", code]) in text
    assert "exit status 3" in text
    assert f"{tmp_path / 'sample.log'}\n" in text
    assert text.endswith("  | sorry")
    assert python(tmp_path, "import sys; sys.exit(3)").document(expect=3) is None
    assert python(tmp_path, "import sys; sys.exit(3)").document(expect=None) is None


def test_reports_name_failed_processes_first(tmp_path: Path) -> None:
    for code in ("import sys; sys.exit(4)", "", "import sys; sys.exit(5)"):
        python(tmp_path, code).wait()
    states = [line for report in reports(3) for line in report.splitlines() if line.startswith("  state:")]
    assert ["exit status 4" in states[0], "exit status 5" in states[1], "exit status 0" in states[2]] == [True] * 3
    assert len(reports(2)) == 2


def test_a_process_is_stopped_by_sigterm(tmp_path: Path) -> None:
    process = python(tmp_path, PATIENT)
    wait_until("its start", process.printed)
    assert process.running
    assert process.stop() == -signal.SIGTERM
    assert process.stop() == -signal.SIGTERM, "stopping it again changes nothing"


def test_a_process_that_ignores_sigterm_is_killed_and_reported(tmp_path: Path) -> None:
    process = python(tmp_path, STUBBORN)
    wait_until("its start", process.printed)
    with pytest.raises(StepFailed, match="sample is still running after 0 s"):
        process.stop(0.2)
    assert process.wait() == -signal.SIGKILL


def test_running_processes_are_killed_at_the_end_of_the_block_after_an_error(tmp_path: Path) -> None:
    first, second = python(tmp_path, PATIENT), python(tmp_path, "")
    second.wait()
    with pytest.raises(RuntimeError, match="sample"), ended(first, second):
        raise RuntimeError("sample")
    assert first.wait() == -signal.SIGKILL
    assert second.wait() == 0


def test_each_port_is_reserved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = free_ports(4), free_ports(4)
    assert first != second
    assert not any(accepts(port) for port in range(first, first + 4))
    monkeypatch.setattr(processes, "_slots", iter(()))
    with pytest.raises(StepFailed, match="no free ports"):
        free_ports()


def test_a_scratch_directory_is_kept_after_an_error_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scratch_directory("cascade-test-") as gone:
        (gone / "file").touch()
    assert not gone.exists()
    with pytest.raises(RuntimeError, match="sample"), scratch_directory("cascade-test-") as kept:
        kept.rename(tmp_path / "kept")
        raise RuntimeError("sample")
    assert capsys.readouterr().err == f"  the files of this run are kept in {kept}\n"
