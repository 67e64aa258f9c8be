"""Adapter: the kernel's hint that this virtual machine was copied or put back (its generation id changed).

The driver `drivers/virt/vmgenid.c` sends a uevent KOBJ_CHANGE with `NEW_VMGENID=1` after the hypervisor has changed the
id. Linux 6.8 has this event (commit ad6bcdad2b67). The stable kernels of April 2024 have removed it (3aadf100f93d), and
kernels of some distributions have it. Real machines send none. Nothing depends on the hint. The agent then opens a
session soon, so the cloud sees the machine before a long-lived session ends.
"""

import errno
import logging
import socket
from collections.abc import Awaitable, Callable

import trio

log = logging.getLogger("cascadia.agent")

NETLINK_KOBJECT_UEVENT = 15
KERNEL_GROUP = 1
"""The multicast group of the kernel's uevents (linux/netlink.h, lib/kobject_uevent.c)."""
EVENT_BYTES_MAX = 8192
"""The kernel's events have at most 2 kB of variables (UEVENT_BUFFER_SIZE) and a path."""
PAUSE_SECONDS = 60.0
"""Shortest time between two hints. An event is rare; a broken hypervisor must not cause a flood of sessions."""

Receive = Callable[[], Awaitable[tuple[bytes, tuple[int, int]]]]
"""Waits for a message. Returns its bytes, and the sender's port id and groups."""


def announces_new_id(message: bytes, sender: tuple[int, int]) -> bool:
    """Whether a uevent says that the generation id changed. `sender` is port id and groups; the kernel's port id is 0.

    The message is `ACTION@PATH`, and then variables `NAME=VALUE`, each ended by a zero byte.
    """
    return sender[0] == 0 and b"NEW_VMGENID=1" in message.split(b"\0")[1:]


async def keep_informed(hint: Callable[[], None]) -> None:
    """Call `hint` after each change of the generation id. Where the kernel sends no events, wait for ever."""
    try:
        kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT)
    except OSError as error:
        log.info("the kernel sends no hints about copied virtual machines: %s", error.strerror)
        await trio.sleep_forever()
    with trio.socket.from_stdlib_socket(kernel) as listening:
        await listening.bind((0, KERNEL_GROUP))
        await heed(lambda: listening.recvfrom(EVENT_BYTES_MAX), hint)


async def heed(receive: Receive, hint: Callable[[], None], clock: Callable[[], float] = trio.current_time) -> None:
    """Read messages and call `hint` for those that announce a new id, at most once in PAUSE_SECONDS. Never returns."""
    quiet_until = float("-inf")
    while True:
        try:
            message, sender = await receive()
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            continue  # The kernel dropped events, because too many came at once.
        if announces_new_id(message, sender) and clock() >= quiet_until:
            log.warning("the virtual machine was copied or put back; asking the cloud")
            quiet_until = clock() + PAUSE_SECONDS
            hint()
