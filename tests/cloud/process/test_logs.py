"""Logs are JSON lines and contain no secrets."""

import json
import logging
import os
from io import StringIO
from pathlib import Path

import pytest

from cloud.process.logs import (
    LEFT_OUT,
    MESSAGES_MAX,
    SAME_LINES_MAX,
    SAME_LINES_PERIOD,
    BoundedLines,
    JournalLines,
    JsonLines,
    is_journal,
)
from cloud.tasks.current_request import enter, new_request


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)],
)
def test_the_journal_gets_a_priority(level: int, priority: int) -> None:
    record = logging.makeLogRecord({"levelno": level, "msg": "made"})
    prefix, line = JournalLines().format(record).split(">", 1)
    assert (prefix, json.loads(line)["message"]) == (f"<{priority}", "made")


def test_the_journal_is_known_by_its_stream(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        status = os.fstat(stream.fileno())
        assert is_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not is_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        assert not is_journal(stream, {})
    assert not is_journal(StringIO(), {"JOURNAL_STREAM": "1:2"})


def test_logs_are_json_lines_without_secrets() -> None:
    record = logging.makeLogRecord(
        {"name": "x", "levelno": 20, "levelname": "INFO", "msg": "made", "token": "csc_abc", "node": "node_1"}
    )
    line = json.loads(JsonLines().format(record))
    assert (line["message"], line["node"], line["token"], line["level"]) == ("made", "node_1", "(withheld)", "info")
    assert line["at"].endswith("Z")
    assert "\n" not in JsonLines().format(logging.makeLogRecord({"msg": "two\nlines"}))


async def test_a_line_of_a_request_has_the_ids_of_the_request_and_of_its_trace() -> None:
    assert "request_id" not in json.loads(JsonLines().format(logging.makeLogRecord({"msg": "started"})))
    request = new_request([(b"traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01".encode())], 1)
    enter(request)
    line = json.loads(JsonLines().format(logging.makeLogRecord({"msg": "refused"})))
    assert (line["request_id"], line["trace_id"]) == (request.id, "ab" * 16)


def test_an_outage_does_not_fill_the_log() -> None:
    """Ten thousand requests fail in a minute. Other messages are written, and one line has the number left out."""
    stream = StringIO()
    handler = BoundedLines(stream)
    handler.setFormatter(JsonLines())

    def say(message: str, at: float, level: int = logging.ERROR) -> None:
        handler.handle(logging.makeLogRecord({"name": "cascade.web", "levelno": level, "msg": message, "created": at}))

    period = SAME_LINES_PERIOD.total_seconds()
    for number in range(10_000):
        say("cannot answer", number * period / 10_000)
    say("another trouble", period - 0.1)
    for _ in range(100):
        say("CRL published", period - 0.1, logging.INFO)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines] == (
        ["cannot answer"] * SAME_LINES_MAX + ["another trouble"] + ["CRL published"] * 100
    )
    say("cannot answer", period)
    ended, again = [json.loads(line) for line in stream.getvalue().splitlines()[len(lines) :]]
    assert (ended["message"], ended["of"], ended["lines"]) == (LEFT_OUT, "cannot answer", 10_000 - SAME_LINES_MAX)
    assert again["message"] == "cannot answer"
    # The end of the process writes the counts of the periods that run.
    for _ in range(SAME_LINES_MAX + 4):
        say("cannot answer", period + 1)
    handler.close()
    assert json.loads(stream.getvalue().splitlines()[-1])["lines"] == 5


def test_messages_that_a_caller_could_make_are_bounded_too() -> None:
    stream = StringIO()
    handler = BoundedLines(stream)
    for number in range(2 * MESSAGES_MAX):
        handler.handle(logging.makeLogRecord({"name": "x", "levelno": logging.ERROR, "msg": f"{number}", "created": 0}))
    assert len(stream.getvalue().splitlines()) == MESSAGES_MAX + SAME_LINES_MAX
