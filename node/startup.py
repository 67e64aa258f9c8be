"""Background task: starts the agent, also while its state directory cannot be read.

A disk that is away, slow or damaged must not end the agent: systemd does not restart it after every exit code, and
licensed software needs an answer that names the cause. So the agent reads its state until it succeeds. Meanwhile the
gate is closed, and the socket and `cascadia status` show the cause. Only the certainty that no identity is stored ends
the start with `unactivated`. If a recovery of such a machine waits, the agent continues it instead.
"""

import logging
import secrets
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import trio

from node.agent import WATCHDOG_PAUSE_SECONDS, Agent
from node.clock import Clock, utc_now
from node.conditions import Conditions
from node.config import Config
from node.disk.deactivated import Deactivated
from node.disk.files import exists
from node.disk.pending import ApprovalWait
from node.disk.thread import DISK_SECONDS_MAX, DiskSilent, on_disk
from node.disk.version import StateNewer
from node.errors import NodeError, StateBusy, StateDamaged, StateError, StateUnsafe
from node.exchanges.continuing import continue_recovery, waiting_recovery
from node.exits import Exit
from node.hwbind.tpm import Tpm
from node.lending import Lending
from node.licensing.verdict import Snapshot, Verdict
from node.licensing.waiting import waiting_snapshot
from node.local import routes
from node.local.changes import Changes
from node.local.documents import StatusDocument, status_document
from node.local.grants import DIRECTORY, Grants
from node.local.place import SocketLost
from node.local.server import servings
from node.state import NotActivated, State
from node.supervision import UnexpectedErrors, supervised
from node.system import notify
from node.trust import published
from node.trust.errors import TrustError
from protocol.ids import NodeId, TenantId
from protocol.limits import LICENSE_ANSWER_LIFE
from protocol.signed.statements import Holder

if TYPE_CHECKING:
    from node.airgap.store import StoredRequest

log = logging.getLogger("cascadia.agent")

RETRY_SECONDS_MIN = 1.0
"""Pause after the first failed attempt. The pause doubles with each failure."""
RETRY_SECONDS_MAX = 30.0
"""Longest pause. A disk that is back is used within this time."""
BUSY_SECONDS_MAX = 8.0
"""How long a start under systemd waits for a command that has just activated the machine: systemd starts the agent when
the command writes `current.json`, and the command still has to raise the floor. Below DISK_SECONDS_MAX, so that the
socket does not answer with a closed gate meanwhile."""
BUSY_PAUSE_SECONDS = 0.1
UNKNOWN = Holder("", TenantId(""), NodeId(""), 0)
"""The holder in the documents while no identity can be read."""


class Starting:
    """Answers local programs while the state cannot be read. `fault` is the last error."""

    def __init__(self, config: Config, state: State, clock: Clock) -> None:
        self._config = config
        self._state = state
        self._clock = clock
        self._fault: NodeError = DiskSilent(DISK_SECONDS_MAX)
        self._waits: ApprovalWait | None = None
        self.changes = Changes(secrets.token_hex(8))
        self.lending: Lending | None = None
        """Set once this agent has the lock of the state."""

    @property
    def fault(self) -> NodeError:
        """The last error."""
        return self._fault

    def wait_for(self, recovery: ApprovalWait) -> None:
        """Show the state `pending` from now on: this machine has no identity, and its recovery waits."""
        self._waits = recovery
        self.changes.observe(self.snapshot())

    def report(self, fault: NodeError) -> None:
        """Set the fault, and its condition."""
        if fault.code != self._fault.code:
            self._state.conditions.clear(self._fault.code)
        self._fault = fault
        self.changes.observe(self.snapshot())
        if self._state.conditions.report_error(fault):
            log.error("%s. The gate is closed until the state can be read. %s", fault.text, fault.next)

    def clear(self) -> None:
        """End the condition of the fault."""
        self._state.conditions.clear(self._fault.code)

    def snapshot(self) -> Snapshot:
        """The licence now: `stale`, because no statement can be read; `pending` while a recovery waits."""
        now: datetime = self._clock()
        if self._waits is not None:
            return waiting_snapshot(self._waits, now)
        verdict = Verdict(
            state="stale",
            gate_open=False,
            new_work=False,
            reason=self._fault.text,
            next=self._fault.next,
            deadline=None,
            valid_until=now + LICENSE_ANSWER_LIFE,
            exit=Exit.STALE,
        )
        return Snapshot(holder=UNKNOWN, hardware="unchecked", lease=None, verdict=verdict)

    def status(self) -> StatusDocument:
        """The document of `cascadia status`."""
        return status_document(
            self.snapshot(),
            self._config.mode,
            running=True,
            last_contact_at=None,
            failures=0,
            conditions=self._state.conditions.current(),
        )

    async def renew(self, *, rekey: bool) -> None:
        """Raise the fault: without an identity there is nothing to renew."""
        raise self._fault

    async def make_request(self, *, new: bool) -> "StoredRequest":
        """Raise the fault: without an identity there is nothing to ask for."""
        raise self._fault

    async def import_answer(self, data: bytes) -> None:
        """Raise the fault: the state that the answer belongs to cannot be read."""
        raise self._fault

    async def deactivate(self, *, forget: bool) -> Deactivated:
        """Raise the fault: the node to release cannot be read."""
        raise self._fault

    def end_deactivated(self) -> None:
        """Nothing to end: a machine whose state cannot be read is not deactivated."""

    async def lend(self) -> None:
        """Lend the state to a command of root, which may mend it. Raises the fault, StateLent, DiskSilent."""
        if self.lending is None:
            raise self._fault
        await self.lending.lend()


