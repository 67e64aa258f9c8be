"""The log on stderr: no reader stops the program that logs, and no text of a stranger looks like a record."""

import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from node.system.logs import LINE_CHARACTERS_MAX, RECORD_LINES_MAX, Format, never_blocking, to_stderr

log = logging.getLogger("cascadia.test")


def formatted(message: str, *arguments: object, error: BaseException | None = None) -> str:
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    return Format().format(logging.LogRecord("cascadia.x", logging.INFO, "", 0, message, arguments, exc_info))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "INFO cascadia.x: plain"),
        ("a\nERROR cascadia: forged", "INFO cascadia.x: a\n  | ERROR cascadia: forged"),
        ("\x1b[2J\r\x00", "INFO cascadia.x: \\x1b[2J\\x0d\\x00"),
        (b"\xe9".decode("utf-8", "surrogateescape"), "INFO cascadia.x: \\xe9"),
    ],
)
def test_a_record_is_one_line_and_its_continuations(text: str, shown: str) -> None:
    assert formatted("%s", text) == shown


def test_a_record_is_bounded() -> None:
    assert len(formatted("%s", "x" * 90_000)) == LINE_CHARACTERS_MAX
    lines = formatted("%s", "x\n" * 90_000).split("\n")
    assert len(lines) == RECORD_LINES_MAX + 1
    assert "lines)" in lines[RECORD_LINES_MAX // 2]


def test_a_traceback_follows_its_message_and_is_escaped() -> None:
    try:
        raise ValueError("a\nforged: line\x1b")
    except ValueError as error:
        first, *rest = formatted("cannot go on", error=error).split("\n")
    assert first == "INFO cascadia.x: cannot go on"
    assert all(line.startswith("  | ") and line.isprintable() for line in rest)
    assert rest[-1] == "  | forged: line\\x1b"


class Stopped(io.StringIO):
    """A stream whose reader reads nothing before `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, text: str) -> int:
        self.go.wait(10)
        return super().write(text)


@contextmanager
def stderr(stream: io.StringIO) -> Iterator[None]:
    before, sys.stderr = sys.stderr, stream
    try:
        yield
    finally:
        sys.stderr = before


def test_a_stopped_reader_costs_records_and_no_time_and_their_number_is_logged() -> None:
    stream = Stopped()
    with stderr(stream), never_blocking(logging.INFO, records_max=4, seconds=5):
        for number in range(20):
            log.info("record %d", number)
        stream.go.set()
    lines = stream.getvalue().splitlines()
    records = [line for line in lines if "record " in line]
    (note,) = (line for line in lines if "dropped" in line)
    assert records[:4] == [f"INFO cascadia.test: record {number}" for number in range(4)]
    assert f"{20 - len(records)} records were dropped" in note


def test_the_end_waits_for_the_reader_for_a_bounded_time() -> None:
    stream = Stopped()
    began = time.monotonic()
    with stderr(stream), never_blocking(logging.INFO, seconds=0.05):
        log.info("never read")
    assert time.monotonic() - began < 2
    assert stream.getvalue() == ""
    stream.go.set()


def test_what_others_write_to_stderr_goes_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    with never_blocking(logging.INFO, seconds=5):
        sys.stderr.write("a\x1b")
        sys.stderr.write(" b\nc\n")
        log.debug("below the level")
        sys.stderr.write("no line break")
        # Only to our own handler: pytest's raises the error of a wrong call.
        logging.getLogger().handlers[-1].emit(
            logging.LogRecord("cascadia.x", logging.INFO, "", 0, "%d", ("one",), None)
        )
    assert capsys.readouterr().err == (
        "a\\x1b b\nc\nERROR cascadia.log: cannot format a record of cascadia.x: TypeError\nno line break\n"
    )


def test_a_command_logs_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with to_stderr(logging.WARNING):
        log.info("below the level")
        log.warning("a\nb")
        assert capsys.readouterr().err == "WARNING cascadia.test: a\n  | b\n"


_FLOOD = """
import logging, signal, sys
from node.system.logs import never_blocking
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with never_blocking(logging.INFO):
    print("begun", flush=True)
    while True:
        logging.info("x" * 500)
"""


@pytest.mark.slow
def test_a_full_pipe_does_not_hold_the_end_of_the_process_up() -> None:
    """A real pipe that is not read: the thread of the log hangs in its system call, and the process still ends."""
    with subprocess.Popen([sys.executable, "-c", _FLOOD], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        began = time.monotonic()
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - began < 2
