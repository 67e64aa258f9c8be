"""Background task: the gate of one grant. A vendor's unit is bound to the unit of the gate, so it runs while this runs.

The gate asks the agent's socket for one verdict, again with each change and before the last answer ends. While the agent
is away the last answer counts until its `valid_until`, by the boot-time clock. So a restart or a crash of the agent is
not noticed. When the verdict denies, or its last answer has ended, the gate removes the file of the grant and exits.
"""

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import datetime

from node.clock import asleep_seconds, monotonic, utc_now
from node.gating.names import name_of
from node.gating.question import AgentSocket, Unanswered, quoted

SOCKET = "/run/cascadia/gates.sock"
"""The agent's socket for gates (`node.local.place.GATES_NAME`). Other users cannot reach it, so they cannot fill it."""
GRANTS = "granted"
"""The directory of the grants, beside the socket."""

EXIT_USAGE = 2
EXIT_DENIED = 3
"""The verdict denies."""
EXIT_AWAY = 69
"""The agent is away, and its last answer has ended."""
EXIT_FAULT = 70
EXIT_NOT_REMOVED = 73
"""As 3 or 69, but the file of the grant cannot be removed. Systemd starts the gate again after a pause."""

ANSWER_SECONDS_MAX = 60.0
"""An answer never counts for longer, whatever it says (`protocol.limits.LICENSE_ANSWER_LIFE`)."""
START_SECONDS_MAX = 25.0
"""How long a start waits for the agent's first answer. The agent settles for 20 seconds at its own start."""
POLL_SECONDS = 15
"""The longest wait for a change. Of the 60 seconds of an answer at least 45 are then left when the agent goes away."""
POLL_SPARE_SECONDS = 5.0
"""How much longer than its wait a poll may take."""
QUESTION_SECONDS_MAX = 5.0
LAST_QUESTION_SECONDS = 2.0
"""Bound of a question after the last answer has ended, as when the machine has slept."""
PAUSE_SECONDS = 1.0
"""Pause after a question without an answer."""
TEXT_CHARACTERS_MAX = 300

Ask = Callable[[str, float], tuple[int, dict[str, object]]]
"""Target and seconds -> status and document. Raises Unanswered."""


def boot_time() -> float:
    """Seconds since the boot, with the time for which the machine slept."""
    return monotonic() + asleep_seconds()


