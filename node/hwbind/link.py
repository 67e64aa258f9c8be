"""Adapter: connections that carry commands to the TPM and responses back: a device file, or a TCTI of the TSS libraries.

`node.hwbind.tpm` is the only user. Every method blocks, except `close`. So no method runs in the thread of an event loop.
"""

import errno
import os
import queue
import threading
from typing import Protocol

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.TCTILdr import TCTILdr

from node.hwbind.errors import TpmAbsent, TpmBusy, TpmFailed, TpmPermission
from node.hwbind.faults import code_of

RESPONSE_BYTES_MAX = 4096
"""The largest response of any TPM 2.0 (TPM2_MAX_RESPONSE_SIZE)."""


class Link(Protocol):
    """A connection that carries commands to the TPM and responses back."""

    @property
    def pending(self) -> bool:
        """Whether the TPM still works on a command."""

    def send(self, command: bytes) -> None:
        """Send one marshalled command. The caller receives its response before it sends the next one."""

    def receive(self, seconds_max: float) -> bytes:
        """The response to the last command. Raises TimeoutError after `seconds_max`."""

    def close(self) -> None:
        """Close the connection. It never waits for a command."""


class DeviceLink:
    """A connection to a TPM character device, or to another descriptor that answers like one.

    A separate thread writes each command and reads its response. The kernel (tpm-dev-common.c) holds one lock for the
    length of a command; write, read, poll and close all wait for that lock, with O_NONBLOCK as well. So a time-out
    leaves the thread behind. The thread ends when the driver answers or gives up; if the link was closed meanwhile, the
    thread closes the device.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._pending = False
        self._closed = False
        self._answers: queue.SimpleQueue[bytes | OSError] = queue.SimpleQueue()

    @classmethod
    def open(cls, path: str) -> "DeviceLink":
        """Open the device at `path`. Raises TpmAbsent, TpmPermission, TpmBusy or TpmFailed."""
        try:
            return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            detail = f"{path}: {error.strerror}"
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
                raise TpmAbsent(detail) from error
            if error.errno in (errno.EACCES, errno.EPERM):
                raise TpmPermission(detail) from error
            if error.errno in (errno.EBUSY, errno.EAGAIN):
                raise TpmBusy(detail) from error
            raise TpmFailed(detail) from error

    @property
    def pending(self) -> bool:
        """Whether the driver has not answered the last command yet."""
        return self._pending

    def send(self, command: bytes) -> None:
        """Start the thread that sends the command and waits for its response."""
        self._pending = True
        threading.Thread(target=self._exchange, args=(command,), name="tpm command", daemon=True).start()

    def receive(self, seconds_max: float) -> bytes:
        """The response to the last command. Raises TimeoutError; OSError if the device failed."""
        try:
            answer = self._answers.get(timeout=seconds_max)
        except queue.Empty as error:
            raise TimeoutError from error
        if isinstance(answer, OSError):
            raise answer
        return answer

    def close(self) -> None:
        """Close the device now, or when the driver has answered the running command."""
        with self._lock:
            self._closed = True
            if not self._pending:
                os.close(self._descriptor)

    def _exchange(self, command: bytes) -> None:
        answer: bytes | OSError
        try:
            os.write(self._descriptor, command)
            answer = os.read(self._descriptor, RESPONSE_BYTES_MAX) or OSError(errno.EIO, "the TPM device closed")
        except OSError as error:
            answer = error
        with self._lock:
            self._pending = False
            if self._closed:
                os.close(self._descriptor)
        self._answers.put(answer)


class LibraryLink:
    """A connection through a TCTI of the TSS libraries (resource manager, emulator). For development and tests."""

    def __init__(self, tcti: str) -> None:
        try:
            self._tcti = TCTILdr.parse(tcti)
        except TSS2_Exception as error:
            raise TpmAbsent(f"{tcti} does not answer ({code_of(error)})") from error

    @property
    def pending(self) -> bool:
        """Always false: when the connection closes, the resource manager drops the command."""
        return False

    def send(self, command: bytes) -> None:
        self._tcti.transmit(command)

    def receive(self, seconds_max: float) -> bytes:
        try:
            return bytes(self._tcti.receive(size=RESPONSE_BYTES_MAX, timeout=int(seconds_max * 1000)))
        except TSS2_Exception as error:
            if error.rc == 0xA0009:  # TRY_AGAIN: a TCTI reports a time-out with this code
                raise TimeoutError from error
            raise

    def close(self) -> None:
        self._tcti.close()


def open_link(tcti: str) -> Link:
    """Open the connection that the settings name: `device:PATH`, or a TCTI of the TSS libraries. Raises TpmError."""
    kind, _, path = tcti.partition(":")
    return DeviceLink.open(path) if kind == "device" and path else LibraryLink(tcti)
