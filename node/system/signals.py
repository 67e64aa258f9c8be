"""Adapter: the signals that do not end the agent. The agent itself handles SIGTERM and SIGINT, which stop it.

The default action of most signals ends a process without a log line. A stray signal, such as the SIGHUP of
a script to every daemon, must not stop a machine that may run.
"""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger("cascadia.signals")

ENDING = frozenset({signal.SIGTERM, signal.SIGINT})
"""The agent stops in order (`node.agent`)."""
DEFAULT = frozenset(
    {
        # The kernel does not let a program handle these.
        signal.SIGKILL,
        signal.SIGSTOP,
        # A fault of the program itself, or the abort key of its terminal. Going on would repeat the fault.
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGQUIT,
        signal.SIGSEGV,
        signal.SIGSYS,
        signal.SIGTRAP,
        # Job control of a shell. They stop or continue the process and never end it.
        signal.SIGCONT,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        # The kernel's default is to ignore them.
        signal.SIGCHLD,
        signal.SIGURG,
        signal.SIGWINCH,
    }
)
"""These keep the kernel's default action."""
SILENT = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
"""Ignored without a log line: the failed call reports the closed pipe or the file size limit."""
LOGGED = frozenset(signal.valid_signals()) - ENDING - DEFAULT - SILENT
"""Ignored with a log line: SIGHUP, SIGUSR1, SIGUSR2, timers, SIGIO, SIGPWR, SIGXCPU, real-time signals and all others."""

_TEXTS: dict[int, str] = {signal.SIGHUP: "the settings are read at the start; restart the agent to change them"}
_NAMES = {int(member): member.name for member in signal.Signals}


def _ignore(number: int, _frame: FrameType | None) -> None:
    name = _NAMES.get(number, f"signal {number}")  # most real-time signals have no name
    log.warning("ignored %s: %s", name, _TEXTS.get(number, "it has no meaning for the agent"))


@contextmanager
def strays_ignored() -> Iterator[None]:
    """Ignore the signals of `LOGGED` and `SILENT` for the length of the block. Call it in the main thread."""
    before = {number: signal.signal(number, _ignore) for number in LOGGED}
    before |= {number: signal.signal(number, signal.SIG_IGN) for number in SILENT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
