"""Adapter: forbids core dumps of this process, and reads of its memory by other processes of the same user.

The memory holds a session key. `PR_SET_DUMPABLE = 0` also forbids ptrace to every user but root.
"""

import ctypes
import resource

_PR_SET_DUMPABLE = 4


def no_core_dumps() -> None:
    """Forbid core dumps of this process. Raises OSError if the kernel refuses."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot forbid core dumps")
