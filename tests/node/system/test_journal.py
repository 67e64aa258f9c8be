"""The journal's native protocol: bytes of a record, who gets records, and what happens without a journal."""

import logging
import os
import socket
import sys
from pathlib import Path

import pytest

from node.system import journal
from node.system.logs import never_blocking

log = logging.getLogger("cascadia.test")


def test_a_record_is_lines_and_a_long_value_has_its_length() -> None:
    assert journal.encoded({"MESSAGE": "one", "A_B": "x=y"}) == b"MESSAGE=one\nA_B=x=y\n"
    assert journal.encoded({"MESSAGE": "one\ntwo"}) == b"MESSAGE\n\x07\0\0\0\0\0\0\0one\ntwo\n"
    assert journal.encoded({"MESSAGE": "\udce9"}) == b"MESSAGE=\\udce9\n"


@pytest.mark.parametrize(
    ("level", "priority"), [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (5, 7)]
)
def test_a_level_has_the_priority_of_syslog(level: int, priority: int) -> None:
    assert journal.priority(level) == priority


def test_the_journal_is_named_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        status = os.fstat(file.fileno())
        assert journal.is_stderr(file.fileno(), {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not journal.is_stderr(file.fileno(), {"JOURNAL_STREAM": f"{status.st_dev}:1"})
        assert not journal.is_stderr(file.fileno(), {})
    assert not journal.is_stderr(-1, {"JOURNAL_STREAM": "1:2"})


def test_a_datagram_arrives_and_an_absent_journal_is_no_error(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    assert not journal.send(b"x", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        assert journal.send(b"MESSAGE=x\n", path)
        assert receiver.recv(100) == b"MESSAGE=x\n"


@pytest.mark.parametrize("is_there", [True, False])
def test_records_go_to_the_journal_with_their_fields_or_else_to_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    sent: list[bytes] = []

    def send(data: bytes) -> bool:
        sent.append(data)
        return is_there

    with (tmp_path / "log").open("w") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr("node.system.journal.send", send)
        with never_blocking(logging.INFO, seconds=10):
            log.warning("a\nforged=line", extra={journal.FIELDS: {"CASCADIA_STATE": "active"}})
    message = b"MESSAGE\n\x0d\0\0\0\0\0\0\0a\nforged=line\n"
    rest = b"PRIORITY=4\nSYSLOG_IDENTIFIER=cascadia\nCASCADIA_LOGGER=cascadia.test\nCASCADIA_STATE=active\n"
    assert sent == [message + rest]
    text = "" if is_there else "WARNING cascadia.test: a\n  | forged=line\n"
    assert (tmp_path / "log").read_text() == text
