"""Adapter: reports the agent's state to systemd (sd_notify(3)), one datagram for each message.

Without `NOTIFY_SOCKET` in the environment every call does nothing. A message that cannot be sent is dropped, because
the agent's work matters more than the report. The functions do not change the environment. They return True if the
message was sent.
"""

import logging
import os
import re
import socket
from collections.abc import Awaitable, Callable, Mapping

import trio

from node.text import shown

log = logging.getLogger("cascadia.agent")

SILENT_PAUSE_SECONDS = 1.0
"""Pause before the thread is asked again after it did not answer."""
_NUMBER = re.compile("[1-9][0-9]{0,17}")
"""A positive number of microseconds."""


def ready(status_text: str = "", environment: Mapping[str, str] = os.environ) -> bool:
    """Report that the start is complete, with a status line in the same message."""
    return _send(["READY=1", *_status(status_text)], environment)


def status(text: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Set the line that `systemctl status` shows."""
    return _send(_status(text), environment)


def stopping(environment: Mapping[str, str] = os.environ) -> bool:
    """Report that the agent is about to end."""
    return _send(["STOPPING=1"], environment)


def watchdog(environment: Mapping[str, str] = os.environ) -> bool:
    """Report to the watchdog of systemd that the agent is alive."""
    return _send(["WATCHDOG=1"], environment)


async def keep_watched(answers: Callable[[float], Awaitable[bool]]) -> None:
    """Call `watchdog` from the event loop until cancelled, as long as the agent's thread answers.

    `answers(seconds)` says within `seconds` whether the thread answered. Together with the pause this stays below the
    limit of systemd. Returns at once without a watchdog.
    """
    every = watchdog_seconds(os.getpid())
    reported = False
    while every is not None:
        if await answers(every / 2):
            watchdog()
            reported = False
            await trio.sleep(every)
        else:
            if not reported:
                log.error("the thread of the TPM does not answer; the watchdog will end the agent")
            reported = True
            await trio.sleep(SILENT_PAUSE_SECONDS)


def watchdog_seconds(pid: int, environment: Mapping[str, str] = os.environ) -> float | None:
    """The interval for `watchdog`: half of systemd's limit (sd_watchdog_enabled(3)); None without a watchdog."""
    usec = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid) or not _NUMBER.fullmatch(usec):
        return None
    return int(usec) / 2_000_000


def _status(text: str) -> list[str]:
    line = shown(" ".join(text.split()))
    return [f"STATUS={line}"] if line else []


def _send(lines: list[str], environment: Mapping[str, str]) -> bool:
    """Send one datagram without waiting. If the queue is full, the message is lost.

    The address is the path of a socket, or `@name` for an abstract socket.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not lines or len(address) < 2 or address[0] not in "/@":
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    try:
        with socket.socket(socket.AF_UNIX, kind) as sender:
            sender.sendto("\n".join(lines).encode(), address)
    except (OSError, ValueError):  # ValueError: an address that no socket can have
        return False
    return True