class Gate:
    """The gate of the entitlement `name`, or of the licence as a whole if `name` is None.

    Args:
        name: the entitlement.
        ask: asks the agent.
        grant: the file of the grant.
        tell: sends a message to systemd (sd_notify(3)).
        now: the boot-time clock.
        wall: the wall clock, which judges `valid_until`.
        sleep: waits.
    """

    def __init__(
        self,
        name: str | None,
        ask: Ask,
        grant: "GrantFile",
        tell: Callable[[str], None],
        *,
        now: Callable[[], float] = boot_time,
        wall: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._target = "/v1/license" if name is None else f"/v1/entitlements/{quoted(name)}"
        self._ask = ask
        self._grant = grant
        self._tell = tell
        self._now = now
        self._wall = wall
        self._sleep = sleep
        self._cursor = ""
        self._ready = False
        self._told = ""
        self._ends_at = now() + START_SECONDS_MAX

    def run(self) -> int:
        """Hold while the verdict allows. Returns the exit code."""
        while True:
            self._await_change()
            try:
                granted, text = self._verdict()
            except Unanswered as error:
                if not self._grant.is_present():
                    return self._lost(EXIT_DENIED, f"denied: the agent ended the grant, and then: {error}")
                left = self._ends_at - self._now()
                if left <= 0:
                    return self._lost(EXIT_AWAY, f"the last answer has ended: {error}")
                self._status("away", f"the last answer counts for {left:.0f} s: {error}")
                continue
            if not granted:
                return self._lost(EXIT_DENIED, f"denied: {text}")
            self._status("granted", f"granted: {text}")
            if not self._ready:
                self._ready = True
                self._tell("READY=1")

    def _await_change(self) -> None:
        """Wait for a change of the licence, or until it is time to ask again."""
        left = self._ends_at - self._now()
        wait = max(1, min(POLL_SECONDS, int(left / 2)))
        self._tell("WATCHDOG=1")
        try:
            target = f"/v1/changes?cursor={quoted(self._cursor)}&wait={wait}"
            status, document = self._ask(target, max(min(wait + POLL_SPARE_SECONDS, left), LAST_QUESTION_SECONDS))
            cursor = document.get("cursor")
            if status != 200 or not isinstance(cursor, str):
                raise Unanswered(f"the agent answered the question for changes with {status}")
        except Unanswered:
            if self._now() < self._ends_at:
                self._sleep(PAUSE_SECONDS)
        else:
            self._cursor = cursor

    def _verdict(self) -> tuple[bool, str]:
        """Whether it is granted, and why. Raises Unanswered for an answer that is no verdict."""
        before = self._now()
        seconds = max(min(QUESTION_SECONDS_MAX, self._ends_at - before), LAST_QUESTION_SECONDS)
        status, document = self._ask(self._target, seconds)
        reason = _shown(document.get("reason"))
        granted = document.get("granted")
        if "gate" in document and status == 200:
            granted = {"open": True, "closed": False}.get(str(document["gate"]))
        if not isinstance(granted, bool) or status not in ((200,) if "gate" in document or granted else (403,)):
            raise Unanswered(f"the agent answered {status} {_shown(document.get('title'))}")
        if granted:
            self._ends_at = before + self._seconds_valid(document)
        return granted, reason

    def _seconds_valid(self, document: dict[str, object]) -> float:
        """How long the answer counts. Raises Unanswered."""
        try:
            until = datetime.fromisoformat(str(document.get("valid_until")))
        except (ValueError, OverflowError):
            raise Unanswered("the agent's answer does not say how long it counts") from None
        if until.tzinfo is None:
            raise Unanswered("the agent's answer does not say in which zone its time is")
        return min(max((until - self._wall()).total_seconds(), 0.0), ANSWER_SECONDS_MAX)

    def _lost(self, code: int, text: str) -> int:
        try:
            self._grant.remove()
        except OSError as error:
            code, text = EXIT_NOT_REMOVED, f"{text}; cannot remove the file of the grant: {error.strerror}"
        self._status("lost", text)
        return code

    def _status(self, kind: str, text: str) -> None:
        """Show the status in `systemctl status`, and log each change of its kind."""
        self._tell(f"STATUS={text}")
        if kind != self._told:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
        self._told = kind


class GrantFile:
    """The file that the agent keeps while it grants."""

    def __init__(self, path: str) -> None:
        self._path = path

    def is_present(self) -> bool:
        """Whether the file is there, as far as can be seen."""
        try:
            os.lstat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            pass
        return True

    def remove(self) -> None:
        """Remove the file, so that it does not start this gate again. Raises OSError."""
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(self._path)  # noqa: PTH108 (pathlib costs 2 MB)


def _shown(text: object) -> str:
    """A text from outside, on one line and of bounded length."""
    characters = text if isinstance(text, str) else ""
    return "".join(each if each.isprintable() else "?" for each in characters[:TEXT_CHARACTERS_MAX])


class Systemd:
    """The service manager that waits for this process, at `address` (`$NOTIFY_SOCKET`). Empty: there is none."""

    def __init__(self, address: str) -> None:
        """Raises OSError."""
        self._is_there = bool(address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            if address:
                self._socket.connect("\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            self._socket.close()
            raise

    def tell(self, message: str) -> None:
        """Send a message (sd_notify(3)). A failure is logged."""
        if self._is_there:
            try:
                self._socket.send(message.encode(errors="replace"))
            except OSError as error:
                sys.stderr.write(f"cannot reach systemd: {error.strerror}\n")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def main(arguments: list[str] | None = None) -> int:
    """Run the gate: `gate NAME [SOCKET]`, with the name as `systemd-escape` writes it. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write("usage: gate NAME [SOCKET]\n")
        return EXIT_USAGE
    instance, path = arguments[0], arguments[1] if len(arguments) > 1 else SOCKET
    try:
        name = name_of(instance)
    except ValueError as error:
        sys.stderr.write(f"cannot keep a gate: {error}\n")
        return EXIT_USAGE
    grant = GrantFile(f"{path.rpartition('/')[0]}/{GRANTS}/{instance}")
    try:
        with closing(Systemd(os.environ.get("NOTIFY_SOCKET", ""))) as systemd:
            return Gate(name, AgentSocket(path).ask, grant, systemd.tell).run()
    except Exception as error:  # noqa: BLE001 (systemd starts the gate again after a pause)
        sys.stderr.write(f"cannot keep the gate because of a fault: {error!r}\n")
        return EXIT_FAULT
