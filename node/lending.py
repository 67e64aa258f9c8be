"""Background task: lends the state directory to a command of root, and takes it back.

A command that activates or recovers the machine writes the state directory, which the running agent owns. So the command
asks for it over the socket. The agent stops its work on the state, releases the lock, and goes on answering local
programs from its memory, so licensed software does not notice. When the command has ended, by itself or by a signal, the
kernel has ended its lock. The agent then reads the state again, as at a start.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import trio

from node.conditions import Conditions
from node.disk.lock import StateLock
from node.disk.thread import DISK_SECONDS_MAX, on_disk
from node.errors import NodeError, StateBusy, StateError
from node.exits import Exit

log = logging.getLogger("cascadia.agent")

TAKEN_SECONDS_MAX = 5.0
"""How long a command may need to take the lock. A command that does not come has failed."""
LOOK_SECONDS = 0.2
"""Pause between two attempts to take the lock back. The command that the state was lent to tries as often."""

LENT = "a command of root uses the state, so the agent does not hear from the cloud, and the lease is not refreshed"
"""Text of the condition."""


class StateLent(NodeError):
    """The agent has lent its state to a command, and cannot do this meanwhile."""

    exit = Exit.TRY_AGAIN
    code = "state_lent"
    next = "Try again when the command that activates or recovers this machine has ended."


class Lending:
    """The lock of one run of the agent. `release` gives it back."""

    def __init__(
        self,
        state_dir: Path,
        release: Callable[[], None],
        *,
        taken_seconds: float = TAKEN_SECONDS_MAX,
        disk_seconds: float = DISK_SECONDS_MAX,
    ) -> None:
        self._lock = StateLock(state_dir)
        self._release = release
        self._taken_seconds = taken_seconds
        self._disk_seconds = disk_seconds
        self._asked = trio.Event()
        self._lent = trio.Event()
        self._failure: NodeError | None = None
        self.has_returned = False
        """Whether the state was lent and is back, so that the agent has to read it again."""

    async def asked(self) -> None:
        """Wait until a command asks for the state."""
        await self._asked.wait()

    async def lend(self) -> None:
        """Ask for the state, and wait until its lock is free. Raises DiskSilent, StateLent if it is lent already."""
        self.check()
        self._asked.set()
        await self._lent.wait()
        if self._failure is not None:
            raise self._failure

    def check(self) -> None:
        """Check that no command has asked for the state. Raises StateLent."""
        if self._asked.is_set():
            raise StateLent("cannot do this now: a command of root uses the state of the agent")

    async def hand_out(self, conditions: Conditions) -> None:
        """Release the lock, and wait until the command has had the state. Raises nothing.

        Nothing of the agent may use the state any more. A piece of disk work that was cancelled is waited for. A
        condition says that the state is lent.
        """
        try:
            await on_disk(lambda: None, seconds_max=self._disk_seconds)
        except NodeError as error:
            self._failure = error
            self._lent.set()
            self.has_returned = True
            return
        self._release()
        log.info("a command of root uses the state; the agent answers from its memory")
        conditions.report(StateLent.code, LENT, "Let the command end.")
        self._lent.set()
        await self._until_returned()
        self.has_returned = True
        conditions.clear(StateLent.code)
        log.info("the command has ended; reading the state again")

    async def _until_returned(self) -> None:
        taken = False
        deadline = trio.current_time() + self._taken_seconds
        while True:
            await trio.sleep(LOOK_SECONDS)
            free = await on_disk(self._is_free)
            if free and (taken or trio.current_time() > deadline):
                return
            taken = taken or not free

    def _is_free(self) -> bool:
        try:
            with self._lock:
                return True
        except StateBusy:
            return False
        except StateError:
            return True  # The next start of the agent reports it.
