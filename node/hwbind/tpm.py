"""Port: the TPM. One ESAPI context, used by one thread at a time, with a bound on every command.

`keys.py` holds the operations on keys. The rules of this port:

- Every command has a time bound. The TSS libraries wait for ever, and their device library ignores time-outs. So this
  module puts its own TCTI between ESAPI and the connection (`node.hwbind.link`). While the driver still works on a
  command that timed out, later work is refused at once, so that no work piles up.
- No command runs in the thread of an event loop. The port refuses the work, and its TCTI refuses every command, also
  of a context that somebody has kept after the end of its work.
- A context is useless once its connection is lost, and is then replaced. Work that lost its connection is repeated
  once, from its beginning. Work that timed out is not repeated. So work must be harmless to repeat, must keep no handle
  after its end, and must return values.
- Every fault of the TPM or its connection is raised as a `TpmError` (`faults.py`).
- The passwords of the owner and endorsement hierarchies come from the caller, and are read again for each work. When
  the TPM refuses a password, the port does the work again with the empty password, which a cleared TPM has. When the
  TPM refuses the empty password later, the port tries the configured one again: an administrator can write the file
  before setting the password of the TPM. These two hierarchies have no dictionary-attack protection (TPM 2.0 Library
  Part 1, 19.8.2), so a wrong password locks nothing.

Timings of real chips: 0.2-0.6 s for a signature, tens of seconds to make an RSA key.
"""

import os
import threading
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import msgspec
import trio
from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_CC
from tpm2_pytss.TCTI import PyTCTI

from node.clock import monotonic
from node.hwbind.errors import (
    Hierarchy,
    TctiRefused,
    TpmAbsent,
    TpmError,
    TpmHierarchyPassword,
    TpmLockout,
    TpmTimeout,
)
from node.hwbind.faults import FULL, LOST, TCTI_IO_ERROR, Command, classify, code_of, lockout_end
from node.hwbind.link import RESPONSE_BYTES_MAX, Link, open_link

T = TypeVar("T")

Esys = ESAPI
"""The type of a live context, for modules outside of `node.hwbind`, which do not import the library."""
Handle = ESYS_TR
"""The type of a loaded object's handle, for the same modules."""

Mode = Literal["production", "development"]

DEVICE_TCTI = "device:/dev/tpmrm0"
"""The kernel's resource manager. Production mode allows no other connection: machines could share a networked TPM."""

COMMAND_SECONDS_MAX = 20.0
"""Bound of one command. The slowest measured signature takes 0.6 s; commands of other programs may run first."""

CREATION_SECONDS_MAX = 180.0
"""Bound of a command that makes a key. The search for an RSA key takes tens of seconds on a slow chip."""

BETWEEN_SECONDS_MAX = 30.0
"""Bound of what the thread does before, between and after commands: it reads passwords, and opens the connection."""

PASSWORD_BYTES_MAX = 64
"""Longest password of a hierarchy: the largest digest of a TPM (TPM 2.0 Library Part 2, 10.4.5)."""

_HANDLES: dict[Hierarchy, ESYS_TR] = {"owner": ESYS_TR.OWNER, "endorsement": ESYS_TR.ENDORSEMENT}

_CREATING = frozenset({int(TPM2_CC.CreatePrimary), int(TPM2_CC.Create), int(TPM2_CC.CreateLoaded)})


class Password(msgspec.Struct, frozen=True):
    """The password of a hierarchy, and the name of its file. `fault` says why the file cannot be used.

    `value` is empty, or has at most `PASSWORD_BYTES_MAX` bytes.
    """

    value: bytes
    source: str
    fault: str = ""

    def __repr__(self) -> str:
        return f"Password(source={self.source!r}, fault={self.fault!r})"


class _Progress:
    """What the working thread has done last, for `Tpm.answers`. Other threads read it without a lock."""

    def __init__(self) -> None:
        self.steps = 0
        self.due: float | None = None
        """When the next step is due at the latest, on the clock `monotonic`; None without work."""

    def step(self, seconds_max: float = 0.0) -> None:
        """One step is done; the next one takes up to `seconds_max`, and what is between commands."""
        self.steps += 1
        self.due = monotonic() + seconds_max + BETWEEN_SECONDS_MAX

    def end(self) -> None:
        """The work is done."""
        self.steps += 1
        self.due = None


Passwords = Callable[[], Mapping[Hierarchy, Password]]
"""Reads the configured passwords. It never raises. A hierarchy that is missing has the empty password."""


