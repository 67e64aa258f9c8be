"""One start and one read of a state directory, while one file-system call fails. For the tests and for a drill."""

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from node.disk import calls
from node.errors import StateError
from node.state import State
from node.trust.published import TrustSet
from tests.node.shells import load_licence

CODES = (errno.EIO, errno.EACCES, errno.EMFILE, errno.ENOSPC, errno.EROFS, errno.ELOOP)


class Recorder:
    """A hook that records every call, and fails the call with the number `fails`."""

    def __init__(self, fails: int = 0, code: int = 0) -> None:
        self.made: list[str] = []
        self._fails = fails
        self._code = code

    def __call__(self, call: str, path: str) -> None:
        self.made.append(f"{call} {path}")
        if len(self.made) == self._fails:
            raise OSError(self._code, os.strerror(self._code))


class Fault(NamedTuple):
    """A call of a start, by its number and its text, and the code with which it fails."""

    number: int
    made: str
    code: int


class FaultyStart:
    """A state with a valid lease, a stray generation, and with `torn` a torn `current.json`."""

    def __init__(self, state: State, trust: TrustSet, *, torn: bool) -> None:
        self._directory = state.directory
        self._trust = trust
        path = state.directory / "current.json"
        self._record = path.read_bytes()[:-9] if torn else path.read_bytes()
        (state.directory / "identity/g-2").mkdir(mode=0o700, exist_ok=True)

    def attempt(self) -> tuple[str, bool]:
        """Start, and read what a contact reads. Returns the state of the licence, and whether the gate is open."""
        (self._directory / "current.json").write_bytes(self._record)
        state = State(self._directory)
        with state.owned():
            licence = load_licence(state, ours=True)
            state.pending(self._trust, licence.identity.generation)
            return licence.verdict().state, licence.verdict().gate_open

    def calls(self) -> list[str]:
        """The calls of a start without a fault."""
        recorder = Recorder()
        with calls.hooked(recorder):
            assert self.attempt() == ("active", True)
        return recorder.made

    def faults(self) -> Iterator[Fault]:
        """Every call with every code."""
        for number, made in enumerate(self.calls(), start=1):
            yield from (Fault(number, made, code) for code in CODES)

    def finding(self, fault: Fault) -> str:
        """What is wrong with a start whose call fails; empty if nothing is.

        The start goes on with the right state, or raises a StateError that the agent waits out. If no record of the
        statement can be read, the gate is closed. The machine is never unactivated.
        """
        signed = "statement" in fault.made or "/licence" in fault.made or "/tombstones" in fault.made
        expected = {("active", True), *([("stale", False)] if signed else [])}
        try:
            with calls.hooked(Recorder(fault.number, fault.code)):
                found = self.attempt()
        except StateError:
            return ""
        except Exception as error:  # noqa: BLE001 (every other exception is a finding)
            return f"{fault.made} fails with {errno.errorcode[fault.code]}: {error!r}"
        return "" if found in expected else f"{fault.made} fails with {errno.errorcode[fault.code]}: {found}"
