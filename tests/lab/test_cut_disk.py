"""A disk with a volatile cache: what a cut leaves of its writes, and its server as a client of the NBD protocol sees it."""

import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.cut_disk import BYTES_MAX, SECTOR, CutDisk
from lab.processes import StepFailed, wait_until

SECTORS = 64
BLOCK = 8 * SECTOR
READ, WRITE, DISCONNECT, FLUSH, TRIM = range(5)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[CutDisk]:
    image = tmp_path / "image"
    image.write_bytes(b"-" * SECTORS * SECTOR)
    with CutDisk(tmp_path / "disk", image) as made:
        yield made


def block(letter: str) -> bytes:
    return letter.encode() * BLOCK


def test_a_cut_keeps_what_was_flushed_and_loses_the_rest(disk: CutDisk) -> None:
    disk.write(0, block("a"))
    disk.flush()
    disk.write(0, block("b"))
    disk.write(BLOCK, block("c"))
    assert disk.read(0, 2 * BLOCK) == block("b") + block("c")
    cut = disk.cut(random.Random(1), "lost")
    assert (cut.unflushed, cut.lost, cut.torn) == (2, 2, 0)
    assert disk.read(0, 2 * BLOCK) == block("a") + block("-")


def test_a_cache_may_have_written_everything(disk: CutDisk) -> None:
    for letter in "ab":
        disk.write(0, block(letter))
    cut = disk.cut(random.Random(1), "kept")
    assert (cut.unflushed, cut.lost, cut.torn) == (2, 0, 0)
    assert disk.read(0, BLOCK) == block("b")
    assert disk.cut(random.Random(1), "lost").unflushed == 0


def test_a_mixed_cut_loses_some_writes_and_tears_others_between_sectors(disk: CutDisk) -> None:
    lost = torn = kept = 0
    for seed in range(60):
        disk.write(0, b"-" * SECTORS * SECTOR)
        disk.flush()
        for number in range(8):
            disk.write(number * BLOCK, block("x"))
        cut = disk.cut(random.Random(seed), "mixed")
        parts = [disk.read(number * BLOCK, BLOCK) for number in range(8)]
        halves = [part for part in parts if 0 < part.count(b"x") < BLOCK]
        assert [part.rstrip(b"-").count(b"x") % SECTOR for part in parts] == [0] * 8
        assert (cut.torn, cut.lost) == (len(halves), parts.count(block("-")))
        lost, torn, kept = lost + cut.lost, torn + cut.torn, kept + parts.count(block("x"))
    assert min(lost, torn, kept) > 0


class Client:
    """A client that speaks the parts of the protocol that QEMU speaks. It begins with the greeting."""

    def __init__(self, disk: CutDisk, link: socket.socket) -> None:
        self.link = link
        self.link.settimeout(10)
        self.link.connect(str(disk.socket))
        assert self.received(18) == b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
        self.link.sendall(struct.pack(">I", 3))

    def received(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self.link.recv(length - len(data))
            assert part, "the server closed the connection"
            data += part
        return data

    def option(self, number: int, data: bytes = b"") -> tuple[int, bytes]:
        self.link.sendall(b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data)
        return self.reply(number)

    def reply(self, number: int) -> tuple[int, bytes]:
        magic, option, kind, length = struct.unpack(">QIII", self.received(20))
        assert (magic, option) == (0x3E889045565A9, number)
        return kind, self.received(length)

    def go(self) -> int:
        """Begin the requests. Returns the size of the disk."""
        kind, info = self.option(7, struct.pack(">IH", 0, 0))
        assert (kind, self.reply(7)) == (3, (1, b""))
        size, flags = struct.unpack(">2xQH", info)
        assert flags == 1 | 4
        return int(size)

    def send(self, kind: int, offset: int = 0, length: int = 0, data: bytes = b"", handle: int = 7) -> None:
        self.link.sendall(struct.pack(">IHHQQI", 0x25609513, 0, kind, handle, offset, length or len(data)) + data)

    def ask(self, kind: int, offset: int = 0, length: int = 0, data: bytes = b"") -> tuple[int, bytes]:
        """The error and the data of a request."""
        self.send(kind, offset, length, data)
        magic, error, handle = struct.unpack(">IIQ", self.received(16))
        assert (magic, handle) == (0x67446698, 7)
        return error, self.received(length if kind == READ else 0)


@contextmanager
def connected(disk: CutDisk) -> Iterator[Client]:
    disk.plug()
    with socket.socket(socket.AF_UNIX) as link:
        yield Client(disk, link)


@pytest.fixture
def client(disk: CutDisk) -> Iterator[Client]:
    with connected(disk) as made:
        yield made


def test_a_client_reads_writes_and_flushes(disk: CutDisk, client: Client) -> None:
    assert client.option(8)[0] == 0x80000001  # structured replies: not supported
    assert client.go() == SECTORS * SECTOR
    assert client.ask(WRITE, 0, data=block("a")) == (0, b"")
    assert client.ask(FLUSH) == (0, b"")
    assert client.ask(WRITE, BLOCK, data=block("b")) == (0, b"")
    assert client.ask(READ, 0, 2 * BLOCK) == (0, block("a") + block("b"))
    assert client.ask(TRIM, 0, BLOCK)[0] == 22
    assert disk.writes == 2
    disk.cut(random.Random(1), "lost")
    assert disk.read(0, 2 * BLOCK) == block("a") + block("-")


def test_the_disk_stops_before_the_chosen_write(disk: CutDisk, client: Client) -> None:
    client.go()
    client.ask(WRITE, 0, data=block("a"))
    disk.stop_at(1)
    client.ask(WRITE, 0, data=block("b"))
    assert not disk.stopped.is_set()
    client.send(WRITE, 0, data=block("c"))
    assert disk.stopped.wait(10)
    assert disk.read(0, BLOCK) == block("b")
    disk.cut(random.Random(1), "kept")
    with connected(disk) as again:
        assert not disk.stopped.is_set()
        again.go()
        assert again.ask(WRITE, 0, data=block("d")) == (0, b"")


@pytest.mark.parametrize(
    "end",
    [
        lambda client: client.option(2),
        lambda client: (client.go(), client.send(DISCONNECT)),
        lambda client: (client.go(), client.link.sendall(b"\0" * 28)),
        lambda client: (client.go(), client.send(READ, 0, BYTES_MAX + 1)),
        lambda client: client.link.close(),
    ],
    ids=["abort", "disconnect", "no magic", "too long", "closed"],
)
def test_a_connection_ends(disk: CutDisk, client: Client, end: Callable[[Client], object]) -> None:
    end(client)
    server = disk._server
    assert server is not None
    wait_until("the end of the server", lambda: not server.is_alive())


def test_an_image_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="cannot copy"):
        CutDisk(tmp_path / "disk", tmp_path / "none")
