"""Adapter: reports the agent's state to systemd (sd_notify(3)), one datagram a message.

Without `NOTIFY_SOCKET` every call does nothing. A message that cannot be sent changes nothing else: the agent's work
matters more than who watches it. The environment is left as it is.
"""

import os
import socket
from collections.abc import Mapping

import trio


def ready(status_text: str = "", environment: Mapping[str, str] = os.environ) -> bool:
    """Start-up is over, with a status line in the same message. True when the message left."""
    return _send(["READY=1", *_status(status_text)], environment)


def status(text: str, environment: Mapping[str, str] = os.environ) -> bool:
    """One line for `systemctl status`."""
    return _send(_status(text), environment)


def stopping(environment: Mapping[str, str] = os.environ) -> bool:
    return _send(["STOPPING=1"], environment)


def watchdog(environment: Mapping[str, str] = os.environ) -> bool:
    return _send(["WATCHDOG=1"], environment)


async def keep_watched() -> None:
    """Tell systemd that the event loop turns, for as long as the caller's, where it asks for that."""
    every = watchdog_seconds(os.getpid())
    while every is not None:
        watchdog()
        await trio.sleep(every)


def watchdog_seconds(pid: int, environment: Mapping[str, str] = os.environ) -> float | None:
    """How often to call `watchdog`: half of what systemd allows (sd_watchdog_enabled(3)); None when it does not ask."""
    usec = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid) or not usec.isdecimal() or int(usec) == 0:
        return None
    return int(usec) / 2_000_000


def _status(text: str) -> list[str]:
    line = " ".join(text.split())
    return [f"STATUS={line}"] if line else []


def _send(lines: list[str], environment: Mapping[str, str]) -> bool:
    """Never waits: a full queue is a message lost. A path is a socket's, `@name` an abstract one's."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not lines or len(address) < 2 or address[0] not in "/@":
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    try:
        with socket.socket(socket.AF_UNIX, kind) as sender:
            sender.sendto("\n".join(lines).encode(), address)
    except OSError:
        return False
    return True
