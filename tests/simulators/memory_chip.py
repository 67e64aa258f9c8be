"""Simulator: a TPM in memory, for properties that need many thousands of starts. It has node keys, a counter and a clock.

Only the functions that the licence uses are replaced: those of `node.hwbind.keys` and `node.hwbind.counter`.
`tests/node/licensing/test_raising.py` and `tests/node/hwbind` use a software TPM instead.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import TypeVar
from unittest import mock

from node.hwbind import counter, keys, software
from node.hwbind.errors import TpmBusy
from node.hwbind.keys import WrappedKey
from protocol.evidence import ClockInfo, NvCounter

T = TypeVar("T")


class MemoryChip:
    """One chip. It stands for the port (`Tpm`) and for the context that the port gives to a piece of work.

    Args:
        clock: the TPM's clock now.
    """

    def __init__(self, clock: Callable[[], ClockInfo]) -> None:
        self.clock = clock
        self.value: int | None = None
        """The value of the floor counter; None without an index."""
        self.highest = 0
        self.ordinary = False
        """Whether an ordinary index is in the counter's place."""
        self.busy = False
        self.mode = "production"

    async def run(self, work: Callable[["MemoryChip"], T]) -> T:
        """Do a piece of work. Raises TpmBusy while the chip is busy."""
        if self.busy:
            raise TpmBusy("0x922")
        return work(self)

    def delete_counter(self) -> None:
        """The owner deletes the index. A counter that is made later starts above it."""
        self.value, self.ordinary = None, False


def _name(chip: MemoryChip, index: int, holder: str) -> str:
    return "0004" * 17 if chip.ordinary else counter.name_of(index, holder)


def _read(chip: MemoryChip, index: int, holder: str) -> NvCounter | None:
    if chip.value is None:
        return None
    return NvCounter(index, _name(chip, index, holder), 0 if chip.ordinary else chip.value)


def _find(chip: MemoryChip, holder: str) -> NvCounter | None:
    found = _read(chip, counter.places(holder)[0], holder)
    return None if chip.ordinary else found


def _answer(chip: MemoryChip, holder: str, index: int | None) -> NvCounter | None:
    return _find(chip, holder) if index is None else _read(chip, index, holder)


def _establish(chip: MemoryChip, holder: str) -> NvCounter:
    if chip.value is None or chip.ordinary:
        chip.highest += 1
        chip.value, chip.ordinary = chip.highest, False
    found = _find(chip, holder)
    assert found is not None
    return found


def _advance(chip: MemoryChip, held: NvCounter, to: int) -> int:
    if chip.value is None or chip.ordinary:
        return 0
    if chip.value == to - 1:
        chip.value = to
        chip.highest = max(chip.highest, to)
    return chip.value


_public_key = lru_cache(software.public_key)


def make_key() -> WrappedKey:
    """A node key of a chip in memory."""
    public, private = software.make()
    return WrappedKey(public=public, private=private, parent=b"memory chip")


@contextmanager
def chips_in_memory() -> Iterator[None]:
    """In the block, every chip is a `MemoryChip`, and every node key is one of `make_key`."""

    def sign(_chip: MemoryChip, key: WrappedKey, message: bytes) -> bytes:
        return software.sign_digest(key.private, key.public, hashlib.sha256(message).digest())

    with (
        mock.patch.object(WrappedKey, "public_key", lambda key: _public_key(key.public)),
        mock.patch.object(keys, "sign", sign),
        mock.patch.object(keys, "loaded", return_value=nullcontext()),
        mock.patch.object(keys, "read_clock", lambda chip: chip.clock()),
        mock.patch.object(counter, "read", _read),
        mock.patch.object(counter, "find", _find),
        mock.patch.object(counter, "answer", _answer),
        mock.patch.object(counter, "establish", _establish),
        mock.patch.object(counter, "advance", _advance),
    ):
        yield
