"""`node.system.generation_id`: only the kernel's event for a new generation id is a hint, and hints are bounded."""

import errno
import socket

import pytest
import trio
from trio.lowlevel import checkpoint
from trio.testing import wait_all_tasks_blocked

from node.system import generation_id
from node.system.generation_id import PAUSE_SECONDS, announces_new_id, heed

EVENT = b"change@/devices/vmgenid\0ACTION=change\0NEW_VMGENID=1\0SEQNUM=7\0"
KERNEL = (0, 1)


@pytest.mark.parametrize(
    ("message", "sender", "announced"),
    [
        (EVENT, KERNEL, True),
        (EVENT, (4711, 1), False),
        (EVENT.replace(b"=1", b"=0", 1), KERNEL, False),
        (b"NEW_VMGENID=1", KERNEL, False),
        (b"add@/devices/x\0ACTION=add\0NAME=NEW_VMGENID=1\0", KERNEL, False),
        (b"", KERNEL, False),
    ],
    ids=["kernel", "another process", "other value", "as the path", "inside a value", "empty"],
)
def test_only_the_kernels_event_counts(message: bytes, sender: tuple[int, int], announced: bool) -> None:
    assert announces_new_id(message, sender) is announced


async def test_hints_are_bounded_and_lost_events_are_no_end() -> None:
    coming = iter([(0.0, EVENT), (1.0, EVENT), (2.0, None), (PAUSE_SECONDS, EVENT), (PAUSE_SECONDS + 1, EVENT)])
    now = 0.0
    hints: list[float] = []

    async def receive() -> tuple[bytes, tuple[int, int]]:
        nonlocal now
        await checkpoint()
        now, message = next(coming, (now, EVENT))
        if message is None:
            raise OSError(errno.ENOBUFS, "no buffer space")
        if len(hints) == 2:
            raise OSError(errno.ENETDOWN, "the end of the test")
        return message, KERNEL

    with pytest.raises(OSError, match="the end of the test"):
        await heed(receive, lambda: hints.append(now), lambda: now)
    assert hints == [0.0, PAUSE_SECONDS]


async def test_a_socket_of_the_kernel_is_listened_to_until_the_end() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation_id.keep_informed, lambda: None)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_machine_without_such_events_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, "address family not supported")

    monkeypatch.setattr(socket, "socket", refused)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation_id.keep_informed, lambda: None)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