# The library ships no types, so its base class is Any to mypy.
class _BoundedTcti(PyTCTI):  # type: ignore[misc]  # the library has no types
    """The TCTI that ESAPI uses. After its first fault every later call fails at once, so clean-up never waits.

    A time-out is reported as an I/O error, because ESAPI repeats a call for ever on TRY_AGAIN. Every command of this
    process passes `do_transmit`, which sends none in the thread of an event loop.
    """

    def __init__(
        self, link: Link, command_seconds_max: float, creation_seconds_max: float, progress: _Progress
    ) -> None:
        super().__init__(max_size=RESPONSE_BYTES_MAX)
        self._link = link
        self._progress = progress
        self._command_seconds_max = command_seconds_max
        self._creation_seconds_max = creation_seconds_max
        self._seconds_max = command_seconds_max
        self._command = Command(0, ())
        self._refused: dict[int, Command] = {}
        self.dead = False
        self.timed_out = False

    def do_transmit(self, command: bytes) -> None:
        _refuse_in_loop()
        self._check()
        self._command = Command.of(command)
        creating = self._command.code in _CREATING
        self._seconds_max = self._creation_seconds_max if creating else self._command_seconds_max
        self._progress.step(self._seconds_max)
        try:
            self._link.send(command)
        except (OSError, TSS2_Exception) as error:
            self.dead = True
            raise TSS2_Exception(TCTI_IO_ERROR) from error

    def do_receive(self, timeout: int) -> bytes:  # ESAPI always passes "for ever"; our own bound is used instead
        self._check()
        try:
            response = self._link.receive(self._seconds_max)
        except TimeoutError as error:
            self.dead = self.timed_out = True
            raise TSS2_Exception(TCTI_IO_ERROR) from error
        except (OSError, TSS2_Exception) as error:
            self.dead = True
            raise TSS2_Exception(TCTI_IO_ERROR) from error
        finally:
            self._progress.step()
        if code := int.from_bytes(response[6:10], "big"):
            self._refused[code] = self._command
        return response

    def refused(self, error: TSS2_Exception) -> Command | None:
        """The last command that the TPM refused with the code of `error`. Commands of the clean-up may follow it."""
        return self._refused.get(int(error.rc))

    @property
    def seconds_max(self) -> float:
        return self._seconds_max

    @property
    def pending(self) -> bool:
        return self._link.pending

    def close(self) -> None:
        self.dead = True
        self._link.close()

    def _check(self) -> None:
        if self.dead:
            raise TSS2_Exception(TCTI_IO_ERROR)


