"""Adapter: the process's logs as JSON lines on stderr."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, and the fields of `extra`.

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
        for name, value in vars(record).items():
            if name not in self._standard:
                line[name] = "(withheld)" if name.lower() in self._secret else value
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = "".join(traceback.format_exception(*record.exc_info))
        written = json.dumps(line, default=str, separators=(",", ":"))  # ASCII: all other characters are escaped
        return written.replace("\x7f", "\\u007f")


def configure_logging(level: str = "info") -> None:
    """Write the records of all loggers to stderr as JSON lines. `level` is a level's name of `logging`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
