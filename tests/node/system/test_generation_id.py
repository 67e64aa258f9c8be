"""`node.system.generation_id`: only the kernel's event for a new generation id is a hint, and hints are bounded."""

import errno
import os
import socket
import uuid
from pathlib import Path

import pytest
import trio
from trio.lowlevel import checkpoint
from trio.testing import wait_all_tasks_blocked

from node.system import generation_id
from node.system.generation_id import PAUSE_SECONDS, announces_new_id, heed
from tests.off_loop import off_loop

EVENT = b"change@/devices/vmgenid\0ACTION=change\0NEW_VMGENID=1\0SEQNUM=7\0"
KERNEL = (0, 1)
UEVENT = Path("/sys/devices/virtual/mem/null/uevent")
"""Root has the kernel send an event of this device here (Documentation/ABI/testing/sysfs-uevent)."""


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


async def test_the_events_of_the_running_kernel_are_read_and_those_of_programs_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The real socket. The kernel sends an event for a device when root asks for one, with a variable of root's choice.

    Its name begins with SYNTH_ARG_, so no program can make the kernel send NEW_VMGENID. The test takes the one for the
    other. A program can send any text to the same group, but not with the kernel's port id.
    """
    if not os.access(UEVENT, os.W_OK):
        pytest.skip("needs root, and a writable /sys")
    seen: list[tuple[int, int]] = []

    def renamed(message: bytes, sender: tuple[int, int]) -> bool:
        seen.append(sender)
        return announces_new_id(message.replace(b"SYNTH_ARG_GENERATION=", b"NEW_VMGENID="), sender)

    monkeypatch.setattr(generation_id, "announces_new_id", renamed)
    hinted = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation_id.keep_informed, hinted.set)
        await wait_all_tasks_blocked()
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, generation_id.NETLINK_KOBJECT_UEVENT) as program:
            program.sendto(EVENT, (0, generation_id.KERNEL_GROUP))
        with trio.fail_after(30):
            while not any(port for port, _ in seen):
                await wait_all_tasks_blocked()
                await trio.lowlevel.checkpoint()
        assert not hinted.is_set()
        off_loop(lambda: UEVENT.write_text(f"change {uuid.uuid4()} GENERATION=1\n"))
        with trio.fail_after(30):
            await hinted.wait()
        nursery.cancel_scope.cancel()


async def test_a_machine_without_such_events_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, "address family not supported")

    monkeypatch.setattr(socket, "socket", refused)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation_id.keep_informed, lambda: None)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
