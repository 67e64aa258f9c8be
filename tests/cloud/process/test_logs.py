"""Logs are JSON lines and contain no secrets."""

import json
import logging

from cloud.process.logs import JsonLines


def test_logs_are_json_lines_without_secrets() -> None:
    record = logging.makeLogRecord(
        {"name": "x", "levelno": 20, "levelname": "INFO", "msg": "made", "token": "csc_abc", "node": "node_1"}
    )
    line = json.loads(JsonLines().format(record))
    assert (line["message"], line["node"], line["token"], line["level"]) == ("made", "node_1", "(withheld)", "info")
    assert line["at"].endswith("Z")
    assert "\n" not in JsonLines().format(logging.makeLogRecord({"msg": "two\nlines"}))
