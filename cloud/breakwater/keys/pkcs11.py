"""Adapter: CA keys in a PKCS#11 token. This process never holds a private key or the PIN.

A reference is `pkcs11:LABEL`. The library runs in a separate process (`token_process.py`). A token process that hangs
is killed after the time-out. A token process that crashed or lost its token is replaced, so the issuer uses a token
that was plugged in again without a restart. Rule: Every signature is verified under the opened key before it is
returned. The adapter does not know which kind of document it signs.
"""

import asyncio
import hashlib
import logging
import re
import sys
import time
from collections import deque
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from cloud.breakwater.errors import SignerError, SignerUnavailable
from cloud.breakwater.keys import token_messages as messages
from cloud.breakwater.keys.file import CA_CURVES
from cloud.breakwater.keys.token_messages import Command, Connect, Find, Generate, Reply, Sign
from cloud.breakwater.pkix.profiles import hash_of

log = logging.getLogger("cascade.token")

TIMEOUT_SECONDS = 10.0
"""A network HSM answers in milliseconds. After ten seconds its client library waits for a peer that is down."""
RETRY_SECONDS = 1.0
"""Pause after a failure. Requests during the pause fail at once."""
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class TokenSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The section `[token]` of Breakwater's settings. `pin_file` is a path or `credential:NAME`."""

    module: str
    label: str
    pin_file: str
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=120)] = TIMEOUT_SECONDS


class _Lost(Exception):
    """The token process ended, or lost its token. A new process may work."""


class _Process:
    """One token process. It answers commands in order, and a reader task gives each reply to its caller."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise SignerError("the token process has no pipes")
        self._process = process
        self._commands, self._replies = process.stdin, process.stdout
        self._waiting: deque[asyncio.Future[Reply]] = deque()
        self._started_at = self.heard_at = time.monotonic()
        self.alive = True
        """Whether the process takes commands. `gone` is true once the process has ended."""
        self.gone = False
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls) -> "_Process":
        """Start a process that is not connected yet. It leaves our terminal, so that Ctrl-C reaches only us."""
        arguments = (sys.executable, "-P", "-m", "cloud.breakwater.keys.token_process")
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, start_new_session=True))

    @property
    def age(self) -> float:
        """Seconds since the process started."""
        return time.monotonic() - self._started_at

    async def call(self, command: Command) -> Reply:
        """Send a command and return its reply. Raises _Lost when the process ends before."""
        if not self.alive:
            raise _Lost("the token process ended")
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            self.heard_at = time.monotonic()
        self._waiting.append(answer)
        self._commands.write(messages.frame(command))
        return await answer

    def end(self) -> None:
        """Kill the process. Calls in progress raise _Lost."""
        self.alive = False
        if self._process.returncode is None:
            self._process.kill()

    async def aclose(self) -> None:
        """Close the process's input and wait for its end. Kill it after a second."""
        self.alive = False
        self._commands.close()
        _, pending = await asyncio.wait((self._reader,), timeout=1.0)
        if pending:
            self.end()
            await self._reader

    async def _read(self) -> None:
        try:
            while True:
                size = messages.size_of(await self._replies.readexactly(messages.SIZE_BYTES))
                reply = messages.replies.decode(await self._replies.readexactly(size))
                self.heard_at = time.monotonic()
                answer = self._waiting.popleft()
                if not answer.done():  # the caller may have been cancelled
                    answer.set_result(reply)
        except (EOFError, OSError, ValueError, IndexError, msgspec.MsgspecError):
            self.end()
        finally:
            self.alive = False
            for answer in self._waiting:
                if not answer.done():
                    answer.set_exception(_Lost("the token process ended"))
            self._commands.close()
            await self._process.wait()
            self.gone = True


class TokenKey:
    """A `CaKey` in a token."""

    def __init__(self, keys: "Pkcs11Keys", label: str, public_key: ec.EllipticCurvePublicKey) -> None:
        self._keys = keys
        self._label = label
        self._hash = hash_of(public_key.curve.name)
        self.public_key = public_key

    async def sign(self, data: bytes) -> bytes:
        """See `CaKey.sign`. The signature is verified because a token can be swapped, and hardware makes errors."""
        digest = hashlib.new(self._hash.name, data).digest()
        raw = await self._keys.sign(self._label, digest)
        half = len(raw) // 2
        signature = encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
        try:
            self.public_key.verify(signature, digest, ec.ECDSA(Prehashed(self._hash)))
        except InvalidSignature as error:
            raise SignerError(f"cannot sign: the token's key {self._label} changed since it was opened") from error
        return signature


