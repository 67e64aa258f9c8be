"""Adapter: sends log records with their fields to the journal of systemd (its native protocol).

One record is one datagram: lines `NAME=value`; a value with a line break has its length before it
(systemd.io/JOURNAL_NATIVE_PROTOCOL). The fields are stable, so that a program can match them:

    MESSAGE PRIORITY SYSLOG_IDENTIFIER CASCADIA_LOGGER        every record
    MESSAGE_ID CASCADIA_STATE CASCADIA_GATE                   the state of the licence changed
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

PATH = "/run/systemd/journal/socket"
IDENTIFIER = "cascadia"
STATE_CHANGED = "5d2f6a0c3b8e4d6f9a1c7e40b2d98315"
"""MESSAGE_ID of a record that the state of the licence changed. It never changes."""
FIELDS = "journal"
"""The attribute of a log record that has its own fields: `log.info(..., extra={FIELDS: {...}})`."""
_PRIORITIES = ((50, 2), (40, 3), (30, 4), (20, 6))
"""Level of `logging`, and the priority of syslog(3) from it on."""


def priority(level: int) -> int:
    """The priority (syslog(3)) of a level of `logging`."""
    return next((number for least, number in _PRIORITIES if level >= least), 7)


def is_stderr(descriptor: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the journal reads a descriptor: `JOURNAL_STREAM` names its device and inode (systemd.exec(5))."""
    with suppress(OSError):
        status = os.fstat(descriptor)
        return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return False


def encoded(fields: Mapping[str, str]) -> bytes:
    """The datagram of a record. The names are letters, digits and underscores, and are the caller's own."""
    parts = []
    for name, text in fields.items():
        value = text.encode(errors="backslashreplace")
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)


def send(data: bytes, path: str = PATH) -> bool:
    """Send one datagram, and wait while the journal's queue is full. False if the journal does not take it."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto(data, path)
    except OSError:
        return False
    return True