class Tpm:
    """One TPM, opened at its first use. Trio tasks use `run`, threads use `call`; work is done one piece at a time."""

    def __init__(
        self,
        tcti: str,
        *,
        mode: Mode = "development",
        passwords: Passwords = dict,
        command_seconds_max: float = COMMAND_SECONDS_MAX,
        creation_seconds_max: float = CREATION_SECONDS_MAX,
        open_link: Callable[[str], Link] = open_link,
    ) -> None:
        """Opens nothing yet.

        Args:
            tcti: the connection as the settings spell it: `device:PATH`, or a TCTI of the TSS libraries.
            mode: the mode of the settings, which every session proof repeats. The default is development mode, so that
                only the settings can claim production mode. `check_tcti` checks that the mode allows the connection.
            passwords: reads the passwords of the hierarchies. The default has none.
            command_seconds_max: bound of one command, in seconds.
            creation_seconds_max: bound of a command that makes a key, in seconds.
            open_link: opens the connection; tests replace it.
        """
        self.tcti = tcti
        self.mode = mode
        self._passwords = passwords
        self._refused: dict[Hierarchy, bytes] = {}
        self._command_seconds_max = command_seconds_max
        self._creation_seconds_max = creation_seconds_max
        self._open_link = open_link
        self._lock = threading.Lock()
        self._progress = _Progress()
        self._limiter = trio.CapacityLimiter(1)
        self._context: tuple[ESAPI, _BoundedTcti] | None = None
        self._stuck: _BoundedTcti | None = None
        # The C library writes each fault to stderr. This module reports the faults, classified, instead.
        os.environ.setdefault("TSS2_LOG", "all+none")

    async def run(self, work: Callable[[ESAPI], T]) -> T:
        """Do `call(work)` in a worker thread. When cancelled, `run` returns at once and the work ends by itself.

        Raises TpmError.
        """
        return await trio.to_thread.run_sync(self.call, work, abandon_on_cancel=True, limiter=self._limiter)

    def call(self, work: Callable[[ESAPI], T]) -> T:
        """Do `work` with a live context. The module's docstring states the rules for work. Raises TpmError.

        A command takes up to seconds, so this method refuses to run in the thread of an event loop (RuntimeError).
        """
        _refuse_in_loop()
        with self._lock:
            self._progress.step()
            try:
                return self._attempt_twice(work)
            finally:
                self._progress.end()

    async def answers(self, seconds: float) -> bool:
        """Whether the thread of the TPM does an empty piece of work within `seconds`, or works within its bounds.

        For a watchdog: False says that the thread hangs. A TPM that is slow, absent or silent is no such case, because
        every command has a bound.
        """
        before = self._progress.steps
        with trio.move_on_after(seconds):
            await trio.to_thread.run_sync(self._take_turn, abandon_on_cancel=True, limiter=self._limiter)
            return True
        due = self._progress.due
        return self._progress.steps != before or (due is not None and monotonic() < due)

    def _take_turn(self) -> None:
        with self._lock:
            pass

    def close(self) -> None:
        """Close the connection, after the running work has ended. The next use opens it again.

        It waits for the work, so it refuses to run in the thread of an event loop (RuntimeError).
        """
        _refuse_in_loop()
        with self._lock:
            self._drop()

    async def aclose(self) -> None:
        """Do `close` in a worker thread, because `close` waits for the running work."""
        await trio.to_thread.run_sync(self.close, abandon_on_cancel=True, limiter=self._limiter)

    def _attempt_twice(self, work: Callable[[ESAPI], T]) -> T:
        try:
            return self._attempt(work)
        except _ConnectionLost:
            pass
        try:
            return self._attempt(work)
        except _ConnectionLost as lost:
            raise lost.fault or TpmAbsent(f"the connection to {self.tcti} was lost twice ({lost})") from lost

    def _attempt(self, work: Callable[[ESAPI], T], switched: frozenset[Hierarchy] = frozenset()) -> T:
        """Do `work` once. A refused password of a hierarchy that is not in `switched` is switched, and work repeated."""
        context, tcti = self._open()
        given = self._authorise(context)
        try:
            return work(context)
        except TSS2_Exception as error:
            if tcti.timed_out:
                raise TpmTimeout(f"{self.tcti} did not answer within {tcti.seconds_max:g} s") from error
            if error.rc in LOST:
                tcti.dead = True
                raise _ConnectionLost(code_of(error)) from error
            if error.rc & 0xFFFF in FULL:
                # The resource manager flushes what a connection has left loaded, when the connection ends.
                tcti.dead = True
                raise _ConnectionLost(code_of(error), classify(error, tcti.refused(error))) from error
            fault = classify(error, tcti.refused(error))
            refused = fault.hierarchy if isinstance(fault, TpmHierarchyPassword) else ""
            if refused not in switched and self._switch(refused, given):
                return self._attempt(work, switched | {refused})
            raise _explained(fault, context, given) from error
        finally:
            if tcti.dead:
                self._drop()

    def _authorise(self, context: ESAPI) -> Mapping[Hierarchy, Password]:
        """Give the context the passwords of the hierarchies. Sends no command. Returns the passwords as configured."""
        given = self._passwords()
        for hierarchy, handle in _HANDLES.items():
            value = given[hierarchy].value if hierarchy in given else b""
            context.tr_set_auth(handle, b"" if self._refused.get(hierarchy) == value else value)
        return given

    def _switch(self, hierarchy: Hierarchy, given: Mapping[Hierarchy, Password]) -> bool:
        """Use the empty password instead of the configured one, or the other way round. False if none is configured."""
        value = given[hierarchy].value if hierarchy in given else b""
        if not value:
            return False
        if self._refused.get(hierarchy) == value:
            del self._refused[hierarchy]
        else:
            self._refused[hierarchy] = value
        return True

    def _open(self) -> tuple[ESAPI, _BoundedTcti]:
        if self._stuck is not None and self._stuck.pending:
            raise TpmTimeout(f"{self.tcti} has not answered an earlier command yet")
        self._stuck = None
        if self._context is None:
            link = self._open_link(self.tcti)
            tcti = _BoundedTcti(link, self._command_seconds_max, self._creation_seconds_max, self._progress)
            try:
                self._context = ESAPI(tcti), tcti
            except TSS2_Exception as error:
                tcti.close()
                raise classify(error) from error
        return self._context

    def _drop(self) -> None:
        if self._context is None:
            return
        (context, tcti), self._context = self._context, None
        context.close()
        tcti.close()
        self._stuck = tcti


class _ConnectionLost(Exception):
    """The context has lost its connection, or needs another one. Used inside this module only.

    `fault` is the error if another connection does not help; None for TpmAbsent.
    """

    def __init__(self, text: str, fault: TpmError | None = None) -> None:
        super().__init__(text)
        self.fault = fault


def _explained(fault: TpmError, context: ESAPI, given: Mapping[Hierarchy, Password]) -> TpmError:
    """The fault with what the port knows about it: the end of a lock-out, or the file of a refused password."""
    if isinstance(fault, TpmLockout):
        return TpmLockout(f"{fault.detail}{lockout_end(context)}")
    if not isinstance(fault, TpmHierarchyPassword) or fault.hierarchy not in given:
        return fault
    password = given[fault.hierarchy]
    reason = password.fault or f"the TPM refuses the password in {password.source}"
    explained = TpmHierarchyPassword(f"{reason} ({fault.detail})", fault.hierarchy)
    explained.advice = (
        f"Write the password of the {fault.hierarchy} hierarchy to {password.source}. The agent then uses it by itself; "
        "under systemd, restart the agent."
    )
    return explained


def _refuse_in_loop() -> None:
    """Raise RuntimeError in the thread of an event loop. Trio knows its thread, however the caller got there."""
    if trio.lowlevel.in_trio_run():
        raise RuntimeError("the TPM in the thread of the event loop would stop every task; use `run` or `aclose`")


def check_tcti(tcti: str, mode: Mode) -> None:
    """Check that the mode allows the connection: production allows `DEVICE_TCTI` only. Raises TctiRefused."""
    if mode != "development" and tcti != DEVICE_TCTI:
        raise TctiRefused(f"{tcti!r} in mode {mode}")
