"""Source of Fabric's randomness: ids, secrets, nonces. Everything else takes it as an argument."""

import os
from collections.abc import Callable
from datetime import datetime

from cloud.audit import ID_ENTROPY_BYTES
from protocol.ids import Prefix, make_id

Entropy = Callable[[int], bytes]
"""So many bytes from the system's generator."""


def system_entropy(count: int) -> bytes:
    """From the kernel."""
    return os.urandom(count)


def new_id(prefix: Prefix, now: datetime, entropy: Entropy) -> str:
    """A new id of that kind."""
    return make_id(prefix, int(now.timestamp() * 1000), entropy(ID_ENTROPY_BYTES))
