"""Adapter: the process's logs as JSON lines on stderr, with priorities for the journal."""

import json
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import TextIO

from cloud.tasks.current_request import current_request
from cloud.tasks.tally import Counted, Tally

SAME_LINES_MAX = 20
SAME_LINES_PERIOD = timedelta(minutes=1)
"""Warnings and errors with one message in a period. During an outage of the database, each request would log one."""
MESSAGES_MAX = 1000
"""Messages that are counted. Further messages are counted together. In this code a message is a constant."""
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Levels, and the priorities of the journal (syslog(3))."""
_DEBUG = 7
_OTHERS = ("", logging.WARNING, "others")
LEFT_OUT = "further lines with this message were left out"


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, and the fields of `extra`.

    A record that is written during a request also has the id of the request and of its trace.

    Callers log ids, and never tokens, codes, keys or bodies. The value of a field with such a name is withheld.
    """

    _standard = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
    _secret = ("token", "secret", "passphrase", "password", "code", "key", "authorization")

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request := current_request()) is not None and not hasattr(record, "lines"):
            line |= {"request_id": request.id, "trace_id": request.trace}
        for name, value in vars(record).items():
            if name not in self._standard:
                line[name] = "(withheld)" if name.lower() in self._secret else value
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = "".join(traceback.format_exception(*record.exc_info))
        written = json.dumps(line, default=str, separators=(",", ":"))  # ASCII: all other characters are escaped
        return written.replace("\x7f", "\\u007f")


class JournalLines(JsonLines):
    """Formats a record as `JsonLines`, after the prefix from which the journal takes its priority (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG)
        return f"<{priority}>{super().format(record)}"


class BoundedLines(logging.StreamHandler[TextIO]):
    """Writes records to a stream, of warnings and errors at most `SAME_LINES_MAX` with one message in a period.

    Further records are counted by logger and message. After the period, one record says how many were left out. It is
    written before the next record of any message, or when the process ends.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._tally: Tally[tuple[str, int, str]] = Tally(SAME_LINES_PERIOD, MESSAGES_MAX)

    def emit(self, record: logging.LogRecord) -> None:
        """Write or count a record. `logging` calls this method under the handler's lock."""
        at = datetime.fromtimestamp(record.created, UTC)
        self._write_left_out(self._tally.end_all(at))
        key = record.name, record.levelno, str(record.msg)
        if not self._tally.has_room(key):
            key = _OTHERS
        if record.levelno < logging.WARNING or self._tally.add(key, at) <= SAME_LINES_MAX:
            super().emit(record)

    def close(self) -> None:
        """Write how many records were left out in the current periods."""
        with self.lock or nullcontext():
            self._write_left_out(self._tally.end_all())
        super().close()

    def _write_left_out(self, ended: list[tuple[tuple[str, int, str], Counted]]) -> None:
        for (name, level, message), counted in ended:
            if counted.count > SAME_LINES_MAX:
                record = logging.LogRecord(name, level, "", 0, LEFT_OUT, None, None)
                record.lines, record.of, record.since = counted.count - SAME_LINES_MAX, message, counted.since
                super().emit(record)


def is_journal(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether systemd has connected `stream` to the journal (`$JOURNAL_STREAM`, systemd.exec(5))."""
    with suppress(OSError, ValueError):  # a stream of a test has no descriptor
        status = os.fstat(stream.fileno())
        return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return False


def configure_logging() -> None:
    """Write the records of all loggers from level INFO on to stderr as JSON lines.

    Lines for the journal have a priority as well.
    """
    handler = BoundedLines(sys.stderr)
    handler.setFormatter(JournalLines() if is_journal(sys.stderr) else JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