class _Start:
    """One start. `held` keeps the lock of the state directory until the agent ends, or lends it."""

    def __init__(
        self,
        config: Config,
        tpm: Tpm,
        clock: Clock,
        held: ExitStack,
        passed: Sequence[int] = (),
        lending: Lending | None = None,
    ) -> None:
        self._config = config
        self._tpm = tpm
        self._clock = clock
        self._held = held
        self._passed = passed
        self._lending = lending or Lending(config.state_dir, held.close)
        self._busy_seconds = BUSY_SECONDS_MAX if passed else 0.0
        self._owned = False
        self._state = State(config.state_dir)
        self._starting = Starting(config, self._state, clock)
        self._errors = UnexpectedErrors(self._state.conditions)
        self._tried = trio.Event()

    @property
    def conditions(self) -> Conditions:
        """What is wrong now."""
        return self._state.conditions

    async def load(self, retry_seconds: float, silent_seconds: float, *, late: Callable[[], None]) -> Agent | None:
        """Read the state until it succeeds. None if a signal came first, or if the state was lent meanwhile.

        `late` is called once the state has to be waited for. Raises NotActivated, StateBusy, StateNewer, and StateUnsafe
        of the state directory itself.
        """
        outcome: Agent | NodeError | None = None
        async with trio.open_nursery() as nursery:
            reading = trio.CancelScope()

            async def read() -> None:
                nonlocal outcome
                with reading:
                    outcome = await self._read_until_it_succeeds(retry_seconds)
                    nursery.cancel_scope.cancel()

            async def lend() -> None:
                await self._lending.asked()
                reading.cancel()
                await self._lending.hand_out(self._state.conditions)
                nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            nursery.start_soon(lend)
            with trio.move_on_after(silent_seconds) as silent:
                await self._tried.wait()
            if silent.cancelled_caught:
                self._starting.report(DiskSilent(silent_seconds))
            late()
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                nursery.start_soon(self._answer)
                await anext(signals)
                nursery.cancel_scope.cancel()
        if isinstance(outcome, NodeError):
            raise outcome
        if outcome is not None:
            self._starting.clear()
        return outcome

    async def _read_until_it_succeeds(self, pause: float) -> Agent | NodeError:
        """The agent, or an error that waiting does not end."""
        busy_until = trio.current_time() + self._busy_seconds
        while True:
            try:
                agent = await on_disk(self._read)
                self._errors.clear("start")
                return agent
            except NotActivated as error:
                if not await self._recovered():
                    return error
                continue
            except StateBusy as error:
                if trio.current_time() >= busy_until:
                    return error
                await trio.sleep(BUSY_PAUSE_SECONDS)
                continue
            except (StateError, TrustError) as error:
                if isinstance(error, StateNewer) or (
                    isinstance(error, StateUnsafe) and error.path == self._config.state_dir
                ):
                    return error
                self._starting.report(error)
            except Exception as error:  # noqa: BLE001 (the agent stays up and tries again)
                self._errors.report("start", error)
                self._starting.report(NodeError(f"cannot read the state: {error}"))
            self._tried.set()
            await self._repair_trust()
            await trio.sleep(pause)
            pause = min(2 * pause, RETRY_SECONDS_MAX)

    async def _recovered(self) -> bool:
        """Continue a recovery that waits, on a machine without an identity. True once it has one to confirm."""
        pending = await on_disk(lambda: waiting_recovery(self._state)) if self._owned else None
        if pending is None or not pending.approval:
            return False
        self._starting.wait_for(pending.approval)
        self._tried.set()
        stored = False

        async def go_on() -> None:
            nonlocal stored
            stored = await continue_recovery(self._state, self._tpm, self._clock)

        await supervised("recovery", go_on, self._errors)
        return stored

    async def _repair_trust(self) -> None:
        """Fetch the published trust from its pin if a file of it is damaged. The next attempt finds out whether it helped.

        Everything that is fetched is verified from the pin on. Without an intact pin nothing is fetched. On a disk that
        refuses the repair, the next attempt uses the fetched trust from memory.
        """
        damage = self._starting.fault
        if not isinstance(damage, StateDamaged) or self._config.state_dir / "trust" not in damage.path.parents:
            return
        try:
            await published.repair(self._config.state_dir, clock=self._state.time.low)
        except published.TrustNotStored as error:
            self._state.trust_in_memory = error.value
            self._state.conditions.report_error(error)
            log.warning("the published trust is damaged; %s", error.text)
        except NodeError as error:
            log.warning("cannot repair the published trust: %s", error.text)
        except Exception as error:  # noqa: BLE001 (the agent stays up and tries again)
            self._errors.report("start", error)
        else:
            log.warning("repaired the published trust from its pin")

    def _read(self) -> Agent:
        """Lock and read the state, in the disk's thread. Raises NotActivated, StateError, TrustError."""
        if not self._owned:
            if not exists(self._config.state_dir):
                raise NotActivated("cannot find an identity: this machine is not activated")
            self._held.enter_context(self._state.owned())
            self._owned = True
            self._starting.lending = self._lending
        return Agent.load(self._config, self._state, self._tpm, self._clock)

    async def _answer(self) -> None:
        """Answer local programs until the state can be read."""
        sockets = servings(self._config.socket, routes.handler(self._starting), self._state.conditions, self._passed)
        async with trio.open_nursery() as nursery:
            for where, loop in sockets.items():
                nursery.start_soon(partial(supervised, ends=(SocketLost,)), where, loop, self._errors)
            watched = partial(supervised, pause_seconds_max=WATCHDOG_PAUSE_SECONDS)
            nursery.start_soon(watched, "watchdog", partial(notify.keep_watched, self._tpm.answers), self._errors)
            notify.ready("the state cannot be read, gate closed")


