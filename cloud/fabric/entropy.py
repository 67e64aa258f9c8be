"""Where Fabric's randomness comes from: ids, secrets, nonces. Everything else takes it as an argument."""

import os
from collections.abc import Callable
from datetime import datetime

from protocol.ids import Prefix, make_id

Entropy = Callable[[int], bytes]
"""So many bytes from the system's generator."""

ID_ENTROPY_BYTES = 10


def system_entropy(count: int) -> bytes:
    """From the kernel."""
    return os.urandom(count)


class Ids:
    """Makes ids. Those of one prefix rise within this process, also within a millisecond: the audit is ordered by
    them."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._last: dict[str, tuple[int, int]] = {}

    def make(self, prefix: Prefix, now: datetime) -> str:
        """A new id of that kind."""
        unix_ms = int(now.timestamp() * 1000)
        last_ms, last_bits = self._last.get(prefix, (0, 0))
        # The top bit of the 62 that make_id puts last stays free, so that counting up never wraps.
        bits = int.from_bytes(self._entropy(ID_ENTROPY_BYTES), "big") & ~(0x3FFFF << 61)
        if prefix == "aud" and unix_ms <= last_ms:
            unix_ms, bits = last_ms, last_bits + 1
        self._last[prefix] = (unix_ms, bits)
        return make_id(prefix, unix_ms, bits.to_bytes(ID_ENTROPY_BYTES, "big"))
