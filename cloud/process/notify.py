"""Adapter and background tasks: report the state of the process to systemd (sd_notify(3)).

Without `NOTIFY_SOCKET` in the environment nothing is sent and no dependency is asked. A message that cannot be sent is
dropped, because the services' work matters more than the report.

READY is sent when every listener accepts connections and no service is unready. A service that stays unready, for
example after a restore, does not fail the start: after `READY_WAIT_SECONDS` READY is sent anyway, and the status line
names what is missing. systemd would otherwise restart a service that an operator has to help. The watchdog proves that
the event loop runs. It asks no dependency, because a restart does not bring a database back.
"""

import os
import re
import socket
import time
from collections.abc import Mapping, Sequence

import msgspec

from cloud.http.readiness import Readiness
from cloud.tasks.stopping import BackgroundTask, Stopping

READY_WAIT_SECONDS = 20.0
"""Seconds for which READY waits for services that are unready."""
ASK_SECONDS = 0.5
"""Seconds between two questions before READY."""
STATUS_SECONDS = 10.0
"""Seconds between two status lines."""
STATUS_CHARACTERS_MAX = 500
_NUMBER = re.compile("[1-9][0-9]{0,17}")
"""A positive number of microseconds."""


class Reporting(msgspec.Struct, frozen=True):
    """A service with its readiness, for the status line."""

    name: str
    readiness: Readiness


def notify(*lines: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send lines as one datagram, without waiting. Return True if the message was sent.

    The address is the path of a socket, or `@name` for an abstract socket.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if len(address) < 2 or address[0] not in "/@":
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


def watchdog_seconds(pid: int, environment: Mapping[str, str] = os.environ) -> float | None:
    """Return half of the watchdog's time (sd_watchdog_enabled(3)), or None if there is no watchdog."""
    usec = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid) or not _NUMBER.fullmatch(usec):
        return None
    return int(usec) / 2_000_000


def reports(services: Sequence[Reporting], environment: Mapping[str, str] = os.environ) -> tuple[BackgroundTask, ...]:
    """Return the background tasks that report to systemd. Without systemd there are none."""
    if not environment.get("NOTIFY_SOCKET"):
        return ()

    async def status(stopping: Stopping) -> None:
        until = time.monotonic() + READY_WAIT_SECONDS
        ready, text = await _state(services)
        while not ready and time.monotonic() < until and not await stopping.sleep(ASK_SECONDS):
            ready, text = await _state(services)
        if stopping.requested:
            return
        notify("READY=1", text, environment=environment)
        while not await stopping.sleep(STATUS_SECONDS):
            _, text = await _state(services)
            notify(text, environment=environment)

    async def watchdog(stopping: Stopping) -> None:
        while not await stopping.sleep(every or STATUS_SECONDS):
            notify("WATCHDOG=1", environment=environment)

    async def stop(stopping: Stopping) -> None:
        await stopping.wait()
        notify("STOPPING=1", environment=environment)

    every = watchdog_seconds(os.getpid(), environment)
    return (status, stop) if every is None else (status, watchdog, stop)


async def _state(services: Sequence[Reporting]) -> tuple[bool, str]:
    """Return whether no service is unready, and the status line: each service, with the codes of its faults."""
    ready, texts = True, []
    for service in services:
        report = await service.readiness.report()
        ready = ready and report.status != "unready"
        codes = ", ".join(fault.code for fault in report.faults)
        texts.append(f"{service.name} {report.status}" + (f" ({codes})" if codes else ""))
    return ready, f"STATUS={'; '.join(texts)}"[:STATUS_CHARACTERS_MAX]
