"""Adapter: the log of `cascadia` on stderr. The event loop never waits for the reader of the log.

A record goes into a bounded queue, and a thread writes it. Under systemd the thread sends it with its fields to the
journal (`node.system.journal`). If the reader of the pipe or the journal is slow or stopped, the queue fills; later
records are counted and dropped. The thread logs their number when the reader goes on. Every text is escaped and bounded
(`node.text.shown`), because a record can quote a stranger.
"""

import logging
import os
import queue
import select
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOBase
from typing import TextIO

from node.system import journal
from node.text import shown

RECORDS_MAX = 1000
"""A chatty hour. With `LINE_CHARACTERS_MAX` the queue has a few megabytes at most."""
LINE_CHARACTERS_MAX = 1100
"""An error's text (`node.text.TEXT_CHARACTERS_MAX`) with the name of its logger."""
RECORD_LINES_MAX = 80
"""A traceback with its causes."""
FLUSH_SECONDS_MAX = 0.5
"""Longest wait for the reader at the end of the process."""
CONTINUATION = "  | "
"""Begin of the second and later lines of a record, so that no text can look like a record."""


class Format(logging.Formatter):
    """One record as `LEVEL logger: message`, with bounded lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, without a final line break. A traceback follows the message."""
        return f"\n{CONTINUATION}".join(self._lines(record, f"{record.levelname} {record.name}: "))

    def fields(self, record: logging.LogRecord) -> dict[str, str]:
        """The record as fields of the journal (`node.system.journal`)."""
        return {
            "MESSAGE": "\n".join(self._lines(record, "")),
            "PRIORITY": str(journal.priority(record.levelno)),
            "SYSLOG_IDENTIFIER": journal.IDENTIFIER,
            "CASCADIA_LOGGER": record.name,
            **getattr(record, journal.FIELDS, {}),
        }

    @staticmethod
    def _lines(record: logging.LogRecord, head: str) -> list[str]:
        lines = f"{head}{record.getMessage()}".split("\n")
        if record.exc_info and record.exc_info[1] is not None:
            lines += "".join(traceback.format_exception(record.exc_info[1])).rstrip().split("\n")
        if len(lines) > RECORD_LINES_MAX:
            left_out = len(lines) - RECORD_LINES_MAX
            half = RECORD_LINES_MAX // 2
            lines = [*lines[:half], f"... ({left_out} lines)", *lines[-half:]]
        return [shown(line, LINE_CHARACTERS_MAX) for line in lines]


_Text = tuple[str, bytes]
"""A record as text, and its datagram for the journal."""


class _Queue:
    """The bounded queue and the thread that empties it into a stream, or into the journal that reads the stream."""

    def __init__(self, stream: TextIO, records_max: int) -> None:
        self._stream = stream
        self._descriptor: int | None = None
        with suppress(OSError, ValueError, AttributeError):  # a stream of a test has no descriptor
            self._descriptor = stream.fileno()
        self.is_journal = self._descriptor is not None and journal.is_stderr(self._descriptor)
        # A signal handler can log while the main thread is inside `put`. Only SimpleQueue allows that.
        self._texts: queue.SimpleQueue[_Text | None] = queue.SimpleQueue()
        self._records_max = records_max
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def put(self, text: str, data: bytes = b"") -> None:
        """Queue one record. `data` is its datagram for the journal, if the journal reads the stream. Never waits."""
        if self._texts.qsize() >= self._records_max:
            self._dropped += 1
        else:
            self._texts.put((text, data))

    def close(self, seconds: float) -> None:
        """Wait until the queue is written, for at most `seconds`. A record that is still queued is lost."""
        self._texts.put(None)
        self._thread.join(seconds)

    def _write_all(self) -> None:
        while (found := self._texts.get()) is not None:
            text, data = found
            if not (data and journal.send(data)):
                self._write(text)
            if self._dropped and self._texts.qsize() < self._records_max // 2:
                dropped, self._dropped = self._dropped, 0
                self._write(f"WARNING cascadia.log: {dropped} records were dropped: the reader of the log was too slow")

    def _write(self, text: str) -> None:
        # A reader that has gone (EPIPE), or a full disk under the log, must not end the thread.
        with suppress(OSError, ValueError, AttributeError):  # AttributeError: the process was started without stderr
            if self._descriptor is None:
                self._stream.write(text + "\n")
                self._stream.flush()
                return
            # Not through the stream: its lock would be held while the process ends.
            data = (text + "\n").encode(errors="backslashreplace")
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:
                    select.select((), (self._descriptor,), ())


class _Handler(logging.Handler):
    def __init__(self, texts: _Queue) -> None:
        super().__init__()
        self._texts = texts
        self._format = Format()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            data = journal.encoded(self._format.fields(record)) if self._texts.is_journal else b""
            self._texts.put(self._format.format(record), data)
        except Exception as error:  # noqa: BLE001 - a wrong call of the logger must not end the work that logs
            self._texts.put(f"ERROR cascadia.log: cannot format a record of {record.name}: {type(error).__name__}")


class _Stderr(TextIOBase):
    """Takes the place of `sys.stderr`, so that the interpreter's own messages do not block either."""

    def __init__(self, texts: _Queue) -> None:
        self._texts = texts
        self._begun = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._texts.put(shown(line, LINE_CHARACTERS_MAX))
        return len(text)

    def finish(self) -> None:
        """Write a line that has no line break yet."""
        if self._begun:
            self.write("\n")


@contextmanager
def never_blocking(level: int, *, records_max: int = RECORDS_MAX, seconds: float = FLUSH_SECONDS_MAX) -> Iterator[None]:
    """Log records from `level` on to stderr through the queue, and everything else that is written to `sys.stderr`.

    At the end of the block the queue is written, for at most `seconds`.
    """
    before, texts = sys.stderr, _Queue(sys.stderr, records_max)
    handler, root = _Handler(texts), logging.getLogger()
    level_before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    stderr = _Stderr(texts)
    sys.stderr = stderr
    try:
        yield
    finally:
        stderr.finish()
        sys.stderr = before
        root.setLevel(level_before)
        root.removeHandler(handler)
        texts.close(seconds)


@contextmanager
def to_stderr(level: int) -> Iterator[None]:
    """Log records from `level` on to stderr, without a queue: for a command that a person waits for."""
    handler = logging.StreamHandler()
    handler.setLevel(level)
    handler.setFormatter(Format())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
