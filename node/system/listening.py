"""Adapter: the sockets that systemd passes to a service (sd_listen_fds(3)).

The descriptors begin at 3. `LISTEN_PID` names the process that they are for, and `LISTEN_FDS` is their number.
"""

import os
import re
from collections.abc import MutableMapping
from contextlib import suppress

FIRST = 3
"""The first passed descriptor (SD_LISTEN_FDS_START)."""
PASSED_MAX = 64
"""More than a unit of the agent has. A larger number is no number of systemd."""
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_NUMBER = re.compile("[1-9][0-9]{0,9}")


def passed_descriptors(
    environment: MutableMapping[str, str] = os.environ, *, pid: int | None = None, first: int = FIRST
) -> tuple[int, ...]:
    """The descriptors that were passed to this process. Empty if systemd passed none.

    The variables are removed, and no program that this process starts gets the descriptors, so call it once.
    """
    process, number = environment.get("LISTEN_PID", ""), environment.get("LISTEN_FDS", "")
    for name in _VARIABLES:
        environment.pop(name, None)
    if process != str(os.getpid() if pid is None else pid) or not _NUMBER.fullmatch(number):
        return ()
    if int(number) > PASSED_MAX:
        return ()
    descriptors = tuple(range(first, first + int(number)))
    for descriptor in descriptors:
        with suppress(OSError):  # Its user reports a descriptor that is not open.
            os.set_inheritable(descriptor, False)
    return descriptors