async def run(
    config: Config,
    tpm: Tpm,
    *,
    ready: Callable[[], None] = lambda: None,
    waiting: Callable[[], None] = lambda: None,
    clock: Clock = utc_now,
    retry_seconds: float = RETRY_SECONDS_MIN,
    silent_seconds: float = DISK_SECONDS_MAX,
    passed: Sequence[int] = (),
) -> None:
    """Run the agent until SIGTERM or SIGINT. After a command has borrowed the state, it starts again.

    Args:
        config: the settings.
        tpm: the TPM.
        ready: called once the agent serves.
        waiting: called once it is clear that the state cannot be read yet.
        clock: the wall clock.
        retry_seconds: the pause after the first failed attempt to read the state.
        silent_seconds: how long the first attempt may take before the socket answers without it.
        passed: the descriptors that systemd has passed; the socket of the settings is among them.

    Raises NotActivated if it is certain that no identity is stored, or an operator's command has deactivated the
    machine; StateBusy if another process owns the state; StateNewer if a newer version of Cascadia wrote it;
    StateUnsafe if the state directory itself is a link, is shared or belongs to another user; and as `Agent.run`.
    """
    announced = False

    def late() -> None:
        nonlocal announced
        announced = True
        waiting()

    while True:
        with ExitStack() as held:
            lending = Lending(config.state_dir, held.close)
            start = _Start(config, tpm, clock, held, passed, lending)
            try:
                agent = await start.load(retry_seconds, silent_seconds, late=late)
            except NotActivated:
                await Grants(config.socket.parent / DIRECTORY, start.conditions).write({})
                raise
            if agent is not None:
                await agent.run(ready, announced=announced, passed=passed, lending=lending)
            elif not lending.has_returned:
                notify.stopping()
        if not lending.has_returned:
            return
        announced = True
