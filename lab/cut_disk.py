"""Real part: a disk with a volatile write cache, for machines in QEMU whose power is cut. QEMU reaches it over NBD.

A disk may answer a write before the data is safe. The data is safe when a later flush has been answered. After a cut this
disk has every write before the last flush, and any part of the writes after it: none, all, or some of them, each one
whole or torn between two sectors. So a file system or a program that forgets a flush loses data here, as on a real disk.

The machine sees the file `view`, which has every write. The file `platter` has what is safe.
"""

import os
import random
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

from lab.processes import StepFailed

SECTOR = 512
"""Bytes that a disk writes as a whole (ATA, NVMe)."""
TEARS = 0.1
"""The share of the kept writes that are torn."""
BYTES_MAX = 32 * 2**20
"""The longest request of QEMU's NBD client."""

Fate = Literal["lost", "kept", "mixed"]
"""What becomes of the writes after the last flush."""

# https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
_GREETING = b"NBDMAGIC" + b"IHAVEOPT"
_OPTION_REPLY = 0x3E889045565A9
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPTION_ABORT, _OPTION_GO = 2, 7
_REPLY_ACK, _REPLY_INFO, _REPLY_UNSUPPORTED = 1, 3, 0x80000001
_HAS_FLAGS, _SEND_FLUSH = 1, 4
_REQUEST, _REPLY = 0x25609513, 0x67446698
_READ, _WRITE, _DISCONNECT, _FLUSH = range(4)
_EINVAL = 22


class Cut(msgspec.Struct, frozen=True):
    """What a cut did to the disk: writes that were not flushed, how many of them are lost or torn, and their fate."""

    unflushed: int
    lost: int
    torn: int
    fate: Fate

    def __str__(self) -> str:
        return f"{self.unflushed} writes unflushed, {self.lost} lost, {self.torn} torn"


class CutDisk:
    """A disk below `directory`, with the content of the raw image `image` at the start.

    Between `plug` and `cut` one machine uses it at `socket`. `writes` counts its writes.
    """

    def __init__(self, directory: Path, image: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.socket = directory / "disk.sock"
        self.writes = 0
        self.stopped = threading.Event()
        """Set when the disk has stopped before the write that `stop_at` names."""
        self._last_write = -1
        self._unflushed: list[tuple[int, bytes]] = []
        self._listener: socket.socket | None = None
        self._link: socket.socket | None = None
        self._server: threading.Thread | None = None
        files = [directory / "view.img", directory / "platter.img"]
        for path in files:
            done = subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, path], check=False)
            if done.returncode != 0:
                raise StepFailed(f"cp exited {done.returncode}: cannot copy {image}")
        self._view, self._platter = (os.open(path, os.O_RDWR) for path in files)
        self.size = os.fstat(self._view).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unplug()
        for descriptor in (self._view, self._platter):
            os.close(descriptor)

    # Power

    def plug(self) -> None:
        """Listen for one machine."""
        self.socket.unlink(missing_ok=True)
        self.stopped.clear()
        self._last_write = -1
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket))
        self._listener.listen(1)
        self._server = threading.Thread(target=self._serve, args=(self._listener,), daemon=True)
        self._server.start()

    def stop_at(self, writes: int) -> None:
        """Answer nothing from that write on, counted from now: the power fails at this moment."""
        self._last_write = self.writes + writes

    def cut(self, choose: random.Random, fate: Fate) -> Cut:
        """The power is off, and QEMU has ended. Choose what is left of the writes after the last flush."""
        self._unplug()
        odds = {"lost": 0.0, "kept": 1.0, "mixed": choose.random()}[fate]
        lost = torn = 0
        for offset, data in self._unflushed:
            sectors = len(data) // SECTOR
            if choose.random() >= odds:
                lost += 1
            elif fate == "mixed" and sectors > 1 and choose.random() < TEARS:
                torn += 1
                os.pwrite(self._platter, data[: choose.randrange(1, sectors) * SECTOR], offset)
            else:
                os.pwrite(self._platter, data, offset)
        for offset, data in self._unflushed:
            os.pwrite(self._view, os.pread(self._platter, len(data), offset), offset)
        done = Cut(len(self._unflushed), lost, torn, fate)
        self._unflushed.clear()
        return done

    def _unplug(self) -> None:
        for link in (self._listener, self._link):
            if link is not None:
                with suppress(OSError):
                    link.shutdown(socket.SHUT_RDWR)
                link.close()
        if self._server is not None:
            self._server.join()
        self._listener = self._link = self._server = None

    # Requests. `read`, `write` and `flush` belong to the server's thread while the disk is plugged in.

    def read(self, offset: int, length: int) -> bytes:
        """Bytes as the machine sees them."""
        return os.pread(self._view, length, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Write to the cache."""
        self.writes += 1
        os.pwrite(self._view, data, offset)
        self._unflushed.append((offset, data))

    def flush(self) -> None:
        """Make every earlier write safe."""
        for offset, data in self._unflushed:
            os.pwrite(self._platter, data, offset)
        self._unflushed.clear()

    # The server

    def _serve(self, listener: socket.socket) -> None:
        """Serve one machine until the connection ends."""
        with suppress(OSError):
            self._link, _ = listener.accept()
            if self._negotiated(self._link):
                self._requests(self._link)

    def _negotiated(self, link: socket.socket) -> bool:
        """The handshake. Returns whether the client goes on to requests."""
        link.sendall(_GREETING + struct.pack(">H", _FIXED_NEWSTYLE | _NO_ZEROES))
        _received(link, 4)
        while True:
            option, length = struct.unpack(">8xII", _received(link, 16))
            _received(link, length)
            if option == _OPTION_GO:
                info = struct.pack(">HQH", 0, self.size, _HAS_FLAGS | _SEND_FLUSH)
                link.sendall(_option_reply(option, _REPLY_INFO, info) + _option_reply(option, _REPLY_ACK))
                return True
            link.sendall(_option_reply(option, _REPLY_ACK if option == _OPTION_ABORT else _REPLY_UNSUPPORTED))
            if option == _OPTION_ABORT:
                return False

    def _requests(self, link: socket.socket) -> None:
        """Answer requests, one after the other. From the write of `stop_at` on nothing is answered or stored."""
        for kind, handle, offset, length in _requests_of(link):
            data = _received(link, length) if kind == _WRITE else b""
            if self.writes == self._last_write:
                self.stopped.set()
                continue
            error, answer = 0, b""
            if kind == _READ:
                answer = self.read(offset, length)
            elif kind == _WRITE:
                self.write(offset, data)
            elif kind == _FLUSH:
                self.flush()
            else:
                error = _EINVAL
            link.sendall(struct.pack(">IIQ", _REPLY, error, handle) + answer)


def _requests_of(link: socket.socket) -> Iterator[tuple[int, int, int, int]]:
    """Kind, handle, offset and length of each request. Raises OSError at a wrong one, and at the end."""
    while True:
        magic, _, kind, handle, offset, length = struct.unpack(">IHHQQI", _received(link, 28))
        if magic != _REQUEST or length > BYTES_MAX:
            raise OSError("the client breaks the protocol")
        if kind == _DISCONNECT:
            return
        yield kind, handle, offset, length


def _option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", _OPTION_REPLY, option, kind, len(data)) + data


def _received(link: socket.socket, length: int) -> bytes:
    """Exactly this many bytes. Raises OSError if the connection ends before."""
    data = bytearray()
    while len(data) < length:
        part = link.recv(length - len(data))
        if not part:
            raise OSError("the client closed the connection")
        data += part
    return bytes(data)
