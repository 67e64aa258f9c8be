"""Faults at the agent's ports: the disk, the TPM and the cloud. A fault is armed for a point, which is one call.

A point's name is the port and the call: `disk fsync licence/g-1/.statement.json.tmp`, `tpm Sign`,
`cloud POST /v1/node/sessions`. `Faults.seen` counts the calls of every point, so that a test can first record which
points exist, and then let each of them fail.
"""

import errno
import os
import re
import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import trio
from tpm2_pytss.constants import TPM2_CC

from node.hwbind.link import Link, open_link
from node.hwbind.tpm import Tpm
from tests.simulators.fabric import Fabric, Reply, Request, problem
from tests.simulators.repository import Repository

DISK_READING = ("EIO", "EACCES", "EMFILE")
DISK_WRITING = ("EIO", "ENOSPC", "EROFS")
WRITING_CALLS = frozenset({"write", "fsync", "fchmod", "mkdir", "rmdir", "unlink", "rename", "flock"})
TPM_KINDS = ("failure", "lock-out", "busy", "authorisation", "lost", "time-out")
CLOUD_KINDS = ("closed", "garbage", "fault", "denied", "missing", "limited", "silent")

# TPM 2.0 Library Part 2, 6.6.2: TPM_RC_FAILURE, TPM_RC_LOCKOUT, TPM_RC_RETRY, TPM_RC_BAD_AUTH of session 1.
_RESPONSE_CODES = {"failure": 0x101, "lock-out": 0x921, "busy": 0x922, "authorisation": 0x9A2}
_SILENT_SECONDS = 0.5


class Point(NamedTuple):
    """One call at a port."""

    port: str
    call: str

    def __str__(self) -> str:
        return f"{self.port} {self.call}"


class Faults:
    """The armed faults. `seen` counts calls and `hit` counts faults, by point."""

    def __init__(self) -> None:
        self.seen: Counter[Point] = Counter()
        self.hit: Counter[Point] = Counter()
        self._armed: dict[Point, str] = {}
        self._lock = threading.Lock()

    def arm(self, armed: dict[Point, str]) -> None:
        """Let these points fail in this way from now on, and no others."""
        with self._lock:
            self._armed = dict(armed)
            self.hit.clear()

    def at(self, port: str, call: str) -> str:
        """Count a call. Returns the kind of its fault, or an empty string."""
        point = Point(port, call)
        with self._lock:
            self.seen[point] += 1
            kind = self._armed.get(point, "")
            if kind:
                self.hit[point] += 1
            return kind


def kinds_of(point: Point) -> tuple[str, ...]:
    """The faults that a point can have."""
    if point.port == "disk":
        return DISK_WRITING if point.call.split()[0] in WRITING_CALLS else DISK_READING
    return TPM_KINDS if point.port == "tpm" else CLOUD_KINDS


def disk_hook(faults: Faults, directory: Path) -> Callable[[str, str], None]:
    """A hook for `node.disk.calls.hooked` that lets the calls below a state directory fail."""

    def hook(call: str, path: str) -> None:
        below = os.path.relpath(path, directory)
        if below.startswith(".."):
            return
        # Names with a digest or a random part are one point.
        below = re.sub(r"[0-9a-f]{16,}", "*", below)
        if kind := faults.at("disk", f"{call} {below}"):
            number = int(getattr(errno, kind))
            raise OSError(number, os.strerror(number))

    return hook


class _FaultyLink:
    """A connection to the TPM whose commands can fail."""

    def __init__(self, inner: Link, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults
        self._response: bytes | None = None
        self._kind = ""

    @property
    def pending(self) -> bool:
        return self._inner.pending

    def send(self, command: bytes) -> None:
        self._response = None
        code = TPM2_CC(int.from_bytes(command[6:10], "big"))
        self._kind = self._faults.at("tpm", str(code).removeprefix("TPM2_CC."))
        if self._kind == "lost":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self._kind in _RESPONSE_CODES:
            # TPM_ST_NO_SESSIONS, the size of the response, the response code.
            self._response = b"\x80\x01" + (10).to_bytes(4, "big") + _RESPONSE_CODES[self._kind].to_bytes(4, "big")
        elif not self._kind:
            self._inner.send(command)

    def receive(self, seconds_max: float) -> bytes:
        if self._kind == "time-out":
            raise TimeoutError
        return self._response or self._inner.receive(seconds_max)

    def close(self) -> None:
        self._inner.close()


def faulty_tpm(tcti: str, faults: Faults) -> Tpm:
    """A TPM port whose commands can fail."""
    return Tpm(tcti, command_seconds_max=10.0, open_link=lambda name: _FaultyLink(open_link(name), faults))


class FaultyFabric(Fabric):
    """A Fabric whose answers can fail, by path."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self.faults = faults

    async def answer(self, request: Request) -> Reply | bytes:
        path = re.sub(r"/(act|ren)_[^/]+", "/*", request.path)
        match self.faults.at("cloud", f"{request.method} {path}"):
            case "":
                return await super().answer(request)
            case "closed":
                return b""
            case "garbage":
                return b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n"
            case "fault":
                return Reply(500, b"Internal Server Error", (("content-type", "text/plain"),))
            case "denied":
                return problem("certificate_refused")
            case "missing":
                return problem("not_found")
            case "limited":
                return Reply(429, b"{}", (("retry-after", "86400"),))
            case _:
                await trio.sleep(_SILENT_SECONDS)
                return b""


class FaultyRepository(Repository):
    """A repository whose files can fail, by path."""

    def __init__(self, content: dict[str, bytes], now: datetime, faults: Faults) -> None:
        super().__init__(content, now)
        self.faults = faults

    def file(self, path: str) -> bytes | None:
        named = re.sub(r"\d+\.(\w+)\.json$", r"*.\1.json", re.sub(r"[0-9a-f]{64}", "*", path))
        match self.faults.at("cloud", f"GET {named}"):
            case "":
                return super().file(path)
            case "garbage" | "fault":
                return b"garbage"
            case _:
                return None
