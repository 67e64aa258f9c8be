"""Port: the source of Fabric's random bytes, its adapter over the operating system, and ids made from it.

Every other module takes the source as an argument.
"""

import os
from collections.abc import Callable
from datetime import datetime

from cloud.audit import ID_ENTROPY_BYTES
from protocol.ids import Prefix, make_id

Entropy = Callable[[int], bytes]
"""Returns as many random bytes as the argument says."""


def system_entropy(count: int) -> bytes:
    """Random bytes from the kernel."""
    return os.urandom(count)


def new_id(prefix: Prefix, now: datetime, entropy: Entropy) -> str:
    """A new id with the given prefix, which sorts by time."""
    return make_id(prefix, int(now.timestamp() * 1000), entropy(ID_ENTROPY_BYTES))