class Pkcs11Keys:
    """`Keys` in a token. Each object runs one token process with one login, which serves all keys of the token."""

    PREFIX = "pkcs11:"

    def __init__(
        self,
        module: Path,
        token_label: str,
        pin_file: Path,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._connect = Connect(str(module), token_label, str(pin_file))
        self._pin_file = pin_file
        self._timeout = timeout_seconds
        self._retry = retry_seconds
        self._process: _Process | None = None
        self._ending: list[_Process] = []
        self._starting = asyncio.Lock()
        self._failure: SignerError | None = None
        self._not_before = 0.0
        self._refused_pin: tuple[int, ...] | None = None

    async def open(self, reference: str) -> TokenKey:
        """See `Keys.open`."""
        label = reference.removeprefix(self.PREFIX)
        if not reference.startswith(self.PREFIX) or not _LABEL.fullmatch(label):
            raise SignerError(f"cannot use the key {reference!r}: a reference is {self.PREFIX!r} and a label")
        reply = await self._ask(Find(label))
        if reply.outcome == "absent":
            raise SignerError(f"cannot open {reference}: {reply.text}")
        return TokenKey(self, label, _public_key(label, reply.data))

    async def generate(self, authority: str) -> str:
        """See `Keys.generate`. CKA_LABEL and CKA_ID are the authority's id. The key cannot be exported."""
        if not _LABEL.fullmatch(authority):
            raise SignerError(f"cannot make a key for {authority!r}: not a label")
        # No retry: after a lost reply the key may exist.
        await self._ask(Generate(authority), tries=1)
        return f"{self.PREFIX}{authority}"

    async def sign(self, label: str, digest: bytes) -> bytes:
        """Sign a digest and return r and s, each as long as the curve's order.

        Raises SignerUnavailable or SignerError. A key that disappeared since it was opened is a SignerUnavailable,
        because another token may be plugged in.
        """
        reply = await self._ask(Sign(label, digest))
        if reply.outcome == "absent":
            raise SignerUnavailable(f"cannot sign: {reply.text} any more")
        return reply.data

    async def aclose(self) -> None:
        """See `Keys.aclose`. Ends the token process; later calls raise SignerUnavailable."""
        async with self._starting:
            self._failure, self._not_before = SignerUnavailable("the token was closed"), float("inf")
            for process in self._ending:
                await process.aclose()

    async def _ask(self, command: Command, tries: int = 2) -> Reply:
        """Return a reply that is `done` or `absent`. Replaces a lost process and retries.

        Raises SignerUnavailable or SignerError.
        """
        process: _Process | None = None
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    tries -= 1
                    process = None
                    process = await self._connected()
                    try:
                        reply = _usable(await process.call(command))
                        if reply.outcome == "absent" and tries > 0 and process.age > self._retry:
                            raise _Lost(reply.text)  # the library may remember a token that was swapped
                        return reply
                    except _Lost as error:
                        process.end()
                        if tries <= 0:
                            raise self._failed(SignerUnavailable(f"the token is not available: {error}")) from error
        except TimeoutError as error:
            raise self._timed_out(process) from error

    def _timed_out(self, process: _Process | None) -> SignerError:
        waited = f"the token did not answer within {self._timeout:g} seconds"
        if process is None:
            return self._failed(SignerUnavailable(waited))
        if time.monotonic() - process.heard_at < self._timeout * 0.9:  # a timer can fire early
            return SignerUnavailable("the token is overloaded")  # it answered other callers meanwhile
        process.end()
        return self._failed(SignerUnavailable(waited))

    def _failed(self, failure: SignerError) -> SignerError:
        """Store a failure. Requests during the pause `RETRY_SECONDS` get it without waiting."""
        log.error("token failed", extra={"error": str(failure)})
        self._failure, self._not_before = failure, time.monotonic() + self._retry
        return failure

    async def _connected(self) -> _Process:
        """Return the connected process. Starts and connects one if necessary.

        Raises SignerUnavailable or SignerError.
        """
        async with self._starting:
            if self._process is not None and self._process.alive:
                return self._process
            if self._failure is not None and time.monotonic() < self._not_before:
                raise type(self._failure)(str(self._failure))
            pin = self._pin_identity()
            if pin == self._refused_pin is not None:
                raise SignerError(
                    f"cannot use the token: it refused the PIN in {self._pin_file}; correct that file first"
                )
            try:
                process = await _Process.start()
            except OSError as error:
                raise self._failed(SignerUnavailable(f"cannot start the token process: {error.strerror}")) from error
            self._ending = [*(old for old in self._ending if not old.gone), process]
            reply: Reply | None = None
            try:
                reply = await process.call(self._connect)
            except _Lost as error:
                raise self._failed(SignerUnavailable(f"the token is not available: {error}")) from error
            finally:
                if reply is None or reply.outcome != "done":  # a time-out gets here too
                    process.end()
            if reply.outcome == "pin":
                self._refused_pin = pin
            if reply.outcome != "done":
                kind = SignerUnavailable if reply.outcome == "lost" else SignerError
                raise self._failed(kind(f"cannot use the token: {reply.text}"))
            log.info("token connected", extra={"token": self._connect.token})
            self._process = process
            return process

    def _pin_identity(self) -> tuple[int, ...]:
        """Return a value that changes with the PIN file.

        A refused PIN is not tried again before the file changes, because a token locks itself after a few wrong PINs.
        """
        try:
            status = self._pin_file.stat()
        except OSError:
            return ()
        return status.st_ino, status.st_mtime_ns, status.st_size


def _usable(reply: Reply) -> Reply:
    if reply.outcome == "lost":
        raise _Lost(reply.text)
    if reply.outcome in ("refused", "pin"):
        raise SignerError(f"cannot use the token: {reply.text}")
    return reply


def _public_key(label: str, spki: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignerError(f"cannot use the token's public key {label}: it cannot be parsed") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CA_CURVES:
        raise SignerError(f"cannot use the token's key {label}: a CA key is on {' or '.join(CA_CURVES)}")
    return key
